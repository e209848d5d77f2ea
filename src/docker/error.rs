//! Errors of the communication with the Engine.

use std::path::PathBuf;

/// An error of the communication with the Engine.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No Engine answers: no socket, connection refused, no answer in time, or broken off in an answer.
    #[error("no docker engine answers at '{}' while {operation}", socket.display())]
    Unreachable {
        /// The Engine's socket.
        socket: PathBuf,
        /// The operation that failed.
        operation: String,
        /// The error of the connection.
        source: Cause,
    },
    /// The Engine is too old, as a sentence that says what is needed.
    #[error("{0}")]
    Unsupported(String),
    /// The image is not on this host.
    #[error("there is no docker image '{0}'")]
    NoSuchImage(String),
    /// Another container has the name.
    #[error("there is a docker container '{0}' already")]
    NameTaken(String),
    /// The container does not exist (any more).
    #[error("there is no docker container '{0}'")]
    NoSuchContainer(String),
    /// The image cannot be built; with the Engine's message.
    #[error("could not build the docker image: {0}")]
    Build(String),
    /// The context of an image could not be read to its end.
    #[error("could not read the context of the docker image")]
    Context(#[source] std::io::Error),
    /// A path that the Engine cannot receive, because the API is JSON.
    #[error("could not tell docker the path '{}', which is not UTF-8", .0.display())]
    Path(PathBuf),
    /// The Engine refuses the request, with its message: the error is in the request.
    #[error("docker refused while {operation}: {said}")]
    Refused {
        /// The operation that failed.
        operation: String,
        /// The Engine's message.
        said: String,
    },
    /// The image's program cannot be executed.
    #[error("could not start the container: {said}")]
    NotStarted {
        /// The exit status of `docker run` for this: 126 or 127.
        code: i64,
        /// The Engine's message.
        said: String,
    },
    /// The Engine answers with a failure, or with an answer that cannot be parsed.
    #[error("docker failed while {operation}")]
    Api {
        /// The operation that failed.
        operation: String,
        /// The Engine's message.
        source: Cause,
    },
}

impl Error {
    /// No Engine answers, or it went away; it may come back.
    pub fn is_unreachable(&self) -> bool {
        matches!(self, Error::Unreachable { .. })
    }
}

/// The cause of an [`Error`], for display only.
pub type Cause = Box<dyn std::error::Error + Send + Sync>;
