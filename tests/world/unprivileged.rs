//! A daemon that is not root but may use the Docker Engine's socket: builds run as its own user,
//! without capabilities, and what they close to it breaks nothing.

use std::fs;
use std::os::unix::fs::MetadataExt;

use serde_json::json;

use crate::support::daemon::{Daemon, Setup};
use crate::support::engine::socket;
use crate::support::{Place, names};

/// Nobody's, on every Debian.
const USER: u32 = 65534;

/// Projects that leave things that even their owner may not read.
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

/// It used to end the group: each next build of it could not be begun.
#[test]
fn a_base_that_the_daemon_may_not_read_is_no_base_and_the_group_goes_on() {
    let daemon = start();
    for n in ["1", "2", "3"] {
        let job = json!({"project": "unreadable", "group": "g", "params": {"n": n}});
        let built = daemon.succeed(job);
        assert_eq!(built["Incremental"], false);
        let log = built["ContainerStdouterr"].as_str().unwrap();
        let said = log.starts_with("mistry: the latest build of the group holds files that");
        assert_eq!(said, n != "1", "{log}");
    }
}

#[test]
fn artifacts_that_the_daemon_may_not_read_are_an_error_and_no_leak() {
    let daemon = start();
    let built = daemon.succeed(json!({"project": "unreadable"}));
    let root = format!("/artifacts/unreadable/{}", built["ID"].as_str().unwrap());
    assert_eq!(daemon.get(&format!("{root}/open")).text(), "readable\n");
    for closed in ["secret", "closed", "closed/inner/file"] {
        let answer = daemon.get(&format!("{root}/{closed}"));
        assert!(answer.status >= 400, "{}", answer.text());
        assert!(!answer.text().contains("/builds/"), "{}", answer.text());
    }
    let target = daemon.home().join("fetched");
    let fetched = daemon.mistry(&[
        "build",
        "--project",
        "unreadable",
        "--target",
        target.to_str().unwrap(),
    ]);
    assert_eq!(fetched.status.code(), Some(4), "{fetched:?}");
    assert_eq!(daemon.get("/healthz").status, 200);
}
