//! Cached answers: how many, how long while builds hold every slot, and of a large project.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::daemon::{Daemon, project};
use crate::http::{Connection, load, request};
use crate::{Figure, median, p99};

const CONNECTIONS: usize = 8;
/// Rounds in turn, so that a change of the machine's mood meets both.
const ROUNDS: usize = 3;
const ROUND: Duration = Duration::from_secs(3);
const JOB: &str = r#"{"project":"trivial","params":{"name":"cached"}}"#;

pub fn measure() -> Vec<Figure> {
    // A build with the param `hold` stays until its FIFO is read.
    let script = "if [ -e /data/params/hold ]; then mkfifo /data/cache/gate; cat /data/cache/gate; fi\necho done\n";
    let daemon = Daemon::start(2, script);
    let mut connection = Connection::tcp(daemon.port);
    let (status, _) = connection.ask("POST", "/jobs", JOB);
    assert_eq!(status, 201);
    let (_, answer) = connection.ask("POST", "/jobs", JOB);
    let bytes = daemon.home.path().join("answer");
    std::fs::write(&bytes, &answer).unwrap();
    let mut bare = Command::new(std::env::current_exe().unwrap())
        .arg("--bare-server")
        .arg(&bytes)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(bare.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    let bare_port: u16 = line.trim().parse().unwrap();

    let text = request("POST", "/jobs", JOB);
    let (mut ours, mut theirs, mut idle) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let load_of = |port| load(port, &text, CONNECTIONS, ROUND);
        let measured = load_of(daemon.port);
        ours.push(measured.per_second);
        idle.push(p99(measured.latencies));
        theirs.push(load_of(bare_port).per_second);
    }
    bare.kill().unwrap();
    bare.wait().unwrap();
    let (rate, idle) = (median(ours), median(idle));

    // Two builds hold both slots.
    for n in 0..2 {
        let body = format!(r#"{{"project":"trivial","params":{{"hold":"{n}"}}}}"#);
        let (status, _) = connection.ask("POST", "/jobs?async", &body);
        assert_eq!(status, 201);
    }
    wait_for_running(&mut connection, 2);
    let (mut held_rate, mut held) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let measured = load(daemon.port, &text, CONNECTIONS, ROUND);
        held_rate.push(measured.per_second);
        held.push(p99(measured.latencies));
    }

    let (cached, walked) = large_project(&daemon, &mut connection);
    vec![
        Figure::new(
            "cached POST /jobs, 8 connections",
            rate,
            "req/s",
            "bare hyper, same bytes",
            median(theirs),
        ),
        Figure::new(
            "the same while builds hold every slot",
            median(held_rate),
            "req/s",
            "the same on an idle server",
            rate,
        ),
        Figure::new(
            "its 99th percentile",
            median(held) * 1e3,
            "ms",
            "the same on an idle server",
            idle * 1e3,
        ),
        Figure::new(
            "cached answer of a 100 MB project",
            median(cached),
            "ms",
            "a stat of each of its files",
            median(walked),
        ),
    ]
}

/// Milliseconds of cached answers of a project of 100 MB, and of a `stat` of each of its files. Ends
/// the builds that hold the slots.
fn large_project(
    daemon: &Daemon,
    connection: &mut Connection<std::net::TcpStream>,
) -> (Vec<f64>, Vec<f64>) {
    project(&daemon.home.path().join("projects/large"), "echo large\n");
    let large = daemon.home.path().join("projects/large");
    for n in 0..100 {
        std::fs::write(large.join(format!("file{n}")), vec![n as u8; 1 << 20]).unwrap();
    }
    let job = r#"{"project":"large"}"#;
    connection.ask("POST", "/jobs?async", job);
    let pending = daemon.builds().join("trivial/pending");
    for build in std::fs::read_dir(pending).unwrap() {
        let gate = build.unwrap().path().join("data/cache/gate");
        if gate.exists() {
            std::fs::write(gate, "").unwrap();
        }
    }
    let (status, _) = connection.ask("POST", "/jobs", job);
    assert_eq!(status, 201);
    let (mut cached, mut walked) = (Vec::new(), Vec::new());
    for _ in 0..50 {
        let began = Instant::now();
        connection.ask("POST", "/jobs", job);
        cached.push(began.elapsed().as_secs_f64() * 1e3);
        let began = Instant::now();
        for entry in std::fs::read_dir(&large).unwrap() {
            entry.unwrap().metadata().unwrap();
        }
        walked.push(began.elapsed().as_secs_f64() * 1e3);
    }
    (cached, walked)
}

/// Asks the server until so many builds run; a benchmark may poll.
fn wait_for_running(connection: &mut Connection<std::net::TcpStream>, count: usize) {
    let needle = format!("\"Running\":{count}");
    for _ in 0..1_000 {
        let (_, status) = connection.ask("GET", "/status", "");
        if String::from_utf8_lossy(&status).contains(&needle) {
            return;
        }
    }
    panic!("the builds did not start");
}
