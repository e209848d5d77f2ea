//! The errors that end the program, and their exit statuses.

use std::io;

use super::transport;
use crate::client;

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
            Error::Refused(_) => 3,
            Error::Fetch(_) => 4,
            Error::TimedOut(_) => 5,
            Error::Stopped(_) => 6,
            Error::Server(error) => match error {
                client::Error::Response(response) if (400..500).contains(&response.status) => 3,
                client::Error::Response(response) if response.status == 503 => 3,
                client::Error::Forbidden { .. } => 3,
                client::Error::Response(_)
                | client::Error::Connect { .. }
                | client::Error::Broken(_)
                | client::Error::InvalidResponse(_) => 7,
            },
            Error::Interrupted(_) => 130,
            // `mistry list | head` is not an error.
            Error::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => 0,
            Error::Output(_) => 4,
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
