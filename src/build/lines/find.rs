//! Searches a log for a text, as displayed to a reader.
//!
//! Most lines are plain, and many at once are searched in place. A line with an escape or a carriage return
//! is searched by itself, without its escapes, and in pieces if it is longer than one read.

use std::io::{self, Read};
use std::sync::atomic::AtomicBool;

use aho_corasick::AhoCorasick;
use memchr::{memchr, memchr_iter, memchr2, memrchr};

use super::chunks::{ESCAPE, each_chunk};
use super::escapes::{Escapes, Seen};

/// Most bytes of a search text: more than a person types.
const MAX_NEEDLE: usize = 200;

/// Most matches returned; a reader does not go through more of them.
const MAX_MATCHES: usize = 1_000;

/// A valid search text: 1 to 200 bytes of one line, ASCII case ignored.
#[derive(Clone, Debug)]
pub struct Needle {
    automaton: AhoCorasick,
    length: usize,
}

/// An invalid search text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected a text of 1 to {MAX_NEEDLE} bytes without control characters")]
pub struct NeedleError;

/// The matching lines.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Bytes that were searched.
    pub length: u64,
    /// The number of matching lines.
    pub count: u64,
    /// The first of them, at most 1,000.
    pub matches: Vec<Match>,
}

/// One line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Match {
    /// Its number, counted from 0.
    pub line: u64,
    /// The byte at which it begins.
    pub offset: u64,
}

impl std::str::FromStr for Needle {
    type Err = NeedleError;

    fn from_str(text: &str) -> Result<Needle, NeedleError> {
        let is_shown = |byte: u8| !byte.is_ascii_control() || byte == b'\t';
        if text.is_empty() || text.len() > MAX_NEEDLE || !text.bytes().all(is_shown) {
            return Err(NeedleError);
        }
        let automaton = AhoCorasick::builder()
            .ascii_case_insensitive(true)
            .build([text])
            .map_err(|_| NeedleError)?;
        Ok(Needle {
            automaton,
            length: text.len(),
        })
    }
}

/// The lines that contain `needle` within the first `length` bytes of `log`.
///
/// # Errors
/// When the log cannot be read, or `stop` was set.
pub fn find(log: impl Read, length: u64, needle: &Needle, stop: &AtomicBool) -> io::Result<Found> {
    let mut search = Search::new(needle);
    let length = each_chunk(log, length, stop, |chunk| search.take(chunk))?;
    Ok(search.finish(length))
}

#[derive(Debug)]
struct Search<'a> {
    needle: &'a Needle,
    found: Found,
    /// The position of the next byte.
    at: Match,
    /// A line that started in an earlier chunk, or is searched by itself.
    line: Line,
    is_in_line: bool,
}

impl<'a> Search<'a> {
    fn new(needle: &'a Needle) -> Search<'a> {
        Search {
            needle,
            found: Found::default(),
            at: Match { line: 0, offset: 0 },
            line: Line::default(),
            is_in_line: false,
        }
    }

    fn take(&mut self, chunk: &[u8]) {
        let mut rest = chunk;
        if self.is_in_line {
            rest = self.take_line(rest);
        }
        while let Some(last) = memrchr(b'\n', rest) {
            let plain = match memchr2(ESCAPE, b'\r', &rest[..last]) {
                None => last + 1,
                Some(at) => memrchr(b'\n', &rest[..at]).map_or(0, |end| end + 1),
            };
            self.take_plain(&rest[..plain]);
            rest = &rest[plain..];
            if plain <= last {
                rest = self.take_line(rest);
            }
        }
        if !rest.is_empty() {
            self.take_line(rest);
        }
    }

    /// Searches whole lines without escapes or carriage returns.
    fn take_plain(&mut self, lines: &[u8]) {
        let mut rest = lines;
        while let Some(found) = self.needle.automaton.find(rest) {
            let begin = memrchr(b'\n', &rest[..found.start()]).map_or(0, |end| end + 1);
            self.pass(&rest[..begin]);
            self.record();
            let end =
                memchr(b'\n', &rest[found.end()..]).map_or(rest.len(), |at| found.end() + at + 1);
            self.pass(&rest[begin..end]);
            rest = &rest[end..];
        }
        self.pass(rest);
    }

    /// Searches the available rest of one line. Returns the bytes after it.
    fn take_line<'b>(&mut self, bytes: &'b [u8]) -> &'b [u8] {
        match memchr(b'\n', bytes) {
            None => {
                self.is_in_line = true;
                self.line.take(bytes, self.needle);
                &[]
            }
            Some(end) => {
                self.line.take(&bytes[..end], self.needle);
                self.end_line();
                self.at.line += 1;
                self.at.offset += 1;
                &bytes[end + 1..]
            }
        }
    }

    fn end_line(&mut self) {
        if self.line.end() {
            self.record();
        }
        self.at.offset += self.line.length;
        self.line.begin();
        self.is_in_line = false;
    }

    fn pass(&mut self, bytes: &[u8]) {
        self.at.offset += bytes.len() as u64;
        self.at.line += memchr_iter(b'\n', bytes).count() as u64;
    }

    fn record(&mut self) {
        self.found.count += 1;
        if self.found.matches.len() < MAX_MATCHES {
            self.found.matches.push(self.at);
        }
    }

    fn finish(mut self, length: u64) -> Found {
        if self.is_in_line {
            self.end_line();
        }
        Found {
            length,
            ..self.found
        }
    }
}

