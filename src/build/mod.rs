//! Builds: executions of jobs, and their directories under the build path.
//!
//! A build is a directory, first in `pending/`, then in `ready/`. Its invariants:
//!
//! - From acceptance on it holds a record (`build_info.json`) and a log (`out.log`).
//! - [`PendingBuild::finish`] is the only way into `ready/`: one rename, or an exchange where
//!   a build of the same id is replaced. The record in it is complete before that.
//! - A ready build never changes, but for the mark that it is durable and the measure of what it
//!   takes; it is only removed whole.
//! - Only a succeeded build is ever pointed at by `latest` or `groups/<group>`.
//! - A ready build of an earlier boot that is not marked durable counts as absent.
//!
//! `docs/build-directory.md` is the contract with strangers; [`layout`] is the only file that
//! knows its names.

mod ages;
mod answer;
mod archive;
mod artifacts;
mod base;
mod claim;
mod clock;
mod declared;
mod directory;
mod error;
mod facts;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod gc;
mod image_records;
mod index;
mod info;
mod inputs;
mod layout;
mod lease;
pub mod lines;
mod listing;
mod log;
mod make_durable;
mod opaque;
mod orphans;
mod paused;
mod pending;
mod pins;
mod publish;
mod recent;
mod record;
mod replace;
mod retire;
mod shared;
mod stats;
mod store;
mod survey;
mod trend;
mod used;

pub use answer::{AnswerJson, BuildAnswer};
pub use archive::Tar;
pub use artifacts::{Artifacts, Contents, Found};
pub use claim::{Holder, Secret, holder};
pub use clock::Since;
pub use declared::MountPoint;
pub use directory::{Directory, Entries, Entry, EntryKind};
pub use error::Error;
pub use facts::Facts;
pub use gc::{Candidate, JUST_USED, Plan, Policy, Removal, Shelf, Why};
pub use image_records::{
    Change, ImageRecord, ImageRecords, MadeContainer, MadeLayer, Step, is_prefix,
};
pub use index::{Filter, Newest, Place};
pub use info::*;
pub use listing::Listing;
pub use log::{BuildLog, LogFollower, LogProgress};
pub use orphans::OrphanedBuild;
pub use pending::{Begun, End, FinishedBuild, PendingBuild, Unfinished, User};
pub use retire::{Collected, Held, Removed};
pub use stats::{AnswerStats, Answered, Day};
pub use store::BuildStore;
pub use store::{random_hex, text_of};
pub use trend::{Point, Trend};
