//! A flag that stops work on a tree early.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::io::Errno;

/// Stops work on a tree early, from another thread. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// Requests the work to stop soon.
    pub fn ask(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// True once that was requested.
    pub fn is_asked(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// # Errors
    /// `CANCELED` once that was requested.
    pub(super) fn check(&self) -> Result<(), Errno> {
        match self.is_asked() {
            true => Err(Errno::CANCELED),
            false => Ok(()),
        }
    }
}
