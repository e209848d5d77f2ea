//! Dockerfiles that need BuildKit: our images and logs compared with those of `docker build`, on the same Engine.

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::OwnedFd;
use std::process::{Command, Output};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde_json::{Value, json};

use super::containers::{docker, settings};
use super::sent::{Tree, unpack};
use crate::support::Place;
use crate::support::daemon::{Daemon, Setup};

/// Begins each Dockerfile here; the label is that by which the tests find their images.
const BASE: &str = "FROM scratch AS base\nLABEL MARK\nCOPY --chmod=755 busybox /bin/busybox\n\
    SHELL [\"/bin/busybox\", \"sh\", \"-c\"]\n";

/// More than the Engine takes to end a step.
const HANGING: Duration = Duration::from_secs(60);

fn daemon() -> Daemon {
    Setup::on(Place::Host)
        .script("p", "touch artifacts/made")
        .start()
}

/// Replaces the Dockerfile of the project `p`.
fn dockerfile(daemon: &Daemon, text: &str) {
    let text = text.replace("MARK", &daemon.mark());
    fs::write(daemon.project("p").join("Dockerfile"), text).unwrap();
}

/// The same with the base and an entrypoint around some instructions.
pub fn instructions(daemon: &Daemon, first: &str, text: &str) {
    let end = "COPY run.sh /run.sh\nENTRYPOINT [\"/bin/busybox\", \"sh\", \"/run.sh\"]\n";
    dockerfile(daemon, &format!("{first}{BASE}{text}{end}"));
}

/// The error of the daemon's build, which must not succeed, and its log, if the job was accepted at all.
#[track_caller]
fn refused(daemon: &Daemon) -> (String, String) {
    let accepted = daemon.post("/jobs?async", &json!({"project": "p"}));
    let accepted: Value = accepted.json();
    let Some(id) = accepted["ID"].as_str() else {
        return (accepted["error"].to_string(), String::new());
    };
    let info = daemon.wait("p", id);
    assert_ne!(info["Outcome"], "succeeded", "{info}");
    (info["Err"].to_string(), log(daemon, &info))
}

pub fn log(daemon: &Daemon, info: &Value) -> String {
    let id = info["ID"].as_str().unwrap();
    daemon.get(&format!("/log/p/{id}?text")).text()
}

/// Debian's client, which has BuildKit built in or with its package docker-buildx; another one may be before it.
fn docker_with_buildkit() -> &'static str {
    let debians = "/usr/bin/docker";
    if fs::exists(debians).unwrap() {
        debians
    } else {
        "docker"
    }
}

/// `docker build` by BuildKit, of the project `p` as its steps run here.
fn docker_build(daemon: &Daemon, more: &[&str]) -> Output {
    let project = daemon.project("p");
    let mut command = Command::new(docker_with_buildkit());
    command.env("DOCKER_BUILDKIT", "1").arg("build");
    command.args(["--progress=plain", "--network=host", "--build-arg=uid=0"]);
    command.args(more).arg(project);
    command.output().unwrap()
}

/// The files of an image, without times: a step that runs has its own.
pub fn files(image: &str) -> Tree {
    let created = docker(&["create", image]);
    let container = String::from_utf8(created.stdout).unwrap();
    let exported = docker(&["export", container.trim()]);
    docker(&["rm", container.trim()]);
    let mut tree = unpack(&exported.stdout);
    tree.values_mut().for_each(|packed| packed.time = 0);
    tree
}

/// The settings of an image that a container sees, with its labels but ours.
fn config(image: &str) -> Value {
    let shown = docker(&["image", "inspect", "--format", "{{json .Config}}", image]);
    let mut config: Value = serde_json::from_slice(&shown.stdout).unwrap();
    if let Some(labels) = config["Labels"].as_object_mut() {
        labels.retain(|name, _| {
            !matches!(&**name, "mistry.instance" | "mistry.context" | "mistry.uid")
        });
    }
    // Of the container in which an image was made, which BuildKit has not.
    for name in ["Image", "Hostname", "AttachStdout", "AttachStderr"] {
        config.as_object_mut().unwrap().remove(name);
    }
    config
}

