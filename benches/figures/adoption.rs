//! A start over many builds and some that run on: until the daemon is ready, and until it follows all
//! of them again.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixDatagram;
use std::time::Instant;

use crate::Figure;
use crate::daemon::{Daemon, project};
use crate::http::Connection;
use crate::index::build;

const MANY: usize = 10_000;
const RUNNING: usize = 20;

pub fn measure() -> Vec<Figure> {
    let (few_ready, _) = started(10, 0);
    let (ready, adopted) = started(MANY, RUNNING);
    vec![
        Figure::new(
            "start to READY, 10,000 builds, 20 running",
            ready,
            "ms",
            "10 builds, none running",
            few_ready,
        ),
        Figure::new(
            "READY to all 20 followed again",
            adopted,
            "ms",
            "start to READY",
            ready,
        ),
    ]
}

/// Milliseconds from the start to READY, and from there until all that runs is followed again.
fn started(builds: usize, running: usize) -> (f64, f64) {
    let home = tempfile::tempdir().unwrap();
    // Until its gate is opened; the line is there before.
    let script = "mkfifo /data/gate; echo waiting; read -r x < /data/gate\n";
    project(&home.path().join("projects/trivial"), script);
    for n in 0..builds {
        let at = format!("builds/trivial/ready/{n:064x}");
        build(&home.path().join(at), n);
    }
    let mut daemon = Daemon::again(home, RUNNING);
    let mut connection = Connection::tcp(daemon.port);
    let mut gates = Vec::new();
    for n in 0..running {
        let job = format!(r#"{{"project":"trivial","params":{{"n":"{n}"}}}}"#);
        let (status, body) = connection.ask("POST", "/jobs?async", &job);
        assert_eq!(status, 201);
        let state: serde_json::Value = serde_json::from_slice(&body).unwrap();
        let id = state["ID"].as_str().unwrap();
        follow(daemon.port, id, "waiting\n");
        gates.push(
            daemon
                .builds()
                .join(format!("trivial/pending/{id}/data/gate")),
        );
    }
    let place = tempfile::tempdir().unwrap();
    let socket = place.path().join("notify");
    let notified = UnixDatagram::bind(&socket).unwrap();
    let began = Instant::now();
    let said = daemon.restart(&[("NOTIFY_SOCKET", socket.as_os_str())]);
    let mut message = [0; 4096];
    loop {
        let length = notified.recv(&mut message).unwrap();
        if message[..length].starts_with(b"READY=1") {
            break;
        }
    }
    let ready = began.elapsed();
    let mut adopted = ready;
    for _ in 0..running {
        let (at, _) = said.until("taken-over");
        adopted = at.duration_since(began).max(adopted);
    }
    for gate in gates {
        std::fs::write(gate, "x\n").unwrap();
    }
    let milliseconds = |time: std::time::Duration| time.as_secs_f64() * 1e3;
    (milliseconds(ready), milliseconds(adopted - ready))
}

/// Reads a log as it grows, until a word is there.
fn follow(port: u16, id: &str, word: &str) {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let ask = format!("GET /log/trivial/{id}?text&follow HTTP/1.1\r\nHost: localhost\r\n\r\n");
    stream.write_all(ask.as_bytes()).unwrap();
    let mut read = Vec::new();
    let mut piece = [0; 4096];
    while !String::from_utf8_lossy(&read).contains(word) {
        let length = stream.read(&mut piece).unwrap();
        assert!(
            length > 0,
            "the log ended: {}",
            String::from_utf8_lossy(&read)
        );
        read.extend_from_slice(&piece[..length]);
    }
}
