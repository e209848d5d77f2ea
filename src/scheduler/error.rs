//! What can go wrong with what an interface asks for, each with its one sentence.

use std::sync::Arc;

use crate::build::{BuildStore, Held};
use crate::job::JobId;
use crate::project::ProjectName;
use crate::{build, docker, project};

/// What can go wrong with what an interface asks for.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The project is unknown or cannot be built as it is.
    #[error(transparent)]
    Project(#[from] project::Error),
    /// There is no build of that id.
    #[error("unknown job '{1}' of project '{0}'")]
    UnknownJob(ProjectName, JobId),
    /// There is no build of that id in any project.
    #[error("no build has the id '{0}'")]
    NoBuild(JobId),
    /// There is nothing to be handed out.
    #[error(
        "there are no artifacts of job '{1}' of project '{0}': it is not over, was not built to its end, left none, or they were removed"
    )]
    NoArtifacts(ProjectName, JobId),
    /// There is a build, and its log was removed.
    #[error("the log of job '{1}' of project '{0}' is not there: it was removed")]
    NoLog(ProjectName, JobId),
    /// There is a build's directory, and its record was removed or cannot be understood.
    #[error(
        "the record of job '{1}' of project '{0}' is not there or cannot be read: the build counts as missing, and the next request builds it again"
    )]
    NoRecord(ProjectName, JobId),
    /// There is nothing left to be stopped.
    #[error("the build of job '{1}' of project '{0}' is over")]
    Over(ProjectName, JobId),
    /// Another user asked for it first.
    #[error("job '{1}' of project '{0}' was asked for by another user")]
    NotYours(ProjectName, JobId),
    /// No slot is to be had, and every place in the queue is taken.
    #[error("Server is overloaded; try again later")]
    BacklogFull,
    /// No Docker Engine answers, so nothing new can be built.
    #[error("the Docker Engine cannot be reached; try again later")]
    EngineAway(#[source] docker::Error),
    /// An image cannot be built; in the Engine's words.
    #[error("could not build docker image '{0}': {1}")]
    Image(ProjectName, String),
    /// The daemon ends, and the job was not accepted.
    #[error("the server is stopping; ask again when it is back")]
    Ending,
    /// The Engine answered, and refused.
    #[error("{0}")]
    Engine(&'static str, #[source] docker::Error),
    /// The disk is in the way.
    #[error(transparent)]
    Store(#[from] build::Error),
    /// A build stays, though its removal was asked for.
    #[error("job '{1}' of project '{0}' is not removed: {2}")]
    Held(ProjectName, JobId, Held),
    /// Garbage collection was asked for, and no rule says what goes.
    #[error(
        "no rule selects the builds to remove: give max_age, max_bytes or min_free, or set one of them in 'gc' of the configuration"
    )]
    NoPolicy,
    /// The budget has no place for what would be held for a client that builds.
    #[error("the large params of waiting and running jobs take too much memory; try again later")]
    BodiesFull,
    /// Too many wait until something is read for them.
    #[error("too many requests wait for the disk; try again later")]
    ReadersFull,
    /// Too many wait until a log is looked through for them.
    #[error("too many logs are being looked through; try again later")]
    ScansFull,
    /// The log cannot be read.
    #[error("could not read the log of a build")]
    Log(#[source] std::io::Error),
    /// The daemon ends; the job goes on in its next process.
    #[error("the server is stopping; job '{1}' of project '{0}' goes on when it is back")]
    Stopping(ProjectName, JobId),
    /// What the first request was told.
    #[error(transparent)]
    Rejected(Arc<Error>),
    /// A task of ours ended without a word.
    #[error("the server failed while it worked on the request")]
    Lost,
}

impl Error {
    /// Why there is nothing to be told of a build. Blocks.
    pub(super) fn absent(store: &BuildStore, project: &ProjectName, id: JobId) -> Error {
        match store.has_directory(project, id) {
            true => Error::NoRecord(project.clone(), id),
            false => Error::UnknownJob(project.clone(), id),
        }
    }
}
