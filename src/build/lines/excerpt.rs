//! The end of the log of a build that did not succeed: its last lines, and the last ones of each stream, as they
//! were written.
//!
//! Bounded whatever the log is: only its last bytes are read, and the ends of what each stream has written before
//! them; long lines are cut. Nothing is made harmless here; programs that display it must do so.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use super::super::origins::{Origin, Origins};
use super::select::{Room, Source, select};
use super::shorten::{Shortened, shorten};
use super::window::{Line, Window};
use crate::api::{Excerpt, ExcerptLine, ExcerptPart, MAX_EXCERPT_LINES};

/// Bytes of the end of a log that are read, 40 lines of 1.6 KiB, besides the beginning of their first line.
const MAX_READ: u64 = 64 << 10;
/// Bytes that are read at a time before and behind an earlier byte, and how often for each stream.
const READ_BEFORE: u64 = 16 << 10;
const READ_BEHIND: u64 = 4 << 10;
const MAX_READS: usize = 32;
/// Most bytes between two lines in which the lines that are left out are counted.
const MAX_COUNTED: u64 = 64 << 20;
/// Most bytes of all lines of an excerpt: it is in the record of the build, and in each answer about it.
const MAX_BYTES: usize = 16 << 10;

const ROOM: Room = Room {
    lines: MAX_EXCERPT_LINES,
    bytes: MAX_BYTES,
    of_each: 10,
};

/// The part of a log that an excerpt is taken from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::build) struct Section {
    pub(in crate::build) part: ExcerptPart,
    /// The byte at which it begins; it ends with the log.
    pub(in crate::build) from: u64,
    /// Lines of mistryd belong to it, because they explain the end.
    pub(in crate::build) with_notes: bool,
}

/// The last lines of a section of a log, and of each stream in it; `None` if it has none. Blocks.
pub(in crate::build) fn excerpt(
    log: &File,
    section: Section,
    origins: &Origins,
) -> io::Result<Option<Arc<Excerpt>>> {
    let mut search = Search {
        log,
        section,
        origins,
        found: Vec::new(),
    };
    let read_from = search.read_end(log.metadata()?.len())?;
    for stream in [Source::Stdout, Source::Stderr] {
        search.read_stream(stream, read_from)?;
    }
    search.into_excerpt()
}

/// A line of a log that may be shown.
struct Found {
    /// Its bytes in the log, with its line end, as far as they were read.
    range: Range<u64>,
    source: Source,
    /// It goes on behind them.
    is_open: bool,
    shortened: Shortened,
}

struct Search<'a> {
    log: &'a File,
    section: Section,
    origins: &'a Origins,
    found: Vec<Found>,
}

