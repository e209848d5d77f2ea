//! Jobs: submitted, awaited, listed, shown, cancelled.

use bytes::Bytes;
use hyper::StatusCode;
use hyper::header::{CONTENT_TYPE, LINK, LOCATION};
use serde_json::value::RawValue;
use tokio_util::sync::CancellationToken;

use super::body::{self, ReceivedBody};
use super::caller::Caller;
use super::client_budget::ClientBudget;
use super::error::ApiError;
use super::events::{self, ClientGone, Events, Lines, LinesSent};
use super::request::Request;
use super::response::{self, Response};
use super::state::Web;
use super::{filter, list, pages};
use crate::api::{
    CancelRequest, IndexItem, JobRequest, JobState, JobView, MAX_REASON, MAX_REQUEST,
};
use crate::budget::{Client, Held};
use crate::build::{AnswerForm, AnswerJson, BuildAnswer, BuildInfo, Listing, LogFollower};
use crate::job::{Cancelled, JobId, Outcome, State};
use crate::project::ProjectName;
use crate::read_limiter::ReadPermit;
use crate::scheduler::{self, JobHandle, LogTail, Scheduler, Submission};

/// Bytes that are counted for a client that waits for a build: its handle, and its entry among the waiters.
const WAITER_BYTES: u64 = 1 << 10;
/// The status of a build that has not succeeded, with `?fail`: what was asked for was understood and could not
/// be done, and will not be by the same request again.
const FAILED: StatusCode = StatusCode::UNPROCESSABLE_ENTITY;
/// Builds in a list without `limit`, and the largest `limit`.
pub(super) const MAX_LIST: usize = 1_000;

/// The budgets of a client that submits a job, or waits for a build.
struct Budgets {
    /// For requests and the params of jobs, so that clients that only read do not exhaust it.
    builds: ClientBudget,
    /// For everything that is read.
    reading: ClientBudget,
}

impl Budgets {
    fn of(web: &Web, request: &Request) -> Budgets {
        Budgets {
            builds: ClientBudget::new(web.scheduler.bodies().clone(), request.client),
            reading: request.budget.clone(),
        }
    }

    /// The budget for a result with this many bytes of JSON. Most are small, and do not compete with other
    /// reads; large ones are counted like all large reads.
    fn of_result(&self, bytes: u64) -> &ClientBudget {
        match bytes <= BuildAnswer::SMALL {
            true => &self.builds,
            false => &self.reading,
        }
    }
}

/// The response for a client that submits a job.
#[derive(Clone, Copy)]
enum ResponseForm {
    /// The state of the job, at once.
    State,
    /// Events, until the build has ended.
    Events,
    /// The result, when the build has ended.
    Result {
        with_log: bool,
        /// `?fail`: a build that has not succeeded is answered with [`FAILED`].
        fail: bool,
    },
}

impl ResponseForm {
    fn of(request: &Request) -> Result<ResponseForm, ApiError> {
        let is_async = request.flag("async")?;
        let with_log = wants_log(request)?;
        let fail = request.flag("fail")?;
        if fail && (is_async || response::accepts(request.headers(), "text/event-stream")) {
            return Err(ApiError::bad_request(
                "fail: expected of a request that waits for one answer, not with ?async or for events",
            ));
        }
        Ok(match is_async {
            true => ResponseForm::State,
            false if response::accepts(request.headers(), "text/event-stream") => {
                ResponseForm::Events
            }
            false => ResponseForm::Result { with_log, fail },
        })
    }
}

/// A client that has submitted a job.
struct Submitter {
    client: Client,
    form: ResponseForm,
    budgets: Budgets,
    /// The budget that it uses while it waits.
    held: Held,
    half_closed: CancellationToken,
}

