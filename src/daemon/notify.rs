//! Notifications to systemd. They are sent on a thread that may block, and a failure is logged once.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

/// Notifies systemd, on a thread that may wait for it.
pub(super) async fn notify(send: impl FnOnce() -> io::Result<()> + Send + 'static) {
    if let Ok(Err(error)) = tokio::task::spawn_blocking(send).await {
        log_failed_notification(&error);
    }
}

/// Logs that systemd cannot be notified: once, because every notification fails then.
pub(super) fn log_failed_notification(error: &io::Error) {
    static IS_LOGGED: AtomicBool = AtomicBool::new(false);
    if !IS_LOGGED.swap(true, Ordering::Relaxed) {
        tracing::warn!(
            error = error as &dyn std::error::Error,
            "could not notify systemd"
        );
    }
}
