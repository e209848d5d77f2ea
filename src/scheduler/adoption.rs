//! What an earlier process left behind.
//!
//! A job that was accepted is built. One whose container was made in this boot is adopted: the
//! container is followed from where the log ends, wherever it has got to meanwhile. One that had
//! none yet is made from the beginning. What the first mistry left in `pending` holds no job that
//! could be made again; it ends as errored.

use std::sync::Arc;

use super::active_job::{ActiveJob, Origin};
use super::event::{Event, publish, publish_still_paused};
use super::interruption::Interruption;
use super::pipeline::StartPoint;
use super::queue::Admission;
use super::{Error, Shared, blocking, ending, pipeline, stop, sweep};
use crate::build::{OrphanedBuild, PendingBuild, Record};
use crate::faults;
use crate::job::{Job, JobId};
use crate::project::Context;

/// What interrupted a build that had no container yet.
const ENDED: &str = "mistryd ended";

/// Queues what was left, and begins what may take long.
pub(super) async fn begin(shared: &Arc<Shared>) -> Result<(), Error> {
    let store = shared.store.clone();
    let (orphans, first_error) = blocking(move || store.orphaned_builds()).await?;
    if let Some(error) = first_error {
        tracing::error!(
            error = &error as &dyn std::error::Error,
            "some of the build path is not in order and is passed over"
        );
    }
    faults::point("left-over");
    if shared.queue().is_paused() {
        publish_still_paused();
    }
    // All have their places before the first one is gone on with: the search for containers
    // without an owner must know every owner.
    let mut taken = Vec::new();
    for orphan in orphans {
        let (project, id) = (orphan.project.clone(), orphan.id);
        let info = orphan.record.as_ref().map(|record| &record.info);
        let internal = orphan.record.as_ref().map(|record| &record.internal);
        let origin = Origin {
            request: None,
            asker: info.and_then(|info| info.asked_by.clone()),
            rebuild: internal.is_some_and(|internal| internal.rebuild),
        };
        let group = info.map(|info| info.group.clone());
        let group = group.filter(|group| !group.is_empty());
        let is_adopted = orphan
            .record
            .as_ref()
            .is_some_and(|record| shared.store.has_container(record));
        let admission = shared.queue().admit_again(id, is_adopted, || {
            // Its params were counted in an earlier process; no client holds them now.
            ActiveJob::new(project, id, group, origin, None)
        });
        let active = match admission {
            Admission::Started(active) => {
                active.slot.notify_one();
                active
            }
            Admission::Queued(active) => active,
            // The same id under two projects: only one of them can be a job of ours.
            Admission::Coalesced(_) | Admission::Refused => continue,
        };
        // Clients that wanted it only while they wait come back, or not: that cannot be known.
        active.want(false);
        if is_adopted {
            active.own(
                internal.and_then(|internal| internal.container.clone()),
                internal.and_then(|internal| internal.deadline),
            );
        }
        taken.push((active, orphan));
    }
    for (active, orphan) in taken {
        let guarded = active.clone();
        let task = take_over(shared.clone(), active, orphan);
        shared.spawn(ending::run_guarded(shared.clone(), guarded, task));
    }
    shared.count_queue();
    let sweeping = shared.clone();
    shared.spawn(async move {
        // Without an Engine, the first build that needs one looks.
        let is_there = tokio::select! {
            there = sweeping.engine_there() => there.is_ok(),
            () = sweep::removal_grace_over(&sweeping) => false,
        };
        if is_there {
            sweep::sweep_soon(&sweeping);
        }
    });
    let scanning = shared.store.clone();
    let busy = shared.status.begin_work();
    shared.tasks.spawn_blocking(move || {
        let _busy = busy;
        for result in [scanning.scan(), scanning.empty_trash()] {
            if let Err(error) = result {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "the build path is not in order"
                );
            }
        }
    });
    Ok(())
}

/// Goes on with an orphaned build, or ends it with a word about why that cannot be.
async fn take_over(shared: Arc<Shared>, active: Arc<ActiveJob>, orphan: OrphanedBuild) {
    let OrphanedBuild {
        project,
        id,
        record,
    } = orphan;
    let asked = record.clone();
    let (looking, name) = (shared.clone(), project.clone());
    // Of the tasks, so that it is waited for when the daemon ends, also where the build does not wait.
    let recipe = shared
        .tasks
        .spawn_blocking(move || asked.and_then(|record| recipe(&looking, &name, id, &record)));
    let store = shared.store.clone();
    let taken = blocking(move || {
        let record = record.unwrap_or_default();
        match store.has_container(&record) {
            true => store.adopt(&project, id, record),
            false => store.resume(&project, id, record),
        }
    });
    let mut pending: PendingBuild = match taken.await {
        Ok(Ok(pending)) => pending,
        Ok(Err(error)) => {
            tracing::error!(mistry_job = %id, error = &error as &dyn std::error::Error, "could not take over a build");
            shared.leave_queue(&active);
            active.end_rejected(error.into());
            return;
        }
        Err(error) => {
            tracing::error!(mistry_project = %active.project, mistry_job = %id, "mistryd failed while it took over a build (a panic, told above)");
            shared.leave_queue(&active);
            active.end_rejected(error);
            return;
        }
    };
    faults::point("taken-over");
    let attempt = pending.info().attempt;
    let container = pending.internal().container.clone();
    let event = Event::TakenOver {
        attempt,
        runs_on: container.is_some(),
    };
    publish(&shared, active.subject(), &event);
    // First: a client that sees it accepted may follow its log.
    active.show_log(pending.log().progress());
    active.show(pending.info());
    shared.broadcast.job_begun(&shared, &active);
    // What follows a container needs the recipe only where the attempt is lost.
    let start = match (container, pending.internal().stopped.clone()) {
        (Some(container), _) => StartPoint::Container(container, recipe),
        // It ends as was decided, whatever has become of its project.
        (None, Some(stopped)) => {
            ending::end_interrupted(shared, active, pending, Interruption::Stopped(stopped), &[])
                .await;
            return;
        }
        (None, None) => {
            let recipe = tokio::select! {
                recipe = recipe => recipe.ok().flatten(),
                () = shared.stop.cancelled() => return,
                cancelled = active.cancelled() => {
                    let interruption = Interruption::Stopped(stop::cancelled(cancelled));
                    return ending::end_interrupted(shared, active, pending, interruption, &[]).await;
                }
            };
            match recipe {
                Some(recipe) => StartPoint::Beginning(recipe),
                None => {
                    ending::end_interrupted(
                        shared,
                        active,
                        pending,
                        Interruption::ProjectChanged(ENDED),
                        &[],
                    )
                    .await;
                    return;
                }
            }
        }
    };
    if let StartPoint::Beginning(_) = start
        && pending.log().bytes() > 0
    {
        // A disk that takes no line takes no build either, and that is told.
        let _ = pending.log().note(pipeline::retry_note(ENDED)).await;
    }
    pipeline::run_build(shared, active, pending, start).await;
}

/// The job of a record, if the project still is what it was asked for.
fn recipe(
    shared: &Shared,
    project: &crate::project::ProjectName,
    id: JobId,
    record: &Record,
) -> Option<(Job, Context)> {
    let context = shared.projects.context(project).ok()?;
    let group = match record.info.group.as_str() {
        "" => None,
        name => Some(name.parse().ok()?),
    };
    let job = Job {
        project: project.clone(),
        group,
        params: record.params()?,
        context: context.digest(),
    };
    (job.id() == id).then_some((job, context))
}
