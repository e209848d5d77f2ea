//! Groups: listed with their bases, and reset.

use super::blocking::blocking;
use super::error::Error;
use super::event::publish_group_reset;
use super::reading::Reader;
use super::service::Scheduler;
use crate::build::{self, BuildStore, GroupBase};
use crate::job::GroupName;
use crate::project::{ProjectName, did_you_mean};

/// Groups that are named to a client that asked for an unknown one.
const MAX_NAMED: usize = 10;

impl Scheduler {
    /// Resets a group for the user `by`: its next build starts empty. A build under way is not disturbed, and
    /// becomes the base of the group when it succeeds.
    ///
    /// # Errors
    /// [`Error::Project`], [`Error::UnknownGroup`], [`Error::Store`].
    pub async fn reset_group(
        &self,
        project: &ProjectName,
        group: &GroupName,
        by: &str,
    ) -> Result<(), Error> {
        let (shared, by) = (self.0.clone(), by.to_owned());
        let (project, group) = (project.clone(), group.clone());
        // A separate task, because the client may disconnect.
        let task = self.0.spawn(async move {
            blocking(move || {
                shared.projects.open(&project)?;
                if !shared.store.reset_group(&project, &group)? {
                    let hint = known_groups(&shared.store, &project, &group)?;
                    return Err(Error::UnknownGroup(project, group, hint));
                }
                publish_group_reset(&project, &group, &by);
                Ok(())
            })
            .await?
        });
        task.await.map_err(|_| Error::Lost)?
    }
}

/// The end of the sentence about an unknown group: the one that was probably meant, and those that are there.
fn known_groups(
    store: &BuildStore,
    project: &ProjectName,
    unknown: &GroupName,
) -> Result<String, build::Error> {
    let (_, groups) = store.bases(project)?;
    let names: Vec<&str> = groups.keys().map(String::as_str).collect();
    let meant = did_you_mean(unknown.as_str(), names.iter().copied());
    let meant = meant.map_or_else(String::new, |question| format!(" ({question})"));
    let known = match names.as_slice() {
        [] => ": no build of a group has succeeded, or all groups are reset".to_owned(),
        names if names.len() <= MAX_NAMED => format!("; its groups are: {}", names.join(", ")),
        names => format!(
            "; its groups are: {}, and {} more",
            names[..MAX_NAMED].join(", "),
            names.len() - MAX_NAMED
        ),
    };
    Ok(meant + &known)
}

impl Reader {
    /// The groups of a project with their bases, by name.
    ///
    /// # Errors
    /// [`Error::Project`], [`Error::Store`].
    pub async fn groups(&self, project: &ProjectName) -> Result<Vec<GroupBase>, Error> {
        let store = self.scheduler.0.store.clone();
        store.indexed().await;
        let (shared, project) = (self.scheduler.0.clone(), project.clone());
        let reading = self.read(move || {
            shared.projects.open(&project)?;
            Ok(shared.store.groups(&project)?)
        });
        reading.await?
    }
}
