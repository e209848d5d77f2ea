//! Jobs: asked for, waited for, listed, shown.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::HeaderMap;
use hyper::body::{Body as _, Incoming};
use hyper::header::{CONTENT_LENGTH, CONTENT_TYPE, LINK, LOCATION};
use hyper::{Response, StatusCode};
use serde_json::value::RawValue;
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;

use super::access::Caller;
use super::answer::{self, Body};
use super::error::Refusal;
use super::events::{self, Events, Gone, Lines};
use super::routes::Asked;
use super::{Web, filter, pages};
use crate::api::{CancelRequest, IndexItem, JobRequest, JobState, JobView, MAX_REASON};
use crate::build::{BuildInfo, Cancelled, Listing, LogFollower, Outcome, State};
use crate::job::JobId;
use crate::project::ProjectName;
use crate::scheduler::{self, Submission, Ticket};

/// Lock files are a few megabytes at most; a job is no way to send archives.
const MAX_BODY: usize = 16 << 20;
/// Most requests are smaller than this, and always welcome.
pub(super) const SMALL_BODY: usize = 64 << 10;
/// A whole request must be here by then: 16 MiB at a slow line's 300 kB/s.
const BODY_PATIENCE: Duration = Duration::from_secs(60);
/// A list without `limit`, and its largest.
const PAGE: usize = 1_000;

/// `POST /jobs`.
pub(super) async fn create(web: &Web, asked: Asked) -> Result<Response<Body>, Refusal> {
    let is_async = asked.flag("async")?;
    let request_id = asked.id.clone();
    let wants_log = wants_log(&asked)?;
    let wants_events = answer::accepts(asked.headers(), "text/event-stream");
    let half_closed = asked.half_closed();
    let body = {
        let _room = room_for(web, asked.headers())?;
        read(asked.request.into_body(), MAX_BODY).await?
    };
    let request = JobRequest::read(&body)
        .map_err(|error| Refusal::bad_request(format!("the request cannot be read: {error}")))?;
    let (rebuild, while_held) = (request.rebuild, request.cancel_on_disconnect);
    if while_held && is_async {
        return Err(Refusal::bad_request(
            "cancel_on_disconnect: expected of a request that waits, not with ?async",
        ));
    }
    let named = request.names()?;
    let submission = web
        .scheduler
        .submit(scheduler::Asked {
            project: named.project,
            group: named.group,
            params: named.params,
            rebuild,
            while_held,
            asker: Some(asked.caller.name),
            request: Some(request_id),
        })
        .await?;
    match submission {
        Submission::Cached(info) if is_async => accepted(&JobState::of(info.info())),
        Submission::Cached(info) if wants_events => Ok(events::stream(|events| async move {
            events.json("state", &JobState::of(info.info())).await?;
            events.json("result", info.info()).await
        })),
        Submission::Cached(info) if wants_log => {
            let json = info.json().map_err(answer::unwritable)?;
            let body = answer::full(json);
            Ok(answer::typed(StatusCode::CREATED, "application/json", body))
        }
        Submission::Cached(info) => built(info.info().clone(), false),
        Submission::Pending(mut ticket) => {
            let info = ticket.accepted().await?;
            if is_async {
                accepted(&JobState::of(&info))
            } else if wants_events {
                let log = web
                    .scheduler
                    .follow(ticket.project(), ticket.id(), 0)
                    .await?;
                Ok(events::stream(|events| {
                    tell(events, ticket, log, half_closed)
                }))
            } else {
                let info = end_of(ticket, half_closed).await?;
                built(Arc::unwrap_or_clone(info), wants_log)
            }
        }
    }
}

/// Waits for the end of a build. A client that sends no more is answered, but does not keep the build
/// from being cancelled.
async fn end_of(
    mut ticket: Ticket,
    half_closed: CancellationToken,
) -> Result<Arc<BuildInfo>, scheduler::Error> {
    tokio::select! {
        ended = ticket.end() => return ended,
        () = half_closed.cancelled() => {}
    }
    ticket.let_go();
    ticket.end().await
}

