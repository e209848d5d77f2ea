//! The state that all D-Bus objects share.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::authority::Authority;
use super::bus::Bus;
use super::calls::Calls;
use super::client_handles::ClientHandles;
use super::control::BusControl;
use crate::budget::Client;
use crate::scheduler::{Reader, Scheduler};

/// What does not change while the daemon runs.
#[derive(Clone, Debug)]
pub struct StaticInfo {
    /// The path of the projects.
    pub projects_path: PathBuf,
    /// The path of the builds.
    pub build_path: PathBuf,
    /// The kind of filesystem of the builds.
    pub filesystem: &'static str,
}

/// A request to reload the configuration; the result is sent to the caller.
pub type Reload = oneshot::Sender<Result<(), String>>;

/// Reload requests that may wait for the first of them.
const MAX_RELOADS: usize = 4;

/// The D-Bus interface. Clones share everything.
#[derive(Clone, Debug)]
pub struct Dbus(pub(super) Arc<Shared>);

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) scheduler: Scheduler,
    /// Reads for calls; all clients are on this host.
    pub(super) reader: Reader,
    pub(super) static_info: StaticInfo,
    pub(super) bus: Bus,
    pub(super) authority: Authority,
    /// Set when only users whom polkit allows may see builds.
    pub(super) is_closed: AtomicBool,
    pub(super) calls: Calls,
    pub(super) client_handles: ClientHandles,
    pub(super) control: BusControl,
    pub(super) reloads: mpsc::Sender<Reload>,
    /// Tasks that outlive a call: they send logs and late answers.
    pub(super) tasks: TaskTracker,
    /// Cancelled when the daemon stops: no caller is waited for any more.
    pub(super) ending: CancellationToken,
}

impl Dbus {
    /// Creates an interface to a scheduler; the receiver gets its requests to the daemon.
    pub fn new(
        scheduler: Scheduler,
        static_info: StaticInfo,
        bus: Bus,
    ) -> (Dbus, mpsc::Receiver<Reload>) {
        let (reloads, wanted) = mpsc::channel(MAX_RELOADS);
        let dbus = Dbus(Arc::new(Shared {
            reader: scheduler.reader(Client::Local),
            scheduler,
            static_info,
            bus,
            authority: Authority::of(bus),
            is_closed: AtomicBool::new(false),
            calls: Calls::default(),
            client_handles: ClientHandles::default(),
            control: BusControl::new(),
            reloads,
            tasks: TaskTracker::new(),
            ending: CancellationToken::new(),
        }));
        (dbus, wanted)
    }

    /// Sets whether every user of the host may see builds. A user's own bus is closed to others anyway.
    pub fn open_to_all(&self, is_open: bool) {
        let is_closed = !is_open && self.0.bus == Bus::System;
        self.0.is_closed.store(is_closed, Ordering::Release);
    }

    pub(super) fn is_closed(&self) -> bool {
        self.0.is_closed.load(Ordering::Acquire)
    }

    /// The control of the interface: its load, and the way to close it.
    pub fn control(&self) -> BusControl {
        self.0.control.clone()
    }
}
