//! A finished build, as the server reports it.

use serde::Deserialize;

use super::Error;
use super::job_url::parse_job_url;
use crate::api::BuildView;
use crate::job::State;

/// A finished build: its info, parsed and as the server sent it.
#[derive(Clone, Debug)]
pub struct Finished {
    /// The fields that this client knows.
    pub info: BuildView,
    /// The JSON of the server, with fields that this client may not know.
    pub raw: serde_json::Value,
}

impl Finished {
    /// Reads a build info; fields that mistry 1 does not send are derived from those it sends.
    ///
    /// # Errors
    /// [`Error::InvalidResponse`].
    pub fn read(raw: serde_json::Value) -> Result<Finished, Error> {
        let mut info = BuildView::deserialize(&raw)?;
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
        if info.state == State::Ready {
            info.complete_outcome();
        }
        Ok(Finished { info, raw })
    }
}
