//! The watchdog: systemd is told that the daemon is alive by a loop that has proved it.
//!
//! Each time every accept loop has answered and the scheduler has taken and given back its lock.
//! Whatever hangs there hangs this loop too, nothing is told any more, and systemd starts another
//! daemon; what was accepted is on disk.

use crate::scheduler::Scheduler;
use crate::systemd;
use crate::web::Door;

/// Tells systemd as often as it wants to be told; never returns.
pub(super) async fn keep(door: &Door, scheduler: &Scheduler) {
    let Some(limit) = systemd::watchdog() else {
        return std::future::pending().await;
    };
    // Half of it, as sd_watchdog_enabled(3) recommends.
    let mut ticks = tokio::time::interval(limit / 2);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        door.beat().await;
        match scheduler.beat().await {
            Ok(()) => super::tell_systemd(systemd::alive).await,
            Err(error) => tracing::error!(
                error = &error as &dyn std::error::Error,
                "the scheduler does not answer the watchdog"
            ),
        }
    }
}
