//! No reader stops a builder or costs the server more memory than it may: a release build of `mistryd`
//! in a cgroup that would kill it, thousands of clients that request the largest answers and read nothing,
//! and meanwhile builds, a cancel and a collection over the unix socket.
//!
//! The cost of each kind of reader is printed, so that one that costs too much is identified.

mod builders;
mod memory;
mod readers;
mod waiters;

use std::fmt::Write;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::json;

use crate::support::daemon::{Daemon, Setup};
use crate::support::http::{self, TEST_TIMEOUT};
use crate::support::{Place, environment, many_builds};
use builders::Builder;
use memory::{Limit, resident, sockets};
use readers::{From, Outcome, Reader, Steady, count, get, open};

/// The memory limit of the cgroup.
const LIMIT: u64 = 256 << 20;
/// What it takes at most with all readers, in MiB: 150 MB. A collection takes more while it lasts, by the
/// number of builds and not of readers.
const MOST_RESIDENT: f64 = 143.0;
/// Builds on disk, and those of them whose params fill a list.
const BUILDS: usize = 100_000;
const LARGE_BUILDS: usize = 1_000;
/// The build that leaves very much.
const LOG: usize = 100 << 20;
const DIRECTORIES: usize = 200_000;
const LARGE: &str = "large";
/// Connections that a server has places for, the test's own included.
const CONNECTIONS: usize = 8_000;
/// Connections over the limit.
const SURPLUS: usize = 600;
/// The bytes that a fast reader takes between two kinds of slow ones.
const STEADY: u64 = 4 << 20;

/// All kinds connect in so many rounds, so that no kind takes all connections.
const ROUNDS: usize = 8;

/// In `make test` one of so many of all these; in `make soak` all.
const DOSE: usize = 10;

fn dose(many: usize) -> usize {
    match std::env::var_os("MISTRY_SOAK") {
        Some(_) => many,
        None => many / DOSE,
    }
}

/// One kind of reader: what it asks for, how many of 8,000, and where they come from.
struct Kind {
    name: &'static str,
    many: usize,
    from: From,
    request: Vec<u8>,
}

fn kinds(large: &str) -> Vec<Kind> {
    let kind = |name, many, from, path: &str, headers| Kind {
        name,
        many: dose(many),
        from,
        request: get(path, headers),
    };
    let (log, artifacts) = (
        format!("/log/{LARGE}/{large}"),
        format!("/artifacts/{LARGE}/{large}"),
    );
    let middle = many_builds::place(dose(BUILDS) / 2);
    let further_on = format!("/index/?limit=1000&before={middle}");
    let (json, events) = (
        "accept: application/json\r\n",
        "accept: text/event-stream\r\n",
    );
    vec![
        kind("events", 1_000, From::Many, "/events", ""),
        kind("logs", 900, From::Many, &log, ""),
        kind("logs as events", 500, From::Many, &log, events),
        kind(
            "lines of logs",
            200,
            From::Many,
            &format!("{log}?lines"),
            json,
        ),
        kind("lists", 800, From::One, "/index/?limit=1000", json),
        kind(
            "lists from many",
            700,
            From::Many,
            "/index/?limit=1000",
            json,
        ),
        kind("lists further on", 150, From::Many, &further_on, json),
        kind(
            "pages of jobs",
            150,
            From::Many,
            &many_builds::address(0),
            "accept: text/html\r\n",
        ),
        kind(
            "pages of lists",
            300,
            From::Many,
            "/",
            "accept: text/html\r\n",
        ),
        kind("projects", 200, From::Many, "/projects", json),
        kind("tars", 700, From::Many, &artifacts, ""),
        kind(
            "tars in zstd",
            300,
            From::Many,
            &artifacts,
            "accept-encoding: zstd\r\n",
        ),
        kind(
            "manifests",
            300,
            From::Many,
            &format!("{artifacts}?manifest"),
            json,
        ),
        kind(
            "directories",
            300,
            From::Many,
            &format!("{artifacts}/wide/"),
            json,
        ),
        kind(
            "pages of directories",
            200,
            From::Many,
            &format!("{artifacts}/wide/"),
            "accept: text/html\r\n",
        ),
        kind("kept alive", 600, From::Many, "/healthz", ""),
        Kind {
            name: "without a request",
            many: dose(500),
            from: From::Many,
            request: Vec::new(),
        },
    ]
}

