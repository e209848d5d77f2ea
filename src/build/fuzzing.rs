//! The private parsers of files under a build path, and the masks of secrets, for the fuzz targets in `fuzz/` only.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use super::layout::{self, Layout};
use super::masks::{Masker, Masks};
use super::{Record, RecordFile};
use crate::job::{JobId, State};
use crate::project::ProjectName;

/// A parsed record, completed from its path; `None` where it is invalid.
pub fn record(text: &[u8], project: &ProjectName, id: JobId, state: State) -> Option<Record> {
    let record: RecordFile = serde_json::from_slice(text).ok()?;
    Some(record.complete(project, id, state, String::new()))
}

/// The build that the name of a pin, or of a new link, refers to.
pub fn build_named(name: &str) -> [Option<(ProjectName, JobId)>; 2] {
    [layout::named(name), Layout::linked_by(name)]
}

/// The project that a statistics or image records file is about.
pub fn project_named(name: &str) -> Option<ProjectName> {
    Layout::counted_by(name)
}

/// The build that a link under a build path points at.
pub fn linked_id(target: &Path) -> Option<JobId> {
    Layout::linked_id(target)
}

/// Output in pieces with these secrets masked.
pub fn masked(secrets: &[String], pieces: &[&[u8]]) -> Vec<u8> {
    let names: Vec<String> = (0..secrets.len()).map(|at| format!("_{at}")).collect();
    let secrets = names.iter().zip(secrets);
    let secrets: BTreeMap<&str, &str> = secrets.map(|(name, value)| (&**name, &**value)).collect();
    let (masks, _) = Masks::new(&secrets);
    let mut masker = Masker::new(masks.map(Arc::new));
    let mut out = Vec::new();
    for piece in pieces {
        masker.push(piece, &mut out);
    }
    masker.finish(&mut out);
    out
}

/// Whether a secret of this value is masked.
pub fn is_masked(secret: &str) -> bool {
    Masks::new(&BTreeMap::from([("_", secret)])).0.is_some()
}
