//! The accept loops: connections accepted, bounded in number, and ended.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::Request;
use hyper::body::Incoming;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::accept::{self, AfterError};
use super::accept_control::{AcceptCommand, AcceptControl, AcceptRequest};
use super::caller::Peer;
use super::connection::Connection;
use super::connection_limits::{ConnectionLimits, TOO_MANY_CONNECTIONS};
use super::dispatch;
use super::error::ApiError;
use super::response::{self, Response};
use super::serving::{self, Service, Serving};
use super::state::Web;
use crate::faults;

/// Without descriptors or memory, accept is tried again when a connection has ended, and after this time:
/// other resources may have been freed.
const ACCEPT_RETRY_INTERVAL: Duration = Duration::from_millis(200);
/// How long responses that have begun may take when the daemon stops.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(5);

/// A socket that clients connect to.
#[derive(Debug)]
pub enum Listener {
    /// Over TCP.
    Tcp(TcpListener),
    /// Over a unix socket, protected by its mode.
    Unix(UnixListener),
}

impl Listener {
    /// The next connection and its peer. If resources are exhausted, it first waits until some may have been
    /// freed.
    async fn next(
        &self,
        exhausted: Option<&mut watch::Receiver<usize>>,
    ) -> io::Result<(Connection, Peer)> {
        if let Some(connections) = exhausted {
            let _ = tokio::time::timeout(ACCEPT_RETRY_INTERVAL, connections.changed()).await;
        }
        loop {
            match self {
                Listener::Tcp(listener) => {
                    let (stream, peer) = listener.accept().await?;
                    // An error means that the client is gone already.
                    if let Ok(connection) = Connection::tcp(stream) {
                        return Ok((connection, Peer::Tcp(peer.ip().to_canonical())));
                    }
                }
                Listener::Unix(listener) => {
                    let (stream, _) = listener.accept().await?;
                    let user = stream.peer_cred().ok().map(|peer| peer.uid());
                    return Ok((Connection::unix(stream), Peer::Unix(user)));
                }
            }
        }
    }
}

/// Answers requests.
#[derive(Clone)]
struct Answering(Arc<Web>);

impl Service for Answering {
    fn is_trusted(&self, address: IpAddr) -> bool {
        self.0.access.load().proxies.has(address)
    }

    async fn answer(&self, request: Request<Incoming>, peer: Peer) -> Response {
        dispatch::respond(&self.0, request, peer).await
    }

    fn refuse(&self, request: &Request<Incoming>) -> Response {
        dispatch::refuse(&self.0, request, ApiError::busy(TOO_MANY_CONNECTIONS))
    }
}

