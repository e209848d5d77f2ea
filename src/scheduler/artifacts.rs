//! Reads a build's artifacts, for clients that list, fetch or open them.

use std::os::fd::OwnedFd;

use super::error::Error;
use super::reading::Reader;
use crate::build::Artifacts;
use crate::job::JobId;
use crate::project::ProjectName;
use crate::read_limiter::ReadLimiter;

impl Reader {
    /// Runs `work` on the artifacts of a ready build, on a thread that may block.
    ///
    /// # Errors
    /// [`Error::UnknownJob`], [`Error::NoRecord`]; [`Error::NoArtifacts`] if a finished build has none any
    /// more; [`Error::Store`].
    pub async fn in_artifacts<T: Send + 'static>(
        &self,
        project: &ProjectName,
        id: JobId,
        work: impl FnOnce(Artifacts) -> T + Send + 'static,
    ) -> Result<T, Error> {
        self.in_artifacts_by(self.reads(), project, id, work).await
    }

    /// The same for listing a directory: with one of the few permits for this. The artifacts are opened
    /// after it is granted, so that waiting clients hold no lease.
    ///
    /// # Errors
    /// The same as [`Reader::in_artifacts`].
    pub async fn in_directories<T: Send + 'static>(
        &self,
        project: &ProjectName,
        id: JobId,
        work: impl FnOnce(Artifacts) -> T + Send + 'static,
    ) -> Result<T, Error> {
        let limiter = &self.scheduler.0.readers.directories;
        self.in_artifacts_by(limiter, project, id, work).await
    }

    async fn in_artifacts_by<T: Send + 'static>(
        &self,
        limiter: &ReadLimiter,
        project: &ProjectName,
        id: JobId,
        work: impl FnOnce(Artifacts) -> T + Send + 'static,
    ) -> Result<T, Error> {
        let (shared, project) = (self.scheduler.0.clone(), project.clone());
        let working = self.run_limited(limiter, move |_permit| {
            match shared.store.artifacts(&project, id)? {
                Some(artifacts) if artifacts.is_gone() => Err(Error::NoArtifacts(project, id)),
                Some(artifacts) => Ok(work(artifacts)),
                None => Err(Error::absent(&shared.store, &project, id)),
            }
        });
        working.await?
    }

    /// The artifacts of a ready build as a descriptor for another process, open for reading: it gives access
    /// to nothing else, and does not protect the build from removal.
    ///
    /// # Errors
    /// [`Error::UnknownJob`]; [`Error::NoArtifacts`] if the build has no artifacts; [`Error::Store`], also if
    /// the host does not permit it.
    pub async fn hand_out_artifacts(
        &self,
        project: &ProjectName,
        id: JobId,
    ) -> Result<OwnedFd, Error> {
        let (shared, name) = (self.scheduler.0.clone(), project.clone());
        let limiter = &self.scheduler.0.readers.artifact_transfers;
        let handing = self.run_limited(limiter, move |_permit| shared.store.hand_out(&name, id));
        match handing.await?? {
            Some(descriptor) => Ok(descriptor),
            None => {
                self.find(project, id).await?;
                Err(Error::NoArtifacts(project.clone(), id))
            }
        }
    }
}
