//! An HTTP client that sends what a test asks for, also invalid requests. One connection per request.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, Full};
use hyper::{HeaderMap, Request, body::Incoming};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpStream, UnixStream},
};

/// What takes longer than this hangs.
const FOREVER: Duration = Duration::from_secs(90);

/// Ends the test when something hangs.
pub async fn within<T>(what: &str, work: impl Future<Output = T>) -> T {
    match tokio::time::timeout(FOREVER, work).await {
        Ok(done) => done,
        Err(_) => panic!("{what} takes for ever"),
    }
}

/// Where a server listens.
#[derive(Clone, Debug)]
pub enum At {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

trait Both: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Both for T {}

impl At {
    async fn connect(&self) -> Box<dyn Both> {
        match self {
            At::Tcp(address) => Box::new(TcpStream::connect(address).await.unwrap()),
            At::Unix(path) => Box::new(UnixStream::connect(path).await.unwrap()),
        }
    }

    /// Sends a request and reads the head of its answer.
    pub async fn open(&self, ask: Ask) -> Opened {
        within(&ask.path.clone(), async {
            let io = TokioIo::new(self.connect().await);
            let (mut send, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
            tokio::spawn(connection);
            let mut request = Request::builder().method(&*ask.method).uri(&ask.path);
            for (name, value) in &ask.headers {
                request = request.header(name, value);
            }
            let request = request.body(Full::new(ask.body)).unwrap();
            let (head, body) = send.send_request(request).await.unwrap().into_parts();
            Opened {
                status: head.status.as_u16(),
                headers: head.headers,
                body,
                read: BytesMut::new(),
                _send: send,
            }
        })
        .await
    }

    /// Sends a request and reads its answer.
    pub async fn ask(&self, ask: Ask) -> Answer {
        self.open(ask).await.whole().await
    }

    /// Submits a job and returns its id.
    pub async fn submit(&self, job: &Value) -> String {
        let accepted = self.ask(Ask::post("/jobs?async", job)).await;
        let state = accepted.expect(201).json();
        state["ID"].as_str().unwrap().to_owned()
    }

    /// Sends bytes, and reads until the server ends the connection.
    pub async fn raw(&self, bytes: &[u8]) -> String {
        within("a raw request", async {
            let mut connection = self.connect().await;
            // The server may have had enough before all is sent.
            let _ = connection.write_all(bytes).await;
            let mut answer = Vec::new();
            let _ = connection.read_to_end(&mut answer).await;
            String::from_utf8_lossy(&answer).into_owned()
        })
        .await
    }
}

/// A request.
#[derive(Clone, Debug)]
pub struct Ask {
    method: String,
    path: String,
    headers: Vec<(String, String)>,
    body: Bytes,
}

impl Ask {
    pub fn new(method: &str, path: impl Into<String>) -> Ask {
        Ask {
            method: method.to_owned(),
            path: path.into(),
            headers: vec![("host".to_owned(), "localhost".to_owned())],
            body: Bytes::new(),
        }
    }

    pub fn get(path: impl Into<String>) -> Ask {
        Ask::new("GET", path)
    }

    /// A request that changes something, as JSON.
    pub fn post(path: impl Into<String>, body: &Value) -> Ask {
        Ask::new("POST", path)
            .with("content-type", "application/json")
            .body(body.to_string())
    }

    /// A header, which replaces what it had under this name.
    pub fn with(mut self, name: &str, value: impl Into<String>) -> Ask {
        self.headers.retain(|(there, _)| there != name);
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    /// Without a header.
    pub fn without(mut self, name: &str) -> Ask {
        self.headers.retain(|(there, _)| there != name);
        self
    }

    pub fn json(self) -> Ask {
        self.with("accept", "application/json")
    }

    pub fn body(mut self, body: impl Into<Bytes>) -> Ask {
        self.body = body.into();
        self
    }
}

/// An answer of which the head is read.
pub struct Opened {
    pub status: u16,
    pub headers: HeaderMap,
    body: Incoming,
    read: BytesMut,
    _send: hyper::client::conn::http1::SendRequest<Full<Bytes>>,
}

/// An event of a stream.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Event {
    pub name: String,
    pub id: Option<u64>,
    /// The id as it stands, where it is no number.
    pub mark: String,
    pub data: String,
}

impl Event {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.data).unwrap_or_else(|e| panic!("{e}: {:?}", self.data))
    }
}

impl Opened {
    /// Bytes that came since; `None` at the end, and when the server broke off.
    pub async fn piece(&mut self) -> Option<Bytes> {
        if !self.read.is_empty() {
            return Some(self.read.split().freeze());
        }
        loop {
            let frame = within("the next piece", self.body.frame()).await?.ok()?;
            if let Ok(data) = frame.into_data()
                && !data.is_empty()
            {
                return Some(data);
            }
        }
    }

    /// The next event; `None` when the stream has ended. What keeps the stream alive is none.
    pub async fn event(&mut self) -> Option<Event> {
        within("the next event", self.next_event()).await
    }

    async fn next_event(&mut self) -> Option<Event> {
        loop {
            if let Some(at) = self.read.windows(2).position(|two| two == b"\n\n") {
                let text = self.read.split_to(at + 2);
                let text = std::str::from_utf8(&text).expect("events are UTF-8");
                let mut event = Event::default();
                let mut data = Vec::new();
                for line in text.lines() {
                    match line.split_once(": ").unwrap_or((line, "")) {
                        ("event", name) => event.name = name.to_owned(),
                        ("id", id) => match id.parse() {
                            Ok(id) => event.id = Some(id),
                            Err(_) => event.mark = id.to_owned(),
                        },
                        ("data" | "data:", text) => data.push(text),
                        _ => {}
                    }
                }
                event.data = data.join("\n");
                if event != Event::default() {
                    return Some(event);
                }
                continue;
            }
            let had = self.read.split();
            let more = self.piece().await;
            self.read = had;
            self.read.extend_from_slice(&more?);
        }
    }

    /// Every event until the stream ends.
    pub async fn events(mut self) -> Vec<Event> {
        let mut all = Vec::new();
        while let Some(event) = self.event().await {
            all.push(event);
        }
        all
    }

    /// Reads events up to the one that `is` wanted.
    pub async fn until(&mut self, is: impl Fn(&Event) -> bool) -> Vec<Event> {
        let mut all = Vec::new();
        loop {
            let Some(event) = self.event().await else {
                panic!("the stream ended: {all:?}")
            };
            all.push(event);
            if all.last().is_some_and(&is) {
                return all;
            }
        }
    }

    /// The rest of it.
    pub async fn whole(mut self) -> Answer {
        let mut body = BytesMut::new();
        while let Some(piece) = self.piece().await {
            body.extend_from_slice(&piece);
        }
        Answer {
            status: self.status,
            headers: self.headers,
            body: body.freeze(),
        }
    }
}

/// An answer.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Answer {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.text()))
    }

    /// A header; "" when it is not there.
    pub fn header(&self, name: &str) -> &str {
        header(&self.headers, name)
    }

    /// Itself, if the status is this one.
    pub fn expect(self, status: u16) -> Answer {
        assert_eq!(self.status, status, "{}", self.text());
        self
    }
}

/// A header; "" when it is not there.
pub fn header<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    headers
        .get(name)
        .map_or("", |value| value.to_str().unwrap())
}