/// Each step of a log, by its name: its lines of output, and how it ended.
pub fn steps(log: &str) -> BTreeMap<String, Vec<String>> {
    let mut names: BTreeMap<&str, String> = BTreeMap::new();
    let mut steps: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for line in log.lines() {
        let Some((number, text)) = line
            .split_once(' ')
            .filter(|(number, _)| number.starts_with('#'))
        else {
            continue;
        };
        if let Some(name) = names.get(number) {
            // Docker's client puts the seconds before each line of output, and its digest after the name.
            let (first, rest) = text.split_once(' ').unwrap_or((text, ""));
            let text = if first.parse::<f64>().is_ok() {
                rest
            } else {
                text
            };
            let text = if text.starts_with("DONE ") {
                "DONE"
            } else {
                text
            };
            if !text.starts_with("sha256:") {
                steps.get_mut(name).unwrap().push(text.to_owned());
            }
        } else {
            names.insert(number, text.to_owned());
            steps.insert(text.to_owned(), Vec::new());
        }
    }
    steps.retain(|name, _| !name.starts_with("[internal]") && !name.starts_with("exporting"));
    // The two outputs of a step have no order between them.
    steps.values_mut().for_each(|lines| lines.sort());
    steps
}

#[test]
fn a_dockerfile_of_today_gives_the_image_that_docker_build_gives() {
    let daemon = daemon();
    let project = daemon.project("p");
    fs::write(project.join("input"), "bound\n").unwrap();
    let body = "ARG uid=7\nARG TARGETOS\nENV A=$uid\n\
        RUN --mount=type=tmpfs,target=/t --mount=type=bind,source=input,target=/in /bin/busybox cp /in /t/x; /bin/busybox cp /t/x /copied; echo $TARGETOS > /os; echo to standard output; echo to standard error >&2\n\
        FROM base AS other\nRUN echo other > /other\nFROM base\n\
        COPY --from=other --chmod=640 /other /other\nWORKDIR /work\nVOLUME /volume\n";
    instructions(&daemon, "", &body.replace("FROM base\n", "FROM base AS last\nARG uid=7\nENV A=$uid\nRUN --mount=type=bind,from=other,target=/o /bin/busybox cp /o/other /again\n"));
    // Without the cache, so that each runs all steps; the second run is cached for both.
    let tag = format!(
        "oracle-{}",
        daemon.mark().replace(['=', '.'], "-").to_lowercase()
    );
    let built = docker_build(&daemon, &["--no-cache", "-t", &tag]);
    let said = String::from_utf8_lossy(&built.stderr).into_owned();
    assert!(built.status.success(), "{said}");
    let info = daemon.succeed(json!({"project": "p", "rebuild": true}));
    let image = info["Image"].as_str().unwrap();
    assert_eq!(files(image), files(&tag));
    assert_eq!(config(image), config(&tag));
    let ours = log(&daemon, &info);
    assert_eq!(steps(&ours), steps(&said), "{ours}\n{said}");
    for label in ["mistry.instance", "mistry.context", "mistry.uid"] {
        let format = format!("{{{{index .Config.Labels \"{label}\"}}}}");
        let shown = docker(&["image", "inspect", "--format", &format, image]);
        assert!(shown.stdout.len() > 1, "{label}");
    }
    docker(&["image", "rm", &tag]);
}

#[test]
fn a_cache_mount_is_kept_for_the_next_image() {
    let daemon = daemon();
    let id = daemon.mark();
    for run in 1..=2 {
        let body = format!(
            "RUN --mount=type=cache,id={id},target=/c echo {run} >> /c/runs; /bin/busybox cp /c/runs /runs\n"
        );
        instructions(&daemon, "", &body);
        let info = daemon.succeed(json!({"project": "p"}));
        let tree = files(info["Image"].as_str().unwrap());
        let expected: String = (1..=run).map(|run| format!("{run}\n")).collect();
        assert_eq!(tree[&b"runs"[..]].content, expected.as_bytes());
    }
}

