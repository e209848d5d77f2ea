//! The D-Bus interface, by which programs on this host control jobs.
//!
//! `docs/dbus-api.md` is the contract. A method parses, calls the scheduler, maps the error and
//! answers; nothing here decides about builds.
//!
//! | path | interface | file |
//! | --- | --- | --- |
//! | `/org/mistry/Mistry1` | `org.mistry.Mistry1.Manager`, `ObjectManager` | `manager.rs` |
//! | `/org/mistry/Mistry1/job/_…` | `org.mistry.Mistry1.Job` | `job.rs` |
//!
//! [`serve`] keeps the daemon connected to the bus and reconnects after a failure. Jobs that are not over are
//! objects, see `objects.rs`. `authority.rs` checks permissions, `calls.rs` limits concurrent calls.

mod authority;
mod bus;
mod calls;
mod client_handles;
mod control;
mod error;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod job;
mod logs;
mod manager;
mod objects;
mod options;
mod permissions;
mod presence;
mod shared;
mod signals;

pub use bus::Bus;
pub use control::BusControl;
pub use presence::serve;
pub use shared::{Dbus, Reload, StaticInfo};
