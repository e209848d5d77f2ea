//! Connects blocking code to an asynchronous stream of bytes.
//!
//! Tars are written by blocking code and sent by async code. Contexts for Docker are written by a thread of
//! their build, which waits while Docker does not read ([`writer_stream`]). Data for clients comes from a
//! [`Source`] that is called for each chunk ([`source_stream`]): it uses no thread while its reader does not
//! read. An error of either is an error of the stream, so a truncated tar is never taken for a complete one.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;

use bytes::{Bytes, BytesMut};
use futures_util::stream::{self, Stream, StreamExt};
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use crate::read_limiter::ClientReadLimiter;

/// Bytes that are collected before they are passed on.
pub const CHUNK: usize = 64 << 10;
/// Chunks in flight: enough to keep both sides busy, few enough to limit memory.
const CHUNKS_IN_FLIGHT: usize = 4;

/// The writing side; fails with `BrokenPipe` once the reader is gone.
#[derive(Debug)]
pub struct PipeWriter {
    to: mpsc::Sender<io::Result<Bytes>>,
    gathered: BytesMut,
}

impl PipeWriter {
    fn hand_over(&mut self) -> io::Result<()> {
        if self.gathered.is_empty() {
            return Ok(());
        }
        let chunk = self.gathered.split().freeze();
        self.to
            .blocking_send(Ok(chunk))
            .map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

impl Write for PipeWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.gathered.extend_from_slice(bytes);
        if self.gathered.len() >= CHUNK {
            self.hand_over()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.hand_over()
    }
}

/// Runs `write` on a blocking thread and streams what it writes. Dropping the stream ends it.
pub fn writer_stream<F>(write: F) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static
where
    F: FnOnce(&mut PipeWriter) -> io::Result<()> + Send + 'static,
{
    let (to, mut from) = mpsc::channel(CHUNKS_IN_FLIGHT);
    // Joined by the stream itself: it ends only after the sender is dropped, which the task owns.
    let writing = move || {
        let mut writer = PipeWriter {
            to,
            gathered: BytesMut::new(),
        };
        let result = write(&mut writer).and_then(|()| writer.flush());
        if let Err(error) = result {
            // The reader may be gone; then no one receives the error.
            let _ = writer.to.blocking_send(Err(error));
        }
    };
    let starting = async move {
        tokio::task::spawn_blocking(writing);
        stream::poll_fn(move |cx| from.poll_recv(cx))
    };
    stream::once(starting).flatten()
}

/// Whether a source has more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum More {
    /// It must be called again.
    Yes,
    /// That was all.
    No,
}

/// A source that produces bytes on demand.
pub trait Source: Send + 'static {
    /// Appends the next bytes to `to`: about [`CHUNK`], so that a call is short. It may append none, or
    /// slightly more. It may block for the disk, but must not wait for anything else.
    ///
    /// # Errors
    /// When they cannot be produced; it is not called again.
    fn fill(&mut self, to: &mut Vec<u8>) -> io::Result<More>;
}

/// Appends at most `most` bytes of `file` from `offset` on to `to`; returns their number.
///
/// # Errors
/// Of the disk.
pub fn read_at(file: &File, offset: u64, most: usize, to: &mut Vec<u8>) -> io::Result<usize> {
    let before = to.len();
    to.resize(before + most, 0);
    let read = loop {
        match file.read_at(&mut to[before..], offset) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            read => break read,
        }
    };
    to.truncate(before + read.as_ref().map_or(0, |read| *read));
    read
}

/// The bytes of `source` as a stream: each call is a short blocking task with a permit of `limiter`, which
/// starts when the previous chunk was taken.
pub fn source_stream(
    source: impl Source,
    limiter: ClientReadLimiter,
) -> impl Stream<Item = io::Result<Bytes>> + Send + Unpin + 'static {
    let idle = Idle {
        source: Some(source),
        limiter,
    };
    Box::pin(stream::try_unfold(Some(idle), next_chunk))
}

/// The next bytes, and the source if it has more.
async fn next_chunk<S: Source>(
    mut idle: Option<Idle<S>>,
) -> io::Result<Option<(Bytes, Option<Idle<S>>)>> {
    while let Some(source) = idle {
        let limiter = source.limiter.clone();
        // If the stream is dropped meanwhile, this ends by itself. A source that panicked is finished.
        let filling = limiter.run(|_permit| source.fill());
        let (bytes, rest) = filling.await.map_err(io::Error::other)??;
        if !bytes.is_empty() {
            return Ok(Some((bytes.into(), rest)));
        }
        idle = rest;
    }
    Ok(None)
}

