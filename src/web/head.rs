//! Large heads of requests, counted.
//!
//! A head is stored in memory until it is complete, and its buffer for as long as its connection lasts. The
//! first part of it is included in the cost of each connection; the rest is held in a budget, so that
//! thousands of clients with large headers cannot use unbounded memory.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use hyper::Request;
use hyper::body::Body;

use crate::budget::{Budget, Client, Held};

/// Bytes of a head that every connection may use; most heads are much smaller.
const UNCOUNTED: u64 = 8 << 10;
/// The length of a body for which none is known.
const UNKNOWN_LENGTH: u64 = u64::MAX;

/// The state of the exchange on a connection. The parts that serve it share it, in one task.
#[derive(Debug, Default)]
pub(super) struct HttpState {
    /// Bytes of a request's body that are still to be read; they are not part of a head.
    body_left: AtomicU64,
    has_body: AtomicBool,
    /// The head of a request was complete, and nothing was read since.
    is_new: AtomicBool,
    is_head_refused: AtomicBool,
    /// A part of a response may not have been written yet.
    is_response_incomplete: AtomicBool,
    /// hyper has taken all of that response.
    is_body_taken: AtomicBool,
}

impl HttpState {
    /// Records that the head of `request` is complete. Returns false if the length of its body is unknown:
    /// then nothing may be read after it.
    pub(super) fn request_received<B: Body>(&self, request: &Request<B>) -> bool {
        let length = request.body().size_hint().exact();
        self.body_left
            .store(length.unwrap_or(UNKNOWN_LENGTH), Relaxed);
        self.has_body.store(length != Some(0), Relaxed);
        self.is_new.store(true, Relaxed);
        self.is_body_taken.store(false, Relaxed);
        self.is_response_incomplete.store(true, Relaxed);
        length.is_some()
    }

    /// A guard for the body of the response: hyper drops it when it has taken all of the body.
    pub(super) fn response_guard(self: Arc<HttpState>) -> ResponseGuard {
        ResponseGuard(self)
    }

    /// True where the last request had a body, some of which may not have been read.
    pub(super) fn had_body(&self) -> bool {
        self.has_body.load(Relaxed)
    }

    /// True if the budget was not enough for a head.
    pub(super) fn is_head_refused(&self) -> bool {
        self.is_head_refused.load(Relaxed)
    }

    /// True if a response may have been written in part: nothing else may follow.
    pub(super) fn is_response_incomplete(&self) -> bool {
        self.is_response_incomplete.load(Relaxed)
    }
}

/// See [`HttpState::response_guard`].
#[derive(Debug)]
pub(super) struct ResponseGuard(Arc<HttpState>);

impl Drop for ResponseGuard {
    fn drop(&mut self) {
        self.0.is_body_taken.store(true, Relaxed);
    }
}

/// Counts the bytes of heads.
#[derive(Debug)]
pub(super) struct HeadCounter {
    state: Arc<HttpState>,
    budget: Budget,
    client: Client,
    read: u64,
    held: Option<Held>,
}

impl HeadCounter {
    /// Counts the heads of one connection of `client`.
    pub(super) fn new(state: Arc<HttpState>, budget: Budget, client: Client) -> HeadCounter {
        HeadCounter {
            state,
            budget,
            client,
            read: 0,
            held: None,
        }
    }

    /// Records that hyper has flushed its output.
    pub(super) fn flushed(&self) {
        if self.state.is_body_taken.load(Relaxed) {
            self.state.is_response_incomplete.store(false, Relaxed);
        }
    }

    /// Counts `bytes` read.
    ///
    /// # Errors
    /// If they belong to a head for which the budget is not enough; [`HttpState::is_head_refused`] reports
    /// that, too.
    pub(super) fn read(&mut self, bytes: usize) -> io::Result<()> {
        if self.state.is_new.swap(false, Relaxed) {
            self.read = 0;
        }
        let bytes = bytes as u64;
        let body = self.state.body_left.load(Relaxed);
        if body == UNKNOWN_LENGTH {
            return Ok(());
        }
        let of_body = bytes.min(body);
        self.state.body_left.store(body - of_body, Relaxed);
        self.read += bytes - of_body;
        if self.read <= UNCOUNTED {
            return Ok(());
        }
        // hyper doubles its buffer when it is full.
        let wanted = 2 * self.read;
        let is_held = match &mut self.held {
            Some(held) => {
                let more = wanted.saturating_sub(held.amount());
                more == 0 || held.grow(more)
            }
            None => {
                self.held = self.budget.hold(self.client, wanted);
                self.held.is_some()
            }
        };
        if is_held {
            return Ok(());
        }
        self.state.is_head_refused.store(true, Relaxed);
        Err(io::Error::other("no room for the head of a request"))
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::Full;

    use super::*;

    fn client() -> Client {
        Client::of([192, 0, 2, 1].into())
    }

    #[test]
    fn a_large_request_head_is_counted_until_its_connection_ends_and_a_body_is_not() {
        let (state, budget) = (Arc::new(HttpState::default()), Budget::new(256 << 10, 0));
        let mut heads = HeadCounter::new(state.clone(), budget.clone(), client());
        heads.read(8 << 10).unwrap();
        assert_eq!(budget.held(), 0);
        heads.read(8 << 10).unwrap();
        assert_eq!(budget.held(), 32 << 10);
        let body = Full::new(bytes::Bytes::from(vec![0; 1 << 20]));
        assert!(state.request_received(&Request::new(body)));
        assert!(state.had_body());
        heads.read(1 << 20).unwrap();
        heads.read(16 << 10).unwrap();
        assert_eq!(budget.held(), 32 << 10);
        heads.read(8 << 10).unwrap();
        assert_eq!(budget.held(), 48 << 10);
        drop(heads);
        assert_eq!(budget.held(), 0);
    }

    #[test]
    fn a_request_head_over_the_budget_ends_only_its_own_connection() {
        let budget = Budget::new(64 << 10, 0);
        let heads = || {
            let state = Arc::new(HttpState::default());
            (
                state.clone(),
                HeadCounter::new(state, budget.clone(), Client::Proxy),
            )
        };
        let ((first, mut taking), (second, mut refused)) = (heads(), heads());
        taking.read(30 << 10).unwrap();
        refused.read(9 << 10).unwrap_err();
        assert!(second.is_head_refused() && !first.is_head_refused());
        let (_, mut small) = heads();
        small.read(8 << 10).unwrap();
        drop(taking);
        refused.read(1).unwrap();
    }
}