/// The table of measurements, and the failures.
#[derive(Default)]
struct Report {
    table: String,
    wrong: Vec<String>,
    before: f64,
}

impl Report {
    fn measured(&mut self, daemon: &Daemon, name: &str, readers: &[Reader]) {
        let memory = resident(daemon.process());
        let answered = count(readers);
        let mut outcome = String::new();
        for (what, how_many) in &answered {
            write!(outcome, " {what}: {how_many},").unwrap();
        }
        let with_answer = readers
            .iter()
            .filter(|reader| reader.outcome != Outcome::Status(503));
        let with_answer = with_answer.count();
        let each = match with_answer {
            0 => 0.0,
            many => (memory.now - self.before) * 1_024.0 / many as f64,
        };
        let line = format!(
            "{name:<22} {:>5} clients; {:>6.1} MiB (anonymous {:>6.1}, highest {:>6.1}), {each:>8.1} KiB \
             for each that was not refused; sockets {:>6.1} MiB; held {:>10};{outcome}",
            readers.len(),
            memory.now,
            memory.anonymous,
            memory.highest,
            sockets(),
            held(daemon).map_or_else(|| "?".to_owned(), |held| held.to_string()),
        );
        // Once all connections are taken there is nothing more to measure.
        if with_answer > 0 || readers.is_empty() {
            eprintln!("{line}");
            self.table.push_str(&format!("{line}\n"));
        }
        self.before = memory.now;
        for (what, how_many) in answered {
            // A connection without a request is closed in the end without an answer.
            let is_wrong = match what {
                Outcome::Closed => !name.starts_with("without"),
                Outcome::Reset | Outcome::BareRefusal => true,
                _ => false,
            };
            if is_wrong
                || matches!(what, Outcome::Status(status) if status != 200 && status != 201 && status != 503)
            {
                self.wrong.push(format!("{how_many} of '{name}': {what}"));
            }
        }
    }

    fn note(&mut self, wrong: impl IntoIterator<Item = String>) {
        self.wrong.extend(wrong);
    }
}

/// Bytes that the daemon counts as held for clients, over its unix socket: answers, and requests with what
/// was asked by them. `None` where it does not say.
fn held(daemon: &Daemon) -> Option<u64> {
    let metrics = daemon.ask_socket("GET", "/metrics").text();
    let held = metrics.lines().filter_map(|line| {
        let (name, bytes) = line.split_once(' ')?;
        let is_held = ["mistry_held_bytes", "mistry_bodies_held_bytes"].contains(&name);
        is_held.then(|| bytes.parse::<f64>().unwrap() as u64)
    });
    held.reduce(|all, bytes| all + bytes)
}

/// The package `mistryd`, unpacked; it is a release build.
struct Package(PathBuf);

impl Package {
    fn unpack(home: &Path) -> Package {
        let packages = fs::read_dir(environment("MISTRY_TEST_DEBS")).unwrap();
        let mut packages = packages.map(|entry| entry.unwrap().path());
        let is_daemon = |path: &PathBuf| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            name.starts_with("mistryd_") && name.ends_with(".deb")
        };
        let package = packages.find(is_daemon);
        let package =
            package.expect("MISTRY_TEST_DEBS has a package mistryd: `make environment` builds it");
        let unpacked = home.join("package");
        let unpacking = Command::new("dpkg-deb")
            .arg("-x")
            .arg(package)
            .arg(&unpacked)
            .status();
        assert!(unpacking.unwrap().success());
        Package(unpacked)
    }

    fn program(&self) -> PathBuf {
        self.0.join("usr/sbin/mistryd")
    }

    /// What its unit sets for the program, as names and values.
    fn environment(&self) -> Vec<(String, String)> {
        let unit = self.0.join("lib/systemd/system/mistryd.service");
        let unit = fs::read_to_string(unit).unwrap();
        let lines = unit
            .lines()
            .filter_map(|line| line.strip_prefix("Environment="));
        let pairs = lines.flat_map(str::split_whitespace);
        let pairs = pairs.map(|pair| pair.split_once('=').unwrap());
        pairs
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect()
    }
}

