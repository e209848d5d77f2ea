//! Takes over the jobs of an earlier process.
//!
//! An accepted job is built. One whose container was made in this boot is adopted: the container is followed
//! from where the log ends, running or not. One without a container is built from the beginning. Entries in
//! `pending` of the first mistry have no job that could be repeated; they end as errored.

use std::sync::Arc;

use super::active_job::{ActiveJob, Origin};
use super::blocking::blocking;
use super::error::Error;
use super::event::{Event, publish, publish_still_paused};
use super::interruption::Interruption;
use super::pipeline::StartPoint;
use super::queue::Admission;
use super::recipe::Recipe;
use super::shared::Shared;
use super::{ending, pipeline, stop, sweep};
use crate::build::{BuildGroup, OrphanedBuild, PendingBuild, Record};
use crate::faults;
use crate::job::{Job, JobId};
use crate::project::ProjectName;

/// Why a build without a container was interrupted.
const ENDED: &str = "mistryd ended";

/// Queues the jobs that were left, and begins their slow steps.
pub(super) async fn begin(shared: &Arc<Shared>) -> Result<(), Error> {
    let store = shared.store.clone();
    let (orphans, first_error) = blocking(move || store.orphaned_builds()).await?;
    if let Some(error) = first_error {
        tracing::error!(
            error = &error as &dyn std::error::Error,
            "some entries of the build path are damaged and are ignored"
        );
    }
    faults::point("left-over");
    if shared.queue().is_paused() {
        publish_still_paused();
    }
    // All are queued before the first one continues: the search for containers without an owner must know
    // every owner.
    let orphans = orphans.into_iter();
    let queued: Vec<_> = orphans
        .filter_map(|orphan| Some((queue_orphan(shared, &orphan)?, orphan)))
        .collect();
    for (active, orphan) in queued {
        let guarded = active.clone();
        let task = take_over(shared.clone(), active, orphan);
        shared.spawn(ending::run_guarded(shared.clone(), guarded, task));
    }
    shared.count_queue();
    sweep_in_background(shared);
    scan_in_background(shared);
    Ok(())
}

/// Queues an orphaned build. `None` for the same id under a second project: only one of them can be a valid
/// job.
fn queue_orphan(shared: &Shared, orphan: &OrphanedBuild) -> Option<Arc<ActiveJob>> {
    let (project, id) = (orphan.project.clone(), orphan.id);
    let record = orphan.record.as_ref();
    let origin = Origin {
        request: None,
        asker: record.and_then(|record| record.info.asked_by.clone()),
        rebuild: record.is_some_and(|record| record.internal.rebuild),
        cold: record.is_some_and(|record| record.info.cold),
    };
    let group = record.and_then(|record| record.info.group.name().cloned());
    let adopted = record.filter(|record| shared.store.has_container(&record.internal));
    let admission = shared.queue().admit_again(id, adopted.is_some(), || {
        // Its params were counted in an earlier process; no client holds them now.
        ActiveJob::new(project, id, group, origin, None)
    });
    let active = match admission {
        Admission::Started(active) => {
            active.slot.notify_one();
            active
        }
        Admission::Queued(active) => active,
        Admission::Coalesced(_) | Admission::Refused => return None,
    };
    // It is unknown whether clients that wait for it will reconnect.
    active.keep_when_disconnected();
    if let Some(record) = adopted {
        let internal = &record.internal;
        if let Some(container) = internal.container.clone() {
            active.set_container(container, internal.deadline);
        }
    }
    Some(active)
}

/// Sweeps containers without an owner as soon as the Engine is there. Otherwise the first build that needs it
/// sweeps.
fn sweep_in_background(shared: &Arc<Shared>) {
    let sweeping = shared.clone();
    shared.spawn(async move {
        let is_there = tokio::select! {
            there = sweeping.engine_there() => there.is_ok(),
            () = sweep::removal_grace_over(&sweeping) => false,
        };
        if is_there {
            sweep::sweep_soon(&sweeping);
        }
    });
}

/// Reads the index, and empties the trash.
fn scan_in_background(shared: &Shared) {
    let scanning = shared.store.clone();
    let work = shared.status.begin_work();
    shared.tasks.spawn_blocking(move || {
        let _work = work;
        for result in [scanning.scan(), scanning.empty_trash()] {
            if let Err(error) = result {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "the build path is not in order"
                );
            }
        }
    });
}

