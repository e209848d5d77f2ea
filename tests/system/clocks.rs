//! A daemon whose wall clock is set while it works, by libfaketime; the monotonic clock goes on, as it
//! does where the clock of a host is set.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::Place;
use crate::support::daemon::{Daemon, Setup};

const GATED: &str = "mkfifo gate; echo waiting; read -r _ < gate || :; echo over";

/// The library of Debian's package, in its form for programs with threads.
fn library() -> PathBuf {
    let places = fs::read_dir("/usr/lib").unwrap().map(|entry| {
        let place = entry.unwrap().path();
        place.join("faketime/libfaketimeMT.so.1")
    });
    let mut there = places.filter(|library| library.exists());
    there
        .next()
        .expect("these tests need libfaketime (apt-get install faketime)")
}

/// A daemon whose clock goes as the file says; it begins with the right time.
fn daemon(config: Value, clock: &Path) -> Daemon {
    set(clock, "+0");
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    Setup::on(Place::Tmpfs)
        .script("gated", GATED)
        .config(config)
        .env("LD_PRELOAD", text(&library()))
        .env("FAKETIME_TIMESTAMP_FILE", text(clock))
        .env("FAKETIME_NO_CACHE", "1")
        .env("DONT_FAKE_MONOTONIC", "1")
        .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
        .start()
}

/// Whole or not at all: the library reads it at any moment.
fn set(clock: &Path, offset: &str) {
    let new = clock.with_extension("new");
    fs::write(&new, offset).unwrap();
    fs::rename(&new, clock).unwrap();
}

fn duration(info: &Value) -> Duration {
    let nanoseconds = info["Duration"].as_u64();
    Duration::from_nanos(nanoseconds.expect("a duration that is not negative"))
}

const MINUTE: Duration = Duration::from_secs(60);

#[test]
fn a_clock_that_is_set_forward_ends_no_build_and_removes_none() {
    let dir = tempfile::tempdir().unwrap();
    let clock = dir.path().join("clock");
    let limits = json!({"job_timeout": "1h", "silence_timeout": "1h"});
    let daemon = daemon(limits, &clock);
    let job = |n: u32| json!({"project": "gated", "params": {"n": n.to_string()}});
    for n in [1, 2] {
        let id = daemon.submit(job(n));
        daemon.until("gated", &id, "waiting");
        if n == 2 {
            set(&clock, "+10h");
        }
        daemon.release("gated", &id);
        let info = daemon.wait("gated", &id);
        assert_eq!(info["Outcome"], "succeeded", "{info:#}");
        assert!(duration(&info) < MINUTE, "{info:#}");
        assert!(info["Phases"]["Run"].as_u64().unwrap() < 60_000, "{info:#}");
    }
    // The first is not the latest, and looks ten hours old.
    let collected = daemon.mistry(&["gc", "--older-than", "1h"]);
    let said = String::from_utf8_lossy(&collected.stdout).into_owned();
    assert!(
        collected.status.success() && said.contains("Removed 0 builds"),
        "{said}"
    );
    let warned = String::from_utf8_lossy(&collected.stderr).into_owned();
    assert!(
        warned.contains("clock of the server was set forward"),
        "{warned}"
    );
    let listed = daemon.get("/index/?project=gated").json();
    assert_eq!(listed.as_array().unwrap().len(), 2);
}

#[test]
fn a_clock_that_is_set_back_keeps_no_build_from_its_deadline() {
    let dir = tempfile::tempdir().unwrap();
    let clock = dir.path().join("clock");
    for limit in ["job_timeout", "silence_timeout"] {
        let daemon = daemon(json!({limit: "3s"}), &clock);
        // The time that an image takes is limited, too.
        let made = daemon.post("/project/gated/rebuild", &json!({}));
        assert_eq!(made.status, 200, "{}", made.text());
        let id = daemon.submit(json!({"project": "gated"}));
        daemon.until("gated", &id, "waiting");
        set(&clock, "-10h");
        let info = daemon.wait("gated", &id);
        assert_eq!(info["Outcome"], "timed-out", "{info:#}");
        assert!(duration(&info) < MINUTE, "{info:#}");
    }
}
