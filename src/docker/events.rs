//! What the Engine tells about itself: that it goes away.

use std::collections::HashMap;
use std::pin::pin;
use std::time::Duration;

use bollard::query_parameters::EventsOptions;
use futures_util::StreamExt;

use super::{Docker, Error};

impl Docker {
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
