//! One connection, one request, one response.
//!
//! A connection stays open as long as its [`Response`]; dropping the response closes it. TCP
//! keep-alive detects a peer that vanished within a minute, so waiting for a build needs no timer here.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::Method;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::Serialize;
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

use super::{Address, Error, Response};

pub(super) const JSON: &str = "application/json";
pub(super) const EVENT_STREAM: &str = "text/event-stream";
pub(super) const TEXT: &str = "text/plain";

/// One attempt to connect: a person does not wait longer for a first response.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Silence before the kernel sends keep-alive probes.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);
/// Time between keep-alive probes; after three without an answer the connection is broken.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_PROBES: u32 = 3;

/// A request that can be sent to any server.
#[derive(Debug)]
pub(super) struct Request {
    method: Method,
    path: String,
    accept: &'static str,
    headers: Vec<(&'static str, String)>,
    body: Bytes,
}

impl Request {
    pub(super) fn new(method: Method, path: impl Into<String>) -> Request {
        Request {
            method,
            path: path.into(),
            accept: JSON,
            headers: Vec::new(),
            body: Bytes::new(),
        }
    }

    pub(super) fn accept(mut self, media_type: &'static str) -> Request {
        self.accept = media_type;
        self
    }

    pub(super) fn header(mut self, name: &'static str, value: &str) -> Request {
        self.headers.push((name, value.to_owned()));
        self
    }

    pub(super) fn json(mut self, body: &impl Serialize) -> Result<Request, Error> {
        self.body = serde_json::to_vec(body)?.into();
        Ok(self.header("content-type", JSON))
    }

    pub(super) fn with_token(self, token: Option<&str>) -> Request {
        match token {
            Some(token) => self.header("authorization", &format!("Bearer {token}")),
            None => self,
        }
    }
}

/// Connects, sends the request, and waits for the head of the response.
pub(super) async fn send(address: &Address, request: Request) -> Result<Response, Error> {
    let failed = |source| Error::Connect {
        address: address.clone(),
        source,
    };
    let timed_out = |_| failed(io::ErrorKind::TimedOut.into());
    let mut builder = hyper::Request::builder()
        .method(request.method)
        .uri(request.path)
        .header("host", address.authority())
        .header("user-agent", concat!("mistry/", env!("CARGO_PKG_VERSION")))
        .header("accept", request.accept);
    for (name, value) in request.headers {
        builder = builder.header(name, value);
    }
    let request = builder
        .body(Full::new(request.body))
        .map_err(|error| Error::InvalidResponse(error.to_string()))?;
    match address {
        Address::Tcp(host, port) => {
            let stream = timeout(CONNECT_TIMEOUT, TcpStream::connect((host.as_str(), *port)))
                .await
                .map_err(timed_out)?
                .and_then(enable_keep_alive)
                .map_err(failed)?;
            exchange(stream, request).await
        }
        Address::Unix(path) => {
            let connected = timeout(CONNECT_TIMEOUT, UnixStream::connect(path))
                .await
                .map_err(timed_out)?;
            match connected {
                Ok(stream) => exchange(stream, request).await,
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                    let metadata = tokio::fs::metadata(path).await;
                    Err(Error::forbidden(path, metadata.ok().as_ref()))
                }
                Err(error) => Err(failed(error)),
            }
        }
    }
}

fn enable_keep_alive(stream: TcpStream) -> io::Result<TcpStream> {
    use rustix::net::sockopt;
    stream.set_nodelay(true)?;
    sockopt::set_socket_keepalive(&stream, true)?;
    sockopt::set_tcp_keepidle(&stream, KEEPALIVE_IDLE)?;
    sockopt::set_tcp_keepintvl(&stream, KEEPALIVE_INTERVAL)?;
    sockopt::set_tcp_keepcnt(&stream, KEEPALIVE_PROBES)?;
    Ok(stream)
}

async fn exchange<S>(stream: S, request: hyper::Request<Full<Bytes>>) -> Result<Response, Error>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let broken = |error: hyper::Error| Error::Broken(error.into());
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(broken)?;
    // Its errors reach the reader of the response.
    let connection = AbortOnDropHandle::new(tokio::spawn(async move {
        let _ = connection.await;
    }));
    let response = match sender.send_request(request).await {
        Ok(response) => response,
        Err(error) if error.is_parse() => return Err(Error::InvalidResponse(error.to_string())),
        Err(error) => return Err(broken(error)),
    };
    Ok(Response::new(response, connection))
}
