//! Which jobs begin, told as they do to interfaces that show each of them.
//!
//! A follower that keeps up sees every job that begins; one that does not is told so, and
//! looks at [`Scheduler::active_jobs`] again. What becomes of a job its [`JobObserver`] tells.

use std::sync::Arc;

use tokio::sync::broadcast;

use super::active_job::{ActiveJob, JobObserver};
use super::{Error, Scheduler, Shared};
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
    pub(super) fn job_begun(&self, shared: &Shared, active: &Arc<ActiveJob>) {
        // There need not be a follower.
        let _ = self.begun.send(active.follower(shared.stop.clone()));
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

impl Scheduler {
    /// Jobs that begin from now on.
    pub fn new_jobs(&self) -> NewJobs {
        NewJobs(self.0.broadcast.begun.subscribe())
    }

    /// Jobs that are not over, in no order; what an earlier process left is among them.
    pub async fn active_jobs(&self) -> Vec<JobObserver> {
        self.0.adopted.wait().await;
        let queue = self.0.queue();
        let active = queue.all().filter(|active| active.now().is_some());
        active
            .map(|active| active.follower(self.0.stop.clone()))
            .collect()
    }

    /// The active job of an id, whatever its project.
    pub async fn active_job(&self, id: JobId) -> Option<JobObserver> {
        self.0.adopted.wait().await;
        let active = self.0.queue().get(id).cloned()?;
        active.now()?;
        Some(active.follower(self.0.stop.clone()))
    }

    /// The project of a job that is active, or of a build that is over.
    ///
    /// # Errors
    /// [`Error::NoBuild`].
    pub async fn locate(&self, id: JobId) -> Result<ProjectName, Error> {
        if let Some(active) = self.active_job(id).await {
            return Ok(active.project().clone());
        }
        let store = &self.0.store;
        if let Some(project) = store.project_of(id) {
            return Ok(project);
        }
        store.indexed().await;
        store.project_of(id).ok_or(Error::NoBuild(id))
    }
}
