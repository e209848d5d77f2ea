//! A finished build as a candidate for garbage collection.

use std::sync::Arc;

use jiff::Timestamp;

use crate::job::JobId;
use crate::project::ProjectName;

/// The directory of a project that holds a build.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Category {
    /// Builds that can be served.
    Ready,
    /// A failed rebuild that an earlier version kept beside its succeeded build, and that could not be taken
    /// over as an attempt.
    Failed,
}

impl Category {
    /// The name in JSON, and of the directory.
    pub fn as_str(self) -> &'static str {
        match self {
            Category::Ready => "ready",
            Category::Failed => "failed",
        }
    }
}

/// The properties of a finished build that garbage collection needs.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// Its project.
    pub project: ProjectName,
    /// Its id.
    pub id: JobId,
    /// Its directory.
    pub category: Category,
    /// Its group, or "". Builds of one group share it.
    pub group: Arc<str>,
    /// When it was last put in place, answered from or read.
    pub last_used: Timestamp,
    /// When it started and ended; `None` if its record does not say.
    pub ran: Option<(Timestamp, Timestamp)>,
    /// All its blocks and those of its attempts, in bytes; `None` if it was not measured.
    pub bytes: Option<u64>,
    /// Those of them that it shared with no other build.
    pub own: Option<u64>,
    /// The build it was cloned from.
    pub base: Option<JobId>,
    /// A link names it.
    pub is_linked: bool,
    /// It is pinned.
    pub is_pinned: bool,
    /// A build of the same id is pending.
    pub is_busy: bool,
    /// It has no valid record: it counts as absent.
    pub is_torn: bool,
}
