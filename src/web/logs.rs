//! Logs: as events, line by line; as text, byte by byte; an index of their lines; a search in them.

use futures_util::{Stream, stream};
use hyper::StatusCode;
use hyper::header::{CACHE_CONTROL, ETAG, HeaderName, HeaderValue};
use tokio_util::sync::CancellationToken;

use super::conditions::{self, Verdict};
use super::error::{self, ApiError};
use super::events::{self, ClientGone, Events, Lines, LinesSent};
use super::paced;
use super::ranges::{self, Part, part};
use super::request::Request;
use super::response::{self, Response};
use super::state::Web;
use crate::api::{LogEnd, LogLines, LogMatch, LogMatches, LogTimes, NO_EXIT_CODE};
use crate::budget::Held;
use crate::build::LogFollower;
use crate::build::lines::{self, NeedleError};
use crate::job::{JobId, State};
use crate::project::ProjectName;
use crate::scheduler::{self, JobHandle, Reader};

/// Bytes of a log that are sent at once.
const CHUNK: usize = 16 << 10;
/// Bytes that are sent at once of a followed log: there may be many followers, and most of them wait.
const FOLLOWED_CHUNK: usize = 4 << 10;
/// Additional bytes for a follower.
const FOLLOWER_BYTES: u64 = 1 << 10;

/// The identity of the log of a response or a request. An `ETag` identifies the content of a response, so it
/// changes while a log grows; this does not.
const LOG: HeaderName = HeaderName::from_static("mistry-log");

/// `GET /log/P/ID`: events, or text if `Accept: text/plain` or `?text` requests it; with `?lines`, `?times`
/// and `?find=TEXT`, information about its lines.
pub(super) async fn get(web: &Web, request: Request) -> Result<Response, ApiError> {
    let (project, id) = request.job()?;
    if request.flag("lines")? {
        return index(&request, &project, id).await;
    }
    if request.flag("times")? {
        return times(&request, &project, id).await;
    }
    if let Some(text) = request.query.get("find") {
        return find(&request, &project, id, text).await;
    }
    if request.flag("text")?
        || response::prefers(request.headers(), "text/plain", "text/event-stream")
    {
        return plain(web, &request, project, id).await;
    }
    stream(web, &request, project, id).await
}

/// The index of the log's lines.
async fn index(request: &Request, project: &ProjectName, id: JobId) -> Result<Response, ApiError> {
    let (log, tag) = expected_log(request, project, id).await?;
    let lines = LogLines::from(request.reader.log_index(log).await?);
    let mut response = response::json(&request.budget, StatusCode::OK, &lines)?;
    response::set(&mut response, LOG, &tag);
    Ok(response)
}

/// When the log was written.
async fn times(request: &Request, project: &ProjectName, id: JobId) -> Result<Response, ApiError> {
    // A build that is over moves once, between the opening of its log and of the times.
    for _ in 0..2 {
        let (log, tag) = expected_log(request, project, id).await?;
        let length = log.length();
        let Some(times) = request.reader.log_times(log).await? else {
            continue;
        };
        let times = LogTimes {
            length,
            offsets: times.iter().map(|time| time.offset).collect(),
            times: times.iter().map(|time| time.milliseconds).collect(),
        };
        let mut response = response::json(&request.budget, StatusCode::OK, &times)?;
        response::set(&mut response, LOG, &tag);
        return Ok(response);
    }
    Err(scheduler::Error::NoLog(project.clone(), id).into())
}

/// The lines that contain a text.
async fn find(
    request: &Request,
    project: &ProjectName,
    id: JobId,
    text: &str,
) -> Result<Response, ApiError> {
    let needle = text
        .parse()
        .map_err(|error: NeedleError| ApiError::bad_request(format!("find: {error}")))?;
    let (log, tag) = expected_log(request, project, id).await?;
    let found = request.reader.log_find(log, needle).await?;
    let mut response = response::json(&request.budget, StatusCode::OK, &LogMatches::from(found))?;
    response::set(&mut response, LOG, &tag);
    Ok(response)
}