/// As many descriptors as there may be for this process and what it starts. The daemon leaves some to
/// builds: where the limit is low it has fewer places, and refuses more.
fn raise_descriptors() {
    let needed = (CONNECTIONS + SURPLUS) as u64 + 1_024;
    let wanted = 1 << 16;
    let limit = |current, maximum| Rlimit {
        current: Some(current),
        maximum: Some(maximum),
    };
    if setrlimit(Resource::Nofile, limit(wanted, wanted)).is_ok() {
        return;
    }
    // Not every root may raise what it was given.
    let given = getrlimit(Resource::Nofile).maximum.unwrap_or(wanted);
    assert!(
        given >= needed,
        "this test needs {needed} descriptors, and may have {given} (`ulimit -Hn`)"
    );
    setrlimit(Resource::Nofile, limit(given, given)).unwrap();
}

/// The packaged daemon under the limit, with many builds on disk and the build `large`.
fn start(limit: &Limit, large: &str) -> Daemon {
    let mut setup = Setup::on(Place::Host)
        .fixture("slow")
        .script("quick", "cat params/n > artifacts/n");
    let package = Package::unpack(setup.home());
    for (name, value) in package.environment() {
        setup = setup.env(name, value);
    }
    let program = package.program();
    let builds = setup.home().join("builds");
    many_builds::write(&builds, dose(BUILDS), dose(LARGE_BUILDS));
    many_builds::write_one(&builds, LARGE, large, LOG, dose(DIRECTORIES));
    setup.program(program).in_group(limit.processes()).start()
}

#[test]
fn readers_that_do_not_read_take_little_memory_and_stop_no_builder() {
    raise_descriptors();
    let limit = Limit::of(LIMIT);
    let large = "a".repeat(64);
    let mut daemon = start(&limit, &large);
    let process = daemon.process();
    assert!(limit.holds(process), "the daemon is under the limit");

    let mut report = Report::default();
    // The first list waits for the index.
    assert_eq!(daemon.ask_socket("GET", "/index/?limit=1").status, 200);
    report.measured(&daemon, "the index", &[]);

    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let server: SocketAddr = daemon.address().parse().unwrap();
    let builder = Builder {
        socket: daemon.socket(),
    };
    let slow = builder_waits(&daemon);
    let mut steady = runtime.block_on(async {
        let log = Steady::open(server, &format!("/log/{LARGE}/{large}")).await;
        let tar = Steady::open(server, &format!("/artifacts/{LARGE}/{large}")).await;
        [log, tar]
    });

    let mut waiting = runtime.block_on(waiters::wait(server, dose(60), false));
    report.measured(&daemon, "waiters", &waiting);
    let events = runtime.block_on(waiters::wait(server, dose(40), true));
    report.measured(&daemon, "waiters for events", &events);
    let mut idle = Vec::new();
    let kinds = kinds(&large);
    for kind in std::iter::repeat_n(&kinds, ROUNDS).flatten() {
        let many = kind.many.div_ceil(ROUNDS);
        let opened = open(server, kind.from, many, &kind.request, timeout(kind));
        let opened = runtime.block_on(opened);
        report.measured(&daemon, kind.name, &opened);
        idle.push(opened);
        runtime.block_on(async {
            for reader in &mut steady {
                reader.read(STEADY).await;
            }
        });
    }
    let asked = get("/healthz", "");
    let surplus = open(server, From::Many, dose(SURPLUS), &asked, TEST_TIMEOUT);
    let surplus = runtime.block_on(surplus);
    report.measured(&daemon, "surplus", &surplus);
    let with_readers = resident(process).highest;
    let refused = count(&surplus).get(&Outcome::Status(503)).copied();
    // All places are taken by the whole of them only.
    let is_whole = dose(SURPLUS) == SURPLUS;
    if is_whole && refused.is_none_or(|refused| refused < 100) {
        report.note([format!(
            "of {SURPLUS} clients beyond {CONNECTIONS}, {} were refused",
            refused.unwrap_or(0)
        )]);
    }

    // With every connection taken.
    run_builders(&daemon, &builder, &mut report);

    runtime.block_on(async {
        for reader in &mut steady {
            reader.read(u64::MAX).await;
        }
    });
    for (reader, least) in steady.iter().zip([LOG, dose(DIRECTORIES) * 512]) {
        assert!(reader.is_over && reader.read > least as u64);
    }
    daemon.release("slow", &slow);
    runtime.block_on(async {
        for waiter in &mut waiting {
            waiter.wait_for_head().await;
        }
    });
    report.measured(&daemon, "waiters, answered", &waiting);
    let answered = count(&waiting);
    if answered.contains_key(&Outcome::Nothing) || !answered.contains_key(&Outcome::Status(201)) {
        report.note([format!("of those who waited, {answered:?}")]);
    }

    runtime.block_on(async { drop((idle, surplus, waiting, events, steady)) });
    if let Some(left) = held_at_last(&daemon) {
        report.note([format!("{left} bytes are held for clients that have left")]);
    }
    report.measured(&daemon, "after all have left", &[]);
    if with_readers > MOST_RESIDENT {
        report.note([format!(
            "it took {with_readers:.1} MiB with all readers, expected at most {MOST_RESIDENT}"
        )]);
    }
    assert_eq!(daemon.process(), process);
    assert!(
        report.wrong.is_empty(),
        "{}\n{}",
        report.wrong.join("\n"),
        report.table
    );
    daemon.end();
}

