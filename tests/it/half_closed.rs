//! A client that closes its sending side is answered; its jobs with `cancel_on_disconnect` are cancelled.

use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

use crate::support::{
    daemon::{TestDaemon, job, text},
    http::{Ask, within},
};

/// Sends a request, as `nc -N` does: then nothing more is sent. Over TCP and over the unix socket.
async fn connected(daemon: &TestDaemon) -> Vec<Box<dyn Both>> {
    vec![
        Box::new(
            TcpStream::connect(("127.0.0.1", daemon.port()))
                .await
                .unwrap(),
        ),
        Box::new(UnixStream::connect(daemon.socket()).await.unwrap()),
    ]
}

trait Both: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Both for T {}

async fn send(connection: &mut (impl Both + ?Sized), request: &str) {
    connection.write_all(request.as_bytes()).await.unwrap();
    connection.shutdown().await.unwrap();
}

async fn rest(connection: &mut (impl Both + ?Sized)) -> String {
    let mut answer = Vec::new();
    within("the answer", connection.read_to_end(&mut answer))
        .await
        .unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n")
}

fn post(body: &Value) -> String {
    let body = body.to_string();
    let length = body.len();
    format!(
        "POST /jobs HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
         Content-Length: {length}\r\n\r\n{body}"
    )
}

/// The body of an answer with a known length.
fn body(answer: &str) -> Value {
    serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap()
}

#[tokio::test]
async fn a_half_closed_client_gets_json_a_file_and_a_complete_tar() {
    let daemon = TestDaemon::with(&["succeed"]).await;
    let asked = json!({ "project": "succeed", "params": { "a": "x".repeat(200_000) } });
    let info = daemon.build(asked).await;
    let at = format!("/artifacts/succeed/{}", text(&info, "ID"));
    for mut connection in connected(&daemon).await {
        send(&mut *connection, &get("/status")).await;
        assert_eq!(body(&rest(&mut *connection).await)["Running"], 0);
    }
    for mut connection in connected(&daemon).await {
        send(&mut *connection, &get(&format!("{at}/a"))).await;
        assert!(rest(&mut *connection).await.ends_with(&"x".repeat(200_000)));
    }
    for mut connection in connected(&daemon).await {
        send(&mut *connection, &get(&at)).await;
        let tar = rest(&mut *connection).await;
        // The last chunk: the answer is complete.
        assert!(tar.starts_with("HTTP/1.1 200") && tar.ends_with("\r\n0\r\n\r\n"));
    }
    // Requests that were sent at once are answered one after the other.
    for mut connection in connected(&daemon).await {
        send(&mut *connection, &get("/healthz").repeat(3)).await;
        let answers = rest(&mut *connection).await;
        assert_eq!(answers.matches("HTTP/1.1 200 OK").count(), 3);
    }
}

#[tokio::test]
async fn a_half_closed_client_that_waits_is_answered_when_the_build_is_over() {
    let daemon = TestDaemon::with(&["succeed"]).await;
    daemon.home.engine.hold("wait");
    let mut waiting = connected(&daemon).await;
    for connection in &mut waiting {
        send(&mut **connection, &post(&job("succeed"))).await;
    }
    daemon.home.engine.wait_for("wait", 1).await;
    daemon.home.engine.release("wait");
    for connection in &mut waiting {
        let answer = rest(&mut **connection).await;
        assert!(answer.starts_with("HTTP/1.1 201"), "{answer}");
        assert_eq!(body(&answer)["Outcome"], "succeeded");
    }
}

#[tokio::test]
async fn a_half_closed_connection_counts_as_disconnected_for_cancel_on_disconnect() {
    let daemon = TestDaemon::with(&["slow"]).await;
    let asked = json!({ "project": "slow", "cancel_on_disconnect": true });
    for mut connection in connected(&daemon).await {
        send(&mut *connection, &post(&asked)).await;
        let answer = rest(&mut *connection).await;
        assert!(answer.starts_with("HTTP/1.1 201"), "{answer}");
        assert_eq!(body(&answer)["Outcome"], "cancelled");
        assert_eq!(body(&answer)["Cancelled"]["By"], "mistryd");
    }
    // Event streams are sent to their end as well.
    let stream = post(&asked).replace("\r\n\r\n", "\r\nAccept: text/event-stream\r\n\r\n");
    for mut connection in connected(&daemon).await {
        send(&mut *connection, &stream).await;
        let events = rest(&mut *connection).await;
        assert!(events.contains("event: result"), "{events}");
    }
}

#[tokio::test]
async fn a_half_closed_waiter_does_not_prevent_a_cancellation() {
    let daemon = TestDaemon::with(&["slow"]).await;
    let asked = json!({ "project": "slow", "cancel_on_disconnect": true });
    let ask = Ask::post("/jobs", &asked).with("accept", "text/event-stream");
    let mut first = daemon.open(ask).await;
    let state = first.event().await.unwrap().json();
    let waited = get(&format!("/job/slow/{}?wait&json", text(&state, "ID")));
    let mut waiting = connected(&daemon).await;
    for connection in &mut waiting {
        send(&mut **connection, &waited).await;
    }
    first.until(|event| event.data == "waiting").await;
    drop(first);
    for connection in &mut waiting {
        let view = body(&rest(&mut **connection).await);
        assert_eq!(view["BuildInfo"]["Outcome"], "cancelled", "{view}");
    }
}

#[tokio::test]
async fn a_truncated_request_gets_an_error_or_is_dropped() {
    let daemon = TestDaemon::with(&["succeed"]).await;
    let whole = post(&job("succeed"));
    for mut connection in connected(&daemon).await {
        send(&mut *connection, &whole[..whole.len() - 3]).await;
        let answer = rest(&mut *connection).await;
        assert!(
            answer.is_empty() || answer.starts_with("HTTP/1.1 400"),
            "{answer}"
        );
    }
    for mut connection in connected(&daemon).await {
        send(&mut *connection, &whole[..30]).await;
        let answer = rest(&mut *connection).await;
        assert!(
            answer.is_empty() || answer.starts_with("HTTP/1.1 400"),
            "{answer}"
        );
    }
    assert_eq!(daemon.home.engine.containers().len(), 0);
}
