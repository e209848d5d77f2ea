//! The errors of an interface's requests, each with its message.

use std::sync::Arc;

use super::build_secrets::{NEEDED_BY, arguments};
use crate::build::{BuildStore, KeptReason};
use crate::job::{GroupName, JobId, JobIdPrefix};
use crate::project::ProjectName;
use crate::{build, docker, project};

/// Builds that are named where an id is ambiguous.
pub(super) const MAX_CANDIDATES: usize = 10;

fn described(prefix: &JobIdPrefix) -> String {
    match prefix.complete() {
        Some(id) => format!("the id '{id}'"),
        None => format!("an id that begins with '{prefix}'"),
    }
}

fn candidates(builds: &[(ProjectName, JobId)]) -> String {
    let named = builds.iter().take(MAX_CANDIDATES);
    let mut list: Vec<String> = named
        .map(|(project, id)| format!("{project}/{id}"))
        .collect();
    if builds.len() > MAX_CANDIDATES {
        list.push("and others".to_owned());
    }
    list.join(", ")
}

/// How a build is removed that was kept because it is a base.
fn advice(id: &JobId, why: &KeptReason) -> String {
    match why {
        KeptReason::Linked(_) => {
            format!(
                "; 'mistry rm --base {}' removes it all the same",
                id.short()
            )
        }
        KeptReason::Pinned | KeptReason::UnderWay | KeptReason::InUse => String::new(),
    }
}

/// An error of an interface's request.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The project is unknown or cannot be built as it is.
    #[error(transparent)]
    Project(#[from] project::Error),
    /// There is no build with that id.
    #[error(
        "unknown job '{1}' of project '{0}': it was removed, or was not asked for here; /project/{0} shows what is kept"
    )]
    UnknownJob(ProjectName, JobId),
    /// The job has no attempt of that number, or no longer.
    #[error("job '{1}' of project '{0}' has no attempt {2}{reason}", reason = why_no_attempt(*.2, *.3))]
    NoAttempt(ProjectName, JobId, u32, u32),
    /// No build has an id that begins so.
    #[error("no build has {id}", id = described(.0))]
    NoBuild(JobIdPrefix),
    /// Several builds have ids that begin so; some of them.
    #[error("several builds have ids that begin with '{0}': {list}; give more digits", list = candidates(.1))]
    AmbiguousId(JobIdPrefix, Vec<(ProjectName, JobId)>),
    /// The build has no artifacts.
    #[error(
        "there are no artifacts of job '{1}' of project '{0}': it is not over, was not built to its end, left none, or they were removed"
    )]
    NoArtifacts(ProjectName, JobId),
    /// The project has no such group.
    #[error("project '{0}' has no group '{1}'{2}")]
    UnknownGroup(ProjectName, GroupName, String),
    /// The build's log was removed.
    #[error("the log of job '{1}' of project '{0}' is not there: it was removed")]
    NoLog(ProjectName, JobId),
    /// The build's directory exists, but its record was removed or is invalid.
    #[error(
        "the record of job '{1}' of project '{0}' is not there or cannot be read: the build counts as missing, and the next request builds it again"
    )]
    NoRecord(ProjectName, JobId),
    /// The build has ended and cannot be stopped.
    #[error("the build of job '{1}' of project '{0}' is over")]
    Over(ProjectName, JobId),
    /// Another user requested it first.
    #[error(
        "job '{1}' of project '{0}' was asked for by another user; only that user, or a token of scope 'admin', can cancel it"
    )]
    NotYours(ProjectName, JobId),
    /// No slot is free, and every place in the queue is taken.
    #[error("Server is overloaded; try again later")]
    BacklogFull,
    /// No Docker Engine answers, so nothing new can be built.
    #[error("{}", away_sentence(.0))]
    EngineAway(#[source] docker::Error),
    /// An image cannot be built; with the Engine's message.
    #[error("could not build docker image '{0}': {1}")]
    Image(ProjectName, String),
    /// The build of the image needs params that the request does not have.
    #[error("the image of project '{0}' is left as it is: its build needs the value of {names} ({NEEDED_BY}); give {arguments}", names = .1.join(", "), arguments = arguments(.1))]
    ImageLeft(ProjectName, Vec<String>),
    /// A rebuild takes only what the build of the image is given.
    #[error(
        "param '{1}' is not for the image of project '{0}': an image rebuild takes only the params that its mistry.json names in \"secrets\" and \"ssh\""
    )]
    NotOfTheImage(ProjectName, String),
    /// The daemon stops, and the job was not accepted.
    #[error("the server is stopping; ask again when it is back")]
    Ending,
    /// The Engine answered, and refused.
    #[error("{0}")]
    Engine(&'static str, #[source] docker::Error),
    /// An error of the disk.
    #[error(transparent)]
    Store(#[from] build::Error),
    /// A build that could not be removed as requested.
    #[error("job '{1}' of project '{0}' is not removed: {2}{advice}", advice = advice(.1, .2))]
    Kept(ProjectName, JobId, KeptReason),
    /// Garbage collection was requested, and no rule is configured.
    #[error(
        "no rule selects the builds to remove: give max_age, max_bytes or min_free, or set one of them in 'gc' of the configuration"
    )]
    NoPolicy,
    /// The memory budget for clients that build is used up.
    #[error("the large params of waiting and running jobs take too much memory; try again later")]
    BodiesFull,
    /// Too many requests wait for a read.
    #[error("too many requests wait for the disk; try again later")]
    ReadersFull,
    /// Too many requests wait for a search in a log.
    #[error("too many logs are being looked through; try again later")]
    ScansFull,
    /// The log cannot be read.
    #[error("could not read the log of a build")]
    Log(#[source] std::io::Error),
    /// The daemon stops; the next process continues the job.
    #[error("the server is stopping; job '{1}' of project '{0}' goes on when it is back")]
    Stopping(ProjectName, JobId),
    /// The error of the first request.
    #[error(transparent)]
    Rejected(Arc<Error>),
    /// A task ended without a result.
    #[error("the server failed while it worked on the request")]
    Lost,
}

/// Why a job whose last attempt is `last` has no attempt of this number.
fn why_no_attempt(number: u32, last: u32) -> String {
    match number > last {
        true => format!(": the last one is {last}"),
        false => " any more: the server keeps only the last ones (keep_attempts)".to_owned(),
    }
}

impl Error {
    /// The reason why a job has no attempt of this number. Blocks.
    pub(super) fn no_attempt(
        store: &BuildStore,
        project: &ProjectName,
        id: JobId,
        number: u32,
    ) -> Error {
        match store.find(project, id) {
            Ok(Some(info)) => Error::NoAttempt(project.clone(), id, number, info.numbers),
            Ok(None) => Error::absent(store, project, id),
            Err(error) => error.into(),
        }
    }

    /// The reason why a build has no record. Blocks.
    pub(super) fn absent(store: &BuildStore, project: &ProjectName, id: JobId) -> Error {
        match store.has_directory(project, id) {
            true => Error::NoRecord(project.clone(), id),
            false => Error::UnknownJob(project.clone(), id),
        }
    }
}

/// Why nothing new can be built: no Engine answers, or one that is too old.
fn away_sentence(error: &docker::Error) -> String {
    match error {
        docker::Error::Unsupported(sentence) => sentence.clone(),
        _ => "the Docker Engine cannot be reached; try again later".to_owned(),
    }
}