/// Builds, a cancel and a collection, over the unix socket.
fn run_builders(daemon: &Daemon, builder: &Builder, report: &mut Report) {
    let succeeds = |output: &std::process::Output| output.status.success();
    for number in 0..3 {
        let (target, param) = (format!("fetched-{number}"), format!("--n={number}"));
        let job = [
            "build",
            "--project",
            "quick",
            "--target",
            &target,
            "--",
            &param,
        ];
        report.note(builder.run(&job, succeeds));
    }
    let other = daemon.ask_socket_json(
        "POST",
        "/jobs?async",
        &json!({"project": "slow", "params": {"n": "1"}}),
    );
    let other = other["ID"].as_str().unwrap_or_default().to_owned();
    report.note(builder.run(&["cancel", &other], succeeds));
    let collect = ["gc", "--older-than", "1h", "--keep-last", "4900"];
    report.note(builder.run(&collect, succeeds));
    report.measured(daemon, "builders", &[]);
}

/// A build that waits at its gate, and for which many will wait; its id.
fn builder_waits(daemon: &Daemon) -> String {
    let state = daemon.ask_socket_json("POST", "/jobs?async", &waiters::job());
    let id = state["ID"]
        .as_str()
        .expect("the job is accepted")
        .to_owned();
    http::follow(daemon.address(), &format!("/log/slow/{id}"), "waiting");
    id
}

/// One that has no request waits for nothing.
fn timeout(kind: &Kind) -> std::time::Duration {
    match kind.request.is_empty() {
        true => std::time::Duration::from_secs(2),
        false => TEST_TIMEOUT,
    }
}

/// What is held when all clients have left; `None` where nothing is, in time. The daemon hears of their
/// leaving from the kernel, one by one, so it is asked again.
fn held_at_last(daemon: &Daemon) -> Option<u64> {
    let began = std::time::Instant::now();
    loop {
        match held(daemon) {
            None => return Some(u64::MAX),
            // What the answer itself takes, at most.
            Some(held) if held <= 256 << 10 => return None,
            Some(held) if began.elapsed() > TEST_TIMEOUT => return Some(held),
            Some(_) => {}
        }
    }
}
