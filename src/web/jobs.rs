//! Jobs: asked for, waited for, listed, shown.

use bytes::Bytes;
use hyper::StatusCode;
use hyper::header::{CONTENT_TYPE, LINK, LOCATION};
use serde_json::value::RawValue;
use tokio_util::sync::CancellationToken;

use super::body::{self, ReceivedBody};
use super::caller::Caller;
use super::client_budget::ClientBudget;
use super::error::ApiError;
use super::events::{self, Events, Gone, Lines};
use super::request::Request;
use super::response::{self, Response};
use super::state::Web;
use super::{filter, list, pages};
use crate::api::{
    self, CancelRequest, IndexItem, JobRequest, JobState, JobView, MAX_REASON, MAX_REQUEST,
};
use crate::budget::Held;
use crate::build::{
    AnswerJson, BuildAnswer, BuildInfo, Cancelled, Listing, LogFollower, Outcome, State,
};
use crate::scheduler::{self, Submission, JobHandle};

/// What a client that waits for a build holds: its handle, and its place among the waiters.
const WAITING: u64 = 1 << 10;
/// A list without `limit`, and its largest.
const PAGE: usize = 1_000;

/// Where it is counted what is held for a client that starts a build, or waits for it.
struct Budgets {
    /// With the requests and the params of jobs, so that clients that only read do not keep it out.
    builds: ClientBudget,
    /// With all that is read.
    reading: ClientBudget,
}

impl Budgets {
    fn of(web: &Web, request: &Request) -> Budgets {
        Budgets {
            builds: ClientBudget::new(web.scheduler.bodies().clone(), request.client),
            reading: request.budget.clone(),
        }
    }

    /// For so many bytes of JSON of a build's end: most are small and have room whatever is read meanwhile;
    /// the large ones are read like all that is large.
    fn of_end(&self, bytes: u64) -> &ClientBudget {
        match bytes <= BuildAnswer::SMALL {
            true => &self.builds,
            false => &self.reading,
        }
    }
}

/// `POST /jobs`.
pub(super) async fn create(web: &Web, request: Request) -> Result<Response, ApiError> {
    let is_async = request.flag("async")?;
    let request_id = request.id.clone();
    let wants_log = wants_log(&request)?;
    let wants_events = response::accepts(request.headers(), "text/event-stream");
    let half_closed = request.half_closed();
    let (budgets, client) = (Budgets::of(web, &request), request.client);
    // Before there is a job: what is refused must not be built.
    let waiting = budgets.builds.hold(if wants_events {
        events::STREAM
    } else {
        WAITING
    })?;
    let body = body::read(
        request.http.into_body(),
        MAX_REQUEST,
        web.scheduler.bodies(),
        client,
    );
    let Named {
        request: named,
        held,
    } = Named::read(body.await?)?;
    let (rebuild, cancel_on_disconnect, named) = named;
    if cancel_on_disconnect && is_async {
        return Err(ApiError::bad_request(
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
            asker: Some(request.caller.name),
            request: Some(request_id),
            held,
        })
        .await?;
    match submission {
        Submission::Cached(answer) if is_async => accepted(&JobState::of(answer.info())),
        Submission::Cached(answer) if wants_events => {
            let json = answer
                .json(async |bytes| budgets.of_end(bytes).hold(bytes))
                .await?;
            // Not the answer itself, whose params may be large.
            let state = JobState::of(answer.info());
            Ok(events::stream(
                &budgets.builds,
                waiting,
                |events| async move {
                    events.json("state", &state).await?;
                    events.parts("result", json.parts(false, true)).await
                },
            ))
        }
        Submission::Cached(answer) => {
            let json = answer
                .json(async |bytes| budgets.of_end(bytes).hold(bytes))
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
                let builds = budgets.builds.clone();
                Ok(events::stream(&builds, waiting, |events| {
                    tell(events, handle, log, half_closed, budgets)
                }))
            } else {
                drop(info);
                let coalesced = handle.coalesced();
                let answer = end_of(handle, half_closed).await?;
                if answer.info().outcome == Some(Outcome::Errored) {
                    return Err(ApiError::build_errored(answer.info()));
                }
                let json = answer
                    .json(async |bytes| budgets.of_end(bytes).wait(bytes).await)
                    .await?;
                Ok(created(json.parts(coalesced, wants_log)))
            }
        }
    }
}

