//! The end of a build, complete or interrupted: its result is put in place, its waiters are notified, its
//! container is removed. After a panic, too.

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
use crate::build::{self, End, PendingBuild, text_of};
use crate::docker::{self, ContainerStatus, PING_TIMEOUT};
use crate::faults;
use crate::job::{Outcome, Phase};

/// How long to wait for the removal of a container, which kills its processes: a host whose disk is saturated
/// takes some seconds for that.
const REMOVAL_TIMEOUT: Duration = Duration::from_secs(30);

/// Runs a build's work. If it panics, its container is removed, the build ends as errored, and its slot is
/// released.
pub(super) async fn run_guarded(
    shared: Arc<Shared>,
    active: Arc<ActiveJob>,
    work: impl Future<Output = ()>,
) {
    /// For a panic during the cleanup: the waiters are notified and the slot is released nevertheless.
    struct Guard {
        shared: Arc<Shared>,
        active: Arc<ActiveJob>,
        is_armed: bool,
    }
    impl Drop for Guard {
        fn drop(&mut self) {
            if self.is_armed {
                self.shared.leave_queue(&self.active);
                self.active.end_rejected(Error::Lost);
            }
        }
    }
    let mut guard = Guard {
        shared: shared.clone(),
        active: active.clone(),
        is_armed: true,
    };
    // State that the panic left inconsistent is not used: the build is read from disk.
    if AssertUnwindSafe(work).catch_unwind().await.is_err() {
        end_after_panic(shared, active).await;
    }
    guard.is_armed = false;
}

/// Ends a build whose task or thread has panicked.
pub(super) async fn end_after_panic(shared: Arc<Shared>, active: Arc<ActiveJob>) {
    tracing::error!(mistry_project = %active.project, mistry_job = %active.id, "mistryd failed while it made a build (a panic, logged above); the build ends as errored");
    let is_ours = shared.owns(&active);
    if let Some(container) = active.container() {
        remove_container(&shared, &active, &container).await;
    }
    if !is_ours {
        // It was over; another build may have its place by now.
        return;
    }
    let (store, project, id) = (shared.store.clone(), active.project.clone(), active.id);
    match blocking(move || store.take_back(&project, id)).await {
        Ok(Ok(Some(mut pending))) => {
            active.publish_log(pending.log().progress());
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
            tracing::error!(mistry_job = %active.id, error = &error as &dyn std::error::Error, "could not end a build after that; the next start builds it again");
        }
    }
    shared.leave_queue(&active);
    active.end_rejected(Error::Lost);
    // It may have made a container that was not recorded yet.
    sweep_soon(&shared);
}

/// Ends a build that was interrupted.
pub(super) async fn end_interrupted(
    shared: Arc<Shared>,
    active: Arc<ActiveJob>,
    mut pending: PendingBuild,
    why: Interruption,
    stderr: &[u8],
) {
    // No process may write to the build's data while it is put in place.
    let container = pending.record_mut().internal.container.take();
    if let Some(container) = &container {
        // The build does not own it any more: if it cannot be removed now, a sweep finds it.
        active.clear_container();
        match remove_container(&shared, &active, container).await {
            ContainerRemoval::Done => {}
            // The record on disk names it: the next process continues.
            ContainerRemoval::ShuttingDown => return,
            // It still runs if the Engine cannot end it: its writes must not be in any build.
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
    // The Engine may have made one nevertheless, whatever it answered.
    let is_clear = container.is_some()
        || !matches!(
            why,
            Interruption::Container { .. }
                | Interruption::EngineAway { .. }
                | Interruption::Stopped(_)
                | Interruption::Lost(_)
        );
    // The note is only for readers of the log; if it cannot be written, the record has it.
    let note = pending.masked(why.to_string());
    let _ = pending.log().note(note).await;
    let end = interrupted_end(&active, why, stderr);
    end_build(shared.clone(), active, pending, end).await;
    if !is_clear {
        sweep_soon(&shared);
    }
}

/// The end of an interrupted build.
fn interrupted_end(active: &ActiveJob, interruption: Interruption, stderr: &[u8]) -> End {
    match interruption {
        Interruption::Stopped(stopped) => End {
            outcome: stopped.outcome,
            // The container's own code does not count: it may have handled the signal and ended with 0.
            exit_code: None,
            error: Some(stopped.sentence),
            stderr: Some(text_of(stderr, stderr.len() == build::LOG_TAIL)),
            cancelled: stopped.cancelled,
        },
        // The fault is the project's own, like a command that a shell does not find.
        interruption @ Interruption::Container {
            source: docker::Error::NotStarted { code, .. },
        } => End {
            outcome: Outcome::Failed,
            exit_code: Some(code),
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
                exit_code: run_status(&interruption),
                ..End::errored(interruption.to_string())
            }
        }
    }
}

/// The end of a build whose container has ended.
pub(super) fn container_end(exit: &docker::Exit, stderr: &[u8]) -> End {
    if exit.code == 0 {
        return End {
            outcome: Outcome::Succeeded,
            exit_code: Some(0),
            error: None,
            stderr: None,
            cancelled: None,
        };
    }
    End {
        outcome: Outcome::Failed,
        exit_code: Some(exit.code),
        error: exit
            .oom_killed
            .then(|| "the build ran out of memory".to_owned()),
        stderr: Some(text_of(stderr, stderr.len() == build::LOG_TAIL)),
        cancelled: None,
    }
}

/// Puts the result in place, notifies all waiters and releases the slot; work that no client waits for comes
/// after that.
pub(super) async fn end_build(
    shared: Arc<Shared>,
    active: Arc<ActiveJob>,
    mut pending: PendingBuild,
    end: End,
) {
    pending.enter(Phase::Finishing);
    active.publish_state(pending.info());
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
                // The result does not fit, or its data is in the way; the record alone fits once that is
                // removed.
                let (build, error) = (unfinished.build, unfinished.error);
                tracing::warn!(mistry_job = %id, error = &error as &dyn std::error::Error, "the data of a build is deleted, because its end could not be recorded otherwise");
                build.finish_without_data(&error)
            })
            .map_err(|unfinished| unfinished.error)
            .map(|finished| (finished.answer(), finished))
    });
    let finished = finished.await;
    faults::point("finished");
    // This comes first, so that a client that waited for the end and requests the job again finds the place
    // free.
    shared.leave_queue(&active);
    let unsynced = match finished {
        Ok(Ok((answer, finished))) => {
            publish(&shared, active.subject(), &Event::Finished(answer.info()));
            active.end_built(answer);
            if let Some(error) = finished.warning() {
                tracing::error!(mistry_job = %active.id, error = error as &dyn std::error::Error, "a build is in place, but a step of its end failed");
            }
            Some(finished)
        }
        Ok(Err(error)) => {
            end_unwritten(&active, error);
            None
        }
        Err(error) => {
            tracing::error!(mistry_project = %active.project, mistry_job = %active.id, "mistryd failed while it ended a build (a panic, logged above); the next start takes it over");
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

/// Logs that the end of a build could not be recorded: the build stays pending.
fn end_unwritten(active: &ActiveJob, error: build::Error) {
    tracing::error!(mistry_job = %active.id, error = &error as &dyn std::error::Error, "the end of a build could not be recorded; the next start builds it again");
    active.end_rejected(error.into());
}

/// The state of a container that is to be removed.
pub(super) enum ContainerRemoval {
    /// It has stopped running.
    Done,
    /// It may still run; it is removed as soon as possible.
    Pending,
    /// The daemon stops before it is removed.
    ShuttingDown,
}

/// Removes a build's container, running or not.
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
