//! Admission, backlog, coalescing, slots: a pure state machine, without clock or tokio.
//!
//! ```text
//!            admit                    end of another
//!   absent ────────► waiting ───────────────────────► running ──► absent
//!      │   slot free                                     ▲  end
//!      └─────────────────────────────────────────────────┘
//! ```
//!
//! At most one build of an id is active: a further request joins it. A slot that becomes free
//! goes to the job that waits longest. `slots` bounds the running, `backlog` the waiting. While it is
//! paused no job gets a slot: what runs goes on, what is new waits.

use std::collections::{HashMap, VecDeque};

use crate::job::JobId;

/// What became of a request for a job.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Admission<T> {
    /// It has a slot at once.
    Started(T),
    /// It waits for one.
    Queued(T),
    /// It was asked for before; this is what that request got.
    Coalesced(T),
    /// No slot and no place to wait.
    Refused,
}

/// The jobs that are active, each with what its waiters hold on to.
#[derive(Debug)]
pub(super) struct Queue<T> {
    slots: usize,
    backlog: usize,
    /// Slots that are free, or become free, are kept back.
    is_paused: bool,
    active: HashMap<JobId, T>,
    /// Those of `active` that have no slot, longest first.
    waiting: VecDeque<JobId>,
}

impl<T: Clone> Queue<T> {
    pub(super) fn new(slots: usize, backlog: usize) -> Queue<T> {
        Queue {
            slots,
            backlog,
            is_paused: false,
            active: HashMap::new(),
            waiting: VecDeque::new(),
        }
    }

    /// Asks for a slot, a place in the queue, or to join the active job of the same id.
    pub(super) fn admit(&mut self, id: JobId, make: impl FnOnce() -> T) -> Admission<T> {
        if let Some(active) = self.active.get(&id) {
            Admission::Coalesced(active.clone())
        } else if self.has_slot() {
            Admission::Started(self.enter(id, make()))
        } else if self.waiting.len() < self.backlog {
            self.waiting.push_back(id);
            Admission::Queued(self.enter(id, make()))
        } else {
            Admission::Refused
        }
    }

    /// Admits what was accepted in an earlier process: it has its place, whatever the backlog, and a
    /// slot, whatever their number and also while paused, if it `is_running` already.
    pub(super) fn admit_again(
        &mut self,
        id: JobId,
        is_running: bool,
        make: impl FnOnce() -> T,
    ) -> Admission<T> {
        let (slots, backlog, is_paused) = (self.slots, self.backlog, self.is_paused);
        if is_running {
            (self.slots, self.is_paused) = (usize::MAX, false);
        }
        self.backlog = usize::MAX;
        let admission = self.admit(id, make);
        (self.slots, self.backlog, self.is_paused) = (slots, backlog, is_paused);
        admission
    }

    fn enter(&mut self, id: JobId, made: T) -> T {
        self.active.insert(id, made.clone());
        made
    }

    /// An active job is over, or never began. Returns the job that gets the slot that this set free; none
    /// while paused.
    pub(super) fn end(&mut self, id: JobId) -> Option<T> {
        self.active.remove(&id)?;
        if let Some(at) = self.waiting.iter().position(|waiting| *waiting == id) {
            // It had a place, not a slot.
            self.waiting.remove(at);
            return None;
        }
        self.next()
    }

    /// Gives the slot that is free, if one is, to the job that waits longest.
    fn next(&mut self) -> Option<T> {
        if !self.has_slot() {
            return None;
        }
        let next = self.waiting.pop_front()?;
        self.active.get(&next).cloned()
    }

    /// Other bounds from now on; what is active stays. Returns who gets a slot by that.
    pub(super) fn resize(&mut self, slots: usize, backlog: usize) -> Vec<T> {
        (self.slots, self.backlog) = (slots, backlog);
        self.hand_out()
    }

    /// From now on no job gets a slot. What has one keeps it.
    pub(super) fn pause(&mut self) {
        self.is_paused = true;
    }

    /// Slots are given again. Returns who gets one by that, longest waiting first.
    pub(super) fn resume(&mut self) -> Vec<T> {
        self.is_paused = false;
        self.hand_out()
    }

    pub(super) fn is_paused(&self) -> bool {
        self.is_paused
    }

    /// Gives every slot that is free.
    fn hand_out(&mut self) -> Vec<T> {
        std::iter::from_fn(|| self.next()).collect()
    }

