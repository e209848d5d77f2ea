//! The private parsers of what lies under a build path, for the fuzz targets in `fuzz/`; in no program.

use std::path::Path;

use super::layout::{self, Layout};
use super::{Record, State};
use crate::job::JobId;
use crate::project::ProjectName;

/// A record as it is read, completed by where it lay; `None` where it is none.
pub fn record(text: &[u8], project: &ProjectName, id: JobId, state: State) -> Option<Record> {
    let mut record: Record = serde_json::from_slice(text).ok()?;
    record.info.complete(project, id, state, String::new());
    Some(record)
}

/// The build that the name of a pin, or of a new link, is for.
pub fn build_named(name: &str) -> [Option<(ProjectName, JobId)>; 2] {
    [layout::named(name), Layout::linked_by(name)]
}

/// The project that a tally, or a record of images, is about.
pub fn project_named(name: &str) -> Option<ProjectName> {
    Layout::counted_by(name)
}

/// The build that a link under a build path points at.
pub fn linked_id(target: &Path) -> Option<JobId> {
    Layout::linked_id(target)
}