/// The log as events, followed to the end of the build.
async fn stream(
    web: &Web,
    request: &Request,
    project: ProjectName,
    id: JobId,
) -> Result<Response, ApiError> {
    let from = match request.headers().get("last-event-id") {
        None => 0,
        Some(value) => value
            .to_str()
            .ok()
            .and_then(|value| value.parse().ok())
            .ok_or_else(|| ApiError::bad_request("Last-Event-ID: expected a byte offset"))?,
    };
    let held = request.budget.hold(events::STREAM_BYTES)?;
    let number = request.attempt()?;
    let log = open(request, &project, id, from).await?;
    if from > 0 && from >= log.length() && active(web, &project, id, number).await.is_none() {
        return Ok(response::no_content());
    }
    let (web, reader) = (web.clone(), request.reader.under_way());
    Ok(events::stream(&request.budget, held, |events| async move {
        send_log(&web, &reader, events, log, from, (&project, id, number)).await
    }))
}

/// The log of a build, or of the attempt at its job that the request names, from byte `from` on.
async fn open(
    request: &Request,
    project: &ProjectName,
    id: JobId,
    from: u64,
) -> Result<LogFollower, ApiError> {
    let reader = &request.reader;
    Ok(match request.attempt()? {
        None => reader.follow(project, id, from).await?,
        Some(number) => reader.follow_attempt(project, id, number, from).await?,
    })
}

/// The active build of a job, if it is the attempt with this number, or none is named.
async fn active(
    web: &Web,
    project: &ProjectName,
    id: JobId,
    number: Option<u32>,
) -> Option<JobHandle> {
    let handle = web.scheduler.handle(project, id).await?;
    let now = handle.now().map(|info| info.number);
    let is_it = number.is_none_or(|number| now.is_none_or(|now| now == number));
    is_it.then_some(handle)
}

/// The log and its identity, if it is the one that the request's `Mistry-Log` names, or none is named. A job that is submitted again has
/// another log at the same address: without this check, a client would mix both.
async fn expected_log(
    request: &Request,
    project: &ProjectName,
    id: JobId,
) -> Result<(LogFollower, String), ApiError> {
    let log = open(request, project, id, 0).await?;
    let tag = log.tag().to_owned();
    match request.headers().get(LOG) {
        Some(meant) if *meant != *tag => Err(ApiError::new(
            StatusCode::PRECONDITION_FAILED,
            "this is another log, because the job was built again: read it from its beginning",
        )),
        _ => Ok((log, tag)),
    }
}

/// Sends the log as it grows, and then how the build ended.
async fn send_log(
    web: &Web,
    reader: &Reader,
    events: Events,
    mut log: LogFollower,
    from: u64,
    (project, id, number): (&ProjectName, JobId, Option<u32>),
) -> Result<(), ClientGone> {
    let mut lines = Lines::new(project, id, from);
    loop {
        let grown = tokio::select! {
            grown = log.grown() => grown,
            // The client reconnects with the id of its last event.
            () = web.stop.cancelled() => return Ok(()),
        };
        if grown == 0 {
            break;
        }
        match lines.send(&mut log, &events).await? {
            LinesSent::Part => {}
            LinesSent::Nothing => break,
            LinesSent::Unreadable => return Ok(()),
        }
    }
    lines.finish(&events).await?;
    // The log ends shortly before the build does.
    let mut end = None;
    if let Some(mut handle) = active(web, project, id, number).await {
        let Ok(answer) = handle.end().await else {
            return Ok(());
        };
        // The build that is in place is looked up where another one may be, unless this one is named.
        let is_looked_up = handle.ignores_cache() && number.is_none();
        end = (!is_looked_up).then(|| answer.info().log_end());
    }
    if let Some(end) = end {
        return events.json("end", &end).await;
    }
    let found = match number {
        None => reader.find(project, id).await,
        Some(number) => reader.find_attempt(project, id, number).await,
    };
    let end = match found {
        Ok(info) => info.log_end(),
        Err(_) => LogEnd {
            state: State::Pending,
            outcome: None,
            exit_code: NO_EXIT_CODE,
        },
    };
    events.json("end", &end).await
}

