//! A build's artifacts, for those who list, fetch or are handed them.

use std::os::fd::OwnedFd;

use super::{Error, Scheduler, blocking};
use crate::build::Artifacts;
use crate::job::JobId;
use crate::project::ProjectName;

/// Each takes a process of some milliseconds: more at a time would be slower, and could be as many as
/// strangers wish.
pub(super) const HANDING_OUT: usize = 4;

impl Scheduler {
    /// The artifacts of a ready build.
    ///
    /// # Errors
    /// [`Error::UnknownJob`], [`Error::NoRecord`]; [`Error::NoArtifacts`] where a build that ran to its
    /// end has none any more; [`Error::Store`].
    pub async fn artifacts(&self, project: &ProjectName, id: JobId) -> Result<Artifacts, Error> {
        let (shared, project) = (self.0.clone(), project.clone());
        blocking(move || match shared.store.artifacts(&project, id)? {
            Some(artifacts) if artifacts.is_gone() => Err(Error::NoArtifacts(project, id)),
            Some(artifacts) => Ok(artifacts),
            None => Err(Error::absent(&shared.store, &project, id)),
        })
        .await?
    }

    /// The artifacts of a ready build as a descriptor for another process, open for reading: it leads to
    /// them and nowhere else, and keeps nothing from being removed.
    ///
    /// # Errors
    /// [`Error::UnknownJob`]; [`Error::NoArtifacts`] where there is a build and nothing to hand out;
    /// [`Error::Store`], also where the host does not let us.
    pub async fn hand_out_artifacts(
        &self,
        project: &ProjectName,
        id: JobId,
    ) -> Result<OwnedFd, Error> {
        let turn = self.0.handing_out.clone().acquire_owned().await;
        let turn = turn.map_err(|_| Error::Lost)?;
        let (shared, name) = (self.0.clone(), project.clone());
        let found = blocking(move || {
            // The caller may be gone before the child is.
            let _turn = turn;
            shared.store.hand_out(&name, id)
        });
        match found.await?? {
            Some(descriptor) => Ok(descriptor),
            None => {
                self.find(project, id, false).await?;
                Err(Error::NoArtifacts(project.clone(), id))
            }
        }
    }
}
