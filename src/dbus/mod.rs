//! The interface on the bus: jobs under control of programs on this host.
//!
//! `docs/dbus-api.md` is the contract. A method parses, calls the scheduler, maps the error and
//! answers; nothing here decides about builds.
//!
//! | path | interface | file |
//! | --- | --- | --- |
//! | `/org/mistry/Mistry1` | `org.mistry.Mistry1.Manager`, `ObjectManager` | `manager.rs` |
//! | `/org/mistry/Mistry1/job/_…` | `org.mistry.Mistry1.Job` | `job.rs` |
//!
//! [`serve`] keeps us on the bus as long as there is one, and comes back when it does. Jobs that
//! are not over are objects, see `objects.rs`. Who may do what is asked in `authority.rs`, how much
//! of it at once in `calls.rs`.

mod authority;
mod calls;
mod departures;
mod error;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod job;
mod logs;
mod manager;
mod objects;
mod options;
mod presence;

pub use presence::{Door, serve};

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::authority::Authority;
use self::calls::Calls;
use self::departures::Departures;
use crate::budget::Client;
use crate::scheduler::{Reader, Scheduler};

/// Our name on the bus.
pub const NAME: &str = "org.mistry.Mistry1";
/// Where the manager is, and below it all else.
pub const PATH: &str = "/org/mistry/Mistry1";

/// Which bus.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bus {
    /// The host's, where polkit says who may.
    System,
    /// That of the user who started us, for tests and for trying out: it is all theirs.
    User,
}

/// What does not change while the daemon runs.
#[derive(Clone, Debug)]
pub struct Facts {
    /// Where projects are.
    pub projects_path: PathBuf,
    /// Where builds are.
    pub build_path: PathBuf,
    /// The kind of filesystem that is.
    pub filesystem: &'static str,
}

/// A caller wants the configuration to be read again, and to be told how that went.
pub type Reload = oneshot::Sender<Result<(), String>>;

/// Reloads that may be asked for before the first of them is over.
const RELOADS: usize = 4;

/// The interface on the bus. Clones share everything.
#[derive(Clone, Debug)]
pub struct Dbus(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    scheduler: Scheduler,
    /// What is read for calls: all are of this host.
    reader: Reader,
    facts: Facts,
    bus: Bus,
    authority: Authority,
    /// Only those whom polkit lets may see builds.
    is_closed: AtomicBool,
    calls: Calls,
    departures: Departures,
    door: Door,
    reloads: mpsc::Sender<Reload>,
    /// What outlives a call: logs that are read, answers that are on their way.
    tasks: TaskTracker,
    /// Cancelled when the daemon ends: no caller is waited for any more.
    ending: CancellationToken,
}

impl Dbus {
    /// An interface to a scheduler; what it wants of the daemon comes out of the receiver.
    pub fn new(scheduler: Scheduler, facts: Facts, bus: Bus) -> (Dbus, mpsc::Receiver<Reload>) {
        let (reloads, wanted) = mpsc::channel(RELOADS);
        let dbus = Dbus(Arc::new(Shared {
            reader: scheduler.reader(Client::Local),
            scheduler,
            facts,
            bus,
            authority: Authority::of(bus),
            is_closed: AtomicBool::new(false),
            calls: Calls::default(),
            departures: Departures::default(),
            door: Door::new(),
            reloads,
            tasks: TaskTracker::new(),
            ending: CancellationToken::new(),
        }));
        (dbus, wanted)
    }

    /// Says whether every user of the host may see builds, from now on. A user's own bus is closed to
    /// others anyway.
    pub fn open_to_all(&self, is_open: bool) {
        let is_closed = !is_open && self.0.bus == Bus::System;
        self.0.is_closed.store(is_closed, Ordering::Release);
    }

    fn is_closed(&self) -> bool {
        self.0.is_closed.load(Ordering::Acquire)
    }

    /// The interface from outside: how busy it is, and whether it may be there.
    pub fn door(&self) -> Door {
        self.0.door.clone()
    }
}
