//! Images on the real Engine: nothing of ours piles up, and nothing that is not ours is used, stopped
//! or removed, whatever labels it has inherited.

use std::fs;
use std::path::Path;
use std::process::Command;

use bollard::models::ImageSummary;
use serde_json::json;

use crate::support::Place;
use crate::support::daemon::{Daemon, Setup};
use crate::support::engine::Engine;

/// The command `docker`.
#[track_caller]
fn docker(arguments: &[&str]) -> String {
    let mut command = Command::new("docker");
    // The builder that mistryd asks for.
    command.env("DOCKER_BUILDKIT", "0").args(arguments);
    let output = command.output().unwrap();
    assert!(output.status.success(), "docker {arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

fn rewrite(daemon: &Daemon, project: &str, change: impl Fn(&str) -> String) {
    let file = daemon.project(project).join("Dockerfile");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(file, change(&text)).unwrap();
}

#[track_caller]
fn rebuild(daemon: &Daemon, project: &str) -> String {
    let answer = daemon.post(&format!("/project/{project}/rebuild"), &json!({}));
    assert_eq!(answer.status, 200, "{}\n{}", answer.text(), daemon.log());
    answer.json()["Log"].as_str().unwrap().to_owned()
}

/// All images and layers of a test, and those of them without a name that nothing is built on.
fn images(daemon: &Daemon) -> (usize, Vec<ImageSummary>) {
    let all = Engine::new().images(&daemon.mark());
    let is_leaf = |image: &&ImageSummary| {
        let has_name = image.repo_tags.iter().any(|tag| !tag.starts_with("<none>"));
        !has_name && all.iter().all(|other| other.parent_id != image.id)
    };
    (all.len(), all.iter().filter(is_leaf).cloned().collect())
}

/// `FROM scratch` becomes two stages, of which the first runs a step.
fn two_stages(dockerfile: &str) -> String {
    let (first, rest) = dockerfile
        .split_once("COPY busybox /bin/busybox\n")
        .unwrap();
    format!(
        "{} AS one\n{}COPY busybox /bin/busybox\nRUN [\"/bin/busybox\", \"touch\", \"/made\"]\n\
         {first}COPY --from=one /made /made\nCOPY busybox /bin/busybox\n{rest}",
        first.lines().next().unwrap(),
        first
            .lines()
            .skip(1)
            .map(|line| format!("{line}\n"))
            .collect::<String>(),
    )
}

#[test]
fn neither_rebuilds_nor_builds_that_fail_pile_anything_up() {
    let daemon = Setup::on(Place::Ext4).script("staged", "true").start();
    rewrite(&daemon, "staged", two_stages);
    daemon.succeed(json!({"project": "staged"}));
    rebuild(&daemon, "staged");
    let once = images(&daemon);
    for _ in 0..2 {
        rebuild(&daemon, "staged");
        let (count, leaves) = images(&daemon);
        assert_eq!((count, leaves.len()), (once.0, once.1.len()));
    }
    // Image builds that fail, each at another content.
    let mut counts = Vec::new();
    let good = fs::read_to_string(daemon.project("staged").join("Dockerfile")).unwrap();
    for n in 0..3 {
        let step =
            format!("RUN [\"/bin/busybox\", \"touch\", \"/x{n}\"]\nRUN [\"/bin/nothing\"]\n");
        rewrite(&daemon, "staged", |_| format!("{good}{step}"));
        let job = json!({"project": "staged", "params": {"n": n.to_string()}});
        let answer = daemon.post("/jobs", &job);
        assert!(answer.text().contains("/bin/nothing"), "{}", answer.text());
        counts.push(images(&daemon).0);
    }
    assert_eq!(counts[0], counts[1]);
    assert_eq!(counts[0], counts[2]);
    let containers = Engine::new().containers(&daemon.mark());
    assert!(containers.is_empty(), "{containers:?}");
    let answer = daemon.post("/gc", &json!({"max_age": "1000d"}));
    assert_eq!(answer.status, 200, "{}", answer.text());
    let (_, left) = images(&daemon);
    assert!(left.is_empty(), "{left:#?}");
    // What is left runs.
    rewrite(&daemon, "staged", |_| good.clone());
    daemon.succeed(json!({"project": "staged", "params": {"n": "good"}}));
}

#[test]
fn an_image_goes_when_a_newer_one_has_taken_its_place_and_no_container_needs_it() {
    let daemon = Setup::on(Place::Ext4).script("edited", "true").start();
    let edit = |version: u32| {
        let file = daemon.project("edited").join("version");
        fs::write(file, version.to_string()).unwrap();
        rewrite(&daemon, "edited", |text| {
            format!("{text}LABEL version={version}\n")
        });
        let job = json!({"project": "edited", "params": {"n": version.to_string()}});
        daemon.succeed(job)["Image"].as_str().unwrap().to_owned()
    };
    let ids = [edit(1), edit(2), edit(3)];
    // By name, as the Engine shows them.
    let left = || -> Vec<String> {
        let all = Engine::new().images(&daemon.mark());
        let is_there = |id: &&String| all.iter().any(|image| image.id == **id);
        ids.iter().filter(is_there).cloned().collect()
    };
    assert_eq!(left(), ids, "each has its own name");
    let needed = docker(&["create", "--label", &daemon.mark(), &ids[0], "/x"]);
    let collect = || {
        let answer = daemon.post("/gc", &json!({"max_age": "1000d"}));
        assert_eq!(answer.status, 200, "{}", answer.text());
    };
    collect();
    assert_eq!(left(), [ids[0].clone(), ids[2].clone()]);
    docker(&["rm", &needed]);
    collect();
    assert_eq!(left(), [ids[2].clone()]);
}

#[test]
fn a_container_that_a_killed_image_build_left_is_removed() {
    let mut daemon = Setup::on(Place::Ext4).script("left", "true").start();
    daemon.succeed(json!({"project": "left"}));
    daemon.end();
    // As the builder leaves it when it is cut off at a bad moment: no label, a name of Docker's.
    let mark = daemon.mark();
    let tag = mistry::docker::tag_for("left");
    let left = docker(&["create", "--label", &mark, "--entrypoint", "/x", &tag]);
    let other = docker(&["create", "--label", &mark, "--entrypoint", "/x", &tag]);
    let file = daemon.builds().join(".mistry/images/left.json");
    let mut known: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
    let now = jiff::Timestamp::now().to_string();
    known["Containers"] = json!([
        {"Id": &left[..12], "Made": "2026-01-01T00:00:00Z"},
        // One that was there before the image build that claims to have made it.
        {"Id": &other[..12], "Made": now.replace("20", "21")},
    ]);
    fs::write(&file, known.to_string()).unwrap();
    daemon.start();
    daemon.succeed(json!({"project": "left", "params": {"n": "2"}}));
    // Its own container is removed after the answer.
    daemon.end();
    let there = Engine::new().containers(&mark);
    let there: Vec<_> = there.into_iter().filter_map(|found| found.id).collect();
    assert_eq!(there, [other]);
}

#[test]
fn a_killed_daemon_leaves_no_container_of_an_image_build() {
    let mut daemon = Setup::on(Place::Ext4).script("slow", "true").start();
    rewrite(&daemon, "slow", |text| {
        let step = "RUN [\"/bin/busybox\", \"sleep\", \"2\"]\nCOPY run.sh";
        text.replace("COPY run.sh", step)
    });
    let id = daemon.submit(json!({"project": "slow"}));
    daemon.until("slow", &id, "Running in");
    daemon.kill();
    daemon.start();
    let info = daemon.wait("slow", &id);
    assert_eq!(info["Outcome"], "succeeded", "{info:#}");
    daemon.end();
    let left = Engine::new().containers(&daemon.mark());
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn an_image_that_is_derived_from_ours_is_not_ours() {
    let mut daemon = Setup::on(Place::Ext4).script("theirs", "true").start();
    let info = daemon.succeed(json!({"project": "theirs"}));
    let (image, id) = (
        info["Image"].as_str().unwrap(),
        info["ID"].as_str().unwrap(),
    );
    let (instance, tag) = (daemon.label(), mistry::docker::tag_for("theirs"));
    let word = instance.rsplit('=').next().unwrap().to_owned();
    let sleeping = ["--entrypoint", "/bin/busybox", &tag, "sleep", "1000"];
    let run = |name: &str, more: &[&str]| {
        let name = format!("{name}-{word}");
        docker(&[&["run", "-d", "--name", &name][..], more, &sleeping].concat())
    };
    let running = run("inherits", &[]);
    let job = format!("mistry.job={id}");
    let labels = [&instance, &job, "mistry.attempt=1", "mistry.project=theirs"];
    let copied = run("copies", &labels.map(|label| ["--label", label]).concat());
    let created = docker(&[&["create"][..], &sleeping].concat());
    let untagged = docker(&["commit", &running]);
    let tagged = docker(&["commit", &running, &format!("theirs-{word}:1")]);
    let child = daemon.home().join("child");
    fs::create_dir(&child).unwrap();
    fs::write(
        child.join("Dockerfile"),
        format!("FROM {tag}\nENV CHILD=1\n"),
    )
    .unwrap();
    let child = child.to_str().unwrap();
    let children = docker(&["build", "-q", child]);
    let named = format!("child-{word}");
    fs::write(
        Path::new(child).join("Dockerfile"),
        format!("FROM {tag}\nENV CHILD=2\n"),
    )
    .unwrap();
    docker(&["build", "-q", "-t", &named, child]);

    let all_is_there = |daemon: &Daemon| {
        for image in [&untagged, &tagged, &children, &named] {
            docker(&["image", "inspect", image]);
        }
        for (container, status) in [
            (&running, "running"),
            (&copied, "running"),
            (&created, "created"),
        ] {
            let state = docker(&["inspect", "-f", "{{.State.Status}}", container]);
            assert_eq!(state, status, "{}", daemon.log());
        }
    };
    daemon.end();
    daemon.start();
    let next = daemon.succeed(json!({"project": "theirs", "params": {"n": "2"}}));
    assert_eq!(next["Image"], image, "it runs in its own image");
    all_is_there(&daemon);
    rebuild(&daemon, "theirs");
    all_is_there(&daemon);
    let answer = daemon.post("/gc", &json!({"max_age": "1000d"}));
    assert_eq!(answer.status, 200, "{}", answer.text());
    all_is_there(&daemon);
    // With nothing remembered, the image is built, and not looked for among theirs.
    daemon.end();
    fs::remove_dir_all(daemon.builds().join(".mistry/images")).unwrap();
    daemon.start();
    let next = daemon.succeed(json!({"project": "theirs", "params": {"n": "3"}}));
    let next = next["Image"].as_str().unwrap();
    assert!(
        ![&untagged, &tagged, &children].contains(&&next.to_owned()),
        "{next}"
    );
    daemon.post("/gc", &json!({"max_age": "1000d"}));
    all_is_there(&daemon);
}

#[test]
fn a_rebuild_takes_what_is_on_the_host_for_each_image_that_cannot_be_pulled() {
    let daemon = Setup::on(Place::Ext4)
        .script("borrows", "cat /tool > artifacts/out")
        .start();
    let word = daemon.mark().rsplit('=').next().unwrap().to_owned();
    let (base, tools) = (format!("base-{word}"), format!("tools-{word}:1"));
    for name in [&base, &tools] {
        let context = daemon.home().join(name.replace(':', "-"));
        fs::create_dir(&context).unwrap();
        let dockerfile = format!("FROM scratch\nLABEL {}\nCOPY tool /tool\n", daemon.mark());
        fs::write(context.join("Dockerfile"), dockerfile).unwrap();
        fs::write(context.join("tool"), name).unwrap();
        docker(&["build", "-q", "-t", name, context.to_str().unwrap()]);
    }
    rewrite(&daemon, "borrows", |text| {
        let copy = format!("COPY --from={tools} /tool /tool\nCOPY run.sh");
        let text = text.replace("FROM scratch", &format!("FROM {base}"));
        text.replace("COPY run.sh", &copy)
    });
    let log = rebuild(&daemon, "borrows");
    for name in [&base, &tools] {
        let words = format!("The image '{name}' could not be pulled (");
        assert!(log.contains(&words), "{log}");
    }
    let info = daemon.succeed(json!({"project": "borrows"}));
    let ready = daemon.ready("borrows", info["ID"].as_str().unwrap());
    let out = fs::read_to_string(ready.join("data/artifacts/out")).unwrap();
    assert_eq!(out, tools);
    // A file that is not there is no pull that failed.
    rewrite(&daemon, "borrows", |text| {
        text.replace("/tool /tool", "/nothing /tool")
    });
    let answer = daemon.post("/project/borrows/rebuild", &json!({}));
    assert_eq!(answer.status, 500, "{}", answer.text());
    assert!(answer.text().contains("nothing"), "{}", answer.text());
}

#[test]
fn the_output_of_an_image_build_is_that_of_docker_build() {
    let daemon = Setup::on(Place::Ext4).script("plain", "true").start();
    let info = daemon.succeed(json!({"project": "plain"}));
    let ready = daemon.ready("plain", info["ID"].as_str().unwrap());
    let log = fs::read_to_string(ready.join("out.log")).unwrap();
    let project = daemon.project("plain");
    // On the network of the daemon's builds: of another one the Engine may have something to say.
    let network = ["--network", "host"];
    let arguments = ["build", "--no-cache", "--rm", project.to_str().unwrap()];
    let docker = docker(&[&arguments[..], &network[..]].concat());
    // Ids, and the tag that only ours gets, apart.
    let plain = |text: &str| -> Vec<String> {
        let lines = text.lines().filter(|line| {
            !line.starts_with("Sending build context") && !line.starts_with("Successfully tagged")
        });
        let is_id = |word: &&str| word.len() == 12 && word.bytes().all(|b| b.is_ascii_hexdigit());
        lines
            .map(|line| {
                line.split(' ')
                    .map(|word| if is_id(&word) { "ID" } else { word })
                    .collect::<Vec<_>>()
                    .join(" ")
            })
            .collect()
    };
    assert_eq!(plain(&log), plain(&docker));
}

/// Runs functions of the script that dpkg runs when the package is purged, over this build path.
fn purge(daemon: &Daemon, functions: &str) {
    let script = include_str!("../../packaging/debian/mistryd.postrm");
    let (head, _) = script.split_once("\ncase $1 in").unwrap();
    let (was, is) = (
        "builds=$state/builds",
        format!("builds='{}'", daemon.builds().display()),
    );
    assert!(head.contains(was));
    let script = format!("{}\n{functions}\n", head.replace(was, &is));
    let output = Command::new("sh").args(["-c", &script]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn a_purge_removes_the_images_and_containers_of_this_instance_and_no_others() {
    let mut daemon = Setup::on(Place::Ext4)
        .script("alone", "true")
        .script("shared", "true")
        .start();
    rewrite(&daemon, "alone", two_stages);
    daemon.succeed(json!({"project": "alone"}));
    rebuild(&daemon, "alone");
    let info = daemon.succeed(json!({"project": "shared"}));
    let id = info["ID"].as_str().unwrap();
    daemon.end();
    let (label, mark) = (daemon.label(), daemon.mark());
    let instance = label.rsplit('=').next().unwrap();
    let tag = mistry::docker::tag_for("shared");
    let job = format!("mistry.job={id}");
    let create = |name: &str| {
        let labels = [&label, &job, "mistry.attempt=1"].map(|label| ["--label", label]);
        let end = ["--entrypoint", "/x", &tag];
        docker(&[&["create", "--name", name][..], &labels.concat(), &end].concat())
    };
    let ours = create(&format!("mistry-{}-{}-1", &instance[..8], &id[..16]));
    let theirs = create(&format!("theirs-{instance}"));
    let commit = docker(&["commit", &theirs]);
    purge(&daemon, "remove_containers");
    let engine = Engine::new();
    let there: Vec<_> = engine
        .containers(&mark)
        .into_iter()
        .filter_map(|c| c.id)
        .collect();
    assert_eq!((there, ours.is_empty()), (vec![theirs.clone()], false));
    purge(&daemon, "remove_images");
    docker(&["image", "inspect", &commit]);
    docker(&["inspect", &theirs]);
    let left = engine.images(&mark);
    let mut tags = left.iter().flat_map(|image| &image.repo_tags);
    assert!(
        tags.all(|tag| !tag.starts_with("mistry-alone")),
        "{left:#?}"
    );
    // When what users made of it is gone, the rest goes.
    docker(&["rm", &theirs]);
    docker(&["rmi", "--no-prune", &commit]);
    purge(&daemon, "remove_images");
    let left = engine.images(&mark);
    assert!(left.is_empty(), "{left:#?}");
}

/// The lines of the classic builder from the first step to the last, without the ids of what it made.
fn steps(log: &str) -> Vec<String> {
    let is_id = |word: &str| word.len() == 12 && word.bytes().all(|byte| byte.is_ascii_hexdigit());
    let nameless = |line: &str| {
        let words = line
            .split(' ')
            .map(|word| if is_id(word) { "ID" } else { word });
        words.collect::<Vec<_>>().join(" ")
    };
    let lines = log.lines().skip_while(|line| !line.starts_with("Step 1/"));
    let lines = lines.take_while(|line| !line.starts_with("Successfully built "));
    lines.map(nameless).collect()
}

#[test]
fn the_log_of_an_image_build_has_the_steps_that_docker_build_prints_and_no_others() {
    let daemon = Setup::on(Place::Ext4).script("plain", "true").start();
    rewrite(&daemon, "plain", |text| {
        format!("{text}RUN [\"/bin/busybox\", \"echo\", \"made\"]\nLABEL mine=yes\n")
    });
    let context = daemon.project("plain");
    let tag = format!("mistry-test-{}", daemon.port());
    // Neither uses a layer of the other, and both have the network of the configuration.
    let arguments = [
        "build",
        "--no-cache",
        "--network=host",
        "--tag",
        &tag,
        context.to_str().unwrap(),
    ];
    let expected = steps(&docker(&arguments));
    let shown = rebuild(&daemon, "plain");
    docker(&["image", "rm", &tag]);
    assert!(expected.iter().any(|line| line == "made"), "{expected:?}");
    assert_eq!(steps(&shown), expected);
    assert!(!shown.contains("build-args"), "{shown}");
    // The log of a build has the same, before the output of its container.
    let info = daemon.succeed(json!({"project": "plain", "rebuild": true}));
    let log = info["ContainerStdouterr"].as_str().unwrap();
    let from = usize::try_from(info["LogRunsFrom"].as_u64().unwrap()).unwrap();
    assert_eq!(steps(&log[..from]), expected);
}
