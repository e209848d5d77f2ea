//! The attempts at a build's job, on its page: attempt n of m, with links to the others.

use askama::Template;

use super::super::format;
use crate::build::{Attempt, BuildInfo};
use crate::job::{JobId, Outcome, State};
use crate::project::ProjectName;

/// Attempts that a page links to: a line or two.
const MAX_SHOWN: usize = 12;

/// What the page of a build shows of the other attempts at its job.
#[derive(Debug, Template)]
#[template(path = "attempts.html")]
pub(super) struct Attempts {
    project: ProjectName,
    id: JobId,
    number: u32,
    numbers: u32,
    is_flaky: bool,
    /// Newest first.
    shown: Vec<Shown>,
    /// Attempts that are there besides these.
    more: usize,
    /// The latest rebuild, if it failed beside the build of the page.
    failed: Option<FailedRebuild>,
    /// The page is about an attempt of which only the record and the log are kept.
    pub(super) is_kept: bool,
}

#[derive(Debug)]
struct Shown {
    number: u32,
    /// Its outcome, or `active`.
    word: &'static str,
    started: String,
}

#[derive(Debug)]
struct FailedRebuild {
    number: u32,
    ended: String,
    /// For `datetime`, and for browsers that run no scripts.
    at: (String, String),
}

impl Attempts {
    /// The attempts `all` at the job of `info`, newest first.
    pub(super) fn of(info: &BuildInfo, all: &[Attempt]) -> Attempts {
        let this = all.iter().find(|attempt| attempt.number == info.number);
        let is_served = this.is_some_and(|attempt| attempt.is_served);
        let latest = all.iter().find(|attempt| attempt.state == State::Ready);
        let failed = latest.filter(|latest| is_served && latest.number > info.number);
        let shown = all.iter().take(MAX_SHOWN).map(|attempt| Shown {
            number: attempt.number,
            word: attempt.outcome.map_or("active", Outcome::as_str),
            started: format::utc(attempt.started_at),
        });
        Attempts {
            project: info.project.clone(),
            id: info.id,
            number: info.number,
            numbers: info.numbers,
            is_flaky: info.flaky,
            shown: shown.collect(),
            more: all.len().saturating_sub(MAX_SHOWN),
            failed: failed.map(FailedRebuild::of),
            is_kept: this
                .is_some_and(|attempt| attempt.state == State::Ready && !attempt.is_served),
        }
    }
}

impl FailedRebuild {
    fn of(attempt: &Attempt) -> FailedRebuild {
        let at = attempt.finished_at.unwrap_or(attempt.started_at);
        FailedRebuild {
            number: attempt.number,
            ended: match (attempt.outcome, attempt.exit_code) {
                (Some(Outcome::Failed), Some(code)) => format!("failed with exit code {code}"),
                (Some(Outcome::Cancelled), _) => "was cancelled".to_owned(),
                (Some(Outcome::TimedOut), _) => "timed out".to_owned(),
                _ => "could not be run to its end".to_owned(),
            },
            at: (format::stamp(at), format::utc(at)),
        }
    }
}
