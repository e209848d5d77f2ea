//! Jobs: asked for, waited for, listed, shown.

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Body as _, Incoming};
use hyper::header::{CONTENT_TYPE, LINK, LOCATION};
use hyper::{Response, StatusCode};
use serde_json::value::RawValue;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::access::Caller;
use super::answer::{self, Body, Room};
use super::error::Refusal;
use super::events::{self, Events, Gone, Lines};
use super::pace::Pace;
use super::routes::Asked;
use super::{Web, filter, list, pages};
use crate::api::{
    self, CancelRequest, IndexItem, JobRequest, JobState, JobView, MAX_REASON, MAX_REQUEST,
};
use crate::budget::{Budget, Client, Held};
use crate::build::{
    AnswerJson, BuildAnswer, BuildInfo, Cancelled, Listing, LogFollower, Outcome, State,
};
use crate::job::JobId;
use crate::project::ProjectName;
use crate::scheduler::{self, JobHandle, Submission};

/// Most requests are smaller than this.
pub(super) const SMALL_BODY: usize = 64 << 10;
/// What a client that waits for a build holds: its handle, and its place among the waiters.
const WAITING: u64 = 1 << 10;
/// A list without `limit`, and its largest.
const PAGE: usize = 1_000;

/// Where it is counted what is held for a client that starts a build, or waits for it.
struct Rooms {
    /// With the requests and the params of jobs, so that clients that only read do not keep it out.
    builds: Room,
    /// With all that is read.
    reading: Room,
}

impl Rooms {
    fn of(web: &Web, asked: &Asked) -> Rooms {
        Rooms {
            builds: Room::new(web.scheduler.bodies().clone(), asked.client),
            reading: asked.room.clone(),
        }
    }

    /// For so many bytes of JSON of a build's end: most are small and have room whatever is read meanwhile;
    /// the large ones are read like all that is large.
    fn of_end(&self, bytes: u64) -> &Room {
        match bytes <= BuildAnswer::SMALL {
            true => &self.builds,
            false => &self.reading,
        }
    }
}

/// `POST /jobs`.
pub(super) async fn create(web: &Web, asked: Asked) -> Result<Response<Body>, Refusal> {
    let is_async = asked.flag("async")?;
    let request_id = asked.id.clone();
    let wants_log = wants_log(&asked)?;
    let wants_events = answer::accepts(asked.headers(), "text/event-stream");
    let half_closed = asked.half_closed();
    let (rooms, client) = (Rooms::of(web, &asked), asked.client);
    // Before there is a job: what is refused must not be built.
    let waiting = rooms.builds.hold(if wants_events {
        events::STREAM
    } else {
        WAITING
    })?;
    let body = read(
        asked.request.into_body(),
        MAX_REQUEST,
        web.scheduler.bodies(),
        client,
    );
    let Named { request, held } = body.await?.named()?;
    let (rebuild, cancel_on_disconnect, named) = request;
    if cancel_on_disconnect && is_async {
        return Err(Refusal::bad_request(
            "cancel_on_disconnect: expected of a request that waits, not with ?async",
        ));
    }
    let submission = web
        .scheduler
        .submit(scheduler::SubmitRequest {
            project: named.project,
            group: named.group,
            params: named.params,
            rebuild,
            cancel_on_disconnect,
            asker: Some(asked.caller.name),
            request: Some(request_id),
            held,
        })
        .await?;
    match submission {
        Submission::Cached(answer) if is_async => accepted(&JobState::of(answer.info())),
        Submission::Cached(answer) if wants_events => {
            let json = answer
                .json(async |bytes| rooms.of_end(bytes).hold(bytes))
                .await?;
            // Not the answer itself, whose params may be large.
            let state = JobState::of(answer.info());
            Ok(events::stream(
                &rooms.builds,
                waiting,
                |events| async move {
                    events.json("state", &state).await?;
                    events.parts("result", json.parts(false, true)).await
                },
            ))
        }
        Submission::Cached(answer) => {
            let json = answer
                .json(async |bytes| rooms.of_end(bytes).hold(bytes))
                .await?;
            Ok(created(json.parts(false, wants_log)))
        }
        Submission::Pending(mut handle) => {
            let info = handle.accepted().await?;
            if is_async {
                accepted(&JobState::of(&info))
            } else if wants_events {
                let reader = web.scheduler.builder(client);
                let log = reader.follow(handle.project(), handle.id(), 0).await?;
                let builds = rooms.builds.clone();
                Ok(events::stream(&builds, waiting, |events| {
                    tell(events, handle, log, half_closed, rooms)
                }))
            } else {
                drop(info);
                let coalesced = handle.coalesced();
                let answer = end_of(handle, half_closed).await?;
                if answer.info().outcome == Some(Outcome::Errored) {
                    return Err(Refusal::errored(answer.info()));
                }
                let json = answer
                    .json(async |bytes| rooms.of_end(bytes).wait(bytes).await)
                    .await?;
                Ok(created(json.parts(coalesced, wants_log)))
            }
        }
    }
}

/// A build that is over.
fn created(json: Vec<Bytes>) -> Response<Body> {
    answer::of_json(StatusCode::CREATED, answer::parts(json))
}

