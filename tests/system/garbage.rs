//! Garbage on real filesystems: the size of builds is measured correctly where they share blocks, and
//! space on a disk that is really full is reclaimed, so that builds go on.

use std::fs::{self, File};
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use serde_json::{Value, json};

use crate::full_disk::Filler;
use crate::support::daemon::{Daemon, Setup};
use crate::support::http::TEST_TIMEOUT;
use crate::support::{Place, names};

const MIB: u64 = 1 << 20;

/// The daemon's bookkeeping of a durable build, which is written after its answer.
fn settled(daemon: &Daemon, project: &str, id: &str) -> Value {
    let record = daemon.ready(project, id).join("build_info.json");
    let began = Instant::now();
    loop {
        let found: Value = serde_json::from_slice(&fs::read(&record).unwrap()).unwrap();
        let keep = &found["Bookkeeping"];
        if keep["Durable"] == true {
            return keep.clone();
        }
        assert!(began.elapsed() < TEST_TIMEOUT, "it is never settled");
        std::thread::yield_now();
    }
}

/// It was used so many days ago.
fn age(build: &Path, days: u64) {
    let then = SystemTime::now() - Duration::from_secs(days * 24 * 3600);
    File::open(build).unwrap().set_modified(then).unwrap();
}

fn about(value: &Value, mebibytes: u64) -> bool {
    let bytes = value.as_u64().unwrap();
    (mebibytes * MIB..mebibytes * MIB + MIB / 2).contains(&bytes)
}

fn gc(daemon: &Daemon, rules: &Value) -> Value {
    let answer = daemon.post("/gc", rules);
    assert_eq!(answer.status, 200, "{}\n{}", answer.text(), daemon.log());
    answer.json()
}

fn ids(value: &Value) -> Vec<&str> {
    let removed = value["Removed"].as_array().unwrap();
    removed.iter().map(|r| r["ID"].as_str().unwrap()).collect()
}

/// The first build of the group leaves 10 MiB, each that follows 1 MiB more and many small files.
const GROWING: &str = "
    n=$(cat params/n)
    if [ ! -e cache/base ]; then head -c 10485760 /dev/urandom > cache/base; fi
    if [ $n -gt 0 ]; then head -c 1048576 /dev/urandom > cache/more-$n; fi
    i=0; while [ $i -lt 20 ]; do echo small > cache/$n-$i; i=$((i+1)); done";

fn clones_are_measured_by_what_they_do_not_share(place: Place, is_shared: bool) {
    let daemon = Setup::on(place).script("growing", GROWING).start();
    let mut builds = Vec::new();
    for n in 0..3_u64 {
        let params = json!({"n": n.to_string()});
        let info = daemon.succeed(json!({"project": "growing", "group": "g", "params": params}));
        let id = info["ID"].as_str().unwrap().to_owned();
        let keep = settled(&daemon, "growing", &id);
        let (bytes, own) = (10 + n, if is_shared && n > 0 { 1 } else { 10 + n });
        assert!(about(&keep["Bytes"], bytes), "{place:?} {n}: {keep}");
        assert!(about(&keep["Own"], own), "{place:?} {n}: {keep}");
        builds.push(id);
    }
    for (n, id) in builds.iter().enumerate() {
        age(&daemon.ready("growing", id), 30 - n as u64);
    }
    // Without the first, hardly anything is free where the others share it.
    let plan = gc(
        &daemon,
        &json!({"max_age": "1d", "keep_last": 2, "dry_run": true}),
    );
    assert_eq!(ids(&plan), [builds[0].as_str()]);
    let freed = plan["Bytes"].as_u64().unwrap();
    assert_eq!(freed < MIB, is_shared, "{place:?}: {plan}");
    // All together take less than the sum, so they fit.
    let all = gc(&daemon, &json!({"max_bytes": 20 * MIB, "dry_run": true}));
    assert_eq!(ids(&all).is_empty(), is_shared, "{place:?}: {all}");
    let done = gc(&daemon, &json!({"max_age": "1d", "max_bytes": 20 * MIB}));
    assert_eq!(ids(&done), [builds[0].as_str(), builds[1].as_str()]);
    assert_eq!(
        names(&daemon.builds().join("growing/ready")),
        [builds[2].clone()]
    );
    assert!(names(&daemon.builds().join(".mistry/trash")).is_empty());
    // The next one still begins where the last one ended.
    let next = daemon.succeed(json!({"project": "growing", "group": "g", "params": {"n": "9"}}));
    assert_eq!(next["Incremental"], true);
}

#[test]
fn snapshots_share_and_are_measured() {
    clones_are_measured_by_what_they_do_not_share(Place::Btrfs, true);
}

#[test]
fn reflinks_share_and_are_measured() {
    clones_are_measured_by_what_they_do_not_share(Place::BtrfsAsPlain, true);
}

#[test]
fn copies_share_nothing() {
    clones_are_measured_by_what_they_do_not_share(Place::Ext4, false);
}

/// Fills the disk with builds until one of them does not fit; the ids of those that did.
fn fill(daemon: &Daemon, group: impl Fn(u64) -> String) -> Vec<String> {
    let mut builds = Vec::new();
    for n in 0..1_000_u64 {
        let job = json!({"project": "filling", "group": group(n), "params": {"n": n.to_string()}});
        let answer = daemon.post("/jobs", &job);
        let result = answer.json();
        if answer.status == 201 && result["Outcome"] == "succeeded" {
            let id = result["ID"].as_str().unwrap().to_owned();
            // On a disk that is nearly full, not even that may be possible.
            let then = SystemTime::now() - Duration::from_secs(24 * 3600) + Duration::from_secs(n);
            let place = File::open(daemon.ready("filling", &id)).unwrap();
            settle(daemon, &id);
            if place.set_modified(then).is_err() {
                return builds;
            }
            builds.push(id);
            continue;
        }
        assert!(
            answer.text().contains("the disk is full") || result["ExitCode"] == 1,
            "{}",
            answer.text()
        );
        return builds;
    }
    panic!("it never is full");
}

