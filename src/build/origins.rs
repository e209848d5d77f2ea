//! Who wrote which bytes of the end of a log, where that was not standard output.
//!
//! The log itself is one file of bytes, in the order in which they came. This is held beside it while the
//! build runs, in bounded memory: only the last ranges are known.

use std::collections::VecDeque;
use std::ops::Range;

/// An excerpt of the end of a log has 40 lines, each of which is usually one range. A container that writes
/// every other byte to another stream loses the marks of earlier lines.
const MAX_RANGES: usize = 1_024;

/// Who wrote a range of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The container, to its standard error.
    Stderr,
    /// mistryd.
    Mistry,
}

/// The ranges of a log whose origin is known, in order.
#[derive(Debug, Default)]
pub(super) struct Origins(VecDeque<(Range<u64>, Origin)>);

impl Origins {
    /// Remembers a range, which lies behind all earlier ones.
    pub(super) fn add(&mut self, range: Range<u64>, origin: Origin) {
        if range.is_empty() {
            return;
        }
        if let Some((last, known)) = self.0.back_mut()
            && *known == origin
            && last.end == range.start
        {
            last.end = range.end;
            return;
        }
        if self.0.len() == MAX_RANGES {
            self.0.pop_front();
        }
        self.0.push_back((range, origin));
    }

    /// Forgets all ranges.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    /// Whether every byte of a range was written by `origin`; false for an empty range.
    pub(super) fn is_all(&self, range: &Range<u64>, origin: Origin) -> bool {
        let mut at = range.start;
        for (known, by) in &self.0 {
            if *by == origin && known.contains(&at) {
                at = known.end;
            }
        }
        !range.is_empty() && at >= range.end
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_of_an_origin_only_if_all_its_bytes_are() {
        let mut origins = Origins::default();
        origins.add(2..4, Origin::Stderr);
        origins.add(4..4, Origin::Mistry);
        origins.add(4..6, Origin::Stderr);
        origins.add(8..9, Origin::Stderr);
        origins.add(9..12, Origin::Mistry);
        for (range, is_all) in [
            (2..6, true),
            (3..5, true),
            (1..3, false),
            (5..9, false),
            (8..9, true),
            (8..10, false),
            (3..3, false),
        ] {
            assert_eq!(origins.is_all(&range, Origin::Stderr), is_all, "{range:?}");
        }
        assert!(origins.is_all(&(9..12), Origin::Mistry));
    }

    #[test]
    fn memory_is_bounded_and_the_last_ranges_are_known() {
        let mut origins = Origins::default();
        for at in 0..100_000 {
            origins.add(2 * at..2 * at + 1, Origin::Stderr);
        }
        assert_eq!(origins.0.len(), MAX_RANGES);
        assert!(origins.is_all(&(199_998..199_999), Origin::Stderr));
        assert!(!origins.is_all(&(0..1), Origin::Stderr));
    }
}