/// Waits for the end of a build. A client that sends no more is answered, but does not keep the build
/// from being cancelled.
async fn end_of(
    mut handle: JobHandle,
    half_closed: CancellationToken,
) -> Result<BuildAnswer, scheduler::Error> {
    tokio::select! {
        ended = handle.end() => return ended,
        () = half_closed.cancelled() => {}
    }
    handle.stop_waiting();
    handle.end().await
}

/// A body that has come whole.
#[derive(Debug)]
pub(super) struct Received {
    pub(super) bytes: Vec<u8>,
    /// What it is counted by.
    held: Held,
}

/// A request for a job, and what its params are counted by where they are large.
struct Named {
    /// Whether a new image is asked for, whether the build is wanted only while the asker waits, and the
    /// rest.
    request: (bool, bool, api::Named),
    held: Option<Held>,
}

impl Received {
    /// Reads a request for a job. Of the body nothing is kept.
    fn named(self) -> Result<Named, Refusal> {
        let Received { bytes, mut held } = self;
        // For a moment there are both, the body and what it says.
        if !held.grow(bytes.len() as u64) {
            return Err(bodies_full());
        }
        let request = JobRequest::read(&bytes).map_err(|error| {
            Refusal::bad_request(format!("the request cannot be read: {error}"))
        })?;
        drop(bytes);
        let (rebuild, cancel_on_disconnect) = (request.rebuild, request.cancel_on_disconnect);
        let named = request.names()?;
        let large = scheduler::large(&named.params);
        held.shrink_to(large);
        Ok(Named {
            request: (rebuild, cancel_on_disconnect, named),
            held: (large > 0).then_some(held),
        })
    }
}

/// A body of so many bytes at most, whole, and not for ever; counted as it comes. One that says that it is
/// larger, or for which there is no room, is not read at all, so that a client that waits for
/// `100 Continue` does not send it.
pub(super) async fn read(
    mut body: Incoming,
    most: usize,
    budget: &Budget,
    client: Client,
) -> Result<Received, Refusal> {
    let too_large = || {
        Refusal::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            format!("the request is too large: expected at most {most} bytes"),
        )
    };
    let length = body.size_hint().lower();
    if length > most as u64 {
        return Err(too_large());
    }
    let mut held = budget.hold(client, length).ok_or_else(bodies_full)?;
    // A length that is only announced is not counted: it takes nothing from other clients.
    held.shrink_to(0);
    let (mut bytes, mut pace) = (Vec::new(), Pace::default());
    loop {
        let late = pace.wait(Instant::now());
        let frame = match tokio::time::timeout_at(late, body.frame()).await {
            Ok(None) => return Ok(Received { bytes, held }),
            Ok(Some(Ok(frame))) => frame,
            Ok(Some(Err(_))) => {
                return Err(Refusal::bad_request("the request did not come whole"));
            }
            Err(_) => {
                return Err(Refusal::new(
                    StatusCode::REQUEST_TIMEOUT,
                    "the request comes too slowly: expected its end, or at least 64 KiB in each minute",
                ));
            }
        };
        // Trailers mean nothing here.
        let data = frame.into_data().unwrap_or_default();
        pace.moved(Instant::now(), data.len());
        let needed = bytes.len() + data.len();
        if needed > most {
            return Err(too_large());
        }
        let capacity = bytes.capacity();
        if needed > capacity {
            let expected = usize::try_from(length).unwrap_or(usize::MAX);
            let larger = needed.max((2 * capacity).min(expected.max(SMALL_BODY)));
            if !held.grow((larger - capacity) as u64) {
                return Err(bodies_full());
            }
            bytes.reserve_exact(larger - bytes.len());
        }
        bytes.extend_from_slice(&data);
    }
}

fn bodies_full() -> Refusal {
    Refusal::from(scheduler::Error::BodiesFull)
}

/// What became of a job, which is small: there is room for it in any case, because it has happened.
fn told(status: StatusCode, state: &JobState) -> Result<Response<Body>, Refusal> {
    let answer = answer::small_json(status, state);
    answer.ok_or_else(|| Refusal::internal("the server could not write its answer"))
}

fn accepted(state: &JobState) -> Result<Response<Body>, Refusal> {
    let mut response = told(StatusCode::CREATED, state)?;
    if let Ok(location) = format!("/{}", state.url).parse() {
        response.headers_mut().insert(LOCATION, location);
    }
    Ok(response)
}

