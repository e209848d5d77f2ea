//! The accept loops, seen from outside: who is connected, and whether they go round.
//!
//! [`Door::beat`] is for the watchdog. [`Door::close`] is for the end for want of work: first
//! no client is accepted any more, then it is decided; one that comes meanwhile waits in the kernel's
//! queue, for this process if the door is opened again, else for the next.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{mpsc, oneshot, watch};

/// What an accept loop is asked, and where it says that it has heard.
#[derive(Debug)]
pub(super) struct Ask {
    pub(super) what: What,
    pub(super) heard: oneshot::Sender<()>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum What {
    /// To answer, and nothing else.
    Beat,
    /// To accept no client.
    Close,
    /// To accept again.
    Open,
}

/// The accept loops of one server. Clones share everything.
#[derive(Clone, Debug)]
pub struct Door(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    connections: watch::Sender<usize>,
    /// One per accept loop; std, held for a push or a copy.
    loops: Mutex<Vec<mpsc::Sender<Ask>>>,
}

/// A connection, counted while it is held.
#[derive(Debug)]
pub(super) struct Counted(Arc<Shared>);

impl Door {
    pub(super) fn new() -> Door {
        Door(Arc::new(Shared {
            connections: watch::channel(0).0,
            loops: Mutex::default(),
        }))
    }

    /// How many are connected, now and from now on.
    pub fn connections(&self) -> watch::Receiver<usize> {
        self.0.connections.subscribe()
    }

    /// Returns when every accept loop has answered: it goes round. It never returns while one does
    /// not.
    pub async fn beat(&self) {
        self.ask(What::Beat).await;
    }

    /// From its return on no client is accepted, until [`Door::open`].
    pub async fn close(&self) {
        self.ask(What::Close).await;
    }

    /// Accepts again.
    pub async fn open(&self) {
        self.ask(What::Open).await;
    }

    /// Where one more accept loop is asked.
    pub(super) fn enter(&self) -> mpsc::Receiver<Ask> {
        // One who asks waits for the answer, and few ask.
        let (asks, asked) = mpsc::channel(1);
        self.loops().push(asks);
        asked
    }

    /// Counts a connection until the value is dropped.
    pub(super) fn count(&self) -> Counted {
        self.0.connections.send_modify(|count| *count += 1);
        Counted(self.0.clone())
    }

    fn loops(&self) -> std::sync::MutexGuard<'_, Vec<mpsc::Sender<Ask>>> {
        self.0.loops.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn ask(&self, what: What) {
        let loops = self.loops().clone();
        for asks in loops {
            let (heard, hearing) = oneshot::channel();
            // A loop that has ended accepts no client, and its end is told elsewhere.
            if asks.send(Ask { what, heard }).await.is_ok() {
                let _ = hearing.await;
            }
        }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.connections.send_modify(|count| *count -= 1);
    }
}