#[test]
fn the_line_that_names_dockers_own_frontend_needs_no_registry() {
    let daemon = daemon();
    instructions(
        &daemon,
        "# syntax=docker/dockerfile:1\n",
        "RUN --mount=type=tmpfs,target=/t echo built\n",
    );
    let info = daemon.succeed(json!({"project": "p"}));
    let log = log(&daemon, &info);
    // Where there is a registry, it is pulled.
    let is_there = docker(&["image", "inspect", "docker/dockerfile:1"])
        .status
        .success();
    let words = "'docker/dockerfile:1' could not be pulled";
    assert_eq!(log.contains(words), !is_there, "{log}");
    assert!(log.contains(" built\n"), "{log}");
    // It is not asked for again at once, except by a rebuild.
    let pulling = "pulling 'docker/dockerfile:1'";
    instructions(
        &daemon,
        "# syntax=docker/dockerfile:1\n",
        "RUN --mount=type=tmpfs,target=/t echo again\n",
    );
    let info = daemon.succeed(json!({"project": "p", "params": {"n": "2"}}));
    let second = self::log(&daemon, &info);
    assert_eq!(second.contains(words), !is_there, "{second}");
    assert!(!second.contains(pulling), "{second}");
    let info = daemon.succeed(json!({"project": "p", "rebuild": true}));
    let rebuilt = self::log(&daemon, &info);
    assert!(rebuilt.contains(pulling), "{rebuilt}");
}

#[test]
fn what_cannot_be_built_is_refused_with_what_to_do() {
    let daemon = daemon();
    let version = docker(&["version", "--format", "{{.Server.Version}}"]);
    let version = String::from_utf8(version.stdout).unwrap();
    let is_old = version.split('.').next().unwrap().parse::<u32>().unwrap() < 23;
    instructions(&daemon, "# syntax=example.invalid/frontend:1\n", "");
    let (error, _) = refused(&daemon);
    assert!(
        error.contains("'example.invalid/frontend:1' reads it (# syntax=)"),
        "{error}"
    );

    let used = "FROM example.invalid/base:1 AS used\nRUN --mount=type=tmpfs,target=/t true\n";
    instructions(&daemon, "", used);
    let (error, _) = refused(&daemon);
    let expected = "the image 'example.invalid/base:1' could not be pulled: ";
    assert!(error.contains(expected), "{error}");
    instructions(
        &daemon,
        "",
        "RUN --mount=type=secret,id=a /bin/busybox cat /run/secrets/a\n",
    );
    let (error, _) = refused(&daemon);
    assert!(
        error.contains("line 5 of the Dockerfile asks for the build secret 'a'"),
        "{error}"
    );
    // A stage that the image does not need stops no build.
    instructions(&daemon, "", &format!("{used}FROM base\n"));
    daemon.succeed(json!({"project": "p"}));

    instructions(
        &daemon,
        "",
        "RUN --mount=type=tmpfs,target=/t echo the reason; echo more >&2; exit 3\n",
    );
    let (error, log) = refused(&daemon);
    assert!(
        error.contains("exit 3") || error.contains("exit code: 3"),
        "{error}"
    );
    assert!(
        log.contains(" the reason\n") && log.contains("ERROR: "),
        "{log}"
    );

    if is_old {
        instructions(&daemon, "", "RUN <<EOF\necho here\nEOF\n");
        let (error, _) = refused(&daemon);
        let expected = format!(
            "line 5 of the Dockerfile has a here-document, which Docker Engine {} on this host does not know: this needs version 23 or later",
            version.trim()
        );
        assert!(error.contains(&expected), "{error}");
    }
    instructions(&daemon, "", "RUN --mount=type=tmpfs,target=/t true\n");
    settings(&daemon, "p", json!({"network": "none"}));
    daemon.succeed(json!({"project": "p"}));
    settings(&daemon, "p", json!({"builder": "classic"}));
    let (error, _) = refused(&daemon);
    let expected = "the configuration says that the classic builder builds it";
    assert!(error.contains(expected), "{error}");
    instructions(
        &daemon,
        "",
        "RUN [ -e /none ] || /bin/busybox cat <<EOF > /made\nhere\nEOF\n",
    );
    let (error, _) = refused(&daemon);
    assert!(
        error.contains("has a here-document, which only BuildKit knows"),
        "{error}"
    );
    settings(&daemon, "p", json!({"builder": "docker"}));
    let (error, _) = refused(&daemon);
    assert!(
        error.contains("expected one of `auto`, `classic`, `buildkit`"),
        "{error}"
    );
}