/// State, log and result as they come. When the daemon ends first, the stream just ends: the
/// client has the id and comes back.
async fn tell(
    events: Events,
    mut handle: JobHandle,
    mut log: LogFollower,
    half_closed: CancellationToken,
    rooms: Rooms,
) -> Result<(), Gone> {
    let mut is_held = true;
    let mut lines = Lines::new(0);
    let mut told = None;
    let mut following = true;
    loop {
        if let Some(info) = handle.now()
            && told != Some((info.state, info.phase))
            && (info.state == State::Pending || !following)
        {
            told = Some((info.state, info.phase));
            events.json("state", &JobState::of(&info)).await?;
        }
        if !following {
            break;
        }
        let grown = tokio::select! {
            grown = log.grown() => grown,
            () = half_closed.cancelled(), if is_held => {
                is_held = false;
                handle.stop_waiting();
                continue;
            }
            changed = handle.changed(), if !handle.is_over() => {
                if changed.is_err() {
                    return Ok(());
                }
                continue;
            }
        };
        // After an error of the disk the result is still worth waiting for.
        if grown == 0 || !matches!(lines.send(&mut log, &events).await?, Ok(true)) {
            following = false;
            if handle.end().await.is_err() {
                return Ok(());
            }
        }
    }
    lines.finish(&events).await?;
    let Ok(answer) = handle.end().await else {
        return Ok(());
    };
    // Its params are let go before its JSON is counted.
    let coalesced = handle.coalesced();
    drop(handle);
    let json = answer.json(async |bytes| rooms.of_end(bytes).wait(bytes).await);
    let json = json.await.map_err(|_| Gone)?;
    let parts = json.parts(coalesced, true);
    events.parts("result", parts).await
}

/// `POST /job/P/ID/cancel`.
pub(super) async fn cancel(
    web: &Web,
    asked: Asked,
    project: ProjectName,
    id: JobId,
) -> Result<Response<Body>, Refusal> {
    let bodies = web.scheduler.bodies();
    let Caller { name, may_all, .. } = asked.caller;
    let body = read(asked.request.into_body(), SMALL_BODY, bodies, asked.client).await?;
    let reason = CancelRequest::read(&body.bytes)
        .map_err(|error| Refusal::bad_request(format!("the request cannot be read: {error}")))?
        .reason()
        .ok_or_else(|| {
            let expected = format!("reason: expected one line of at most {MAX_REASON} bytes");
            Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, expected)
        })?;
    drop(body);
    let cancelled = Cancelled { by: name, reason };
    let cancelling = web
        .scheduler
        .cancel(&project, id, cancelled, !may_all, asked.client);
    let info = cancelling.await?;
    told(StatusCode::ACCEPTED, &JobState::of(&info))
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
    let room = &asked.room;
    if asked.flag("wait")?
        && let Some(handle) = web.scheduler.handle(&project, id).await
    {
        let _waiting = Rooms::of(web, asked).builds.hold(WAITING)?;
        let answer = end_of(handle, asked.half_closed()).await?;
        // All who waited get it as it ended. Of a rebuild that failed, the build of before stays in
        // its place; what was found in the cache after all is shown as it is there.
        if !answer.info().cached {
            if !wants_json {
                let held = room.wait(pages::JOB).await?;
                let info = BuildInfo::clone(answer.info());
                drop(answer);
                return pages::job(web, asked, info, held, None).await;
            }
            let reader = web.scheduler.builder(asked.client);
            let pinned = reader.is_pinned(&project, id).await?;
            let json = answer.json(async |bytes| room.wait(bytes).await).await?;
            return view(&answer, &json, pinned, wants_log);
        }
    }
    if !wants_json {
        let held = room.hold(pages::JOB)?;
        let finding = asked.reader.find_in_turn(&project, id, wants_log);
        let (info, turn) = finding.await?;
        return pages::job(web, asked, info, held, Some(turn)).await;
    }
    let pinned = asked.reader.is_pinned(&project, id).await?;
    let finding = asked.reader.find_in_turn(&project, id, wants_log);
    let (info, _turn) = finding.await?;
    let answer = BuildAnswer::new(info);
    let json = answer.json(async |bytes| room.hold(bytes)).await?;
    view(&answer, &json, pinned, wants_log)
}

/// All about a build, its JSON in parts.
fn view(
    answer: &BuildAnswer,
    json: &AnswerJson,
    pinned: bool,
    wants_log: bool,
) -> Result<Response<Body>, Refusal> {
    let info = answer.info();
    let head = serde_json::to_string(&JobView {
        id: info.id.clone(),
        project: info.project.clone(),
        state: info.state,
        pinned,
        // The last of the keys: what it is comes in its place.
        build_info: (),
    })?;
    let head = head.strip_suffix("null}").unwrap_or(&head).to_owned();
    let parts = [Bytes::from(head)]
        .into_iter()
        .chain(json.parts(false, wants_log))
        .chain([Bytes::from_static(b"}")]);
    let body = answer::parts(parts);
    Ok(answer::of_json(StatusCode::OK, body))
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
pub(super) async fn index(asked: &Asked) -> Result<Response<Body>, Refusal> {
    let filter = filter::filter(asked.choice())?;
    let limit = match asked.query("limit") {
        None => PAGE,
        Some(limit) => limit
            .parse()
            .ok()
            .filter(|limit| (1..=PAGE).contains(limit))
            .ok_or_else(|| Refusal::bad_request(format!("limit: expected 1 to {PAGE}")))?,
    };
    let held = list::hold(&asked.room)?;
    let end = asked.reader.list_end(filter.clone(), limit).await?;
    let next = end.last.clone();
    let body = list::of_builds(held, asked.reader.under_way(), filter, limit, end.last);
    let mut response = answer::of_json(StatusCode::OK, body);
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
