//! Events of a container while it is watched: it gets a signal, the kernel kills one of its processes for
//! want of memory, or the Engine goes away.

use std::collections::HashMap;

use bollard::errors::Error as Bollard;
use bollard::models::EventMessage;
use bollard::query_parameters::EventsOptions;
use futures_util::StreamExt;
use futures_util::stream::BoxStream;

use super::engine::Docker;
use super::error::Error;

/// The Engine's name for a kill for want of memory.
const OOM_ACTION: &str = "oom";

const WATCHING: &str = "watching whether it goes away";

/// Watches one container, through the Engine that answered first: later requests may be answered by another
/// Engine process, where systemd keeps the socket.
pub struct Watch {
    docker: Docker,
    container: String,
    events: Option<BoxStream<'static, Result<EventMessage, Bollard>>>,
}

/// An event of a watched container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContainerEvent {
    /// The Engine sent it a signal: on a request, or because the Engine itself is stopping.
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
    /// Whether the end of an ended container was its own: the Engine that answers now started it, as far as it
    /// remembers: it stores its last 256 events in memory, and none of an earlier Engine process. Where containers
    /// outlive the Engine, its end was seen.
    ///
    /// # Errors
    /// [`Error::Unreachable`], [`Error::Api`].
    pub async fn has_started(&self, container: &str) -> Result<bool, Error> {
        let operation = "asking whether it started a container";
        self.client(operation).await?;
        if self.dialect().containers_outlive_engine() {
            let state = self.state(operation, container).await?;
            return Ok(state.finished_at.is_some());
        }
        let options = EventsOptions {
            // With an end in the past, the Engine sends only stored events.
            since: Some("0".to_owned()),
            until: Some(jiff::Timestamp::now().as_second().to_string()),
            filters: Some(filters(container, &["start"])),
        };
        let first = self.call(operation, async |docker| {
            docker
                .events(Some(options))
                .boxed()
                .next()
                .await
                .transpose()
        });
        let first = first
            .await?
            .map_err(|error| self.failed(operation, error))?;
        Ok(first.is_some())
    }

    /// A watch over a container. It begins with the first call of `next`.
    pub fn watch(&self, container: &str) -> Watch {
        Watch {
            docker: self.clone(),
            container: container.to_owned(),
            events: None,
        }
    }
}

impl Watch {
    /// Waits for the next event of the container. Cancel-safe.
    ///
    /// # Errors
    /// [`Error::Unreachable`] when the Engine has gone.
    pub async fn next(&mut self) -> Result<ContainerEvent, Error> {
        let events = match &mut self.events {
            Some(events) => events,
            none => {
                let client = self.docker.client(WATCHING).await?;
                let options = EventsOptions {
                    filters: Some(filters(&self.container, &["kill", OOM_ACTION])),
                    ..EventsOptions::default()
                };
                none.insert(client.events(Some(options)).boxed())
            }
        };
        match events.next().await {
            Some(Ok(event)) => Ok(match event.action.as_deref() {
                Some(OOM_ACTION) => ContainerEvent::OutOfMemory,
                _ => ContainerEvent::Signal,
            }),
            ended => {
                // The next call listens to the Engine that is there then.
                self.events = None;
                let source = match ended {
                    Some(Err(error)) => error.into(),
                    _ => "it ended a stream that has no end".into(),
                };
                Err(self.docker.unreachable(WATCHING, source))
            }
        }
    }
}

/// The filter for some events of one container.
fn filters(container: &str, events: &[&str]) -> HashMap<String, Vec<String>> {
    let owned = |values: &[&str]| values.iter().map(|&value| value.to_owned()).collect();
    HashMap::from([
        ("type".to_owned(), owned(&["container"])),
        ("container".to_owned(), owned(&[container])),
        ("event".to_owned(), owned(events)),
    ])
}
