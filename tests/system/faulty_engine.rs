//! A faulty Docker Engine: whatever it refuses, delays, cuts or forgets, a build ends with the right
//! outcome and all that its container wrote, or with a sentence that says what the Engine did. Never
//! with a wrong success, and nothing is left behind.
//!
//! Here the faults come one by one, each where it hurts; [`crate::faulty_engine_storm`] lets many of
//! them loose on many builds.

use std::fs;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::daemon::{Daemon, Setup};
use crate::support::engine::{Engine, socket};
use crate::support::proxy::{Fault, Proxy};
use crate::support::{Place, names};

/// Lines that a held build prints before it waits, and again after.
const LINES: usize = 400;

/// A daemon behind a proxy, with a project whose build prints, waits to be released, prints again.
struct Harness {
    // Dropped first: it speaks to the Engine through the proxy.
    daemon: Daemon,
    proxy: Proxy,
    engine: Engine,
}

impl Harness {
    fn new() -> Harness {
        Harness::with(json!({}))
    }

    fn with(config: Value) -> Harness {
        let script = format!(
            "lines() {{
                n=0
                while [ $n -lt {LINES} ]; do
                    echo \"out $1 $n ........................................\"
                    [ $((n % 5)) != 0 ] || echo \"err $1 $n\" >&2
                    n=$((n + 1))
                done
            }}
            mkfifo gate; lines before; echo waiting
            read -r code < gate || :
            rm gate; lines after; echo made > artifacts/made; printf end"
        );
        let proxy = Proxy::before(&socket());
        let setup = Setup::on(Place::Host).config(config);
        let daemon = setup
            .docker_host(proxy.host())
            .script("held", &script)
            .start();
        Harness {
            daemon,
            proxy,
            engine: Engine::new(),
        }
    }

    /// A build that waits to be released.
    fn held(&self) -> String {
        let id = self.daemon.submit(json!({"project": "held"}));
        self.daemon.until("held", &id, "waiting");
        id
    }

    fn containers(&self) -> usize {
        self.engine.containers(&self.daemon.label()).len()
    }

    /// Releases it; it ends well, at its first attempt, and its log holds what it printed.
    #[track_caller]
    fn ends_well(&self, id: &str) {
        self.daemon.release("held", id);
        let info = self.daemon.wait("held", id);
        assert_eq!(info["Outcome"], "succeeded", "{info:#}");
        assert_eq!(info["Attempt"], 1, "{info:#}");
        let log = fs::read(self.daemon.ready("held", id).join("out.log")).unwrap();
        let log = String::from_utf8(log).unwrap();
        let printed = &log[log
            .find("out before 0")
            .unwrap()
            .min(log.find("err before 0").unwrap())..];
        let of = |stream: &str| -> Vec<&str> {
            printed
                .lines()
                .filter(|line| line.starts_with(stream))
                .collect()
        };
        let wanted = |line: &dyn Fn(&str, usize) -> Option<String>| -> Vec<String> {
            let both = ["before", "after"].into_iter();
            both.flat_map(|when| (0..LINES).filter_map(move |n| line(when, n)))
                .collect()
        };
        let out = |when: &str, n| Some(format!("out {when} {n} {}", ".".repeat(40)));
        let err = |when: &str, n| (n % 5 == 0).then(|| format!("err {when} {n}"));
        assert_eq!(of("out"), wanted(&out));
        assert_eq!(of("err"), wanted(&err));
        assert_eq!(printed.matches("waiting\n").count(), 1);
        assert_eq!(printed.matches("end").count(), 1);
    }

    /// Nothing is left when the daemon has ended.
    #[track_caller]
    fn leaves_nothing(mut self) {
        self.daemon.end();
        assert_eq!(self.containers(), 0);
        assert!(names(&self.daemon.builds().join("held/pending")).is_empty());
        assert!(names(&self.daemon.builds().join(".mistry/trash")).is_empty());
    }
}

/// The sentence of a build that could not be run to its end.
#[track_caller]
fn sentence(info: &Value) -> &str {
    assert_eq!(info["Outcome"], "errored", "{info:#}");
    info["Err"].as_str().unwrap()
}

