//! Serving: connections accepted, bounded in number and time, and ended.

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{Semaphore, mpsc};
use tokio_io_timeout::TimeoutStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::access::Peer;
use super::answer::{self, Body};
use super::connection::{Connection, HalfClosed};
use super::door::{Ask, Door, What};
use super::error::Refusal;
use super::{Web, routes};
use crate::faults;

/// Connections at once, where descriptors allow it. Each waiting client holds one. Past it, new
/// ones wait in the kernel's queue.
const MAX_CONNECTIONS: u64 = 8_192;
/// File descriptors that connections leave to the builds.
const RESERVED_FILES: u64 = 512;
/// A request's headers must be here by then, and the next one on a connection kept alive.
const HEADER_PATIENCE: Duration = Duration::from_secs(30);
/// A client that takes no byte for that long is gone.
const WRITE_PATIENCE: Duration = Duration::from_secs(60);
/// Bytes of a request's head that are read: a target or headers that are too long, but not by far, are
/// refused by [`routes`], which tells which it was; past this hyper says 431. It also bounds what is
/// read ahead and what waits to be written.
const MAX_BUFFER: usize = 128 << 10;
/// Without file descriptors, accepting again at once would only spin.
const ACCEPT_AGAIN: Duration = Duration::from_millis(50);
/// A client that was accepted when the daemon ends has this long to say what it wants.
const FIRST_REQUEST: Duration = Duration::from_secs(1);
/// What is being answered when the daemon ends has this long.
const GRACE: Duration = Duration::from_secs(5);

/// A socket that clients connect to.
#[derive(Debug)]
pub enum Listener {
    /// Over TCP.
    Tcp(TcpListener),
    /// Over a unix socket, guarded by its mode.
    Unix(UnixListener),
}

/// Serves until the web's stop, then lets what is being answered end within a grace time. The
/// accept loops run from the call on.
///
/// # Errors
/// When a listener fails for good.
pub fn serve(listeners: Vec<Listener>, web: Web) -> impl Future<Output = io::Result<()>> {
    let (stop, door) = (web.stop.clone(), web.door.clone());
    serve_by(listeners, stop, door, move || {
        // One count for a connection's requests, which no other connection contends for.
        let web = Arc::new(web.clone());
        move |request, peer| {
            let web = web.clone();
            async move { routes::answer(&web, request, peer).await }
        }
    })
}

/// Tells everybody who comes within `patience` that this server cannot serve, and why.
///
/// # Errors
/// When a listener fails for good.
pub async fn turn_away(
    listeners: Vec<Listener>,
    why: &'static str,
    patience: Duration,
) -> io::Result<()> {
    let stop = CancellationToken::new();
    let serving = serve_by(listeners, stop.clone(), Door::new(), move || {
        move |request: Request<Incoming>, _| async move {
            let takes_json = answer::takes_json(request.headers());
            Refusal::busy(why).answer("-", takes_json)
        }
    });
    let (served, ()) = tokio::join!(serving, async {
        tokio::time::sleep(patience).await;
        stop.cancel();
    });
    served
}

/// Serves until `stop`; `connected` is called for each connection, and makes what answers its
/// requests.
fn serve_by<C, A, F>(
    listeners: Vec<Listener>,
    stop: CancellationToken,
    door: Door,
    connected: C,
) -> impl Future<Output = io::Result<()>>
where
    C: Fn() -> A + Clone + Send + 'static,
    A: Fn(Request<Incoming>, Peer) -> F + Send + 'static,
    F: Future<Output = Response<Body>> + Send + 'static,
{
    let tasks = TaskTracker::new();
    let room = Arc::new(Semaphore::new(max_connections()));
    let mut accepting = tokio::task::JoinSet::new();
    for listener in listeners {
        let accepting_one = Accepting {
            listener,
            asked: door.enter(),
            door: door.clone(),
            stop: stop.clone(),
            tasks: tasks.clone(),
            room: room.clone(),
        };
        accepting.spawn(accepting_one.run(connected.clone()));
    }
    async move {
        while let Some(accepted) = accepting.join_next().await {
            accepted.map_err(io::Error::other)??;
        }
        tasks.close();
        if tokio::time::timeout(GRACE, tasks.wait()).await.is_err() {
            tracing::warn!("some clients did not take their answer in time");
        }
        Ok(())
    }
}

/// As many connections as there are descriptors, less what builds need; half of few.
fn max_connections() -> usize {
    let files = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    let files = files.unwrap_or(u64::MAX);
    let most = files.saturating_sub(RESERVED_FILES).max(files / 2);
    usize::try_from(most.min(MAX_CONNECTIONS)).unwrap_or(usize::MAX)
}