/// One line, piece by piece. Carriage returns divide it into segments, of which the last non-empty one is
/// displayed.
#[derive(Debug, Default)]
struct Line {
    escapes: Escapes,
    /// Unsearched text of the segment, after the bytes in which a match could start.
    text: Vec<u8>,
    has_text: bool,
    holds: bool,
    /// Whether the last non-empty segment matches.
    held: bool,
    /// Its bytes so far.
    length: u64,
}

impl Line {
    /// Starts another line, in the same memory.
    fn begin(&mut self) {
        let mut text = std::mem::take(&mut self.text);
        text.clear();
        self.escapes.end_line();
        *self = Line {
            escapes: std::mem::take(&mut self.escapes),
            text,
            ..Line::default()
        };
    }

    fn take(&mut self, bytes: &[u8], needle: &Needle) {
        self.length += bytes.len() as u64;
        let mut rest = bytes;
        while !rest.is_empty() {
            if self.escapes.is_in_text() {
                let text = memchr2(ESCAPE, b'\r', rest).unwrap_or(rest.len());
                self.add(&rest[..text]);
                rest = &rest[text..];
                if let Some((_, after)) = Escapes::colours_at(rest) {
                    rest = after;
                    continue;
                }
            }
            let Some((byte, after)) = rest.split_first() else {
                break;
            };
            rest = after;
            match self.escapes.step(*byte) {
                Seen::Text if *byte == b'\r' => self.end_segment(needle),
                Seen::Text => self.add(&[*byte]),
                Seen::Escape | Seen::Colours => {}
            }
        }
        self.search(needle);
        let excess = self.text.len().saturating_sub(needle.length - 1);
        self.text.drain(..excess);
    }

    fn add(&mut self, text: &[u8]) {
        if !text.is_empty() {
            self.has_text = true;
            self.text.extend_from_slice(text);
        }
    }

    fn search(&mut self, needle: &Needle) {
        self.holds = self.holds || needle.automaton.is_match(&self.text);
    }

    fn end_segment(&mut self, needle: &Needle) {
        self.search(needle);
        self.close_segment();
        self.text.clear();
    }

    fn close_segment(&mut self) {
        if self.has_text {
            self.held = self.holds;
        }
        self.has_text = false;
        self.holds = false;
    }

