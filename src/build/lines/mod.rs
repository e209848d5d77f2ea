//! A log as lines: where they begin, which of them hold a text, and how they read.
//!
//! [`index`] and [`find`] read a log once, from its first byte on, in pieces of [`CHUNK`] bytes,
//! and hold nothing of it. What a line says is what a reader sees of it: escape sequences are no
//! text ([`escapes`]), and of what a progress bar has written over itself the last counts.
//!
//! What is told holds for the bytes that were asked about; a log that grows is gone on with by
//! the client. Everything here blocks.

mod colours;
mod escapes;
mod find;
mod index;
mod readable;

pub use find::{Found, Match, Needle, NeedleError, find};
pub use index::{Index, index};
pub use readable::{misleads, readable};

use std::io::{self, Read};
use std::sync::atomic::{AtomicBool, Ordering};

/// Bytes that are read at once: few calls, and a stop is heeded within some microseconds.
const CHUNK: usize = 256 << 10;

const ESCAPE: u8 = 0x1b;

/// Hands the first `length` bytes of `log` to `take`, until `stop` is set. Returns how many there
/// were.
fn each_chunk(
    log: impl Read,
    length: u64,
    stop: &AtomicBool,
    mut take: impl FnMut(&[u8]),
) -> io::Result<u64> {
    let mut log = log.take(length);
    let mut buffer = vec![0; CHUNK];
    let mut all = 0;
    loop {
        if stop.load(Ordering::Relaxed) {
            return Err(io::Error::other("no client waits for it any more"));
        }
        match log.read(&mut buffer) {
            Ok(0) => return Ok(all),
            Ok(count) => {
                take(&buffer[..count]);
                all += count as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
