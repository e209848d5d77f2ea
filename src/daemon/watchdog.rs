//! The watchdog: a loop that checks the daemon's health notifies systemd that it is alive.
//!
//! Before each notification every accept loop has answered and the scheduler has taken and released its lock.
//! If one of them hangs, this loop hangs too, no notification is sent any more, and systemd starts another
//! daemon; accepted jobs are on disk.

use std::convert::Infallible;

use tokio::sync::oneshot;

use super::notify::log_failed_notification;
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
        // A separate thread: those of the runtime may all be busy with slow readers, which is no reason to be
        // killed. It exits after its answer; one that hangs ends with the process.
        let thread = std::thread::Builder::new()
            .name("watchdog".to_owned())
            .spawn(move || {
                scheduler.check_health();
                let _ = beaten.send(systemd::alive());
            });
        match thread {
            Ok(_) => {
                if let Ok(Err(error)) = beating.await {
                    log_failed_notification(&error);
                }
            }
            Err(error) => tracing::error!(
                error = &error as &dyn std::error::Error,
                "there is no thread for the watchdog"
            ),
        }
    }
}
