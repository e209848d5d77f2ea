//! A full build path is reported clearly, no unfinished file is left, and builds go on when there is
//! space again.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;

use crate::support::daemon::Setup;
use crate::support::{Place, names};

/// A file that takes all free space.
pub struct Filler(PathBuf);

impl Filler {
    pub fn fill(directory: &Path) -> Filler {
        let path = directory.join("filler");
        let mut file = File::create(&path).unwrap();
        // Large pieces first, then ever smaller ones, until not a byte fits.
        for size in [1 << 20, 64 << 10, 4 << 10, 512] {
            let piece = vec![b'x'; size];
            loop {
                match file.write_all(&piece).and_then(|()| file.sync_data()) {
                    Ok(()) => {}
                    Err(error) if error.kind() == ErrorKind::StorageFull => break,
                    Err(error) => panic!("{error}"),
                }
            }
        }
        Filler(path)
    }

    pub fn free(self) {
        fs::remove_file(self.0).unwrap();
    }
}

/// The configuration of another build path beside, which no daemon has used.
fn never_used(home: &Path) -> PathBuf {
    let path = home.join("unclaimed.json");
    for name in ["unclaimed", "none"] {
        fs::create_dir(home.join(name)).unwrap();
    }
    let config = json!({"projects_path": "none", "build_path": "unclaimed"});
    fs::write(&path, config.to_string()).unwrap();
    path
}

fn a_full_build_path_is_reported_until_there_is_space_again(place: Place) {
    let mut daemon = Setup::on(place).fixture("succeed").start();
    let kept = daemon.succeed(json!({"project": "succeed"}));
    let unclaimed = never_used(daemon.home());
    let filler = Filler::fill(daemon.home());
    let big = "x".repeat(200_000);
    for n in 0..3 {
        let job =
            json!({"project": "succeed", "group": "g", "params": {"n": n.to_string(), "big": big}});
        let answer = daemon.post("/jobs", &job);
        let text = answer.text();
        assert_eq!(answer.status, 500, "{text}");
        assert!(text.contains("the disk is full"), "{text}");
        assert!(!text.contains("/builds"), "{text}");
        // What was not accepted has left nothing.
        if answer.json().get("job").is_none_or(|job| job.is_null()) {
            assert!(names(&daemon.builds().join("succeed/pending")).is_empty());
        }
        assert_eq!(daemon.get("/healthz").status, 200);
    }
    // Each record of the journal with the kernel's message says what failed.
    let log = daemon.log();
    let builds = daemon.builds().display().to_string();
    let full = log.lines().filter(|line| line.contains("No space left"));
    let full: Vec<&str> = full.collect();
    assert!(!full.is_empty(), "{log}");
    for line in full {
        assert!(line.contains(&builds), "{line}");
    }
    // What is there is served all the same.
    assert_eq!(
        daemon.succeed(json!({"project": "succeed"}))["ID"],
        kept["ID"]
    );
    // Also by a daemon that is started meanwhile, where there was one before. Elsewhere it can make
    // no name for itself, and says so to be looked at, not to be tried again.
    assert!(daemon.end().success());
    daemon.start();
    assert_eq!(
        daemon.succeed(json!({"project": "succeed"}))["ID"],
        kept["ID"]
    );
    let refused = Command::new(env!("CARGO_BIN_EXE_mistryd"))
        .arg("--config")
        .arg(unclaimed)
        .args(["--addr", "127.0.0.1:0"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(78), "{said}");
    assert!(said.contains("No space left on device"), "{said}");
    filler.free();
    assert!(names(&daemon.builds().join("succeed/pending")).is_empty());
    let job = json!({"project": "succeed", "group": "g", "params": {"n": "1", "big": big}});
    let built = daemon.succeed(job);
    assert_eq!(built["Incremental"], false);
}

fn a_build_that_fills_the_disk_fails_and_the_daemon_does_not(place: Place) {
    let script = "
        echo filling
        if [ -e params/_room ]; then echo enough > artifacts/result; exit 0; fi
        cat /dev/zero > artifacts/zeros || echo 'no room' >&2
        exit 5";
    let mut daemon = Setup::on(place).script("filling", script).start();
    let job = json!({"project": "filling", "params": {"a": "b"}});
    let answer = daemon.post("/jobs", &job);
    let body = answer.json();
    let id = match answer.status {
        // The build's own failure, if there is space left for the record.
        201 => {
            assert_eq!(body["ExitCode"], 5, "{body:#}");
            assert!(
                body["ContainerStderr"]
                    .as_str()
                    .unwrap()
                    .contains("no room")
            );
            body["ID"].as_str().unwrap().to_owned()
        }
        _ => {
            assert_eq!(answer.status, 500, "{body:#}");
            assert!(
                body["error"].as_str().unwrap().contains("the disk is full"),
                "{body:#}"
            );
            body["job"].as_str().unwrap().to_owned()
        }
    };
    assert_eq!(daemon.get("/healthz").status, 200);
    let info = daemon.wait("filling", &id);
    assert!(
        ["failed", "errored"].contains(&info["Outcome"].as_str().unwrap()),
        "{info:#}"
    );
    // The administrator frees space, with or without a running daemon.
    daemon.end();
    let zeros = daemon.ready("filling", &id).join("data/artifacts/zeros");
    if zeros.exists() {
        fs::remove_file(zeros).unwrap();
    }
    daemon.start();
    let mut job = job;
    job["params"]["_room"] = json!("1");
    let built = daemon.succeed(job);
    assert_eq!(built["ID"], json!(id));
    assert!(names(&daemon.builds().join("filling/pending")).is_empty());
}

#[test]
fn on_ext4() {
    a_full_build_path_is_reported_until_there_is_space_again(Place::FullExt4);
    a_build_that_fills_the_disk_fails_and_the_daemon_does_not(Place::FullExt4);
}

#[test]
fn on_btrfs() {
    a_full_build_path_is_reported_until_there_is_space_again(Place::FullBtrfs);
    a_build_that_fills_the_disk_fails_and_the_daemon_does_not(Place::FullBtrfs);
}
