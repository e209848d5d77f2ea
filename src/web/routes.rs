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
use hyper::header::{HeaderName, HeaderValue, X_CONTENT_TYPE_OPTIONS};
use hyper::{Method, Request, Response, StatusCode};
use percent_encoding::percent_decode_str;

use super::access::{Caller, Peer};
use super::answer::{self, Answer, Body};
use super::error::Refusal;
use super::tokens::Scope;
use super::{
    Web, artifacts, collection, embedded, host, jobs, logs, news, pages, projects, queue, session,
};
use crate::job::JobId;
use crate::project::{NameError, ProjectName};

/// The contract, machine-readable; compared with this file by a test.
const OPENAPI: &str = include_str!("../../docs/openapi.json");

/// A request on its way to a handler.
#[derive(Debug)]
pub(super) struct Asked {
    /// What the request is called, in its answer and in records.
    pub(super) id: String,
    pub(super) request: Request<Incoming>,
    pub(super) caller: Caller,
    query: Query,
}

/// Names and values after the `?`, decoded.
#[derive(Clone, Debug)]
pub(super) struct Query(Vec<(String, String)>);

impl Query {
    /// The value of `name`; `Some("")` when it stands there alone.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }

    /// Without the empty fields of a form.
    pub(super) fn without_empty(mut self) -> Query {
        self.0.retain(|(_, value)| !value.is_empty());
        self
    }
}

impl Asked {
    /// The value of `name` in the query; `Some("")` when it stands there alone.
    pub(super) fn query(&self, name: &str) -> Option<&str> {
        self.query.get(name)
    }

    /// All of the query.
    pub(super) fn choice(&self) -> &Query {
        &self.query
    }

    /// True for a browser that shows pages, unless it asks for the facts.
    pub(super) fn wants_page(&self) -> bool {
        answer::accepts(self.headers(), "text/html") && self.query("json").is_none()
    }

    pub(super) fn headers(&self) -> &hyper::HeaderMap {
        self.request.headers()
    }
}

/// Answers one request.
pub(super) async fn answer(web: &Web, request: Request<Incoming>, peer: Peer) -> Response<Body> {
    let id = web.next_request();
    let takes_json = answer::takes_json(request.headers());
    // Kept for browsers only, which are refused with a page.
    let browser =
        answer::accepts(request.headers(), "text/html").then(|| request.headers().clone());
    let mut response = match (route(web, request, peer, &id).await, browser) {
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
    let query = request.uri().query().unwrap_or_default();
    let query = form_urlencoded::parse(query.as_bytes());
    let query = Query(query.into_owned().collect());
    let path = request.uri().path().to_owned();
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
    let asked = Asked {
        id: id.to_owned(),
        caller,
        request: Request::from_parts(parts, body),
        query,
    };
    match (&method, segments.as_slice()) {
        (&Method::GET, [""]) => pages::overview(web, &asked).await.into(),
        (&Method::GET, ["static", name]) => embedded::show(&asked, name).into(),
        (&Method::POST, ["jobs"]) => jobs::create(web, asked).await.into(),
        (&Method::GET, ["index"] | ["index", ""]) => jobs::index(web, &asked).await.into(),
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
            Ok(project) => projects::rebuild(web, &project).await.into(),
            Err(error) => Answer::Refused(error.into()),
        },
        (&Method::GET, ["status"]) => host::status(web, &asked).await.into(),
        (&Method::GET, ["events"]) => news::follow(web, &asked).await.into(),
        (&Method::GET, ["metrics"]) => metrics(web).await.into(),
        (&Method::GET, ["healthz"]) => Answer::Given(answer::text(StatusCode::OK, "ok\n")),
        (&Method::GET, ["openapi.json"]) => Answer::Given(answer::typed(
            StatusCode::OK,
            "application/json",
            answer::full(OPENAPI),
        )),
        (&Method::POST, ["session"]) => Answer::Given(session::begin(web, &asked)),
        (&Method::DELETE, ["session"]) => Answer::Given(session::end(&asked)),
        (_, segments) => Answer::Refused(unknown(segments)),
    }
}

/// What a request must be allowed to do; `None`: anybody may.
fn scope(method: &Method, segments: &[&str]) -> Option<Scope> {
    match (method, segments) {
        // The same for everybody, and what a page that asks for a token is made of.
        (&Method::GET, ["healthz"] | ["static", _]) => None,
        (&Method::DELETE, ["session"]) => None,
        (&Method::POST, ["session"]) => Some(Scope::Read),
        (&Method::GET, _) => Some(Scope::Read),
        (&Method::POST, ["jobs"] | ["job", _, _, "cancel"]) => Some(Scope::Build),
        _ => Some(Scope::Admin),
    }
}

/// Another method where there is something, else nothing at all.
fn unknown(segments: &[&str]) -> Refusal {
    match segments {
        ["jobs" | "gc"]
        | ["queue", "pause" | "resume"]
        | ["project", _, "rebuild"]
        | ["job", _, _, "cancel"] => Refusal::method_not_allowed("POST"),
        ["session"] => Refusal::method_not_allowed("POST, DELETE"),
        ["job", _, _] => Refusal::method_not_allowed("GET, DELETE"),
        ["job", _, _, "pin"] => Refusal::method_not_allowed("PUT, DELETE"),
        [""]
        | ["static", _]
        | ["index"]
        | ["index", ""]
        | ["log", _, _]
        | ["artifacts", _, _, ..]
        | ["projects" | "status" | "events" | "metrics" | "healthz" | "openapi.json"]
        | ["project", _] => Refusal::method_not_allowed("GET"),
        _ => Refusal::not_found("there is nothing at this address"),
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

async fn metrics(web: &Web) -> Result<Response<Body>, Refusal> {
    web.scheduler.refresh_metrics().await;
    let text = web
        .metrics
        .text()
        .map_err(|error| Refusal::caused("the server could not write its metrics", error))?;
    Ok(answer::typed(
        StatusCode::OK,
        "text/plain; version=0.0.4; charset=utf-8",
        answer::full(text),
    ))
}
