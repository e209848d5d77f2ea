//! The private parsers of files under a build path, for the fuzz targets in `fuzz/` only.

use std::path::Path;

use super::layout::{self, Layout};
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
