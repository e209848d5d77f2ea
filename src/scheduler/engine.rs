//! Checks whether the Docker Engine answers, for the journal and the status.

use std::time::Duration;

use super::error::Error;
use super::event::publish_engine;
use super::shared::Shared;

/// How often an Engine that is away is asked again.
pub(super) const ENGINE_RETRY_INTERVAL: Duration = Duration::from_millis(500);

impl Shared {
    /// Checks whether the Engine answers, and publishes a change.
    pub(super) async fn engine_there(&self) -> Result<(), Error> {
        let answer = self.docker.ping().await;
        if self.status.set_engine_away(answer.is_err()) {
            publish_engine(answer.as_ref().err());
        }
        answer.map_err(Error::EngineAway)
    }
}
