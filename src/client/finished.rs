//! A finished build, as the server reports it.

use serde::Deserialize;

use super::Error;
use super::job_url::parse_job_url;
use crate::build::{BuildInfo, NO_EXIT_CODE};
use crate::job::{Outcome, State};

/// A finished build: its info, parsed and as the server sent it.
#[derive(Clone, Debug)]
pub struct Finished {
    /// The fields that this client knows.
    pub info: BuildInfo,
    /// The JSON of the server, with fields that this client may not know.
    pub raw: serde_json::Value,
}

impl Finished {
    /// Reads a build info; fields that mistry 1 does not send are derived from those it sends.
    ///
    /// # Errors
    /// [`Error::InvalidResponse`].
    pub fn read(raw: serde_json::Value) -> Result<Finished, Error> {
        let mut info = BuildInfo::deserialize(&raw)?;
        if let Some((project, id)) = parse_job_url(&info.url) {
            if info.id.is_empty() {
                info.id = id.to_string();
            }
            if info.project.is_empty() {
                info.project = project.to_string();
            }
        }
        // Mistry 1 answers only when the build is finished, and sends no state.
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
