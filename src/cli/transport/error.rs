//! Errors of fetching artifacts.

use std::io;

use crate::client;

/// An error of fetching artifacts.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The server did not send them.
    #[error(transparent)]
    Server(#[from] client::Error),
    /// The stream ended before its end mark.
    #[error("the transfer of the artifacts broke off; complete files are in the target")]
    Torn(#[source] io::Error),
    /// The stream contains an entry that is not allowed.
    #[error("the artifacts hold an entry that is not allowed, '{0}': {1}")]
    Hostile(String, &'static str),
    /// A file could not be written in the target.
    #[error("could not write '{0}'")]
    Write(String, #[source] io::Error),
    /// The target holds a directory where a file belongs.
    #[error("'{0}' is a directory that is not empty, and a file belongs there; use --clear-target")]
    InTheWay(String),
    /// The artifacts on this host cannot be read.
    #[error("could not read '{0}'")]
    Read(String, #[source] io::Error),
    /// `--clear-target` failed.
    #[error("could not empty the target '{0}'")]
    Clear(String, #[source] io::Error),
    /// The server's report of the build cannot be used with this transport.
    #[error("{0}")]
    Unusable(String),
    /// The program of the transport could not be started.
    #[error("could not run {0}")]
    Spawn(&'static str, #[source] io::Error),
    /// The program of the transport failed; it has printed why.
    #[error("{0} failed with {1}")]
    Child(&'static str, std::process::ExitStatus),
    /// The thread of the transfer panicked or was cancelled.
    #[error("the transfer was given up")]
    Lost(#[source] io::Error),
}
