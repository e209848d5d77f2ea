//! Stops an idle daemon.
//!
//! First the daemon must have been idle for the whole configured time. Then it accepts no clients any more,
//! and only then it decides: a client that was accepted before is connected and keeps the daemon alive; a
//! later one waits in the kernel's queue, which systemd holds, and starts the next process.
//!
//! The bus has no such queue: it asks systemd to start the daemon once for a call, and if systemd takes the
//! daemon for running then, that start has no effect. So systemd is notified of the end before the name is
//! released, and from there the daemon must exit. Calls that came meanwhile are answered, and if one of them
//! was more than a question, the daemon asks to be restarted.
//!
//! So no client is lost, whenever it connects.

use std::time::Duration;

use tokio::sync::watch;

use super::notify::notify;
use crate::scheduler::Activity;
use crate::{dbus, systemd, web};

/// The status text in systemd.
const ENDING: &str = "nothing to do; the next client starts it";

/// The daemon's interfaces.
pub(super) struct Interfaces {
    pub(super) web: web::AcceptControl,
    pub(super) bus: dbus::BusControl,
}

/// The state of the daemon when the last interface was closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Closed {
    /// There was no work.
    Idle,
    /// A client had connected at the last moment.
    Busy,
}

/// Returns when there was no work for as long as `limit` says, and no client is accepted any more. Without a
/// limit it never returns.
pub(super) async fn close_when_idle(
    interfaces: &Interfaces,
    mut activity: watch::Receiver<Activity>,
    mut limit: watch::Receiver<Option<Duration>>,
) -> Closed {
    let mut connections = interfaces.web.connections();
    let mut on_bus = interfaces.bus.busy();
    loop {
        let is_quiet = is_quiet(&mut connections, &mut on_bus, &mut activity);
        let limited = limit.borrow_and_update().filter(|_| is_quiet);
        let quiet = async {
            match limited {
                Some(limit) => tokio::time::sleep(limit).await,
                None => std::future::pending().await,
            }
        };
        // The senders are in the interfaces and in the scheduler; the branches only wait for changes.
        tokio::select! {
            () = quiet => {}
            _ = connections.changed() => continue,
            _ = on_bus.changed() => continue,
            _ = activity.changed() => continue,
            _ = limit.changed() => continue,
        }
        interfaces.web.pause().await;
        if self::is_quiet(&mut connections, &mut on_bus, &mut activity) {
            notify(|| systemd::stopping(ENDING)).await;
            interfaces.bus.close().await;
            return match self::is_quiet(&mut connections, &mut on_bus, &mut activity) {
                true => Closed::Idle,
                false => Closed::Busy,
            };
        }
        interfaces.web.resume().await;
    }
}

/// The interfaces are checked first: a client that has left them has already passed its work to the
/// scheduler.
fn is_quiet(
    connections: &mut watch::Receiver<usize>,
    on_bus: &mut watch::Receiver<usize>,
    activity: &mut watch::Receiver<Activity>,
) -> bool {
    *connections.borrow_and_update() == 0
        && *on_bus.borrow_and_update() == 0
        && activity.borrow_and_update().tasks == 0
}
