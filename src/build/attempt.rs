//! An attempt of a job, as a value; and the bounds of those that are kept.

use std::str::FromStr;
use std::sync::atomic::{AtomicU32, Ordering};

use jiff::Timestamp;
use parking_lot::{Mutex, MutexGuard};
use serde::Deserialize;

use super::BuildInfo;
use super::attempt_count::AttemptCount;
use crate::api::{BuildView, NO_DURATION, NO_EXIT_CODE};
use crate::job::{Outcome, State};

/// Attempts of a job that are kept where the configuration does not say how many.
pub const DEFAULT_KEPT_ATTEMPTS: u32 = 10;
/// Bytes of the attempts of one job: the whole log of one build under the default `log_limit`.
const MAX_JOB_BYTES: u64 = 256 << 20;
/// Bytes of all attempts: a sixteenth of a small disk, and the logs of a hundred thousand usual builds.
const MAX_BYTES: u64 = 4 << 30;

/// The bounds of all attempts, and what they take now.
#[derive(Debug)]
pub(super) struct KeptAttempts {
    /// How many are kept of one job.
    most: AtomicU32,
    /// The bytes that those of one job may take.
    pub(super) max_job_bytes: u64,
    /// The bytes that all of them may take.
    pub(super) max_bytes: u64,
    /// The bytes of all of them. Held while attempts are put in place, removed or counted.
    count: Mutex<AttemptCount>,
    /// Held while the oldest of all are removed.
    pub(super) shrinking: Mutex<()>,
}

impl Default for KeptAttempts {
    fn default() -> KeptAttempts {
        KeptAttempts {
            most: AtomicU32::new(DEFAULT_KEPT_ATTEMPTS),
            max_job_bytes: MAX_JOB_BYTES,
            max_bytes: MAX_BYTES,
            count: Mutex::default(),
            shrinking: Mutex::new(()),
        }
    }
}

impl KeptAttempts {
    /// How many are kept of one job.
    pub(super) fn most(&self) -> usize {
        self.most.load(Ordering::Relaxed) as usize
    }

    pub(super) fn set_most(&self, most: u32) {
        self.most.store(most, Ordering::Relaxed);
    }

    /// The bytes of all attempts.
    pub(super) fn bytes(&self) -> u64 {
        self.count().bytes()
    }

    /// The count, while attempts are changed on disk: both change together.
    pub(super) fn count(&self) -> MutexGuard<'_, AttemptCount> {
        self.count.lock()
    }
}

/// The number of an attempt, as the name of its directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Numbered(pub(super) u32);

impl FromStr for Numbered {
    type Err = ();

    fn from_str(name: &str) -> Result<Numbered, ()> {
        let number = name.parse().map_err(drop)?;
        // One number has one name: not `+1` or `01`.
        let is_its_name = number > 0 && u32::to_string(&number) == name;
        is_its_name.then_some(Numbered(number)).ok_or(())
    }
}

/// One attempt of a job, in the list of them.
#[derive(Clone, Debug, PartialEq)]
pub struct Attempt {
    /// Its number among the attempts of the job.
    pub number: u32,
    /// Pending or ready.
    pub state: State,
    /// How it ended; `None` while it is pending.
    pub outcome: Option<Outcome>,
    /// The container's exit code.
    pub exit_code: Option<i64>,
    /// When it started.
    pub started_at: Timestamp,
    /// Time of the end.
    pub finished_at: Option<Timestamp>,
    /// Nanoseconds from start to end, or -1000000000.
    pub duration: i64,
    /// The client that requested it first.
    pub asked_by: Option<String>,
    /// It is in `ready`, with its data.
    pub is_served: bool,
}

/// The part of a record that the list of attempts needs.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Summary {
    pub(super) outcome: Option<Outcome>,
    exit_code: i64,
    started_at: Timestamp,
    finished_at: Option<Timestamp>,
    duration: i64,
    asked_by: Option<String>,
}

impl Default for Summary {
    fn default() -> Summary {
        let view = BuildView::default();
        Summary {
            outcome: None,
            exit_code: view.exit_code,
            started_at: view.started_at,
            finished_at: None,
            duration: view.duration,
            asked_by: None,
        }
    }
}

impl Attempt {
    pub(super) fn kept(number: u32, summary: Summary) -> Attempt {
        Attempt {
            number,
            state: State::Ready,
            outcome: summary.outcome,
            exit_code: (summary.exit_code != NO_EXIT_CODE).then_some(summary.exit_code),
            started_at: summary.started_at,
            finished_at: summary.finished_at,
            duration: summary.duration,
            asked_by: summary.asked_by,
            is_served: false,
        }
    }

    /// The attempt of `info`, which is not over or is served.
    pub fn of(info: &BuildInfo) -> Attempt {
        let duration = info
            .duration
            .map(|duration| i64::try_from(duration.as_nanos()));
        Attempt {
            number: info.number,
            state: info.state(),
            outcome: info.outcome(),
            exit_code: info.exit_code,
            started_at: info.started_at,
            finished_at: info.finished_at,
            duration: duration.map_or(NO_DURATION, |duration| duration.unwrap_or(i64::MAX)),
            asked_by: info.asked_by.clone(),
            is_served: info.state() == State::Ready,
        }
    }
}

/// How the attempts of a job ended.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Outcomes {
    succeeded: bool,
    failed: bool,
}

impl Outcomes {
    /// They have both succeeded and failed.
    pub(super) fn are_mixed(self) -> bool {
        self.succeeded && self.failed
    }

    pub(super) fn add(&mut self, outcome: Option<Outcome>) {
        match outcome {
            Some(Outcome::Succeeded) => self.succeeded = true,
            // A cancelled build, and one that could not be run to its end, say nothing of the project.
            Some(Outcome::Failed | Outcome::TimedOut) => self.failed = true,
            Some(Outcome::Errored | Outcome::Cancelled) | None => {}
        }
    }
}
