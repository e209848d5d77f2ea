//! What was read of ready builds lately: their answers, as long as their records are the same.
//!
//! A ready build never changes, but it may be replaced or removed whole. Its record is then
//! another file, so one look at the record's stamp tells whether an answer still holds. The
//! disk stays the truth.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use super::record::Stamp;
use crate::job::JobId;
use crate::project::ProjectName;

/// Bytes of answers that are remembered: a few hundred with full logs, or many thousand small.
const MAX_BYTES: usize = 32 << 20;

#[derive(Debug)]
struct Answers<T> {
    by_name: HashMap<ProjectName, HashMap<JobId, (Stamp, T)>>,
    bytes: usize,
}

/// The answers. Std lock, held for a lookup.
#[derive(Debug)]
pub(super) struct Recent<T>(Mutex<Answers<T>>);

impl<T> Default for Recent<T> {
    fn default() -> Recent<T> {
        Recent(Mutex::new(Answers::empty()))
    }
}

impl<T> Answers<T> {
    fn empty() -> Answers<T> {
        Answers {
            by_name: HashMap::new(),
            bytes: 0,
        }
    }
}

impl<T: Clone> Recent<T> {
    /// The answer for a record that looks like `found`.
    pub(super) fn get(&self, project: &ProjectName, id: JobId, found: Stamp) -> Option<T> {
        let answers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (at, answer) = answers.by_name.get(project)?.get(&id)?;
        (*at == found).then(|| answer.clone())
    }

    /// Remembers an answer of about so many bytes; when there are too many, all others are
    /// forgotten.
    pub(super) fn put(
        &self,
        project: &ProjectName,
        id: JobId,
        found: Stamp,
        bytes: usize,
        answer: &T,
    ) {
        if bytes > MAX_BYTES {
            return;
        }
        let mut answers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if answers.bytes + bytes > MAX_BYTES {
            *answers = Answers::empty();
        }
        answers.bytes += bytes;
        let of_project = answers.by_name.entry(project.clone()).or_default();
        of_project.insert(id, (found, answer.clone()));
    }
}
