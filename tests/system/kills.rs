//! A daemon that is killed while it builds, at every named step and at any moment: each accepted job is
//! built once, with the right outcome, its log is what its container printed, byte for byte, and all
//! waiting clients get their answer.
//!
//! A round is five jobs at once (cold, incremental, coalesced, failing, async), requested by the real
//! client, and one or more kills. What is then on disk, in the Engine, in the index and at the clients is
//! compared with what must be there.

use std::collections::BTreeMap;
use std::fs;
use std::net::TcpListener;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::Output;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::daemon::{Daemon, Setup};
use crate::support::dice::{Dice, seed};
use crate::support::engine::Engine;
use crate::support::http::TEST_TIMEOUT;
use crate::support::{Place, names};

/// Lines that a build prints, about a hundred a second.
const LINES: usize = 40;

/// Each execution has a word of its own, in its log, in its artifacts and in a place that the build
/// cannot lose: so it is seen how many there were, and whether two were spliced.
fn script() -> String {
    format!(
        "word=$(cat /proc/sys/kernel/random/uuid); echo $word > /runs/$(cat params/job)-$word
        [ ! -e params/_secret ] || [ \"$(cat params/_secret)\" = hidden ] || exit 9
        n=0; while [ $n -lt {LINES} ]; do
            echo \"line $n of $word\"; n=$((n + 1)); sleep 0.01
        done
        rm -rf artifacts/* artifacts/.made; echo $word > artifacts/word; echo $word > cache/word
        exit $(cat params/code)"
    )
}

/// What a container printed.
fn printed(word: &str) -> String {
    (0..LINES)
        .map(|n| format!("line {n} of {word}\n"))
        .collect()
}

/// A kind of job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Cold,
    Incremental,
    Coalesced,
    Failing,
    Async,
    /// The same job again, by a client that waits.
    Awaited,
}

const KINDS: [Kind; 5] = [
    Kind::Cold,
    Kind::Incremental,
    Kind::Coalesced,
    Kind::Failing,
    Kind::Async,
];

impl Kind {
    /// Which clients ask for it, and with what.
    fn arguments(self, round: usize) -> Vec<String> {
        let project = self.project();
        let mut words = vec!["build", "--project", project, "--verbose"];
        // Nothing ends those of a test that has failed.
        words.extend(["--timeout", "110s"]);
        match self {
            Kind::Incremental => words.extend(["--group", "g"]),
            Kind::Async => words.push("--no-wait"),
            Kind::Cold | Kind::Coalesced | Kind::Failing | Kind::Awaited => {}
        }
        let job = self.job(round);
        let target = format!("out-{job}");
        let mut words: Vec<String> = words.into_iter().map(str::to_owned).collect();
        words.extend(["--target".to_owned(), target, "--".to_owned()]);
        words.extend([format!("--job={job}"), format!("--code={}", self.code())]);
        words.push("--_secret=hidden".to_owned());
        words
    }

    fn project(self) -> &'static str {
        match self {
            Kind::Cold => "cold",
            _ => "warm",
        }
    }

    fn job(self, round: usize) -> String {
        match self {
            // Always the same: each replaces what the round before has left.
            Kind::Failing => "Failing".to_owned(),
            Kind::Awaited => Kind::Async.job(round),
            kind => format!("{kind:?}-{round}"),
        }
    }

    fn code(self) -> i32 {
        match self {
            Kind::Failing => 3,
            _ => 0,
        }
    }

    fn clients(self) -> usize {
        match self {
            Kind::Coalesced => 2,
            _ => 1,
        }
    }
}

/// An event of a round.
enum Event {
    /// The daemon was killed.
    Died,
    /// A client has ended.
    Ended(Kind, Output),
}

/// Totals of all rounds.
#[derive(Debug, Default)]
struct Sum {
    rounds: usize,
    kills: usize,
    jobs: usize,
    answers: usize,
    came_back: usize,
    /// Bytes of logs that were compared.
    bytes: usize,
}

/// A daemon that is started again at its address, its projects, and where containers leave word.
struct Sweep {
    daemon: Daemon,
    address: String,
    sum: Sum,
}

impl Sweep {
    fn new() -> Sweep {
        let setup = Setup::on(Place::Btrfs)
            .script("warm", &script())
            .script("cold", &script());
        fs::create_dir(setup.home().join("runs")).unwrap();
        let config = json!({"mounts": {"runs": "/runs"}, "job_concurrency": 3, "job_backlog": 20});
        let mut daemon = setup.config(config).start();
        daemon.succeed(json!({"project": "warm", "group": "g",
            "params": {"job": "first", "code": "0"}}));
        daemon.end();
        Sweep {
            daemon,
            address: free_address(),
            sum: Sum::default(),
        }
    }

    /// Five jobs; the daemon is started with `faults`, and killed by them or by `kill`, as often as it
    /// says. Returns how often it died.
    fn round(&mut self, faults: &[&str], mut kill: impl FnMut(usize) -> Option<Duration>) -> usize {
        let round = self.sum.rounds;
        let context = format!("round {round}, {faults:?}");
        // Another image for the cold one.
        let file = self.daemon.project("cold").join("round");
        fs::write(file, round.to_string()).unwrap();
        let (sender, events) = channel();
        let mut faults = faults.iter();
        let mut start = |daemon: &mut Daemon, address: &str, sender: &Sender<Event>| {
            daemon.start_at(address, faults.next().unwrap_or(&""));
            watch(daemon, sender.clone())
        };
        let mut watching = vec![start(&mut self.daemon, &self.address, &sender)];
        let ask = |daemon: &Daemon, kind: Kind| {
            let words = kind.arguments(round);
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            let mut client = daemon.client(&words);
            let sender = sender.clone();
            std::thread::spawn(move || {
                let ended = client.output().unwrap();
                // A test that does not receive any more has failed already.
                let _ = sender.send(Event::Ended(kind, ended));
            })
        };
        let mut clients = Vec::new();
        for kind in KINDS {
            for _ in 0..kind.clients() {
                clients.push(ask(&self.daemon, kind));
            }
        }
        let mut died = 0;
        let mut left = clients.len();
        let mut ids = BTreeMap::new();
        while left > 0 {
            let timeout = kill(died).unwrap_or(TEST_TIMEOUT);
            match next(&events, timeout) {
                Some(Event::Ended(kind, output)) => {
                    left -= 1;
                    self.answered(&context, kind, &output, &mut ids);
                    if kind == Kind::Async {
                        // What is asked for without waiting is waited for now.
                        clients.push(ask(&self.daemon, Kind::Awaited));
                        left += 1;
                    }
                }
                Some(Event::Died) => {
                    died += 1;
                    // It has ended by itself; this takes it from the list of processes.
                    self.daemon.kill();
                    watching.push(start(&mut self.daemon, &self.address, &sender));
                }
                None if timeout < TEST_TIMEOUT => self.daemon.signal_kill(),
                None => panic!("{context}: nothing happens:\n{}", self.daemon.log()),
            }
        }
        for client in clients {
            client.join().unwrap();
        }
        assert_eq!(ids.get(&Kind::Async), ids.get(&Kind::Awaited), "{context}");
        ids.remove(&Kind::Awaited);
        // The work after the answers is done by whichever process gets to it.
        while !self.daemon.end_somehow().success() {
            died += 1;
            watching.push(start(&mut self.daemon, &self.address, &sender));
        }
        // On a slow disk a daemon that is stopped may leave its trash to the next one.
        let trash = self.daemon.builds().join(".mistry/trash");
        let began = Instant::now();
        while !names(&trash).is_empty() && began.elapsed() < TEST_TIMEOUT {
            watching.push(start(&mut self.daemon, &self.address, &sender));
            assert!(self.daemon.end_somehow().success(), "{context}");
        }
        for watcher in watching {
            watcher.join().unwrap();
        }
        self.sum.kills += died;
        self.sum.rounds += 1;
        self.compare(&context, round, &ids);
        died
    }

    /// A client has its answer, and it is the right one.
    fn answered(
        &mut self,
        context: &str,
        kind: Kind,
        output: &Output,
        ids: &mut BTreeMap<Kind, String>,
    ) {
        let said = String::from_utf8_lossy(&output.stderr);
        let daemon = self.daemon.log();
        let status = i32::from(kind == Kind::Failing);
        assert_eq!(
            output.status.code(),
            Some(status),
            "{context}, {kind:?}: {said}\n{daemon}"
        );
        let lost = said
            .matches("The connection to the server was lost")
            .count();
        assert!(lost <= 1, "{context}, {kind:?}: {said}");
        self.sum.came_back += lost;
        self.sum.answers += 1;
        let answer = String::from_utf8_lossy(&output.stdout);
        let id = match kind {
            Kind::Async => answer.trim(),
            _ => answer
                .split_once("/job/")
                .and_then(|(_, rest)| rest.split('/').nth(1)?.get(..64))
                .unwrap_or_else(|| panic!("{context}, {kind:?}: {answer}")),
        };
        ids.insert(kind, id.to_owned());
    }

    /// What is there when all is over.
    fn compare(&mut self, context: &str, round: usize, ids: &BTreeMap<Kind, String>) {
        let daemon = &self.daemon;
        let builds = daemon.builds();
        let mut runs = names(&daemon.home().join("runs"));
        runs.retain(|name| !name.starts_with("first-"));
        for (kind, id) in ids {
            let project = kind.project();
            let context = format!("{context}, {kind:?}");
            let directory = daemon.ready(project, id);
            let record = record(&directory);
            let outcome = match kind {
                Kind::Failing => "failed",
                _ => "succeeded",
            };
            assert_eq!(record["Outcome"], outcome, "{context}: {record:#}");
            assert_eq!(record["ExitCode"], kind.code(), "{context}");
            assert_eq!(record["Attempt"].as_u64().map(|n| n > 0), Some(true));
            assert_eq!(record["Bookkeeping"]["Opaque"], json!({}), "{context}");
            assert!(!directory.join("data/params/_secret").exists(), "{context}");
            let job = kind.job(round);
            let mine: Vec<_> = runs
                .extract_if(.., |n| n.starts_with(&format!("{job}-")))
                .collect();
            // One execution; only what has failed is made anew for a client that could not know that
            // it was accepted, and asked again.
            let is_once = mine.len() == 1 || *kind == Kind::Failing && mine.len() > 1;
            assert!(is_once, "{context}: executed as {mine:?}\n{}", daemon.log());
            let log = fs::read_to_string(directory.join("out.log")).unwrap();
            let last = log.trim_end().rsplit(' ').next().unwrap();
            let run = mine.iter().find(|run| run.ends_with(last));
            let word = run.map_or("", |run| &run[job.len() + 1..]);
            assert!(log.ends_with(&printed(word)), "{context}, {word}: {log}");
            // What comes before is of the image.
            assert_eq!(log.matches("line ").count(), LINES, "{context}: {log}");
            self.sum.bytes += printed(word).len();
            self.sum.jobs += 1;
            let made = directory.join("data/artifacts/word");
            assert_eq!(fs::read_to_string(made).unwrap().trim(), word, "{context}");
            if let Kind::Cold | Kind::Incremental | Kind::Coalesced = kind {
                let fetched = daemon.home().join(format!("out-{job}/word"));
                assert_eq!(
                    fs::read_to_string(fetched).unwrap().trim(),
                    word,
                    "{context}"
                );
            }
        }
        assert!(runs.is_empty(), "{context}: more executions: {runs:?}");
        for project in ["cold", "warm"] {
            assert!(
                names(&builds.join(project).join("pending")).is_empty(),
                "{context}"
            );
            let latest = fs::read_link(builds.join(project).join("latest")).unwrap();
            let latest = record(&builds.join(project).join(latest));
            assert_eq!(latest["Outcome"], "succeeded", "{context}");
            assert!(!builds.join(project).join("failed").exists(), "{context}");
        }
        self.every_execution_is_kept(&ids[&Kind::Failing], context);
        let group = fs::read_link(builds.join("warm/groups/g")).unwrap();
        assert_eq!(
            group.file_name().unwrap().to_str(),
            Some(ids[&Kind::Incremental].as_str()),
            "{context}"
        );
        let base = record(&daemon.ready("warm", &ids[&Kind::Incremental]));
        assert_eq!(base["Incremental"], true, "{context}: {base:#}");
        assert!(names(&builds.join(".mistry/trash")).is_empty(), "{context}");
        let own = names(&builds.join(".mistry"));
        assert!(
            !own.iter().any(|name| name.starts_with("link-")),
            "{context}: {own:?}"
        );
        let left = Engine::new().containers(&daemon.mark());
        assert!(left.is_empty(), "{context}: {left:?}");
        fs::remove_dir_all(daemon.home().join("runs")).unwrap();
        fs::create_dir(daemon.home().join("runs")).unwrap();
        self.index_is_disk(context);
        for (kind, id) in ids {
            // On a slow disk a process that is stopped leaves this to the next one.
            let record = record(&self.daemon.ready(kind.project(), id));
            assert_eq!(
                record["Bookkeeping"]["Durable"], true,
                "{context}: {record:#}"
            );
        }
    }

    /// The job that fails in each round has all its last executions, each with its record and log.
    fn every_execution_is_kept(&self, id: &str, context: &str) {
        let last = record(&self.daemon.ready("warm", id));
        let last = last["Number"].as_u64().unwrap();
        let kept = self.daemon.builds().join(".mistry/attempts/warm").join(id);
        for number in last.saturating_sub(10).max(1)..last {
            let attempt = kept.join(number.to_string());
            let record = record(&attempt);
            assert_eq!(record["Number"], number, "{context}: {record:#}");
            assert!(attempt.join("out.log").is_file(), "{context}: {number}");
        }
    }

    /// The next process lists what is there, and nothing else.
    fn index_is_disk(&mut self, context: &str) {
        self.daemon.start_at(&self.address, "");
        let listed = self.daemon.get("/index/").json();
        let listed = listed.as_array().unwrap().iter();
        let mut listed: Vec<_> = listed
            .map(|item| item["id"].as_str().unwrap().to_owned())
            .collect();
        let mut there: Vec<_> = ["cold", "warm"]
            .iter()
            .flat_map(|project| names(&self.daemon.builds().join(project).join("ready")))
            .collect();
        listed.sort();
        there.sort();
        assert_eq!(listed, there, "{context}");
        self.daemon.end();
    }
}

impl Drop for Sweep {
    fn drop(&mut self) {
        eprintln!(
            "{:?}; lost, doubled or spliced: 0, or this test has failed",
            self.sum
        );
    }
}

fn record(directory: &Path) -> Value {
    serde_json::from_slice(&fs::read(directory.join("build_info.json")).unwrap()).unwrap()
}

/// An address at which a daemon can be started again and again. Not one of those that the kernel gives
/// to the clients that connect.
fn free_address() -> String {
    let mut dice = Dice::of(seed());
    loop {
        let address = format!("127.0.0.1:{}", 20_000 + dice.up_to(10_000));
        if TcpListener::bind(&address).is_ok() {
            return address;
        }
    }
}

fn next(events: &Receiver<Event>, timeout: Duration) -> Option<Event> {
    events.recv_timeout(timeout).ok()
}

/// Sends an event when this process has ended.
fn watch(daemon: &Daemon, sender: Sender<Event>) -> JoinHandle<()> {
    let process = daemon.watch();
    std::thread::spawn(move || {
        let mut ends = [rustix::event::PollFd::new(
            &process,
            rustix::event::PollFlags::IN,
        )];
        rustix::event::poll(&mut ends, None).unwrap();
        let _ = process.as_fd();
        let _ = sender.send(Event::Died);
    })
}

/// Steps that a build of these kinds does not take; they have tests of their own.
const ELSEWHERE: [&str; 9] = [
    "attempt-counted",
    "stop-decided",
    "data-cleared",
    "retired",
    "cold-marked",
    "base-unlinked",
    "group-unlinked",
    "reset-marked",
    "group-reset",
];
/// Steps that only a start over something left behind takes: behind a kill that leaves it.
const AT_START: [(&str, &str); 3] = [
    ("left-over", "container-started"),
    ("taken-over", "container-known"),
    ("data-cleared", "prepared"),
];

#[test]
fn jobs_outlive_a_daemon_that_is_killed_at_every_step_of_a_build() {
    let mut sweep = Sweep::new();
    let is_soak = std::env::var_os("MISTRY_SOAK").is_some();
    for (point, _) in mistry::faults::POINTS {
        if ELSEWHERE.contains(&point) || AT_START.iter().any(|(at, _)| *at == point) {
            continue;
        }
        // By whichever job gets there first; then by another.
        let times: &[usize] = if is_soak { &[1, 2, 3, 4, 5] } else { &[1] };
        for time in times {
            let fault = format!("{point}=kill@{time}");
            let died = sweep.round(&[&fault], |_| None);
            assert!(died == 1 || *time > 1, "'{point}' was not reached");
        }
    }
    for (point, before) in AT_START {
        let faults = [format!("{before}=kill"), format!("{point}=kill")];
        let died = sweep.round(&[&faults[0], &faults[1]], |_| None);
        assert_eq!(died, 2, "'{point}' was not reached");
    }
}

#[test]
fn jobs_outlive_a_daemon_that_is_killed_at_any_moment() {
    let kills = match std::env::var_os("MISTRY_SOAK") {
        Some(_) => 300,
        None => 30,
    };
    let seed = seed();
    eprintln!("seed {seed}");
    let mut dice = Dice::of(seed);
    let mut sweep = Sweep::new();
    while sweep.sum.kills < kills {
        sweep.round(&[], |died| {
            (died < 5).then(|| Duration::from_millis(dice.up_to(600)))
        });
    }
}
