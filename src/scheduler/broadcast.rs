//! Broadcasts jobs that begin and builds that are removed, to interfaces that show them.
//!
//! A receiver that keeps up sees every job that begins; one that lags is notified of the gap, and lists the
//! active jobs again. The job's [`JobObserver`] reports its later states.

use tokio::sync::broadcast;

use super::active_job::JobObserver;
use crate::job::JobId;
use crate::project::ProjectName;

/// Jobs that may begin before a receiver has seen the first of them: some seconds of the shortest builds
/// possible, each stored as a handle.
const BROADCAST_CAPACITY: usize = 1_024;

/// The senders.
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

    /// Broadcasts that a job is accepted, or was taken over from an earlier process.
    pub(super) fn job_begun(&self, job: JobObserver) {
        // There may be no receiver.
        let _ = self.begun.send(job);
    }

    /// Jobs that begin from now on.
    pub(super) fn beginnings(&self) -> NewJobs {
        NewJobs(self.begun.subscribe())
    }

    /// Broadcasts a removal.
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
            // The sender is in the scheduler, to which each receiver has a handle.
            Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
        }
    }
}
