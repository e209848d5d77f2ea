//! As little HTTP as a benchmark needs: one connection, and a load of several.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// The text of a request.
pub fn request(method: &str, path: &str, body: &str) -> String {
    format!(
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nAccept: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// One connection kept alive.
pub struct Connection<S>(pub S);

impl Connection<std::net::TcpStream> {
    pub fn tcp(port: u16) -> Self {
        let stream = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.set_nodelay(true).unwrap();
        Connection(stream)
    }
}

impl Connection<UnixStream> {
    pub fn engine() -> Self {
        let socket =
            std::env::var("DOCKER_SOCK").unwrap_or_else(|_| "/var/run/docker.sock".to_owned());
        Connection(UnixStream::connect(socket).unwrap())
    }
}

impl<S: Read + Write> Connection<S> {
    /// Sends a request and reads its answer to the end: status and body.
    pub fn ask(&mut self, method: &str, path: &str, body: &str) -> (u16, Vec<u8>) {
        self.0
            .write_all(request(method, path, body).as_bytes())
            .unwrap();
        let mut bytes = Vec::new();
        let mut chunk = vec![0; 64 << 10];
        loop {
            if let Some(answer) = answer_of(&bytes) {
                return answer;
            }
            let count = self.0.read(&mut chunk).unwrap();
            assert!(count > 0, "the connection was closed");
            bytes.extend_from_slice(&chunk[..count]);
        }
    }
}

/// Status and body, once all of it is there.
fn answer_of(bytes: &[u8]) -> Option<(u16, Vec<u8>)> {
    let end = bytes.windows(4).position(|w| w == b"\r\n\r\n")? + 4;
    let head = String::from_utf8_lossy(&bytes[..end]).to_ascii_lowercase();
    let status: u16 = head.split(' ').nth(1)?.parse().ok()?;
    let rest = &bytes[end..];
    if let Some((_, length)) = head.split_once("content-length: ") {
        let length: usize = length.split("\r\n").next()?.parse().ok()?;
        return (rest.len() >= length).then(|| (status, rest[..length].to_vec()));
    }
    if head.contains("transfer-encoding: chunked") {
        return rest
            .ends_with(b"0\r\n\r\n")
            .then(|| (status, rest.to_vec()));
    }
    Some((status, Vec::new()))
}

/// What a load came to.
pub struct Load {
    pub per_second: f64,
    /// Seconds each answer took.
    pub latencies: Vec<f64>,
}

/// Asks the same over `connections` connections for `time`.
pub fn load(port: u16, text: &str, connections: usize, time: Duration) -> Load {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let began = Instant::now();
    let text: &'static str = Box::leak(text.to_owned().into_boxed_str());
    let latencies: Vec<f64> = runtime.block_on(async {
        let tasks: Vec<_> = (0..connections)
            .map(|_| {
                tokio::spawn(async move {
                    let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", port))
                        .await
                        .unwrap();
                    stream.set_nodelay(true).unwrap();
                    let mut latencies = Vec::new();
                    let mut bytes = vec![0; 256 << 10];
                    while began.elapsed() < time {
                        let asked = Instant::now();
                        stream.write_all(text.as_bytes()).await.unwrap();
                        let mut filled = 0;
                        while !is_whole(&bytes[..filled]) {
                            let count = stream.read(&mut bytes[filled..]).await.unwrap();
                            assert!(count > 0, "the connection was closed");
                            filled += count;
                        }
                        assert!(bytes.starts_with(b"HTTP/1.1 20"), "not a good answer");
                        latencies.push(asked.elapsed().as_secs_f64());
                    }
                    latencies
                })
            })
            .collect();
        let mut all = Vec::new();
        for task in tasks {
            all.extend(task.await.unwrap());
        }
        all
    });
    Load {
        per_second: latencies.len() as f64 / began.elapsed().as_secs_f64(),
        latencies,
    }
}

/// Cheaper than [`answer_of`]: the load must not be the bottleneck.
fn is_whole(bytes: &[u8]) -> bool {
    let Some(end) = bytes.windows(4).position(|w| w == b"\r\n\r\n") else {
        return false;
    };
    let head = &bytes[..end];
    let name = b"content-length: ";
    let Some(at) = head.windows(name.len()).position(|w| w == name) else {
        return true;
    };
    let digits = &head[at + name.len()..];
    let digits = digits.split(|b| *b == b'\r').next().unwrap();
    let length: usize = std::str::from_utf8(digits).unwrap().parse().unwrap();
    bytes.len() >= end + 4 + length
}

/// The limit for cached answers: hyper alone, on as many threads, that reads each request and
/// answers the bytes in `file`. Prints its port.
pub fn bare_server(file: &str) {
    let answer = Bytes::from(std::fs::read(file).unwrap());
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        println!("{}", listener.local_addr().unwrap().port());
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            stream.set_nodelay(true).unwrap();
            let answer = answer.clone();
            tokio::spawn(async move {
                let service = hyper::service::service_fn(
                    move |request: hyper::Request<hyper::body::Incoming>| {
                        let answer = answer.clone();
                        async move {
                            request.into_body().collect().await?;
                            let response = hyper::Response::builder()
                                .status(201)
                                .header("content-type", "application/json")
                                .body(Full::new(answer))
                                .unwrap();
                            Ok::<_, hyper::Error>(response)
                        }
                    },
                );
                hyper::server::conn::http1::Builder::new()
                    .serve_connection(hyper_util::rt::TokioIo::new(stream), service)
                    .await
                    .ok();
            });
        }
    });
}