impl Search<'_> {
    /// Finds the last lines in the end of the log; returns where the bytes begin that were read.
    fn read_end(&mut self, length: u64) -> io::Result<u64> {
        let from = self.line_of(length.saturating_sub(MAX_READ))?;
        let window = self.read(from..length)?;
        let mut lines = 0;
        for line in window.lines_from_end() {
            let Some(source) = self.source(&line) else {
                continue;
            };
            if lines < ROOM.lines || self.lacks(source) {
                self.add(&line, source);
            }
            lines += 1;
            let has_both = !self.lacks(Source::Stdout) && !self.lacks(Source::Stderr);
            if lines >= ROOM.lines && has_both {
                break;
            }
        }
        Ok(window.at)
    }

    /// Finds the last lines of a stream before byte `at`, as many as are missing.
    fn read_stream(&mut self, stream: Source, mut at: u64) -> io::Result<()> {
        for _ in 0..MAX_READS {
            let within = self.section.from..at;
            let end = match stream {
                Source::Stderr => self.origins.last_stderr(&within),
                _ => self.origins.last_stdout(&within),
            };
            let Some(end) = end.filter(|_| self.lacks(stream)) else {
                break;
            };
            let behind = end.saturating_add(READ_BEHIND).min(at);
            let mut window = self.read(end.saturating_sub(READ_BEFORE)..behind)?;
            window.end_with_line_of(end - 1, behind == at);
            let mut is_complete = false;
            for line in window.lines_from_end() {
                // The next read has its beginning.
                if line.is_cut && is_complete {
                    break;
                }
                (is_complete, at) = (!line.is_cut, line.range.start);
                if self.source(&line) == Some(stream) && self.lacks(stream) {
                    self.add(&line, stream);
                }
            }
            if !is_complete {
                break;
            }
        }
        Ok(())
    }

    /// Where the line of a byte begins, or that byte if it begins far before.
    fn line_of(&self, at: u64) -> io::Result<u64> {
        let before = self.read(at.saturating_sub(READ_BEFORE)..at)?;
        Ok(match memchr::memrchr(b'\n', &before.bytes) {
            Some(line_end) => before.at + line_end as u64 + 1,
            None if before.is_cut => at,
            None => before.at,
        })
    }

    fn read(&self, range: Range<u64>) -> io::Result<Window> {
        let from = range.start.max(self.section.from);
        // One byte more: if it is a line end, a line begins behind it.
        let before = u64::from(from > self.section.from && from < range.end);
        let length = usize::try_from(range.end.saturating_sub(from - before)).unwrap_or(0);
        let mut bytes = vec![0; length];
        self.log.read_exact_at(&mut bytes, from - before)?;
        let is_cut = before > 0 && bytes.remove(0) != b'\n';
        Ok(Window {
            bytes,
            at: from,
            is_cut,
            is_open: false,
        })
    }

    /// Whether further lines of a source are to be found.
    fn lacks(&self, source: Source) -> bool {
        let found = self.found.iter().filter(|found| found.source == source);
        found.count() < ROOM.of_each
    }

    /// Who wrote a line; `None` for one that does not belong to the section.
    fn source(&self, line: &Line<'_>) -> Option<Source> {
        let end = line.range.start + line.text.len() as u64;
        // An empty line is of those who wrote its line end.
        let written = match line.text.is_empty() {
            true => line.range.clone(),
            false => line.range.start..end,
        };
        if self.origins.is_all(&written, Origin::Mistry) {
            // Before a note, mistryd may write a line end to separate it.
            let is_shown = self.section.with_notes && !line.text.is_empty();
            return is_shown.then_some(Source::Note);
        }
        Some(match self.origins.is_all(&written, Origin::Stderr) {
            true => Source::Stderr,
            false if self.origins.is_known(written.start) => Source::Stdout,
            false => Source::Unknown,
        })
    }

    fn add(&mut self, line: &Line<'_>, source: Source) {
        let mut shortened = shorten(line.text, line.is_cut);
        if line.is_open {
            shortened.text.push_str(" […]");
        }
        self.found.push(Found {
            range: line.range.clone(),
            source,
            is_open: line.is_open,
            shortened,
        });
    }

    fn into_excerpt(mut self) -> io::Result<Option<Arc<Excerpt>>> {
        self.found.sort_by_key(|found| found.range.start);
        let lengths = self.found.iter();
        let lengths = lengths.map(|found| (found.source, found.shortened.text.len()));
        let shown = select(&lengths.collect::<Vec<_>>(), ROOM);
        let found = std::mem::take(&mut self.found).into_iter().zip(shown);
        let mut shown = found.filter_map(|(found, is_shown)| is_shown.then_some(found));
        let Some(first) = shown.next() else {
            return Ok(None);
        };
        let from = first.range.start + first.shortened.skipped as u64;
        let (mut end, mut is_open) = (first.range.end, first.is_open);
        let mut lines = vec![first.into_line(0)];
        for found in shown {
            let skipped = self.lines_in(end..found.range.start)?;
            let skipped = skipped.saturating_sub(u64::from(is_open));
            (end, is_open) = (found.range.end, found.is_open);
            lines.push(found.into_line(skipped));
        }
        Ok(Some(Arc::new(Excerpt {
            part: self.section.part,
            from,
            lines,
        })))
    }

    /// The lines that end in a range of the log, without those that do not belong to the section.
    fn lines_in(&self, range: Range<u64>) -> io::Result<u64> {
        let range = range.start.max(range.end.saturating_sub(MAX_COUNTED))..range.end;
        let mut lines = self.line_ends(range.clone())?;
        for notes in self.origins.notes(&range) {
            lines -= self.line_ends(notes)?.min(lines);
        }
        Ok(lines)
    }

    fn line_ends(&self, range: Range<u64>) -> io::Result<u64> {
        let (mut at, mut lines) = (range.start, 0);
        let length = range.end.saturating_sub(range.start).min(MAX_READ);
        let mut piece = vec![0; usize::try_from(length).unwrap_or(0)];
        while at < range.end {
            let left = usize::try_from(range.end - at).unwrap_or(usize::MAX);
            let piece = &mut piece[..left.min(length as usize)];
            self.log.read_exact_at(piece, at)?;
            lines += memchr::memchr_iter(b'\n', piece).count() as u64;
            at += piece.len() as u64;
        }
        Ok(lines)
    }
}

