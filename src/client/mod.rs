//! The other end of `api.rs`: asks a server for things over TCP or a unix socket.
//!
//! Each request of a [`Client`] has a connection of its own, so nothing is left half-used when one breaks.
//! Answers are read in bounded memory. Nothing here retries, prints or ends a program: what
//! to do about an [`Error`] is the caller's business; [`Error::is_passing`] says whether the
//! same question may be answered later.

mod address;
mod connection;
mod error;
mod events;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod http;
#[cfg(test)]
pub(crate) mod scripted;

pub use address::{Address, AddressError, DEFAULT_HOST, DEFAULT_PORT, DEFAULT_SOCKET};
pub use connection::Answer;
pub use error::{Backoff, Error, Refusal};
pub use events::{Event, Events};
pub use http::Client;

use serde::Deserialize;

use crate::api::{JobState, LogEnd};
use crate::build::{BuildInfo, NO_EXIT_CODE, Outcome, State};
use crate::job::JobId;
use crate::project::ProjectName;
pub(crate) use error::nonsense;

/// A build that is over: its info, and the same as the server wrote it.
#[derive(Clone, Debug)]
pub struct Finished {
    /// As we understand it.
    pub info: BuildInfo,
    /// As it came, with fields that we may not know.
    pub raw: serde_json::Value,
}

impl Finished {
    /// Reads a build info; one of the first mistry is completed from what it says itself.
    ///
    /// # Errors
    /// [`Error::Nonsense`].
    pub fn read(raw: serde_json::Value) -> Result<Finished, Error> {
        let mut info = BuildInfo::deserialize(&raw).map_err(nonsense)?;
        if let Some((project, id)) = job_of(&info.url) {
            if info.id.is_empty() {
                info.id = id.to_string();
            }
            if info.project.is_empty() {
                info.project = project.to_string();
            }
        }
        // The first mistry answers only when the build is over and says no state.
        if raw.get("State").is_none() {
            info.state = State::Ready;
        }
        if info.state == State::Ready && info.outcome.is_none() {
            info.outcome = Some(match (info.exit_code, info.err_build.as_str()) {
                (0, "") => Outcome::Succeeded,
                (NO_EXIT_CODE | 0, _) => Outcome::Errored,
                _ => Outcome::Failed,
            });
        }
        Ok(Finished { info, raw })
    }
}

/// What a server answers that was asked for a job.
#[derive(Debug)]
pub enum Submitted {
    /// A stream of states and lines that ends with the result.
    Stream(Box<Events>),
    /// The build info at once: a server that knows no streams.
    Finished(Box<Finished>),
}

/// Which builds `GET /index/` shall list; empty texts mean all.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Of this project.
    pub project: String,
    /// Of this group.
    pub group: String,
    /// `pending` or `ready`.
    pub state: String,
}

impl Event {
    /// A `state` event.
    ///
    /// # Errors
    /// [`Error::Nonsense`].
    pub fn state(&self) -> Result<JobState, Error> {
        serde_json::from_str(&self.data).map_err(nonsense)
    }

    /// A `result` event.
    ///
    /// # Errors
    /// [`Error::Nonsense`].
    pub fn result(&self) -> Result<Finished, Error> {
        Finished::read(serde_json::from_str(&self.data).map_err(nonsense)?)
    }

    /// An `end` event.
    ///
    /// # Errors
    /// [`Error::Nonsense`].
    pub fn end(&self) -> Result<LogEnd, Error> {
        serde_json::from_str(&self.data).map_err(nonsense)
    }
}

/// Project and id of `job/P/ID`, whatever stands before it.
pub fn job_of(url: &str) -> Option<(ProjectName, JobId)> {
    let path = url.split(['?', '#']).next()?;
    let mut parts = path.rsplit('/');
    let id = parts.next()?.parse().ok()?;
    let project = parts.next()?.parse().ok()?;
    (parts.next()? == "job").then_some((project, id))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    #[test]
    fn a_job_is_found_in_an_address() {
        let (project, id) = job_of(&format!("http://h:1/job/yarn/{ID}?wait")).unwrap();
        assert_eq!((project.as_str(), id.to_string().as_str()), ("yarn", ID));
        for wrong in ["", "job", "/job/p/xyz", &format!("/jobs/p/{ID}"), ID] {
            assert!(job_of(wrong).is_none(), "{wrong}");
        }
    }

    #[test]
    fn pauses_grow_and_stop_growing() {
        let mut backoff = Backoff::default();
        let pauses: Vec<u128> = (0..7).map(|_| backoff.pause().as_millis()).collect();
        assert_eq!(pauses, [100, 200, 400, 800, 1600, 2000, 2000]);
    }
}
