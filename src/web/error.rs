//! Which status and sentence an error has: the one place.
//!
//! Outside gets the sentence and the request's id, inside gets the story: paths and causes go
//! to the journal under the same id.

use hyper::header::{ALLOW, HeaderValue, LOCATION, RETRY_AFTER, WWW_AUTHENTICATE};
use hyper::{Response, StatusCode};

use super::answer::{self, Body};
use crate::api::ErrorView;
use crate::build::BuildInfo;
use crate::project::{self, NameError};
use crate::scheduler::Error;

/// When a client that was refused for want of room may ask again, in seconds: about the time of
/// a short build.
pub(super) const ROOM_AGAIN: u32 = 5;
/// When a daemon that ends is likely back, in seconds.
const BACK_AGAIN: u32 = 1;

/// A request that is not answered as asked.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    sentence: String,
    /// The job that it is about, as project and id.
    job: Option<(String, String)>,
    retry_after: Option<u32>,
    allow: Option<&'static str>,
    /// What the journal is told.
    cause: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Refusal {
    pub(super) fn new(status: StatusCode, sentence: impl Into<String>) -> Refusal {
        Refusal {
            status,
            sentence: sentence.into(),
            job: None,
            retry_after: None,
            allow: None,
            cause: None,
        }
    }

    pub(super) fn bad_request(sentence: impl Into<String>) -> Refusal {
        Refusal::new(StatusCode::BAD_REQUEST, sentence)
    }

    pub(super) fn not_found(sentence: impl Into<String>) -> Refusal {
        Refusal::new(StatusCode::NOT_FOUND, sentence)
    }

    pub(super) fn unauthorized(sentence: impl Into<String>) -> Refusal {
        Refusal::new(StatusCode::UNAUTHORIZED, sentence)
    }

    pub(super) fn internal(sentence: impl Into<String>) -> Refusal {
        Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, sentence)
    }

    /// Ours, with a cause for the journal.
    pub(super) fn caused(
        sentence: impl Into<String>,
        cause: impl std::error::Error + Send + Sync + 'static,
    ) -> Refusal {
        Refusal {
            cause: Some(Box::new(cause)),
            ..Refusal::internal(sentence)
        }
    }

    /// A condition of the request does not hold.
    pub(super) fn precondition_failed() -> Refusal {
        Refusal::new(
            StatusCode::PRECONDITION_FAILED,
            "this is not the content that If-Match names",
        )
    }

    pub(super) fn method_not_allowed(allow: &'static str) -> Refusal {
        Refusal {
            allow: Some(allow),
            ..Refusal::new(
                StatusCode::METHOD_NOT_ALLOWED,
                format!("this address takes {allow}"),
            )
        }
    }

    /// A build that could not be run to its end: its sentence, and where it is found.
    pub(super) fn errored(info: &BuildInfo) -> Refusal {
        let sentence = info.err.as_deref().unwrap_or("the build could not be run");
        Refusal {
            job: Some((info.project.clone(), info.id.clone())),
            ..Refusal::internal(sentence)
        }
    }

    /// For now: ask again in some seconds.
    pub(super) fn busy(sentence: impl Into<String>) -> Refusal {
        Refusal {
            retry_after: Some(ROOM_AGAIN),
            ..Refusal::new(StatusCode::SERVICE_UNAVAILABLE, sentence)
        }
    }

    /// As much is held for clients as may be.
    pub(super) fn holds_too_much() -> Refusal {
        Refusal::busy("the server holds too much for its clients; try again later")
    }

    /// What the client is told.
    pub(super) fn sentence(&self) -> &str {
        &self.sentence[..bound(&self.sentence)]
    }

    /// The answer, and a record in the journal where the fault is ours.
    pub(super) fn answer(self, request: &str, as_json: bool) -> Response<Body> {
        if let Some(cause) = &self.cause {
            tracing::error!(
                mistry_request = request,
                error = &**cause as &dyn std::error::Error,
                "{}",
                self.sentence
            );
        }
        let view = ErrorView {
            error: bounded(self.sentence),
            request: request.to_owned(),
            job: self.job.as_ref().map(|(_, id)| id.clone()),
        };
        let as_json = as_json
            .then(|| answer::small_json(self.status, &view))
            .flatten();
        let mut response =
            as_json.unwrap_or_else(|| answer::text(self.status, format!("{}\n", view.error)));
        answer::of_now(&mut response);
        let headers = response.headers_mut();
        if let Some(seconds) = self.retry_after {
            headers.insert(RETRY_AFTER, seconds.into());
        }
        if let Some((project, id)) = self.job
            && let Ok(location) = format!("/job/{project}/{id}").parse()
        {
            headers.insert(LOCATION, location);
        }
        if let Some(allow) = self.allow {
            headers.insert(ALLOW, HeaderValue::from_static(allow));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

/// Bytes of a sentence that are sent: an answer that is not counted is small.
const MAX_SENTENCE: usize = answer::SMALL / 2;

fn bounded(mut sentence: String) -> String {
    let end = bound(&sentence);
    if end < sentence.len() {
        sentence.truncate(end);
        sentence.push('…');
    }
    sentence
}

/// Where what is sent of a sentence ends.
fn bound(sentence: &str) -> usize {
    let most = sentence.len().min(MAX_SENTENCE);
    let mut ends = (0..=most).rev();
    let end = ends.find(|at| sentence.is_char_boundary(*at));
    end.unwrap_or(0)
}

impl From<serde_json::Error> for Refusal {
    fn from(error: serde_json::Error) -> Refusal {
        answer::unwritable(error)
    }
}

impl From<NameError> for Refusal {
    fn from(error: NameError) -> Refusal {
        Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, error.to_string())
    }
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Refusal {
        let status = status(&error);
        let (job, retry_after) = match unwrapped(&error) {
            Error::Stopping(project, id) => (
                Some((project.to_string(), id.to_string())),
                Some(BACK_AGAIN),
            ),
            Error::BacklogFull
            | Error::ReadersFull
            | Error::ScansFull
            | Error::BodiesFull
            | Error::EngineAway(_) => (None, Some(ROOM_AGAIN)),
            Error::Ending => (None, Some(BACK_AGAIN)),
            _ => (None, None),
        };
        Refusal {
            status,
            sentence: error.to_string(),
            job,
            retry_after,
            allow: None,
            // That we are busy or ending is no fault, and told elsewhere. Why a job was rejected the
            // scheduler has told, once for all who wait.
            cause: match &error {
                Error::Rejected(_)
                | Error::Stopping(..)
                | Error::Ending
                | Error::BacklogFull
                | Error::ReadersFull
                | Error::ScansFull
                | Error::BodiesFull => None,
                _ => status.is_server_error().then(|| error.into()),
            },
        }
    }
}

fn unwrapped(error: &Error) -> &Error {
    match error {
        Error::Rejected(inner) => unwrapped(inner),
        other => other,
    }
}

/// No `_` arm: a new variant must be given a status by a person.
fn status(error: &Error) -> StatusCode {
    match error {
        Error::Project(project) => match project {
            project::Error::Unknown(_) | project::Error::NoDockerfile(_) => StatusCode::NOT_FOUND,
            project::Error::Unbuildable(..) | project::Error::Settings(..) => {
                StatusCode::UNPROCESSABLE_ENTITY
            }
            project::Error::Changed(_) => StatusCode::CONFLICT,
            project::Error::Read(..) | project::Error::List(_) => StatusCode::INTERNAL_SERVER_ERROR,
        },
        Error::UnknownJob(..)
        | Error::NoBuild(_)
        | Error::NoArtifacts(..)
        | Error::NoLog(..)
        | Error::NoRecord(..) => StatusCode::NOT_FOUND,
        Error::Over(..) => StatusCode::CONFLICT,
        Error::NotYours(..) => StatusCode::FORBIDDEN,
        Error::Held(..) => StatusCode::CONFLICT,
        Error::NoPolicy => StatusCode::UNPROCESSABLE_ENTITY,
        Error::BacklogFull
        | Error::ReadersFull
        | Error::ScansFull
        | Error::BodiesFull
        | Error::EngineAway(_)
        | Error::Stopping(..)
        | Error::Ending => StatusCode::SERVICE_UNAVAILABLE,
        Error::Image(..) | Error::Engine(..) | Error::Store(_) | Error::Log(_) | Error::Lost => {
            StatusCode::INTERNAL_SERVER_ERROR
        }
        Error::Rejected(inner) => status(inner),
    }
}