/// A source between two calls. It is dropped with a permit: closing files can be slow, and leaving a tree
/// accesses the disk.
struct Idle<S: Send + 'static> {
    source: Option<S>,
    limiter: ClientReadLimiter,
}

impl<S: Source> Idle<S> {
    /// Produced bytes, and the source if it has more. Blocks.
    fn fill(mut self) -> io::Result<(Vec<u8>, Option<Idle<S>>)> {
        let mut bytes = Vec::with_capacity(CHUNK);
        let more = match &mut self.source {
            Some(source) => source.fill(&mut bytes),
            None => Ok(More::No),
        };
        if matches!(more, Ok(More::Yes)) {
            return Ok((bytes, Some(self)));
        }
        // This thread may block.
        drop(self.source.take());
        more.map(|_| (bytes, None))
    }
}

impl<S: Send + 'static> Drop for Idle<S> {
    fn drop(&mut self) {
        if let Some(source) = self.source.take()
            && let Ok(runtime) = Handle::try_current()
        {
            let limiter = self.limiter.clone();
            // There is no result to wait for.
            runtime.spawn(async move { limiter.run(|_permit| drop(source)).await });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::budget::Client;
    use crate::read_limiter::{ReadLimiter, SCANS};

    fn limiter() -> ClientReadLimiter {
        ReadLimiter::new(SCANS).for_client(Client::Proxy)
    }

    #[tokio::test]
    async fn all_bytes_are_received_in_order() {
        let bytes: Vec<u8> = (0..300_000_u32).map(|n| n as u8).collect();
        let sent = bytes.clone();
        let mut stream = Box::pin(writer_stream(move |to| to.write_all(&sent)));
        let mut got = Vec::new();
        while let Some(chunk) = stream.next().await {
            got.extend_from_slice(&chunk.unwrap());
        }
        assert!(got == bytes);
    }

    /// Counts down; records the thread that drops it.
    struct Countdown(u8, std::sync::mpsc::Sender<std::thread::ThreadId>);

    impl Source for Countdown {
        fn fill(&mut self, to: &mut Vec<u8>) -> io::Result<More> {
            match self.0 {
                0 => Err(io::Error::other("torn")),
                1 => Ok(More::No),
                // No bytes this time.
                4 => {
                    self.0 -= 1;
                    Ok(More::Yes)
                }
                left => {
                    to.push(left);
                    self.0 -= 1;
                    Ok(More::Yes)
                }
            }
        }
    }

    impl Drop for Countdown {
        fn drop(&mut self) {
            let _ = self.1.send(std::thread::current().id());
        }
    }

    #[tokio::test]
    async fn a_source_is_read_until_it_ends() {
        let (dropped, _) = std::sync::mpsc::channel();
        let chunks: Vec<_> = source_stream(Countdown(6, dropped), limiter())
            .collect()
            .await;
        let chunks: Vec<u8> = chunks.into_iter().map(|chunk| chunk.unwrap()[0]).collect();
        assert_eq!(chunks, [6, 5, 3, 2]);
    }

    #[tokio::test]
    async fn an_error_of_the_source_is_an_error_of_the_stream_and_ends_it() {
        let (dropped, _) = std::sync::mpsc::channel();
        let mut stream = source_stream(Countdown(0, dropped), limiter());
        let error = stream.next().await.unwrap().unwrap_err();
        assert_eq!(error.to_string(), "torn");
        assert!(stream.next().await.is_none());
    }

    #[tokio::test]
    async fn a_source_holds_no_thread_while_it_is_not_read_and_is_dropped_by_a_blocking_one() {
        let (dropped, threads) = std::sync::mpsc::channel();
        // More than there are blocking threads.
        let limiter = limiter();
        let mut streams: Vec<_> = (0..1_000)
            .map(|_| source_stream(Countdown(9, dropped.clone()), limiter.clone()))
            .collect();
        for stream in &mut streams {
            assert_eq!(stream.next().await.unwrap().unwrap()[0], 9);
        }
        let free = tokio::task::spawn_blocking(|| "free");
        assert_eq!(free.await.unwrap(), "free");
        drop(streams);
        let here = std::thread::current().id();
        let threads =
            tokio::task::spawn_blocking(move || threads.iter().take(1_000).collect::<Vec<_>>());
        assert!(threads.await.unwrap().iter().all(|thread| *thread != here));
    }

    #[tokio::test]
    async fn an_error_of_the_writer_is_an_error_of_the_stream() {
        let mut stream = Box::pin(writer_stream(|to| {
            to.write_all(b"half")?;
            Err(io::Error::other("torn"))
        }));
        let mut last = None;
        while let Some(chunk) = stream.next().await {
            last = Some(chunk);
        }
        assert_eq!(last.unwrap().unwrap_err().to_string(), "torn");
    }
}
