//! What was read of ready builds lately: their answers, as long as their records are the same.
//!
//! A ready build never changes, but it may be replaced or removed whole. Its record is then
//! another file, so one look at the record's stamp tells whether an answer still holds. The
//! disk stays the truth.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::record::Stamp;
use crate::job::JobId;

/// What one answer takes beside its own bytes: its key, and its part of the table.
const OVERHEAD: usize = 160;

/// The answers that were asked for lately. Std lock, held for a lookup.
#[derive(Debug)]
pub(super) struct Recent<T> {
    /// Bytes that all of them may take.
    most: usize,
    answers: Mutex<Generations<T>>,
}

/// The answers of two periods: what is asked for again in the second is part of it, and the first is
/// forgotten when the second is full.
#[derive(Debug)]
struct Generations<T> {
    before: HashMap<(JobId, Stamp), Remembered<T>>,
    now: HashMap<(JobId, Stamp), Remembered<T>>,
    /// Of those in `now`.
    bytes: usize,
}

#[derive(Debug)]
struct Remembered<T> {
    answer: T,
    bytes: usize,
}

impl<T: Clone> Recent<T> {
    /// Answers that take at most about `most` bytes together.
    pub(super) fn new(most: usize) -> Recent<T> {
        Recent {
            most,
            answers: Mutex::new(Generations {
                before: HashMap::new(),
                now: HashMap::new(),
                bytes: 0,
            }),
        }
    }

    /// The answer for a record that looks like `found`.
    pub(super) fn get(&self, id: JobId, found: Stamp) -> Option<T> {
        let mut answers = self.lock();
        let key = (id, found);
        if let Some(known) = answers.now.get(&key) {
            return Some(known.answer.clone());
        }
        let known = answers.before.remove(&key)?;
        let answer = known.answer.clone();
        self.enter(&mut answers, key, known);
        Some(answer)
    }

    /// Remembers an answer of about so many bytes, unless a few of its size would be all.
    pub(super) fn put(&self, id: JobId, found: Stamp, bytes: usize, answer: &T) {
        let bytes = bytes.saturating_add(OVERHEAD);
        if bytes > self.most / 8 {
            return;
        }
        let answer = answer.clone();
        self.enter(&mut self.lock(), (id, found), Remembered { answer, bytes });
    }

    fn enter(&self, answers: &mut Generations<T>, key: (JobId, Stamp), entered: Remembered<T>) {
        if answers.bytes + entered.bytes > self.most / 2 {
            answers.before = std::mem::take(&mut answers.now);
            answers.bytes = 0;
        }
        answers.bytes += entered.bytes;
        if let Some(replaced) = answers.now.insert(key, entered) {
            answers.bytes -= replaced.bytes;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Generations<T>> {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn id(n: usize) -> JobId {
        format!("{n:064x}").parse().unwrap()
    }

    fn a_stamp() -> Stamp {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("build_info.json"), "{}").unwrap();
        let stamp = super::super::record::stamp(rustix::fs::CWD, Path::new(directory.path()));
        stamp.unwrap().unwrap()
    }

    #[test]
    fn what_is_asked_for_again_stays_and_all_together_take_no_more_than_they_may() {
        let (recent, stamp) = (Recent::new(100 * (OVERHEAD + 40)), a_stamp());
        for n in 0..10_000 {
            recent.put(id(n), stamp, 40, &n);
            assert_eq!(recent.get(id(0), stamp), Some(0), "{n}");
            let answers = recent.lock();
            let all = answers.before.values().chain(answers.now.values());
            assert!(all.map(|known| known.bytes).sum::<usize>() <= recent.most);
        }
        assert_eq!(recent.get(id(1), stamp), None);
        assert_eq!(recent.get(id(9_999), stamp), Some(9_999));
    }

    #[test]
    fn what_is_remembered_anew_is_counted_once_and_what_is_too_large_not_at_all() {
        let (recent, stamp) = (Recent::new(8 * (OVERHEAD + 40)), a_stamp());
        for _ in 0..100 {
            recent.put(id(1), stamp, 40, &1);
        }
        recent.put(id(2), stamp, 41, &2);
        assert_eq!(recent.get(id(1), stamp), Some(1));
        assert_eq!(recent.get(id(2), stamp), None);
        assert_eq!(recent.lock().bytes, OVERHEAD + 40);
    }
}
