//! What can go wrong between us and the Engine.

use std::path::PathBuf;

/// What went wrong between us and the Engine.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No Engine answers: no socket, refused, silent, or gone in the middle of an answer.
    #[error("no docker engine answers at '{}' while {doing}", socket.display())]
    Unreachable {
        /// The socket we asked at.
        socket: PathBuf,
        /// What we were doing.
        doing: String,
        /// What became of the connection.
        source: Cause,
    },
    /// The image to run is not on this host.
    #[error("there is no docker image '{0}'")]
    NoSuchImage(String),
    /// Another container has the name.
    #[error("there is a docker container '{0}' already")]
    NameTaken(String),
    /// The container is not there (any more).
    #[error("there is no docker container '{0}'")]
    NoSuchContainer(String),
    /// The image cannot be built; in the Engine's words.
    #[error("could not build the docker image: {0}")]
    Build(String),
    /// The context of an image could not be read to its end.
    #[error("could not read the context of the docker image")]
    Context(#[source] std::io::Error),
    /// A path that cannot be told to the Engine, because the API is JSON.
    #[error("could not tell docker the path '{}', which is not UTF-8", .0.display())]
    Path(PathBuf),
    /// The Engine refuses what was asked, in its words: the fault is in the asking.
    #[error("docker refused while {doing}: {said}")]
    Refused {
        /// What we were doing.
        doing: String,
        /// What the Engine said.
        said: String,
    },
    /// The image's program cannot be executed.
    #[error("could not start the container: {said}")]
    NotStarted {
        /// The exit status that `docker run` has for this: 126 or 127.
        code: i64,
        /// What the Engine said.
        said: String,
    },
    /// The Engine answers, but fails, or says what we do not understand.
    #[error("docker failed while {doing}")]
    Api {
        /// What we were doing.
        doing: String,
        /// What the Engine said.
        source: Cause,
    },
}

impl Error {
    /// No Engine answers, or it went away: it may come back.
    pub fn is_unreachable(&self) -> bool {
        matches!(self, Error::Unreachable { .. })
    }
}

/// The reason beneath an [`Error`], only to be shown.
pub type Cause = Box<dyn std::error::Error + Send + Sync>;