    /// Whether the line contains the text.
    fn end(&mut self) -> bool {
        self.close_segment();
        self.held
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn lines(log: &[u8], text: &str) -> Vec<u64> {
        let stop = AtomicBool::new(false);
        let found = find(log, log.len() as u64, &text.parse().unwrap(), &stop).unwrap();
        assert_eq!(found.count, found.matches.len() as u64);
        for at in &found.matches {
            let before = &log[..usize::try_from(at.offset).unwrap()];
            assert!(before.is_empty() || before.ends_with(b"\n"));
            assert_eq!(memchr_iter(b'\n', before).count() as u64, at.line);
        }
        found.matches.iter().map(|found| found.line).collect()
    }

    #[test]
    fn a_line_is_found_once_by_its_visible_text() {
        let log = b"an Error, an ERROR\nno\n\x1b[31mer\x1b[0mror\x1b[m\n\
            error 10%\rerror 20%\rdone\nfine\rerror: last\r\r\n\
            \x1b]8;;http://error/\x1b\\link\x1b]8;;\x1b\\\nno\nerror\r\nerr\nor\nat the end: error";
        assert_eq!(lines(log, "error"), [0, 2, 4, 7, 10]);
        assert_eq!(lines(log, "ERROR"), [0, 2, 4, 7, 10]);
        assert_eq!(lines(log, "done"), [3]);
        assert_eq!(lines(log, "link"), [5]);
        assert_eq!(lines(log, "31m"), [0; 0]);
        assert_eq!(lines(b"\xc3\xa4\xff\n", "\u{e4}"), [0]);
        assert_eq!(lines(b"", "x"), [0; 0]);
        // It is a literal.
        assert_eq!(lines(b"a.c\nabc\n", "a.c"), [0]);
    }

    #[test]
    fn a_match_across_two_pieces_of_a_long_line_is_found() {
        for at in super::super::chunks::CHUNK_BYTES - 8..super::super::chunks::CHUNK_BYTES + 2 {
            let mut log = vec![b'x'; at];
            log.extend_from_slice(b"ne\x1b[1medle");
            log.extend(vec![b'x'; 70_000]);
            log.extend_from_slice(b"\nend\n");
            assert_eq!(lines(&log, "needle"), [0], "{at}");
            assert_eq!(lines(&log, "end"), [1], "{at}");
            // Past it, the same line is written over.
            log.truncate(log.len() - 5);
            log.extend_from_slice(b"\rover\n");
            assert_eq!(lines(&log, "needle"), [0; 0], "{at}");
            assert_eq!(lines(&log, "over"), [0], "{at}");
        }
    }

    #[test]
    fn all_matches_are_counted_and_the_first_thousand_are_listed() {
        let log = "yes\nno\n".repeat(5_000);
        let stop = AtomicBool::new(false);
        let needle = "yes".parse().unwrap();
        let found = find(log.as_bytes(), log.len() as u64, &needle, &stop).unwrap();
        assert_eq!((found.count, found.matches.len()), (5_000, 1_000));
        assert_eq!(found.length, log.len() as u64);
        let last = Match {
            line: 1_998,
            offset: 999 * 7,
        };
        assert_eq!(found.matches.last(), Some(&last));
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        assert!(find(log.as_bytes(), 4, &needle, &stop).is_err());
    }

    #[test]
    fn a_text_that_no_line_can_contain_is_not_searched_for() {
        for wrong in ["", "a\nb", "\r", "\u{1b}[m", "\0", &"x".repeat(201)] {
            assert_eq!(
                wrong.parse::<Needle>().unwrap_err(),
                NeedleError,
                "{wrong:?}"
            );
        }
        for right in ["x", "a\tb", "\u{e4}", &"x".repeat(200)] {
            assert!(right.parse::<Needle>().is_ok(), "{right:?}");
        }
    }

    /// The displayed line, computed the slow way.
    fn seen(line: &[u8]) -> Vec<u8> {
        let mut escapes = Escapes::default();
        let mut text = line.to_vec();
        text.retain(|byte| escapes.step(*byte) == Seen::Text);
        let mut segments = text.split(|byte| *byte == b'\r').rev();
        segments
            .find(|segment| !segment.is_empty())
            .unwrap_or_default()
            .to_vec()
    }

    proptest! {
        #[test]
        fn the_matches_do_not_depend_on_the_chunks_of_the_log(
            log in proptest::collection::vec(proptest::sample::select(&b"abAB\n\n\x1b[m]\x07\r"[..]), 0..400),
            text in "[abm]{1,3}",
            cut in 1_usize..50,
        ) {
            let needle: Needle = text.parse().unwrap();
            let mut search = Search::new(&needle);
            log.chunks(cut).for_each(|chunk| search.take(chunk));
            let found = search.finish(log.len() as u64);
            let listed: Vec<u64> = found.matches.iter().map(|found| found.line).collect();
            prop_assert_eq!(&listed, &lines(&log, &text));
            let expected: Vec<u64> = log
                .split(|byte| *byte == b'\n')
                .zip(0..)
                .filter(|(line, _)| {
                    let line = seen(line).to_ascii_lowercase();
                    line.windows(text.len()).any(|part| part == text.as_bytes())
                })
                .map(|(_, number)| number)
                .collect();
            prop_assert_eq!(listed, expected);
        }
    }
}
