//! Who wrote which bytes of the end of a log, where that was not standard output.
//!
//! The log itself is one file of bytes, in the order in which they came. This is held beside it while the
//! build runs, in bounded memory: only the last ranges are known.

use std::collections::VecDeque;
use std::ops::Range;

/// An excerpt of the end of a log has 40 lines, each of which is usually one range. A container that writes
/// every other byte to another stream loses the marks of earlier lines: then both streams have written a
/// thousand times after them, so that the end of the log hides neither.
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
pub(super) struct Origins {
    ranges: VecDeque<(Range<u64>, Origin)>,
    /// Who wrote earlier bytes was forgotten.
    known_from: u64,
}

impl Origins {
    /// Remembers a range, which lies behind all earlier ones.
    pub(super) fn add(&mut self, range: Range<u64>, origin: Origin) {
        if range.is_empty() {
            return;
        }
        if let Some((last, known)) = self.ranges.back_mut()
            && *known == origin
            && last.end == range.start
        {
            last.end = range.end;
            return;
        }
        if self.ranges.len() == MAX_RANGES
            && let Some((forgotten, _)) = self.ranges.pop_front()
        {
            self.known_from = forgotten.end;
        }
        self.ranges.push_back((range, origin));
    }

    /// Forgets all ranges.
    pub(super) fn clear(&mut self) {
        *self = Origins::default();
    }

    /// Whether every byte of a range was written by `origin`; false for an empty range.
    pub(super) fn is_all(&self, range: &Range<u64>, origin: Origin) -> bool {
        let mut at = range.start;
        let first = self.ranges.partition_point(|(known, _)| known.end <= at);
        for (known, by) in self.ranges.range(first..) {
            if at >= range.end || *by != origin || !known.contains(&at) {
                break;
            }
            at = known.end;
        }
        !range.is_empty() && at >= range.end
    }

    /// Whether it is known who wrote the byte at an offset.
    pub(super) fn is_known(&self, offset: u64) -> bool {
        offset >= self.known_from
    }

    /// The end of the last bytes of standard error in a range.
    pub(super) fn last_stderr(&self, within: &Range<u64>) -> Option<u64> {
        let mut ranges = self.ranges.iter().rev();
        let last =
            ranges.find(|(range, origin)| *origin == Origin::Stderr && range.start < within.end);
        let end = last?.0.end.min(within.end);
        (end > within.start).then_some(end)
    }

    /// The end of the last bytes of standard output in a range: of those that no one else wrote.
    pub(super) fn last_stdout(&self, within: &Range<u64>) -> Option<u64> {
        let mut end = within.end;
        for (range, _) in self.ranges.iter().rev() {
            if range.end < end {
                break;
            }
            end = end.min(range.start);
        }
        (end > within.start.max(self.known_from)).then_some(end)
    }

    /// The parts of a range that mistryd wrote.
    pub(super) fn notes(&self, within: &Range<u64>) -> impl Iterator<Item = Range<u64>> {
        let ranges = self.ranges.iter();
        let notes = ranges.filter(|(_, origin)| *origin == Origin::Mistry);
        let notes =
            notes.map(|(range, _)| range.start.max(within.start)..range.end.min(within.end));
        notes.filter(|range| !range.is_empty())
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
    fn the_last_bytes_of_each_stream_are_found() {
        let mut origins = Origins::default();
        origins.add(2..4, Origin::Stderr);
        origins.add(6..8, Origin::Mistry);
        origins.add(8..9, Origin::Stderr);
        for (within, stdout, stderr) in [
            (0..12, Some(12), Some(9)),
            (0..9, Some(6), Some(9)),
            (0..8, Some(6), Some(4)),
            (0..4, Some(2), Some(4)),
            (0..3, Some(2), Some(3)),
            (2..4, None, Some(4)),
            (4..6, Some(6), None),
            (6..8, None, None),
        ] {
            assert_eq!(origins.last_stdout(&within), stdout, "{within:?}");
            assert_eq!(origins.last_stderr(&within), stderr, "{within:?}");
        }
        let notes: Vec<_> = origins.notes(&(7..20)).collect();
        assert_eq!(notes, std::slice::from_ref(&(7..8)));
    }

    #[test]
    fn memory_is_bounded_and_the_last_ranges_are_known() {
        let mut origins = Origins::default();
        for at in 0..100_000 {
            origins.add(2 * at..2 * at + 1, Origin::Stderr);
        }
        assert_eq!(origins.ranges.len(), MAX_RANGES);
        assert!(origins.is_all(&(199_998..199_999), Origin::Stderr));
        assert!(!origins.is_all(&(0..1), Origin::Stderr));
        assert!(!origins.is_known(1) && origins.is_known(199_000));
        assert_eq!(origins.last_stdout(&(0..100)), None);
    }
}