impl Found {
    fn into_line(self, skipped: u64) -> ExcerptLine {
        ExcerptLine {
            text: self.shortened.text,
            stderr: self.source == Source::Stderr,
            skipped,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use proptest::prelude::*;

    use super::super::shorten::KEPT_AT_EACH_END;
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

    /// A log with one line of one stream, and many of the other before or behind it.
    fn hidden(is_stderr: bool, noise: usize, is_first: bool) -> (Vec<u8>, Origins) {
        let error = "src.c:1:21: error: no\n";
        let lines: String = (0..noise).map(|line| format!("noise {line}\n")).collect();
        let log = match is_first {
            true => format!("image\n{error}{lines}"),
            false => format!("image\n{lines}{error}"),
        };
        let at = log.find(error).unwrap();
        let error = at..at + error.len();
        let mut origins = Origins::default();
        let (before, behind) = (6..error.start as u64, error.end as u64..log.len() as u64);
        match is_stderr {
            true => origins.add(error.start as u64..error.end as u64, Origin::Stderr),
            false => {
                origins.add(before, Origin::Stderr);
                origins.add(behind, Origin::Stderr);
            }
        }
        (log.into_bytes(), origins)
    }

    #[test]
    fn a_line_of_one_stream_is_shown_beside_any_number_of_the_other() {
        for is_stderr in [false, true] {
            for noise in [60_u64, 100_000] {
                let (log, origins) = hidden(is_stderr, noise as usize, true);
                let found = of(&log, section(6), &origins).unwrap();
                assert_eq!(found.lines.len(), 40);
                assert_eq!(found.from, 6);
                assert_eq!(found.lines[0].text, "src.c:1:21: error: no");
                assert_eq!(found.lines[0].stderr, is_stderr);
                assert_eq!(found.lines[1].skipped, noise - 39);
                assert_eq!(found.lines[1].text, format!("noise {}", noise - 39));
                assert!(found.lines[2..].iter().all(|line| line.skipped == 0));
                let (log, origins) = hidden(is_stderr, noise as usize, false);
                let found = of(&log, section(6), &origins).unwrap();
                assert_eq!(found.lines[39].text, "src.c:1:21: error: no");
                assert!(found.lines.iter().all(|line| line.skipped == 0));
            }
        }
    }

    #[test]
    fn what_is_far_before_the_end_is_cut_where_it_is_not_read() {
        let long = "y".repeat(50 << 10);
        let noise = "noise\n".repeat(20_000);
        let origins = |stderr: usize, log: &str| {
            let mut origins = Origins::default();
            origins.add(stderr as u64..log.len() as u64, Origin::Stderr);
            origins
        };
        // Its beginning.
        let log = format!("{long} error\n{noise}");
        let found = of_log(log.as_bytes(), &origins(long.len() + 7, &log));
        let shown = &found.lines[0].text;
        assert!(
            shown.starts_with("[…] yyy") && shown.ends_with("y error"),
            "{shown}"
        );
        assert_eq!(found.lines[1].skipped, 20_000 - 39);
        // Its end, which is of the other stream.
        let log = format!("an error{long}\n{noise}");
        let found = of_log(log.as_bytes(), &origins(8, &log));
        let shown = &found.lines[0].text;
        assert!(
            shown.starts_with("an error") && shown.ends_with("y […]"),
            "{shown}"
        );
        assert_eq!(found.lines[1].skipped, 20_000 - 39);
        // A line that is one with the first one that was read of the end is not shown again.
        let log = format!("{long}{long}\n");
        assert_eq!(of_log(log.as_bytes(), &Origins::default()).lines.len(), 1);
    }

    #[test]
    fn a_line_is_whole_wherever_the_end_of_the_log_begins() {
        let line = format!("error {}\n", "x".repeat(200));
        for more in 0..line.len() + 2 {
            let noise = "noise\n".repeat((MAX_READ as usize - more) / 6);
            let log = format!("image\n{line}{noise}");
            let mut origins = Origins::default();
            let stderr = 6 + line.len() as u64..log.len() as u64;
            origins.add(stderr, Origin::Stderr);
            let found = of(log.as_bytes(), section(6), &origins).unwrap();
            assert_eq!(found.lines[0].text, line.trim_end(), "{more}");
            assert_eq!(found.from, 6);
        }
    }

    #[test]
    fn notes_are_not_counted_among_the_lines_that_are_left_out() {
        let lines: String = "noise\n".repeat(60);
        let log = format!("error\n\nmistry: a\n{lines}\nmistry: b\n");
        let mut origins = Origins::default();
        origins.add(6..17, Origin::Mistry);
        origins.add(17..17 + 360, Origin::Stderr);
        origins.add(17 + 360..log.len() as u64, Origin::Mistry);
        let without = Section {
            with_notes: false,
            ..section(0)
        };
        let found = of(log.as_bytes(), without, &origins).unwrap();
        assert_eq!(found.lines[0].text, "error");
        assert_eq!(found.lines[1].skipped, 60 - 39);
        let found = of_log(log.as_bytes(), &origins);
        let texts: Vec<_> = found.lines.iter().map(|line| line.text.as_str()).collect();
        assert_eq!(texts[..2], ["error", "mistry: a"]);
        assert_eq!(texts[39], "mistry: b");
        let skipped: Vec<_> = found.lines.iter().map(|line| line.skipped).collect();
        assert_eq!((skipped[1], skipped[2], skipped[39]), (0, 60 - 37, 0));
    }

    #[test]
    fn where_the_stream_is_not_known_the_last_lines_are_shown() {
        let (mut log, mut origins) = (b"image\nerror\n".to_vec(), Origins::default());
        for _ in 0..2_000 {
            let at = log.len() as u64;
            log.extend(b"err\nout\n");
            origins.add(at..at + 4, Origin::Stderr);
        }
        let at = log.len() as u64;
        log.extend(b"noise\n".repeat(100));
        origins.add(at..log.len() as u64, Origin::Stderr);
        let found = of(&log, section(6), &origins).unwrap();
        let texts: Vec<_> = found.lines.iter().map(|line| line.text.as_str()).collect();
        assert_eq!(texts[..10], ["out"; 10]);
        assert_eq!(texts[10..], ["noise"; 30]);
        assert_eq!((found.lines[1].skipped, found.lines[10].skipped), (1, 70));
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

        #[test]
        fn every_line_is_shown_or_counted_whichever_stream_it_is_of(
            runs in proptest::collection::vec((any::<bool>(), 1_usize..60, 0_usize..300), 1..40),
        ) {
            let (mut log, mut origins, mut of) = (Vec::new(), Origins::default(), Vec::new());
            for (is_stderr, lines, length) in runs {
                let begin = log.len() as u64;
                for _ in 0..lines {
                    log.extend(format!("{} {}\n", of.len(), "x".repeat(length)).as_bytes());
                    of.push(is_stderr);
                }
                if is_stderr {
                    origins.add(begin..log.len() as u64, Origin::Stderr);
                }
            }
            let found = of_log(&log, &origins);
            let number = |line: &ExcerptLine| line.text.split(' ').next().unwrap().parse::<usize>();
            let first = number(&found.lines[0]).unwrap();
            let mut next = first;
            for line in &found.lines {
                next += usize::try_from(line.skipped).unwrap();
                prop_assert_eq!(number(line).unwrap(), next);
                prop_assert_eq!(line.stderr, of[next]);
                next += 1;
            }
            prop_assert_eq!(next, of.len());
            prop_assert!(log[found.from as usize..].starts_with(found.lines[0].text.as_bytes()));
            for stream in [false, true] {
                let written = of.iter().filter(|is_stderr| **is_stderr == stream).count();
                let shown = found.lines.iter().filter(|line| line.stderr == stream).count();
                prop_assert!(shown >= written.min(10), "{shown} of {written}");
            }
        }
    }

    fn of_log(log: &[u8], origins: &Origins) -> Excerpt {
        of(log, section(0), origins).unwrap()
    }
}
