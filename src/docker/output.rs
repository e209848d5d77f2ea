//! A piece of a container's output.

use bytes::Bytes;
use jiff::Timestamp;

/// Bytes that the `local` log driver may write for one byte of output: an empty line, of one byte, makes an
/// entry of 28 (its length twice, the name of the stream, the time, the keys of the fields).
pub(super) const LOG_OVERHEAD: u64 = 32;

/// A piece of output, which need not be a whole line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// The stream it was written to.
    pub stream: Stream,
    /// The bytes, as written; not necessarily UTF-8.
    pub bytes: Bytes,
}

impl Output {
    /// Bytes that the Engine's log driver needs for it, at most.
    pub fn stored(&self) -> u64 {
        LOG_OVERHEAD.saturating_add(self.bytes.len() as u64)
    }
}

/// The two outputs of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// The time prefix of a piece of output, if times were requested.
pub(super) fn stamp(piece: &[u8]) -> Option<Timestamp> {
    let end = piece.iter().position(|byte| *byte == b' ')?;
    std::str::from_utf8(&piece[..end]).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_age_of_a_line_is_that_of_its_timestamp() {
        let at = "2026-11-24T05:06:07.123456789Z";
        let found = stamp(format!("{at} hello there\n").as_bytes());
        assert_eq!(found, Some(at.parse().unwrap()));
        assert_eq!(stamp(b"hello there\n"), None);
        assert_eq!(stamp(b"\xff\n"), None);
    }
}
