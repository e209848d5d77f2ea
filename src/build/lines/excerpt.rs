//! The end of the log of a build that did not succeed: its last lines, as they were written.
//!
//! Bounded whatever the log is: only its last bytes are read, long lines are cut. Nothing is made harmless
//! here; programs that display it must do so.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use super::super::origins::{Origin, Origins};
use super::escapes::Escapes;
use crate::api::{Excerpt, ExcerptLine, ExcerptPart, MAX_EXCERPT_LINES};

/// Most bytes of a log that are read: 40 lines of 1.6 KiB.
const MAX_READ: u64 = 64 << 10;
/// Most bytes of all lines of an excerpt: it is in the record of the build, and in each answer about it.
const MAX_BYTES: usize = 16 << 10;
/// Bytes that are kept of the beginning and of the end of a long line: some lines of a wide terminal.
const KEPT_AT_EACH_END: usize = 1 << 10;

/// The part of a log that an excerpt is taken from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::build) struct Section {
    pub(in crate::build) part: ExcerptPart,
    /// The byte at which it begins; it ends with the log.
    pub(in crate::build) from: u64,
    /// Lines of mistryd belong to it, because they explain the end.
    pub(in crate::build) with_notes: bool,
}

/// The last lines of a section of a log; `None` if it has none. Blocks.
pub(in crate::build) fn excerpt(
    log: &File,
    section: Section,
    origins: &Origins,
) -> io::Result<Option<Arc<Excerpt>>> {
    let length = log.metadata()?.len();
    // One byte more: if it is a line end, a line begins behind it.
    let window = length.saturating_sub(MAX_READ + 1).max(section.from);
    let mut bytes = vec![0; usize::try_from(length.saturating_sub(window)).unwrap_or(0)];
    log.read_exact_at(&mut bytes, window)?;
    let is_cut = window > section.from && bytes.first().is_some_and(|byte| *byte != b'\n');
    let skipped = usize::from(window > section.from).min(bytes.len());
    let text = LogEnd {
        bytes: &bytes[skipped..],
        at: window + skipped as u64,
        is_cut,
    };
    Ok(text.last_lines(section, origins).map(Arc::new))
}

/// The bytes at the end of a log.
struct LogEnd<'a> {
    bytes: &'a [u8],
    /// The offset of the first of them.
    at: u64,
    /// The first line began before them.
    is_cut: bool,
}

impl LogEnd<'_> {
    fn last_lines(&self, section: Section, origins: &Origins) -> Option<Excerpt> {
        let (mut lines, mut from) = (VecDeque::new(), self.at);
        let (mut rest, mut room) = (self.bytes, MAX_BYTES);
        while !rest.is_empty() && lines.len() < MAX_EXCERPT_LINES {
            let end = rest.len() - usize::from(rest.ends_with(b"\n"));
            let start = memchr::memrchr(b'\n', &rest[..end]).map_or(0, |at| at + 1);
            // An empty line is of those who wrote its line end.
            let of_whom = match start < end {
                true => start..end,
                false => end..rest.len(),
            };
            let of_whom = self.offset(of_whom.start)..self.offset(of_whom.end);
            let is_note = origins.is_all(&of_whom, Origin::Mistry);
            // Before a note, mistryd may write a line end to separate it.
            if !is_note || (section.with_notes && start < end) {
                let shortened = shorten(&rest[start..end], self.is_cut && start == 0);
                if shortened.text.len() > room {
                    break;
                }
                room -= shortened.text.len();
                from = self.offset(start + shortened.skipped);
                lines.push_front(ExcerptLine {
                    text: shortened.text,
                    stderr: origins.is_all(&of_whom, Origin::Stderr),
                });
            }
            rest = &rest[..start];
        }
        (!lines.is_empty()).then(|| Excerpt {
            part: section.part,
            from,
            lines: lines.into(),
        })
    }

    fn offset(&self, at: usize) -> u64 {
        self.at + at as u64
    }
}

