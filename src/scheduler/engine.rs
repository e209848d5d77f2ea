//! Whether the Docker Engine is there, as the journal and the status are told.

use std::time::Duration;

use super::error::Error;
use super::event::publish_engine;
use super::shared::Shared;

/// When an Engine that is away is asked again whether it is there.
pub(super) const ENGINE_RETRY_INTERVAL: Duration = Duration::from_millis(500);

impl Shared {
    /// Asks whether the Engine is there, and tells when that has changed.
    pub(super) async fn engine_there(&self) -> Result<(), Error> {
        let answer = self.docker.ping().await;
        if self.status.set_engine_away(answer.is_err()) {
            publish_engine(answer.as_ref().err());
        }
        answer.map_err(Error::EngineAway)
    }
}