/// `POST /jobs`.
pub(super) async fn create(web: &Web, request: Request) -> Result<Response, ApiError> {
    let form = ResponseForm::of(&request)?;
    let budgets = Budgets::of(web, &request);
    let submitter = Submitter {
        client: request.client,
        form,
        // Held before there is a job: a refused request must not start a build.
        held: budgets.builds.hold(match form {
            ResponseForm::Events => events::STREAM_BYTES,
            ResponseForm::State | ResponseForm::Result { .. } => WAITER_BYTES,
        })?,
        budgets,
        half_closed: request.half_closed(),
    };
    let bodies = web.scheduler.bodies();
    let body = body::read(
        request.http.into_body(),
        MAX_REQUEST,
        bodies,
        request.client,
    )
    .await?;
    let job = read_job(body, request.caller.name, request.id)?;
    if job.cancel_on_disconnect && matches!(form, ResponseForm::State) {
        return Err(ApiError::bad_request(
            "cancel_on_disconnect: expected of a request that waits, not with ?async",
        ));
    }
    match web.scheduler.submit(job).await? {
        Submission::Cached(answer) => respond_cached(answer, submitter).await,
        Submission::Pending(handle) => respond_pending(web, handle, submitter).await,
    }
}

/// Parses a request for a job. The body is dropped afterwards.
fn read_job(
    body: ReceivedBody,
    caller: String,
    request_id: String,
) -> Result<scheduler::SubmitRequest, ApiError> {
    let ReceivedBody { bytes, mut held } = body;
    // For a moment both are in memory: the body, and what is read from it.
    if !held.grow(bytes.len() as u64) {
        return Err(body::bodies_full());
    }
    let request = JobRequest::read(&bytes)
        .map_err(|error| ApiError::bad_request(format!("the request cannot be read: {error}")))?;
    drop(bytes);
    let (rebuild, cold) = (request.rebuild, request.cold);
    let cancel_on_disconnect = request.cancel_on_disconnect;
    let named = request.names()?;
    let large = scheduler::large(&named.params);
    held.shrink_to(large);
    Ok(scheduler::SubmitRequest {
        project: named.project,
        group: named.group,
        params: named.params,
        rebuild,
        cold,
        cancel_on_disconnect,
        asker: Some(caller),
        request: Some(request_id),
        held: (large > 0).then_some(held),
    })
}

/// The response to a job whose build was ready.
async fn respond_cached(answer: BuildAnswer, submitter: Submitter) -> Result<Response, ApiError> {
    let state = answer.info().job_state(None);
    if let ResponseForm::State = submitter.form {
        return accepted(&state);
    }
    let budgets = &submitter.budgets;
    let json = answer
        .json(async |bytes| budgets.of_result(bytes).hold(bytes))
        .await?;
    if let ResponseForm::Result { with_log, .. } = submitter.form {
        return Ok(result(
            StatusCode::CREATED,
            json.parts(AnswerForm {
                coalesced: false,
                with_log,
            }),
        ));
    }
    // The stream keeps the JSON, not the answer, whose params may be large.
    let held = submitter.held;
    Ok(events::stream(&budgets.builds, held, |events| async move {
        events.json("state", &state).await?;
        events
            .parts(
                "result",
                json.parts(AnswerForm {
                    coalesced: false,
                    with_log: true,
                }),
            )
            .await
    }))
}

/// The response to a job whose build is queued or running.
async fn respond_pending(
    web: &Web,
    mut handle: JobHandle,
    submitter: Submitter,
) -> Result<Response, ApiError> {
    let ahead = web.scheduler.ahead_of(handle.id());
    let state = JobState {
        coalesced: handle.coalesced(),
        ..handle.accepted().await?.job_state(ahead)
    };
    let (with_log, fail) = match submitter.form {
        ResponseForm::State => return accepted(&state),
        ResponseForm::Events => return stream_pending(web, handle, submitter).await,
        ResponseForm::Result { with_log, fail } => (with_log, fail),
    };
    let coalesced = handle.coalesced();
    let answer = wait_for_end(handle, submitter.half_closed).await?;
    if answer.info().outcome() == Some(Outcome::Errored) {
        return Err(ApiError::build_errored(answer.info()));
    }
    let json = answer
        .json(async |bytes| submitter.budgets.of_result(bytes).wait(bytes).await)
        .await?;
    let status = match fail && has_failed(answer.info()) {
        true => FAILED,
        false => StatusCode::CREATED,
    };
    Ok(result(
        status,
        json.parts(AnswerForm {
            coalesced,
            with_log,
        }),
    ))
}