/// The log byte for byte: its current content, a part of it, or followed while it grows.
async fn plain(
    web: &Web,
    request: &Request,
    project: ProjectName,
    id: JobId,
) -> Result<Response, ApiError> {
    let is_followed = request.flag("follow")?;
    let from = match request.query.get("from") {
        None => 0,
        Some(from) if is_followed => from
            .parse()
            .map_err(|_| ApiError::bad_request("from: expected a byte offset"))?,
        Some(_) => return Err(ApiError::bad_request("from: expected only with follow")),
    };
    let chunk = if is_followed { FOLLOWED_CHUNK } else { CHUNK };
    let held = request.budget.hold(2 * chunk as u64 + FOLLOWER_BYTES)?;
    let (log, tag) = expected_log(request, &project, id).await?;
    let mut response = if is_followed {
        // Its length is not known, so no range of it can be named.
        let log = log.skip_to(from);
        let bytes = bytes_of(log, u64::MAX, chunk, web.stop.clone());
        let bytes = error::log_unsent_bytes(bytes, "a log", &project, id);
        text(StatusCode::OK, bytes, held)
    } else {
        now(web, request, (&project, id), log, held)?
    };
    response::set(&mut response, LOG, &tag);
    let headers = response.headers_mut();
    let caching = if is_followed {
        HeaderValue::from_static("no-store")
    } else {
        response::PRIVATE
    };
    headers.insert(CACHE_CONTROL, caching);
    Ok(response)
}

/// The current content of a log, or a part of it. A log only grows, so its identity and length identify its
/// content.
fn now(
    web: &Web,
    request: &Request,
    (project, id): (&ProjectName, JobId),
    log: LogFollower,
    held: Held,
) -> Result<Response, ApiError> {
    let length = log.length();
    let etag = format!("\"{}-{length:x}\"", log.tag());
    let headers = request.headers();
    match conditions::evaluate(headers, &etag) {
        Verdict::Proceed => {}
        Verdict::NotModified => return Ok(response::not_modified(&etag)),
        Verdict::Failed => return Err(ApiError::precondition_failed()),
    }
    let (status, first, count) = match part(request.method(), headers, &etag, length) {
        Part::Whole => (StatusCode::OK, 0, length),
        Part::Of(first, last) => (StatusCode::PARTIAL_CONTENT, first, last - first + 1),
        Part::Beyond => return Ok(ranges::beyond(length)),
    };
    let bytes = bytes_of(log.skip_to(first), count, CHUNK, web.stop.clone());
    let bytes = error::log_unsent_bytes(bytes, "a log", project, id);
    let mut response = text(status, bytes, held);
    ranges::describe(&mut response, first, count, length);
    response::set(&mut response, ETAG, &etag);
    Ok(response)
}

fn text(
    status: StatusCode,
    bytes: impl Stream<Item = std::io::Result<bytes::Bytes>> + Send + 'static,
    held: Held,
) -> Response {
    let body = paced::body(bytes, held);
    response::typed(status, "text/plain; charset=utf-8", body)
}

/// At most `count` bytes, until the log ends or the daemon stops.
fn bytes_of(
    log: LogFollower,
    count: u64,
    chunk: usize,
    stop: CancellationToken,
) -> impl Stream<Item = std::io::Result<bytes::Bytes>> + Send + 'static {
    stream::try_unfold(
        (log, count, stop),
        move |(mut log, left, stop)| async move {
            if left == 0 {
                return Ok(None);
            }
            let chunk = tokio::select! {
                chunk = log.next(chunk) => chunk?,
                () = stop.cancelled() => None,
            };
            Ok(chunk.map(|mut chunk| {
                chunk.truncate(usize::try_from(left).unwrap_or(usize::MAX));
                let left = left - chunk.len() as u64;
                (chunk, (log, left, stop))
            }))
        },
    )
}

impl From<lines::Index> for LogLines {
    fn from(index: lines::Index) -> LogLines {
        LogLines {
            length: index.length,
            lines: index.lines,
            offsets: index.offsets,
            firsts: index.firsts,
            colours: index.colours,
        }
    }
}

impl From<lines::Found> for LogMatches {
    fn from(found: lines::Found) -> LogMatches {
        let to_match = |found: lines::Match| LogMatch {
            line: found.line,
            offset: found.offset,
        };
        LogMatches {
            length: found.length,
            count: found.count,
            matches: found.matches.into_iter().map(to_match).collect(),
        }
    }
}
