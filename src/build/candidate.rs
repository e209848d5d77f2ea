//! A build that is over, as garbage collection sees it.

use std::sync::Arc;

use jiff::Timestamp;

use crate::job::JobId;
use crate::project::ProjectName;

/// Which of a project's directories a build is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shelf {
    /// Where builds are served from.
    Ready,
    /// Where the last rebuild that did not succeed lies beside its succeeded build.
    Failed,
}

impl Shelf {
    /// As in JSON, and as the directory is called.
    pub fn as_str(self) -> &'static str {
        match self {
            Shelf::Ready => "ready",
            Shelf::Failed => "failed",
        }
    }
}

/// A build that is over, as far as garbage collection is concerned.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// Its project.
    pub project: ProjectName,
    /// Its id.
    pub id: JobId,
    /// Where it is.
    pub shelf: Shelf,
    /// Its group, or "". Builds of one group share it.
    pub group: Arc<str>,
    /// When it was last put in place, answered from or read.
    pub last_used: Timestamp,
    /// When it began and ended; `None` where its record does not say.
    pub ran: Option<(Timestamp, Timestamp)>,
    /// All its blocks, in bytes; `None` where it was not measured.
    pub bytes: Option<u64>,
    /// Those of them that it shared with no other build.
    pub own: Option<u64>,
    /// What it was cloned from.
    pub base: Option<JobId>,
    /// A link names it.
    pub is_linked: bool,
    /// It is pinned.
    pub is_pinned: bool,
    /// A build of the same id is under way.
    pub is_busy: bool,
    /// It has no record that counts: it is as good as absent.
    pub is_torn: bool,
}
