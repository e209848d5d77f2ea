//! Garbage collection: on demand, by timer, and before a build where space is short; pinning, and the removal
//! of single builds.
//!
//! `build::gc` decides what is removed, from a survey of the disk; this module requests, executes, counts and
//! reports it. One collection runs at a time. Active jobs in the queue are not touched, nor are builds that
//! are being read.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::blocking::blocking;
use super::error::Error;
use super::event::{self, Removal};
use super::images::Unused;
use super::service::Scheduler;
use super::shared::Shared;
use crate::build::{self, Freeing, IfBase, KeptReason, Plan, Removed};
use crate::docker;
use crate::job::JobId;
use crate::policy::Policy;
use crate::project::ProjectName;

/// After a collection that could not free enough space, no build starts another one for this time: it would
/// find little that is new, and a survey reads the whole tree.
const COLLECT_RETRY_INTERVAL: Duration = Duration::from_secs(60);

/// A disk with less free space than this counts as full: a few builds take that much, and the space of
/// removed builds must be free at once, not when the filesystem finds the time.
const LOW_SPACE_THRESHOLD: u64 = 1 << 30;

/// The result of a collection, real or dry.
#[derive(Debug)]
pub struct Collection {
    /// The decision; a real collection leaves out what could not be removed.
    pub plan: Plan,
    /// Builds that were to be removed, but were in use after all or could not be removed.
    pub passed: usize,
    /// Bytes that are free after the collection.
    pub free: u64,
    /// Images and layers made by mistry that were removed because no name refers to them.
    pub images: docker::Pruned,
}

impl Scheduler {
    /// Collects garbage by the configured rules; rules in `given` replace the configured ones. With `dry_run`
    /// nothing is changed.
    ///
    /// # Errors
    /// [`Error::NoPolicy`] when no rule selects anything for removal; [`Error::Store`].
    pub async fn collect(&self, given: Policy, dry_run: bool) -> Result<Collection, Error> {
        let configured = self.0.config.load().gc.unwrap_or_default();
        let policy = configured.overridden_by(given);
        if !policy.has_rule() {
            return Err(Error::NoPolicy);
        }
        let shared = self.0.clone();
        // A separate task, because the client may disconnect.
        let task = self.0.spawn(async move {
            let _one_at_a_time = tokio::select! {
                collecting = shared.collecting.lock() => collecting,
                () = shared.stop.cancelled() => return Err(Error::Ending),
            };
            if dry_run {
                return shared.plan_collection(policy).await;
            }
            let mut collection = shared.collect(policy).await?;
            collection.images = tokio::select! {
                pruned = shared.prune_images() => pruned,
                // The next collection finds the rest.
                () = shared.stop.cancelled() => docker::Pruned::default(),
            };
            Ok(collection)
        });
        task.await.map_err(|_| Error::Lost)?
    }

    /// Protects a build from garbage collection.
    ///
    /// # Errors
    /// [`Error::UnknownJob`], [`Error::Store`].
    pub async fn pin(&self, project: &ProjectName, id: JobId) -> Result<(), Error> {
        let (shared, name) = (self.0.clone(), project.clone());
        match blocking(move || shared.store.pin(&name, id)).await?? {
            true => Ok(()),
            false => Err(Error::UnknownJob(project.clone(), id)),
        }
    }

    /// Unpins a build; a build that is not pinned stays as it is.
    ///
    /// # Errors
    /// [`Error::UnknownJob`] when there is no such build and no such pin, [`Error::Store`].
    pub async fn unpin(&self, project: &ProjectName, id: JobId) -> Result<(), Error> {
        let (shared, name) = (self.0.clone(), project.clone());
        blocking(move || {
            let was_pinned = shared.store.unpin(&name, id)?;
            if !was_pinned && shared.store.find(&name, id)?.is_none() {
                return Err(Error::UnknownJob(name, id));
            }
            Ok(())
        })
        .await?
    }

    /// Removes a build that is over. Returns the group whose base it was: "" if it was the latest without a
    /// group, `None` if no link named it.
    ///
    /// # Errors
    /// [`Error::UnknownJob`]; [`Error::Kept`] when a link names it, unless `if_base` says otherwise, and when
    /// it is pinned, in use or not over; [`Error::Store`].
    pub async fn remove(
        &self,
        project: &ProjectName,
        id: JobId,
        if_base: IfBase,
    ) -> Result<Option<String>, Error> {
        let kept = |reason| Err(Error::Kept(project.clone(), id, reason));
        self.0.adopted.wait().await;
        if self.0.active_job(project, id).is_some() {
            return kept(KeptReason::UnderWay);
        }
        let (shared, name) = (self.0.clone(), project.clone());
        // The client may disconnect; the removal continues.
        let task = self.0.spawn(async move {
            let store = shared.store.clone();
            let removed = blocking(move || store.remove(&name, id, if_base)).await??;
            Ok::<_, Error>((removed, shared))
        });
        let (removed, shared) = task.await.map_err(|_| Error::Lost)??;
        match removed {
            Removed::Gone { bytes, base_of } => {
                let removal = Removal {
                    project,
                    id,
                    why: "asked",
                    bytes,
                    is_listed: true,
                };
                event::publish_removal(&shared, &removal);
                Ok(base_of)
            }
            Removed::Kept(reason) => kept(reason),
            Removed::Unknown => Err(Error::UnknownJob(project.clone(), id)),
        }
    }
}

