//! Admission, backlog, coalescing, slots: a pure state machine, without clock or tokio.
//!
//! ```text
//!            admit                    end of another
//!   absent ────────► waiting ───────────────────────► running ──► absent
//!      │   slot free                                     ▲  end
//!      └─────────────────────────────────────────────────┘
//! ```
//!
//! At most one build of an id is active: a further request joins it. A free slot goes to the job that has
//! waited longest. `slots` bounds the running jobs, `backlog` the waiting ones. A paused queue gives no
//! slots: running builds continue, new jobs wait.

use std::collections::{HashMap, VecDeque};

use crate::job::JobId;

/// The result of a request for a job.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Admission<T> {
    /// It has a slot at once.
    Started(T),
    /// It waits for one.
    Queued(T),
    /// An earlier request made the job; this is the value that it got.
    Coalesced(T),
    /// No slot and no place are free.
    Refused,
}

/// The active jobs, each with a value for its waiters.
#[derive(Debug)]
pub(super) struct Queue<T> {
    slots: usize,
    backlog: usize,
    /// No slot is given while this is set.
    is_paused: bool,
    active: HashMap<JobId, T>,
    /// Active jobs that have no slot, longest waiting first.
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

    /// Requests a slot, a place in the queue, or to join the active job of the same id.
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

    /// Admits a job that an earlier process accepted: it gets a place, whatever the backlog, and a slot,
    /// whatever their number and also while paused, if it `is_running` already.
    pub(super) fn admit_again(
        &mut self,
        id: JobId,
        is_running: bool,
        make: impl FnOnce() -> T,
    ) -> Admission<T> {
        if let Some(active) = self.active.get(&id) {
            Admission::Coalesced(active.clone())
        } else if is_running || self.has_slot() {
            Admission::Started(self.enter(id, make()))
        } else {
            self.waiting.push_back(id);
            Admission::Queued(self.enter(id, make()))
        }
    }

    fn enter(&mut self, id: JobId, made: T) -> T {
        self.active.insert(id, made.clone());
        made
    }

    /// Removes a job that is over or never began. Returns the job that gets the slot that this freed; none
    /// while paused.
    pub(super) fn end(&mut self, id: JobId) -> Option<T> {
        self.active.remove(&id)?;
        if let Some(at) = self.waiting.iter().position(|waiting| *waiting == id) {
            // It was waiting, without a slot.
            self.waiting.remove(at);
            return None;
        }
        self.next()
    }

    /// Gives a free slot, if there is one, to the job that has waited longest.
    fn next(&mut self) -> Option<T> {
        if !self.has_slot() {
            return None;
        }
        let next = self.waiting.pop_front()?;
        self.active.get(&next).cloned()
    }

    /// Sets new bounds; active jobs stay. Returns the jobs that get a slot by that.
    pub(super) fn resize(&mut self, slots: usize, backlog: usize) -> Vec<T> {
        (self.slots, self.backlog) = (slots, backlog);
        self.hand_out()
    }

    /// Pauses: no job gets a slot. Running jobs keep theirs.
    pub(super) fn pause(&mut self) {
        self.is_paused = true;
    }

    /// Resumes. Returns the jobs that get a slot by that, longest waiting first.
    pub(super) fn resume(&mut self) -> Vec<T> {
        self.is_paused = false;
        self.hand_out()
    }

    pub(super) fn is_paused(&self) -> bool {
        self.is_paused
    }

    /// Gives all free slots to waiting jobs.
    fn hand_out(&mut self) -> Vec<T> {
        std::iter::from_fn(|| self.next()).collect()
    }

    fn has_slot(&self) -> bool {
        !self.is_paused && self.running() < self.slots
    }

    /// The value of an active job.
    pub(super) fn get(&self, id: JobId) -> Option<&T> {
        self.active.get(&id)
    }

    /// All active jobs, in no order.
    pub(super) fn all(&self) -> impl Iterator<Item = &T> {
        self.active.values()
    }

    /// Counts jobs with a slot.
    pub(super) fn running(&self) -> usize {
        self.active.len() - self.waiting.len()
    }

    /// How many jobs get a slot before this one; `None` if it does not wait for one.
    pub(super) fn ahead_of(&self, id: JobId) -> Option<usize> {
        self.waiting.iter().position(|waiting| *waiting == id)
    }

    /// The number of waiting jobs.
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
    fn slots_and_backlog_are_exact_limits() {
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
    fn with_more_slots_waiting_jobs_begin_and_with_fewer_no_job_is_stopped() {
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
    fn while_paused_no_job_gets_a_slot_and_running_jobs_keep_theirs() {
        let mut queue = Queue::new(2, 2);
        queue.admit(id(1), || 1);
        queue.pause();
        queue.pause();
        assert!(queue.is_paused());
        // A slot is free, but is not given.
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
    fn adopted_running_jobs_continue_while_paused_and_adopted_waiting_jobs_wait() {
        let mut queue = Queue::new(1, 0);
        queue.pause();
        assert_eq!(queue.admit_again(id(1), false, || 1), Admission::Queued(1));
        assert_eq!(queue.admit_again(id(2), true, || 2), Admission::Started(2));
        assert_eq!(queue.admit_again(id(3), true, || 3), Admission::Started(3));
        assert!(queue.is_paused());
        assert_eq!(queue.end(id(2)), None);
        // All slots are used: resuming starts nothing yet.
        assert!(queue.resume().is_empty());
        assert_eq!(queue.end(id(3)), Some(1));
    }

    #[test]
    fn after_a_pause_free_slots_go_to_the_oldest_waiting_jobs() {
        let mut queue = Queue::new(2, 4);
        queue.pause();
        for n in 1..=4 {
            assert_eq!(queue.admit(id(n), || n), Admission::Queued(n));
        }
        // A job that leaves while it waits is skipped.
        assert_eq!(queue.end(id(1)), None);
        assert_eq!(queue.resume(), [2, 3]);
        assert!(!queue.is_paused() && queue.resume().is_empty());
        assert_eq!(queue.admit(id(5), || 5), Admission::Queued(5));
        assert_eq!(queue.end(id(2)), Some(4));
    }

    #[test]
    fn a_second_request_joins_even_when_the_queue_is_full() {
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
        // A waiting job leaves: no job starts for that.
        assert_eq!(queue.end(id(3)), None);
        assert_eq!(queue.end(id(1)), Some(2));
        assert_eq!(queue.end(id(2)), Some(4));
        assert_eq!(queue.end(id(4)), None);
        assert_eq!(queue.end(id(4)), None);
        assert_eq!((queue.running(), queue.waiting()), (0, 0));
        assert_eq!(queue.admit(id(1), || 1), Admission::Started(1));
    }
}
