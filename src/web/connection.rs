//! A client's connection, read and written by hyper, and watched for its end meanwhile.
//!
//! A client may close its sending side and still wait for the response (RFC 9112 §9.6 leaves that to TCP).
//! TCP tells this from a client that is gone only when something is sent: on the wire both are a FIN. So a
//! half-closed client gets its response, but no longer counts as a waiter of a build
//! (`cancel_on_disconnect`). A client that is gone is noticed by its RST, after the next write, or after a
//! keepalive probe once its kernel has forgotten the connection; over a unix socket at once.

use std::io;
use std::os::fd::AsFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustix::net::{RecvFlags, SendFlags, Shutdown, recv, send, shutdown, sockopt};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf, Ready};
use tokio::net::{TcpStream, UnixStream};
use tokio_util::sync::CancellationToken;

/// Silence before the kernel sends probes: longer than Linux keeps a connection whose program has closed it,
/// 60 s (`tcp_fin_timeout`), because until then it answers.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(75);
/// Time between two probes.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(8);
/// Probes without an answer before the connection is given up, where the next bound does not do so first.
const KEEPALIVE_PROBES: u32 = 4;
/// A client has vanished when its kernel has not acknowledged data or a probe for this long. With the 15 s
/// after which an event stream sends something, it is less than two minutes. It is longer than a client may
/// read nothing, so that a slow client does not count as vanished.
const UNACKNOWLEDGED_TIMEOUT: Duration = Duration::from_secs(90);
/// Bytes that the kernel accepts from the server before it can send them. This bounds its memory for a client
/// that does not read, and shows in small steps how fast a client reads: without it the kernel accepts
/// megabytes at once, and then nothing for minutes.
const MAX_UNSENT: u32 = 128 << 10;
/// Bytes that are discarded at once.
const DISCARD_STEP: usize = 16 << 10;

/// Set when the client of a request has closed its sending side; part of the request (its extensions).
#[derive(Clone, Debug, Default)]
pub(super) struct HalfClosed(pub(super) CancellationToken);

#[derive(Debug)]
enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// How long bytes of a client are still read and discarded after its last response.
#[derive(Clone, Copy, Debug)]
pub(super) struct DiscardLimits {
    /// While nothing arrives.
    pub(super) idle: Duration,
    /// In total.
    pub(super) total: Duration,
    pub(super) bytes: usize,
}

/// A connection that clones share.
#[derive(Clone, Debug)]
pub(super) struct Connection(Arc<Socket>);

impl Connection {
    /// Over TCP, with the options of all such connections.
    ///
    /// # Errors
    /// When the kernel refuses, as it does for a connection that is gone already.
    pub(super) fn tcp(stream: TcpStream) -> io::Result<Connection> {
        // Responses are small and awaited.
        stream.set_nodelay(true)?;
        sockopt::set_socket_keepalive(&stream, true)?;
        sockopt::set_tcp_keepidle(&stream, KEEPALIVE_IDLE)?;
        sockopt::set_tcp_keepintvl(&stream, KEEPALIVE_INTERVAL)?;
        sockopt::set_tcp_keepcnt(&stream, KEEPALIVE_PROBES)?;
        let milliseconds = u32::try_from(UNACKNOWLEDGED_TIMEOUT.as_millis()).unwrap_or(u32::MAX);
        sockopt::set_tcp_user_timeout(&stream, milliseconds)?;
        SockRef::from(&stream).set_tcp_notsent_lowat(MAX_UNSENT)?;
        Ok(Connection(Arc::new(Socket::Tcp(stream))))
    }

    /// Over a unix socket.
    pub(super) fn unix(stream: UnixStream) -> Connection {
        Connection(Arc::new(Socket::Unix(stream)))
    }

    /// Returns when the client is gone. Cancels `half_closed` when it closes its sending side.
    pub(super) async fn gone(&self, half_closed: &CancellationToken) {
        // Both interests are permanent conditions: this waits for no bytes, and reads none.
        match self.ready(Interest::PRIORITY | Interest::ERROR).await {
            Ok(ready) if ready.is_read_closed() || ready.is_error() => half_closed.cancel(),
            // Urgent data, which no HTTP client sends, or a stopping runtime: nothing more is reported.
            _ => return std::future::pending().await,
        }
        let is_gone = |ready: Ready| ready.is_write_closed() || ready.is_error();
        match self.ready(Interest::WRITABLE | Interest::ERROR).await {
            Ok(ready) if is_gone(ready) => {}
            _ => drop(self.ready(Interest::ERROR).await),
        }
    }

