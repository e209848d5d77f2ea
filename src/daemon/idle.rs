//! The end for want of work.
//!
//! First the daemon must have been quiet for the whole time that is configured. Then nobody is
//! accepted any more, and only then it is decided: whoever was accepted before that is connected
//! and keeps the daemon alive; whoever comes after it waits in the kernel's queue, which systemd
//! holds, and starts the next life. On the bus it is the same: we leave it, answer what came before,
//! and whoever calls then has us started by the bus. So nobody is lost, whenever they come.

use std::time::Duration;

use tokio::sync::watch;

use crate::scheduler::Activity;
use crate::{dbus, web};

/// The ways in.
pub(super) struct Doors {
    pub(super) web: web::Door,
    pub(super) bus: dbus::Door,
}

/// Returns when there was nothing to do for as long as `limit` says, and nobody is accepted any
/// more. Without a limit it never returns.
pub(super) async fn idle(
    doors: &Doors,
    mut activity: watch::Receiver<Activity>,
    mut limit: watch::Receiver<Option<Duration>>,
) {
    let mut connections = doors.web.connections();
    let mut on_bus = doors.bus.busy();
    loop {
        let is_quiet = is_quiet(&mut connections, &mut on_bus, &mut activity);
        let limited = limit.borrow_and_update().filter(|_| is_quiet);
        let quiet = async {
            match limited {
                Some(limit) => tokio::time::sleep(limit).await,
                None => std::future::pending().await,
            }
        };
        // The senders live in the doors and in the scheduler: these only tell of changes.
        tokio::select! {
            () = quiet => {}
            _ = connections.changed() => continue,
            _ = on_bus.changed() => continue,
            _ = activity.changed() => continue,
            _ = limit.changed() => continue,
        }
        doors.web.close().await;
        doors.bus.close().await;
        if self::is_quiet(&mut connections, &mut on_bus, &mut activity) {
            return;
        }
        doors.bus.open();
        doors.web.open().await;
    }
}

/// The faces are looked at first: whoever is gone from them has already put into the scheduler's
/// hands what they leave behind.
fn is_quiet(
    connections: &mut watch::Receiver<usize>,
    on_bus: &mut watch::Receiver<usize>,
    activity: &mut watch::Receiver<Activity>,
) -> bool {
    *connections.borrow_and_update() == 0
        && *on_bus.borrow_and_update() == 0
        && activity.borrow_and_update().tasks == 0
}
