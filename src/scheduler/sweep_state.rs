//! Whether there may be containers without a build that owns them.

use parking_lot::{Mutex, MutexGuard};

/// The state of such containers.
#[derive(Debug, Default)]
pub(super) struct Sweeper {
    /// Locked briefly: marking that there may be one must not wait for the Engine.
    state: Mutex<SweepState>,
    /// Held while a build sweeps: the other builds wait for its result.
    pub(super) sweeping: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
pub(super) struct SweepState {
    /// None of them runs.
    pub(super) clean: bool,
    /// How often it was marked that there may be one.
    pub(super) requests: u64,
    /// A background task tries until there are none.
    pub(super) retrying: bool,
}

impl Sweeper {
    pub(super) fn state(&self) -> MutexGuard<'_, SweepState> {
        self.state.lock()
    }
}
