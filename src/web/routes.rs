//! The index: every address that is answered, and by whom.
//!
//! | request | handler |
//! | --- | --- |
//! | `POST /jobs` | [`jobs::create`] |
//! | `GET /index/` | [`jobs::index`] |
//! | `GET /job/P/ID` | [`jobs::show`] |
//! | `POST /job/P/ID/cancel` | [`jobs::cancel`] |
//! | `DELETE /job/P/ID`, `PUT` and `DELETE /job/P/ID/pin`, `POST /gc` | [`collection`] |
//! | `POST /queue/pause`, `POST /queue/resume` | [`queue`] |
//! | `GET /log/P/ID` | [`logs::show`] |
//! | `GET /artifacts/P/ID[/path]` | [`artifacts`] |
//! | `GET /projects`, `GET /project/P`, `POST /project/P/rebuild` | [`projects`] |
//! | `GET /status` | [`host::status`] |
//! | `GET /events` | [`news::follow`] |
//! | `GET /` | [`pages`] |
//! | `GET /static/…` | [`embedded`] |
//! | `POST` and `DELETE /session` | [`session`] |
//! | `GET /metrics`, `/healthz`, `/openapi.json` | here |

use std::borrow::Cow;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use hyper::body::Incoming;
use hyper::header::{
    ALLOW, EXPECT, HeaderMap, HeaderName, HeaderValue, TRANSFER_ENCODING, X_CONTENT_TYPE_OPTIONS,
};
use hyper::{Method, Request, Response, StatusCode, Version};
use percent_encoding::percent_decode_str;
use tokio_util::sync::CancellationToken;

use super::access::{self, Caller, Peer};
use super::answer::{self, Answer, Body, Room};
use super::connection::HalfClosed;
use super::error::Refusal;
use super::query::Query;
use super::serving::NO_PLACE;
use super::tokens::Scope;
use super::{
    Web, artifacts, collection, embedded, host, jobs, logs, news, pages, projects, queue, session,
};
use crate::budget::{Client, Held};
use crate::job::JobId;
use crate::project::{NameError, ProjectName};
use crate::scheduler::Reader;

/// The contract, machine-readable; compared with this file by a test.
const OPENAPI: &str = include_str!("../../docs/openapi.json");

/// Bytes of a target: twice what the longest path that Linux opens takes when each byte is escaped.
const MAX_TARGET: usize = 32 << 10;

/// Bytes of all headers of one request.
const MAX_HEADERS: usize = 64 << 10;

/// A request on its way to a handler.
#[derive(Debug)]
pub(super) struct Asked {
    /// What the request is called, in its answer and in records.
    pub(super) id: String,
    pub(super) request: Request<Incoming>,
    pub(super) caller: Caller,
    /// For whom what it costs is counted.
    pub(super) client: Client,
    /// Where it is counted.
    pub(super) room: Room,
    /// What is read for it.
    pub(super) reader: Reader,
    query: Query,
}

impl Asked {
    /// Holds a place among those who are sent a tree, until the value is dropped.
    ///
    /// # Errors
    /// 503 where there is none.
    pub(super) fn hold_tree(&self, web: &Web) -> Result<Held, Refusal> {
        web.trees.hold(self.client, 1).ok_or_else(|| {
            Refusal::busy(
                "the server sends artifacts to as many clients as it may; try again later",
            )
        })
    }

    /// The value of `name` in the query; `Some("")` when it stands there alone.
    pub(super) fn query(&self, name: &str) -> Option<&str> {
        self.query.get(name)
    }

    /// Whether the flag `name` of the query is set: [`Query::flag`].
    pub(super) fn flag(&self, name: &str) -> Result<bool, Refusal> {
        self.query.flag(name)
    }

    /// All of the query.
    pub(super) fn choice(&self) -> &Query {
        &self.query
    }

    /// True for a browser that shows pages, unless it asks for the facts.
    pub(super) fn wants_page(&self) -> Result<bool, Refusal> {
        let is_json = self.flag("json")?;
        Ok(!is_json && answer::prefers(self.headers(), "text/html", "application/json"))
    }

    pub(super) fn headers(&self) -> &hyper::HeaderMap {
        self.request.headers()
    }

    /// `HEAD` is `HEAD` here.
    pub(super) fn method(&self) -> &Method {
        self.request.method()
    }

    /// Set when the client sends no more.
    pub(super) fn half_closed(&self) -> CancellationToken {
        let closed = self.request.extensions().get::<HalfClosed>();
        closed.cloned().unwrap_or_default().0
    }

