//! Whether there may be containers that no build owns.

use parking_lot::{Mutex, MutexGuard};

/// How it stands with them.
#[derive(Debug, Default)]
pub(super) struct Sweeper {
    /// Held for a look or a change: that there may be one is said without waiting for the Engine.
    state: Mutex<SweepState>,
    /// Held while a build looks for them: the others wait for what it finds.
    pub(super) sweeping: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
pub(super) struct SweepState {
    /// None of them runs.
    pub(super) clean: bool,
    /// How often it was said that there may be one.
    pub(super) requests: u64,
    /// A task tries until there are none.
    pub(super) retrying: bool,
}

impl Sweeper {
    pub(super) fn state(&self) -> MutexGuard<'_, SweepState> {
        self.state.lock()
    }
}
