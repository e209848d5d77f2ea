//! A body that sends one chunk at a time.
//!
//! hyper takes chunks of a body until its write buffer is full, whether or not the client reads. This body
//! gives hyper the next chunk only when the one before was dropped, which is when the kernel has taken it.
//! One more chunk is read ahead, so that disk and network work at the same time. A client that reads nothing
//! costs two chunks and what the stream itself holds.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::Stream;
use futures_util::stream::{Fuse, StreamExt};
use futures_util::task::AtomicWaker;

use super::response::{self, Body};
use crate::budget::Held;
use crate::pipe;

/// Bytes of both chunks where they are of the size of those of [`pipe`].
pub(super) const BYTES: u64 = 2 * pipe::CHUNK as u64;

/// A body of the chunks of `bytes`: it holds one, and the write buffer another. `held` is the budget of both:
/// it is dropped with the body and its last chunk.
pub(super) fn body(
    bytes: impl Stream<Item = io::Result<Bytes>> + Send + 'static,
    held: Held,
) -> Body {
    response::streamed(Paced {
        bytes: bytes.boxed().fuse(),
        ahead: None,
        state: Arc::new(ChunkState {
            is_in_use: AtomicBool::new(false),
            reader: AtomicWaker::new(),
            _held: held,
        }),
    })
}

struct Paced<S: Stream> {
    bytes: Fuse<S>,
    /// The chunk read ahead.
    ahead: Option<S::Item>,
    state: Arc<ChunkState>,
}

/// The state shared by a body and its chunk.
struct ChunkState {
    /// True while hyper has a chunk.
    is_in_use: AtomicBool,
    /// The task that waits for that.
    reader: AtomicWaker,
    _held: Held,
}

impl<S: Stream<Item = io::Result<Bytes>> + Unpin> Stream for Paced<S> {
    type Item = io::Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.ahead.is_none()
            && let Poll::Ready(next) = self.bytes.poll_next_unpin(cx)
        {
            self.ahead = next;
            if self.ahead.is_none() {
                return Poll::Ready(None);
            }
        }
        // Registered before the check, so that a chunk that is dropped in between wakes the task.
        self.state.reader.register(cx.waker());
        if self.state.is_in_use.load(Ordering::Acquire) {
            return Poll::Pending;
        }
        match self.ahead.take() {
            None => Poll::Pending,
            Some(Err(error)) => Poll::Ready(Some(Err(error))),
            Some(Ok(bytes)) => {
                self.state.is_in_use.store(true, Ordering::Release);
                let state = self.state.clone();
                let out = SentChunk { bytes, state };
                Poll::Ready(Some(Ok(Bytes::from_owner(out))))
            }
        }
    }
}

/// A chunk that hyper has.
struct SentChunk {
    bytes: Bytes,
    state: Arc<ChunkState>,
}

impl AsRef<[u8]> for SentChunk {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for SentChunk {
    fn drop(&mut self) {
        self.state.is_in_use.store(false, Ordering::Release);
        self.state.reader.wake();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use futures_util::stream;
    use http_body_util::BodyExt;

    use super::*;
    use crate::budget::{Budget, Client};

    async fn next(body: &mut Body) -> Option<io::Result<Bytes>> {
        let frame = body.frame().await?;
        Some(frame.map(|frame| frame.into_data().unwrap()))
    }

    #[tokio::test]
    async fn a_chunk_is_sent_when_the_previous_one_was_dropped_and_one_is_read_ahead() {
        let budget = Budget::new(1_000, 0);
        let held = budget.hold(Client::Proxy, 100).unwrap();
        let made = Arc::new(AtomicUsize::new(0));
        let counted = made.clone();
        let chunks = stream::iter(0..5_u8).map(move |n| {
            counted.fetch_add(1, Ordering::Relaxed);
            Ok(Bytes::from(vec![n]))
        });
        let mut body = body(chunks, held);
        let first = next(&mut body).await.unwrap().unwrap();
        let part = first.slice(..1);
        drop(first);
        for _ in 0..3 {
            assert!(futures_util::poll!(Box::pin(next(&mut body))).is_pending());
        }
        assert_eq!(made.load(Ordering::Relaxed), 2);
        // The task that waits is woken when the last part is dropped.
        let (second, ()) = tokio::join!(next(&mut body), async { drop(part) });
        let mut got = vec![second.unwrap().unwrap()[0]];
        while let Some(chunk) = next(&mut body).await {
            got.push(chunk.unwrap()[0]);
        }
        assert_eq!(got, [1, 2, 3, 4]);
        assert_eq!(budget.held(), 100);
        drop(body);
        assert_eq!(budget.held(), 0);
    }

    #[tokio::test]
    async fn a_reservation_is_held_until_the_last_chunk_is_dropped() {
        let budget = Budget::new(1_000, 0);
        let held = budget.hold(Client::Proxy, 100).unwrap();
        let mut body = body(stream::iter([Ok(Bytes::from_static(b"last"))]), held);
        let last = next(&mut body).await.unwrap().unwrap();
        assert!(next(&mut body).await.is_none());
        drop(body);
        assert_eq!(budget.held(), 100);
        drop(last);
        assert_eq!(budget.held(), 0);
    }

    #[tokio::test]
    async fn an_error_is_sent_after_the_chunks_before_it() {
        let budget = Budget::new(1_000, 0);
        let held = budget.hold(Client::Proxy, 100).unwrap();
        let torn = [
            Ok(Bytes::from_static(b"half")),
            Err(io::Error::other("torn")),
        ];
        let mut body = body(stream::iter(torn), held);
        assert_eq!(next(&mut body).await.unwrap().unwrap(), "half");
        let error = next(&mut body).await.unwrap().unwrap_err();
        assert_eq!(error.to_string(), "torn");
    }
}
