//! A small HTTP client for tests: one connection for each request, nothing hidden.

use std::path::Path;
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::{HeaderMap, Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};

/// A test that hangs shall fail: nothing that is waited for here takes longer on the slowest host.
pub const TEST_TIMEOUT: Duration = Duration::from_secs(120);

/// An answer, whole.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.text()))
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }
}

/// Asks and reads the whole answer.
#[track_caller]
pub fn ask(
    address: &str,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Answer {
    within_timeout(async { whole(send(address, method, path, headers, body).await).await })
}

async fn whole(response: Response<Incoming>) -> Answer {
    let (head, body) = response.into_parts();
    let body = body.collect().await.expect("the answer comes whole");
    Answer {
        status: head.status.as_u16(),
        headers: head.headers,
        body: body.to_bytes().to_vec(),
    }
}

/// The same over a unix socket.
#[track_caller]
pub fn ask_socket(
    socket: &Path,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Answer {
    within_timeout(async {
        let stream = tokio::net::UnixStream::connect(socket)
            .await
            .expect("mistryd listens");
        let response = send_over(stream, "localhost", method, path, headers, body).await;
        whole(response).await
    })
}

/// Reads an answer that goes on, until `needle` has come; then hangs up. Returns what was read.
#[track_caller]
pub fn follow(address: &str, path: &str, needle: &str) -> String {
    within_timeout(async {
        let response = send(
            address,
            "GET",
            path,
            &[("accept", "text/event-stream")],
            b"",
        )
        .await;
        assert!(
            response.status().is_success(),
            "{path}: {}",
            response.status()
        );
        let mut body = response.into_body();
        let mut read = String::new();
        while let Some(frame) = body.frame().await {
            let known = read.len();
            if let Ok(data) = frame.expect("the answer goes on").into_data() {
                read.push_str(&String::from_utf8_lossy(&data));
            }
            // What comes may be long: it is not searched from its beginning each time.
            let mut from = known.saturating_sub(needle.len());
            while !read.is_char_boundary(from) {
                from -= 1;
            }
            if read[from..].contains(needle) {
                return read;
            }
        }
        panic!("'{needle}' did not come: {read}")
    })
}

async fn send(
    address: &str,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Response<Incoming> {
    let stream = tokio::net::TcpStream::connect(address)
        .await
        .expect("mistryd listens");
    send_over(stream, address, method, path, headers, body).await
}

async fn send_over(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    host: &str,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Response<Incoming> {
    let connected = hyper::client::conn::http1::handshake(TokioIo::new(stream));
    let (mut sender, connection) = connected.await.unwrap();
    // Ends with the runtime.
    tokio::spawn(connection);
    let mut request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", host);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request
        .body(Full::new(Bytes::copy_from_slice(body)))
        .unwrap();
    sender.send_request(request).await.expect("mistryd answers")
}

#[track_caller]
pub fn within_timeout<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let done = runtime.block_on(async { tokio::time::timeout(TEST_TIMEOUT, work).await });
    done.expect("an answer within the timeout of a test")
}
