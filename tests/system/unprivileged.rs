//! A daemon that is not root but may use the Docker Engine's socket: builds run as its own user,
//! without capabilities, and what they close to it breaks nothing.

use std::fs;
use std::os::unix::fs::MetadataExt;

use serde_json::json;

use crate::support::daemon::{Daemon, Setup};
use crate::support::engine::socket;
use crate::support::{Place, names};

/// The user `nobody`, on every Debian.
const USER: u32 = 65534;

/// Projects that leave files that even their owner may not read.
fn start() -> Daemon {
    let group = fs::metadata(socket()).unwrap().gid();
    let setup = Setup::on(Place::Host).user(USER, group);
    setup.fixture("succeed").fixture("unreadable").start()
}

#[test]
fn builds_run_as_the_daemons_user_without_any_capability() {
    let group = fs::metadata(socket()).unwrap().gid();
    let script = "
        grep -E '^(Uid|Gid|CapBnd|CapEff|NoNewPrivs):' /proc/self/status
        echo made > artifacts/made";
    let setup = Setup::on(Place::Host)
        .user(USER, group)
        .script("who", script);
    let daemon = setup.start();
    let built = daemon.succeed(json!({"project": "who", "group": "g"}));
    let log = built["ContainerStdouterr"].as_str().unwrap();
    for line in [
        format!("Uid:\t{USER}\t{USER}\t{USER}\t{USER}"),
        format!("Gid:\t{group}\t{group}\t{group}\t{group}"),
        "CapBnd:\t0000000000000000".to_owned(),
        "CapEff:\t0000000000000000".to_owned(),
        "NoNewPrivs:\t1".to_owned(),
    ] {
        assert!(log.contains(&line), "{line}: {log}");
    }
    let id = built["ID"].as_str().unwrap();
    let made = daemon.ready("who", id).join("data/artifacts/made");
    assert_eq!(fs::metadata(made).unwrap().uid(), USER);
    let target = daemon.home().join("fetched");
    let fetched = daemon.mistry(&[
        "build",
        "--project",
        "who",
        "--group",
        "g",
        "--target",
        target.to_str().unwrap(),
    ]);
    assert!(fetched.status.success(), "{fetched:?}");
    assert_eq!(fs::read_to_string(target.join("made")).unwrap(), "made\n");
}

#[test]
fn what_a_build_closes_to_its_owner_is_removed_with_the_build() {
    let mut daemon = start();
    let first = daemon.succeed(json!({"project": "unreadable"}));
    let again = daemon.succeed(json!({"project": "unreadable", "rebuild": true}));
    assert_ne!(again["StartedAt"], first["StartedAt"]);
    daemon.end();
    assert!(
        names(&daemon.builds().join(".mistry/trash")).is_empty(),
        "{}",
        daemon.home().display()
    );
    assert_eq!(names(&daemon.builds().join("unreadable/ready")).len(), 1);
}

#[test]
fn a_base_that_its_build_closed_to_the_daemon_is_cloned_all_the_same() {
    let daemon = start();
    for n in ["1", "2", "3"] {
        let job = json!({"project": "unreadable", "group": "g", "params": {"n": n}});
        let built = daemon.succeed(job);
        assert_eq!(built["Incremental"], n != "1");
        let data = daemon.ready("unreadable", built["ID"].as_str().unwrap());
        for closed in ["cache/secret", "cache/closed", "artifacts/closed"] {
            let found = fs::metadata(data.join("data").join(closed)).unwrap();
            assert_eq!(found.mode() & 0o777, 0, "{closed}");
        }
    }
}

#[test]
fn artifacts_that_their_build_closed_to_the_daemon_are_served_with_their_modes() {
    let daemon = start();
    let built = daemon.succeed(json!({"project": "unreadable"}));
    let id = built["ID"].as_str().unwrap();
    let root = format!("/artifacts/unreadable/{id}");
    for (open, text) in [
        ("open", "readable\n"),
        ("secret", "closed\n"),
        ("closed/inner/file", "deep\n"),
    ] {
        assert_eq!(daemon.get(&format!("{root}/{open}")).text(), text);
    }
    assert_eq!(daemon.get(&format!("{root}/closed/")).status, 200);
    let list = daemon.get(&format!("{root}?manifest")).json();
    let modes: Vec<_> = list
        .as_array()
        .unwrap()
        .iter()
        .map(|item| &item["Mode"])
        .collect();
    assert_eq!(modes[0], "0000", "{list}");
    let target = daemon.home().join("fetched");
    let fetched = daemon.mistry(&[
        "build",
        "--project",
        "unreadable",
        "--target",
        target.to_str().unwrap(),
    ]);
    assert!(fetched.status.success(), "{fetched:?}");
    let file = fs::read_to_string(target.join("closed/inner/file"));
    assert_eq!(file.unwrap(), "deep\n");
    let closed = daemon.ready("unreadable", id).join("data/artifacts/closed");
    assert_eq!(fs::metadata(closed).unwrap().mode() & 0o777, 0);
}

/// Files of other users stay closed to the daemon.
#[test]
fn artifacts_of_another_user_that_the_daemon_may_not_read_are_an_error_and_no_leak() {
    let group = fs::metadata(socket()).unwrap().gid();
    let script =
        "echo closed > artifacts/secret; chmod 600 artifacts/secret; echo fine > artifacts/open";
    let setup = Setup::on(Place::Host)
        .user(USER, group)
        .script("foreign", script);
    let settings = setup.home().join("projects/foreign/mistry.json");
    fs::write(settings, r#"{"user": "0:0"}"#).unwrap();
    let daemon = setup.start();
    let built = daemon.succeed(json!({"project": "foreign"}));
    let root = format!("/artifacts/foreign/{}", built["ID"].as_str().unwrap());
    assert_eq!(daemon.get(&format!("{root}/open")).text(), "fine\n");
    let answer = daemon.get(&format!("{root}/secret"));
    assert_eq!(answer.status, 403, "{}", answer.text());
    assert!(!answer.text().contains("/builds/"), "{}", answer.text());
    let target = daemon.home().join("fetched");
    let fetched = daemon.mistry(&[
        "build",
        "--project",
        "foreign",
        "--target",
        target.to_str().unwrap(),
    ]);
    assert_eq!(fetched.status.code(), Some(4), "{fetched:?}");
    assert_eq!(daemon.get("/healthz").status, 200);
}
