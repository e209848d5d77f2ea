//! Admission, backlog, coalescing, slots: a pure state machine, without clock or tokio.
//!
//! ```text
//!            admit                    end of another
//!   absent ────────► waiting ───────────────────────► running ──► absent
//!      │   slot free                                     ▲  end
//!      └─────────────────────────────────────────────────┘
//! ```
//!
//! At most one build of an id is live: whoever asks again joins it. A slot that becomes free
//! goes to whoever waits longest. `slots` bounds the running, `backlog` the waiting.

use std::collections::{HashMap, VecDeque};

use crate::job::JobId;

/// What became of a request for a job.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Admission<T> {
    /// It has a slot at once.
    Started(T),
    /// It waits for one.
    Queued(T),
    /// Somebody asked for it before; this is what they got.
    Coalesced(T),
    /// No slot and no place to wait.
    Refused,
}

/// The jobs that are live, each with what its waiters hold on to.
#[derive(Debug)]
pub(super) struct Queue<T> {
    slots: usize,
    backlog: usize,
    live: HashMap<JobId, T>,
    /// Those of `live` that have no slot, longest first.
    waiting: VecDeque<JobId>,
}

impl<T: Clone> Queue<T> {
    pub(super) fn new(slots: usize, backlog: usize) -> Queue<T> {
        Queue {
            slots,
            backlog,
            live: HashMap::new(),
            waiting: VecDeque::new(),
        }
    }

    /// Asks for a slot, a place, or the company of whoever asked before.
    pub(super) fn admit(&mut self, id: JobId, make: impl FnOnce() -> T) -> Admission<T> {
        if let Some(live) = self.live.get(&id) {
            Admission::Coalesced(live.clone())
        } else if self.running() < self.slots {
            Admission::Started(self.enter(id, make()))
        } else if self.waiting.len() < self.backlog {
            self.waiting.push_back(id);
            Admission::Queued(self.enter(id, make()))
        } else {
            Admission::Refused
        }
    }

    /// Admits what was accepted in an earlier life: it has its place, whatever the backlog.
    pub(super) fn admit_again(&mut self, id: JobId, make: impl FnOnce() -> T) -> Admission<T> {
        let backlog = std::mem::replace(&mut self.backlog, usize::MAX);
        let admission = self.admit(id, make);
        self.backlog = backlog;
        admission
    }

    fn enter(&mut self, id: JobId, made: T) -> T {
        self.live.insert(id, made.clone());
        made
    }

    /// A live job is over, or never began. Returns who gets the slot that this set free.
    pub(super) fn end(&mut self, id: JobId) -> Option<T> {
        self.live.remove(&id)?;
        if let Some(at) = self.waiting.iter().position(|waiting| *waiting == id) {
            // It had a place, not a slot.
            self.waiting.remove(at);
            return None;
        }
        self.next()
    }

    /// Gives the slot that is free, if one is, to whoever waits longest.
    fn next(&mut self) -> Option<T> {
        if self.running() >= self.slots {
            return None;
        }
        let next = self.waiting.pop_front()?;
        self.live.get(&next).cloned()
    }

    /// Other bounds from now on; what is live stays. Returns who gets a slot by that.
    pub(super) fn resize(&mut self, slots: usize, backlog: usize) -> Vec<T> {
        (self.slots, self.backlog) = (slots, backlog);
        std::iter::from_fn(|| self.next()).collect()
    }

    /// What the waiters of a live job hold on to.
    pub(super) fn get(&self, id: JobId) -> Option<&T> {
        self.live.get(&id)
    }

    /// Everybody who is live, in no order.
    pub(super) fn all(&self) -> impl Iterator<Item = &T> {
        self.live.values()
    }

    /// How many hold a slot.
    pub(super) fn running(&self) -> usize {
        self.live.len() - self.waiting.len()
    }

    /// How many wait for one.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: u8) -> JobId {
        format!("{n:02x}").repeat(32).parse().unwrap()
    }

    #[test]
    fn slots_and_backlog_hold_exactly() {
        let mut queue = Queue::new(2, 1);
        assert_eq!(queue.admit(id(1), || 1), Admission::Started(1));
        assert_eq!(queue.admit(id(2), || 2), Admission::Started(2));
        assert_eq!(queue.admit(id(3), || 3), Admission::Queued(3));
        assert_eq!(queue.admit(id(4), || 4), Admission::Refused);
        assert_eq!((queue.running(), queue.waiting()), (2, 1));
        assert_eq!(queue.admit_again(id(5), || 5), Admission::Queued(5));
    }

    #[test]
    fn with_more_slots_those_who_wait_begin_and_with_fewer_nobody_is_stopped() {
        let mut queue = Queue::new(1, 4);
        for n in 1..=5 {
            queue.admit(id(n), || n);
        }
        assert_eq!(queue.resize(3, 4), [2, 3]);
        assert_eq!((queue.running(), queue.waiting()), (3, 2));
        assert!(queue.resize(1, 0).is_empty());
        assert_eq!(queue.end(id(1)), None);
        assert_eq!(queue.end(id(2)), None);
        assert_eq!(queue.end(id(3)), Some(4));
        assert_eq!(queue.admit(id(9), || 9), Admission::Refused);
    }

    #[test]
    fn whoever_asks_again_joins_even_when_all_is_full() {
        let mut queue = Queue::new(1, 1);
        queue.admit(id(1), || 1);
        queue.admit(id(2), || 2);
        assert_eq!(queue.admit(id(1), || 9), Admission::Coalesced(1));
        assert_eq!(queue.admit(id(2), || 9), Admission::Coalesced(2));
        assert_eq!((queue.running(), queue.waiting()), (1, 1));
    }

    #[test]
    fn a_free_slot_goes_to_whoever_waits_longest() {
        let mut queue = Queue::new(1, 3);
        for n in 1..=4 {
            queue.admit(id(n), || n);
        }
        // One that waits leaves: nobody starts for that.
        assert_eq!(queue.end(id(3)), None);
        assert_eq!(queue.end(id(1)), Some(2));
        assert_eq!(queue.end(id(2)), Some(4));
        assert_eq!(queue.end(id(4)), None);
        assert_eq!(queue.end(id(4)), None);
        assert_eq!((queue.running(), queue.waiting()), (0, 0));
        assert_eq!(queue.admit(id(1), || 1), Admission::Started(1));
    }
}