    /// Returns when something has arrived, or the client has closed its sending side.
    ///
    /// # Errors
    /// When the runtime is stopping.
    pub(super) async fn readable(&self) -> io::Result<()> {
        loop {
            self.ready(Interest::READABLE).await?;
            // A new connection counts as readable until a peek has found nothing.
            let looked = match &*self.0 {
                Socket::Tcp(stream) => stream.try_io(Interest::READABLE, || peek(stream)),
                Socket::Unix(stream) => stream.try_io(Interest::READABLE, || peek(stream)),
            };
            match looked {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // The next read reports any other error.
                _ => return Ok(()),
            }
        }
    }

    fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        match &*self.0 {
            Socket::Tcp(stream) => stream.try_read(buffer),
            Socket::Unix(stream) => stream.try_read(buffer),
        }
    }

    /// Appends received bytes to `read`, which gets `most` bytes at most.
    ///
    /// # Errors
    /// `WouldBlock` where nothing has arrived.
    pub(super) fn try_append(&self, read: &mut Vec<u8>, most: usize) -> io::Result<usize> {
        let known = read.len();
        read.resize(most, 0);
        let result = self.try_read(&mut read[known..]);
        read.truncate(known + result.as_ref().unwrap_or(&0));
        result
    }

    /// Sends as much as the socket accepts at once. This also works for a new connection that the runtime
    /// does not know to be writable.
    pub(super) fn send_at_once(&self, bytes: &[u8]) {
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        // The client may be gone.
        let _ = match &*self.0 {
            Socket::Tcp(stream) => send(stream, bytes, flags),
            Socket::Unix(stream) => send(stream, bytes, flags),
        };
    }

    /// Discards received bytes, without waiting.
    pub(super) fn discard_at_once(&self) {
        let mut bytes = [0; DISCARD_STEP];
        let _ = match &*self.0 {
            Socket::Tcp(stream) => recv(stream, &mut bytes[..], RecvFlags::DONTWAIT),
            Socket::Unix(stream) => recv(stream, &mut bytes[..], RecvFlags::DONTWAIT),
        };
    }

    /// Closes the sending side, and discards the bytes that the client still sends, until its end, or for as
    /// long as `limits` allow. Closing with unread bytes would make the kernel send a reset, and the client
    /// might lose a response that it has not read yet (RFC 9112 §9.6).
    pub(super) async fn discard(&self, limits: DiscardLimits) {
        // It may be closed already.
        let _ = self.shutdown_writes();
        let discarded = async {
            let mut left = limits.bytes;
            loop {
                let readable = tokio::time::timeout(limits.idle, self.readable());
                if !matches!(readable.await, Ok(Ok(()))) {
                    return;
                }
                match self.try_discard() {
                    Ok(0) => return,
                    Ok(read) if read < left => left -= read,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    _ => return,
                }
            }
        };
        let _ = tokio::time::timeout(limits.total, discarded).await;
    }

    fn try_discard(&self) -> io::Result<usize> {
        self.try_read(&mut [0; DISCARD_STEP])
    }

    /// When the connection is closed, the kernel discards what the client has not received.
    pub(super) fn reset_when_closed(&self) {
        if let Socket::Tcp(stream) = &*self.0 {
            // Without it the kernel only keeps the data for a while.
            let _ = stream.set_zero_linger();
        }
    }

    fn shutdown_writes(&self) -> io::Result<()> {
        let result = match &*self.0 {
            Socket::Tcp(stream) => shutdown(stream, Shutdown::Write),
            Socket::Unix(stream) => shutdown(stream, Shutdown::Write),
        };
        result.map_err(io::Error::from)
    }

    async fn ready(&self, interest: Interest) -> io::Result<Ready> {
        match &*self.0 {
            Socket::Tcp(stream) => stream.ready(interest).await,
            Socket::Unix(stream) => stream.ready(interest).await,
        }
    }
}

/// Succeeds where a byte can be read, and does not consume it.
fn peek(socket: impl AsFd) -> io::Result<()> {
    let mut byte = [0];
    recv(socket, &mut byte[..], RecvFlags::PEEK)?;
    Ok(())
}

