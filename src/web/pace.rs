//! The minimum speed at which a client must read its response and send its request.
//!
//! Time counts only while the server waits for the client: while it has bytes to send and the socket accepts
//! none, or while it needs the rest of a body. A stream without data to send, and a request that waits for a
//! build, are never slow.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

use super::connection::Connection;
use super::head::HeadCounter;

/// Bytes that must move in each [`PERIOD`] that the server waits.
const MIN_BYTES: usize = 64 << 10;
/// See [`MIN_BYTES`].
const PERIOD: Duration = Duration::from_secs(60);
/// Bytes that are read at once: less than the first size of hyper's buffer, so that a client that sends
/// quickly does not make the buffer grow for as long as it is connected.
const READ_STEP: usize = (8 << 10) - 1;

/// The bytes that have moved, and how long the server has waited for them.
#[derive(Debug, Default)]
pub(super) struct Pace {
    moved: usize,
    waited: Duration,
    /// When the server began to wait.
    since: Option<Instant>,
}

impl Pace {
    /// The server waits from `now` on, if it does not yet. Returns when that will be too long.
    pub(super) fn wait(&mut self, now: Instant) -> Instant {
        let since = *self.since.get_or_insert(now);
        since + PERIOD.saturating_sub(self.waited)
    }

    /// Records that `bytes` have moved, so the server stops waiting.
    pub(super) fn moved(&mut self, now: Instant, bytes: usize) {
        if let Some(since) = self.since.take() {
            self.waited += now.saturating_duration_since(since);
        }
        self.moved = self.moved.saturating_add(bytes);
        if self.moved >= MIN_BYTES {
            *self = Pace::default();
        }
    }
}

/// A connection as hyper reads and writes it; it ends if its client accepts bytes too slowly.
#[derive(Debug)]
pub(super) struct Paced {
    connection: Connection,
    /// Bytes that were read before hyper started.
    before: Bytes,
    heads: HeadCounter,
    pace: Pace,
    /// Wakes the task when the client has been too slow; created at the first wait.
    late: Option<Pin<Box<Sleep>>>,
}

impl Paced {
    /// Wraps `connection`, of which `before` was read already. `heads` counts the bytes read.
    pub(super) fn new(connection: Connection, before: Bytes, heads: HeadCounter) -> Paced {
        Paced {
            connection,
            before,
            heads,
            pace: Pace::default(),
            late: None,
        }
    }

