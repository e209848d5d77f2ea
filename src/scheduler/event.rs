//! Events of jobs and of the queue, published once: to the metrics, the journal and the observers.
//!
//! Each event is one record with the same fields, so that all records of a job can be selected together. Its
//! `MESSAGE_ID` is explained in `packaging/systemd/mistryd.catalog`; a test checks that the two agree.

use std::time::Duration;

use super::active_job::ActiveJob;
use super::shared::Shared;
use crate::build::{Answered, BuildInfo, Category, Plan};
use crate::docker;
use crate::job::{GroupName, JobId, Outcome};
use crate::metrics::Finished;
use crate::project::ProjectName;

/// Message ids: made once, at random, and never changed.
const ACCEPTED: &str = "fddd42b3f76149bdb9aa243f0a7b9143";
const COALESCED: &str = "c8a51a290e3d4e89a26953616137c03c";
const CACHED: &str = "0f73f604f82f4d57ba4f86276dd0de13";
const REFUSED: &str = "685e339a279640b3ba8c8914d4216faa";
const STARTED: &str = "98e3dc20d8b443089d23f8a07a9ffe7e";
const RUNNING: &str = "c0b2a58ab75e4a088345564b2e626c27";
const TAKEN_OVER: &str = "c57ed7b93c0c49df8c85570ecf688284";
const SUCCEEDED: &str = "8422031a6eb14a51a89d70754a1e266c";
const FAILED: &str = "bcb709d46fe3499db04ea6809552042c";
const ERRORED: &str = "e9866551735b4e32a603e9dc6de8a3ce";
const CANCELLED: &str = "4e6deb6e4bb7474cacdcb0dd37ffde44";
const TIMED_OUT: &str = "7e37c5da088142f0af324a6f9d72c2e5";
const ENGINE_AWAY: &str = "5b1f4fd6a02d4f6c8d39c01d6a4c2f11";
const ENGINE_BACK: &str = "2f6a7c3d90b14d8e9a5b3e7f4c812d06";
const REMOVED: &str = "e07d1f6a9f3c4b51a4c2d7b8160395ce";
const COLLECTED: &str = "4b9e52c78d1a4f0f8a36c0e5d97f2b14";
const NO_ROOM: &str = "a8c3f1d5072e4c6db15e96804f3b7d29";
const PAUSED: &str = "b70361e860b343828dad5909a490102e";
const GROUP_RESET: &str = "9f1d6c0b7e5a4b38a2c4d1f07e93b65a";
const RESUMED: &str = "20f4be90972d48519363f07e8bd3921d";

/// The digits of a container's id that Docker shows.
const SHORT_CONTAINER_ID: usize = 12;

/// The job that an event is about.
#[derive(Clone, Copy, Debug)]
pub(super) struct Subject<'a> {
    pub(super) project: &'a ProjectName,
    pub(super) id: JobId,
    pub(super) group: Option<&'a str>,
    /// The id of the request that caused it, if there is one.
    pub(super) request: Option<&'a str>,
}

/// An event in the life of a job.
#[derive(Debug)]
pub(super) enum Event<'a> {
    /// Answered from the cache.
    Cached {
        /// How long the answer took.
        took: Duration,
    },
    /// It joined an active build.
    Coalesced,
    /// Refused: no slot is free, and all places in the queue are taken.
    Refused,
    /// It is recorded.
    Accepted,
    /// Taken over from an earlier process; its container, if any, is followed, else it is built from the
    /// beginning.
    TakenOver {
        /// How often a container was made for it.
        tries: u32,
        /// It has a container.
        runs_on: bool,
    },
    /// Its container was lost; it is run again with a new one.
    ContainerRetry {
        /// How often a container is made for it, with this one.
        tries: u32,
        /// Why the last one was lost.
        why: &'static str,
    },
    /// It got a slot.
    Started,
    /// Its container runs.
    Running {
        /// The container's id.
        container: &'a str,
        /// The image's id.
        image: &'a str,
    },
    /// The build is over, with any outcome.
    Finished(&'a BuildInfo),
}

/// One record about a job. Its message begins with the project and the short id.
macro_rules! log_event {
    ($level:ident, $message_id:expr, $event:expr, $subject:expr, $sentence:expr $(, $field:ident)*) => {
        tracing::$level!(
            message_id = $message_id,
            mistry_event = $event,
            mistry_project = $subject.project.as_str(),
            mistry_job = %$subject.id,
            mistry_group = $subject.group,
            mistry_request = $subject.request,
            $($field,)*
            "{}/{}: {}",
            $subject.project,
            $subject.id.short(),
            $sentence
        )
    };
}

/// Publishes an event to the metrics, the status and the journal.
pub(super) fn publish(shared: &Shared, subject: Subject<'_>, event: &Event<'_>) {
    record(shared, subject, event);
    log(subject, event);
}

