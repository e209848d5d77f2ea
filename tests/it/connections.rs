//! Connections: an answer is not lost, whatever its client still sends; clients over TCP take no
//! connection of this host's clients; a trusted proxy names its client.

use std::collections::HashMap;
use std::net::SocketAddr;

use rustix::process::Signal;
use serde_json::json;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream, UnixStream};
use zbus::Variant;

use crate::support::bus_harness::end_of;
use crate::support::{
    bus::{self, TestBus},
    daemon::{Home, TestDaemon, job, text},
    http::{Ask, At, within},
    manager::Manager,
};

/// A hash of nothing that a token could be.
const TOKENS: &str =
    "ci admin sha256:0000000000000000000000000000000000000000000000000000000000000000\n";

/// Writes a whole request before it reads; the answer must come whole, and end in order.
async fn answer(mut connection: impl AsyncRead + AsyncWrite + Unpin, request: &[u8]) -> String {
    within("the answer", async {
        connection.write_all(request).await.unwrap();
        let mut answer = String::new();
        connection.read_to_string(&mut answer).await.unwrap();
        answer
    })
    .await
}

#[tokio::test]
async fn an_answer_that_is_given_before_the_whole_request_was_read_is_not_lost() {
    let daemon = TestDaemon::with(&["succeed"]).await;
    let closed = TestDaemon::builder().await.tokens(TOKENS).start().await;
    let (usual, large) = (8 << 20, 17 << 20);
    let json = "Content-Type: application/json\r\n";
    for (daemon, target, headers, bytes, status) in [
        (
            &daemon,
            "POST /jobs",
            "Content-Type: text/plain\r\n".to_owned(),
            usual,
            "415",
        ),
        (
            &daemon,
            "POST /jobs",
            format!("{json}Sec-Fetch-Site: cross-site\r\n"),
            usual,
            "403",
        ),
        (&daemon, "POST /jobs", json.to_owned(), large, "413"),
        (&daemon, "POST /gc", json.to_owned(), usual, "413"),
        (&daemon, "POST /nothing", json.to_owned(), usual, "404"),
        (&daemon, "PATCH /jobs", json.to_owned(), usual, "405"),
        (
            &daemon,
            "POST /jobs",
            format!("{json}Transfer-Encoding: gzip, chunked\r\n"),
            usual,
            "501",
        ),
        (
            &daemon,
            "POST /jobs",
            format!("{json}Expect: wonders\r\n"),
            usual,
            "417",
        ),
        (&daemon, "GET /status", json.to_owned(), usual, "200"),
        (&closed, "POST /jobs", json.to_owned(), usual, "401"),
    ] {
        let length = match headers.contains("Transfer-Encoding") {
            true => String::new(),
            false => format!("Content-Length: {bytes}\r\n"),
        };
        let head = format!("{target} HTTP/1.1\r\nHost: localhost\r\n{headers}{length}\r\n");
        let request = [head.as_bytes(), &vec![b'x'; bytes]].concat();
        let tcp = TcpStream::connect(("127.0.0.1", daemon.port()))
            .await
            .unwrap();
        let text = answer(tcp, &request).await;
        assert!(
            text.starts_with(&format!("HTTP/1.1 {status} ")),
            "{target}: {text:.300}"
        );
        // Over the unix socket no client needs a token, and the rest is the same.
        if status != "401" {
            let unix = UnixStream::connect(daemon.socket()).await.unwrap();
            let text = answer(unix, &request).await;
            assert!(
                text.starts_with(&format!("HTTP/1.1 {status} ")),
                "{target}: {text:.300}"
            );
        }
    }
}

