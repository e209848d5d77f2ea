//! A log as lines: the line index, search, and plain text.
//!
//! [`index`] and [`find`] read a log once, from its first byte on, in pieces, and hold nothing of it. Lines
//! are treated as displayed: escape sequences are no text ([`escapes`]), and only the last state of a
//! progress bar counts.
//!
//! Results are valid for the bytes that were requested; if a log grows, the client continues from there.
//! Everything here blocks.

mod chunks;
mod colours;
mod escapes;
mod excerpt;
mod find;
mod index;
mod readable;
mod select;
mod shorten;
mod window;

pub(super) use excerpt::{Section, excerpt};
pub use find::{Found, Match, Needle, NeedleError, find};
pub use index::{Index, index};
pub use readable::{misleads, readable};
pub use select::{Room, Source, select};