#[test]
fn a_log_that_is_cut_anywhere_is_taken_up_again_and_no_byte_is_missing_or_doubled() {
    let harness = Harness::new();
    // In the head of the answer, in the middle of a frame, in a later one.
    for fault in [Fault::Cut(30), Fault::MidFrame, Fault::Cut(9_999)] {
        harness.proxy.next("logs", fault);
        let asked = harness.proxy.asked("logs");
        let id = harness
            .daemon
            .submit(json!({"project": "held", "rebuild": true}));
        harness.proxy.wait_for("logs", asked + 2);
        harness.daemon.until("held", &id, "waiting");
        harness.ends_well(&id);
    }
    assert_eq!(harness.proxy.faults(), 3, "{}", harness.proxy.summary());
    harness.leaves_nothing();
}

/// The Engine has been seen to end the follower of a log before its container.
#[test]
fn a_log_that_ends_in_good_order_before_its_container_is_read_to_its_end() {
    let harness = Harness::new();
    harness.proxy.next("logs", Fault::End(5_000));
    let id = harness.held();
    harness.ends_well(&id);
    assert_eq!(harness.proxy.faults(), 1, "{}", harness.proxy.summary());
    harness.leaves_nothing();
}

/// Engines have been seen to leave a follower waiting for ever.
#[test]
fn a_log_that_goes_on_no_more_after_its_container_has_ended_is_read_to_its_end() {
    let harness = Harness::new();
    harness.proxy.next("logs", Fault::Stall(5_000));
    let id = harness.daemon.submit(json!({"project": "held"}));
    // Its log does not show that it waits.
    let gate = harness.daemon.pending("held", &id).join("data/gate");
    while !gate.exists() {
        std::thread::yield_now();
    }
    harness.ends_well(&id);
    assert_eq!(harness.proxy.faults(), 1, "{}", harness.proxy.summary());
    harness.leaves_nothing();
}

/// Less of it than has been seen before cannot be all of it.
#[test]
fn a_log_that_is_shorter_than_before_is_read_again() {
    let harness = Harness::new();
    harness.proxy.next("kept logs", Fault::End(5_000));
    let id = harness.held();
    harness.ends_well(&id);
    assert_eq!(harness.proxy.asked("kept logs"), 2);
    assert_eq!(harness.proxy.faults(), 1, "{}", harness.proxy.summary());
    harness.leaves_nothing();
}

#[test]
fn a_create_whose_answer_was_lost_gives_one_container() {
    for fault in [Fault::Lose, Fault::Twice] {
        let harness = Harness::new();
        harness.proxy.next("create", fault);
        let id = harness.held();
        assert_eq!(harness.containers(), 1);
        harness.ends_well(&id);
        harness.leaves_nothing();
    }
}

#[test]
fn a_create_that_failed_after_it_was_done_leaves_no_container() {
    let harness = Harness::new();
    harness.proxy.next("create", Fault::FailAfter);
    let id = harness.daemon.submit(json!({"project": "held"}));
    let info = harness.daemon.wait("held", &id);
    assert!(sentence(&info).contains("Docker Engine failed"), "{info:#}");
    harness.leaves_nothing();
}

#[test]
fn a_start_whose_answer_was_lost_is_not_started_twice() {
    for fault in [Fault::Lose, Fault::Twice] {
        let harness = Harness::new();
        harness.proxy.next("start", fault);
        let id = harness.held();
        assert_eq!(harness.proxy.asked("start"), 1);
        assert_eq!(harness.containers(), 1);
        harness.ends_well(&id);
        harness.leaves_nothing();
    }
}

#[test]
fn a_start_that_the_engine_never_heard_of_is_asked_for_again() {
    let harness = Harness::new();
    harness.proxy.next("start", Fault::Refuse);
    let id = harness.held();
    assert_eq!(harness.proxy.asked("start"), 2);
    harness.ends_well(&id);
    harness.leaves_nothing();
}

#[test]
fn an_image_build_whose_answer_was_cut_or_lost_is_built_again() {
    for fault in [Fault::Cut(400), Fault::MidFrame, Fault::Lose, Fault::Refuse] {
        let harness = Harness::new();
        harness.proxy.next("build", fault);
        let id = harness.held();
        harness.ends_well(&id);
        assert_eq!(harness.proxy.faults(), 1, "{}", harness.proxy.summary());
        harness.leaves_nothing();
    }
}

#[test]
fn an_image_build_that_ends_without_an_image_is_an_error() {
    let harness = Harness::new();
    harness.proxy.next("build", Fault::End(50));
    let id = harness.daemon.submit(json!({"project": "held"}));
    let info = harness.daemon.wait("held", &id);
    assert!(sentence(&info).contains("without an image"), "{info:#}");
    harness.leaves_nothing();
}