fn record(shared: &Shared, subject: Subject<'_>, event: &Event<'_>) {
    let name = subject.project.as_str();
    let metrics = &shared.metrics;
    match event {
        Event::Cached { took } => {
            shared.count(subject.project, Answered::Cached, *took);
            metrics.record_started(name);
            metrics.record_cached(name);
        }
        Event::Coalesced => {
            shared.count(subject.project, Answered::Coalesced, Duration::ZERO);
            metrics.record_started(name);
            metrics.record_coalesced(name);
        }
        Event::Refused => metrics.record_started(name),
        Event::Accepted => {
            shared.count(subject.project, Answered::Built, Duration::ZERO);
            metrics.record_started(name);
        }
        Event::Finished(info) => record_finished(shared, subject, info),
        Event::TakenOver { .. }
        | Event::ContainerRetry { .. }
        | Event::Started
        | Event::Running { .. } => {}
    }
}

fn log(subject: Subject<'_>, event: &Event<'_>) {
    match *event {
        Event::Cached { .. } => {
            let sentence = "the request was answered from the cache";
            log_event!(debug, CACHED, "cached", subject, sentence);
        }
        Event::Coalesced => {
            let sentence = "a request joined the build";
            log_event!(info, COALESCED, "coalesced", subject, sentence);
        }
        Event::Refused => {
            let sentence =
                "the request was refused: no slot is free, and the queue is full (job_backlog)";
            log_event!(warn, REFUSED, "refused", subject, sentence);
        }
        Event::Accepted => {
            let sentence = "the job was accepted";
            log_event!(info, ACCEPTED, "accepted", subject, sentence);
        }
        Event::ContainerRetry {
            tries: attempt,
            why,
        } => {
            let sentence = format!("the build is run again: {why}");
            log_event!(warn, TAKEN_OVER, "taken-over", subject, sentence, attempt);
        }
        Event::TakenOver {
            tries: attempt,
            runs_on,
        } => {
            let sentence = match runs_on {
                true => "the build continues: an earlier process started its container",
                false => "the build starts from the beginning: an earlier process accepted it",
            };
            log_event!(info, TAKEN_OVER, "taken-over", subject, sentence, attempt);
        }
        Event::Started => {
            let sentence = "the build has started";
            log_event!(info, STARTED, "started", subject, sentence);
        }
        Event::Running { container, image } => {
            let short = container.get(..SHORT_CONTAINER_ID).unwrap_or(container);
            let sentence = format!("its container {short} runs");
            log_event!(
                info, RUNNING, "running", subject, sentence, container, image
            );
        }
        Event::Finished(info) => log_finished(subject, info),
    }
}

/// Publishes that the Engine went away, or is back.
pub(super) fn publish_engine(trouble: Option<&docker::Error>) {
    match trouble {
        Some(error) => tracing::error!(
            message_id = ENGINE_AWAY,
            mistry_event = "engine-away",
            error = error as &dyn std::error::Error,
            "the Docker Engine cannot be reached: cached builds are served, new ones are refused. See that Docker is installed and runs, and that this user may use its socket"
        ),
        None => tracing::info!(
            message_id = ENGINE_BACK,
            mistry_event = "engine-back",
            "the Docker Engine answers again"
        ),
    }
}

/// Publishes that the queue is paused, and by which user.
pub(super) fn publish_paused(by: &str) {
    tracing::info!(
        message_id = PAUSED,
        mistry_event = "paused",
        by,
        "the queue is paused by {by}: running builds continue, no new build starts"
    );
}

/// Publishes at a start that an earlier process was paused, and that this one is.
pub(super) fn publish_still_paused() {
    tracing::warn!(
        message_id = PAUSED,
        mistry_event = "paused",
        "the queue is still paused since an earlier process of mistryd: no new build starts until 'mistry resume'"
    );
}

/// Publishes that the queue is resumed, and by which user.
pub(super) fn publish_resumed(by: &str) {
    tracing::info!(
        message_id = RESUMED,
        mistry_event = "resumed",
        by,
        "the queue is resumed by {by}: waiting builds start"
    );
}

/// Publishes that a group was reset, and by which user.
pub(super) fn publish_group_reset(project: &ProjectName, group: &GroupName, by: &str) {
    tracing::info!(
        message_id = GROUP_RESET,
        mistry_event = "group-reset",
        mistry_project = project.as_str(),
        mistry_group = group.as_str(),
        by,
        "group '{group}' of project '{project}' is reset by {by}: its next build starts empty"
    );
}

/// A build that was removed.
#[derive(Debug)]
pub(super) struct Removal<'a> {
    pub(super) project: &'a ProjectName,
    pub(super) id: JobId,
    /// The rule, or `asked`.
    pub(super) why: &'a str,
    /// Bytes that the removal freed.
    pub(super) bytes: u64,
    /// It was in lists; else it was a failed rebuild kept beside the listed build.
    pub(super) is_listed: bool,
}

