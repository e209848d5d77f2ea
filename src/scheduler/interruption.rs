//! The reasons to interrupt a build, and the sentences about them in its record and its log.
//!
//! Clients read these sentences: they contain the Engine's messages about the project, never a path of the
//! host.

use std::time::Duration;

use super::error::Error;
use crate::build::{self, Stopped};
use crate::{docker, project};

/// Containers of a build that may be lost: three lost containers are no accident of one build.
pub(super) const MAX_LOST_CONTAINERS: u32 = 3;

/// Why a build could not be run to its end.
#[derive(Debug, thiserror::Error)]
pub(super) enum Interruption {
    /// The daemon stops; the next process continues.
    #[error("the daemon ends")]
    Stopping,
    #[error(transparent)]
    Store(#[from] build::Error),
    #[error("could not write the build's log")]
    Log(#[source] std::io::Error),
    #[error(
        "could not build docker image '{}': {}",
        project,
        image_sentence(source)
    )]
    Image {
        project: String,
        source: docker::Error,
    },
    #[error("could not run the build's container{}", container_sentence(source))]
    Container { source: docker::Error },
    #[error(
        "the Docker Engine went away and was not back within {} s (engine_wait)",
        timeout.as_secs()
    )]
    EngineAway {
        timeout: Duration,
        source: docker::Error,
    },
    /// It is made again.
    #[error("the build was interrupted: {0}")]
    ContainerLost(&'static str),
    #[error("the build was interrupted {MAX_LOST_CONTAINERS} times, the last time because {0}")]
    TooManyLostContainers(&'static str),
    #[error("the build was interrupted ({0}), and its project has changed since; ask again")]
    ProjectChanged(&'static str),
    /// It ends as was decided and recorded.
    #[error("{}", .0.sentence)]
    Stopped(Stopped),
    #[error("{0}")]
    Project(#[from] project::Error),
    #[error(transparent)]
    Lost(Error),
}

/// The message for clients about an image that could not be built: the Engine's message about the Dockerfile,
/// never a path of the host.
fn image_sentence(error: &docker::Error) -> String {
    match error {
        docker::Error::Build(message) => explained(message),
        docker::Error::Context(source) => match source.get_ref().and_then(|e| e.downcast_ref()) {
            Some(error @ project::Error::Changed(_)) => error.to_string(),
            _ => "its files could not be read".to_owned(),
        },
        docker::Error::Unreachable { .. } => "the Docker Engine went away".to_owned(),
        docker::Error::Unsupported(sentence) => sentence.clone(),
        _ => "the Docker Engine failed".to_owned(),
    }
}

/// Docker's message about an image that cannot be built. It tells its reader to enable BuildKit, which the
/// configuration forbids if it gets here.
pub(super) fn explained(message: &str) -> String {
    match docker::is_about_buildkit(message) {
        true => format!("{NEEDS_BUILDKIT} (Docker: {message})"),
        false => message.to_owned(),
    }
}

const NEEDS_BUILDKIT: &str = "this Dockerfile needs BuildKit, and the configuration says that the classic builder builds it: set \"builder\" to \"auto\" in mistry.json";

fn container_sentence(error: &docker::Error) -> String {
    match error {
        docker::Error::Unreachable { .. } => ": the Docker Engine went away".to_owned(),
        docker::Error::Unsupported(sentence) => format!(": {sentence}"),
        docker::Error::NoSuchContainer(_) => ": it was removed by another program".to_owned(),
        // The message would contain a path of the host.
        docker::Error::Refused { said, .. } if said.contains("bind source path") => {
            ": what one of its mounts names is not on this host".to_owned()
        }
        docker::Error::NotStarted { said, .. } => format!(": {said}"),
        // A setting of the project cannot be applied: its author needs the Engine's message.
        docker::Error::Refused { said, .. } => format!(": {said}"),
        _ => ": the Docker Engine failed".to_owned(),
    }
}

/// The exit status of `docker run` if it cannot run a container; `None` if the request was not the cause.
pub(super) fn run_status(interruption: &Interruption) -> Option<i64> {
    /// The exit status of `docker run` when the Engine refuses the request.
    const REFUSED: i64 = 125;
    match interruption {
        Interruption::Container { source } => match source {
            docker::Error::NotStarted { code, .. } => Some(*code),
            docker::Error::Refused { .. } => Some(REFUSED),
            _ => None,
        },
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_of_a_failed_image_has_the_reason_without_paths() {
        let interruption = |source| Interruption::Image {
            project: "p".to_owned(),
            source,
        };
        let words =
            interruption(docker::Error::Build("unknown instruction: FRM".to_owned())).to_string();
        assert_eq!(
            words,
            "could not build docker image 'p': unknown instruction: FRM"
        );
        for message in [
            "the --mount option requires BuildKit. Refer to https://docs.docker.com/go/buildkit/ to learn how to build images with BuildKit enabled",
            "dockerfile parse error line 2: classic builder RUN currently does not support any flags",
        ] {
            let sentence = interruption(docker::Error::Build(message.to_owned())).to_string();
            let begin = "could not build docker image 'p': this Dockerfile needs BuildKit, ";
            assert!(sentence.starts_with(begin), "{sentence}");
            assert!(
                sentence.ends_with(&format!(" (Docker: {message})")),
                "{sentence}"
            );
        }
        let away = docker::Error::Unreachable {
            socket: "/secret/place.sock".into(),
            operation: "building".to_owned(),
            source: "refused at /secret".into(),
        };
        assert!(!interruption(away).to_string().contains("secret"));
    }
}
