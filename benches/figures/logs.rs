//! How long a line takes from the container to a client, beside `docker logs -f`.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::Instant;

use crate::daemon::Daemon;
use crate::http::{Connection, request};
use crate::{Figure, median};

const LINES: usize = 60;

pub fn measure() -> Vec<Figure> {
    let (daemon, id, stream) = printing();
    let mut ours = BufReader::new(stream).lines();
    await_line(&mut ours, "ready");

    let record = daemon
        .builds()
        .join(format!("trivial/pending/{id}/build_info.json"));
    let record: serde_json::Value =
        serde_json::from_slice(&std::fs::read(record).unwrap()).unwrap();
    let container = record["Bookkeeping"]["Container"].as_str().unwrap();
    let mut docker = Command::new("docker")
        .args(["logs", "-f", container])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut theirs = BufReader::new(docker.stdout.take().unwrap()).lines();
    await_line(&mut theirs, "ready");

    let gate = daemon
        .builds()
        .join(format!("trivial/pending/{id}/data/cache/gate"));
    let mut gate = File::options().write(true).open(gate).unwrap();
    let (mut our_times, mut their_times) = (Vec::new(), Vec::new());
    for n in 0..LINES {
        // Both followers are there all the time; each is timed on lines of its own.
        let marker = format!("line {n}");
        let began = Instant::now();
        writeln!(gate, "{marker}").unwrap();
        if n % 2 == 0 {
            await_line(&mut ours, &marker);
            our_times.push(began.elapsed().as_secs_f64() * 1e3);
            await_line(&mut theirs, &marker);
        } else {
            await_line(&mut theirs, &marker);
            their_times.push(began.elapsed().as_secs_f64() * 1e3);
            await_line(&mut ours, &marker);
        }
    }
    drop(gate);
    docker.wait().unwrap();
    vec![Figure::new(
        "log line, container to client",
        median(our_times),
        "ms",
        "docker logs -f",
        median(their_times),
    )]
}

fn await_line(lines: &mut impl Iterator<Item = std::io::Result<String>>, marker: &str) {
    for line in lines {
        if line.unwrap().trim_end().ends_with(marker) {
            return;
        }
    }
    panic!("'{marker}' did not come");
}

/// A build that prints each line which is written into its FIFO, and ends when that is closed: its
/// daemon, its id, and where its log is read.
pub fn printing() -> (Daemon, String, TcpStream) {
    let script = "mkfifo /data/cache/gate; echo ready; cat /data/cache/gate\n";
    let daemon = Daemon::start(2, script);
    let mut connection = Connection::tcp(daemon.port);
    let (status, answer) = connection.ask("POST", "/jobs?async", r#"{"project":"trivial"}"#);
    assert_eq!(status, 201);
    let answer: serde_json::Value = serde_json::from_slice(&answer).unwrap();
    let id = answer["ID"].as_str().unwrap().to_owned();
    let stream = TcpStream::connect(("127.0.0.1", daemon.port)).unwrap();
    let text = request("GET", &format!("/log/trivial/{id}"), "");
    (&stream).write_all(text.as_bytes()).unwrap();
    (daemon, id, stream)
}