/// Refuses every request with this message.
#[derive(Clone)]
struct Refusing(&'static str);

impl Service for Refusing {
    fn is_trusted(&self, _: IpAddr) -> bool {
        false
    }

    async fn answer(&self, request: Request<Incoming>, _: Peer) -> Response {
        self.refuse(&request)
    }

    fn refuse(&self, request: &Request<Incoming>) -> Response {
        let takes_json = response::takes_json(request.headers());
        response::of_error(ApiError::busy(self.0), "-", takes_json)
    }
}

/// Serves until `web` is stopped, then gives the responses that have begun some time to end. The accept loops
/// run from the call on.
///
/// # Errors
/// When a listener fails for good.
pub fn serve(listeners: Vec<Listener>, web: Web) -> impl Future<Output = io::Result<()>> {
    let (stop, accept_control, limits) = (
        web.stop.clone(),
        web.accept_control.clone(),
        web.limits.clone(),
    );
    serve_by(
        listeners,
        stop,
        accept_control,
        limits,
        Answering(Arc::new(web)),
    )
}

/// For a limited time, refuses all requests with the message `why`: this server cannot serve.
///
/// # Errors
/// When a listener fails for good.
pub async fn refuse_all(
    listeners: Vec<Listener>,
    why: &'static str,
    duration: Duration,
) -> io::Result<()> {
    let stop = CancellationToken::new();
    let limits = ConnectionLimits::for_process();
    let serving = serve_by(
        listeners,
        stop.clone(),
        AcceptControl::new(),
        limits,
        Refusing(why),
    );
    let (served, ()) = tokio::join!(serving, async {
        tokio::time::sleep(duration).await;
        stop.cancel();
    });
    served
}

/// Serves until `stop`.
fn serve_by(
    listeners: Vec<Listener>,
    stop: CancellationToken,
    accept_control: AcceptControl,
    limits: ConnectionLimits,
    service: impl Service,
) -> impl Future<Output = io::Result<()>> {
    let tasks = TaskTracker::new();
    let mut accepting = tokio::task::JoinSet::new();
    for listener in listeners {
        let accept_loop = AcceptLoop {
            listener,
            commands: accept_control.register(),
            accept_control: accept_control.clone(),
            stop: stop.clone(),
            tasks: tasks.clone(),
            limits: limits.clone(),
            service: service.clone(),
        };
        accepting.spawn(accept_loop.run());
    }
    async move {
        while let Some(accepted) = accepting.join_next().await {
            accepted.map_err(io::Error::other)??;
        }
        tasks.close();
        if tokio::time::timeout(SHUTDOWN_TIMEOUT, tasks.wait())
            .await
            .is_err()
        {
            tracing::warn!("some clients did not read their answers in time");
        }
        Ok(())
    }
}

/// One accept loop.
struct AcceptLoop<S> {
    listener: Listener,
    commands: mpsc::Receiver<AcceptRequest>,
    accept_control: AcceptControl,
    stop: CancellationToken,
    tasks: TaskTracker,
    limits: ConnectionLimits,
    service: S,
}

impl<S: Service> AcceptLoop<S> {
    async fn run(mut self) -> io::Result<()> {
        let mut is_paused = false;
        // Descriptors or memory are exhausted.
        let mut is_exhausted = false;
        let mut connections = self.accept_control.connections();
        loop {
            let accepted = tokio::select! {
                () = self.stop.cancelled() => return Ok(()),
                Some(request) = self.commands.recv() => {
                    match request.command {
                        AcceptCommand::HealthCheck => {}
                        AcceptCommand::Pause => is_paused = true,
                        AcceptCommand::Resume => is_paused = false,
                    }
                    // The sender may no longer wait for it.
                    let _ = request.acknowledge.send(());
                    continue;
                }
                accepted = self.listener.next(is_exhausted.then_some(&mut connections)), if !is_paused => accepted,
            };
            match accepted {
                Ok((connection, peer)) => {
                    is_exhausted = false;
                    faults::point("accept");
                    self.begin(connection, peer);
                }
                Err(error) => match accept::after_error(&error) {
                    AfterError::AcceptNext => {}
                    AfterError::WaitForResources => {
                        if !std::mem::replace(&mut is_exhausted, true) {
                            tracing::error!(
                                error = &error as &dyn std::error::Error,
                                "could not accept a connection; it is tried again until there is room"
                            );
                        }
                        connections.mark_unchanged();
                    }
                    AfterError::Stop => return Err(error),
                },
            }
        }
    }

    /// Serves a connection in a task of its own, or refuses it.
    fn begin(&self, connection: Connection, peer: Peer) {
        let client = serving::client(&self.service, peer);
        let place = self.limits.connections.hold(client, 1);
        let is_refused = place.is_none();
        let Some(place) = place.or_else(|| self.limits.refusals.hold(client, 1)) else {
            // Nothing waits for this client.
            serving::refuse_at_once(&connection);
            return;
        };
        let serving = Serving {
            is_refused,
            place,
            connection,
            peer,
            limits: self.limits.clone(),
            stop: self.stop.clone(),
        };
        let counted = self.accept_control.count_connection();
        let service = self.service.clone();
        self.tasks.spawn(async move {
            serving.serve(service).await;
            drop(counted);
        });
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::path::PathBuf;

    use hyper::StatusCode;
    use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
    use tokio::net::{TcpSocket, TcpStream, UnixStream};
    use tokio::task::JoinHandle;

    use super::*;

    /// Answers at once, with the address of the client.
    #[derive(Clone)]
    struct Naming(&'static [&'static str]);

    impl Service for Naming {
        fn is_trusted(&self, address: IpAddr) -> bool {
            self.0
                .iter()
                .any(|trusted| address == trusted.parse::<IpAddr>().unwrap())
        }

        async fn answer(&self, _: Request<Incoming>, peer: Peer) -> Response {
            response::text(StatusCode::OK, format!("{peer:?}"))
        }

        fn refuse(&self, _: &Request<Incoming>) -> Response {
            response::of_error(ApiError::busy(TOO_MANY_CONNECTIONS), "-", true)
        }
    }

    /// A server with low limits.
    struct Server {
        tcp: SocketAddr,
        unix: PathBuf,
        accept_control: AcceptControl,
        stop: CancellationToken,
        serving: JoinHandle<io::Result<()>>,
        _home: tempfile::TempDir,
    }

    impl Server {
        async fn with(limits: ConnectionLimits, trusted: &'static [&'static str]) -> Server {
            let home = tempfile::tempdir().unwrap();
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let (tcp, unix) = (listener.local_addr().unwrap(), home.path().join("socket"));
            let listeners = vec![
                Listener::Tcp(listener),
                Listener::Unix(UnixListener::bind(&unix).unwrap()),
            ];
            let (accept_control, stop) = (AcceptControl::new(), CancellationToken::new());
            let serving = serve_by(
                listeners,
                stop.clone(),
                accept_control.clone(),
                limits,
                Naming(trusted),
            );
            Server {
                tcp,
                unix,
                accept_control,
                stop,
                serving: tokio::spawn(serving),
                _home: home,
            }
        }

        async fn connect(&self) -> TcpStream {
            TcpStream::connect(self.tcp).await.unwrap()
        }

        /// Opens this many connections, and waits until they are accepted.
        async fn fill(&self, count: usize) -> Vec<TcpStream> {
            let mut all = Vec::new();
            for _ in 0..count {
                all.push(self.connect().await);
            }
            self.until_connected(count).await;
            all
        }

        async fn until_connected(&self, count: usize) {
            let mut connections = self.accept_control.connections();
            connections.wait_for(|now| *now == count).await.unwrap();
        }

        async fn end(self) {
            self.stop.cancel();
            self.serving.await.unwrap().unwrap();
        }
    }

    /// Writes a whole request before it reads, and reads to the end, which must be a clean one.
    async fn ask(mut at: impl AsyncRead + AsyncWrite + Unpin, request: &[u8]) -> String {
        at.write_all(request).await.unwrap();
        let mut answer = String::new();
        at.read_to_string(&mut answer).await.unwrap();
        answer
    }

    const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";

    /// A request with a body of this many bytes.
    fn post(bytes: usize) -> Vec<u8> {
        let head = format!("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: {bytes}\r\n\r\n");
        [head.as_bytes(), &vec![b'x'; bytes]].concat()
    }

    #[tokio::test]
    async fn a_refused_client_gets_the_complete_error() {
        let server = Server::with(ConnectionLimits::of_connections(2), &[]).await;
        let mut filling = server.fill(2).await;
        for request in [GET.to_vec(), post(10), post(8 << 20), GET.repeat(3)] {
            let answer = ask(server.connect().await, &request).await;
            assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
            assert!(answer.contains("\r\nretry-after: "), "{answer}");
            assert!(answer.contains("too many connections"), "{answer}");
        }
        let all = futures_util::future::join_all(
            (0..5).map(|_| async { ask(server.connect().await, &post(8 << 20)).await }),
        );
        for answer in all.await {
            assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
        }
        filling.pop();
        server.until_connected(1).await;
        let answer = ask(server.connect().await, GET).await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        server.end().await;
    }

    #[tokio::test]
    async fn with_every_place_taken_over_tcp_the_unix_socket_is_served() {
        let server = Server::with(ConnectionLimits::of_connections(2), &[]).await;
        // Two that have a place, all that can be refused with patience, and one more.
        let filling = server.fill(2 + 12).await;
        let answer = ask(server.connect().await, b"").await;
        assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
        for _ in 0..10 {
            let answer = ask(UnixStream::connect(&server.unix).await.unwrap(), GET).await;
            assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        }
        drop(filling);
        server.end().await;
    }

    #[tokio::test]
    async fn a_silent_refused_client_does_not_delay_others() {
        let server = Server::with(ConnectionLimits::of_connections(1), &[]).await;
        // One has the place; twelve of sixteen may be refused with patience.
        let silent = server.fill(1 + 12).await;
        let mut more = Vec::new();
        for _ in 0..300 {
            more.push(server.connect().await);
        }
        let other = TcpSocket::new_v4().unwrap();
        other.bind("127.0.0.2:0".parse().unwrap()).unwrap();
        let other = other.connect(server.tcp).await.unwrap();
        let answer = ask(other, &post(8 << 20)).await;
        assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
        assert!(answer.contains("\r\nretry-after: "), "{answer}");
        // No client has waited for the end of its patience.
        assert!(*server.accept_control.connections().borrow() >= silent.len());
        // They get the response although they have sent nothing, and nothing is kept of them.
        for one in more {
            let answer = ask(one, b"").await;
            let (head, text) = answer.split_once("\r\n\r\n").unwrap();
            assert!(head.starts_with("HTTP/1.1 503 "), "{answer}");
            assert!(head.contains("\r\nRetry-After: 5\r\n"), "{answer}");
            assert!(head.ends_with(&format!("\r\nContent-Length: {}", text.len())));
            assert_eq!(text, format!("{TOO_MANY_CONNECTIONS}\n"));
        }
        drop(silent);
        server.until_connected(0).await;
        let answer = ask(server.connect().await, GET).await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        server.end().await;
    }

    #[tokio::test]
    async fn a_trusted_proxy_names_the_client_before_its_first_request() {
        let server = Server::with(
            ConnectionLimits::of_connections(9),
            &["127.0.0.1", "192.0.2.9"],
        )
        .await;
        let v1 = |source: &str| format!("PROXY TCP4 {source} 127.0.0.1 51000 80\r\n").into_bytes();
        let v2 = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x01\x7f\0\0\x01\xc7\x38\0\x50";
        let local = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";
        for (header, named) in [
            (v1("192.0.2.1"), "Tcp(192.0.2.1)"),
            (v2.to_vec(), "Tcp(192.0.2.1)"),
            (local.to_vec(), "Tcp(127.0.0.1)"),
            (v1("192.0.2.9"), "Tcp(192.0.2.9)"),
            (Vec::new(), "Tcp(127.0.0.1)"),
        ] {
            let answer = ask(server.connect().await, &[&header, GET].concat()).await;
            assert!(answer.ends_with(named), "{answer}");
            // Byte by byte it is the same.
            let mut connection = server.connect().await;
            connection.set_nodelay(true).unwrap();
            for byte in header {
                connection.write_all(&[byte]).await.unwrap();
                tokio::task::yield_now().await;
            }
            let answer = ask(connection, GET).await;
            assert!(answer.ends_with(named), "{answer}");
        }
        for wrong in ["PROXY TCP4 x\r\n", "PROXY TCP4 1.2.3.4 1.2.3.4 1 99999\r\n"] {
            let answer = ask(server.connect().await, &[wrong.as_bytes(), GET].concat()).await;
            assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
        }
        server.end().await;
        // From others it is a bad request.
        let server = Server::with(ConnectionLimits::of_connections(9), &[]).await;
        let answer = ask(server.connect().await, &[&v1("192.0.2.1"), GET].concat()).await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
        server.end().await;
    }

    #[tokio::test]
    async fn a_client_behind_a_proxy_is_limited_to_its_share_of_places() {
        let server = Server::with(ConnectionLimits::of_connections(16), &["127.0.0.1"]).await;
        let mut held = Vec::new();
        // A remote client may have what is free, except for the last quarter, of which it may have one of
        // sixteen. It takes over the place of the proxy.
        let by = |last: u8| format!("PROXY TCP4 192.0.2.{last} 127.0.0.1 51000 80\r\n");
        let request = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";
        for number in 0..13 {
            let mut connection = server.connect().await;
            connection.write_all(by(1).as_bytes()).await.unwrap();
            connection.write_all(request).await.unwrap();
            let mut status = [0; 12];
            connection.read_exact(&mut status).await.unwrap();
            let expected = if number < 12 {
                "HTTP/1.1 200"
            } else {
                "HTTP/1.1 503"
            };
            assert_eq!(&status, expected.as_bytes(), "{number}");
            held.push(connection);
        }
        let answer = ask(server.connect().await, &[by(2).as_bytes(), GET].concat()).await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        drop(held);
        server.end().await;
    }

    #[tokio::test]
    async fn a_request_head_over_the_budget_is_answered_with_an_error() {
        let limits = ConnectionLimits {
            heads: crate::budget::Budget::new(64 << 10, 0),
            ..ConnectionLimits::of_connections(9)
        };
        let server = Server::with(limits, &[]).await;
        let large = |bytes| {
            let header = "x".repeat(bytes);
            format!("GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX: {header}\r\n\r\n")
        };
        let answer = ask(server.connect().await, large(20_000).as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        let answer = ask(server.connect().await, large(60_000).as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
        assert!(answer.contains("\r\nRetry-After: 5\r\n"), "{answer}");
        assert!(answer.ends_with("try again later\n"), "{answer}");
        let length = answer.split_once("\r\n\r\n").unwrap().1.len();
        assert!(answer.contains(&format!("\r\nContent-Length: {length}\r\n")));
        // So it is after a request that was answered.
        let both = ["GET / HTTP/1.1\r\nHost: x\r\n\r\n", &large(60_000)].concat();
        let answers = ask(server.connect().await, both.as_bytes()).await;
        assert!(answers.starts_with("HTTP/1.1 200 "), "{answers}");
        assert!(answers.contains("Tcp(127.0.0.1)HTTP/1.1 503 "), "{answers}");
        server.end().await;
    }
}
