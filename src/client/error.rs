//! Errors between the client and the server.

use std::fmt;
use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{Address, DEFAULT_SOCKET};
use crate::api::ErrorView;
use crate::job::JobId;

/// An error between the client and the server.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No connection.
    #[error("could not reach the server at {address}")]
    Connect {
        /// The address that was tried.
        address: Address,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// The server's unix socket exists, but its permissions exclude the caller.
    #[error("you may not use the socket '{}': {advice}", path.display())]
    Forbidden {
        /// The path of the socket.
        path: PathBuf,
        /// What the user can do about it.
        advice: String,
    },
    /// The connection ended before the response did.
    #[error("the connection to the server broke")]
    Broken(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The response is not one that a mistry server sends.
    #[error("the server sent an invalid response: {0}")]
    InvalidResponse(String),
    /// The server answered with an error status.
    #[error("{0}")]
    Response(ErrorResponse),
}

/// A response with an error status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ErrorResponse {
    /// The HTTP status.
    pub status: u16,
    /// The server's message; "" when it sent none.
    pub message: String,
    /// The request's id in the server's journal; "" when it sent none.
    pub request: String,
    /// The job that was accepted before the error occurred.
    pub job: Option<JobId>,
    /// `Retry-After`, at most a minute.
    pub retry_after: Option<Duration>,
}

impl ErrorResponse {
    /// From the JSON that a server sends with an error status, or as an event of a stream.
    pub(crate) fn new(status: u16, view: ErrorView) -> ErrorResponse {
        ErrorResponse {
            status,
            message: view.error,
            request: view.request,
            job: view.job.and_then(|id| id.parse().ok()),
            retry_after: None,
        }
    }
}

impl ErrorResponse {
    /// The server's sentence, or one for its status.
    pub fn sentence(&self) -> String {
        match self.message.as_str() {
            "" if self.status == 503 => "Server is overloaded; try again later".to_owned(),
            "" => format!("the server answered with status {}", self.status),
            message => message.to_owned(),
        }
    }
}

impl fmt::Display for ErrorResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.sentence())?;
        // The journal says more about an error of the server; a mistake of the user is all in the sentence.
        if self.status >= 500 && !self.request.is_empty() {
            write!(f, " (request {})", self.request)?;
        }
        Ok(())
    }
}

impl Error {
    /// Whether the same request may succeed a little later.
    pub fn is_transient(&self) -> bool {
        match self {
            Error::Connect { .. } | Error::Broken(_) => true,
            Error::Response(response) => matches!(response.status, 429 | 502..=504),
            Error::Forbidden { .. } | Error::InvalidResponse(_) => false,
        }
    }

    /// The socket may not be written to; `metadata` is `None` where it may not even be looked up.
    pub(super) fn forbidden(path: &Path, metadata: Option<&Metadata>) -> Error {
        let advice = match metadata {
            _ if path == Path::new(DEFAULT_SOCKET) => {
                "ask an administrator to add you to the group 'mistry' (adduser NAME mistry), then log in again".to_owned()
            }
            Some(file) => format!(
                "its mode is {:04o}, its owner {}, its group {}; ask the administrator of its server",
                file.mode() & 0o7777,
                file.uid(),
                file.gid()
            ),
            None => "you have no permission for its directory; ask the administrator of its server".to_owned(),
        };
        let path = path.to_owned();
        Error::Forbidden { path, advice }
    }

    /// The pause that the server asks for before the next request.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Error::Response(response) => response.retry_after,
            _ => None,
        }
    }
}

impl From<serde_json::Error> for Error {
    fn from(error: serde_json::Error) -> Error {
        Error::InvalidResponse(error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_for_a_forbidden_socket_contains_advice() {
        let message = |path: &str, metadata: Option<&Metadata>| {
            let error = Error::forbidden(Path::new(path), metadata);
            assert!(!error.is_transient());
            error.to_string()
        };
        let file = tempfile::NamedTempFile::new().unwrap();
        let metadata = file.as_file().metadata().unwrap();
        let expected = "you may not use the socket '/run/mistry/mistryd.sock': ask an administrator to add you to the group 'mistry' (adduser NAME mistry), then log in again";
        assert_eq!(message(DEFAULT_SOCKET, None), expected);
        assert_eq!(message(DEFAULT_SOCKET, Some(&metadata)), expected);
        let other = message("/srv/m.sock", Some(&metadata));
        for part in [
            "'/srv/m.sock'",
            "0600",
            &format!("group {}", metadata.gid()),
        ] {
            assert!(other.contains(part), "{other}");
        }
        assert!(message("/srv/m.sock", None).contains("directory"));
    }
}
