//! A faulty Docker Engine: a unix socket that forwards every request to the real one, and applies the
//! faults that a test sets or random numbers choose.
//!
//! It knows as much of HTTP/1.1 as it needs to separate requests and answers on one connection. Each
//! client has a connection of its own to the Engine for each request, so that a fault of one does not
//! affect another. It promises to count the faults that it really applied, and to leave nothing when it
//! is dropped.

mod fault;
mod message;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio::task::JoinSet;

pub use self::fault::Fault;
use self::fault::Storm;
use self::message::{Framing, Message};
use super::dice::Dice;
use super::http::TEST_TIMEOUT;

#[derive(Debug, Default)]
struct State {
    planned: Vec<(&'static str, Fault)>,
    storm: Option<Storm>,
    asked: BTreeMap<&'static str, usize>,
    done: BTreeMap<&'static str, BTreeMap<&'static str, usize>>,
    is_listening: bool,
}

#[derive(Debug)]
struct Shared {
    engine: PathBuf,
    socket: PathBuf,
    /// Guards what is planned and counted; std, because it is never held over an await.
    state: Mutex<State>,
    changed: Condvar,
    away: watch::Sender<bool>,
}

/// A socket that stands before the Engine's.
#[derive(Debug)]
pub struct Proxy {
    shared: Arc<Shared>,
    /// Its threads end, and are joined, when it is dropped.
    _runtime: Runtime,
    _home: tempfile::TempDir,
}

impl Proxy {
    /// In front of the Engine at `engine`; forwards everything until faults are set.
    pub fn before(engine: &Path) -> Proxy {
        let home = tempfile::tempdir().unwrap();
        let shared = Arc::new(Shared {
            engine: engine.to_owned(),
            socket: home.path().join("docker.sock"),
            state: Mutex::default(),
            changed: Condvar::new(),
            away: watch::Sender::new(false),
        });
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        runtime.spawn(serve(shared.clone()));
        let proxy = Proxy {
            shared,
            _runtime: runtime,
            _home: home,
        };
        proxy.until(|state| state.is_listening);
        proxy
    }

    /// Where it listens, as `DOCKER_HOST` says it.
    pub fn host(&self) -> String {
        format!("unix://{}", self.shared.socket.display())
    }

    /// Does this to the next request of a kind: `create`, `logs`, …
    pub fn next(&self, endpoint: &'static str, fault: Fault) {
        self.shared.state().planned.push((endpoint, fault));
    }

    /// Does something to one request of so many, as the dice say.
    pub fn storm(&self, seed: u64, one_in: u64) {
        let dice = Dice::of(seed);
        self.shared.state().storm = Some(Storm { dice, one_in });
    }

    /// Hands on everything again.
    pub fn calm(&self) {
        let mut state = self.shared.state();
        (state.storm, state.planned) = (None, Vec::new());
        drop(state);
        self.back();
    }

    /// The socket is closed, and all connections are cut, on return.
    pub fn away(&self) {
        self.shared.away.send_replace(true);
        self.until(|state| !state.is_listening);
    }

    /// It listens again, on return.
    pub fn back(&self) {
        self.shared.away.send_replace(false);
        self.until(|state| state.is_listening);
    }

    /// Requests of a kind so far.
    pub fn asked(&self, endpoint: &str) -> usize {
        self.shared.state().asked(endpoint)
    }

    /// Waits until there were so many.
    #[track_caller]
    pub fn wait_for(&self, endpoint: &str, count: usize) {
        self.until(|state| state.asked(endpoint) >= count);
    }

    /// Everything that was done so far.
    pub fn faults(&self) -> usize {
        self.shared
            .state()
            .done
            .values()
            .flat_map(|kind| kind.values())
            .sum()
    }

    /// A line for each fault: how often, and to what.
    pub fn summary(&self) -> String {
        let mut text = String::new();
        for (fault, kinds) in &self.shared.state().done {
            let all: usize = kinds.values().sum();
            let kinds: Vec<_> = kinds
                .iter()
                .map(|(kind, n)| format!("{kind} {n}"))
                .collect();
            let _ = writeln!(text, "  {all:4} {fault}: {}", kinds.join(", "));
        }
        text
    }

    #[track_caller]
    fn until(&self, wanted: impl Fn(&State) -> bool) {
        let state = self.shared.state();
        let waited = self
            .shared
            .changed
            .wait_timeout_while(state, TEST_TIMEOUT, |state| !wanted(state));
        let (state, waited) = waited.unwrap_or_else(PoisonError::into_inner);
        assert!(!waited.timed_out(), "it did not come to that: {state:?}");
    }
}

impl State {
    fn asked(&self, endpoint: &str) -> usize {
        self.asked.get(endpoint).copied().unwrap_or(0)
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state());
        self.changed.notify_all();
    }