    /// Whether reading a build by this request uses it, so that garbage collection finds it used: only
    /// what sends a body does, and only for those who are known. Strangers, who need no token to read,
    /// could keep all builds otherwise.
    pub(super) fn is_use(&self) -> bool {
        *self.method() == Method::GET && !self.caller.is_stranger
    }
}

/// Answers one request.
pub(super) async fn answer(web: &Web, request: Request<Incoming>, peer: Peer) -> Response<Body> {
    let id = web.next_request();
    let takes_json = answer::takes_json(request.headers());
    // Kept for browsers only, which are refused with a page.
    let browser =
        answer::accepts(request.headers(), "text/html").then(|| request.headers().clone());
    let (answer, place) = match admit(web, request.headers(), peer) {
        Ok((asker, place)) => (route(web, request, asker, &id).await, place),
        Err(refusal) => (Answer::Refused(refusal), None),
    };
    let response = told(answer, id, takes_json, browser);
    match place {
        Some(place) => response.map(|body| body.holding(place)),
        None => response,
    }
}

/// Who asks, and the place of a client whose connection is counted for a proxy.
fn admit(web: &Web, headers: &HeaderMap, peer: Peer) -> Result<(Peer, Option<Held>), Refusal> {
    let asker = web.access.load().proxies.asker(headers, peer)?;
    let place = match asker {
        Peer::Tcp(_) if asker != peer => {
            let place = web.places.requests.hold(asker.client(), 1);
            Some(place.ok_or_else(|| Refusal::busy(NO_PLACE))?)
        }
        _ => None,
    };
    Ok((asker, place))
}

/// Answers a request for which there is no place.
pub(super) fn refuse(web: &Web, request: &Request<Incoming>, why: Refusal) -> Response<Body> {
    let takes_json = answer::takes_json(request.headers());
    let browser =
        answer::accepts(request.headers(), "text/html").then(|| request.headers().clone());
    let id = web.next_request();
    told(Answer::Refused(why), id, takes_json, browser)
}

/// What is sent as the answer of the request `id`; to a `browser`, of these headers, as a page.
fn told(
    answer: Answer,
    id: String,
    takes_json: bool,
    browser: Option<HeaderMap>,
) -> Response<Body> {
    let mut response = match (answer, browser) {
        (Answer::Given(response), _) => response,
        (Answer::Refused(refusal), Some(headers)) if refusal.status == StatusCode::UNAUTHORIZED => {
            pages::signin::show(&headers).unwrap_or_else(|refusal| refusal.answer(&id, takes_json))
        }
        (Answer::Refused(refusal), Some(headers)) => pages::refused::show(refusal, &id, &headers),
        (Answer::Refused(refusal), None) => refusal.answer(&id, takes_json),
    };
    let headers = response.headers_mut();
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    if let Ok(id) = HeaderValue::try_from(id) {
        headers.insert(HeaderName::from_static("x-request-id"), id);
    }
    response
}