/// Waits until a build is durable or cannot become so for lack of space.
fn settle(daemon: &Daemon, id: &str) {
    let record = daemon.ready("filling", id).join("build_info.json");
    let began = Instant::now();
    loop {
        let found: Value = serde_json::from_slice(&fs::read(&record).unwrap()).unwrap();
        let log = daemon.log();
        let is_given_up = |line: &str| line.contains(id) && line.contains("not on stable storage");
        if found["Bookkeeping"]["Durable"] == true || log.lines().any(is_given_up) {
            return;
        }
        assert!(began.elapsed() < TEST_TIMEOUT, "it is never settled");
        std::thread::yield_now();
    }
}

/// Each build has data of its own, whatever it began as.
const FILLING: &str = "rm -f artifacts/*; head -c 5000000 /dev/urandom > artifacts/$(cat params/n)";
/// Bytes of it.
const PIECE: u64 = 5_000_000;

fn space_on_a_full_disk_is_reclaimed(place: Place) {
    let mut daemon = Setup::on(place).script("filling", FILLING).start();
    for is_restarted in [false, true] {
        // Where clones cost nothing, most builds are some.
        let groups = if place.has_subvolumes() { 2 } else { 0 };
        let builds = fill(&daemon, |n| match groups {
            0 => String::new(),
            groups => format!("g{}", n % groups),
        });
        assert!(builds.len() > 4, "{builds:?}");
        // To the last byte.
        let filler = Filler::fill(daemon.home());
        if is_restarted {
            daemon.kill();
            daemon.start();
        }
        let done = gc(&daemon, &json!({"max_age": "1h"}));
        let gone = ids(&done);
        let rest = {
            let mut rest = done.clone();
            rest["Removed"] = json!(gone.len());
            rest
        };
        assert!(
            gone.len() + 3 >= builds.len(),
            "{} of {}: {rest}\n{}",
            gone.len(),
            builds.len(),
            daemon.log()
        );
        let left = names(&daemon.builds().join("filling/ready"));
        for id in gone {
            assert!(!left.contains(&id.to_owned()), "{id}");
        }
        assert!(done["Free"].as_u64().unwrap() > 2 * PIECE, "{done:#}");
        assert_eq!(daemon.get("/healthz").status, 200);
        // With all of the rest of the disk taken, there is space for the next ones.
        let job = json!({"project": "filling", "params": {"n": format!("after-{is_restarted}")}});
        daemon.succeed(job);
        filler.free();
    }
}

#[test]
fn space_on_a_full_ext4_is_reclaimed() {
    space_on_a_full_disk_is_reclaimed(Place::FullExt4);
}

#[test]
fn space_on_a_full_btrfs_is_reclaimed() {
    space_on_a_full_disk_is_reclaimed(Place::FullBtrfs);
}

#[test]
fn a_build_frees_the_space_that_it_needs() {
    let daemon = Setup::on(Place::FullBtrfs)
        .script("filling", FILLING)
        .config(json!({"gc": {"min_free": "40M"}}))
        .start();
    // Many more than fit: each that finds too little space has the oldest ones removed.
    let size = rustix::fs::statvfs(daemon.home()).unwrap();
    let most = size.f_blocks * size.f_frsize / PIECE + 20;
    for n in 0..most {
        let info = daemon.succeed(json!({"project": "filling", "params": {"n": n.to_string()}}));
        let id = info["ID"].as_str().unwrap();
        settle(&daemon, id);
        let then = SystemTime::now() - Duration::from_secs(24 * 3600) + Duration::from_secs(n);
        File::open(daemon.ready("filling", id))
            .unwrap()
            .set_modified(then)
            .unwrap();
    }
    let kept = names(&daemon.builds().join("filling/ready")).len() as u64;
    assert!((1..most).contains(&kept), "{kept} of {most}");
    assert!(
        daemon.log().contains("garbage collected"),
        "{}",
        daemon.log()
    );
}

/// Builds that were removed from the index do not come back, and the others are still there.
#[test]
fn a_collection_that_is_killed_is_completed_by_the_next_process() {
    for point in ["retired", "emptied"] {
        let mut daemon = Setup::on(Place::Btrfs).script("growing", GROWING).start();
        let mut builds = Vec::new();
        for n in 0..3 {
            let params = json!({"n": n.to_string()});
            let info = daemon.succeed(json!({"project": "growing", "params": params}));
            builds.push(info["ID"].as_str().unwrap().to_owned());
        }
        daemon.end();
        for id in &builds[..2] {
            age(&daemon.ready("growing", id), 30);
        }
        daemon.start_at("127.0.0.1:0", &format!("{point}=kill"));
        let arguments = ["gc", "--older-than", "1d"];
        let output = daemon.mistry(&arguments);
        assert_eq!(output.status.code(), Some(7), "{point}: it broke off");
        daemon.kill();
        daemon.start();
        let output = daemon.mistry(&arguments);
        assert!(output.status.success(), "{point}: {output:?}");
        daemon.end();
        assert_eq!(
            names(&daemon.builds().join("growing/ready")),
            [builds[2].clone()]
        );
        assert!(
            names(&daemon.builds().join(".mistry/trash")).is_empty(),
            "{point}"
        );
        daemon.start();
        let listed = daemon.get("/index/").json();
        assert_eq!(listed.as_array().unwrap().len(), 1, "{point}: {listed}");
    }
}
