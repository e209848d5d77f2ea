//! How a build ends: run to its end or not, its result put in place, its waiters notified, its container
//! removed. After a panic, too.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::time::timeout;

use super::active_job::ActiveJob;
use super::blocking::blocking;
use super::error::Error;
use super::event::{Event, publish};
use super::interruption::{Interruption, run_status};
use super::shared::Shared;
use super::sweep::{removal_grace_over, sweep_soon};
use crate::build::{self, BuildAnswer, End, Outcome, PendingBuild, Phase, text_of};
use crate::docker::{self, ContainerStatus, PING_TIMEOUT};
use crate::faults;

/// How long the removal of a container is waited for, whose processes are killed by it: a host whose disk
/// is saturated takes some seconds for that.
const REMOVAL_TIMEOUT: Duration = Duration::from_secs(30);

/// Does a build's work. Should it panic, its container is removed, the build ends as errored, and its slot
/// is given back.
pub(super) async fn run_guarded(
    shared: Arc<Shared>,
    active: Arc<ActiveJob>,
    work: impl Future<Output = ()>,
) {
    /// For a panic in the clearing up: the waiters and the slot are seen to all the same.
    struct Guard(Arc<Shared>, Arc<ActiveJob>, bool);
    impl Drop for Guard {
        fn drop(&mut self) {
            if self.2 {
                self.0.leave_queue(&self.1);
                self.1.end_rejected(Error::Lost);
            }
        }
    }
    let mut guard = Guard(shared.clone(), active.clone(), true);
    // What the panic left half-done is not used again: the build is read from disk.
    if AssertUnwindSafe(work).catch_unwind().await.is_err() {
        end_after_panic(shared, active).await;
    }
    guard.2 = false;
}

/// Ends a build whose task or thread has panicked.
pub(super) async fn end_after_panic(shared: Arc<Shared>, active: Arc<ActiveJob>) {
    tracing::error!(mistry_project = %active.project, mistry_job = %active.id, "mistryd failed while it made a build (a panic, told above); the build ends as errored");
    let is_ours = shared.owns(&active);
    if let Some(container) = active.container() {
        remove_container(&shared, &active, &container).await;
    }
    if !is_ours {
        // It was over; its place may be another build's by now.
        return;
    }
    let (store, project, id) = (shared.store.clone(), active.project.clone(), active.id);
    match blocking(move || store.take_back(&project, id)).await {
        Ok(Ok(Some(mut pending))) => {
            active.show_log(pending.log().progress());
            return end_interrupted(
                shared,
                active,
                pending,
                Interruption::Lost(Error::Lost),
                &[],
            )
            .await;
        }
        Ok(Ok(None)) | Err(_) => {}
        Ok(Err(error)) => {
            tracing::error!(mistry_job = %active.id, error = &error as &dyn std::error::Error, "could not end a build after that; the next start makes it again");
        }
    }
    shared.leave_queue(&active);
    active.end_rejected(Error::Lost);
    // It may have made a container that it had not written down.
    sweep_soon(&shared);
}

/// Ends a build that was not run to its end.
pub(super) async fn end_interrupted(
    shared: Arc<Shared>,
    active: Arc<ActiveJob>,
    mut pending: PendingBuild,
    why: Interruption,
    stderr: &[u8],
) {
    // Nothing may write to the build's data while it is put in place.
    let container = pending.record_mut().internal.container.take();
    if let Some(container) = &container {
        // It is no build's any more: where it cannot be removed now, it is found as such.
        active.own(None, None);
        match remove_container(&shared, &active, container).await {
            ContainerRemoval::Done => {}
            // The record on disk names it: the next process goes on here.
            ContainerRemoval::ShuttingDown => return,
            // It runs on where the Engine cannot end it: what it writes must be in no build.
            ContainerRemoval::Pending => {
                match blocking(move || (pending.put_data_aside(), pending)).await {
                    Ok((Ok(()), build)) => pending = build,
                    Ok((Err(error), _)) => {
                        shared.leave_queue(&active);
                        return end_unwritten(&active, error);
                    }
                    Err(_) => return Box::pin(end_after_panic(shared, active)).await,
                }
            }
        }
    }
    // The Engine may have made one all the same, whatever it said or did not say.
    let is_clear = container.is_some()
        || !matches!(
            why,
            Interruption::Container { .. }
                | Interruption::EngineAway { .. }
                | Interruption::Stopped(_)
                | Interruption::Lost(_)
        );
    // For readers of the log alone; where it cannot be written, the record has it.
    let _ = pending.log().note(&why).await;
    let end = interrupted_end(&active, why, stderr);
    end_build(shared.clone(), active, pending, end).await;
    if !is_clear {
        sweep_soon(&shared);
    }
}

