//! The control of the D-Bus interface for the rest of the daemon: its load, and the way to close it.

use tokio::sync::watch;

/// The load of the interface, and the way to close it.
#[derive(Clone, Debug)]
pub struct BusControl {
    pub(super) is_closed: watch::Sender<bool>,
    pub(super) is_joined: watch::Sender<bool>,
    /// Whether it is known by now if the daemon can be on a bus.
    pub(super) is_connection_known: watch::Sender<bool>,
    pub(super) jobs: watch::Sender<usize>,
    pub(super) busy: watch::Sender<usize>,
}

impl BusControl {
    pub(super) fn new() -> BusControl {
        BusControl {
            is_closed: watch::channel(false).0,
            is_joined: watch::channel(false).0,
            is_connection_known: watch::channel(false).0,
            jobs: watch::channel(0).0,
            // Busy until that is known: a call may be the reason why we were started.
            busy: watch::channel(1).0,
        }
    }

    /// The number of unanswered calls and of jobs whose end is not emitted, updated; plus one for the bus
    /// itself, until it is known whether we are connected to it.
    pub fn busy(&self) -> watch::Receiver<usize> {
        self.busy.subscribe()
    }

    /// Records that it is known whether there is a bus. Only the first call is a change: repeated attempts to
    /// connect must not look like work to code that waits for an idle daemon.
    pub(super) fn mark_connection_known(&self) {
        self.is_connection_known
            .send_if_modified(|is_connection_known| !std::mem::replace(is_connection_known, true));
    }

    /// Leaves the bus for good; returns when the calls that came before are answered. A later call starts the
    /// next process.
    pub async fn close(&self) {
        self.is_closed.send_replace(true);
        let mut is_joined = self.is_joined.subscribe();
        // `self` has the sender.
        let _ = is_joined.wait_for(|is_joined| !is_joined).await;
    }
}
