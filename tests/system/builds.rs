//! From a request to artifacts: the same promises on each kind of filesystem that a build path may
//! be on, kept by the built `mistryd` with a real Docker Engine.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::support::daemon::{Daemon, Setup};
use crate::support::engine::Engine;
use crate::support::{Place, names, word};

fn a_cold_build_has_artifacts_and_the_same_job_again_is_cached(place: Place) {
    let daemon = Setup::on(place).fixture("succeed").start();
    let job = json!({"project": "succeed", "params": {"name": "wörld\n", "empty": ""}});
    let built = daemon.succeed(job.clone());
    let id = id(&built);
    assert_eq!(
        (
            &built["Cached"],
            &built["Incremental"],
            &built["ExitCode"],
            &built["Attempt"]
        ),
        (&json!(false), &json!(false), &json!(0), &json!(1))
    );
    assert_eq!(
        built["ContainerStdouterr"].as_str().unwrap().lines().last(),
        Some("run 1")
    );
    let ready = daemon.ready("succeed", &id);
    assert_eq!(built["Path"], json!(ready.join("data/artifacts")));
    assert_eq!(
        fs::read_to_string(ready.join("data/artifacts/name")).unwrap(),
        "wörld\n"
    );
    assert_eq!(
        fs::read_to_string(ready.join("data/params/empty")).unwrap(),
        ""
    );
    let log = fs::read_to_string(ready.join("out.log")).unwrap();
    assert!(log.ends_with("run 1\n"), "{log}");
    assert!(names(&daemon.builds().join("succeed/pending")).is_empty());
    let latest = fs::read_link(daemon.builds().join("succeed/latest")).unwrap();
    assert_eq!(latest, Path::new("ready").join(&id));
    assert_eq!(
        daemon.get(&format!("/artifacts/succeed/{id}/name")).text(),
        "wörld\n"
    );

    let again = daemon.succeed(job.clone());
    assert_eq!(again["Cached"], true);
    for same in [
        "ID",
        "StartedAt",
        "Duration",
        "Params",
        "ContainerStdouterr",
    ] {
        assert_eq!(again[same], built[same], "{same}");
    }
    // Nor does it matter whether an Engine or an earlier process of the daemon is there.
    let mut daemon = daemon;
    daemon.end();
    daemon.start();
    assert_eq!(daemon.succeed(job)["Cached"], true);
    assert!(Engine::new().containers(&daemon.label()).is_empty());
}

fn a_build_of_a_group_begins_as_the_last_one_ended(place: Place) {
    let script = "
        if [ -e cache/marker ]; then
            echo 'cache found'
            [ ! -e params/first ] || exit 9
            exit 0
        fi
        echo marker > cache/marker
        cd artifacts
        mkdir -p deep/er empty .hidden
        echo data > file && chmod 640 file
        echo run > program && chmod 755 program
        ln file deep/hard
        ln -s ../file deep/soft
        ln -s /nowhere dangling
        head -c 300000 /dev/zero > deep/er/zeros
        touch -d '2001-02-03 04:05:06' file program deep/er/zeros deep/er deep empty
        chmod 711 deep/er";
    let daemon = Setup::on(place).script("keeper", script).start();
    let first =
        daemon.succeed(json!({"project": "keeper", "group": "g", "params": {"first": "1"}}));
    assert_eq!(first["Incremental"], false);
    let second =
        daemon.succeed(json!({"project": "keeper", "group": "g", "params": {"second": "2"}}));
    assert_eq!(second["Incremental"], true);
    assert!(
        second["ContainerStdouterr"]
            .as_str()
            .unwrap()
            .contains("cache found")
    );
    let facts = |info: &Value| facts(&daemon.ready("keeper", &id(info)).join("data/artifacts"));
    let before = facts(&first);
    assert!(before.len() >= 10, "{before:#?}");
    assert_eq!(before, facts(&second));
    let link = fs::read_link(daemon.builds().join("keeper/groups/g")).unwrap();
    assert_eq!(link, Path::new("../ready").join(id(&second)));
    // Another group knows nothing of it.
    let other = daemon.succeed(json!({"project": "keeper", "group": "h"}));
    assert_eq!(other["Incremental"], false);
}

