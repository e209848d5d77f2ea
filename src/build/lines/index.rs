//! The line index of a log, block by block.
//!
//! A log is split into blocks, each of which starts at a line. A client that has the index can read any line
//! by reading one block.

use std::io::{self, Read};
use std::sync::atomic::AtomicBool;

use memchr::memchr2;

use super::chunks::{ESCAPE, each_chunk};
use super::colours::Style;
use super::escapes::{Escapes, Seen};

/// Lines of a block: a screen needs one or two blocks, and empty lines do not create many.
const BLOCK_LINES: u64 = 2_000;

/// Bytes of a block, without its last line: one answer, and quickly displayed.
const BLOCK_BYTES: u64 = 64 << 10;

/// Blocks of a log: 4 GiB in blocks of 64 KiB, and 6 MiB as JSON with the longest colours. Beyond it every
/// second block is merged, so the blocks of larger logs are larger.
const MAX_BLOCKS: usize = 64 << 10;

/// The line index. The three lists have an entry for each block.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Index {
    /// Bytes that were indexed.
    pub length: u64,
    /// Lines that start in them; the last may be incomplete.
    pub lines: u64,
    /// The offset at which each block and its first line start.
    pub offsets: Vec<u64>,
    /// The number of that line, counted from 0.
    pub firsts: Vec<u64>,
    /// The active colours there, as parameters of one SGR sequence; "" for none.
    pub colours: Vec<String>,
}

/// The index of the first `length` bytes of `log`. A block has at least 2,000 lines or 64 KiB, except the
/// last; a longer line is a block by itself.
///
/// # Errors
/// When the log cannot be read, or `stop` was set.
pub fn index(log: impl Read, length: u64, stop: &AtomicBool) -> io::Result<Index> {
    let mut blocks = Blocks::new(MAX_BLOCKS);
    each_chunk(log, length, stop, |chunk| blocks.take(chunk))?;
    Ok(blocks.finish())
}

/// The start of a line.
#[derive(Clone, Copy, Debug, Default)]
struct Start {
    offset: u64,
    line: u64,
    style: Style,
}

#[derive(Debug)]
struct Blocks {
    starts: Vec<Start>,
    /// The start of the current block.
    block: Start,
    /// The start of the current line.
    line: Start,
    /// Bytes seen.
    at: u64,
    style: Style,
    escapes: Escapes,
    block_lines: u64,
    block_bytes: u64,
    max_blocks: usize,
}

impl Blocks {
    fn new(max_blocks: usize) -> Blocks {
        Blocks {
            starts: vec![Start::default()],
            block: Start::default(),
            line: Start::default(),
            at: 0,
            style: Style::default(),
            escapes: Escapes::default(),
            block_lines: BLOCK_LINES,
            block_bytes: BLOCK_BYTES,
            max_blocks,
        }
    }

    fn take(&mut self, chunk: &[u8]) {
        let mut rest = chunk;
        while !rest.is_empty() {
            if self.escapes.is_in_text() {
                let text = memchr2(b'\n', ESCAPE, rest).unwrap_or(rest.len());
                self.at += text as u64;
                rest = &rest[text..];
                if let Some((params, after)) = Escapes::colours_at(rest) {
                    self.style.apply(params);
                    self.at += (rest.len() - after.len()) as u64;
                    rest = after;
                    continue;
                }
            }
            let Some((byte, after)) = rest.split_first() else {
                return;
            };
            rest = after;
            self.at += 1;
            if *byte == b'\n' {
                self.end_line();
            } else if self.escapes.step(*byte) == Seen::Colours {
                self.style.apply(self.escapes.params());
            }
        }
    }

    fn end_line(&mut self) {
        self.escapes.end_line();
        let is_long = self.split_long();
        self.line = Start {
            offset: self.at,
            line: self.line.line + 1,
            style: self.style,
        };
        let has_all_lines = self.line.line - self.block.line >= self.block_lines;
        if is_long || has_all_lines || self.at - self.block.offset >= self.block_bytes {
            self.begin_block();
        }
    }

    /// A long line is a block by itself.
    fn split_long(&mut self) -> bool {
        let is_long = self.at - self.line.offset > self.block_bytes;
        if is_long && self.line.offset > self.block.offset {
            self.begin_block();
        }
        is_long
    }

    /// Starts a block at the current line.
    fn begin_block(&mut self) {
        if self.starts.len() >= self.max_blocks {
            let mut number = 0_usize;
            self.starts.retain(|_| {
                number += 1;
                number % 2 == 1
            });
            self.block_lines *= 2;
            self.block_bytes *= 2;
        }
        self.block = self.line;
        self.starts.push(self.line);
    }

