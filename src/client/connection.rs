//! One connection, one request, one answer.
//!
//! A connection lives as long as its [`Answer`]; dropping the answer ends it. A peer that
//! vanished without a word is noticed by TCP keep-alive within a minute, so a wait without
//! end needs no timer of ours.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{Stream, try_unfold};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

use super::{Address, Error, Events, nonsense};

pub(super) const JSON: &str = "application/json";
pub(super) const LINES: &str = "text/event-stream";
pub(super) const TEXT: &str = "text/plain";

/// One attempt to connect: as long as a person waits for a sign of life.
const CONNECT: Duration = Duration::from_secs(5);
/// Silence before the kernel asks whether the peer is still there.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);
/// Time between such questions; after three without an answer the connection is broken.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_PROBES: u32 = 3;

/// A question, before it is known whom it goes to.
#[derive(Debug)]
pub(super) struct Ask {
    method: Method,
    path: String,
    accept: &'static str,
    headers: Vec<(&'static str, String)>,
    body: Bytes,
}

impl Ask {
    pub(super) fn new(method: Method, path: impl Into<String>) -> Ask {
        Ask {
            method,
            path: path.into(),
            accept: JSON,
            headers: Vec::new(),
            body: Bytes::new(),
        }
    }

    pub(super) fn accept(mut self, kind: &'static str) -> Ask {
        self.accept = kind;
        self
    }

    pub(super) fn header(mut self, name: &'static str, value: &str) -> Ask {
        self.headers.push((name, value.to_owned()));
        self
    }

    pub(super) fn json(mut self, body: &impl Serialize) -> Result<Ask, Error> {
        self.body = serde_json::to_vec(body).map_err(nonsense)?.into();
        Ok(self.header("content-type", JSON))
    }

    pub(super) fn sign(self, token: Option<&str>) -> Ask {
        match token {
            Some(token) => self.header("authorization", &format!("Bearer {token}")),
            None => self,
        }
    }
}

/// Connects, asks, and waits for the head of the answer.
pub(super) async fn open(address: &Address, ask: Ask) -> Result<Answer, Error> {
    let failed = |source| Error::Connect {
        address: address.clone(),
        source,
    };
    let late = |_| failed(io::ErrorKind::TimedOut.into());
    let mut request = Request::builder()
        .method(ask.method)
        .uri(ask.path)
        .header("host", address.authority())
        .header("user-agent", concat!("mistry/", env!("CARGO_PKG_VERSION")))
        .header("accept", ask.accept);
    for (name, value) in ask.headers {
        request = request.header(name, value);
    }
    let request = request
        .body(Full::new(ask.body))
        .map_err(|error| Error::Nonsense(error.to_string()))?;
    match address {
        Address::Tcp(host, port) => {
            let stream = timeout(CONNECT, TcpStream::connect((host.as_str(), *port)))
                .await
                .map_err(late)?
                .and_then(keep_alive)
                .map_err(failed)?;
            exchange(stream, request).await
        }
        Address::Unix(path) => {
            let connected = timeout(CONNECT, UnixStream::connect(path))
                .await
                .map_err(late)?;
            match connected {
                Ok(stream) => exchange(stream, request).await,
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                    let known = tokio::fs::metadata(path).await;
                    Err(Error::forbidden(path, known.ok().as_ref()))
                }
                Err(error) => Err(failed(error)),
            }
        }
    }
}

fn keep_alive(stream: TcpStream) -> io::Result<TcpStream> {
    use rustix::net::sockopt;
    stream.set_nodelay(true)?;
    sockopt::set_socket_keepalive(&stream, true)?;
    sockopt::set_tcp_keepidle(&stream, KEEPALIVE_IDLE)?;
    sockopt::set_tcp_keepintvl(&stream, KEEPALIVE_INTERVAL)?;
    sockopt::set_tcp_keepcnt(&stream, KEEPALIVE_PROBES)?;
    Ok(stream)
}

async fn exchange<S>(stream: S, request: Request<Full<Bytes>>) -> Result<Answer, Error>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let broken = |error: hyper::Error| Error::Broken(error.into());
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(broken)?;
    // What goes wrong in there is told to the reader of the answer.
    let connection = AbortOnDropHandle::new(tokio::spawn(async move {
        let _ = connection.await;
    }));
    let response = match sender.send_request(request).await {
        Ok(response) => response,
        Err(error) if error.is_parse() => return Err(Error::Nonsense(error.to_string())),
        Err(error) => return Err(broken(error)),
    };
    Ok(Answer {
        response,
        _connection: connection,
    })
}

/// The head of an answer, and its body as it comes.
#[derive(Debug)]
pub struct Answer {
    response: Response<Incoming>,
    _connection: AbortOnDropHandle<()>,
}

impl Answer {
    /// The HTTP status.
    pub fn status(&self) -> u16 {
        self.response.status().as_u16()
    }

    /// A header that is text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.response.headers().get(name)?.to_str().ok()
    }

    /// True when the body is said to be of that media type, whatever its parameters.
    pub fn is(&self, kind: &str) -> bool {
        let said = self.header("content-type").unwrap_or_default();
        let said = said.split(';').next().unwrap_or_default().trim();
        said.eq_ignore_ascii_case(kind)
    }

    /// The next piece of the body; `None` at its end.
    ///
    /// # Errors
    /// [`Error::Broken`] when the connection ends before the body does.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, Error> {
        loop {
            match self.response.frame().await {
                None => return Ok(None),
                Some(Err(error)) => return Err(Error::Broken(error.into())),
                // Trailers say nothing that we ask for.
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        return Ok(Some(data));
                    }
                }
            }
        }
    }

    /// The whole body.
    ///
    /// # Errors
    /// [`Error::Nonsense`] past `limit` bytes, [`Error::Broken`].
    pub async fn bytes(mut self, limit: usize) -> Result<Vec<u8>, Error> {
        let mut body = Vec::new();
        while let Some(chunk) = self.chunk().await? {
            if body.len() + chunk.len() > limit {
                return Err(Error::Nonsense(format!("more than {limit} bytes")));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }

    /// The whole body as JSON.
    ///
    /// # Errors
    /// As [`Answer::bytes`], and [`Error::Nonsense`] for what is not such JSON.
    pub async fn json<T: DeserializeOwned>(self, limit: usize) -> Result<T, Error> {
        serde_json::from_slice(&self.bytes(limit).await?).map_err(nonsense)
    }

    /// The body as events.
    pub fn events(self) -> Events {
        Events::new(self)
    }

    /// The body as a stream of its pieces.
    pub fn stream(self) -> impl Stream<Item = Result<Bytes, Error>> + Send + 'static {
        try_unfold(self, |mut answer| async move {
            Ok(answer.chunk().await?.map(|chunk| (chunk, answer)))
        })
    }
}