fn fresh_artifacts_start_empty_and_the_cache_as_the_last_build_left_it(place: Place) {
    let script = "
        n=$(cat params/n)
        mkdir artifacts/d$n cache/d$n
        echo x > artifacts/d$n/x
        ln artifacts/d$n/x cache/d$n/x
        ls artifacts > cache/artifacts
        ls cache > artifacts/cache";
    let daemon = Setup::on(place).script("fresh", script).start();
    let settings = daemon.home().join("projects/fresh/mistry.json");
    fs::write(settings, "{\"artifacts\": \"fresh\"}").unwrap();
    for n in ["1", "2", "3"] {
        let info = daemon.succeed(json!({"project": "fresh", "group": "g", "params": {"n": n}}));
        assert_eq!(info["Incremental"], n != "1");
        let data = daemon.ready("fresh", &id(&info)).join("data");
        let read = |name: &str| fs::read_to_string(data.join(name)).unwrap();
        assert_eq!(read("cache/artifacts"), format!("d{n}\n"));
        assert!(read("artifacts/cache").contains("d1"), "{n}");
        // The cache keeps a file that was also an artifact.
        assert_eq!(read("cache/d1/x"), "x\n");
    }
}

/// Mode, modification time, size, links and target of one thing in a tree.
#[derive(Debug, PartialEq)]
struct Fact(u32, (i64, i64), u64, u64, Option<PathBuf>);

/// Of all that is in a tree.
fn facts(root: &Path) -> BTreeMap<PathBuf, Fact> {
    let mut facts = BTreeMap::new();
    let mut pending = vec![root.to_owned()];
    while let Some(path) = pending.pop() {
        let found = fs::symlink_metadata(&path).unwrap();
        let size = if found.is_dir() { 0 } else { found.len() };
        // Directories have as many links as their filesystem likes.
        let links = if found.is_dir() { 1 } else { found.nlink() };
        let name = path.strip_prefix(root).unwrap().to_owned();
        let changed = (found.mtime(), found.mtime_nsec());
        let target = fs::read_link(&path).ok();
        facts.insert(name, Fact(found.mode(), changed, size, links, target));
        if found.is_dir() {
            pending.extend(
                fs::read_dir(&path)
                    .unwrap()
                    .map(|entry| entry.unwrap().path()),
            );
        }
    }
    facts
}

fn a_failed_build_can_be_read_and_is_built_again(place: Place) {
    let daemon = Setup::on(place).fixture("exit-code").start();
    let job = json!({"project": "exit-code", "group": "g", "params": {"code": "7"}});
    let failed = daemon.build(job.clone());
    assert_eq!(
        (&failed["ExitCode"], &failed["Outcome"]),
        (&json!(7), &json!("failed"))
    );
    assert_eq!(failed["ContainerStderr"], "about to exit with 7\n");
    let there = daemon.ready("exit-code", &id(&failed));
    assert!(there.join("data/artifacts/half-made").exists());
    assert!(fs::symlink_metadata(daemon.builds().join("exit-code/groups/g")).is_err());
    let again = daemon.build(job);
    assert_eq!(
        (&again["ID"], &again["Cached"]),
        (&failed["ID"], &json!(false))
    );
    assert_ne!(again["StartedAt"], failed["StartedAt"]);
    assert_eq!(again["Incremental"], false, "a failed build is no base");
}

fn an_image_that_cannot_be_built_is_an_error_and_recorded_with_its_log(place: Place) {
    let setup = Setup::on(place).fixture("image-build-failure");
    let daemon = setup.fixture("bad-dockerfile").start();
    for (project, sentence, log) in [
        (
            "image-build-failure",
            "returned a non-zero code",
            "this image is about to fail",
        ),
        ("bad-dockerfile", "unknown instruction: COPIE", ""),
    ] {
        let answer = daemon.post("/jobs", &json!({"project": project}));
        assert_eq!(answer.status, 500);
        let body = answer.json();
        let error = body["error"].as_str().unwrap();
        assert!(error.starts_with("could not build docker image"), "{error}");
        // The words of podman.
        let is_podmans = match project {
            "bad-dockerfile" => error.contains("Unknown instruction: \"COPIE\""),
            _ => error.contains("exit status 1"),
        };
        assert!(error.contains(sentence) || is_podmans, "{error}");
        let id = body["job"].as_str().unwrap();
        assert_eq!(
            answer.header("location").unwrap(),
            format!("/job/{project}/{id}")
        );
        let info = daemon.wait(project, id);
        assert_eq!(
            (&info["ExitCode"], &info["Outcome"]),
            (&json!(-999), &json!("errored"))
        );
        let kept = fs::read_to_string(daemon.ready(project, id).join("out.log")).unwrap();
        assert!(kept.contains(log), "{kept}");
        assert!(!kept.contains("this must never be seen"), "{kept}");
    }
}