#[test]
fn a_wait_that_ends_without_an_answer_is_asked_again() {
    // The Engine sends the head at once, and an empty end when it goes.
    for fault in [Fault::Lose, Fault::Refuse, Fault::Cut(20)] {
        let harness = Harness::new();
        harness.proxy.next("wait", fault);
        let id = harness.held();
        harness.proxy.wait_for("wait", 2);
        harness.ends_well(&id);
        harness.leaves_nothing();
    }
}

#[test]
fn an_engine_that_answers_nonsense_is_a_clear_error() {
    let harness = Harness::new();
    for endpoint in ["images", "build", "create", "wait", "logs"] {
        harness.proxy.next(endpoint, Fault::Nonsense);
        let id = harness
            .daemon
            .submit(json!({"project": "held", "params": {"to": endpoint}}));
        let info = harness.daemon.wait("held", &id);
        let said = sentence(&info);
        assert!(
            said.contains("Docker Engine failed") || said.contains("the Engine"),
            "{said}"
        );
        let log = fs::read_to_string(harness.daemon.ready("held", &id).join("out.log")).unwrap();
        assert!(log.ends_with(&format!("mistry: {said}\n")), "{log}");
    }
    harness.leaves_nothing();
}

#[test]
fn a_container_that_could_not_be_removed_is_removed_by_the_next_build() {
    for fault in [Fault::Refuse, Fault::Fail] {
        let harness = Harness::new();
        harness.proxy.next("delete", fault);
        let id = harness.held();
        harness.ends_well(&id);
        harness.proxy.wait_for("delete", 1);
        let job = json!({"project": "held", "params": {"second": "1"}});
        let second = harness.daemon.submit(job);
        harness.daemon.until("held", &second, "waiting");
        assert_eq!(harness.containers(), 1);
        harness.ends_well(&second);
        harness.leaves_nothing();
    }
}

#[test]
fn an_engine_that_is_slow_to_answer_is_waited_for() {
    let harness = Harness::new();
    let slow = Duration::from_millis(2_500);
    for endpoint in ["images", "build", "create", "start", "logs", "wait"] {
        harness.proxy.next(endpoint, Fault::HoldAnswer(slow));
    }
    let id = harness.held();
    harness.ends_well(&id);
    assert_eq!(harness.proxy.faults(), 6, "{}", harness.proxy.summary());
    // But whether it is there must be said at once.
    harness.proxy.next("version", Fault::HoldAnswer(slow));
    let answer = harness
        .daemon
        .post("/jobs", &json!({"project": "held", "params": {"n": "2"}}));
    assert_eq!(answer.status, 503, "{}", answer.text());
    harness.leaves_nothing();
}

#[test]
fn while_the_engine_is_away_the_accepted_wait_and_the_new_are_refused() {
    let harness = Harness::new();
    let id = harness.held();
    harness.proxy.away();
    let new = json!({"project": "held", "params": {"new": "1"}});
    for _ in 0..2 {
        let answer = harness.daemon.post("/jobs?async", &new);
        assert_eq!(answer.status, 503, "{}", answer.text());
        assert!(answer.text().contains("Docker Engine"), "{}", answer.text());
    }
    harness.proxy.back();
    // Until it has been found running: one that has ended meanwhile could have been ended by the Engine.
    harness.proxy.wait_for("inspect", 1);
    harness.ends_well(&id);
    let id = harness.daemon.submit(new);
    harness.daemon.until("held", &id, "waiting");
    harness.ends_well(&id);
    harness.leaves_nothing();
}

#[test]
fn builds_that_wait_too_long_for_the_engine_end_with_an_error() {
    let harness = Harness::with(json!({"engine_wait": "1s"}));
    let id = harness.held();
    harness.proxy.away();
    let info = harness.daemon.wait("held", &id);
    let said = sentence(&info);
    assert!(
        said.contains("Docker Engine") && said.contains("1 s (engine_wait)"),
        "{said}"
    );
    // Its container ran on where it could not be reached.
    assert_eq!(harness.containers(), 1);
    harness.proxy.back();
    let id = harness
        .daemon
        .submit(json!({"project": "held", "params": {"n": "2"}}));
    harness.daemon.until("held", &id, "waiting");
    assert_eq!(harness.containers(), 1);
    harness.ends_well(&id);
    harness.leaves_nothing();
}