/// Room for a large body, held while it is read; small ones need none.
fn room_for(web: &Web, headers: &HeaderMap) -> Result<Option<OwnedSemaphorePermit>, Refusal> {
    let length = headers
        .get(CONTENT_LENGTH)
        .and_then(|length| length.to_str().ok()?.parse().ok())
        .unwrap_or(MAX_BODY)
        .min(MAX_BODY);
    if length <= SMALL_BODY {
        return Ok(None);
    }
    let kilobytes = u32::try_from(length.div_ceil(1 << 10)).unwrap_or(u32::MAX);
    let room = web.bodies.clone().try_acquire_many_owned(kilobytes);
    room.map(Some)
        .map_err(|_| Refusal::busy("too many large requests at once; try again later"))
}

/// A body of so many bytes at most, whole, and not for ever. One that says that it is larger is not
/// read at all, so that a client that waits for `100 Continue` does not send it.
pub(super) async fn read(body: Incoming, most: usize) -> Result<Bytes, Refusal> {
    let too_large = || {
        Refusal::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            format!("the request is too large: expected at most {most} bytes"),
        )
    };
    if body.size_hint().lower() > most as u64 {
        return Err(too_large());
    }
    let collected = tokio::time::timeout(BODY_PATIENCE, Limited::new(body, most).collect());
    match collected.await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_large()),
        Ok(Err(_)) => Err(Refusal::bad_request("the request did not come whole")),
        Err(_) => Err(Refusal::new(
            StatusCode::REQUEST_TIMEOUT,
            "the request did not come within a minute",
        )),
    }
}

/// A build that is over; one that could not be run to its end is an error of ours.
fn built(mut info: BuildInfo, wants_log: bool) -> Result<Response<Body>, Refusal> {
    if info.outcome == Some(Outcome::Errored) {
        return Err(Refusal::errored(&info));
    }
    if !wants_log {
        info.container_stdouterr = None;
        info.container_stderr = None;
    }
    answer::json(StatusCode::CREATED, &info)
}

fn accepted(state: &JobState) -> Result<Response<Body>, Refusal> {
    let mut response = answer::json(StatusCode::CREATED, state)?;
    if let Ok(location) = format!("/{}", state.url).parse() {
        response.headers_mut().insert(LOCATION, location);
    }
    Ok(response)
}

/// State, log and result as they come. When the daemon ends first, the stream just ends: the
/// client has the id and comes back.
async fn tell(
    events: Events,
    mut ticket: Ticket,
    mut log: LogFollower,
    half_closed: CancellationToken,
) -> Result<(), Gone> {
    let mut is_held = true;
    let mut lines = Lines::new(0);
    let mut told = None;
    let mut following = true;
    loop {
        if let Some(info) = ticket.now()
            && told != Some((info.state, info.phase))
            && (info.state == State::Pending || !following)
        {
            told = Some((info.state, info.phase));
            events.json("state", &JobState::of(&info)).await?;
        }
        if !following {
            break;
        }
        tokio::select! {
            chunk = log.next() => match chunk {
                Ok(Some(chunk)) => events.lines(lines.push(&chunk)).await?,
                // An error of the disk: the result is still worth waiting for.
                Ok(None) | Err(_) => {
                    following = false;
                    if ticket.end().await.is_err() {
                        return Ok(());
                    }
                }
            },
            () = half_closed.cancelled(), if is_held => {
                is_held = false;
                ticket.let_go();
            }
            changed = ticket.changed(), if !ticket.is_over() => {
                if changed.is_err() {
                    return Ok(());
                }
            }
        }
    }
    events.lines(lines.finish()).await?;
    match ticket.end().await {
        Ok(info) => events.json("result", &*info).await,
        Err(_) => Ok(()),
    }
}

