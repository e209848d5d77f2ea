//! Fault points: named places where a test makes the daemon fail.
//!
//! They exist in debug builds alone; in a release build [`point`] does nothing, and the variable is not read.
//! `MISTRY_FAULTS` is a list, `POINT=FAULT[,POINT=FAULT]…`, of the names in [`POINTS`].
//!
//! The faults: `wedge` (the thread blocks forever); `kill` (the process is killed by SIGKILL); `panic` (the
//! task or thread panics); with `@N`, as in `kill@2`, the Nth time that the point is reached.

/// Every point, in the order of a build's steps, and what has just happened there. A test compares the names
/// with the sources.
pub const POINTS: [(&str, &str); 39] = [
    ("accept", "a connection was accepted, and is not yet served"),
    (
        "scheduler",
        "a job is being admitted, the scheduler's lock is held",
    ),
    (
        "accept-directory",
        "the directory of a job is there, its record is not",
    ),
    (
        "accept-record",
        "its record is on stable storage, its name may not be",
    ),
    (
        "accepted",
        "the job is on stable storage, no client has its answer",
    ),
    ("slot", "it has its slot"),
    (
        "data-made",
        "its data is made or cloned, params are not written",
    ),
    ("prepared", "its params are written"),
    ("image", "its image is there"),
    (
        "container-made",
        "its container is made, the record does not know it",
    ),
    (
        "container-known",
        "the record knows its container, which is not started",
    ),
    ("container-started", "its container is started"),
    ("log", "a piece of output is in the log"),
    (
        "container-ended",
        "its container has ended, nothing else has happened",
    ),
    ("stop-decided", "it is written down that it is stopped"),
    (
        "params-removed",
        "its opaque params are removed, its record says nothing of the end",
    ),
    ("finish-record", "its record is complete, in `pending`"),
    (
        "link-made",
        "the link that will lead to it is made beside the old one",
    ),
    ("in-place", "it is in `ready`, no link leads to it"),
    (
        "cold-marked",
        "it is marked that none from before the cold build is a base, no link leads to it",
    ),
    ("linked", "the link leads to it"),
    (
        "attempt-counted",
        "the succeeded build beside a failed rebuild counts it, it is in `pending`",
    ),
    (
        "attempt-made",
        "the attempt that keeps a record is complete, not in its place",
    ),
    (
        "attempt-kept",
        "the attempt is in its place, the build that it was is in `pending`",
    ),
    ("replaced", "what it replaced is out of sight"),
    ("finished", "it is over, no client has its answer"),
    (
        "answered",
        "the clients that waited have their answer, its container is there",
    ),
    ("cleared", "its container is removed"),
    (
        "synced",
        "its data is on stable storage, the record does not say so",
    ),
    (
        "settled",
        "the record says so; what it replaced is in the trash",
    ),
    (
        "emptied",
        "a tree of the trash is removed, its directory is not",
    ),
    (
        "retired",
        "a build that is collected is out of sight, the index still has it",
    ),
    (
        "base-unlinked",
        "the base that was removed is out of sight, and so is the link to it",
    ),
    (
        "group-unlinked",
        "the link of a group that is reset is put aside, the time of the reset is not recorded",
    ),
    (
        "reset-marked",
        "the time of the reset is recorded, the link is still aside",
    ),
    (
        "group-reset",
        "the group is reset, no client has its answer",
    ),
    (
        "left-over",
        "what an earlier process left is known, nothing is queued",
    ),
    (
        "taken-over",
        "a job that an earlier process left is taken over",
    ),
    (
        "data-cleared",
        "half-made data is removed, the record does not say so",
    ),
];

/// Fails here if a test requests it.
#[cfg(debug_assertions)]
pub fn point(name: &str) {
    use std::sync::LazyLock;
    use std::sync::atomic::{AtomicU32, Ordering};

    struct Fault {
        point: String,
        fault: String,
        left: AtomicU32,
    }
    static WANTED: LazyLock<Vec<Fault>> = LazyLock::new(|| {
        let wanted = std::env::var("MISTRY_FAULTS").unwrap_or_default();
        let faults = wanted.split(',').filter_map(|fault| fault.split_once('='));
        let faults = faults.map(|(point, fault)| {
            let (fault, time) = fault.split_once('@').unwrap_or((fault, "1"));
            Fault {
                point: point.to_owned(),
                fault: fault.to_owned(),
                left: AtomicU32::new(time.parse().unwrap_or(1)),
            }
        });
        faults.collect()
    });
    for wanted in WANTED.iter().filter(|wanted| wanted.point == name) {
        if wanted.left.fetch_sub(1, Ordering::Relaxed) != 1 {
            continue;
        }
        match wanted.fault.as_str() {
            "wedge" => loop {
                std::thread::park();
            },
            // Nothing runs after it: a signal to the own process is delivered before the call returns.
            "kill" => drop(rustix::process::kill_process(
                rustix::process::getpid(),
                rustix::process::Signal::KILL,
            )),
            "panic" => std::panic::resume_unwind(Box::new("a fault point")),
            _ => {}
        }
    }
}

/// Nothing.
#[cfg(not(debug_assertions))]
#[inline(always)]
pub fn point(_name: &str) {}