/// One accept loop.
struct Accepting {
    listener: Listener,
    asked: mpsc::Receiver<Ask>,
    door: Door,
    stop: CancellationToken,
    tasks: TaskTracker,
    room: Arc<Semaphore>,
}

impl Accepting {
    async fn run<C, A, F>(mut self, connected: C) -> io::Result<()>
    where
        C: Fn() -> A,
        A: Fn(Request<Incoming>, Peer) -> F + Send + 'static,
        F: Future<Output = Response<Body>> + Send + 'static,
    {
        let mut is_open = true;
        loop {
            let accepted = tokio::select! {
                () = self.stop.cancelled() => return Ok(()),
                Some(ask) = self.asked.recv() => {
                    match ask.what {
                        What::Beat => {}
                        What::Close => is_open = false,
                        What::Open => is_open = true,
                    }
                    // Whoever asked may have gone.
                    let _ = ask.heard.send(());
                    continue;
                }
                accepted = next(&self.listener, &self.room), if is_open => accepted,
            };
            let (connection, peer, place) = match accepted {
                Ok(accepted) => accepted,
                Err(error) if is_passing(&error) => continue,
                Err(error) if is_shortage(&error) => {
                    tracing::error!(
                        error = &error as &dyn std::error::Error,
                        "could not accept a connection"
                    );
                    tokio::time::sleep(ACCEPT_AGAIN).await;
                    continue;
                }
                Err(error) => return Err(error),
            };
            faults::point("accept");
            let counted = self.door.count();
            let (answers, stop) = (connected(), self.stop.clone());
            self.tasks.spawn(async move {
                serve_one(connection, peer, answers, stop).await;
                drop((place, counted));
            });
        }
    }
}

/// Serves a connection until its client or the server has enough of it.
async fn serve_one<A, F>(connection: Connection, peer: Peer, answers: A, stop: CancellationToken)
where
    A: Fn(Request<Incoming>, Peer) -> F + Send + 'static,
    F: Future<Output = Response<Body>> + Send + 'static,
{
    let (asked, half_closed) = (CancellationToken::new(), HalfClosed::default());
    let (asking, closed) = (asked.clone(), half_closed.clone());
    let mut timed = TimeoutStream::new(connection.clone());
    timed.set_write_timeout(Some(WRITE_PATIENCE));
    let service = service_fn(move |mut request: Request<Incoming>| {
        asking.cancel();
        request.extensions_mut().insert(closed.clone());
        let answer = answers(request, peer);
        async move { Ok::<_, std::convert::Infallible>(answer.await) }
    });
    let mut served = pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .half_close(true)
            .header_read_timeout(HEADER_PATIENCE)
            .max_buf_size(MAX_BUFFER)
            .serve_connection(TokioIo::new(Box::pin(timed)), service)
    );
    let mut gone = pin!(async {
        connection.gone(&half_closed.0).await;
        // What it has sent before it left is read all the same.
        asked.cancelled().await;
    });
    tokio::select! {
        // First, so that what is being answered hears of a client that left before anybody who came
        // after that is answered.
        biased;
        () = gone.as_mut() => return,
        // A client that breaks off is its own affair.
        _ = served.as_mut() => return,
        () = stop.cancelled() => {}
    }
    // Whoever was accepted is answered: his first request may be on its way, and hyper would close
    // a connection on which nothing has come yet.
    tokio::select! {
        biased;
        () = gone.as_mut() => return,
        _ = served.as_mut() => return,
        () = asked.cancelled() => {}
        () = tokio::time::sleep(FIRST_REQUEST) => {}
    }
    served.as_mut().graceful_shutdown();
    tokio::select! {
        biased;
        () = gone => {}
        _ = served => {}
    }
}

async fn next(
    listener: &Listener,
    room: &Arc<Semaphore>,
) -> io::Result<(Connection, Peer, tokio::sync::OwnedSemaphorePermit)> {
    let place = room
        .clone()
        .acquire_owned()
        .await
        .map_err(io::Error::other)?;
    match listener {
        Listener::Tcp(listener) => {
            let (connection, peer) = listener.accept().await?;
            Ok((Connection::tcp(connection)?, Peer::Tcp(peer.ip()), place))
        }
        Listener::Unix(listener) => {
            let (connection, _) = listener.accept().await?;
            let user = connection.peer_cred().ok().map(|peer| peer.uid());
            Ok((Connection::unix(connection), Peer::Unix(user), place))
        }
    }
}

/// The client was gone before it was accepted.
fn is_passing(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::InvalidInput
            | io::ErrorKind::Interrupted
    )
}

/// We are out of file descriptors or memory for the moment.
fn is_shortage(error: &io::Error) -> bool {
    use rustix::io::Errno;
    [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM]
        .iter()
        .any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}
