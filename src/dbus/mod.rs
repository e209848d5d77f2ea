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
mod bus;
mod calls;
mod control;
mod departures;
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
pub use shared::{Dbus, Facts, Reload};