#[test]
fn the_builder_is_found_by_the_engines_words_if_the_dockerfile_does_not_show_it() {
    let daemon = daemon();
    let tag = format!(
        "trigger-{}",
        daemon.mark().replace(['=', '.'], "-").to_lowercase()
    );
    let trigger = "ONBUILD RUN --mount=type=tmpfs,target=/t echo triggered > /made\n";
    instructions(&daemon, "", trigger);
    let built = docker_build(&daemon, &["-t", &tag]);
    assert!(built.status.success(), "{built:?}");
    dockerfile(&daemon, &format!("FROM {tag}\nLABEL MARK\n"));
    let info = daemon.succeed(json!({"project": "p"}));
    let log = log(&daemon, &info);
    assert!(log.contains("; building with BuildKit.\n"), "{log}");
    assert!(files(info["Image"].as_str().unwrap()).contains_key(&b"made"[..]));
    // Any Dockerfile, where that is asked for.
    dockerfile(&daemon, &format!("FROM {tag}\nLABEL MARK\nENV A=b\n"));
    settings(&daemon, "p", json!({"builder": "buildkit"}));
    let info = daemon.succeed(json!({"project": "p"}));
    assert!(!self::log(&daemon, &info).contains("Step 1/"));
    docker(&["image", "rm", &tag]);
}

/// The process whose command line has this text.
pub fn process_with(text: &str) -> OwnedFd {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let mut found = processes.filter_map(|entry| {
        let process = entry.file_name().to_str()?.parse().ok()?;
        let command = fs::read(entry.path().join("cmdline")).ok()?;
        String::from_utf8_lossy(&command)
            .contains(text)
            .then_some(process)
    });
    let process = Pid::from_raw(found.next().expect("it runs")).unwrap();
    pidfd_open(process, PidfdFlags::empty()).unwrap()
}

/// Waits for the end of a process.
#[track_caller]
pub fn assert_ends(process: &OwnedFd) {
    let mut ends = [PollFd::new(process, PollFlags::IN)];
    let ended = poll(&mut ends, Some(&Timespec::try_from(HANGING).unwrap())).unwrap();
    assert_eq!(ended, 1, "it still runs");
}

#[test]
fn a_cancelled_build_ends_its_steps() {
    let daemon = daemon();
    let seconds = format!("{}", 100_000 + std::process::id());
    instructions(
        &daemon,
        "",
        &format!(
            "RUN --mount=type=tmpfs,target=/t echo be''gun; /bin/busybox sleep {seconds}; true\n"
        ),
    );
    let id = daemon.submit(json!({"project": "p"}));
    daemon.until("p", &id, "begun");
    let step = process_with(&seconds);
    let cancelled = daemon.post(&format!("/job/p/{id}/cancel"), &json!({}));
    assert!(cancelled.status < 300, "{}", cancelled.text());
    assert_eq!(daemon.wait("p", &id)["Outcome"], "cancelled");
    assert_ends(&step);
}