    fn has_slot(&self) -> bool {
        !self.is_paused && self.running() < self.slots
    }

    /// What the waiters of an active job hold on to.
    pub(super) fn get(&self, id: JobId) -> Option<&T> {
        self.active.get(&id)
    }

    /// All active jobs, in no order.
    pub(super) fn all(&self) -> impl Iterator<Item = &T> {
        self.active.values()
    }

    /// How many hold a slot.
    pub(super) fn running(&self) -> usize {
        self.active.len() - self.waiting.len()
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
        assert_eq!(queue.admit_again(id(5), false, || 5), Admission::Queued(5));
        assert_eq!(queue.admit_again(id(6), true, || 6), Admission::Started(6));
    }

    #[test]
    fn with_more_slots_those_who_wait_begin_and_with_fewer_none_is_stopped() {
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
    fn while_paused_no_job_gets_a_slot_and_one_that_has_it_keeps_it() {
        let mut queue = Queue::new(2, 2);
        queue.admit(id(1), || 1);
        queue.pause();
        queue.pause();
        assert!(queue.is_paused());
        // A slot is free; it is not given.
        assert_eq!(queue.admit(id(2), || 2), Admission::Queued(2));
        assert_eq!(queue.admit(id(3), || 3), Admission::Queued(3));
        assert_eq!(queue.admit(id(4), || 4), Admission::Refused);
        assert_eq!(queue.admit(id(1), || 9), Admission::Coalesced(1));
        assert_eq!(queue.admit(id(2), || 9), Admission::Coalesced(2));
        assert_eq!((queue.running(), queue.waiting()), (1, 2));
        assert_eq!(queue.end(id(1)), None);
        assert!(queue.resize(3, 2).is_empty());
        assert_eq!((queue.running(), queue.waiting()), (0, 2));
    }

    #[test]
    fn what_ran_in_an_earlier_process_runs_though_it_is_paused_and_what_waited_waits() {
        let mut queue = Queue::new(1, 0);
        queue.pause();
        assert_eq!(queue.admit_again(id(1), false, || 1), Admission::Queued(1));
        assert_eq!(queue.admit_again(id(2), true, || 2), Admission::Started(2));
        assert_eq!(queue.admit_again(id(3), true, || 3), Admission::Started(3));
        assert!(queue.is_paused());
        assert_eq!(queue.end(id(2)), None);
        // As many run as there are slots: the end of pausing begins nothing yet.
        assert!(queue.resume().is_empty());
        assert_eq!(queue.end(id(3)), Some(1));
    }

    #[test]
    fn after_a_pause_the_free_slots_go_to_those_who_wait_longest() {
        let mut queue = Queue::new(2, 4);
        queue.pause();
        for n in 1..=4 {
            assert_eq!(queue.admit(id(n), || n), Admission::Queued(n));
        }
        // One that leaves while it waits is not missed.
        assert_eq!(queue.end(id(1)), None);
        assert_eq!(queue.resume(), [2, 3]);
        assert!(!queue.is_paused() && queue.resume().is_empty());
        assert_eq!(queue.admit(id(5), || 5), Admission::Queued(5));
        assert_eq!(queue.end(id(2)), Some(4));
    }

    #[test]
    fn a_second_request_joins_even_when_all_is_full() {
        let mut queue = Queue::new(1, 1);
        queue.admit(id(1), || 1);
        queue.admit(id(2), || 2);
        assert_eq!(queue.admit(id(1), || 9), Admission::Coalesced(1));
        assert_eq!(queue.admit(id(2), || 9), Admission::Coalesced(2));
        assert_eq!((queue.running(), queue.waiting()), (1, 1));
    }

    #[test]
    fn a_free_slot_goes_to_the_job_that_waits_longest() {
        let mut queue = Queue::new(1, 3);
        for n in 1..=4 {
            queue.admit(id(n), || n);
        }
        // One that waits leaves: no job starts for that.
        assert_eq!(queue.end(id(3)), None);
        assert_eq!(queue.end(id(1)), Some(2));
        assert_eq!(queue.end(id(2)), Some(4));
        assert_eq!(queue.end(id(4)), None);
        assert_eq!(queue.end(id(4)), None);
        assert_eq!((queue.running(), queue.waiting()), (0, 0));
        assert_eq!(queue.admit(id(1), || 1), Admission::Started(1));
    }
}
