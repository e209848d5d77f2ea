//! What happens to jobs, told once: the one funnel to metrics and journal.
//!
//! Each event is one record with the same fields, so that all records of a job are its story.

use std::time::Duration;

use crate::build::{BuildInfo, Outcome};
use crate::job::JobId;
use crate::metrics::Metrics;
use crate::project::ProjectName;

/// Something that happened to a job.
#[derive(Debug)]
pub(super) enum Event<'a> {
    /// Answered from the cache.
    Cached,
    /// Joined a build under way.
    Coalesced,
    /// Turned away: all slots and places are taken.
    Refused,
    /// Written down.
    Accepted,
    /// Taken over from an earlier life.
    TakenOver {
        /// Which execution this is.
        attempt: u32,
    },
    /// Over, whatever its outcome.
    Finished(&'a BuildInfo),
}

/// Tells everybody who counts or keeps records.
pub(super) fn publish(metrics: &Metrics, project: &ProjectName, id: JobId, event: &Event<'_>) {
    let name = project.as_str();
    match event {
        Event::Cached => {
            metrics.record_started(name);
            metrics.record_cached(name);
            tracing::debug!(mistry_event = "cached", mistry_project = %project, mistry_job = %id, "answered from the cache");
        }
        Event::Coalesced => {
            metrics.record_started(name);
            metrics.record_coalesced(name);
            tracing::info!(mistry_event = "coalesced", mistry_project = %project, mistry_job = %id, "joined a build under way");
        }
        Event::Refused => {
            metrics.record_started(name);
            tracing::warn!(mistry_event = "refused", mistry_project = %project, mistry_job = %id, "refused: every slot and every place in the queue is taken");
        }
        Event::Accepted => {
            metrics.record_started(name);
            tracing::info!(mistry_event = "accepted", mistry_project = %project, mistry_job = %id, "accepted");
        }
        Event::TakenOver { attempt } => {
            tracing::info!(mistry_event = "taken-over", mistry_project = %project, mistry_job = %id, attempt, "an earlier life left it unfinished; made again");
        }
        Event::Finished(info) => finished(metrics, project, id, info),
    }
}

fn finished(metrics: &Metrics, project: &ProjectName, id: JobId, info: &BuildInfo) {
    let took = Duration::from_nanos(u64::try_from(info.duration).unwrap_or(0));
    let ran = matches!(
        info.outcome,
        Some(Outcome::Succeeded | Outcome::Failed | Outcome::TimedOut | Outcome::Cancelled)
    );
    metrics.record_finished(
        project.as_str(),
        ran,
        info.succeeded(),
        info.incremental,
        took,
    );
    let phases = [
        ("waiting", info.phases.waiting),
        ("snapshot", info.phases.snapshot),
        ("image", info.phases.image),
        ("run", info.phases.run),
        ("finish", info.phases.finish),
    ];
    for (phase, milliseconds) in phases {
        if let Some(milliseconds) = milliseconds {
            metrics.record_phase(phase, Duration::from_millis(milliseconds));
        }
    }
    let outcome = info.outcome.map_or("", Outcome::as_str);
    tracing::info!(
        mistry_event = "finished",
        mistry_project = %project,
        mistry_job = %id,
        mistry_group = info.group,
        exit_code = info.exit_code,
        error = info.err,
        "{outcome} after {} ms",
        took.as_millis()
    );
}
