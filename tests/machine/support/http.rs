//! Requests to the daemon of the machine, over its unix socket or over TCP in its network: one
//! connection for each, nothing hidden.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde_json::Value;

use super::{ADDRESS, Machine, SOCKET, test_timeout};

/// An answer, whole.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub body: String,
}

impl Answer {
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }
}

/// A connection on which nothing has been said yet.
pub trait Connection: Read + Write + Send {}
impl Connection for TcpStream {}
impl Connection for UnixStream {}

impl Machine {
    /// Connects to the unix socket, as root.
    pub fn connect_unix(&self) -> io::Result<Box<dyn Connection>> {
        let stream = UnixStream::connect(self.path(SOCKET))?;
        stream.set_read_timeout(Some(test_timeout()))?;
        Ok(Box::new(stream))
    }

    /// Connects to the loopback of the machine.
    pub fn connect_tcp(&self) -> io::Result<Box<dyn Connection>> {
        let network = File::open(format!("/proc/{}/ns/net", self.leader))?;
        // A socket stays in the network in which it was made; the thread that made it ends.
        let connected = std::thread::spawn(move || {
            move_into_link_name_space(network.as_fd(), Some(LinkNameSpaceType::Network))?;
            TcpStream::connect(ADDRESS)
        });
        let stream = connected
            .join()
            .map_err(|_| io::Error::other("the thread panicked"))??;
        stream.set_read_timeout(Some(test_timeout()))?;
        Ok(Box::new(stream))
    }

    /// `GET` over the unix socket.
    #[track_caller]
    pub fn get(&self, path: &str) -> Answer {
        ask(self.connect_unix().unwrap(), "GET", path, "")
    }

    /// `POST` of JSON over the unix socket.
    #[track_caller]
    pub fn post(&self, path: &str, body: &Value) -> Answer {
        ask(
            self.connect_unix().unwrap(),
            "POST",
            path,
            &body.to_string(),
        )
    }
}

/// Asks, and reads the whole answer.
#[track_caller]
pub fn ask(connection: Box<dyn Connection>, method: &str, path: &str, body: &str) -> Answer {
    try_ask(connection, method, path, body).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The same, for callers that know what to do without an answer.
pub fn try_ask(
    mut connection: Box<dyn Connection>,
    method: &str,
    path: &str,
    body: &str,
) -> io::Result<Answer> {
    send(&mut *connection, method, path, body)?;
    let mut answer = Vec::new();
    connection.read_to_end(&mut answer)?;
    let answer = String::from_utf8_lossy(&answer);
    let nonsense = || io::Error::other(format!("no answer: '{answer}'"));
    let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(nonsense)?;
    let status = head
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok());
    let chunked = head
        .to_ascii_lowercase()
        .contains("transfer-encoding: chunked");
    Ok(Answer {
        status: status.ok_or_else(nonsense)?,
        body: if chunked {
            whole(body)
        } else {
            body.to_owned()
        },
    })
}

/// Asks, and reads nothing.
pub fn send(
    connection: &mut dyn Connection,
    method: &str,
    path: &str,
    body: &str,
) -> io::Result<()> {
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: {ADDRESS}\r\nConnection: close\r\n\
        Accept: application/json\r\nContent-Type: application/json\r\n\
        Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    connection.write_all(request.as_bytes())
}

/// A body that came in pieces, each with its length before it.
fn whole(mut chunks: &str) -> String {
    let mut body = String::new();
    while let Some((length, rest)) = chunks.split_once("\r\n") {
        let Ok(length) = usize::from_str_radix(length.trim(), 16) else {
            break;
        };
        let Some(chunk) = rest.get(..length).filter(|chunk| !chunk.is_empty()) else {
            break;
        };
        body.push_str(chunk);
        chunks = rest[length..].trim_start_matches("\r\n");
    }
    body
}
