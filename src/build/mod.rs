//! Builds: executions of jobs, and their directories under the build path.
//!
//! A build is a directory, first in `pending/`, then in `ready/`. Its invariants:
//!
//! - From acceptance on it holds a record (`build_info.json`) and a log (`out.log`).
//! - [`PendingBuild::finish`] is the only way into `ready/`: one rename, or an exchange where
//!   a build of the same id is replaced. The record in it is complete before that.
//! - A ready build never changes, but for the mark that it is durable, the measure of what it takes,
//!   and the number of attempts of its job; it is only removed whole.
//! - Only a succeeded build is ever pointed at by `latest` or `groups/<group>`.
//! - A ready build of an earlier boot that is not marked durable counts as absent.
//!
//! `docs/build-directory.md` is the contract with other programs; [`layout`] is the only file that
//! knows its names.

mod accept;
mod ages;
mod all_attempts;
mod answer;
mod archive;
mod artifacts;
mod attempt;
mod attempt_count;
mod attempts;
mod base;
mod cache;
mod candidate;
mod claim;
mod clock;
mod comparison;
mod declared;
mod directory;
mod disk;
mod ended;
mod error;
mod evict;
mod failed_rebuilds;
mod filter;
mod finish;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod gc;
mod group_marks;
mod groups;
mod image_records;
mod index;
mod index_entry;
mod info;
mod inputs;
mod interned;
mod last_used;
mod layout;
mod lease;
mod line_times;
pub mod lines;
mod listing;
mod log;
mod make_durable;
mod masks;
mod neighbours;
mod opaque;
mod origins;
mod orphans;
mod paused;
mod pending;
mod pins;
mod prepare;
mod publish;
mod random;
mod record;
mod replace;
mod secret_forms;
mod space;
mod stats;
mod store;
mod survey;
mod trend;

pub use accept::Requested;
pub use answer::{AnswerForm, AnswerJson, BuildAnswer};
pub use archive::Tar;
pub use artifacts::{Artifacts, Contents, Found};
pub use attempt::{Attempt, DEFAULT_KEPT_ATTEMPTS};
pub use candidate::{Candidate, Category};
pub use claim::{Holder, Secret, holder};
pub use clock::Since;
pub use comparison::{Comparison, Difference, ParamDifference};
pub use declared::MountPoint;
pub use directory::{Directory, Entries, Entry, EntryKind};
pub use error::Error;
pub use evict::{Collected, Freeing, IfBase, KeptReason, Removed};
pub use filter::{Filter, Place};
pub use finish::{End, FinishedBuild, Unfinished};
pub use gc::{JUST_USED, Plan, Removal, RemovalReason};
pub use groups::GroupBase;
pub use image_records::{
    Change, ImageRecord, ImageRecords, MadeContainer, MadeLayer, Step, is_prefix,
};
pub use index::Newest;
pub use index_entry::IndexEntry;
pub use info::{BuildGroup, BuildInfo, LOG_TAIL};
pub use line_times::LineTime;
pub use listing::Listing;
pub use log::{BuildLog, LogFollower, LogProgress, text_of};
pub use masks::{MASK, MaskedNames, Masker, Masks};
pub use neighbours::{Attempted, Neighbour, Neighbours};
pub use orphans::OrphanedBuild;
pub use pending::{PendingBuild, User};
pub use prepare::BaseUse;
pub use random::random_hex;
pub use record::{Bookkeeping, BuildLimits, Record, RecordFile, Stopped};
pub use secret_forms::MIN_SECRET;
pub use stats::{AnswerStats, Answered, Day};
pub use store::BuildStore;
pub use trend::{Point, SIMILAR_BUILDS, Trend};
