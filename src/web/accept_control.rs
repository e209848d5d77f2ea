//! Control of the accept loops by the rest of the daemon.
//!
//! The watchdog calls [`AcceptControl::health_check`]. The daemon calls [`AcceptControl::pause`] before it
//! decides whether to exit because it is idle: a client that connects meanwhile waits in the kernel's queue,
//! either for this process, if it resumes, or for the next.

use parking_lot::{Mutex, MutexGuard};

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot, watch};

/// A command to an accept loop, and where the loop acknowledges it.
#[derive(Debug)]
pub(super) struct AcceptRequest {
    pub(super) command: AcceptCommand,
    pub(super) acknowledge: oneshot::Sender<()>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AcceptCommand {
    /// Only acknowledge.
    HealthCheck,
    /// Accept no connections.
    Pause,
    /// Accept connections again.
    Resume,
}

/// The accept loops of one server. Clones share everything.
#[derive(Clone, Debug)]
pub struct AcceptControl(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    connections: watch::Sender<usize>,
    /// One per accept loop. Held for a push or a copy.
    loops: Mutex<Vec<mpsc::Sender<AcceptRequest>>>,
}

/// Counts a connection until it is dropped.
#[derive(Debug)]
pub(super) struct ConnectionGuard(Arc<Shared>);

impl AcceptControl {
    pub(super) fn new() -> AcceptControl {
        AcceptControl(Arc::new(Shared {
            connections: watch::channel(0).0,
            loops: Mutex::default(),
        }))
    }

    /// The number of connections, now and whenever it changes.
    pub fn connections(&self) -> watch::Receiver<usize> {
        self.0.connections.subscribe()
    }

    /// Returns when every accept loop has answered. It never returns while one of them hangs.
    pub async fn health_check(&self) {
        self.send(AcceptCommand::HealthCheck).await;
    }

    /// No connection is accepted after this returns, until [`AcceptControl::resume`].
    pub async fn pause(&self) {
        self.send(AcceptCommand::Pause).await;
    }

    /// Accepts connections again.
    pub async fn resume(&self) {
        self.send(AcceptCommand::Resume).await;
    }

    /// Registers an accept loop, which must receive commands.
    pub(super) fn register(&self) -> mpsc::Receiver<AcceptRequest> {
        // Each sender waits for the acknowledgement, and there are few of them.
        let (sender, receiver) = mpsc::channel(1);
        self.loops().push(sender);
        receiver
    }

    /// Counts a connection until the value is dropped.
    pub(super) fn count_connection(&self) -> ConnectionGuard {
        self.0.connections.send_modify(|count| *count += 1);
        ConnectionGuard(self.0.clone())
    }

    fn loops(&self) -> MutexGuard<'_, Vec<mpsc::Sender<AcceptRequest>>> {
        self.0.loops.lock()
    }

    async fn send(&self, command: AcceptCommand) {
        let loops = self.loops().clone();
        for sender in loops {
            let (acknowledge, acknowledged) = oneshot::channel();
            let request = AcceptRequest {
                command,
                acknowledge,
            };
            // A loop that has ended accepts nothing. The daemon learns of its end elsewhere.
            if sender.send(request).await.is_ok() {
                let _ = acknowledged.await;
            }
        }
    }
}

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        self.0.connections.send_modify(|count| *count -= 1);
    }
}
