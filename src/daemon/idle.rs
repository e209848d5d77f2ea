//! The end for want of work.
//!
//! First the daemon must have been quiet for the whole time that is configured. Then no client is
//! accepted any more, and only then it is decided: a client that was accepted before is connected
//! and keeps the daemon alive; one that comes after it waits in the kernel's queue, which systemd
//! holds, and starts the next process.
//!
//! The bus has no such queue: it has us started once for a call, and where systemd takes us
//! for running then, that start comes to nothing. So systemd is told that we end before the name is
//! given back, and from there is no way back. What came over the bus meanwhile is answered, and where
//! that was more than a question, the daemon asks to be started again.
//!
//! So no client is lost, whenever it comes.

use std::time::Duration;

use tokio::sync::watch;

use super::notify::notify;
use crate::scheduler::Activity;
use crate::{dbus, systemd, web};

/// The status that systemd shows.
const ENDING: &str = "nothing to do; the next client starts it";

/// How clients reach the daemon.
pub(super) struct Interfaces {
    pub(super) web: web::AcceptControl,
    pub(super) bus: dbus::BusControl,
}

/// How the daemon was when the last interface was closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Closed {
    /// There was nothing to do.
    Idle,
    /// A client had come at the last moment.
    Busy,
}

/// Returns when there was nothing to do for as long as `limit` says, and no client is accepted any
/// more. Without a limit it never returns.
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
        // The senders live in the interfaces and in the scheduler: these only tell of changes.
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

/// The interfaces are looked at first: a client that is gone from them has already handed to the
/// scheduler what it leaves behind.
fn is_quiet(
    connections: &mut watch::Receiver<usize>,
    on_bus: &mut watch::Receiver<usize>,
    activity: &mut watch::Receiver<Activity>,
) -> bool {
    *connections.borrow_and_update() == 0
        && *on_bus.borrow_and_update() == 0
        && activity.borrow_and_update().tasks == 0
}