/// Continues an orphaned build, or ends it with the reason why that is impossible.
async fn take_over(shared: Arc<Shared>, active: Arc<ActiveJob>, orphan: OrphanedBuild) {
    let OrphanedBuild {
        project,
        id,
        record,
    } = orphan;
    let asked = record.clone();
    let (looking, name) = (shared.clone(), project.clone());
    // A tracked task, so that a stopping daemon waits for it, even if the build does not.
    let recipe = shared
        .tasks
        .spawn_blocking(move || asked.and_then(|record| recipe(&looking, &name, id, &record)));
    let reopened = reopen(&shared, &active, project, record).await;
    let Some(mut pending) = reopened else {
        return;
    };
    faults::point("taken-over");
    let tries = pending.info().container_tries;
    let container = pending.internal().container.clone();
    let event = Event::TakenOver {
        tries,
        runs_on: container.is_some(),
    };
    publish(&shared, active.subject(), &event);
    // This comes first: a client that sees the job accepted may follow its log.
    active.publish_log(pending.log().progress());
    active.publish_state(pending.info());
    let observer = active.observer(shared.stop.clone());
    shared.broadcast.job_begun(observer);
    let start = match (container, pending.internal().stopped.clone()) {
        // The recipe is needed only if the container is lost.
        (Some(container), _) => Ok(StartPoint::Container(container, recipe)),
        // It ends as was decided, whatever happened to its project.
        (None, Some(stopped)) => Err(Interruption::Stopped(stopped)),
        (None, None) => tokio::select! {
            recipe = recipe => match recipe.ok().flatten() {
                Some(recipe) => Ok(StartPoint::Beginning(recipe)),
                None => Err(Interruption::ProjectChanged(ENDED)),
            },
            () = shared.stop.cancelled() => return,
            cancelled = active.cancelled() => {
                Err(Interruption::Stopped(stop::cancelled(cancelled)))
            }
        },
    };
    let start = match start {
        Ok(start) => start,
        Err(why) => return ending::end_interrupted(shared, active, pending, why, &[]).await,
    };
    if let StartPoint::Beginning(_) = start
        && pending.log().bytes() > 0
    {
        // A disk that cannot take the line cannot take a build either, which is reported.
        let _ = pending.log().note(pipeline::retry_note(ENDED)).await;
    }
    pipeline::run_build(shared, active, pending, start).await;
}

/// The pending build of a record. `None` if it cannot be opened: its clients and the journal get the error.
async fn reopen(
    shared: &Arc<Shared>,
    active: &Arc<ActiveJob>,
    project: ProjectName,
    record: Option<Record>,
) -> Option<PendingBuild> {
    let (store, id) = (shared.store.clone(), active.id);
    let reopened = blocking(move || {
        let record = record.unwrap_or_else(|| store.empty_record(&project, id));
        match store.has_container(&record.internal) {
            true => store.adopt(record),
            false => store.resume(record),
        }
    });
    let error = match reopened.await {
        Ok(Ok(pending)) => return Some(pending),
        Ok(Err(error)) => {
            tracing::error!(mistry_job = %id, error = &error as &dyn std::error::Error, "could not take over a build");
            error.into()
        }
        Err(error) => {
            tracing::error!(mistry_project = %active.project, mistry_job = %id, "mistryd failed while it took over a build (a panic, logged above)");
            error
        }
    };
    shared.leave_queue(active);
    active.end_rejected(error);
    None
}

/// The job of a record, if the project has not changed since.
fn recipe(
    shared: &Shared,
    project: &ProjectName,
    id: JobId,
    record: &Record,
) -> Option<Arc<Recipe>> {
    let context = shared.projects.context(project).ok()?;
    let job = Job {
        project: project.clone(),
        group: match &record.info.group {
            BuildGroup::None => None,
            BuildGroup::Named(name) => Some(name.clone()),
            BuildGroup::Foreign(_) => return None,
        },
        params: record.params()?,
        context: context.digest(),
    };
    (job.id() == id).then(|| Arc::new(Recipe::new(job, id, context)))
}