fn a_rebuild_that_succeeds_replaces_the_build(place: Place) {
    let mut daemon = Setup::on(place).fixture("succeed").start();
    let first = daemon.succeed(json!({"project": "succeed"}));
    let second = daemon.succeed(json!({"project": "succeed", "rebuild": true}));
    assert_eq!(
        (&second["ID"], &second["Cached"]),
        (&first["ID"], &json!(false))
    );
    assert_ne!(second["Image"], first["Image"], "a rebuild has a new image");
    let cached = daemon.succeed(json!({"project": "succeed"}));
    assert_eq!(cached["Cached"], true);
    assert_eq!(cached["StartedAt"], second["StartedAt"]);
    daemon.end();
    assert_eq!(names(&daemon.builds().join("succeed/ready")), [id(&first)]);
    assert!(names(&daemon.builds().join("succeed/pending")).is_empty());
    assert!(names(&daemon.builds().join(".mistry/trash")).is_empty());
}

fn a_rebuild_that_fails_leaves_the_build_current(place: Place) {
    let script = "
        if [ -e params/_fail ]; then echo broken >&2; exit 4; fi
        echo good > artifacts/result";
    let mut daemon = Setup::on(place).script("moody", script).start();
    let first = daemon.succeed(json!({"project": "moody", "group": "g"}));
    let fail = json!({"project": "moody", "group": "g", "rebuild": true, "params": {"_fail": "1"}});
    let failed = daemon.build(fail);
    assert_eq!(
        (&failed["ID"], &failed["ExitCode"]),
        (&first["ID"], &json!(4))
    );
    let cached = daemon.succeed(json!({"project": "moody", "group": "g"}));
    assert_eq!(cached["Cached"], true);
    assert_eq!(cached["StartedAt"], first["StartedAt"]);
    let id = id(&first);
    let kept = daemon.get(&format!("/artifacts/moody/{id}/result"));
    assert_eq!((kept.status, kept.text().as_str()), (200, "good\n"));
    daemon.end();
    let attempts = daemon.builds().join(".mistry/attempts/moody").join(&id);
    assert_eq!(names(&attempts), ["2"]);
    assert_eq!(
        names(&attempts.join("2")),
        ["build_info.json", "out.log", "out.times"]
    );
    let link = fs::read_link(daemon.builds().join("moody/groups/g")).unwrap();
    assert_eq!(link, Path::new("../ready").join(&id));
}

fn a_secret_reaches_the_build_and_is_found_nowhere_else(place: Place) {
    let leaky = "t=$(cat params/_token); echo \"it is $t\"; echo \"$t\" | base64 >&2; exit 3";
    let setup = Setup::on(place).fixture("secret").script("leaky", leaky);
    let mut daemon = setup.start();
    let secret = word();
    let job = |token: &str| json!({"project": "secret", "params": {"_token": token, "x": "y"}});
    let built = daemon.succeed(job(&secret));
    let length = daemon.get(&format!("/artifacts/secret/{}/token.length", id(&built)));
    assert_eq!(length.text(), format!("{}\n", secret.len()));
    assert_eq!(built["Params"], json!({"_token": null, "x": "y"}));
    // A client with another secret asks for the same.
    assert_eq!(daemon.succeed(job("other"))["Cached"], true);
    // A build that prints it has it masked.
    let printed = daemon.post(
        "/jobs",
        &json!({"project": "leaky", "params": {"_token": secret}}),
    );
    let printed = printed.json();
    let log = printed["ContainerStdouterr"].as_str().unwrap();
    assert!(
        log.starts_with("mistry: masked in this log: _token\n"),
        "{log}"
    );
    assert!(log.contains("it is ***\n"), "{log}");
    assert_eq!(printed["ContainerStderr"], "***\n");
    assert!(!daemon.get("/index/").text().contains(&secret));
    assert!(!daemon.log().contains(&secret));
    daemon.end();
    let found = Command::new("grep")
        .arg("-rl")
        .arg(&secret)
        .arg(daemon.builds())
        .output();
    assert_eq!(String::from_utf8(found.unwrap().stdout).unwrap(), "");
}

