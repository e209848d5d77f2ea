//! `GET /job/P/ID` as a page: a build, queued, running or ended.

use askama::Template;
use jiff::Timestamp;

use super::super::error::ApiError;
use super::super::format;
use super::super::request::Request;
use super::super::response::Response;
use super::super::state::Web;
use super::attempts::Attempts;
use super::changes::{Changes, changes};
use super::commands::{self, Command, Server};
use super::excerpt;
use super::page::page;
use super::row::{Progress, expected, group_address, kind, word};
use super::timeline::{Segment, timeline};
use crate::budget::Held;
use crate::build::{Attempted, BuildInfo, Neighbour, Neighbours, lines};
use crate::job::{Outcome, Phase, State, Status};
use crate::project::ProjectName;
use crate::read_limiter::ReadPermit;
use crate::scheduler::Error;

/// Bytes of a param's value that the page shows: a lock file would be a page of its own.
const MAX_VALUE: usize = 4 << 10;
/// Longer values are collapsed.
const MAX_OPEN: usize = 120;
/// Bytes of all values that the page shows.
const MAX_VALUES: usize = 64 << 10;

/// Bytes that are held while the page is made: the end of the log, twice, and the shown values.
pub(in crate::web) const JOB_BYTES: u64 = 320 << 10;

#[derive(Template)]
#[template(path = "job.html")]
struct Job<'a> {
    info: &'a BuildInfo,
    word: &'static str,
    icon: &'static str,
    short: String,
    group: String,
    /// The list of the same project and group.
    group_href: String,
    older: Option<Other>,
    newer: Option<Other>,
    error: Option<String>,
    /// The end of the log, if the build did not succeed.
    excerpt: Option<excerpt::Shown>,
    cancelled: Option<(String, String)>,
    asked_by: Option<String>,
    times: Vec<(&'static str, String, String)>,
    took: String,
    /// How it began.
    kind: &'static str,
    base: Option<(String, String)>,
    timeline: Vec<Segment>,
    live: Option<Progress>,
    /// How many jobs wait in front of it; 0 also if it does not wait.
    ahead: usize,
    params: Vec<Param>,
    /// Remarks about a build that is over.
    warnings: Vec<String>,
    /// What it left; "" while that is unknown.
    artifacts: String,
    /// The differences from the last build that succeeded.
    changes: Option<Changes>,
    /// `None` over TLS.
    command: Option<Command>,
    is_pinned: bool,
    /// The other attempts at the job.
    attempts: Attempts,
    log: String,
    is_cut: bool,
    /// A reader of the log wants its end first.
    opens_at_end: bool,
    /// The byte of the log at which the container's output begins.
    runs_from: Option<u64>,
    /// The build is over, and its log was removed.
    is_log_gone: bool,
}

/// A build of the same group, before or after this one.
struct Other {
    /// Its page; that of the attempt, once it is over.
    href: String,
    short: String,
    /// Its number among the attempts at its job.
    number: u32,
    word: &'static str,
}