    fn finish(mut self) -> Index {
        self.split_long();
        // A block without bytes is dropped.
        if self
            .starts
            .last()
            .is_some_and(|last| last.offset == self.at)
        {
            self.starts.pop();
        }
        let goes_on = u64::from(self.at > self.line.offset);
        Index {
            length: self.at,
            lines: self.line.line + goes_on,
            offsets: self.starts.iter().map(|start| start.offset).collect(),
            firsts: self.starts.iter().map(|start| start.line).collect(),
            colours: self
                .starts
                .iter()
                .map(|start| start.style.to_string())
                .collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn of(log: &[u8]) -> Index {
        index(log, log.len() as u64, &AtomicBool::new(false)).unwrap()
    }

    #[test]
    fn blocks_begin_at_lines_and_are_bounded_in_lines_and_bytes() {
        assert_eq!(of(b""), Index::default());
        let short = of(b"one\ntwo\nthree");
        assert_eq!((short.length, short.lines), (13, 3));
        assert_eq!((short.offsets, short.firsts), (vec![0], vec![0]));
        let empty = of("\n".repeat(4_001).as_bytes());
        assert_eq!(empty.lines, 4_001);
        assert_eq!(empty.offsets, [0, 2_000, 4_000]);
        assert_eq!(empty.firsts, empty.offsets);
        // Exactly two blocks, and no third without a byte.
        assert_eq!(of("\n".repeat(4_000).as_bytes()).offsets, [0, 2_000]);
        let wide = of(format!("{}\n", "x".repeat(999)).repeat(200).as_bytes());
        assert_eq!(wide.offsets, [0, 66_000, 132_000, 198_000]);
        assert_eq!(wide.firsts, [0, 66, 132, 198]);
    }

    #[test]
    fn a_long_line_is_a_block_of_its_own_with_or_without_a_line_end() {
        let long = "x".repeat(1 << 20);
        let log = format!("before\n{long}\nafter\n{long}");
        let index = of(log.as_bytes());
        let second = 7 + (1 << 20) + 1;
        assert_eq!(index.offsets, [0, 7, second, second + 6]);
        assert_eq!(index.firsts, [0, 1, 2, 3]);
        assert_eq!(index.lines, 4);
    }

    #[test]
    fn a_block_has_the_colours_at_its_beginning() {
        let red = format!("\u{1b}[1;31mred{}", "\n".repeat(2_000));
        let log = format!("{red}\u{1b}[0mplain{}end", "\n".repeat(2_000));
        assert_eq!(of(log.as_bytes()).colours, ["", "1;31", ""]);
        // A title sets no colour, and an unterminated one hides no line.
        let log = format!("\u{1b}]0;[31m{}\u{1b}[32m\n", "\n".repeat(2_000));
        assert_eq!(of(log.as_bytes()).colours, ["", ""]);
    }

    #[test]
    fn a_very_large_log_has_a_bounded_number_of_blocks() {
        let mut blocks = Blocks::new(8);
        blocks.take("\n".repeat(100_000).as_bytes());
        let index = blocks.finish();
        assert!(index.offsets.len() <= 8, "{:?}", index.offsets);
        assert_eq!((index.offsets[0], index.lines), (0, 100_000));
        assert_eq!(index.firsts, index.offsets);
    }

    #[test]
    fn a_scan_without_waiting_clients_stops() {
        let stop = AtomicBool::new(true);
        assert!(index(&b"text"[..], 4, &stop).is_err());
    }

    #[test]
    fn a_log_is_not_read_past_the_given_length() {
        let stop = AtomicBool::new(false);
        let index = index(&b"one\ntwo\nthree"[..], 6, &stop).unwrap();
        assert_eq!((index.length, index.lines), (6, 2));
    }

    proptest! {
        #[test]
        fn the_index_does_not_depend_on_the_chunks_of_the_log(
            log in proptest::collection::vec(proptest::sample::select(&b"a\n\x1b[3;1m]\x07\r\xff"[..]), 0..4_000),
            cut in 1_usize..100,
        ) {
            let mut blocks = Blocks::new(MAX_BLOCKS);
            log.chunks(cut).for_each(|chunk| blocks.take(chunk));
            let index = blocks.finish();
            prop_assert_eq!(&index, &of(&log));
            let breaks = log.iter().filter(|byte| **byte == b'\n').count() as u64;
            let goes_on = log.last().is_some_and(|byte| *byte != b'\n');
            prop_assert_eq!(index.lines, breaks + u64::from(goes_on));
            for (offset, first) in index.offsets.iter().zip(&index.firsts) {
                let before = &log[..usize::try_from(*offset).unwrap()];
                prop_assert!(before.is_empty() || before.ends_with(b"\n"));
                prop_assert_eq!(before.iter().filter(|byte| **byte == b'\n').count() as u64, *first);
            }
        }
    }
}
