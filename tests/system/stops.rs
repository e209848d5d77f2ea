//! Builds that are stopped before their end: by a user, at their deadline, after too long a silence.
//! Their output until then is kept, and nothing of theirs is left running.

use std::fs;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::daemon::{Daemon, Setup};
use crate::support::engine::Engine;
use crate::support::{Place, names};

/// Ends with status 0 on SIGTERM; the file says whether it came.
const POLITE: &str = "
    trap 'echo told; echo told > artifacts/told; exit 0' TERM
    echo waiting; mkfifo gate; { read -r x < gate || :; } & wait $!; echo over";

/// Hears no signal but the last one.
const STUBBORN: &str = "trap '' TERM; echo waiting; while :; do read -r x < /dev/zero || :; done";

fn log(daemon: &Daemon, project: &str, id: &str) -> String {
    fs::read_to_string(daemon.ready(project, id).join("out.log")).unwrap()
}

/// After its end, which is not waited for before.
fn nothing_is_left(mut daemon: Daemon, projects: &[&str]) {
    daemon.end();
    for project in projects {
        assert!(names(&daemon.builds().join(project).join("pending")).is_empty());
    }
    let left = Engine::new().containers(&daemon.mark());
    assert!(left.is_empty(), "{left:?}");
}

fn cancel(daemon: &Daemon, id: &str) -> Value {
    let output = daemon.mistry(&["cancel", &id[..12], "--reason", "wrong branch"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    let info = daemon.wait(project_of(&output.stdout), id);
    assert_eq!(info["Outcome"], "cancelled", "{info:#}");
    assert_eq!(info["Cancelled"]["Reason"], "wrong branch");
    info
}

/// `Cancelled P/ID`.
fn project_of(line: &[u8]) -> &str {
    let line = std::str::from_utf8(line).unwrap();
    let named = line.strip_prefix("Cancelled ").unwrap();
    named.split_once('/').unwrap().0
}

#[test]
fn a_cancelled_build_gets_sigterm_and_then_sigkill() {
    let setup = Setup::on(Place::Btrfs).script("polite", POLITE);
    let daemon = setup.script("stubborn", STUBBORN).start();
    let id = daemon.submit(json!({"project": "polite", "group": "g"}));
    daemon.until("polite", &id, "waiting");
    // A waiting client prints it, and has the exit status for it.
    let mut waiting = daemon.client(&["build", "--project", "polite", "--group", "g"]);
    let waiting = std::thread::spawn(move || waiting.output().unwrap());
    let by_now = |daemon: &Daemon| daemon.get("/metrics").text();
    while !by_now(&daemon).contains("mistry_builds_coalesced{project=\"polite\"} 1") {
        std::thread::yield_now();
    }
    cancel(&daemon, &id);
    let output = waiting.join().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(6), "{said}");
    assert!(said.contains("The build was cancelled by"), "{said}");
    assert!(said.contains("wrong branch"), "{said}");
    let printed = log(&daemon, "polite", &id);
    assert!(printed.contains("waiting\ntold\n"), "{printed}");
    let made = daemon.ready("polite", &id).join("data/artifacts/told");
    assert!(made.exists());
    assert!(!daemon.builds().join("polite/groups/g").exists());

    let id = daemon.submit(json!({"project": "stubborn"}));
    daemon.until("stubborn", &id, "waiting");
    cancel(&daemon, &id);
    nothing_is_left(daemon, &["polite", "stubborn"]);
}

#[test]
fn an_image_build_that_is_cancelled_leaves_no_step_running() {
    let daemon = Setup::on(Place::Ext4).script("image", "true").start();
    let file = daemon.project("image").join("Dockerfile");
    let dockerfile = fs::read_to_string(&file).unwrap();
    // The step says that it runs, and goes on for as long as any test.
    let step = "RUN [\"/bin/busybox\", \"sh\", \"-c\", \"echo step runs; while :; do /bin/busybox sleep 1; done\"]";
    fs::write(
        &file,
        dockerfile.replace("ENTRYPOINT", &format!("{step}\nENTRYPOINT")),
    )
    .unwrap();
    let id = daemon.submit(json!({"project": "image"}));
    daemon.until("image", &id, "step runs");
    cancel(&daemon, &id);
    // The slot is free and the next build of the project begins anew.
    fs::write(&file, dockerfile).unwrap();
    daemon.succeed(json!({"project": "image"}));
    nothing_is_left(daemon, &["image"]);
}

#[test]
fn deadlines_hold_by_the_engines_own_clock_and_through_a_restart() {
    let chatty = "[ ! -e params/ends ] || exit 0
        i=0; while :; do echo $i; i=$((i+1)); sleep 0.5; done";
    let quiet = "echo once; [ -e params/ends ] || exec sleep 1000";
    let setup = Setup::on(Place::Host).script("chatty", chatty);
    let mut daemon = setup.script("quiet", quiet).start();
    // Images have deadlines of their own, and are there before.
    for project in ["quiet", "chatty"] {
        daemon.succeed(json!({"project": project, "params": {"ends": "1"}}));
    }
    for (project, key, limit) in [
        ("chatty", "job_timeout", "8s"),
        ("quiet", "silence_timeout", "2s"),
    ] {
        let settings = json!({ key: limit }).to_string();
        fs::write(daemon.project(project).join("mistry.json"), settings).unwrap();
    }
    let quiet = daemon.submit(json!({"project": "quiet"}));
    let chatty = daemon.submit(json!({"project": "chatty"}));
    daemon.until("quiet", &quiet, "once");
    daemon.until("chatty", &chatty, "1");
    daemon.kill();
    daemon.start();
    let info = daemon.wait("quiet", &quiet);
    assert_eq!(info["Outcome"], "timed-out", "{info:#}");
    let sentence = "the build printed nothing for 2s (silence_timeout) and was stopped";
    assert_eq!(info["Err"], sentence);
    let info = daemon.wait("chatty", &chatty);
    assert_eq!(info["Outcome"], "timed-out", "{info:#}");
    let sentence = "the build ran longer than 8s (job_timeout) and was stopped";
    assert_eq!(info["Err"], sentence);
    assert_eq!(info["Attempt"], 1);
    let ran = Duration::from_millis(info["Phases"]["Run"].as_u64().unwrap_or(8_000));
    assert!(ran >= Duration::from_secs(8), "{ran:?}");
    nothing_is_left(daemon, &["quiet", "chatty"]);
}

/// From the moment that it is written down.
#[test]
fn a_build_whose_daemon_dies_while_it_is_cancelled_is_cancelled_by_the_next() {
    let mut daemon = Setup::on(Place::Btrfs).script("polite", POLITE).start();
    daemon.end();
    daemon.start_at("127.0.0.1:0", "stop-decided=kill");
    let id = daemon.submit(json!({"project": "polite"}));
    daemon.until("polite", &id, "waiting");
    let output = daemon.mistry(&["cancel", &id]);
    assert_eq!(output.status.code(), Some(7), "it broke off");
    daemon.kill();
    daemon.start();
    let info = daemon.wait("polite", &id);
    assert_eq!(info["Outcome"], "cancelled", "{info:#}");
    assert_eq!(info["Attempt"], 1);
    // Its last words are not lost either.
    let printed = log(&daemon, "polite", &id);
    assert!(printed.contains("waiting\ntold\n"), "{printed}");
    nothing_is_left(daemon, &["polite"]);
}