/// The result of a build that has ended.
fn result(status: StatusCode, json: Vec<Bytes>) -> Response {
    response::of_json(status, response::parts(json))
}

fn has_failed(info: &BuildInfo) -> bool {
    info.outcome()
        .is_some_and(|outcome| outcome != Outcome::Succeeded)
}

/// Waits for the end of a build. A half-closed client still gets a response, but no longer prevents the
/// cancellation of the build.
async fn wait_for_end(
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

/// The state of a job. It is small and not counted: it reports something that has happened, so it must be
/// sent.
fn state_response(status: StatusCode, state: &JobState) -> Result<Response, ApiError> {
    let response = response::small_json(status, state);
    response.ok_or_else(|| ApiError::internal("the server could not write its answer"))
}

fn accepted(state: &JobState) -> Result<Response, ApiError> {
    let mut response = state_response(StatusCode::CREATED, state)?;
    response::set(&mut response, LOCATION, &format!("/{}", state.url));
    Ok(response)
}

/// Events of a build that is queued or running: its states, its log and its result.
async fn stream_pending(
    web: &Web,
    handle: JobHandle,
    submitter: Submitter,
) -> Result<Response, ApiError> {
    let reader = web.scheduler.builder(submitter.client);
    let log = reader.follow(handle.project(), handle.id(), 0).await?;
    let (budgets, half_closed) = (submitter.budgets, submitter.half_closed);
    let builds = budgets.builds.clone();
    let scheduler = web.scheduler.clone();
    Ok(events::stream(&builds, submitter.held, |events| {
        send_build(events, scheduler, handle, log, half_closed, budgets)
    }))
}

/// Sends states, log and result as they come. If the daemon stops before the build ends, the stream just
/// ends: the client knows the id and reconnects.
async fn send_build(
    events: Events,
    scheduler: Scheduler,
    mut handle: JobHandle,
    mut log: LogFollower,
    half_closed: CancellationToken,
    budgets: Budgets,
) -> Result<(), ClientGone> {
    let mut is_held = true;
    let mut lines = Lines::new(handle.project(), handle.id(), 0);
    let mut last_sent = None;
    let mut following = true;
    loop {
        if let Some(info) = handle.now()
            && last_sent != Some((info.status, info.stopping))
            && (info.state() == State::Pending || !following)
        {
            last_sent = Some((info.status, info.stopping));
            let ahead = scheduler.ahead_of(handle.id());
            let state = JobState {
                coalesced: handle.coalesced(),
                ..info.job_state(ahead)
            };
            events.json("state", &state).await?;
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
        // After an error of the disk the client still waits for the result.
        if grown == 0 || lines.send(&mut log, &events).await? != LinesSent::Part {
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
    // Dropped before the JSON is counted, because it keeps the params of the job.
    let coalesced = handle.coalesced();
    drop(handle);
    let json = answer.json(async |bytes| budgets.of_result(bytes).wait(bytes).await);
    let json = json.await.map_err(|_| ClientGone)?;
    events
        .parts(
            "result",
            json.parts(AnswerForm {
                coalesced,
                with_log: true,
            }),
        )
        .await
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
    state_response(StatusCode::ACCEPTED, &info.job_state(None))
}

/// `GET /job/P/ID`.
pub(super) async fn get(web: &Web, request: Request) -> Result<Response, ApiError> {
    let (project, id) = request.job()?;
    let headers = request.headers();
    // The client of the first mistry requests JSON in the wrong header.
    let wants_json = request.flag("json")?
        || response::prefers(headers, "application/json", "text/html")
        || response::is_json(headers.get(CONTENT_TYPE));
    let wants_log = wants_log(&request)?;
    let fail = request.flag("fail")?;
    let number = request.attempt()?;
    let budget = &request.budget;
    if request.flag("wait")?
        && let Some(handle) = web.scheduler.handle(&project, id).await
        && is_attempt(&handle, number)
    {
        let _waiting = Budgets::of(web, &request).builds.hold(WAITER_BYTES)?;
        let answer = wait_for_end(handle, request.half_closed()).await?;
        // Each client that waited gets the build as it ended, also a rebuild that failed, after which the
        // previous build stays in place. A build that was found in the cache after all is shown from there.
        if !answer.is_cached() {
            if !wants_json {
                let held = budget.wait(pages::JOB_BYTES).await?;
                let info = BuildInfo::clone(answer.info());
                let log = answer.log().unwrap_or_default().to_owned();
                drop(answer);
                return pages::job(web, &request, (info, log), held, None).await;
            }
            let reader = web.scheduler.builder(request.client);
            let pinned = reader.is_pinned(&project, id).await?;
            let json = answer.json(async |bytes| budget.wait(bytes).await).await?;
            return job_response(&answer, &json, pinned, wants_log, fail);
        }
    }
    if !wants_json {
        let held = budget.hold(pages::JOB_BYTES)?;
        let finding = find(&request, &project, id, number, wants_log);
        let (info, log, permit) = finding.await?;
        let build = (info, log.unwrap_or_default());
        return pages::job(web, &request, build, held, Some(permit)).await;
    }
    let pinned = request.reader.is_pinned(&project, id).await?;
    let finding = find(&request, &project, id, number, wants_log);
    let (info, log, _permit) = finding.await?;
    let answer = BuildAnswer::new(info, log);
    let json = answer.json(async |bytes| budget.hold(bytes)).await?;
    job_response(&answer, &json, pinned, wants_log, fail)
}

/// True if the active build of a handle is the attempt that a request names, or it names none.
fn is_attempt(handle: &JobHandle, number: Option<u32>) -> bool {
    let now = handle.now().map(|info| info.number);
    number.is_none_or(|number| now.is_none_or(|now| now == number))
}

/// A build, or the attempt at its job that `number` names, and the end of its log.
async fn find(
    request: &Request,
    project: &ProjectName,
    id: JobId,
    number: Option<u32>,
    wants_log: bool,
) -> Result<(BuildInfo, Option<String>, ReadPermit), scheduler::Error> {
    let reader = &request.reader;
    let log = match wants_log {
        true => LogTail::Read,
        false => LogTail::Omit,
    };
    match number {
        None => reader.find_with_permit(project, id, log).await,
        Some(number) => {
            let finding = reader.find_attempt_with_permit(project, id, number, log);
            finding.await
        }
    }
}

/// The complete state of a build, its JSON in parts.
fn job_response(
    answer: &BuildAnswer,
    json: &AnswerJson,
    pinned: bool,
    wants_log: bool,
    fail: bool,
) -> Result<Response, ApiError> {
    let info = answer.info();
    let status = match fail && has_failed(info) {
        true => FAILED,
        false => StatusCode::OK,
    };
    let head = serde_json::to_string(&JobView {
        id: info.id.to_string(),
        project: info.project.to_string(),
        state: info.state(),
        pinned,
        // The last key. The JSON of the build replaces its value.
        build_info: (),
    })?;
    let head = head.strip_suffix("null}").unwrap_or(&head).to_owned();
    let parts = [Bytes::from(head)]
        .into_iter()
        .chain(json.parts(AnswerForm {
            coalesced: false,
            with_log: wants_log,
        }))
        .chain([Bytes::from_static(b"}")]);
    let body = response::parts(parts);
    Ok(response::of_json(status, body))
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
        None => MAX_LIST,
        Some(limit) => limit
            .parse()
            .ok()
            .filter(|limit| (1..=MAX_LIST).contains(limit))
            .ok_or_else(|| ApiError::bad_request(format!("limit: expected 1 to {MAX_LIST}")))?,
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

/// Builds as items of a list.
pub(super) fn list_items(builds: &[Listing]) -> Result<Vec<&RawValue>, ApiError> {
    let item = |listing| Listing::json(listing, IndexItem::written).map_err(ApiError::from);
    builds.iter().map(item).collect()
}