/// `POST /job/P/ID/cancel`.
pub(super) async fn cancel(
    web: &Web,
    asked: Asked,
    project: ProjectName,
    id: JobId,
) -> Result<Response<Body>, Refusal> {
    let Caller { name, may_all, .. } = asked.caller;
    let body = read(asked.request.into_body(), SMALL_BODY).await?;
    let reason = CancelRequest::read(&body)
        .map_err(|error| Refusal::bad_request(format!("the request cannot be read: {error}")))?
        .reason()
        .ok_or_else(|| {
            let expected = format!("reason: expected one line of at most {MAX_REASON} bytes");
            Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, expected)
        })?;
    let cancelled = Cancelled { by: name, reason };
    let cancelling = web.scheduler.cancel(&project, id, cancelled, !may_all);
    cancelling.await?;
    let info = web.scheduler.find(&project, id, false).await?;
    answer::json(StatusCode::ACCEPTED, &JobState::of(&info))
}

/// `GET /job/P/ID`.
pub(super) async fn show(
    web: &Web,
    asked: &Asked,
    project: ProjectName,
    id: JobId,
) -> Result<Response<Body>, Refusal> {
    let headers = asked.headers();
    // The first mistry's client says what it wants in the wrong header.
    let wants_json = asked.flag("json")?
        || answer::prefers(headers, "application/json", "text/html")
        || answer::is_json(headers.get(CONTENT_TYPE));
    let wants_log = wants_log(asked)?;
    let mut ended = None;
    if asked.flag("wait")?
        && let Some(ticket) = web.scheduler.ticket(&project, id).await
    {
        ended = Some(end_of(ticket, asked.half_closed()).await?);
    }
    let mut info = match ended {
        // Of a rebuild that failed: the build of before stays in its place.
        Some(info) if !info.succeeded() => Arc::unwrap_or_clone(info),
        _ => web.scheduler.find(&project, id, wants_log).await?,
    };
    if !wants_json {
        return pages::job(web, asked.headers(), info).await;
    }
    let pinned = web.scheduler.is_pinned(&project, id).await;
    if !wants_log {
        info.container_stdouterr = None;
        info.container_stderr = None;
    }
    answer::json(
        StatusCode::OK,
        &JobView {
            id: info.id.clone(),
            project: info.project.clone(),
            state: info.state,
            pinned,
            build_info: info,
        },
    )
}

/// `?log=none` leaves the log out.
fn wants_log(asked: &Asked) -> Result<bool, Refusal> {
    match asked.query("log") {
        None => Ok(true),
        Some("none") => Ok(false),
        Some(_) => Err(Refusal::bad_request("log: expected none")),
    }
}

/// `GET /index/`.
pub(super) async fn index(web: &Web, asked: &Asked) -> Result<Response<Body>, Refusal> {
    let filter = filter::filter(asked.choice())?;
    let limit = match asked.query("limit") {
        None => PAGE,
        Some(limit) => limit
            .parse()
            .ok()
            .filter(|limit| (1..=PAGE).contains(limit))
            .ok_or_else(|| Refusal::bad_request(format!("limit: expected 1 to {PAGE}")))?,
    };
    let (builds, next) = web.scheduler.list(filter, limit).await?;
    let mut response = answer::json(StatusCode::OK, &items(&builds)?)?;
    if let Some(next) = next {
        let mut query = filter::query(asked.choice());
        query.append_pair("limit", &limit.to_string());
        query.append_pair("before", &next.to_string());
        let link = format!("</index/?{}>; rel=\"next\"", query.finish());
        if let Ok(link) = link.parse() {
            response.headers_mut().insert(LINK, link);
        }
    }
    Ok(response)
}

/// Builds as lines of a list.
pub(super) fn items(builds: &[Listing]) -> Result<Vec<&RawValue>, Refusal> {
    let item = |listing| Listing::json(listing, IndexItem::written).map_err(answer::unwritable);
    builds.iter().map(item).collect()
}
