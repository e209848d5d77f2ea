//! A cache of values read from ready builds, valid as long as their records are unchanged.
//!
//! A ready build never changes, but it may be replaced or removed as a whole. Then its record is another
//! file, so the stamp of the record tells whether a cached value is valid. The disk is authoritative.

use std::collections::HashMap;

use parking_lot::{Mutex, MutexGuard};

use super::record::Stamp;
use crate::job::JobId;

/// Memory of an entry besides its value: its key, and its part of the table.
const ENTRY_OVERHEAD: usize = 160;

/// Recently used values. The lock is held for a lookup only.
#[derive(Debug)]
pub(super) struct Cache<T> {
    /// Bytes that all values may take together.
    max_bytes: usize,
    answers: Mutex<Generations<T>>,
}

/// Two generations: a value that is used again moves to the second one, and the first is dropped when the
/// second is full.
#[derive(Debug)]
struct Generations<T> {
    old: HashMap<(JobId, Stamp), Remembered<T>>,
    new: HashMap<(JobId, Stamp), Remembered<T>>,
    /// Of the values in `new`.
    bytes: usize,
}

#[derive(Debug)]
struct Remembered<T> {
    answer: T,
    bytes: usize,
}

impl<T: Clone> Cache<T> {
    /// A cache of about `max_bytes` bytes.
    pub(super) fn new(max_bytes: usize) -> Cache<T> {
        Cache {
            max_bytes,
            answers: Mutex::new(Generations {
                old: HashMap::new(),
                new: HashMap::new(),
                bytes: 0,
            }),
        }
    }

    /// The value for the record with this stamp.
    pub(super) fn get(&self, id: JobId, found: Stamp) -> Option<T> {
        let mut answers = self.lock();
        let key = (id, found);
        if let Some(known) = answers.new.get(&key) {
            return Some(known.answer.clone());
        }
        let known = answers.old.remove(&key)?;
        let answer = known.answer.clone();
        self.enter(&mut answers, key, known);
        Some(answer)
    }

    /// Adds a value of about `bytes` bytes, unless eight of that size would fill the cache.
    pub(super) fn put(&self, id: JobId, found: Stamp, bytes: usize, answer: &T) {
        let bytes = bytes.saturating_add(ENTRY_OVERHEAD);
        if bytes > self.max_bytes / 8 {
            return;
        }
        let answer = answer.clone();
        self.enter(&mut self.lock(), (id, found), Remembered { answer, bytes });
    }

    fn enter(&self, answers: &mut Generations<T>, key: (JobId, Stamp), entered: Remembered<T>) {
        if answers.bytes + entered.bytes > self.max_bytes / 2 {
            answers.old = std::mem::take(&mut answers.new);
            answers.bytes = 0;
        }
        answers.bytes += entered.bytes;
        if let Some(replaced) = answers.new.insert(key, entered) {
            answers.bytes -= replaced.bytes;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Generations<T>> {
        self.answers.lock()
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
    fn entries_that_are_used_again_stay_and_the_cache_keeps_its_size_limit() {
        let (cache, stamp) = (Cache::new(100 * (ENTRY_OVERHEAD + 40)), a_stamp());
        for n in 0..10_000 {
            cache.put(id(n), stamp, 40, &n);
            assert_eq!(cache.get(id(0), stamp), Some(0), "{n}");
            let answers = cache.lock();
            let all = answers.old.values().chain(answers.new.values());
            assert!(all.map(|known| known.bytes).sum::<usize>() <= cache.max_bytes);
        }
        assert_eq!(cache.get(id(1), stamp), None);
        assert_eq!(cache.get(id(9_999), stamp), Some(9_999));
    }

    #[test]
    fn a_replaced_entry_is_counted_once_and_an_entry_that_is_too_large_is_not_stored() {
        let (cache, stamp) = (Cache::new(8 * (ENTRY_OVERHEAD + 40)), a_stamp());
        for _ in 0..100 {
            cache.put(id(1), stamp, 40, &1);
        }
        cache.put(id(2), stamp, 41, &2);
        assert_eq!(cache.get(id(1), stamp), Some(1));
        assert_eq!(cache.get(id(2), stamp), None);
        assert_eq!(cache.lock().bytes, ENTRY_OVERHEAD + 40);
    }
}