async fn route(web: &Web, request: Request<Incoming>, peer: Peer, id: &str) -> Answer {
    let path = request.uri().path().to_owned();
    let query = match check_framing(&request)
        .and_then(|()| Query::parse(request.uri().query().unwrap_or_default()))
    {
        Ok(query) => query,
        Err(refusal) => return Answer::Refused(refusal),
    };
    let (parts, body) = request.into_parts();
    // A HEAD is a GET whose body hyper does not send.
    let method = match parts.method {
        Method::HEAD => Method::GET,
        ref method => method.clone(),
    };
    let segments: Vec<&str> = path.split('/').skip(1).collect();
    let scope = scope(&method, &segments);
    let access = web.access.load_full();
    let secret = web.scheduler.secret();
    let caller = match access.check(&parts, peer, scope, secret).await {
        Ok(caller) => caller,
        Err(refusal) => return Answer::Refused(refusal),
    };
    let Some(allowed) = methods(&segments) else {
        return Answer::Refused(Refusal::not_found("there is nothing at this address"));
    };
    if method == Method::OPTIONS {
        let mut response = answer::no_content();
        let allowed = HeaderValue::from_static(allowed);
        response.headers_mut().insert(ALLOW, allowed);
        return Answer::Given(response);
    }
    if !allowed.split(", ").any(|name| name == method.as_str()) {
        return Answer::Refused(Refusal::method_not_allowed(allowed));
    }
    if !access::is_safe(&method)
        && let Err(refusal) = access::check_content_type(&parts.headers)
    {
        return Answer::Refused(refusal);
    }
    let asked = Asked {
        id: id.to_owned(),
        caller,
        client: peer.client(),
        room: Room::new(web.held.clone(), peer.client()),
        reader: web.scheduler.reader(peer.client()),
        request: Request::from_parts(parts, body),
        query,
    };
    match (&method, segments.as_slice()) {
        (&Method::GET, [""]) => pages::overview(web, &asked).await.into(),
        (&Method::GET, ["static", name]) => embedded::show(&asked, name).into(),
        (&Method::POST, ["jobs"]) => jobs::create(web, asked).await.into(),
        (&Method::GET, ["index"] | ["index", ""]) => jobs::index(&asked).await.into(),
        (&Method::GET, ["job", project, id]) => match names(project, id) {
            Ok((project, id)) => jobs::show(web, &asked, project, id).await.into(),
            Err(error) => Answer::Refused(error.into()),
        },
        (&Method::POST, ["job", project, id, "cancel"]) => match names(project, id) {
            Ok((project, id)) => jobs::cancel(web, asked, project, id).await.into(),
            Err(error) => Answer::Refused(error.into()),
        },
        (&Method::DELETE, ["job", project, id]) => match names(project, id) {
            Ok((project, id)) => collection::remove(web, &project, id).await.into(),
            Err(error) => Answer::Refused(error.into()),
        },
        (&Method::PUT, ["job", project, id, "pin"]) => match names(project, id) {
            Ok((project, id)) => collection::pin(web, &project, id).await.into(),
            Err(error) => Answer::Refused(error.into()),
        },
        (&Method::DELETE, ["job", project, id, "pin"]) => match names(project, id) {
            Ok((project, id)) => collection::unpin(web, &project, id).await.into(),
            Err(error) => Answer::Refused(error.into()),
        },
        (&Method::POST, ["gc"]) => collection::collect(web, asked).await.into(),
        (&Method::POST, ["queue", "pause"]) => queue::pause(web, &asked).await.into(),
        (&Method::POST, ["queue", "resume"]) => queue::resume(web, &asked).await.into(),
        (&Method::GET, ["log", project, id]) => match names(project, id) {
            Ok((project, id)) => logs::show(web, &asked, project, id).await.into(),
            Err(error) => Answer::Refused(error.into()),
        },
        (&Method::GET, ["artifacts", project, id, path @ ..]) => match names(project, id) {
            Ok((project, id)) => match path {
                [] => artifacts::all(web, &asked, &project, id).await.into(),
                path => match below(path) {
                    Some(path) => artifacts::one(web, &asked, &project, id, path).await.into(),
                    None => Answer::Refused(Refusal::not_found("there is no such artifact")),
                },
            },
            Err(error) => Answer::Refused(error.into()),
        },
        (&Method::GET, ["projects"]) => projects::list(web, &asked).await.into(),
        (&Method::GET, ["project", project]) => match name(project) {
            Ok(project) => projects::show(web, &asked, &project).await.into(),
            Err(error) => Answer::Refused(error.into()),
        },
        (&Method::POST, ["project", project, "rebuild"]) => match name(project) {
            Ok(project) => projects::rebuild(web, &asked, &project).await.into(),
            Err(error) => Answer::Refused(error.into()),
        },
        (&Method::GET, ["status"]) => host::status(web, &asked).await.into(),
        (&Method::GET, ["events"]) => news::follow(web, &asked).await.into(),
        (&Method::GET, ["metrics"]) => metrics(web, &asked).await.into(),
        (&Method::GET, ["healthz"]) => Answer::Given(answer::text(StatusCode::OK, "ok\n")),
        (&Method::GET, ["openapi.json"]) => Answer::Given(answer::typed(
            StatusCode::OK,
            "application/json",
            answer::fixed(OPENAPI.as_bytes()),
        )),
        (&Method::POST, ["session"]) => Answer::Given(session::begin(web, &asked)),
        (&Method::DELETE, ["session"]) => Answer::Given(session::end(&asked)),
        _ => Answer::Refused(Refusal::not_found("there is nothing at this address")),
    }
}

/// What a request must be allowed to do; `None`: anybody may.
fn scope(method: &Method, segments: &[&str]) -> Option<Scope> {
    match (method, segments) {
        // The same for all clients, and what a page that asks for a token is made of.
        (&Method::GET, ["healthz"] | ["static", _]) => None,
        (&Method::DELETE, ["session"]) => None,
        (&Method::POST, ["session"]) => Some(Scope::Read),
        (&Method::GET | &Method::OPTIONS, _) => Some(Scope::Read),
        (&Method::POST, ["jobs"] | ["job", _, _, "cancel"]) => Some(Scope::Build),
        _ => Some(Scope::Admin),
    }
}

