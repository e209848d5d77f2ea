//! What the Engine tells about itself: who signalled a container, and that it goes away.

use std::collections::HashMap;
use std::pin::pin;
use std::time::{Duration, SystemTime};

use bollard::query_parameters::EventsOptions;
use futures_util::StreamExt;

use super::{Docker, Error};

impl Docker {
    /// Whether a container was signalled through the Engine: by somebody who asked for it, or by
    /// the Engine itself when it goes down. A process that is killed from inside is not.
    ///
    /// # Errors
    /// [`Error::Unreachable`], [`Error::Api`].
    pub async fn was_signalled(&self, container: &str) -> Result<bool, Error> {
        let doing = "asking who ended a container";
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let now = now.unwrap_or_default();
        let options = EventsOptions {
            // The Engine remembers its last events; those until now end the answer.
            since: Some("1".to_owned()),
            until: Some(format!("{}.{:09}", now.as_secs(), now.subsec_nanos())),
            filters: Some(HashMap::from([
                ("container".to_owned(), vec![container.to_owned()]),
                ("event".to_owned(), vec!["kill".to_owned()]),
            ])),
        };
        let first = self.call(doing, async |docker| {
            pin!(docker.events(Some(options))).next().await.transpose()
        });
        let first = first.await?.map_err(|e| self.failed(doing, e))?;
        Ok(first.is_some())
    }

    /// Why no Engine answers any more, when it goes away within `patience`.
    pub async fn goes_away(&self, patience: Duration) -> Option<Error> {
        let doing = "watching whether it goes away";
        let client = match self.client(doing).await {
            Ok(client) => client,
            Err(error) => return Some(error),
        };
        let options = EventsOptions {
            // Of a kind of which there are none: all that is waited for is the end.
            filters: Some(HashMap::from([(
                "type".to_owned(),
                vec!["plugin".to_owned()],
            )])),
            ..EventsOptions::default()
        };
        let mut events = pin!(client.events(Some(options)));
        let ended = async { while let Some(Ok(_)) = events.next().await {} };
        match tokio::time::timeout(patience, ended).await {
            Ok(()) => {
                let source = "it ended a stream that has no end".into();
                Some(self.unreachable(doing, source))
            }
            Err(_) => None,
        }
    }
}
