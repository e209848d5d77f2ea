//! The errors that end the program, and their exit statuses.

use std::io;

use super::transport;
use crate::client;

/// The request was refused.
const EXIT_REFUSED: u8 = 3;
/// The artifacts could not be fetched, or standard output could not be written to.
const EXIT_NOT_DELIVERED: u8 = 4;
/// No server could be reached, or it gave no valid answer.
pub const EXIT_NO_SERVER: u8 = 7;

/// An error that ends the program. The variant decides the exit status.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The command line is wrong.
    #[error("{0}")]
    Usage(String),
    /// The build failed; the end of its output has been printed.
    #[error("{0}")]
    BuildFailed(String),
    /// The request was refused, by the server or by this program.
    #[error("{0}")]
    Refused(String),
    /// The artifacts could not be fetched.
    #[error("could not fetch the artifacts")]
    Fetch(#[source] transport::Error),
    /// `--timeout` ran out.
    #[error("{0}")]
    TimedOut(String),
    /// A user or a deadline stopped the build.
    #[error("{0}")]
    Stopped(String),
    /// The server could not be reached, or its response was an error or invalid.
    #[error(transparent)]
    Server(client::Error),
    /// Ctrl-C.
    #[error("{0}")]
    Interrupted(String),
    /// Standard output cannot be written to.
    #[error("could not write to standard output")]
    Output(#[source] io::Error),
}

impl Error {
    /// The exit status; the table is in the documentation of [`super`].
    pub fn exit_status(&self) -> u8 {
        match self {
            Error::BuildFailed(_) => 1,
            Error::Usage(_) => 2,
            Error::Refused(_) => EXIT_REFUSED,
            // Neither has the artifacts or the output come to where they were wanted.
            Error::Fetch(_) => EXIT_NOT_DELIVERED,
            Error::TimedOut(_) => 5,
            Error::Stopped(_) => 6,
            Error::Server(error) => match error {
                client::Error::Response(response)
                    if (400..500).contains(&response.status) || response.status == 503 =>
                {
                    EXIT_REFUSED
                }
                client::Error::Forbidden { .. } => EXIT_REFUSED,
                client::Error::Response(_)
                | client::Error::Connect { .. }
                | client::Error::Broken(_)
                | client::Error::InvalidResponse(_) => EXIT_NO_SERVER,
            },
            Error::Interrupted(_) => 130,
            // `mistry list | head` is not an error.
            Error::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => 0,
            Error::Output(_) => EXIT_NOT_DELIVERED,
        }
    }

    /// The error and its causes in one line, separated by colons.
    pub(super) fn line(&self) -> String {
        let mut line = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            let text = error.to_string();
            if !line.ends_with(&text) {
                line.push_str(": ");
                line.push_str(&text);
            }
            cause = error.source();
        }
        line
    }
}

impl From<client::Error> for Error {
    fn from(error: client::Error) -> Error {
        Error::Server(error)
    }
}

impl From<transport::Error> for Error {
    fn from(error: transport::Error) -> Error {
        Error::Fetch(error)
    }
}
