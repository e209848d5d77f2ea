//! Clients that ask for much and read the head of its answer, and nothing after that.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use crate::support::http::TEST_TIMEOUT;

/// Connections that are being made at once: fewer than the kernel's queue of a listener holds.
const AT_ONCE: usize = 128;
/// The smallest receive buffer that the kernel allows.
const RECEIVE_BUFFER: u32 = 4 << 10;
/// Addresses of this host that clients come from.
const ADDRESSES: usize = 16;

/// The result of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    Status(u16),
    /// A 503 that does not say when to come again.
    BareRefusal,
    /// The connection was ended without an answer.
    Closed,
    Reset,
    /// No answer yet.
    Nothing,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Outcome::Status(status) => write!(f, "{status}"),
            Outcome::BareRefusal => f.write_str("503 without Retry-After"),
            Outcome::Closed => f.write_str("closed"),
            Outcome::Reset => f.write_str("reset"),
            Outcome::Nothing => f.write_str("no answer"),
        }
    }
}

/// A client, connected until it is dropped.
#[derive(Debug)]
pub struct Reader {
    stream: Option<TcpStream>,
    pub outcome: Outcome,
}

/// Where clients come from.
#[derive(Clone, Copy, Debug)]
pub enum From {
    /// All from one address.
    One,
    /// From many, in turn.
    Many,
}

impl From {
    fn address(self, number: usize) -> Ipv4Addr {
        match self {
            From::One => Ipv4Addr::LOCALHOST,
            From::Many => Ipv4Addr::new(127, 0, 0, 2 + u8::try_from(number % ADDRESSES).unwrap()),
        }
    }
}

/// `count` clients that send `request`, and wait so long for the head of its answer.
pub async fn open(
    server: SocketAddr,
    from: From,
    count: usize,
    request: &[u8],
    timeout: Duration,
) -> Vec<Reader> {
    stream::iter(0..count)
        .map(|number| Reader::open(server, from.address(number), request, timeout))
        .buffer_unordered(AT_ONCE)
        .collect()
        .await
}

/// A request without a body.
pub fn get(path: &str, headers: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n{headers}\r\n").into_bytes()
}

/// Counts of the answers.
pub fn count(readers: &[Reader]) -> BTreeMap<Outcome, usize> {
    let mut counts = BTreeMap::new();
    for reader in readers {
        *counts.entry(reader.outcome).or_default() += 1;
    }
    counts
}

impl Reader {
    async fn open(server: SocketAddr, from: Ipv4Addr, request: &[u8], timeout: Duration) -> Reader {
        let connected = tokio::time::timeout(TEST_TIMEOUT, connect(server, from)).await;
        let Ok(mut stream) = connected.expect("the kernel accepts connections") else {
            return Reader {
                stream: None,
                outcome: Outcome::Reset,
            };
        };
        if request.is_empty() {
            // It is refused all the same where there is no place for it.
            let outcome = tokio::time::timeout(timeout, head(&mut stream)).await;
            let outcome = outcome.unwrap_or(Outcome::Nothing);
            return Reader {
                stream: Some(stream),
                outcome,
            };
        }
        // A server that refuses need not read all of it; its answer says so.
        let _ = tokio::time::timeout(TEST_TIMEOUT, stream.write_all(request)).await;
        let outcome = tokio::time::timeout(timeout, head(&mut stream)).await;
        Reader {
            stream: Some(stream),
            outcome: outcome.unwrap_or(Outcome::Nothing),
        }
    }

    /// Waits for the head of an answer that has not come yet.
    pub async fn wait_for_head(&mut self) {
        if self.outcome == Outcome::Nothing
            && let Some(stream) = &mut self.stream
        {
            let outcome = tokio::time::timeout(TEST_TIMEOUT, head(stream)).await;
            self.outcome = outcome.unwrap_or(Outcome::Nothing);
        }
    }
}

async fn connect(server: SocketAddr, from: Ipv4Addr) -> std::io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.set_recv_buffer_size(RECEIVE_BUFFER)?;
    socket.bind((from, 0).into())?;
    socket.connect(server).await
}

async fn head(stream: &mut TcpStream) -> Outcome {
    let mut head = Vec::new();
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        let mut some = [0; 512];
        match stream.read(&mut some).await {
            Ok(0) => return Outcome::Closed,
            Ok(count) => head.extend_from_slice(&some[..count]),
            Err(_) => return Outcome::Reset,
        }
    }
    let head = String::from_utf8_lossy(&head).to_lowercase();
    let status = head
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok());
    match status {
        Some(503) if !head.contains("\r\nretry-after: ") => Outcome::BareRefusal,
        Some(status) => Outcome::Status(status),
        None => Outcome::Closed,
    }
}

/// A client that reads an answer whole, with pauses.
#[derive(Debug)]
pub struct Steady {
    stream: TcpStream,
    /// What has come since the head.
    pub read: u64,
    end: Vec<u8>,
    pub is_over: bool,
}

impl Steady {
    pub async fn open(server: SocketAddr, path: &str) -> Steady {
        let mut stream = TcpStream::connect(server).await.unwrap();
        let request = get(path, "");
        stream.write_all(&request).await.unwrap();
        assert_eq!(head(&mut stream).await, Outcome::Status(200), "{path}");
        Steady {
            stream,
            read: 0,
            end: Vec::new(),
            is_over: false,
        }
    }

    /// Reads `bytes` more, or to the end: the last chunk of a chunked answer.
    pub async fn read(&mut self, bytes: u64) {
        let wanted = self.read.saturating_add(bytes);
        let mut some = vec![0; 64 << 10];
        while self.read < wanted && !self.is_over {
            let came = tokio::time::timeout(TEST_TIMEOUT, self.stream.read(&mut some)).await;
            let count = came.expect("an answer under way goes on").unwrap();
            assert!(count > 0, "an answer ended after {} bytes", self.read);
            self.read += count as u64;
            self.end.extend_from_slice(&some[..count]);
            let surplus = self.end.len().saturating_sub(5);
            self.end.drain(..surplus);
            self.is_over = self.end == b"0\r\n\r\n";
        }
    }
}