/// A build that is over.
fn created(json: Vec<Bytes>) -> Response {
    response::of_json(StatusCode::CREATED, response::parts(json))
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

/// A request for a job, and what its params are counted by where they are large.
struct Named {
    /// Whether a new image is asked for, whether the build is wanted only while the asker waits, and the
    /// rest.
    request: (bool, bool, api::Named),
    held: Option<Held>,
}

impl Named {
    /// Reads a request for a job. Of the body nothing is kept.
    fn read(body: ReceivedBody) -> Result<Named, ApiError> {
        let ReceivedBody { bytes, mut held } = body;
        // For a moment there are both, the body and what it says.
        if !held.grow(bytes.len() as u64) {
            return Err(body::bodies_full());
        }
        let request = JobRequest::read(&bytes).map_err(|error| {
            ApiError::bad_request(format!("the request cannot be read: {error}"))
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

/// What became of a job, which is small: there is room for it in any case, because it has happened.
fn told(status: StatusCode, state: &JobState) -> Result<Response, ApiError> {
    let answer = response::small_json(status, state);
    answer.ok_or_else(|| ApiError::internal("the server could not write its answer"))
}

fn accepted(state: &JobState) -> Result<Response, ApiError> {
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
    budgets: Budgets,
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
    let json = answer.json(async |bytes| budgets.of_end(bytes).wait(bytes).await);
    let json = json.await.map_err(|_| Gone)?;
    let parts = json.parts(coalesced, true);
    events.parts("result", parts).await
}

/// `POST /job/P/ID/cancel`.
pub(super) async fn cancel(web: &Web, request: Request) -> Result<Response, ApiError> {
    let (project, id) = request.job()?;
    let bodies = web.scheduler.bodies();
    let Caller { name, is_admin, .. } = request.caller;
    let body = body::read(
        request.http.into_body(),
        body::SMALL,
        bodies,
        request.client,
    )
    .await?;
    let reason = CancelRequest::read(&body.bytes)
        .map_err(|error| ApiError::bad_request(format!("the request cannot be read: {error}")))?
        .reason()
        .ok_or_else(|| {
            let expected = format!("reason: expected one line of at most {MAX_REASON} bytes");
            ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, expected)
        })?;
    drop(body);
    let cancelled = Cancelled { by: name, reason };
    let cancelling = web
        .scheduler
        .cancel(&project, id, cancelled, !is_admin, request.client);
    let info = cancelling.await?;
    told(StatusCode::ACCEPTED, &JobState::of(&info))
}

/// `GET /job/P/ID`.
pub(super) async fn show(web: &Web, request: Request) -> Result<Response, ApiError> {
    let (project, id) = request.job()?;
    let headers = request.headers();
    // The first mistry's client says what it wants in the wrong header.
    let wants_json = request.flag("json")?
        || response::prefers(headers, "application/json", "text/html")
        || response::is_json(headers.get(CONTENT_TYPE));
    let wants_log = wants_log(&request)?;
    let budget = &request.budget;
    if request.flag("wait")?
        && let Some(handle) = web.scheduler.handle(&project, id).await
    {
        let _waiting = Budgets::of(web, &request).builds.hold(WAITING)?;
        let answer = end_of(handle, request.half_closed()).await?;
        // All who waited get it as it ended. Of a rebuild that failed, the build of before stays in
        // its place; what was found in the cache after all is shown as it is there.
        if !answer.info().cached {
            if !wants_json {
                let held = budget.wait(pages::JOB).await?;
                let info = BuildInfo::clone(answer.info());
                drop(answer);
                return pages::job(web, &request, info, held, None).await;
            }
            let reader = web.scheduler.builder(request.client);
            let pinned = reader.is_pinned(&project, id).await?;
            let json = answer.json(async |bytes| budget.wait(bytes).await).await?;
            return view(&answer, &json, pinned, wants_log);
        }
    }
    if !wants_json {
        let held = budget.hold(pages::JOB)?;
        let finding = request.reader.find_in_turn(&project, id, wants_log);
        let (info, turn) = finding.await?;
        return pages::job(web, &request, info, held, Some(turn)).await;
    }
    let pinned = request.reader.is_pinned(&project, id).await?;
    let finding = request.reader.find_in_turn(&project, id, wants_log);
    let (info, _turn) = finding.await?;
    let answer = BuildAnswer::new(info);
    let json = answer.json(async |bytes| budget.hold(bytes)).await?;
    view(&answer, &json, pinned, wants_log)
}

/// All about a build, its JSON in parts.
fn view(
    answer: &BuildAnswer,
    json: &AnswerJson,
    pinned: bool,
    wants_log: bool,
) -> Result<Response, ApiError> {
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
    let body = response::parts(parts);
    Ok(response::of_json(StatusCode::OK, body))
}

/// `?log=none` leaves the log out.
fn wants_log(request: &Request) -> Result<bool, ApiError> {
    match request.query.get("log") {
        None => Ok(true),
        Some("none") => Ok(false),
        Some(_) => Err(ApiError::bad_request("log: expected none")),
    }
}

/// `GET /index/`.
pub(super) async fn index(_: &Web, request: Request) -> Result<Response, ApiError> {
    let filter = filter::filter(&request.query)?;
    let limit = match request.query.get("limit") {
        None => PAGE,
        Some(limit) => limit
            .parse()
            .ok()
            .filter(|limit| (1..=PAGE).contains(limit))
            .ok_or_else(|| ApiError::bad_request(format!("limit: expected 1 to {PAGE}")))?,
    };
    let held = list::hold(&request.budget)?;
    let end = request.reader.list_end(filter.clone(), limit).await?;
    let next = end.last.clone();
    let body = list::of_builds(held, request.reader.under_way(), filter, limit, end.last);
    let mut response = response::of_json(StatusCode::OK, body);
    if let Some(next) = next {
        let mut query = filter::query(&request.query);
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
pub(super) fn items(builds: &[Listing]) -> Result<Vec<&RawValue>, ApiError> {
    let item = |listing| Listing::json(listing, IndexItem::written).map_err(ApiError::from);
    builds.iter().map(item).collect()
}