/// Waits with `poll` until an attempt may succeed, until one does not block.
fn when_ready<T>(
    mut poll: impl FnMut() -> Poll<io::Result<()>>,
    mut attempt: impl FnMut() -> io::Result<T>,
) -> Poll<io::Result<T>> {
    loop {
        ready!(poll())?;
        match attempt() {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            done => return Poll::Ready(done),
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = match &*self.0 {
            Socket::Tcp(stream) => when_ready(
                || stream.poll_read_ready(context),
                || stream.try_read_buf(buffer),
            ),
            Socket::Unix(stream) => when_ready(
                || stream.poll_read_ready(context),
                || stream.try_read_buf(buffer),
            ),
        };
        read.map_ok(drop)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &*self.0 {
            Socket::Tcp(stream) => when_ready(
                || stream.poll_write_ready(context),
                || stream.try_write(bytes),
            ),
            Socket::Unix(stream) => when_ready(
                || stream.poll_write_ready(context),
                || stream.try_write(bytes),
            ),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &*self.0 {
            Socket::Tcp(stream) => when_ready(
                || stream.poll_write_ready(context),
                || stream.try_write_vectored(pieces),
            ),
            Socket::Unix(stream) => when_ready(
                || stream.poll_write_ready(context),
                || stream.try_write_vectored(pieces),
            ),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.shutdown_writes())
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    async fn tcp() -> (Connection, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await;
        let (server, _) = listener.accept().await.unwrap();
        (Connection::tcp(server).unwrap(), client.unwrap())
    }

    fn unix() -> (Connection, UnixStream) {
        let (server, client) = UnixStream::pair().unwrap();
        (Connection::unix(server), client)
    }

    #[tokio::test]
    async fn a_half_closed_client_is_answered() {
        let (mut server, mut client) = tcp().await;
        client.write_all(b"asked").await.unwrap();
        client.shutdown().await.unwrap();
        let half_closed = CancellationToken::new();
        {
            let mut gone = std::pin::pin!(server.gone(&half_closed));
            assert!(futures_util::poll!(&mut gone).is_pending());
            tokio::select! {
                () = &mut gone => panic!("it is there"),
                () = half_closed.cancelled() => {}
            }
            assert!(futures_util::poll!(&mut gone).is_pending());
        }
        let mut asked = String::new();
        server.read_to_string(&mut asked).await.unwrap();
        server.write_all(b"response").await.unwrap();
        server.shutdown().await.unwrap();
        let mut response = String::new();
        client.read_to_string(&mut response).await.unwrap();
        assert_eq!((asked.as_str(), response.as_str()), ("asked", "response"));
    }

    #[tokio::test]
    async fn a_disconnected_client_is_detected() {
        // If it has unread bytes, the kernel of the client sends a reset at once.
        let (mut server, client) = tcp().await;
        server.write_all(b"never read").await.unwrap();
        client.readable().await.unwrap();
        drop(client);
        server.gone(&CancellationToken::new()).await;
        // If not, the next write shows it.
        let (mut server, client) = tcp().await;
        drop(client);
        let half_closed = CancellationToken::new();
        let watched = server.clone();
        let mut gone = std::pin::pin!(watched.gone(&half_closed));
        tokio::select! {
            () = &mut gone => panic!("it may be there"),
            () = half_closed.cancelled() => {}
        }
        server.write_all(b"response").await.unwrap();
        gone.await;
        // Over a unix socket both ends are in one kernel.
        let (server, client) = unix();
        drop(client);
        server.gone(&CancellationToken::new()).await;
    }

    #[tokio::test]
    async fn waiting_for_the_end_does_not_consume_bytes() {
        let (mut server, mut client) = unix();
        let half_closed = CancellationToken::new();
        client.write_all(b"asked").await.unwrap();
        {
            let mut gone = std::pin::pin!(server.gone(&half_closed));
            assert!(futures_util::poll!(&mut gone).is_pending());
            tokio::task::yield_now().await;
            assert!(futures_util::poll!(&mut gone).is_pending());
        }
        assert!(!half_closed.is_cancelled());
        let mut asked = [0; 5];
        server.read_exact(&mut asked).await.unwrap();
        assert_eq!(&asked, b"asked");
    }
}
