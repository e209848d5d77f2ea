//! What was read of ready builds lately: their answers, as long as their records are the same.
//!
//! A ready build never changes, but it may be replaced or removed whole. Its record is then
//! another file, so one look at the record's stamp tells whether an answer still holds. The
//! disk stays the truth.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::BuildInfo;
use super::record::Stamp;
use crate::job::JobId;
use crate::project::ProjectName;

/// Bytes of answers that are remembered: a few hundred with full logs, or many thousand small.
const MAX_BYTES: usize = 32 << 20;

type Remembered = (Stamp, Arc<BuildInfo>);

#[derive(Debug, Default)]
struct Answers {
    by_name: HashMap<ProjectName, HashMap<JobId, Remembered>>,
    bytes: usize,
}

/// The answers. Std lock, held for a lookup.
#[derive(Debug, Default)]
pub(super) struct Recent(Mutex<Answers>);

impl Recent {
    /// The answer for a record that looks like `found`.
    pub(super) fn get(
        &self,
        project: &ProjectName,
        id: JobId,
        found: Stamp,
    ) -> Option<Arc<BuildInfo>> {
        let answers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (at, info) = answers.by_name.get(project)?.get(&id)?;
        (*at == found).then(|| info.clone())
    }

    /// Remembers an answer; when there are too many, all others are forgotten.
    pub(super) fn put(
        &self,
        project: &ProjectName,
        id: JobId,
        found: Stamp,
        info: &Arc<BuildInfo>,
    ) {
        let log = info.container_stdouterr.as_ref().map_or(0, String::len);
        // The record holds all the rest, and its size is known.
        let bytes = log + usize::try_from(found.size).unwrap_or(usize::MAX);
        if bytes > MAX_BYTES {
            return;
        }
        let mut answers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if answers.bytes + bytes > MAX_BYTES {
            *answers = Answers::default();
        }
        answers.bytes += bytes;
        let of_project = answers.by_name.entry(project.clone()).or_default();
        of_project.insert(id, (found, info.clone()));
    }
}
