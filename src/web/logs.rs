//! Logs: as events, line by line; as text, byte by byte; where lines begin, and which hold a text.

use futures_util::stream;
use hyper::header::{
    ACCEPT_RANGES, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_RANGE, ETAG, HeaderValue, IF_MATCH,
};
use hyper::{Response, StatusCode};
use tokio_util::sync::CancellationToken;

use super::Web;
use super::answer::{self, Body};
use super::error::Refusal;
use super::events::{self, Events, Gone, Lines};
use super::ranges::{self, Part, part};
use super::routes::Asked;
use crate::api::{LogEnd, LogLines, LogMatches};
use crate::build::lines::NeedleError;
use crate::build::{LogFollower, State};
use crate::job::JobId;
use crate::project::ProjectName;
use crate::scheduler::Error;

/// `GET /log/P/ID`: events, or text where `Accept: text/plain` or `?text` asks for it; with
/// `?lines` and `?find=TEXT`, what is to be known of its lines.
pub(super) async fn show(
    web: &Web,
    asked: &Asked,
    project: ProjectName,
    id: JobId,
) -> Result<Response<Body>, Refusal> {
    if asked.query("lines").is_some() {
        let (log, tag) = named(web, asked, &project, id).await?;
        let lines = LogLines::from(web.scheduler.log_index(log).await?);
        let mut response = answer::json(StatusCode::OK, &lines)?;
        answer::set(&mut response, ETAG, &tag);
        return Ok(response);
    }
    if let Some(text) = asked.query("find") {
        let needle = text
            .parse()
            .map_err(|error: NeedleError| Refusal::bad_request(format!("find: {error}")))?;
        let (log, tag) = named(web, asked, &project, id).await?;
        let found = web.scheduler.log_find(log, needle).await?;
        let mut response = answer::json(StatusCode::OK, &LogMatches::from(found))?;
        answer::set(&mut response, ETAG, &tag);
        return Ok(response);
    }
    if answer::accepts(asked.headers(), "text/plain") || asked.query("text").is_some() {
        return plain(web, asked, project, id).await;
    }
    let from = match asked.headers().get("last-event-id") {
        None => 0,
        Some(value) => value
            .to_str()
            .ok()
            .and_then(|value| value.parse().ok())
            .ok_or_else(|| Refusal::bad_request("Last-Event-ID: expected a byte offset"))?,
    };
    let log = web.scheduler.follow(&project, id, from).await?;
    if from > 0 && from >= log.length() && web.scheduler.ticket(&project, id).await.is_none() {
        return Ok(answer::no_content());
    }
    let web = web.clone();
    Ok(events::stream(|events| async move {
        tell(&web, events, log, from, &project, id).await
    }))
}

/// The log and its tag, where it is the one that `If-Match` names. A job that is asked for again has
/// another log at the same address: without this, a client would mix both.
async fn named(
    web: &Web,
    asked: &Asked,
    project: &ProjectName,
    id: JobId,
) -> Result<(LogFollower, String), Refusal> {
    let log = web.scheduler.follow(project, id, 0).await?;
    let tag = format!("\"{}\"", log.tag());
    let is_it = match asked.headers().get(IF_MATCH) {
        None => true,
        Some(tags) => tags
            .to_str()
            .is_ok_and(|tags| tags.split(',').any(|one| ["*", &tag].contains(&one.trim()))),
    };
    if is_it {
        Ok((log, tag))
    } else {
        Err(Refusal::new(
            StatusCode::PRECONDITION_FAILED,
            "this is another log: the job was asked for again",
        ))
    }
}

async fn tell(
    web: &Web,
    events: Events,
    mut log: LogFollower,
    from: u64,
    project: &ProjectName,
    id: JobId,
) -> Result<(), Gone> {
    let mut lines = Lines::new(from);
    loop {
        let chunk = tokio::select! {
            chunk = log.next() => chunk,
            // The client comes back with the id of its last event.
            () = web.stop.cancelled() => return Ok(()),
        };
        match chunk {
            Ok(Some(chunk)) => events.lines(lines.push(&chunk)).await?,
            Ok(None) => break,
            Err(_) => return Ok(()),
        }
    }
    events.lines(lines.finish()).await?;
    // The log ends a moment before the build does.
    if let Some(mut ticket) = web.scheduler.ticket(project, id).await
        && ticket.end().await.is_err()
    {
        return Ok(());
    }
    let end = match web.scheduler.find(project, id, false).await {
        Ok(info) => LogEnd {
            state: info.state,
            outcome: info.outcome,
            exit_code: info.exit_code,
        },
        Err(_) => LogEnd {
            state: State::Pending,
            outcome: None,
            exit_code: crate::build::NO_EXIT_CODE,
        },
    };
    events.json("end", &end).await
}

/// The log byte for byte: as it is now, a part of it, or on while it grows.
async fn plain(
    web: &Web,
    asked: &Asked,
    project: ProjectName,
    id: JobId,
) -> Result<Response<Body>, Refusal> {
    let is_followed = asked.query("follow").is_some();
    let (log, tag) = named(web, asked, &project, id).await?;
    let length = log.length();
    let (status, first, last) = match part(asked.headers(), length) {
        Part::Whole => (StatusCode::OK, 0, length.checked_sub(1)),
        Part::Of(first, last) => (StatusCode::PARTIAL_CONTENT, first, Some(last)),
        // What is not there yet may come.
        Part::Beyond if is_followed => (StatusCode::OK, length, None),
        Part::Beyond => {
            return Ok(ranges::beyond(length));
        }
    };
    let log = log.skip_to(first).await.map_err(Error::Log)?;
    let media = "text/plain; charset=utf-8";
    if is_followed {
        let body = answer::streamed(bytes_of(log, u64::MAX, web.stop.clone()));
        let mut response = answer::typed(StatusCode::OK, media, body);
        answer::set(&mut response, ETAG, &tag);
        let headers = response.headers_mut();
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        return Ok(response);
    }
    let count = last.map_or(0, |last| last + 1 - first);
    let body = answer::streamed(bytes_of(log, count, web.stop.clone()));
    let mut response = answer::typed(status, media, body);
    answer::set(&mut response, ETAG, &tag);
    let headers = response.headers_mut();
    headers.insert(CONTENT_LENGTH, count.into());
    headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    if let (StatusCode::PARTIAL_CONTENT, Some(last)) = (status, last) {
        let range = format!("bytes {first}-{last}/{length}");
        answer::set(&mut response, CONTENT_RANGE, &range);
    }
    Ok(response)
}

/// At most `count` bytes, until the log ends or the daemon does.
fn bytes_of(
    log: LogFollower,
    count: u64,
    stop: CancellationToken,
) -> impl futures_util::Stream<Item = std::io::Result<bytes::Bytes>> + Send + 'static {
    stream::try_unfold((log, count, stop), |(mut log, left, stop)| async move {
        if left == 0 {
            return Ok(None);
        }
        let chunk = tokio::select! {
            chunk = log.next() => chunk?,
            () = stop.cancelled() => None,
        };
        Ok(chunk.map(|mut chunk| {
            chunk.truncate(usize::try_from(left).unwrap_or(usize::MAX));
            let left = left - chunk.len() as u64;
            (chunk, (log, left, stop))
        }))
    })
}
