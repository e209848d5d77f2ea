//! Heads of requests that are large, counted.
//!
//! What is read of a head stays in memory until it is whole, and the room that was made for it for as long
//! as its connection lasts. The first part of it belongs to what each connection costs; the rest is held in
//! a budget, so that thousands of clients with large headers cannot take what they like.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use hyper::Request;
use hyper::body::Body;

use crate::budget::{Budget, Client, Held};

/// Bytes of a head that every connection has room for; most requests are much smaller.
const USUAL: u64 = 8 << 10;
/// A body whose length is not known.
const UNKNOWN: u64 = u64::MAX;

/// What is known of a connection's requests; shared by the parts that serve it, in one task.
#[derive(Debug, Default)]
pub(super) struct Told {
    /// Bytes of a request's body that are still to be read: they are no part of a head.
    body: AtomicU64,
    has_body: AtomicBool,
    /// A request has begun to be answered since anything was last read.
    is_new: AtomicBool,
    is_refused: AtomicBool,
    /// Some of an answer may not have been written yet.
    is_answering: AtomicBool,
    /// hyper has all of that answer.
    is_given: AtomicBool,
}

impl Told {
    /// The head of `request` is whole. Returns false where it is not known how long its body is: then
    /// nothing may be read after it.
    pub(super) fn asked<B: Body>(&self, request: &Request<B>) -> bool {
        let length = request.body().size_hint().exact();
        self.body.store(length.unwrap_or(UNKNOWN), Relaxed);
        self.has_body.store(length != Some(0), Relaxed);
        self.is_new.store(true, Relaxed);
        self.is_given.store(false, Relaxed);
        self.is_answering.store(true, Relaxed);
        length.is_some()
    }

    /// Part of the body of the answer, which hyper drops when it has taken all of it.
    pub(super) fn giving(self: Arc<Told>) -> Giving {
        Giving(self)
    }

    /// True where the last request had a body, some of which may not have been read.
    pub(super) fn had_body(&self) -> bool {
        self.has_body.load(Relaxed)
    }

    /// True where there was no room for a head.
    pub(super) fn is_refused(&self) -> bool {
        self.is_refused.load(Relaxed)
    }

    /// True where a part of an answer was perhaps written, and not all of it: nothing else may follow.
    pub(super) fn is_answering(&self) -> bool {
        self.is_answering.load(Relaxed)
    }
}

/// See [`Told::giving`].
#[derive(Debug)]
pub(super) struct Giving(Arc<Told>);

impl Drop for Giving {
    fn drop(&mut self) {
        self.0.is_given.store(true, Relaxed);
    }
}

/// Counts what is read of heads.
#[derive(Debug)]
pub(super) struct Heads {
    told: Arc<Told>,
    budget: Budget,
    client: Client,
    read: u64,
    held: Option<Held>,
}

impl Heads {
    /// Those of one connection, which `client` has.
    pub(super) fn new(told: Arc<Told>, budget: Budget, client: Client) -> Heads {
        Heads {
            told,
            budget,
            client,
            read: 0,
            held: None,
        }
    }

    /// hyper has written all that it had to write.
    pub(super) fn flushed(&self) {
        if self.told.is_given.load(Relaxed) {
            self.told.is_answering.store(false, Relaxed);
        }
    }

    /// So many bytes were read.
    ///
    /// # Errors
    /// Where they are of a head for which there is no room now; [`Told::is_refused`] says so, too.
    pub(super) fn read(&mut self, bytes: usize) -> io::Result<()> {
        if self.told.is_new.swap(false, Relaxed) {
            self.read = 0;
        }
        let bytes = bytes as u64;
        let body = self.told.body.load(Relaxed);
        if body == UNKNOWN {
            return Ok(());
        }
        let of_body = bytes.min(body);
        self.told.body.store(body - of_body, Relaxed);
        self.read += bytes - of_body;
        if self.read <= USUAL {
            return Ok(());
        }
        // Room is made by doubling it.
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
        self.told.is_refused.store(true, Relaxed);
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
    fn a_large_head_is_counted_until_its_connection_ends_and_a_body_is_not() {
        let (told, budget) = (Arc::new(Told::default()), Budget::new(256 << 10, 0));
        let mut heads = Heads::new(told.clone(), budget.clone(), client());
        heads.read(8 << 10).unwrap();
        assert_eq!(budget.held(), 0);
        heads.read(8 << 10).unwrap();
        assert_eq!(budget.held(), 32 << 10);
        let body = Full::new(bytes::Bytes::from(vec![0; 1 << 20]));
        assert!(told.asked(&Request::new(body)));
        assert!(told.had_body());
        heads.read(1 << 20).unwrap();
        heads.read(16 << 10).unwrap();
        assert_eq!(budget.held(), 32 << 10);
        heads.read(8 << 10).unwrap();
        assert_eq!(budget.held(), 48 << 10);
        drop(heads);
        assert_eq!(budget.held(), 0);
    }

    #[test]
    fn a_head_without_room_ends_its_connection_and_no_other() {
        let budget = Budget::new(64 << 10, 0);
        let heads = || {
            let told = Arc::new(Told::default());
            (
                told.clone(),
                Heads::new(told, budget.clone(), Client::Proxy),
            )
        };
        let ((first, mut taking), (second, mut refused)) = (heads(), heads());
        taking.read(30 << 10).unwrap();
        refused.read(9 << 10).unwrap_err();
        assert!(second.is_refused() && !first.is_refused());
        let (_, mut small) = heads();
        small.read(8 << 10).unwrap();
        drop(taking);
        refused.read(1).unwrap();
    }
}
