//! Maps each error to its status and message. No other module does that.
//!
//! Clients get the message and the request's id; paths and causes are written to the journal under the same
//! id.

use hyper::StatusCode;

use crate::build::BuildInfo;
use crate::project::{self, NameError};
use crate::scheduler::Error;

/// `Retry-After` of a server that is busy, in seconds: about the time of a short build.
pub(super) const BUSY_RETRY_AFTER: u32 = 5;
/// `Retry-After` of a daemon that is stopping, in seconds: it is likely to be started again by then.
const RESTART_RETRY_AFTER: u32 = 1;
/// Bytes of a message that are sent.
pub(super) const MAX_MESSAGE: usize = 2 << 10;

/// Why a request fails.
#[derive(Debug)]
pub(super) struct ApiError {
    pub(super) status: StatusCode,
    pub(super) message: String,
    /// The job that it is about, as project and id.
    pub(super) job: Option<(String, String)>,
    /// Seconds.
    pub(super) retry_after: Option<u32>,
    /// The methods that the address takes.
    pub(super) allow: Option<Box<str>>,
    /// For the journal.
    pub(super) cause: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl ApiError {
    pub(super) fn new(status: StatusCode, message: impl Into<String>) -> ApiError {
        ApiError {
            status,
            message: message.into(),
            job: None,
            retry_after: None,
            allow: None,
            cause: None,
        }
    }

    pub(super) fn bad_request(message: impl Into<String>) -> ApiError {
        ApiError::new(StatusCode::BAD_REQUEST, message)
    }

    pub(super) fn not_found(message: impl Into<String>) -> ApiError {
        ApiError::new(StatusCode::NOT_FOUND, message)
    }

    pub(super) fn unauthorized(message: impl Into<String>) -> ApiError {
        ApiError::new(StatusCode::UNAUTHORIZED, message)
    }

    pub(super) fn internal(message: impl Into<String>) -> ApiError {
        ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, message)
    }

    /// An internal error with its cause for the journal.
    pub(super) fn with_cause(
        message: impl Into<String>,
        cause: impl std::error::Error + Send + Sync + 'static,
    ) -> ApiError {
        ApiError {
            cause: Some(Box::new(cause)),
            ..ApiError::internal(message)
        }
    }

    /// A condition of the request does not hold.
    pub(super) fn precondition_failed() -> ApiError {
        ApiError::new(
            StatusCode::PRECONDITION_FAILED,
            "this is not the content that If-Match names",
        )
    }

    pub(super) fn method_not_allowed(allow: String) -> ApiError {
        ApiError {
            message: format!("this address takes {allow}"),
            allow: Some(allow.into()),
            ..ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "")
        }
    }

    /// A build that could not be run to its end: its message, and its address.
    pub(super) fn build_errored(info: &BuildInfo) -> ApiError {
        let message = info
            .error
            .as_deref()
            .unwrap_or("the build could not be run");
        ApiError {
            job: Some((info.project.to_string(), info.id.to_string())),
            ..ApiError::internal(message)
        }
    }

    /// A temporary error: the client may try again after some seconds.
    pub(super) fn busy(message: impl Into<String>) -> ApiError {
        ApiError {
            retry_after: Some(BUSY_RETRY_AFTER),
            ..ApiError::new(StatusCode::SERVICE_UNAVAILABLE, message)
        }
    }

    /// The memory for clients is used up.
    pub(super) fn over_budget() -> ApiError {
        ApiError::busy("the server holds too much for its clients; try again later")
    }

    /// The message for the client: at most [`MAX_MESSAGE`] bytes and a sign that there was more.
    pub(super) fn message(&self) -> String {
        let mut message = self.message.clone();
        if message.len() > MAX_MESSAGE {
            let mut ends = (0..=MAX_MESSAGE).rev();
            let end = ends.find(|at| message.is_char_boundary(*at));
            message.truncate(end.unwrap_or(0));
            message.push('…');
        }
        message
    }
}

impl From<serde_json::Error> for ApiError {
    fn from(error: serde_json::Error) -> ApiError {
        ApiError::with_cause("the server could not write its answer", error)
    }
}

impl From<NameError> for ApiError {
    fn from(error: NameError) -> ApiError {
        ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, error.to_string())
    }
}

impl From<Error> for ApiError {
    fn from(error: Error) -> ApiError {
        let status = status(&error);
        let (job, retry_after) = match unwrapped(&error) {
            Error::Stopping(project, id) => (
                Some((project.to_string(), id.to_string())),
                Some(RESTART_RETRY_AFTER),
            ),
            Error::BacklogFull
            | Error::ReadersFull
            | Error::ScansFull
            | Error::BodiesFull
            | Error::EngineAway(_) => (None, Some(BUSY_RETRY_AFTER)),
            Error::Ending => (None, Some(RESTART_RETRY_AFTER)),
            _ => (None, None),
        };
        ApiError {
            status,
            message: error.to_string(),
            job,
            retry_after,
            allow: None,
            // A busy or stopping server is no fault, and is logged elsewhere. The scheduler has logged why a
            // job was rejected, once for all clients that wait for it.
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

/// There is no `_` arm, so that each new variant gets a status on purpose.
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
        Error::Kept(..) => StatusCode::CONFLICT,
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
