//! How the rest of the daemon sees the interface on the bus: how busy it is, and the way to close it.

use tokio::sync::watch;

/// How much the interface is answering, and the way to close it.
#[derive(Clone, Debug)]
pub struct BusControl {
    pub(super) is_closed: watch::Sender<bool>,
    pub(super) is_joined: watch::Sender<bool>,
    /// Whether it is known by now if there is a bus for us.
    pub(super) is_settled: watch::Sender<bool>,
    pub(super) jobs: watch::Sender<usize>,
    pub(super) busy: watch::Sender<usize>,
}

impl BusControl {
    pub(super) fn new() -> BusControl {
        BusControl {
            is_closed: watch::channel(false).0,
            is_joined: watch::channel(false).0,
            is_settled: watch::channel(false).0,
            jobs: watch::channel(0).0,
            // As long as nothing is known: a call may be why we were started.
            busy: watch::channel(1).0,
        }
    }

    /// Calls that are not answered and jobs whose end is not told, now and from now on; and one for the
    /// bus itself, until it is known whether we are on it.
    pub fn busy(&self) -> watch::Receiver<usize> {
        self.busy.subscribe()
    }

    /// Notes that it is known whether there is a bus for us. Only the first time is a change: a bus
    /// that is tried again and again must not look like work to code that waits for an idle daemon.
    pub(super) fn settle(&self) {
        self.is_settled
            .send_if_modified(|is_settled| !std::mem::replace(is_settled, true));
    }

    /// Leaves the bus for good; returns when what had come by then is answered. A call after that
    /// starts the next process.
    pub async fn close(&self) {
        self.is_closed.send_replace(true);
        let mut is_joined = self.is_joined.subscribe();
        // The sender is ours.
        let _ = is_joined.wait_for(|is_joined| !is_joined).await;
    }
}