/// How a build ends that was not run to its end.
fn interrupted_end(active: &ActiveJob, interruption: Interruption, stderr: &[u8]) -> End {
    match interruption {
        Interruption::Stopped(stopped) => End {
            outcome: stopped.outcome,
            // Not that of its container, which may have taken the signal well and ended with 0.
            exit_code: build::NO_EXIT_CODE,
            error: Some(stopped.sentence),
            stderr: Some(text_of(stderr, stderr.len() == build::LOG_TAIL)),
            cancelled: stopped.cancelled,
        },
        // The project's own fault, and no other than a command that a shell does not find.
        interruption @ Interruption::Container {
            source: docker::Error::NotStarted { code, .. },
        } => End {
            outcome: Outcome::Failed,
            exit_code: code,
            error: Some(interruption.to_string()),
            stderr: Some(String::new()),
            cancelled: None,
        },
        interruption => {
            tracing::warn!(
                mistry_project = %active.project,
                mistry_job = %active.id,
                error = &interruption as &dyn std::error::Error,
                "the build could not be run to its end"
            );
            End {
                exit_code: run_status(&interruption).unwrap_or(build::NO_EXIT_CODE),
                ..End::errored(interruption.to_string())
            }
        }
    }
}

/// How a build ends whose container has ended.
pub(super) fn container_end(exit: &docker::Exit, stderr: &[u8]) -> End {
    if exit.code == 0 {
        return End {
            outcome: Outcome::Succeeded,
            exit_code: 0,
            error: None,
            stderr: None,
            cancelled: None,
        };
    }
    End {
        outcome: Outcome::Failed,
        exit_code: exit.code,
        error: exit
            .oom_killed
            .then(|| "the build ran out of memory".to_owned()),
        stderr: Some(text_of(stderr, stderr.len() == build::LOG_TAIL)),
        cancelled: None,
    }
}

/// Puts the result in place, notifies all who wait, gives the slot back; what no client waits for comes
/// after.
pub(super) async fn end_build(
    shared: Arc<Shared>,
    active: Arc<ActiveJob>,
    mut pending: PendingBuild,
    end: End,
) {
    pending.enter(Phase::Finishing);
    active.show(pending.info());
    let container = pending.internal().container.clone();
    pending.record_mut().info.joined = active.joined();
    let id = active.id;
    let finished = blocking(move || {
        pending
            .finish(end)
            .or_else(|unfinished| {
                if !unfinished.is_for_data {
                    return Err(unfinished);
                }
                // The result does not fit, or its data is in the way; its record fits once that is gone.
                let (build, error) = (unfinished.build, unfinished.error);
                tracing::warn!(mistry_job = %id, error = &error as &dyn std::error::Error, "a build's data is discarded, because its end could not be written down with it");
                build.finish_without_data(&error)
            })
            .map_err(|unfinished| unfinished.error)
            .and_then(|finished| Ok((finished.answer()?, finished)))
    });
    let finished = finished.await;
    faults::point("finished");
    // First, so that a client that waited for the end and asks again finds the place free.
    shared.leave_queue(&active);
    let unsynced = match finished {
        Ok(Ok((info, finished))) => {
            publish(&shared, active.subject(), &Event::Finished(&info));
            active.end_built(BuildAnswer::new(info));
            if let Some(error) = finished.warning() {
                tracing::error!(mistry_job = %active.id, error = error as &dyn std::error::Error, "a build is in place, but not all around it");
            }
            Some(finished)
        }
        Ok(Err(error)) => {
            end_unwritten(&active, error);
            None
        }
        Err(error) => {
            tracing::error!(mistry_project = %active.project, mistry_job = %active.id, "mistryd failed while it ended a build (a panic, told above); the next start takes it over");
            active.end_rejected(error);
            None
        }
    };
    faults::point("answered");
    if let Some(container) = container {
        remove_container(&shared, &active, &container).await;
    }
    faults::point("cleared");
    if let Some(finished) = unsynced
        && let Ok(Err(error)) = blocking(move || finished.make_durable()).await
    {
        tracing::error!(mistry_job = %active.id, error = &error as &dyn std::error::Error, "a build is not on stable storage");
    }
}

/// Logs that the end of a build could not be written to the disk: the build stays pending.
fn end_unwritten(active: &ActiveJob, error: build::Error) {
    tracing::error!(mistry_job = %active.id, error = &error as &dyn std::error::Error, "a build's end could not be written down; the next start makes it again");
    active.end_rejected(error.into());
}

/// What became of a container that is to be removed.
pub(super) enum ContainerRemoval {
    /// It does not run any more.
    Done,
    /// It may run on; it is removed as soon as that can be done.
    Pending,
    /// The daemon ends before it is gone.
    ShuttingDown,
}

/// Removes a build's container, whether it runs or not.
pub(super) async fn remove_container(
    shared: &Arc<Shared>,
    active: &ActiveJob,
    container: &str,
) -> ContainerRemoval {
    let removing = async {
        let removed = timeout(REMOVAL_TIMEOUT, shared.docker.remove(container)).await;
        let error: docker::Cause = match removed {
            Ok(Ok(())) => return ContainerRemoval::Done,
            Ok(Err(error)) => error.into(),
            Err(late) => late.into(),
        };
        tracing::warn!(mistry_job = %active.id, error = &*error as &dyn std::error::Error, "could not remove a build's container yet");
        sweep_soon(shared);
        let status = timeout(PING_TIMEOUT, shared.docker.container_status(container)).await;
        match status {
            Ok(Ok(ContainerStatus::Ended(..) | ContainerStatus::Gone)) => ContainerRemoval::Done,
            _ => ContainerRemoval::Pending,
        }
    };
    tokio::select! {
        cleared = removing => cleared,
        () = removal_grace_over(shared) => ContainerRemoval::ShuttingDown,
    }
}
