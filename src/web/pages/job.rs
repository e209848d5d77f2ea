//! `GET /job/P/ID` as a page: a build, queued, running or ended.

use askama::Template;
use jiff::Timestamp;

use super::super::error::ApiError;
use super::super::format;
use super::super::request::Request;
use super::super::response::Response;
use super::super::state::Web;
use super::page::page;
use super::row::{Progress, expected};
use super::timeline::{Segment, timeline};
use crate::budget::Held;
use crate::build::{BuildInfo, lines};
use crate::job::{Outcome, Status};
use crate::read_limiter::ReadPermit;
use crate::scheduler::Error;

/// Bytes of a param's value that the page shows: a lock file would be a page of its own.
const MAX_VALUE: usize = 4 << 10;
/// Longer values are collapsed.
const MAX_OPEN: usize = 120;
/// Bytes of all values that the page shows.
const MAX_VALUES: usize = 64 << 10;

/// Bytes that are held while the page is made: the ends of two logs of the build and of a failed rebuild, and
/// the shown values.
pub(in crate::web) const JOB_BYTES: u64 = 320 << 10;

#[derive(Template)]
#[template(path = "job.html")]
struct Job<'a> {
    info: &'a BuildInfo,
    word: &'static str,
    icon: &'static str,
    short: String,
    group: String,
    error: Option<String>,
    cancelled: Option<(String, String)>,
    asked_by: Option<String>,
    times: Vec<(&'static str, String, String)>,
    took: String,
    /// How it began.
    kind: &'static str,
    base: Option<(String, String)>,
    timeline: Vec<Segment>,
    live: Option<Progress>,
    params: Vec<Param>,
    is_pinned: bool,
    /// A failed rebuild, kept beside the build.
    rebuild: Option<Rebuild>,
    log: String,
    is_cut: bool,
    /// The build is over, and its log was removed.
    is_log_gone: bool,
}

struct Rebuild {
    ended: String,
    /// For `datetime`, and for browsers that run no scripts.
    at: (String, String),
    error: Option<String>,
    stderr: String,
}

impl Rebuild {
    fn of(info: &BuildInfo) -> Rebuild {
        let at = info.finished_at.unwrap_or(info.started_at);
        Rebuild {
            ended: match (info.outcome(), info.exit_code) {
                (Some(Outcome::Failed), Some(code)) => format!("failed with exit code {code}"),
                (Some(Outcome::Cancelled), _) => "was cancelled".to_owned(),
                (Some(Outcome::TimedOut), _) => "timed out".to_owned(),
                _ => "could not be run to its end".to_owned(),
            },
            at: (format::stamp(at), format::utc(at)),
            error: info.error.as_deref().map(format::visible),
            stderr: lines::readable(info.stderr.as_deref().unwrap_or_default()),
        }
    }
}

struct Param {
    name: String,
    value: Value,
}

enum Value {
    Secret,
    Short(String),
    /// The total size, and the shown part.
    Long(String, String, bool),
}

/// The page of a build and the end of its log, for which [`JOB_BYTES`] are held. `permit` is that of its record.
pub(in crate::web) async fn job(
    web: &Web,
    request: &Request,
    (mut info, log): (BuildInfo, String),
    _held: Held,
    permit: Option<ReadPermit>,
) -> Result<Response, ApiError> {
    // Nothing large is kept while the next reads wait for their permits, nor is this permit: the rebuild is
    // read in another one.
    let params = params(&info);
    info.params.clear();
    drop(permit);
    let (project, id, reader) = (&info.project, info.id, &request.reader);
    let is_pinned = reader.is_pinned(project, id).await?;
    let rebuild = reader.failed_rebuild(project, id).await?;
    let is_over = info.phase().is_none();
    let is_log_gone = log.is_empty()
        && is_over
        && matches!(reader.follow(project, id, 0).await, Err(Error::NoLog(..)));
    page(
        &request.budget,
        request.headers(),
        &Job {
            word: info.status.as_str(),
            icon: icon(&info),
            short: info.id.short(),
            group: format::visible(info.group_name()),
            error: info.error.as_deref().map(format::visible),
            cancelled: info.cancelled.as_ref().map(|cancelled| {
                (
                    format::visible(&cancelled.by),
                    format::visible(&cancelled.reason),
                )
            }),
            asked_by: info.asked_by.as_deref().map(format::visible),
            times: times(&info),
            took: info.duration.map(format::span).unwrap_or_default(),
            kind: match (info.incremental, info.phases.snapshot) {
                (true, _) => "incremental",
                (false, Some(_)) => "cold",
                (false, None) => "",
            },
            base: info.base.map(|base| (base.to_string(), base.short())),
            timeline: timeline(&info, Timestamp::now()),
            live: info
                .phase()
                .map(|_| Progress::of(&info, expected(web, &info))),
            params,
            is_pinned,
            rebuild: rebuild.filter(|_| is_over).as_ref().map(Rebuild::of),
            is_cut: log.len() + 4 >= crate::build::LOG_TAIL,
            log: lines::readable(&log),
            is_log_gone,
            info: &info,
        },
    )
}

fn icon(info: &BuildInfo) -> &'static str {
    match info.status {
        Status::Pending(_) => "running",
        Status::Ready(Outcome::Succeeded) => "good",
        Status::Ready(Outcome::Cancelled) => "idle",
        Status::Ready(_) => "bad",
    }
}

/// The times of a build: a label, and the time for `datetime` and for users.
fn times(info: &BuildInfo) -> Vec<(&'static str, String, String)> {
    let times = [
        ("Asked for", info.queued_at),
        ("Started", Some(info.started_at)),
        ("Ended", info.finished_at),
    ];
    times
        .into_iter()
        .filter_map(|(label, time)| Some((label, format::stamp(time?), format::utc(time?))))
        .collect()
}

fn params(info: &BuildInfo) -> Vec<Param> {
    let mut bytes_left = MAX_VALUES;
    let shown = |(name, value): (&String, &Option<std::sync::Arc<str>>)| {
        let value = match value {
            None => Value::Secret,
            Some(value) if value.len() <= MAX_OPEN && !value.contains('\n') => {
                Value::Short(format::visible(value))
            }
            Some(value) => {
                let most = MAX_VALUE.min(bytes_left);
                let cut = (0..=most.min(value.len())).rev();
                let cut = cut.into_iter().find(|at| value.is_char_boundary(*at));
                let shown = &value[..cut.unwrap_or(0)];
                bytes_left -= shown.len().min(bytes_left);
                let size = format::bytes(value.len() as u64);
                Value::Long(size, lines::readable(shown), shown.len() < value.len())
            }
        };
        Param {
            name: name.clone(),
            value,
        }
    };
    info.params.iter().map(shown).collect()
}

impl Job<'_> {
    /// The exit code, if it is significant.
    fn exit_code(&self) -> Option<i64> {
        self.info.outcome()?;
        self.info.exit_code
    }
}