/// Publishes the removal of a build, the last event about it.
pub(super) fn publish_removal(shared: &Shared, removal: &Removal<'_>) {
    shared.metrics.record_removed(removal.bytes);
    if removal.is_listed {
        shared.broadcast.build_removed(removal.project, removal.id);
    }
    tracing::info!(
        message_id = REMOVED,
        mistry_event = "removed",
        mistry_project = removal.project.as_str(),
        mistry_job = %removal.id,
        why = removal.why,
        bytes = removal.bytes,
        "{}/{}: the build was removed ({})",
        removal.project,
        removal.id.short(),
        removal.why
    );
}

/// Publishes the result of a collection: for each build, and in total.
pub(super) fn publish_collection(shared: &Shared, plan: &Plan, free: u64) {
    if let Some(until) = plan.doubted_until {
        tracing::warn!(
            "the clock of this host was set forward: until {until} no build is removed by its age (gc.max_age)"
        );
    }
    for removal in &plan.removals {
        let removal = Removal {
            project: &removal.build.project,
            id: removal.build.id,
            why: removal.why.as_str(),
            bytes: removal.bytes,
            is_listed: removal.build.category == Category::Ready,
        };
        publish_removal(shared, &removal);
    }
    tracing::info!(
        message_id = COLLECTED,
        mistry_event = "collected",
        bytes = plan.bytes,
        "garbage collected: {} builds removed ({} bytes), {} kept, {} bytes free",
        plan.removals.len(),
        plan.bytes,
        plan.kept,
        free
    );
}

/// Publishes that a collection could not free the required space.
pub(super) fn publish_short(free: u64, least: u64) {
    tracing::warn!(
        message_id = NO_ROOM,
        mistry_event = "no-room",
        "{free} bytes are free and {least} must be (gc.min_free), but no more builds may be removed; new builds still start"
    );
}

impl ActiveJob {
    /// Its subject in records.
    pub(super) fn subject(&self) -> Subject<'_> {
        Subject {
            project: &self.project,
            id: self.id,
            group: self.group.as_ref().map(GroupName::as_str),
            request: self.origin.request.as_deref(),
        }
    }
}

fn record_finished(shared: &Shared, subject: Subject<'_>, info: &BuildInfo) {
    let took = duration(info);
    let ran = matches!(
        info.outcome(),
        Some(Outcome::Succeeded | Outcome::Failed | Outcome::TimedOut | Outcome::Cancelled)
    );
    let finished = Finished {
        ran,
        succeeded: info.succeeded(),
        incremental: info.incremental,
        took,
    };
    let metrics = &shared.metrics;
    metrics.record_finished(subject.project.as_str(), &finished);
    let phases = [
        ("waiting", info.phases.waiting),
        ("snapshot", info.phases.snapshot),
        ("image", info.phases.image),
        ("run", info.phases.run),
        ("finish", info.phases.finish),
    ];
    for (phase, milliseconds) in phases {
        if let Some(milliseconds) = milliseconds {
            shared
                .metrics
                .record_phase(phase, Duration::from_millis(milliseconds));
        }
    }
    shared
        .status
        .build_ended(subject.project, subject.id, info, took);
}

fn log_finished(subject: Subject<'_>, info: &BuildInfo) {
    let exit_code = info.exit_code;
    let error = info.error.as_deref();
    let took = duration(info).as_millis();
    let reason = error.map_or(String::new(), |error| format!(": {error}"));
    let ended = format!("the build ended after {took} ms{reason}");
    match info.outcome() {
        Some(Outcome::Succeeded) | None => {
            let sentence = format!("the build succeeded after {took} ms");
            log_event!(info, SUCCEEDED, "succeeded", subject, sentence, exit_code);
        }
        Some(Outcome::Failed) => {
            let code = exit_code.unwrap_or_default();
            let sentence =
                format!("the build failed with exit code {code} after {took} ms{reason}");
            log_event!(warn, FAILED, "failed", subject, sentence, exit_code, error);
        }
        Some(Outcome::Errored) => {
            log_event!(error, ERRORED, "errored", subject, ended, exit_code, error);
        }
        Some(Outcome::Cancelled) => {
            log_event!(
                info,
                CANCELLED,
                "cancelled",
                subject,
                ended,
                exit_code,
                error
            );
        }
        Some(Outcome::TimedOut) => {
            log_event!(
                warn,
                TIMED_OUT,
                "timed-out",
                subject,
                ended,
                exit_code,
                error
            );
        }
    }
}

fn duration(info: &BuildInfo) -> Duration {
    info.duration.unwrap_or_default()
}