    /// A request has come: what is to be done to it.
    fn decide(&self, endpoint: &'static str) -> Option<Fault> {
        let mut fault = None;
        self.change(|state| {
            *state.asked.entry(endpoint).or_default() += 1;
            let planned = state.planned.iter().position(|(kind, _)| *kind == endpoint);
            fault = match planned {
                Some(at) => Some(state.planned.remove(at).1),
                None => state.storm.as_mut().and_then(|storm| storm.roll(endpoint)),
            };
        });
        fault
    }

    /// It was really done.
    fn count(&self, endpoint: &'static str, fault: Fault) {
        self.change(|state| {
            let kinds = state.done.entry(fault.name()).or_default();
            *kinds.entry(endpoint).or_default() += 1;
        });
    }
}

async fn serve(shared: Arc<Shared>) {
    let mut away = shared.away.subscribe();
    loop {
        let listener = UnixListener::bind(&shared.socket).unwrap();
        shared.change(|state| state.is_listening = true);
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                Ok((client, _)) = listener.accept() => {
                    connections.spawn(connection(shared.clone(), client));
                }
                // One that broke off has nothing to say.
                Some(_) = connections.join_next() => {}
                _ = away.wait_for(|is_away| *is_away) => break,
            }
        }
        drop(listener);
        std::fs::remove_file(&shared.socket).unwrap();
        connections.shutdown().await;
        shared.change(|state| state.is_listening = false);
        let _ = away.wait_for(|is_away| !*is_away).await;
    }
}

/// Serves the requests of one connection, one by one.
async fn connection(shared: Arc<Shared>, mut client: UnixStream) -> io::Result<()> {
    let mut read = Vec::new();
    while let Some(request) = Message::read(&mut client, &mut read, None).await? {
        // The body of a context is taken whole, so that it can be sent twice.
        let mut whole = request.head.clone();
        let mut framing = request.framing;
        loop {
            let (taken, is_over) = framing.take(&read);
            whole.extend(read.drain(..taken));
            if is_over {
                break;
            }
            if client.read_buf(&mut read).await? == 0 {
                return Ok(());
            }
        }
        let endpoint = endpoint(&request.first);
        let asked = Asked {
            shared: &shared,
            endpoint,
            whole: &whole,
            is_head: request.first.starts_with("HEAD "),
        };
        let fault = shared.decide(endpoint);
        if !asked.answer(&mut client, fault).await? {
            return Ok(());
        }
    }
    Ok(())
}

/// One request.
struct Asked<'a> {
    shared: &'a Arc<Shared>,
    endpoint: &'static str,
    whole: &'a [u8],
    is_head: bool,
}

/// An answer that has begun.
struct Answer {
    engine: UnixStream,
    message: Message,
    /// What has come of the body.
    read: Vec<u8>,
}

