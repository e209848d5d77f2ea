//! Clients that vanish: no FIN and no RST comes, because the network is cut. Each is noticed within two
//! minutes, whatever the server was doing for it, and its jobs with `cancel_on_disconnect` are cancelled.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::daemon::{Daemon, Setup};
use crate::support::http::TEST_TIMEOUT;
use crate::support::{Place, word};

/// The promised time.
const NOTICED: Duration = Duration::from_secs(120);
/// The interval of polling.
const PAUSE: Duration = Duration::from_millis(200);

/// Another host: a network namespace, and a wire to it.
struct Elsewhere {
    name: String,
    wire: String,
    here: String,
    there: String,
}

fn ip(arguments: &[&str]) {
    let output = Command::new("ip").args(arguments).output().unwrap();
    assert!(output.status.success(), "ip {arguments:?}: {output:?}");
}

impl Elsewhere {
    fn new() -> Elsewhere {
        let word = word();
        let name = format!("mistry-{word}");
        // Of the network for tests of networks (RFC 2544), four addresses of its own.
        let number = u16::from_str_radix(&word[..4], 16).unwrap() & !3;
        let [high, low] = number.to_be_bytes();
        let elsewhere = Elsewhere {
            wire: format!("mi{}", &word[..10]),
            here: format!("198.18.{high}.{}", low + 1),
            there: format!("198.18.{high}.{}", low + 2),
            name,
        };
        let Elsewhere {
            name,
            wire,
            here,
            there,
        } = &elsewhere;
        ip(&["netns", "add", name]);
        ip(&[
            "link", "add", wire, "type", "veth", "peer", "name", "wire", "netns", name,
        ]);
        ip(&["address", "add", &format!("{here}/30"), "dev", wire]);
        ip(&["link", "set", wire, "up"]);
        ip(&[
            "-n",
            name,
            "address",
            "add",
            &format!("{there}/30"),
            "dev",
            "wire",
        ]);
        ip(&["-n", name, "link", "set", "wire", "up"]);
        elsewhere
    }

    /// A client there.
    fn curl(&self, arguments: &[&str]) -> Child {
        let mut command = Command::new("ip");
        command
            .args([
                "netns",
                "exec",
                &self.name,
                "curl",
                "--silent",
                "--no-buffer",
            ])
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        command.spawn().unwrap()
    }

    /// The wire is cut at its other end: this host sends on, and nothing comes back.
    fn cut(&self) {
        ip(&["-n", &self.name, "link", "set", "wire", "down"]);
    }

    /// Connections of the server with those who are there.
    fn connected(&self, port: &str) -> usize {
        let output = Command::new("ss")
            .args([
                "-tnH",
                "state",
                "established",
                "dst",
                &self.there,
                "sport",
                "=",
                port,
            ])
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap().lines().count()
    }
}

impl Drop for Elsewhere {
    fn drop(&mut self) {
        for arguments in [["netns", "del", &self.name], ["link", "del", &self.wire]] {
            // With the namespace its end of the wire goes, and with that the other.
            let _ = Command::new("ip").args(arguments).output();
        }
    }
}

/// Ended when it is dropped.
struct Client(Child);

impl Drop for Client {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Polls until a condition holds.
#[expect(
    clippy::disallowed_methods,
    reason = "no program is notified of the end of a connection"
)]
fn until(what: &str, timeout: Duration, mut is_so: impl FnMut() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < timeout, "{what} takes too long");
        std::thread::sleep(PAUSE);
    }
}

/// The builds that are under way.
fn pending(daemon: &Daemon) -> usize {
    let list = daemon.get("/index/?state=pending").json();
    list.as_array().unwrap().len()
}

#[test]
fn a_client_that_vanished_is_noticed_within_two_minutes_and_its_build_is_cancelled() {
    let elsewhere = Elsewhere::new();
    let mut daemon = Setup::on(Place::Host)
        .script(
            "waits",
            "echo waiting; trap 'exit 143' TERM; sleep 100000 & wait",
        )
        .script("large", "head -c 200000000 /dev/zero > artifacts/large")
        .start();
    daemon.end();
    daemon.start_at(&format!("{}:0", elsewhere.here), "");
    let info = daemon.succeed(json!({ "project": "large" }));
    let large = format!("/artifacts/large/{}/large", info["ID"].as_str().unwrap());
    let url = |path: &str| format!("http://{}{path}", daemon.address());
    let jobs = url("/jobs");
    let wanted = |param: &str| {
        json!({
            "project": "waits", "params": { "p": param }, "cancel_on_disconnect": true,
        })
        .to_string()
    };
    let json = ["--header", "Content-Type: application/json"];
    // The first gets nothing until its build is over, the second gets events, and to the third there are
    // always bytes in flight.
    let (silent, streaming) = (wanted("silent"), wanted("streaming"));
    let events = ["--header", "Accept: text/event-stream"];
    let silent = elsewhere.curl(&[&json[..], &["--data", &silent, &jobs]].concat());
    let streaming = elsewhere.curl(&[&json[..], &events, &["--data", &streaming, &jobs]].concat());
    let reading = elsewhere.curl(&["--limit-rate", "200k", &url(&large)]);
    let (_silent, mut streaming, mut reading) =
        (Client(silent), Client(streaming), Client(reading));
    let lines = BufReader::new(streaming.0.stdout.take().unwrap()).lines();
    assert!(
        lines
            .map(Result::unwrap)
            .any(|line| line == "data: waiting")
    );
    let mut bytes = BufReader::new(reading.0.stdout.take().unwrap());
    assert!(!bytes.fill_buf().unwrap().is_empty());
    until("the builds", TEST_TIMEOUT, || pending(&daemon) == 2);
    assert_eq!(elsewhere.connected(daemon.port()), 3);

    elsewhere.cut();
    let cut = Instant::now();
    until("the end of the connections", NOTICED, || {
        elsewhere.connected(daemon.port()) == 0
    });
    println!("noticed after {:.0?}", cut.elapsed());
    until("the end of the builds", TEST_TIMEOUT, || {
        pending(&daemon) == 0
    });
    let list = daemon.get("/index/?project=waits&outcome=cancelled").json();
    assert_eq!(list.as_array().unwrap().len(), 2, "{list}");
}
