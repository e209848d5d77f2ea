//! A log as lines: where they begin, which of them hold a text, and how they read.
//!
//! [`index`] and [`find`] read a log once, from its first byte on, in pieces, and hold nothing of it. What a line says is what a reader sees of it: escape sequences are no
//! text ([`escapes`]), and of what a progress bar has written over itself the last counts.
//!
//! What is told holds for the bytes that were asked about; a log that grows is gone on with by
//! the client. Everything here blocks.

mod chunks;
mod colours;
mod escapes;
mod find;
mod index;
mod readable;

pub use find::{Found, Match, Needle, NeedleError, find};
pub use index::{Index, index};
pub use readable::{misleads, readable};