impl Asked<'_> {
    /// Answers it, or not; returns whether the connection may be used again.
    async fn answer(&self, client: &mut UnixStream, fault: Option<Fault>) -> io::Result<bool> {
        let Some(fault) = fault else {
            return self.relay(client, self.ask().await?, None).await;
        };
        // Whether these come to pass is seen on the way.
        if !matches!(
            fault,
            Fault::Cut(_) | Fault::Stall(_) | Fault::MidFrame | Fault::End(_)
        ) {
            self.shared.count(self.endpoint, fault);
        }
        match fault {
            Fault::Refuse => Ok(false),
            Fault::Away(long) => {
                let shared = self.shared.clone();
                // Not a task of this connection, which is about to be cut.
                tokio::spawn(async move {
                    shared.away.send_replace(true);
                    tokio::time::sleep(long).await;
                    shared.away.send_replace(false);
                });
                Ok(false)
            }
            Fault::HoldRequest(long) => {
                tokio::time::sleep(long).await;
                self.relay(client, self.ask().await?, None).await
            }
            Fault::HoldAnswer(long) => {
                let answer = self.ask().await?;
                tokio::time::sleep(long).await;
                self.relay(client, answer, None).await
            }
            Fault::Fail => respond(client, "500 Internal Server Error", FAILED).await,
            Fault::FailAfter => {
                self.done().await?;
                respond(client, "500 Internal Server Error", FAILED).await
            }
            Fault::Nonsense => respond(client, "200 OK", "<html>no Docker here</html>").await,
            Fault::Lose => self.done().await.map(|()| false),
            Fault::Twice => {
                self.done().await?;
                self.relay(client, self.ask().await?, None).await
            }
            Fault::Cut(_) | Fault::Stall(_) | Fault::MidFrame | Fault::End(_) => {
                self.relay(client, self.ask().await?, Some(fault)).await
            }
        }
    }

    /// Asks the Engine; returns when its answer begins.
    async fn ask(&self) -> io::Result<Answer> {
        let mut engine = UnixStream::connect(&self.shared.engine).await?;
        engine.write_all(self.whole).await?;
        let mut read = Vec::new();
        let message = Message::read(&mut engine, &mut read, Some(self.is_head)).await?;
        let message = message.ok_or(io::ErrorKind::UnexpectedEof)?;
        Ok(Answer {
            engine,
            message,
            read,
        })
    }

    /// Has the Engine do it. Streams have begun then; what is no stream is over.
    async fn done(&self) -> io::Result<()> {
        let mut answer = self.ask().await?;
        if matches!(self.endpoint, "logs" | "wait" | "events") {
            return Ok(());
        }
        loop {
            let (taken, is_over) = answer.message.framing.take(&answer.read);
            answer.read.drain(..taken);
            if is_over || answer.engine.read_buf(&mut answer.read).await? == 0 {
                return Ok(());
            }
        }
    }

    /// Hands an answer on as it comes, until it ends or what is done to it has been done.
    async fn relay(
        &self,
        client: &mut UnixStream,
        mut answer: Answer,
        fault: Option<Fault>,
    ) -> io::Result<bool> {
        let count = |fault| self.shared.count(self.endpoint, fault);
        let mut sent = answer.message.head.len();
        if let Some(fault @ Fault::Cut(after)) = fault
            && after < sent
        {
            count(fault);
            client.write_all(&answer.message.head[..after]).await?;
            return Ok(false);
        }
        client.write_all(&answer.message.head).await?;
        let head = sent;
        let mut nothing = [0];
        loop {
            let (taken, is_over) = answer.message.framing.take(&answer.read);
            let piece: Vec<u8> = answer.read.drain(..taken).collect();
            match fault {
                Some(fault @ Fault::Cut(after)) if sent + piece.len() > after => {
                    count(fault);
                    client.write_all(&piece[..after - sent]).await?;
                    return Ok(false);
                }
                Some(fault @ Fault::Stall(after)) if sent + piece.len() > after => {
                    count(fault);
                    client
                        .write_all(&piece[..after.saturating_sub(sent)])
                        .await?;
                    // Until the client has had enough.
                    let _ = client.read_buf(&mut Vec::new()).await;
                    return Ok(false);
                }
                Some(fault @ Fault::MidFrame) if piece.len() > 1 => {
                    count(fault);
                    client.write_all(&piece[..piece.len() / 2]).await?;
                    return Ok(false);
                }
                Some(fault @ Fault::End(after))
                    if !is_over && sent - head + piece.len() > after =>
                {
                    // Only between two chunks can it end in good order.
                    if let Framing::Chunks { end, .. } = answer.message.framing
                        && end > 0
                    {
                        count(fault);
                        client.write_all(&piece[..end]).await?;
                        client.write_all(b"0\r\n\r\n").await?;
                        return Ok(true);
                    }
                    client.write_all(&piece).await?;
                }
                _ => client.write_all(&piece).await?,
            }
            sent += piece.len();
            if is_over {
                return Ok(true);
            }
            tokio::select! {
                read = answer.engine.read_buf(&mut answer.read) => if read? == 0 {
                    return Ok(false);
                },
                // The client says nothing before the answer is over; one that has gone wants no more.
                _ = client.read(&mut nothing) => return Ok(false),
            }
        }
    }
}

const FAILED: &str = r#"{"message":"an injected failure of the Engine"}"#;

async fn respond(client: &mut UnixStream, status: &str, body: &str) -> io::Result<bool> {
    let kind = "Content-Type: application/json";
    let length = body.len();
    let text = format!("HTTP/1.1 {status}\r\n{kind}\r\nContent-Length: {length}\r\n\r\n{body}");
    client.write_all(text.as_bytes()).await?;
    Ok(true)
}

/// What a request is about.
fn endpoint(first: &str) -> &'static str {
    let mut words = first.split([' ', '?']);
    let (method, path) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
    let mut parts: Vec<_> = path.split('/').skip(1).collect();
    if parts.first().is_some_and(|part| part.starts_with("v1.")) {
        parts.remove(0);
    }
    match (method, &parts[..]) {
        (_, ["_ping"]) => "ping",
        ("GET", ["version"]) => "version",
        ("GET", ["info"]) => "info",
        ("GET", ["events"]) => "events",
        ("POST", ["build"]) => "build",
        ("GET", ["images", "json"]) => "images",
        ("GET", ["images", _, "json"]) => "image",
        ("POST", ["containers", "create"]) => "create",
        ("GET", ["containers", "json"]) => "containers",
        ("GET", ["containers", _, "json"]) => "inspect",
        ("GET", ["containers", _, "logs"]) if first.contains("follow=true") => "logs",
        ("GET", ["containers", _, "logs"]) => "kept logs",
        ("POST", ["containers", _, "start"]) => "start",
        ("POST", ["containers", _, "wait"]) => "wait",
        ("POST", ["containers", _, "kill"]) => "kill",
        ("POST", ["containers", _, "stop"]) => "stop",
        ("DELETE", ["containers", _]) => "delete",
        _ => "other",
    }
}
