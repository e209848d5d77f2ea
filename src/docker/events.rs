//! What happens to a container while it is watched: it is sent a signal, the kernel kills one of its
//! processes for want of memory, or the Engine goes away.

use std::collections::HashMap;

use bollard::errors::Error as Bollard;
use bollard::models::EventMessage;
use bollard::query_parameters::EventsOptions;
use futures_util::StreamExt;
use futures_util::stream::BoxStream;

use super::{Docker, Error};

/// The Engine's name for a kill for want of memory.
const OOM: &str = "oom";

const DOING: &str = "watching whether it goes away";

/// Listens to one container, and to the Engine that it was asked of: what is asked later may be
/// answered by the next one, where systemd keeps the socket.
pub struct Watch {
    docker: Docker,
    container: String,
    events: Option<BoxStream<'static, Result<EventMessage, Bollard>>>,
}

/// What happened to a watched container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Happening {
    /// The Engine sent it a signal: as somebody asked for, or because the Engine itself goes down.
    Signal,
    /// The kernel killed one of its processes for want of memory.
    OutOfMemory,
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
    /// Waits for the next thing that happens to the container. May be dropped and asked again.
    ///
    /// # Errors
    /// [`Error::Unreachable`] when the Engine has gone.
    pub async fn next(&mut self) -> Result<Happening, Error> {
        let events = match &mut self.events {
            Some(events) => events,
            none => {
                let client = self.docker.client(DOING).await?;
                let filters = [
                    ("type", vec!["container".to_owned()]),
                    ("container", vec![self.container.clone()]),
                    ("event", vec!["kill".to_owned(), OOM.to_owned()]),
                ];
                let filters = filters.map(|(key, values)| (key.to_owned(), values));
                let options = EventsOptions {
                    filters: Some(HashMap::from(filters)),
                    ..EventsOptions::default()
                };
                none.insert(client.events(Some(options)).boxed())
            }
        };
        match events.next().await {
            Some(Ok(event)) => Ok(match event.action.as_deref() {
                Some(OOM) => Happening::OutOfMemory,
                _ => Happening::Signal,
            }),
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
