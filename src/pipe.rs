//! A blocking writer on one side, a stream of bytes on the other.
//!
//! Tars are written by blocking code and sent by async code. What the writer's side returns
//! ends the stream: an error there is an error of the stream, so a torn tar never looks whole.

use std::io::{self, Write};

use bytes::{Bytes, BytesMut};
use futures_util::stream::{self, Stream, StreamExt};
use tokio::sync::{Semaphore, mpsc};

/// Bytes gathered before they are handed over.
const CHUNK: usize = 64 << 10;
/// Chunks in flight: enough to keep both sides busy, little enough to hold nothing whole.
const IN_FLIGHT: usize = 4;

/// Writers at once. Each holds a thread as long as its reader takes, and the runtime's 512 must leave
/// some for everything else.
const WRITERS: usize = 256;
static ROOM: Semaphore = Semaphore::const_new(WRITERS);

/// The writing side; fails with `BrokenPipe` once nobody reads any more.
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
pub fn stream_of<F>(write: F) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static
where
    F: FnOnce(&mut PipeWriter) -> io::Result<()> + Send + 'static,
{
    let (to, mut from) = mpsc::channel(IN_FLIGHT);
    // Joined by the stream itself: it ends only after the sender is gone, and the sender is
    // the task's.
    let writing = move |place| {
        let _place = place;
        let mut writer = PipeWriter {
            to,
            gathered: BytesMut::new(),
        };
        let result = write(&mut writer).and_then(|()| writer.flush());
        if let Err(error) = result {
            // The reader may be gone; then nobody is left to tell.
            let _ = writer.to.blocking_send(Err(error));
        }
    };
    let starting = async move {
        // The semaphore is never closed.
        if let Ok(place) = ROOM.acquire().await {
            tokio::task::spawn_blocking(move || writing(place));
        }
        stream::poll_fn(move |cx| from.poll_recv(cx))
    };
    stream::once(starting).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::StreamExt;

    #[tokio::test]
    async fn everything_written_comes_out_in_order() {
        let bytes: Vec<u8> = (0..300_000_u32).map(|n| n as u8).collect();
        let sent = bytes.clone();
        let mut stream = Box::pin(stream_of(move |to| to.write_all(&sent)));
        let mut got = Vec::new();
        while let Some(chunk) = stream.next().await {
            got.extend_from_slice(&chunk.unwrap());
        }
        assert!(got == bytes);
    }

    #[tokio::test]
    async fn a_failure_of_the_writer_is_a_failure_of_the_stream() {
        let mut stream = Box::pin(stream_of(|to| {
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