    /// The result of a write, unless the client has been too slow.
    fn written(
        &mut self,
        context: &mut Context<'_>,
        written: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if let Poll::Ready(result) = written {
            let bytes = *result.as_ref().unwrap_or(&0);
            self.pace.moved(Instant::now(), bytes);
            return Poll::Ready(result);
        }
        let deadline = self.pace.wait(Instant::now());
        let late = self
            .late
            .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
        if late.deadline() != deadline {
            late.as_mut().reset(deadline);
        }
        ready!(late.as_mut().poll(context));
        // The client has not read the rest in time, and the kernel need not keep it.
        self.connection.reset_when_closed();
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for Paced {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut step = [0; READ_STEP];
        let most = READ_STEP.min(buffer.remaining());
        let read = match self.before.len().min(most) {
            0 => {
                let mut part = ReadBuf::new(&mut step[..most]);
                ready!(Pin::new(&mut self.connection).poll_read(context, &mut part))?;
                let read = part.filled().len();
                buffer.put_slice(&step[..read]);
                read
            }
            read => {
                buffer.put_slice(&self.before[..read]);
                self.before.advance(read);
                if self.before.is_empty() {
                    // An empty slice still keeps the memory that it was cut from.
                    self.before = Bytes::new();
                }
                read
            }
        };
        Poll::Ready(self.heads.read(read))
    }
}

impl AsyncWrite for Paced {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.connection).poll_write(context, bytes);
        self.written(context, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.connection).poll_write_vectored(context, pieces);
        self.written(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.connection.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.connection).poll_flush(context))?;
        self.heads.flushed();
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.connection).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream, UnixStream};

    use super::*;
    use crate::budget::{Budget, Client};

    fn paced(connection: Connection) -> Paced {
        let heads = HeadCounter::new(Arc::default(), Budget::new(0, 0), Client::Local);
        Paced::new(connection, Bytes::new(), heads)
    }

    async fn tcp() -> (Paced, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await;
        let (server, _) = listener.accept().await.unwrap();
        (paced(Connection::tcp(server).unwrap()), client.unwrap())
    }

    fn unix() -> (Paced, UnixStream) {
        let (server, client) = UnixStream::pair().unwrap();
        (paced(Connection::unix(server)), client)
    }

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn too_slow_is_less_than_the_minimum_in_a_minute_of_waiting() {
        let begun = Instant::now();
        let mut pace = Pace::default();
        assert_eq!(pace.wait(begun), begun + PERIOD);
        // A second call does not extend it.
        assert_eq!(pace.wait(begun + seconds(5)), begun + PERIOD);
        // A few bytes now and then do not extend the period.
        pace.moved(begun + seconds(50), 1);
        // Nor does time count in which there was nothing to wait for.
        let later = begun + seconds(5_000);
        assert_eq!(pace.wait(later), later + seconds(10));
        pace.moved(later + seconds(9), MIN_BYTES - 2);
        assert_eq!(pace.wait(later), later + seconds(1));
        pace.moved(later, 1);
        // Now it was enough: another minute.
        assert_eq!(pace.wait(later), later + PERIOD);
    }

    /// Takes `rate` bytes a second until the server ends it, or has had `seconds` for it.
    async fn takes(mut client: impl AsyncRead + Unpin, rate: usize, seconds: u32) -> usize {
        let (mut taken, mut some) = (0, vec![0; rate]);
        for _ in 0..seconds {
            tokio::time::sleep(Duration::from_secs(1)).await;
            if rate == 0 {
                continue;
            }
            match client.read(&mut some).await {
                Ok(0) | Err(_) => break,
                Ok(read) => taken += read,
            }
        }
        taken
    }

    /// How long a server with unlimited bytes to send continues.
    async fn is_sent(mut server: Paced) -> Duration {
        let (begun, piece) = (Instant::now(), [b'x'; 32 << 10]);
        while server.write_all(&piece).await.is_ok() {}
        begun.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_reads_too_slowly_is_disconnected_and_a_steady_one_is_not() {
        for rate in [0, 1, 100] {
            let (server, client) = tcp().await;
            let (lasted, _) = tokio::join!(is_sent(server), takes(client, rate, 1_000));
            assert!(
                lasted >= PERIOD && lasted < seconds(600),
                "{rate}: {lasted:?}"
            );
            let (server, client) = unix();
            let (lasted, _) = tokio::join!(is_sent(server), takes(client, rate, 1_000));
            assert!(
                lasted >= PERIOD && lasted < seconds(600),
                "{rate}: {lasted:?}"
            );
        }
        // This holds whatever the kernel's buffers are.
        let steady = 8 << 10;
        let (server, client) = tcp().await;
        socket2::SockRef::from(&client)
            .set_recv_buffer_size(4 << 20)
            .unwrap();
        let (_, taken) = tokio::join!(is_sent(server), takes(client, steady, 1_000));
        assert_eq!(taken, 1_000 * steady);
        let (server, client) = unix();
        let (_, taken) = tokio::join!(is_sent(server), takes(client, steady, 1_000));
        assert_eq!(taken, 1_000 * steady);
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_without_data_to_send_does_not_count_as_slow() {
        let (mut server, mut client) = tcp().await;
        for _ in 0..20 {
            tokio::time::sleep(seconds(3_600)).await;
            server.write_all(b"event\n").await.unwrap();
        }
        let mut read = [0; 120];
        client.read_exact(&mut read).await.unwrap();
    }

    #[tokio::test]
    async fn buffered_bytes_are_read_first() {
        let (server, mut client) = UnixStream::pair().unwrap();
        let connection = Connection::unix(server);
        let heads = HeadCounter::new(Arc::default(), Budget::new(1 << 20, 0), Client::Proxy);
        let mut paced = Paced::new(connection, Bytes::from(vec![b'a'; 10_000]), heads);
        client.write_all(b"bc").await.unwrap();
        client.shutdown().await.unwrap();
        let mut read = String::new();
        paced.read_to_string(&mut read).await.unwrap();
        assert_eq!(read, format!("{}bc", "a".repeat(10_000)));
    }
}
