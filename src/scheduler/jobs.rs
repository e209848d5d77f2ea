//! Active jobs: found, watched and cancelled.

use std::sync::Arc;

use super::active_job::{JobHandle, JobObserver};
use super::broadcast::NewJobs;
use super::error::{Error, MAX_CANDIDATES};
use super::service::Scheduler;
use crate::budget::Client;
use crate::build::BuildInfo;
use crate::job::{Cancelled, JobId, JobIdPrefix};
use crate::project::ProjectName;

impl Scheduler {
    /// Jobs that begin from now on.
    pub fn new_jobs(&self) -> NewJobs {
        self.0.broadcast.beginnings()
    }

    /// Jobs that are not over, unordered; including those of an earlier process.
    pub async fn active_jobs(&self) -> Vec<JobObserver> {
        self.0.adopted.wait().await;
        let queue = self.0.queue();
        let active = queue.all().filter(|active| active.now().is_some());
        active
            .map(|active| active.observer(self.0.stop.clone()))
            .collect()
    }

    /// The active job with an id, whatever its project.
    pub async fn active_job(&self, id: JobId) -> Option<JobObserver> {
        self.0.adopted.wait().await;
        let active = self.0.queue().get(id).cloned()?;
        active.now()?;
        Some(active.observer(self.0.stop.clone()))
    }

    /// A handle for a job that is active.
    pub async fn handle(&self, project: &ProjectName, id: JobId) -> Option<JobHandle> {
        self.0.adopted.wait().await;
        // Under one lock: a job that has left the queue may keep its result only for existing handles.
        let queue = self.0.queue();
        let active = queue.get(id).filter(|active| active.project == *project)?;
        Some(active.handle(false, self.0.stop.clone()))
    }

    /// Cancels a build. Returns when that is on stable storage; its container may need some seconds to end,
    /// and the waiters are notified then. With `only_own`, `by` must be the user of the first request.
    /// Returns the build's state.
    ///
    /// # Errors
    /// [`Error::UnknownJob`]; [`Error::Over`] when the build has ended; [`Error::NotYours`].
    pub async fn cancel(
        &self,
        project: &ProjectName,
        id: JobId,
        cancelled: Cancelled,
        only_own: bool,
        client: Client,
    ) -> Result<Arc<BuildInfo>, Error> {
        let Some(mut handle) = self.handle(project, id).await else {
            self.builder(client).find(project, id).await?;
            return Err(Error::Over(project.clone(), id));
        };
        let by = cancelled.by.clone();
        handle
            .cancel(cancelled, only_own.then_some(by.as_str()))
            .await
    }

    /// How many jobs get a slot before this one; `None` if it does not wait for one.
    pub fn ahead_of(&self, id: JobId) -> Option<usize> {
        self.0.queue().ahead_of(id)
    }

    /// The one build, active or over, whose id begins with `prefix`, of `project` or of all projects. Before
    /// an incomplete id is taken for unambiguous, all builds have been read once since the start.
    ///
    /// # Errors
    /// [`Error::NoBuild`], [`Error::AmbiguousId`].
    pub async fn locate(
        &self,
        project: Option<&ProjectName>,
        prefix: &JobIdPrefix,
    ) -> Result<(ProjectName, JobId), Error> {
        let store = &self.0.store;
        let find = || store.with_prefix(project, prefix, MAX_CANDIDATES + 1);
        if let Some(id) = prefix.complete() {
            if let Some(active) = self.active_job(id).await
                && project.is_none_or(|wanted| wanted == active.project())
            {
                return Ok((active.project().clone(), id));
            }
            // A copied tree may have the build under several projects.
            if let Some(first) = find().into_iter().next() {
                return Ok(first);
            }
        }
        store.indexed().await;
        let mut found = find();
        match found.len() {
            0 => Err(Error::NoBuild(prefix.clone())),
            1 => Ok(found.remove(0)),
            _ if prefix.complete().is_some() => Ok(found.remove(0)),
            _ => Err(Error::AmbiguousId(prefix.clone(), found)),
        }
    }
}
