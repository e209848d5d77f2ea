//! Maps each error of the scheduler to its status and message. No other module does that; a handler gives a
//! status only to what it finds wrong in a request itself.
//!
//! Clients get the message and the request's id; paths and causes are written to the journal under the same
//! id.

use bytes::Bytes;
use futures_util::{Stream, TryStreamExt};
use hyper::StatusCode;

use crate::build::BuildInfo;
use crate::job::JobId;
use crate::project::{self, NameError, ProjectName};
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
        let Class {
            status,
            retry_after,
            is_logged,
        } = class(&error);
        let job = match unwrapped(&error) {
            Error::Stopping(project, id) => Some((project.to_string(), id.to_string())),
            _ => None,
        };
        ApiError {
            status,
            message: error.to_string(),
            job,
            retry_after,
            allow: None,
            cause: is_logged.then(|| error.into()),
        }
    }
}

fn unwrapped(error: &Error) -> &Error {
    match error {
        Error::Rejected(inner) => unwrapped(inner),
        other => other,
    }
}

/// How an error of the scheduler is answered.
#[derive(Clone, Copy)]
struct Class {
    status: StatusCode,
    /// After how many seconds the client may try again.
    retry_after: Option<u32>,
    /// It is a fault of ours, and its cause is not in the journal yet.
    is_logged: bool,
}

impl Class {
    /// An error of the client.
    fn of_client(status: StatusCode) -> Class {
        Class {
            status,
            retry_after: None,
            is_logged: false,
        }
    }

    /// The server has no capacity for the request now. It is no fault.
    fn unavailable(retry_after: u32) -> Class {
        Class {
            status: StatusCode::SERVICE_UNAVAILABLE,
            retry_after: Some(retry_after),
            is_logged: false,
        }
    }

    const FAULT: Class = Class {
        status: StatusCode::INTERNAL_SERVER_ERROR,
        retry_after: None,
        is_logged: true,
    };
}

/// There is no `_` arm, so that each new variant is classified on purpose.
fn class(error: &Error) -> Class {
    match error {
        Error::Project(project) => match project {
            project::Error::Unknown(..) | project::Error::NoDockerfile(_) => {
                Class::of_client(StatusCode::NOT_FOUND)
            }
            project::Error::Unbuildable(..)
            | project::Error::Settings(..)
            | project::Error::Params(..) => Class::of_client(StatusCode::UNPROCESSABLE_ENTITY),
            project::Error::Changed(_) => Class::of_client(StatusCode::CONFLICT),
            project::Error::Read(..) | project::Error::List(_) => Class::FAULT,
        },
        Error::UnknownJob(..)
        | Error::NoAttempt(..)
        | Error::NoBuild(_)
        | Error::UnknownGroup(..)
        | Error::NoArtifacts(..)
        | Error::NoLog(..)
        | Error::NoRecord(..) => Class::of_client(StatusCode::NOT_FOUND),
        Error::Over(..) | Error::Kept(..) | Error::AmbiguousId(..) | Error::ImageLeft(..) => {
            Class::of_client(StatusCode::CONFLICT)
        }
        Error::NotYours(..) => Class::of_client(StatusCode::FORBIDDEN),
        Error::NoPolicy | Error::NotOfTheImage(..) => {
            Class::of_client(StatusCode::UNPROCESSABLE_ENTITY)
        }
        Error::BacklogFull | Error::ReadersFull | Error::ScansFull | Error::BodiesFull => {
            Class::unavailable(BUSY_RETRY_AFTER)
        }
        Error::EngineAway(_) => Class {
            is_logged: true,
            ..Class::unavailable(BUSY_RETRY_AFTER)
        },
        Error::Stopping(..) | Error::Ending => Class::unavailable(RESTART_RETRY_AFTER),
        Error::Image(..) | Error::Engine(..) | Error::Store(_) | Error::Log(_) | Error::Lost => {
            Class::FAULT
        }
        // The scheduler has logged it, once for all clients that wait for the job.
        Error::Rejected(inner) => Class {
            is_logged: false,
            ..class(inner)
        },
    }
}

/// Logs why a response that had begun was not sent completely; the client only sees that it is incomplete.
pub(super) fn log_unsent(what: &str, project: &ProjectName, id: JobId, error: &std::io::Error) {
    tracing::error!(mistry_project = %project, mistry_job = %id, error = error as &dyn std::error::Error, "{what} could not be sent to the end");
}

/// The same for `bytes` that fail while they are sent.
pub(super) fn log_unsent_bytes<S: Stream<Item = std::io::Result<Bytes>>>(
    bytes: S,
    what: &'static str,
    project: &ProjectName,
    id: JobId,
) -> impl Stream<Item = std::io::Result<Bytes>> + use<S> {
    let project = project.clone();
    bytes.inspect_err(move |error| log_unsent(what, &project, id, error))
}