/// What an address takes, as `Allow` says it; `None` where there is nothing at all.
fn methods(segments: &[&str]) -> Option<&'static str> {
    Some(match segments {
        // `OPTIONS *`, and a target without a path.
        [] => "GET, HEAD, POST, PUT, DELETE, OPTIONS",
        ["jobs" | "gc"]
        | ["queue", "pause" | "resume"]
        | ["project", _, "rebuild"]
        | ["job", _, _, "cancel"] => "POST, OPTIONS",
        ["session"] => "POST, DELETE, OPTIONS",
        ["job", _, _] => "GET, HEAD, DELETE, OPTIONS",
        ["job", _, _, "pin"] => "PUT, DELETE, OPTIONS",
        [""]
        | ["static", _]
        | ["index"]
        | ["index", ""]
        | ["log", _, _]
        | ["artifacts", _, _, ..]
        | ["projects" | "status" | "events" | "metrics" | "healthz" | "openapi.json"]
        | ["project", _] => "GET, HEAD, OPTIONS",
        _ => return None,
    })
}

/// Refuses what no address takes, before any body is read: a target or headers that are too long,
/// expectations that are not known (RFC 9110 §10.1.1), codings that are not understood (RFC 9112 §6.1).
fn check_framing(request: &Request<Incoming>) -> Result<(), Refusal> {
    let target = request.uri().path_and_query();
    if target.is_some_and(|target| target.as_str().len() > MAX_TARGET) {
        return Err(Refusal::new(
            StatusCode::URI_TOO_LONG,
            format!("the address is too long: expected at most {MAX_TARGET} bytes"),
        ));
    }
    let is = |value: &HeaderValue, word: &str| {
        let text = value.to_str().unwrap_or_default();
        text.trim().eq_ignore_ascii_case(word)
    };
    let headers = request.headers();
    // With the colon, the space and the end of each line.
    let lengths = headers
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len() + 4);
    if lengths.sum::<usize>() > MAX_HEADERS {
        return Err(Refusal::new(
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            format!("the headers are too long: expected at most {MAX_HEADERS} bytes"),
        ));
    }
    let mut expectations = headers.get_all(EXPECT).iter();
    // HTTP/1.0 has none, and what says so is ignored.
    if request.version() >= Version::HTTP_11 && !expectations.all(|said| is(said, "100-continue")) {
        return Err(Refusal::new(
            StatusCode::EXPECTATION_FAILED,
            "Expect: 100-continue is all that can be expected",
        ));
    }
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    match (codings.next(), codings.next()) {
        (None, _) => Ok(()),
        (Some(only), None) if is(only, "chunked") => Ok(()),
        _ => Err(Refusal::new(
            StatusCode::NOT_IMPLEMENTED,
            "Transfer-Encoding: chunked is all that is understood",
        )),
    }
}

fn name(segment: &str) -> Result<ProjectName, NameError> {
    decoded(segment).parse()
}

fn names(project: &str, id: &str) -> Result<(ProjectName, JobId), NameError> {
    Ok((name(project)?, decoded(id).parse()?))
}

fn decoded(segment: &str) -> Cow<'_, str> {
    percent_decode_str(segment).decode_utf8_lossy()
}

/// A path below the artifacts; names are bytes. `None` where a segment can be no file's name;
/// what else is hostile in it the kernel refuses.
fn below(segments: &[&str]) -> Option<PathBuf> {
    segments
        .iter()
        .map(|segment| Cow::from(percent_decode_str(segment)))
        .map(|bytes| {
            let is_name = *bytes != *b".." && !bytes.iter().any(|byte| matches!(byte, b'/' | 0));
            is_name.then(|| std::ffi::OsStr::from_bytes(&bytes).to_owned())
        })
        .collect()
}

async fn metrics(web: &Web, asked: &Asked) -> Result<Response<Body>, Refusal> {
    asked.reader.refresh_metrics().await;
    let bodies = web.scheduler.bodies().held();
    web.metrics.record_held(web.held.held(), bodies);
    let text = web
        .metrics
        .text()
        .map_err(|error| Refusal::caused("the server could not write its metrics", error))?;
    Ok(answer::typed(
        StatusCode::OK,
        "text/plain; version=0.0.4; charset=utf-8",
        answer::full(&asked.room, text.into())?,
    ))
}
