//! What befalls a container from outside while somebody listens: that it is sent a signal, and that
//! the Engine goes away.

use std::collections::HashMap;

use bollard::errors::Error as Bollard;
use bollard::models::EventMessage;
use bollard::query_parameters::EventsOptions;
use futures_util::StreamExt;
use futures_util::stream::BoxStream;

use super::{Docker, Error};

const DOING: &str = "watching whether it goes away";

/// Listens to one container, and to the Engine that it was asked of: what is asked later may be
/// answered by the next one, where systemd keeps the socket.
pub struct Watch {
    docker: Docker,
    container: String,
    events: Option<BoxStream<'static, Result<EventMessage, Bollard>>>,
}

impl std::fmt::Debug for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut shown = f.debug_struct("Watch");
        shown.field("container", &self.container).finish()
    }
}

impl Docker {
    /// A watch over a container. It begins when it is asked first.
    pub fn watch(&self, container: &str) -> Watch {
        Watch {
            docker: self.clone(),
            container: container.to_owned(),
            events: None,
        }
    }
}

impl Watch {
    /// Waits until somebody sends the container a signal, as an Engine does that goes down. May be
    /// dropped and asked again.
    ///
    /// # Errors
    /// [`Error::Unreachable`] when the Engine has gone.
    pub async fn signal(&mut self) -> Result<(), Error> {
        let events = match &mut self.events {
            Some(events) => events,
            none => {
                let client = self.docker.client(DOING).await?;
                let filters = [
                    ("type", "container"),
                    ("container", &self.container),
                    ("event", "kill"),
                ];
                let filters = filters.map(|(key, value)| (key.to_owned(), vec![value.to_owned()]));
                let options = EventsOptions {
                    filters: Some(HashMap::from(filters)),
                    ..EventsOptions::default()
                };
                none.insert(client.events(Some(options)).boxed())
            }
        };
        match events.next().await {
            Some(Ok(_)) => Ok(()),
            ended => {
                // Whoever asks again listens to the Engine that is there then.
                self.events = None;
                let source = match ended {
                    Some(Err(error)) => error.into(),
                    _ => "it ended a stream that has no end".into(),
                };
                Err(self.docker.unreachable(DOING, source))
            }
        }
    }
}