#[tokio::test]
async fn only_a_trusted_proxy_may_name_its_client() {
    let trusting = TestDaemon::builder()
        .await
        .proxies(&["127.0.0.0/8"])
        .fixture("succeed");
    let (trusting, wary) = (trusting.start().await, TestDaemon::with(&["succeed"]).await);
    for (daemon, name, said, asker) in [
        (
            &trusting,
            "x-forwarded-for",
            "198.51.100.1, 192.0.2.7",
            "192.0.2.7",
        ),
        (
            &trusting,
            "forwarded",
            "for=\"[2001:db8::7]:80\"",
            "2001:db8::7",
        ),
        (&trusting, "x-other", "192.0.2.7", "127.0.0.1"),
        (&wary, "x-forwarded-for", "192.0.2.7", "127.0.0.1"),
        (&wary, "forwarded", "for=192.0.2.7", "127.0.0.1"),
    ] {
        let asked = json!({ "project": "succeed", "rebuild": true });
        let ask = Ask::post("/jobs", &asked).json().with(name, said);
        let info = daemon.ask(ask).await.expect(201).json();
        assert_eq!(text(&info, "AskedBy"), asker, "{name}: {said}");
    }
    let ask = Ask::post("/jobs", &job("succeed"))
        .json()
        .with("x-forwarded-for", "192.0.2.7")
        .with("forwarded", "for=192.0.2.8");
    let refused = trusting.ask(ask).await.expect(400).json();
    assert!(
        text(&refused, "error").contains("name two clients"),
        "{refused}"
    );
    // Over the unix socket there are no proxies.
    let ask = Ask::post("/jobs", &json!({ "project": "succeed", "rebuild": true }))
        .json()
        .with("x-forwarded-for", "192.0.2.7");
    let info = At::Unix(trusting.socket())
        .ask(ask)
        .await
        .expect(201)
        .json();
    assert!(text(&info, "AskedBy").starts_with("uid "), "{info}");
    // Before the first request, the PROXY protocol.
    let body = json!({ "project": "succeed", "rebuild": true }).to_string();
    let request = format!(
        "PROXY TCP4 192.0.2.9 127.0.0.1 51000 80\r\nPOST /jobs HTTP/1.1\r\nHost: localhost\r\n\
         Content-Type: application/json\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let text = trusting.at().raw(request.as_bytes()).await;
    assert!(text.contains("\"AskedBy\":\"192.0.2.9\""), "{text}");
    let text = wary.at().raw(request.as_bytes()).await;
    assert!(text.starts_with("HTTP/1.1 400 "), "{text}");
}

/// A request that is under way until its body has come, on a connection of a trusted proxy.
struct Underway(TcpStream);

impl Underway {
    /// Begins it for the client `of`; the connection comes back where there was no place.
    async fn begin(mut at: TcpStream, of: u8) -> Result<Underway, String> {
        let head = format!(
            "POST /jobs HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
             X-Forwarded-For: 192.0.2.{of}\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n"
        );
        at.write_all(head.as_bytes()).await.unwrap();
        let head = Underway::head(&mut at).await;
        match head.starts_with("HTTP/1.1 100 ") {
            true => Ok(Underway(at)),
            false => Err(head),
        }
    }

    /// Ends it, and gives the connection back.
    async fn end(mut self) -> TcpStream {
        self.0.write_all(b"[]").await.unwrap();
        let head = Underway::head(&mut self.0).await;
        assert!(head.starts_with("HTTP/1.1 400 "), "{head}");
        let length = head.to_lowercase();
        let length = length.split("content-length: ").nth(1).unwrap();
        let length = length.split("\r\n").next().unwrap().parse().unwrap();
        self.0.read_exact(&mut vec![0; length]).await.unwrap();
        self.0
    }

    async fn head(at: &mut TcpStream) -> String {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(at.read_u8().await.unwrap());
        }
        String::from_utf8(head).unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_behind_a_proxy_has_its_share_of_the_requests_whatever_connections_bring_them() {
    let home = Home::new().await;
    home.configure(&json!({ "trusted_proxies": ["127.0.0.1"] }));
    let manager = Manager::new(&home);
    let mut command = manager.command_under(&["prlimit", "--nofile=1024"], home.mistryd());
    let service = crate::support::manager::Service(command.spawn().unwrap());
    manager.notified("READY=1").await;
    let At::Tcp(tcp) = manager.over_tcp() else {
        panic!("it is over TCP")
    };
    // As many as there are places over TCP.
    let (most, clients) = (120, 12);
    let mut free = Vec::new();
    // Some are left for connections that take the place of one that was closed.
    for _ in 0..most - 10 {
        free.push(TcpStream::connect(tcp).await.unwrap());
    }
    let mut underway: Vec<(usize, Underway)> = Vec::new();
    let (mut seed, mut refused) = (7_u64, 0);
    let mut any = |below: usize| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (seed >> 33) as usize % below
    };
    for step in 0..2_000 {
        // By turns there are more and less of them.
        let is_begun = any(10) < if step / 250 % 2 == 0 { 8 } else { 3 };
        if is_begun && let Some(at) = free.pop() {
            // One client asks for half of all.
            let of = if any(2) == 0 { 0 } else { any(clients) };
            let own = underway.iter().filter(|(by, _)| *by == of).count() + 1;
            let is_scarce = most - (underway.len() + 1) < most / 4;
            let fits = !is_scarce || own <= most / 16;
            let begin = async {
                let mut begun = Underway::begin(at, of as u8).await;
                // The place of a request that was answered is given back a moment after the answer.
                while fits && begun.is_err() {
                    let at = TcpStream::connect(tcp).await.unwrap();
                    begun = Underway::begin(at, of as u8).await;
                }
                begun
            };
            match within("an answer", begin).await {
                Ok(begun) => {
                    assert!(fits, "step {step}: {own} of {}", underway.len());
                    underway.push((of, begun));
                }
                Err(head) => {
                    assert!(head.starts_with("HTTP/1.1 503 "), "{head}");
                    assert!(head.contains("\r\nretry-after: "), "{head}");
                    refused += 1;
                    free.push(TcpStream::connect(tcp).await.unwrap());
                }
            }
        } else if !underway.is_empty() {
            let (_, ended) = underway.swap_remove(any(underway.len()));
            free.push(within("an end", ended.end()).await);
        }
    }
    assert!(refused > 20, "{refused}");
    service.signal(Signal::TERM);
    drop((free, underway));
    assert_eq!(service.ended().await, 0);
}

/// Asks for events from an address of its own; the connection, where there was a place for it.
async fn follow(at: SocketAddr, from: u8) -> Option<TcpStream> {
    within("events", async {
        let socket = TcpSocket::new_v4().unwrap();
        socket
            .bind(SocketAddr::from(([127, 0, 0, from], 0)))
            .unwrap();
        let mut connection = socket.connect(at).await.unwrap();
        let request = b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n";
        connection.write_all(request).await.unwrap();
        let mut status = [0; 12];
        connection.read_exact(&mut status).await.unwrap();
        match &status {
            b"HTTP/1.1 200" => Some(connection),
            b"HTTP/1.1 503" => None,
            _ => panic!("{}", String::from_utf8_lossy(&status)),
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn with_every_tcp_connection_taken_this_host_builds_cancels_and_collects() {
    let (bus, home) = (TestBus::start(), Home::new().await);
    home.configure(&json!({}));
    home.fixture("succeed");
    home.fixture("slow");
    let manager = Manager::new(&home);
    let mut mistryd = home.mistryd();
    mistryd
        .arg("--user-bus")
        .env("DBUS_SESSION_BUS_ADDRESS", bus.address());
    // With few descriptors, few connections are accepted: 120 over TCP, 8 for this host.
    let mut command = manager.command_under(&["prlimit", "--nofile=1024"], mistryd);
    let service = crate::support::manager::Service(command.spawn().unwrap());
    manager.notified("READY=1").await;
    let here = bus.connect().await;
    bus.named(&here).await;
    let (At::Tcp(tcp), unix) = (manager.over_tcp(), manager.over_unix()) else {
        panic!("it is over TCP")
    };
    let mut held = Vec::new();
    for from in 2..14 {
        for _ in 0..15 {
            held.extend(follow(tcp, from).await);
        }
    }
    assert_eq!(held.len(), 120);
    assert!(follow(tcp, 99).await.is_none(), "a place was left");

    let info = unix.ask(Ask::post("/jobs", &job("succeed")).json()).await;
    assert_eq!(text(&info.expect(201).json(), "Outcome"), "succeeded");
    home.engine.hold("wait");
    let slow = unix
        .ask(Ask::post("/jobs?async", &job("slow")).json())
        .await;
    let slow = text(&slow.expect(201).json(), "ID").to_owned();
    home.engine.wait_for("wait", 1).await;
    let cancel = Ask::post(format!("/job/slow/{slow}/cancel"), &json!({})).json();
    unix.ask(cancel).await.expect(202);
    home.engine.release("wait");
    let waited = unix
        .ask(Ask::get(format!("/job/slow/{slow}?wait")).json())
        .await;
    let outcome = waited.expect(200).json()["BuildInfo"]["Outcome"].clone();
    assert_eq!(outcome, "cancelled");
    let policy = json!({ "max_age": "1h" });
    unix.ask(Ask::post("/gc", &policy).json()).await.expect(200);

    let on_bus = bus::manager(&here).await;
    let mut ends = on_bus.receive_job_removed().await.unwrap();
    let (given, options) = (HashMap::from([("n", "bus")]), HashMap::new());
    let submitting = on_bus.submit_job("succeed", "", &given, &options);
    let (id, ..) = within("an answer", submitting).await.unwrap();
    assert_eq!(end_of(&mut ends, &id).await, "succeeded");
    let policy = HashMap::from([("max_age", Variant::from(3_600_u64))]);
    let collecting = on_bus.collect_garbage(&policy);
    within("an answer", collecting).await.unwrap();
    let (listed, _) = on_bus.list_builds(&HashMap::new()).await.unwrap();
    assert_eq!(listed.len(), 3);
    // A place that is let go is free for another client.
    drop(held.pop());
    within("a place", async {
        while follow(tcp, 99).await.is_none() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    service.signal(Signal::TERM);
    assert_eq!(service.ended().await, 0);
}
