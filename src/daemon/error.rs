//! The errors of the daemon, and their exit statuses.

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use super::args::{self, DEFAULT_ADDRESS};
use crate::{build, config, docker, filesystem, metrics, scheduler, systemd, web};

/// The exit status of a wrong configuration: `EX_CONFIG` of sysexits(3).
pub(super) const EXIT_WRONG_CONFIG: u8 = 78;
/// The exit status of a daemon that stopped as idle and got work too late: `EX_TEMPFAIL` of sysexits(3).
/// mistryd.service starts it again.
pub(super) const EXIT_START_AGAIN: u8 = 75;
/// The exit status of a wrong command line, as clap has it.
pub(super) const EXIT_WRONG_USAGE: u8 = 2;

/// An error that stops the daemon.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error(transparent)]
    NoConfig(#[from] args::NoConfig),
    #[error(transparent)]
    Config(#[from] config::Error),
    #[error(transparent)]
    Inherited(#[from] systemd::Error),
    #[error(transparent)]
    Tokens(#[from] web::TokensError),
    #[error("the configuration '{}' names another {key} than the one in force: restart mistryd for that", path.display())]
    Fixed { key: &'static str, path: PathBuf },
    #[error("a thread ended without a result")]
    Lost,
    #[error("the interface {0} ended unexpectedly")]
    Ended(&'static str),
    #[error(transparent)]
    Filesystem(#[from] filesystem::Error),
    #[error(transparent)]
    Store(#[from] build::Error),
    #[error(transparent)]
    Docker(#[from] docker::Error),
    #[error("DOCKER_HOST: expected unix:///PATH, found '{0}'")]
    DockerHost(String),
    #[error("could not make the metrics")]
    Metrics(#[source] metrics::Error),
    #[error("could not take over the builds of an earlier process")]
    Adoption(#[source] scheduler::Error),
    #[error("--addr: expected HOST:PORT such as {DEFAULT_ADDRESS}, found '{0}'")]
    Address(String),
    #[error("could not listen on '{0}' (--addr takes another address)")]
    Listen(String, #[source] io::Error),
    #[error("could not {0}")]
    System(&'static str, #[source] io::Error),
}

impl Error {
    /// A restart is useless before the configuration is changed.
    pub(super) fn is_configuration(&self) -> bool {
        match self {
            Error::NoConfig(_)
            | Error::Config(_)
            | Error::Inherited(_)
            | Error::Tokens(_)
            | Error::Filesystem(_)
            | Error::DockerHost(_) => true,
            Error::Store(error) => error.is_full(),
            _ => false,
        }
    }

    pub(super) fn exit(&self) -> ExitCode {
        match self {
            error if error.is_configuration() => ExitCode::from(EXIT_WRONG_CONFIG),
            Error::Address(_) => ExitCode::from(EXIT_WRONG_USAGE),
            _ => ExitCode::FAILURE,
        }
    }
}

/// An error with its causes, separated by colons, for users of the host.
pub(super) fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