impl Shared {
    /// Before a build: if less than `min_free` is free, collects by the configured rules. If that frees too
    /// little, the build starts anyway; it may need less, or fails on a full disk.
    ///
    /// The collection is a separate task: it continues if the build does not wait for its end.
    pub(super) async fn make_room(self: &Arc<Self>) {
        let Some(policy) = self.config.load().gc else {
            return;
        };
        let Some(least) = policy.min_free else {
            return;
        };
        if self.has_room(least).await {
            return;
        }
        let shared = self.clone();
        let making = self.spawn(async move { shared.collect_for(policy, least).await });
        // Errors are logged already.
        let _ = making.await;
    }

    /// Collects until `least` bytes are free, as far as the rules allow it.
    async fn collect_for(self: &Arc<Self>, policy: Policy, least: u64) {
        let mut collecting = self.collecting.lock().await;
        // Another build may have freed space meanwhile, or found that nothing can be freed.
        let would_find_nothing =
            collecting.is_some_and(|last| last.elapsed() < COLLECT_RETRY_INTERVAL);
        if would_find_nothing || self.stop.is_cancelled() || self.has_room(least).await {
            return;
        }
        match self.collect(policy).await {
            Ok(collection) if collection.free >= least => *collecting = None,
            Ok(collection) => {
                *collecting = Some(Instant::now());
                event::publish_short(collection.free, least);
            }
            Err(error) => {
                *collecting = Some(Instant::now());
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "could not collect garbage before a build"
                );
            }
        }
    }

    async fn has_room(self: &Arc<Self>, least: u64) -> bool {
        let store = self.store.clone();
        // If the free space is unknown, no builds are removed.
        let room = blocking(move || store.disk_space()).await;
        !matches!(room, Ok(Ok((free, _))) if free < least)
    }

    /// What a collection would remove now.
    async fn plan_collection(self: &Arc<Self>, policy: Policy) -> Result<Collection, Error> {
        let shared = self.clone();
        let (plan, first_error) = blocking(move || shared.plan(&policy)).await??;
        log_collection_error(first_error);
        Ok(Collection {
            free: plan.free,
            plan,
            passed: 0,
            images: docker::Pruned::default(),
        })
    }

    /// Makes the plan and executes it. The caller holds `collecting`.
    async fn collect(self: &Arc<Self>, policy: Policy) -> Result<Collection, Error> {
        let shared = self.clone();
        let collected = blocking(move || shared.collect_blocking(&policy)).await??;
        let (collection, first_error) = collected;
        log_collection_error(first_error);
        event::publish_collection(self, &collection.plan, collection.free);
        Ok(collection)
    }

    fn plan(&self, policy: &Policy) -> Result<(Plan, Option<build::Error>), build::Error> {
        let is_active = |project: &ProjectName, id| self.active_job(project, id).is_some();
        self.store.plan(policy, is_active)
    }

    fn collect_blocking(
        &self,
        policy: &Policy,
    ) -> Result<(Collection, Option<build::Error>), build::Error> {
        let (mut plan, first_error) = self.plan(policy)?;
        // Where space is needed now, freeing it at once is worth the time.
        let is_low = plan.free < policy.min_free.unwrap_or(0).max(LOW_SPACE_THRESHOLD);
        let freeing = match is_low {
            true => Freeing::Now,
            false => Freeing::Later,
        };
        let may_remove = |build: &build::Candidate| {
            !self.stop.is_cancelled() && self.active_job(&build.project, build.id).is_none()
        };
        let done = self.store.collect(&plan, freeing, may_remove);
        let passed = plan.removals.len() - done.gone.len();
        plan.leave_only(&done.gone);
        let (free, _) = self.store.disk_space()?;
        let collection = Collection {
            plan,
            passed,
            free,
            images: docker::Pruned::default(),
        };
        Ok((collection, first_error.or(done.first_error)))
    }

    /// Removes images and layers made by mistry that no name refers to. If the Engine is not there, the next
    /// collection removes them.
    async fn prune_images(&self) -> docker::Pruned {
        match self.images.remove_unused(&Unused::All).await {
            Ok(pruned) => pruned,
            Err(error) => {
                tracing::debug!(
                    error = &error as &dyn std::error::Error,
                    "could not remove old images, ignoring"
                );
                docker::Pruned::default()
            }
        }
    }
}

fn log_collection_error(first_error: Option<build::Error>) {
    if let Some(error) = first_error {
        tracing::error!(
            error = &error as &dyn std::error::Error,
            "not all garbage could be collected"
        );
    }
}
