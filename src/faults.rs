//! Fault points: named places where a test lets the daemon fail.
//!
//! They exist in debug builds alone; in a release build [`point`] is nothing, and the variable is
//! not read. `MISTRY_FAULTS` is a list, `POINT=FAULT[,POINT=FAULT]…`. The points:
//!
//! - `accept`: a connection was accepted, and is not yet served;
//! - `scheduler`: a job is being admitted, the scheduler's lock is held.
//!
//! The faults: `wedge` (the thread goes no further, ever).

/// Fails here if a test wants that.
#[cfg(debug_assertions)]
pub fn point(name: &str) {
    use std::sync::LazyLock;

    static WANTED: LazyLock<String> =
        LazyLock::new(|| std::env::var("MISTRY_FAULTS").unwrap_or_default());
    let wanted = WANTED.split(',').filter_map(|fault| fault.split_once('='));
    for (point, fault) in wanted {
        if point == name && fault == "wedge" {
            loop {
                std::thread::park();
            }
        }
    }
}

/// Nothing.
#[cfg(not(debug_assertions))]
#[inline(always)]
pub fn point(_name: &str) {}
