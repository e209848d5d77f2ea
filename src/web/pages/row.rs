//! A build as one line of a table: in lists, on a project's page, and in the stream of events.

use std::time::Duration;

use askama::Template;
use jiff::Timestamp;

use super::super::error::ApiError;
use super::super::format;
use super::super::state::Web;
use crate::build::BuildInfo;
use crate::job::{JobId, Phase};
use crate::project::ProjectName;

/// Characters of a build's params in a row.
const MAX_SUMMARY: usize = 90;

/// The row.
#[derive(Debug, Template)]
#[template(path = "row.html")]
struct Row {
    project: ProjectName,
    id: JobId,
    short: String,
    /// Its number among the attempts at its job.
    number: u32,
    is_flaky: bool,
    /// Phase or outcome, in a word that is also its class.
    word: &'static str,
    group: String,
    /// The list of the same project and group.
    group_href: String,
    /// The params, as far as they fit.
    summary: String,
    /// The client that asked for it first.
    who: String,
    /// How it began, and how many further requests joined it.
    kind: String,
    joined: u32,
    /// For `datetime`, and for browsers that run no scripts.
    started: (String, String),
    took: String,
    /// Present while it is active.
    live: Option<Progress>,
}

/// The progress of a build.
#[derive(Debug)]
pub(super) struct Progress {
    /// The start time, for `data-since`.
    pub(super) since: String,
    /// The time so far, in milliseconds.
    pub(super) elapsed: u64,
    /// The time of similar builds, in milliseconds.
    pub(super) expected: Option<u64>,
    /// Said before the times: what the time is spent with.
    pub(super) prefix: &'static str,
    pub(super) said: String,
}

/// The state of a build in a word that is also a class.
pub(super) fn word(info: &BuildInfo) -> &'static str {
    match info.is_stopping() {
        true => "stopping",
        false => info.status.as_str(),
    }
}

/// How a build began; "" while that is unknown.
pub(super) fn kind(info: &BuildInfo) -> &'static str {
    match (info.incremental, info.phases.snapshot) {
        (true, _) => "incremental",
        (false, Some(_)) => "cold",
        (false, None) => "",
    }
}

/// The address of the list of builds of the same project and group.
pub(super) fn group_address(info: &BuildInfo) -> String {
    let query = form_urlencoded::Serializer::new(String::new())
        .append_pair("project", info.project.as_str())
        .append_pair("group", info.group_name())
        .finish();
    format!("/?{query}")
}

impl Row {
    fn has_joined(&self) -> bool {
        self.joined > 0
    }

    /// The row of a build that may take `expected`.
    fn of(info: &BuildInfo, expected: Option<Duration>) -> Row {
        Row {
            project: info.project.clone(),
            id: info.id,
            short: info.id.short(),
            number: info.number,
            is_flaky: info.flaky,
            word: word(info),
            group: format::visible(info.group_name()),
            group_href: group_address(info),
            summary: summary(info),
            joined: info.joined,
            who: format::visible(info.asked_by.as_deref().unwrap_or_default()),
            kind: match (kind(info), info.joined) {
                (kind, 0) => kind.to_owned(),
                (kind, joined) => format!("{kind} +{joined}"),
            },
            started: (format::stamp(info.started_at), format::utc(info.started_at)),
            took: info.duration.map(format::span).unwrap_or_default(),
            live: info.phase().map(|_| Progress::of(info, expected)),
        }
    }
}

impl Progress {
    pub(super) fn of(info: &BuildInfo, expected: Option<Duration>) -> Progress {
        let elapsed = Timestamp::now().duration_since(info.started_at);
        let elapsed = Duration::try_from(elapsed).unwrap_or_default();
        let prefix = match info.phase() {
            Some(Phase::Queued) => "waiting ",
            _ => "",
        };
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        Progress {
            since: format::stamp(info.started_at),
            elapsed: millis(elapsed),
            expected: expected.map(millis),
            prefix,
            said: match expected {
                Some(expected) => format!(
                    "{prefix}{} of about {}",
                    format::span(elapsed),
                    format::span(expected)
                ),
                None => format!("{prefix}{}", format::span(elapsed)),
            },
        }
    }
}

/// The row of a build in its current state, as HTML.
pub(in crate::web) fn row_of(web: &Web, info: &BuildInfo) -> Result<String, ApiError> {
    Row::of(info, expected(web, info))
        .render()
        .map_err(|error| ApiError::with_cause("the server could not write the page", error))
}

/// How long an active build may take; `None` if it is unknown, or the build is over.
pub(super) fn expected(web: &Web, info: &BuildInfo) -> Option<Duration> {
    // The time in the queue says nothing about the time of the build.
    info.phase().filter(|phase| *phase != Phase::Queued)?;
    // It is unknown whether it has a base before its directory is made.
    let is_incremental =
        info.incremental || (info.phases.snapshot.is_none() && !info.group_name().is_empty());
    let scheduler = &web.scheduler;
    let like_it = scheduler.expected(&info.project, is_incremental);
    like_it.or_else(|| scheduler.expected(&info.project, !is_incremental))
}

fn summary(info: &BuildInfo) -> String {
    let mut summary = String::new();
    // Secrets tell builds apart the least.
    let is_shown = |(_, value): &(&String, &Option<_>)| value.is_some();
    let secrets = info.params.iter().filter(|param| !is_shown(param));
    for (name, value) in info.params.iter().filter(is_shown).chain(secrets) {
        if summary.len() > MAX_SUMMARY {
            break;
        }
        let value = value.as_deref().unwrap_or("(secret)");
        let value: String = value.chars().take(MAX_SUMMARY).collect();
        summary.push_str(&format!("{name}={} ", format::visible(&value)));
    }
    format::cut(summary.trim_end(), MAX_SUMMARY)
}
