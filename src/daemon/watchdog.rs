//! The watchdog: systemd is told that the daemon is alive by a loop that has proved it.
//!
//! Each time every accept loop has answered and the scheduler has taken and given back its lock.
//! Whatever hangs there hangs this loop too, nothing is told any more, and systemd starts another
//! daemon; what was accepted is on disk.

use std::convert::Infallible;

use tokio::sync::oneshot;

use super::notify::log_unheard;
use crate::scheduler::Scheduler;
use crate::systemd;
use crate::web::AcceptControl;

/// Notifies systemd as often as it wants to be notified.
pub(super) async fn keep_alive(
    accept_control: &AcceptControl,
    scheduler: &Scheduler,
) -> Infallible {
    let Some(limit) = systemd::watchdog() else {
        return std::future::pending().await;
    };
    // Half of it, as sd_watchdog_enabled(3) recommends.
    let mut ticks = tokio::time::interval(limit / 2);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        accept_control.health_check().await;
        let (scheduler, (beaten, beating)) = (scheduler.clone(), oneshot::channel());
        // A thread of its own: those of the runtime may all be busy with slow readers, which is no
        // reason to be killed. Its answer is its last word; one that hangs ends with the process.
        let thread = std::thread::Builder::new()
            .name("watchdog".to_owned())
            .spawn(move || {
                scheduler.check_health();
                let _ = beaten.send(systemd::alive());
            });
        match thread {
            Ok(_) => {
                if let Ok(Err(error)) = beating.await {
                    log_unheard(&error);
                }
            }
            Err(error) => tracing::error!(
                error = &error as &dyn std::error::Error,
                "there is no thread for the watchdog"
            ),
        }
    }
}