impl Other {
    fn of(project: &ProjectName, build: Neighbour) -> Other {
        let page = format!("/job/{project}/{}", build.id);
        Other {
            href: match build.status.state() {
                State::Pending => page,
                State::Ready => format!("{page}?attempt={}", build.number),
            },
            short: build.id.short(),
            number: build.number,
            word: build.status.as_str(),
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
    // Nothing large is kept while the next reads wait for their permits, nor is this permit: the attempts are
    // read in another one.
    let (params, command) = (params(&info), command(web, request, &info));
    info.params.clear();
    drop(permit);
    let around = Around::read(request, &info, log.is_empty()).await?;
    let told = Job::of(web, &info, log, around, (params, command));
    page(&request.budget, request.headers(), &told)
}

/// What is read for the page besides the record and the log.
struct Around {
    is_pinned: bool,
    attempts: Attempts,
    neighbours: Neighbours,
    changes: Option<Changes>,
    is_log_gone: bool,
}

impl Around {
    async fn read(
        request: &Request,
        info: &BuildInfo,
        is_log_empty: bool,
    ) -> Result<Around, ApiError> {
        let (project, id, reader) = (&info.project, info.id, &request.reader);
        let is_over = info.phase().is_none();
        let attempted = Attempted {
            id,
            number: info.number,
            started_at: info.started_at,
        };
        let (neighbours, found) = reader
            .surroundings(project, attempted, is_red(info))
            .await?;
        let green = neighbours.last_succeeded;
        let all = match info.numbers > 1 {
            true => reader.attempts(project, id).await?,
            false => Vec::new(),
        };
        Ok(Around {
            is_pinned: reader.is_pinned(project, id).await?,
            attempts: Attempts::of(info, &all),
            neighbours,
            changes: green
                .zip(found)
                .map(|(green, found)| changes(green, &found)),
            is_log_gone: is_log_empty
                && is_over
                && matches!(
                    reader.follow_attempt(project, id, info.number, 0).await,
                    Err(Error::NoLog(..))
                ),
        })
    }
}

impl<'a> Job<'a> {
    fn of(
        web: &Web,
        info: &'a BuildInfo,
        log: String,
        around: Around,
        (params, command): (Vec<Param>, Option<Command>),
    ) -> Job<'a> {
        let live = info
            .phase()
            .map(|_| Progress::of(info, expected(web, info)));
        let cancelled = info.cancelled.as_ref().map(|cancelled| {
            let [by, reason] = [&cancelled.by, &cancelled.reason].map(|text| format::visible(text));
            (by, reason)
        });
        // The sentence of a cancelled build says the same again.
        let error = info.error.as_deref().filter(|_| cancelled.is_none());
        let other = |build| Other::of(&info.project, build);
        let visible = |text: &String| format::visible(text);
        Job {
            word: word(info),
            icon: icon(info),
            short: info.id.short(),
            group: format::visible(info.group_name()),
            group_href: group_address(info),
            older: around.neighbours.older.map(other),
            newer: around.neighbours.newer.map(other),
            error: error.map(format::visible),
            excerpt: excerpt::shown(info, &log),
            cancelled,
            asked_by: info.asked_by.as_ref().map(visible),
            times: times(info),
            took: info.duration.map(format::span).unwrap_or_default(),
            kind: kind(info),
            base: info.base.map(|base| (base.to_string(), base.short())),
            timeline: timeline(info, Timestamp::now()),
            ahead: web.scheduler.ahead_of(info.id).unwrap_or(0),
            live,
            params,
            warnings: info.warnings.iter().map(visible).collect(),
            artifacts: info.artifacts.map(format::artifacts).unwrap_or_default(),
            changes: around.changes,
            command,
            is_pinned: around.is_pinned,
            attempts: around.attempts,
            is_cut: log.len() + 4 >= crate::build::LOG_TAIL,
            log: lines::readable(&log),
            is_log_gone: around.is_log_gone,
            opens_at_end: is_red(info),
            runs_from: info.log_runs_from,
            info,
        }
    }
}

/// It is over, and something went wrong.
fn is_red(info: &BuildInfo) -> bool {
    let outcome = info.outcome();
    outcome.is_some_and(|outcome| !matches!(outcome, Outcome::Succeeded | Outcome::Cancelled))
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
    // Until it has a slot, its start is the time of its acceptance.
    let is_queued = info.phase() == Some(Phase::Queued);
    let times = [
        ("Queued", info.queued_at),
        ("Started", (!is_queued).then_some(info.started_at)),
        ("Ended", info.finished_at),
    ];
    times
        .into_iter()
        .filter_map(|(label, time)| Some((label, format::stamp(time?), format::utc(time?))))
        .collect()
}

/// The command that builds the same job.
fn command(web: &Web, request: &Request, info: &BuildInfo) -> Option<Command> {
    let params = info.params.iter();
    Server::of(web, request).mistry(&commands::Job {
        project: &info.project,
        group: info.group_name(),
        params: params
            .map(|(name, value)| (&**name, value.as_deref()))
            .collect(),
    })
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
    fn is_behind(&self) -> bool {
        self.ahead > 0
    }

    /// The exit code, if it is significant.
    fn exit_code(&self) -> Option<i64> {
        self.info.outcome()?;
        self.info.exit_code
    }
}
