//! Reads a log in chunks, until it is stopped.

use std::io::{self, Read};
use std::sync::atomic::{AtomicBool, Ordering};

/// Read size: few calls, and a stop takes effect within some microseconds.
pub(super) const CHUNK_BYTES: usize = 256 << 10;

/// The byte that begins an escape sequence.
pub(super) const ESCAPE: u8 = 0x1b;

/// Passes the first `length` bytes of `log` to `take`, until `stop` is set. Returns their number.
pub(super) fn each_chunk(
    log: impl Read,
    length: u64,
    stop: &AtomicBool,
    mut take: impl FnMut(&[u8]),
) -> io::Result<u64> {
    let mut log = log.take(length);
    let mut buffer = vec![0; CHUNK_BYTES];
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
