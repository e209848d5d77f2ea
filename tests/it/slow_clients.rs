//! Slow clients are disconnected, and what they held is free for others.
//!
//! The clock stands still and jumps to the next deadline when there is nothing else to do, so a timeout of
//! an hour takes no time; the clock also says how long the server has waited.

use std::time::Duration;

use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::Instant,
};

use crate::support::{daemon::TestDaemon, http::Ask};

/// What is read until the server ends the connection, and how long that took.
async fn end_of(mut connection: TcpStream, began: Instant) -> (String, Duration) {
    let mut answer = Vec::new();
    // A connection that is cut is as good as one that is closed.
    let _ = connection.read_to_end(&mut answer).await;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    (answer, began.elapsed())
}

#[tokio::test(start_paused = true)]
async fn a_client_that_sends_a_header_too_slowly_is_disconnected() {
    let daemon = TestDaemon::with(&[]).await;
    let mut connection = TcpStream::connect(("127.0.0.1", daemon.port()))
        .await
        .unwrap();
    let began = Instant::now();
    connection
        .write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n")
        .await
        .unwrap();
    let (mut from, mut to) = connection.into_split();
    // A byte now and then does not extend the timeout. No more of them than needed: while the
    // end is on its way to us, the clock would advance with each.
    let dripping = async {
        for byte in b"X-Slo" {
            tokio::time::sleep(Duration::from_secs(7)).await;
            if to.write_all(&[*byte]).await.is_err() {
                return;
            }
        }
        std::future::pending().await
    };
    let mut answer = Vec::new();
    tokio::select! {
        _ = from.read_to_end(&mut answer) => {}
        () = dripping => {}
    }
    let took = began.elapsed().as_secs();
    assert!((30..45).contains(&took), "{took} s");
    assert!(!answer.starts_with(b"HTTP/1.1 200"));
    daemon.ask(Ask::get("/healthz")).await.expect(200);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_never_ends_a_request_gets_an_error_and_is_disconnected() {
    let daemon = TestDaemon::with(&[]).await;
    let mut connection = TcpStream::connect(("127.0.0.1", daemon.port()))
        .await
        .unwrap();
    let began = Instant::now();
    let head = "POST /jobs HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
                Content-Length: 99\r\n\r\n{\"project\":";
    connection.write_all(head.as_bytes()).await.unwrap();
    let (answer, took) = end_of(connection, began).await;
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer:?}");
    let took = took.as_secs();
    assert!((60..95).contains(&took), "{took} s");
    daemon.ask(Ask::get("/healthz")).await.expect(200);
}

/// Sends a request for a job with a body of so many bytes, and returns how long the server reads it
/// where so many of them come each second.
async fn trickling(daemon: &TestDaemon, bytes: usize, rate: usize) -> (String, Duration) {
    let mut connection = TcpStream::connect(("127.0.0.1", daemon.port()))
        .await
        .unwrap();
    let began = Instant::now();
    let job = json!({ "project": "succeed", "params": { "a": "x".repeat(bytes) } }).to_string();
    let head = format!(
        "POST /jobs?async HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
         Connection: close\r\nContent-Length: {}\r\n\r\n",
        job.len()
    );
    connection.write_all(head.as_bytes()).await.unwrap();
    let (mut from, mut to) = connection.split();
    let trickling = async {
        for piece in job.as_bytes().chunks(rate) {
            if to.write_all(piece).await.is_err() {
                break;
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        std::future::pending::<()>().await;
    };
    let mut answer = Vec::new();
    tokio::select! {
        _ = from.read_to_end(&mut answer) => {}
        () = trickling => {}
    }
    let answer = String::from_utf8_lossy(&answer).into_owned();
    (answer, began.elapsed())
}

#[tokio::test(start_paused = true)]
async fn a_request_that_arrives_too_slowly_is_refused_and_one_over_a_slow_line_is_accepted() {
    let daemon = TestDaemon::with(&["succeed"]).await;
    let (answer, took) = trickling(&daemon, 200_000, 100).await;
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer:?}");
    assert!((60..95).contains(&took.as_secs()), "{took:?}");
    // Ten minutes long, at 8 KiB a second.
    let (answer, took) = trickling(&daemon, 5 << 20, 8 << 10).await;
    assert!(answer.starts_with("HTTP/1.1 201"), "{answer:?}");
    assert!(took.as_secs() > 600, "{took:?}");
}
