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
    /// When it was written, by the Engine's clock; `None` if the Engine did not say.
    pub at: Option<Timestamp>,
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

/// A piece of output without its time prefix, and that time; a server that speaks the API without being an
/// Engine may not send times.
pub(super) fn split_stamp(mut piece: Bytes) -> (Option<Timestamp>, Bytes) {
    let at = stamp(&piece);
    let space = piece.iter().position(|byte| *byte == b' ');
    match space.filter(|_| at.is_some()) {
        Some(space) => (at, piece.split_off(space + 1)),
        None => (None, piece),
    }
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
        let split = |piece: String| split_stamp(Bytes::from(piece));
        assert_eq!(split(format!("{at} a b\n")), (found, Bytes::from("a b\n")));
        assert_eq!(split(format!("{at} ")), (found, Bytes::new()));
        assert_eq!(split("a b".to_owned()), (None, Bytes::from("a b")));
    }
}