fn a_link_planted_in_the_place_of_the_params_leads_nowhere(place: Place) {
    let daemon = Setup::on(place).fixture("plant-params").start();
    let name = format!("mistry-planted-{}", word());
    for value in ["one", "two", "three"] {
        let built = daemon.succeed(json!({"project": "plant-params", "group": "g", "params": {
            (name.clone()): value, "_opaque": value,
        }, "rebuild": value == "three"}));
        let seen = format!("/artifacts/plant-params/{}/seen/{name}", id(&built));
        assert_eq!(daemon.get(&seen).text(), value);
        assert!(!Path::new("/etc").join(&name).exists());
        assert!(!Path::new("/etc/_opaque").exists());
    }
}

fn hostile_artifacts_are_served_without_a_leak(place: Place) {
    // So that it can make its device.
    let setup = Setup::on(place).config(json!({"cap_add": ["MKNOD"]}));
    let daemon = setup.fixture("hostile-artifacts").start();
    let own = daemon.project("hostile-artifacts").join("mistry.json");
    fs::write(own, r#"{"cap_add": ["MKNOD"]}"#).unwrap();
    let built = daemon.succeed(json!({"project": "hostile-artifacts"}));
    let left = daemon.ready("hostile-artifacts", &id(&built));
    fs::symlink_metadata(left.join("data/artifacts/device")).unwrap();
    let root = format!("/artifacts/hostile-artifacts/{}", id(&built));
    let whole = daemon.get(&root);
    assert_eq!(whole.status, 200);
    let mut seen = BTreeMap::new();
    let mut tar = tar::Archive::new(&whole.body[..]);
    for entry in tar.entries().unwrap() {
        let mut entry = entry.unwrap();
        let kind = entry.header().entry_type();
        assert_eq!(entry.header().mode().unwrap() & 0o7000, 0);
        let path = entry.path_bytes().into_owned();
        let mut text = Vec::new();
        entry.read_to_end(&mut text).unwrap();
        let target = entry.link_name_bytes().map(|target| target.into_owned());
        seen.insert(path, (kind, text, target.unwrap_or_default()));
    }
    let entry = |name: &[u8]| {
        seen.get(name)
            .unwrap_or_else(|| panic!("{name:?} is missing"))
    };
    for (name, text) in [
        (&b"plain"[..], "harmless\n"),
        (b"directory/file", "within\n"),
        (b"new\nline", "newline\n"),
        (b"bad-\xff-utf8", "not utf-8\n"),
        (b".hidden", "hidden\n"),
        (b"-rf", "option\n"),
        (&[b'n'; 255], "long\n"),
        (b"setuid", "setuid\n"),
    ] {
        assert_eq!(entry(name).1, text.as_bytes());
    }
    for (name, target) in [(&b"absolute"[..], "/etc/shadow"), (b"loop-a", "loop-b")] {
        assert_eq!(entry(name).0, tar::EntryType::Symlink);
        assert_eq!(entry(name).2, target.as_bytes());
    }
    assert!(!seen.contains_key(&b"fifo"[..]) && !seen.contains_key(&b"device"[..]));
    let shadow = fs::read_to_string("/etc/shadow").unwrap();
    let line = shadow.lines().next().unwrap();
    assert!(!String::from_utf8_lossy(&whole.body).contains(line));

    for (name, status) in [
        ("plain", 200),
        ("link-inside", 200),
        ("absolute", 404),
        ("relative", 404),
        ("parent", 404),
        ("to-params", 404),
        ("dangling", 404),
        ("loop-a", 404),
        ("environ", 404),
        ("fifo", 404),
        ("device", 404),
        ("../params", 404),
        ("%2e%2e/params", 404),
        ("bad-%ff-utf8", 200),
    ] {
        let answer = daemon.get(&format!("{root}/{name}"));
        assert_eq!(answer.status, status, "{name}: {}", answer.text());
    }
    let home = daemon.home().join("fetched");
    let home = home.to_str().unwrap();
    let fetched = daemon.mistry(&["build", "--project", "hostile-artifacts", "--target", home]);
    assert!(fetched.status.success(), "{fetched:?}");
    assert_eq!(
        fs::read_link(Path::new(home).join("absolute")).unwrap(),
        Path::new("/etc/shadow")
    );
}

fn a_build_continues_while_its_daemon_is_killed_and_restarted(place: Place) {
    let mut daemon = Setup::on(place).fixture("slow").start();
    let id = daemon.submit(json!({"project": "slow", "group": "g"}));
    daemon.until("slow", &id, "waiting");
    let engine = Engine::new();
    let before = engine.containers(&daemon.label());
    assert_eq!(before.len(), 1);
    daemon.kill();
    assert_eq!(
        engine.containers(&daemon.label()).len(),
        1,
        "the container runs on"
    );

    daemon.start();
    daemon.until("slow", &id, "waiting");
    let after = engine.containers(&daemon.label());
    assert_eq!(after.len(), 1);
    assert_eq!(after[0].id, before[0].id);
    // Its log has it all only once, for every reader.
    daemon.release("slow", &id);
    let info = daemon.wait("slow", &id);
    assert_eq!(
        (&info["Outcome"], &info["Attempt"]),
        (&json!("succeeded"), &json!(1))
    );
    let log = fs::read_to_string(daemon.ready("slow", &id).join("out.log")).unwrap();
    assert_eq!(log.matches("waiting\n").count(), 1, "{log}");
    assert!(log.ends_with("waiting\nreleased\n"), "{log}");
    daemon.end();
    assert!(engine.containers(&daemon.label()).is_empty());
    assert!(names(&daemon.builds().join("slow/pending")).is_empty());
}

fn a_build_whose_container_is_gone_is_made_once_more(place: Place) {
    let mut daemon = Setup::on(place).fixture("slow").start();
    let id = daemon.submit(json!({"project": "slow", "group": "g"}));
    daemon.until("slow", &id, "waiting");
    daemon.kill();
    let engine = Engine::new();
    engine.sweep(&daemon.label());
    daemon.start();
    daemon.until("slow", &id, "is made again");
    let log = fs::read_to_string(daemon.pending("slow", &id).join("out.log")).unwrap();
    let from = log.find("is made again").unwrap();
    // The second one is at its gate when it has said so, too.
    daemon.until_from("slow", &id, from, "waiting");
    daemon.release("slow", &id);
    let info = daemon.wait("slow", &id);
    assert_eq!(
        (&info["Outcome"], &info["Attempt"]),
        (&json!("succeeded"), &json!(2))
    );
    daemon.end();
    assert!(engine.containers(&daemon.label()).is_empty());
}

fn a_daemon_of_root_serves_what_no_user_may_read(place: Place) {
    let daemon = Setup::on(place).fixture("unreadable").start();
    for round in ["1", "2"] {
        let job = json!({"project": "unreadable", "group": "g", "params": {"n": round}});
        let built = daemon.succeed(job.clone());
        assert_eq!(built["Incremental"], round == "2");
        let whole = daemon.get(&format!("/artifacts/unreadable/{}", id(&built)));
        assert_eq!(whole.status, 200);
        let mut tar = tar::Archive::new(&whole.body[..]);
        assert_eq!(tar.entries().unwrap().map(Result::unwrap).count(), 5);
        let mut job = job;
        job["rebuild"] = json!(true);
        daemon.succeed(job);
    }
}

fn what_an_earlier_process_left_half_made_breaks_nothing(place: Place) {
    let mut daemon = Setup::on(place).fixture("succeed").start();
    let built = daemon.succeed(json!({"project": "succeed"}));
    daemon.kill();
    // Torn and foreign things, where only builds belong.
    let project = daemon.builds().join("succeed");
    let torn = project.join("ready").join("a".repeat(64));
    fs::create_dir(&torn).unwrap();
    fs::write(torn.join("build_info.json"), "{\"ExitCo").unwrap();
    fs::create_dir_all(project.join("pending").join("b".repeat(64))).unwrap();
    fs::write(project.join("pending").join("c".repeat(64)), "no directory").unwrap();
    fs::create_dir(project.join("ready/foreign")).unwrap();
    fs::write(daemon.builds().join("stray"), "").unwrap();
    fs::create_dir(daemon.builds().join("Ünknown")).unwrap();
    std::os::unix::fs::symlink("nowhere", daemon.builds().join("dangling")).unwrap();
    daemon.start();
    assert_eq!(
        daemon.succeed(json!({"project": "succeed"}))["Cached"],
        true
    );
    daemon.succeed(json!({"project": "succeed", "params": {"n": "1"}}));
    let listed = daemon.get("/index/").json();
    let ids: Vec<_> = listed
        .as_array()
        .unwrap()
        .iter()
        .map(|item| &item["id"])
        .collect();
    assert!(ids.contains(&&built["ID"]), "{listed:#}");
    let answer = daemon.page("/");
    assert_eq!(answer.status, 200);
}

fn id(info: &Value) -> String {
    info["ID"].as_str().unwrap().to_owned()
}

macro_rules! promises {
    ($($promise:ident)*) => {
        mod on_btrfs { $(#[test] fn $promise() { super::$promise(super::Place::Btrfs) })* }
        mod on_btrfs_as_plain { $(#[test] fn $promise() { super::$promise(super::Place::BtrfsAsPlain) })* }
        mod on_ext4 { $(#[test] fn $promise() { super::$promise(super::Place::Ext4) })* }
        mod on_tmpfs { $(#[test] fn $promise() { super::$promise(super::Place::Tmpfs) })* }
    };
}

promises! {
    a_cold_build_has_artifacts_and_the_same_job_again_is_cached
    a_build_of_a_group_begins_as_the_last_one_ended
    fresh_artifacts_start_empty_and_the_cache_as_the_last_build_left_it
    a_failed_build_can_be_read_and_is_built_again
    an_image_that_cannot_be_built_is_an_error_and_recorded_with_its_log
    a_rebuild_that_succeeds_replaces_the_build
    a_rebuild_that_fails_leaves_the_build_current
    a_secret_reaches_the_build_and_is_found_nowhere_else
    a_link_planted_in_the_place_of_the_params_leads_nowhere
    hostile_artifacts_are_served_without_a_leak
    a_build_continues_while_its_daemon_is_killed_and_restarted
    a_build_whose_container_is_gone_is_made_once_more
    a_daemon_of_root_serves_what_no_user_may_read
    what_an_earlier_process_left_half_made_breaks_nothing
}

/// The root of every subvolume has this inode number, and nothing else has.
const SUBVOLUME: u64 = 256;

#[test]
fn on_btrfs_data_is_a_subvolume_and_none_is_left_behind() {
    let mut daemon = Setup::on(Place::Btrfs)
        .fixture("succeed")
        .fixture("slow")
        .start();
    let job = |n: u32| json!({"project": "succeed", "group": "g", "params": {"n": n.to_string()}});
    let first = daemon.succeed(job(1));
    let second = daemon.succeed(job(2));
    for info in [&first, &second] {
        let data = daemon.ready("succeed", &id(info)).join("data");
        assert_eq!(fs::metadata(data).unwrap().ino(), SUBVOLUME);
        let around = daemon.ready("succeed", &id(info));
        assert_ne!(fs::metadata(around).unwrap().ino(), SUBVOLUME);
    }
    let mut again = job(1);
    again["rebuild"] = json!(true);
    daemon.succeed(again);
    // One more that is cut off, and its remains cleared by the next process.
    let slow = daemon.submit(json!({"project": "slow"}));
    daemon.until("slow", &slow, "waiting");
    daemon.kill();
    daemon.start();
    daemon.until("slow", &slow, "waiting");
    daemon.release("slow", &slow);
    daemon.wait("slow", &slow);
    daemon.end();
    assert_eq!(subvolumes(&daemon), 3);
}

fn subvolumes(daemon: &Daemon) -> usize {
    let list = Command::new("btrfs")
        .args(["subvolume", "list"])
        .arg(daemon.home())
        .output();
    let list = list.unwrap();
    assert!(list.status.success(), "{list:?}");
    let home = daemon.home().file_name().unwrap().to_str().unwrap();
    let list = String::from_utf8(list.stdout).unwrap();
    list.lines().filter(|line| line.contains(home)).count()
}