/// A line as an excerpt shows it.
struct Shortened {
    text: String,
    /// Bytes left out at its beginning.
    skipped: usize,
}

/// Cuts a line that is too long in its middle, and one whose beginning is unknown at its beginning.
fn shorten(line: &[u8], is_cut: bool) -> Shortened {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    if is_cut {
        let skipped = borders(line, line.len().saturating_sub(KEPT_AT_EACH_END)).end;
        let text = format!("[…] {}", String::from_utf8_lossy(&line[skipped..]));
        return Shortened { text, skipped };
    }
    let text = match line.len() > 2 * KEPT_AT_EACH_END {
        false => String::from_utf8_lossy(line).into_owned(),
        true => {
            let head = borders(line, KEPT_AT_EACH_END).start;
            let tail = borders(line, line.len() - KEPT_AT_EACH_END).end;
            format!(
                "{}[… {} bytes …]{}",
                String::from_utf8_lossy(&line[..head]),
                tail - head,
                String::from_utf8_lossy(&line[tail..])
            )
        }
    };
    Shortened { text, skipped: 0 }
}

/// The last position up to `at`, and the first from it on, at which neither a character nor an escape sequence
/// is cut.
fn borders(line: &[u8], at: usize) -> Range<usize> {
    let mut escapes = Escapes::default();
    let mut before = 0;
    for (position, byte) in line.iter().enumerate() {
        let is_continuation = byte & 0b1100_0000 == 0b1000_0000;
        if escapes.is_in_text() && !is_continuation {
            if position >= at {
                let last = if position == at { at } else { before };
                return last..position;
            }
            before = position;
        }
        escapes.step(*byte);
    }
    before..line.len()
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use proptest::prelude::*;

    use super::*;

    fn section(from: u64) -> Section {
        Section {
            part: ExcerptPart::Run,
            from,
            with_notes: true,
        }
    }

    fn of(log: &[u8], section: Section, origins: &Origins) -> Option<Excerpt> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(log).unwrap();
        let found = excerpt(&file, section, origins).unwrap();
        found.map(Arc::unwrap_or_clone)
    }

    fn texts(log: &[u8]) -> Vec<String> {
        let found = of(log, section(0), &Origins::default());
        let lines = found.map(|found| found.lines).unwrap_or_default();
        lines.into_iter().map(|line| line.text).collect()
    }

    #[test]
    fn lines_are_as_they_were_written() {
        for (log, lines) in [
            (&b""[..], &[][..]),
            (b"\n", &[""]),
            (b"one\n\ntwo", &["one", "", "two"]),
            (b"one\r\n10%\r20%\r\n", &["one", "10%\r20%"]),
            (
                b"\x1b[31mred\x1b[0m\n\x1b[3",
                &["\u{1b}[31mred\u{1b}[0m", "\u{1b}[3"],
            ),
            (b"\xff\x00\xc3", &["\u{fffd}\0\u{fffd}"]),
        ] {
            assert_eq!(texts(log), lines, "{log:?}");
        }
    }

    #[test]
    fn the_last_lines_are_shown_and_the_excerpt_says_where_they_begin() {
        let log: String = (0..1_000).map(|line| format!("line {line}\n")).collect();
        let found = of(log.as_bytes(), section(0), &Origins::default()).unwrap();
        assert_eq!(found.lines.len(), 40);
        assert_eq!(found.lines[0].text, "line 960");
        assert!(log[found.from as usize..].starts_with("line 960\n"));
        let from = log.find("line 998").unwrap() as u64;
        let found = of(log.as_bytes(), section(from), &Origins::default()).unwrap();
        assert_eq!((found.lines.len(), found.from), (2, from));
        assert_eq!(of(b"one\n", section(4), &Origins::default()), None);
    }

    #[test]
    fn a_line_is_of_standard_error_only_if_all_of_it_is() {
        let mut origins = Origins::default();
        let log = b"image\nwarning\nerror half\n\nx\n\nmistry: too long\n";
        origins.add(6..20, Origin::Stderr);
        origins.add(25..26, Origin::Stderr);
        origins.add(28..log.len() as u64, Origin::Mistry);
        let found = of(log, section(6), &origins).unwrap();
        let lines = |found: &Excerpt| {
            let lines = found.lines.iter();
            let lines = lines.map(|line| (line.text.clone(), line.stderr));
            lines.collect::<Vec<_>>()
        };
        let written = [
            ("warning", true),
            ("error half", false),
            ("", true),
            ("x", false),
        ];
        let written = written.map(|(text, stderr)| (text.to_owned(), stderr));
        assert_eq!(lines(&found)[..4], written);
        assert_eq!(lines(&found)[4..], [("mistry: too long".to_owned(), false)]);
        let without = Section {
            with_notes: false,
            ..section(6)
        };
        assert_eq!(lines(&of(log, without, &origins).unwrap()), written);
    }

    #[test]
    fn a_line_without_an_end_of_its_own_is_separated_from_a_note() {
        let mut origins = Origins::default();
        origins.add(0..3, Origin::Stderr);
        origins.add(3..12, Origin::Mistry);
        let found = of(b"abc\nmistry: x\n", section(0), &origins).unwrap();
        assert_eq!(found.lines[0].text, "abc");
        assert!(found.lines[0].stderr);
    }

    #[test]
    fn a_long_line_is_cut_where_nothing_is_torn() {
        let long = format!("{}\u{1b}[1;31m{}", "ä".repeat(510), "ö".repeat(2_000));
        let shown = &texts(long.as_bytes())[0];
        assert!(shown.starts_with(&"ä".repeat(510)), "{shown}");
        assert!(!shown.contains('\u{fffd}'));
        let (head, rest) = shown.split_once("[… ").unwrap();
        let (count, tail) = rest.split_once(" bytes …]").unwrap();
        let count: usize = count.parse().unwrap();
        assert_eq!(head.len() + count + tail.len(), long.len());
        // The sequence is not cut.
        let long = format!("{}\u{1b}[1;31m{}", "a".repeat(1_020), "b".repeat(2_000));
        assert!(texts(long.as_bytes())[0].starts_with(&format!("{}[… ", "a".repeat(1_020))));
    }

    #[test]
    fn a_line_of_100_mb_is_read_at_its_end_alone() {
        let mut file = tempfile::tempfile().unwrap();
        // It takes no space on the disk.
        file.set_len(100 << 20).unwrap();
        std::io::Seek::seek(&mut file, io::SeekFrom::End(0)).unwrap();
        file.write_all("ü the end\n".as_bytes()).unwrap();
        let found = excerpt(&file, section(0), &Origins::default()).unwrap();
        let found = found.unwrap();
        assert_eq!(found.lines.len(), 1);
        let line = &found.lines[0];
        assert!(line.text.starts_with("[…] \0"), "{:?}", line.text);
        assert!(line.text.ends_with("ü the end"));
        assert!(line.text.len() < 2 * KEPT_AT_EACH_END);
        assert!(found.from > 100 << 20 >> 1);
    }

    proptest! {
        #[test]
        fn an_excerpt_is_bounded_whatever_the_log_is(
            pieces in proptest::collection::vec(
                ("[a\n\r\u{1b}\\[;m\u{e4}]{0,20}", 0_usize..4_000, any::<u8>()), 0..60
            ),
            from in 0_u64..5_000,
        ) {
            let mut log = Vec::new();
            for (text, count, byte) in pieces {
                log.extend(text.as_bytes());
                log.extend(std::iter::repeat_n(byte, count));
            }
            let found = of(&log, section(from.min(log.len() as u64)), &Origins::default());
            let Some(found) = found else { return Ok(()) };
            prop_assert!(found.lines.len() <= MAX_EXCERPT_LINES);
            let bytes: usize = found.lines.iter().map(|line| line.text.len()).sum();
            prop_assert!(bytes <= MAX_BYTES);
            prop_assert!(found.from >= from.min(log.len() as u64) && found.from <= log.len() as u64);
        }
    }
}
