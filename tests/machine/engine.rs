//! Docker that is stopped, restarted or killed in the middle of builds: each build ends with the right
//! outcome, is run again where its container was stopped, and its log and its result are those of one
//! execution. Nothing is left over.

use std::io::Read;
use std::time::Instant;

use serde_json::{Value, json};

use crate::support::{Machine, Project, send, test_timeout};

/// Says so again and again, until it may end. Each execution has a word of its own, which is in every
/// line and in the result.
const SCRIPT: &str = "
    word=$(cat /proc/sys/kernel/random/uuid)
    n=0
    if [ -e params/trap ]; then
        # Ends with status 0 on SIGTERM, with half of its result.
        trap 'echo \"$word $n\" > artifacts/word; exit 0' TERM
    fi
    while [ ! -e /gates/go ]; do
        echo \"line $n $word\"
        n=$((n + 1))
        sleep 0.02
    done
    echo \"$word $n\" > artifacts/word
    printf \"end $word\"
    exit $(cat params/code)";

/// How often each is done: what happens to a container depends on moments.
fn rounds() -> usize {
    match std::env::var_os("MISTRY_SOAK") {
        Some(_) => 5,
        None => 1,
    }
}

/// Builds that are under way: jobs and their ids.
struct UnderWay<'a> {
    machine: &'a Machine,
    project: Project<'a>,
    builds: Vec<(Value, String)>,
}

impl<'a> UnderWay<'a> {
    /// Of all kinds, and all of them print.
    fn begin(machine: &'a Machine, mut config: Value) -> UnderWay<'a> {
        config["job_concurrency"] = json!(3);
        machine.configure(config);
        machine.run("rm -rf /srv/gates && mkdir /srv/gates");
        let settings = json!({ "mounts": { "/srv/gates": "/gates" } });
        let project = machine.script("talks", SCRIPT, settings);
        let mut builds = Vec::new();
        for params in [
            json!({ "code": "0" }),
            json!({ "code": "7" }),
            json!({ "code": "0", "trap": "1" }),
        ] {
            let id = project.submit(params.clone());
            until(machine, &id, "line 20 ");
            builds.push((params, id));
        }
        UnderWay {
            machine,
            project,
            builds,
        }
    }

    /// Waits until all of them are made again and print.
    #[track_caller]
    fn are_made_again(&self) {
        for (_, id) in &self.builds {
            let job = format!("MISTRY_JOB={id}");
            let mut story = self.machine.follow(&[&job]);
            for event in ["running", "taken-over", "running"] {
                story.event(event);
            }
        }
    }

    /// Lets them go; each ends as it should, and nothing is left.
    #[track_caller]
    fn end_well(&self, attempt: u32) {
        self.machine.run("touch /srv/gates/go");
        for (params, id) in &self.builds {
            let info = self.project.wait(id);
            let code: i64 = params["code"].as_str().unwrap().parse().unwrap();
            let outcome = if code == 0 { "succeeded" } else { "failed" };
            assert_eq!(info["Outcome"], outcome, "{info:#}");
            assert_eq!(info["ExitCode"], code, "{info:#}");
            assert_eq!(info["Attempt"], attempt, "{info:#}");
            let ready = self.project.ready(id);
            let word = self.machine.read(&format!("{ready}/data/artifacts/word"));
            let (word, count) = word.trim().split_once(' ').unwrap();
            let log = self.machine.read(&format!("{ready}/out.log"));
            let first = format!("line 0 {word}\n");
            let at = log.find(&first).unwrap_or_else(|| panic!("{log}"));
            let lines = 0..count.parse::<usize>().unwrap();
            let mut printed: String = lines.map(|n| format!("line {n} {word}\n")).collect();
            printed.push_str(&format!("end {word}"));
            assert_eq!(&log[at..], printed);
            let interrupted = log[..at].matches("\nmistry: the build was interrupted (");
            assert_eq!(interrupted.count(), attempt as usize - 1, "{log}");
        }
        self.nothing_is_left();
    }

    #[track_caller]
    fn nothing_is_left(&self) {
        // A stop waits until the last container is cleared away.
        self.machine
            .run("systemctl stop mistryd.socket mistryd.service");
        let left = self
            .machine
            .run("docker ps -a --filter label=mistry.instance");
        assert_eq!(left.lines().count(), 1, "{left}");
        assert_eq!(self.machine.run("ls /srv/builds/talks/pending"), "");
        self.machine.run("systemctl start mistryd.socket");
    }
}

/// Waits until a build has printed something.
#[track_caller]
fn until(machine: &Machine, id: &str, needle: &str) {
    let mut connection = machine.connect_unix().unwrap();
    send(&mut *connection, "GET", &format!("/log/talks/{id}"), "").unwrap();
    let mut read = Vec::new();
    let mut piece = [0; 4096];
    let began = Instant::now();
    while !String::from_utf8_lossy(&read).contains(needle) {
        let length = connection.read(&mut piece).unwrap();
        let text = String::from_utf8_lossy(&read);
        // One that does not begin is kept alive for ever.
        let is_late = length == 0 || began.elapsed() > test_timeout();
        assert!(!is_late, "'{needle}' did not come: {text}");
        read.extend_from_slice(&piece[..length]);
    }
}

/// While Docker is away, what is new is refused.
#[track_caller]
fn is_refused(machine: &Machine) {
    let job = json!({ "project": "talks", "params": { "new": "1", "code": "0" } });
    let answer = machine.post("/jobs?async", &job);
    assert_eq!(answer.status, 503, "{}", answer.body);
    assert!(answer.body.contains("Docker Engine"), "{}", answer.body);
}

#[test]
fn builds_are_run_again_when_docker_was_stopped_and_started() {
    for _ in 0..rounds() {
        let machine = Machine::installed();
        let builds = UnderWay::begin(&machine, json!({}));
        machine.run("systemctl stop docker.socket docker.service");
        is_refused(&machine);
        machine.run("systemctl start docker.socket docker.service");
        builds.are_made_again();
        builds.end_well(2);
    }
}

#[test]
fn builds_are_run_again_when_docker_was_restarted() {
    for _ in 0..rounds() {
        let machine = Machine::installed();
        let builds = UnderWay::begin(&machine, json!({}));
        machine.run("systemctl restart docker.service");
        builds.are_made_again();
        builds.end_well(2);
    }
}

#[test]
fn builds_are_run_again_when_docker_was_killed() {
    for _ in 0..rounds() {
        let machine = Machine::installed();
        let builds = UnderWay::begin(&machine, json!({}));
        machine.run("systemctl kill --kill-who=main --signal=KILL docker.service");
        builds.are_made_again();
        builds.end_well(2);
    }
}

#[test]
fn builds_that_wait_too_long_for_docker_end_with_an_error() {
    for _ in 0..rounds() {
        let machine = Machine::installed();
        let builds = UnderWay::begin(&machine, json!({ "engine_wait": "2s" }));
        machine.run("systemctl stop docker.socket docker.service");
        for (_, id) in &builds.builds {
            let info = builds.project.wait(id);
            assert_eq!(info["Outcome"], "errored", "{info:#}");
            let said = info["Err"].as_str().unwrap();
            assert!(said.contains("Docker Engine went away"), "{said}");
            assert!(said.contains("2 s (engine_wait)"), "{said}");
        }
        is_refused(&machine);
        machine.run("systemctl start docker.socket docker.service; touch /srv/gates/go");
        let again = builds.project.build(json!({ "code": "0" }));
        assert_eq!(again["Outcome"], "succeeded", "{again:#}");
        builds.nothing_is_left();
    }
}
