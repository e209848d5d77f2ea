//! Which jobs begin, told as they do to interfaces that show each of them.
//!
//! A follower that keeps up sees every job that begins; one that does not is told so, and
//! looks at the active jobs again. What becomes of a job its [`JobObserver`] tells.

use tokio::sync::broadcast;

use super::active_job::JobObserver;
use crate::job::JobId;
use crate::project::ProjectName;

/// Jobs that may begin before a follower has seen the first of them: some seconds of the shortest
/// builds there are, each kept as a handle.
const BROADCAST_CAPACITY: usize = 1_024;

/// Where it is told.
#[derive(Debug)]
pub(super) struct Broadcast {
    begun: broadcast::Sender<JobObserver>,
    removed: broadcast::Sender<(ProjectName, JobId)>,
}

impl Broadcast {
    pub(super) fn new() -> Broadcast {
        Broadcast {
            begun: broadcast::channel(BROADCAST_CAPACITY).0,
            removed: broadcast::channel(BROADCAST_CAPACITY).0,
        }
    }

    /// A job is accepted, or was taken over from an earlier process.
    pub(super) fn job_begun(&self, job: JobObserver) {
        // There need not be a follower.
        let _ = self.begun.send(job);
    }

    /// Jobs that begin from now on.
    pub(super) fn beginnings(&self) -> NewJobs {
        NewJobs(self.begun.subscribe())
    }

    /// A build is removed.
    pub(super) fn build_removed(&self, project: &ProjectName, id: JobId) {
        // As above.
        let _ = self.removed.send((project.clone(), id));
    }

    /// Builds that are removed from now on.
    pub(super) fn removals(&self) -> broadcast::Receiver<(ProjectName, JobId)> {
        self.removed.subscribe()
    }
}

/// Jobs as they begin.
#[derive(Debug)]
pub struct NewJobs(broadcast::Receiver<JobObserver>);

impl NewJobs {
    /// The next job; `None` when some were missed. It never ends before the scheduler.
    pub async fn next(&mut self) -> Option<JobObserver> {
        match self.0.recv().await {
            Ok(job) => Some(job),
            Err(broadcast::error::RecvError::Lagged(_)) => None,
            // The sender lives in the scheduler, of which each follower holds a handle.
            Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
        }
    }
}
