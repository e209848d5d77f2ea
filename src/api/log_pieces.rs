//! Splits a log into pieces that fit into events, and encodes their bytes.
//!
//! A log event has text, for people and for simple clients. Text cannot carry every byte: a carriage return
//! would end a field of an event stream, invalid UTF-8 has no characters, and nothing tells whether a line
//! continues. A piece that is not simply a line of text therefore carries its bytes a second time, in base64
//! (RFC 4648, section 4, with padding). The bytes of all pieces, one after another, are the log.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// Most bytes of a piece, without its line feed: a client need not hold a line of 100 MB. A longer line is
/// split, between two characters if it is UTF-8.
pub const MAX_PIECE: usize = 2 << 10;

/// A line with its line feed, a part of a longer line, or a last line without one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogPiece<'a> {
    /// Its bytes.
    pub bytes: &'a [u8],
    /// The offset of the next byte of the log.
    pub end: u64,
}

impl<'a> LogPiece<'a> {
    /// The line, without its line feed, if the piece is exactly one line of text.
    fn line(&self) -> Option<&'a str> {
        let line = self.bytes.strip_suffix(b"\n")?;
        if line.contains(&b'\r') {
            return None;
        }
        std::str::from_utf8(line).ok()
    }

    /// The nearest text, without line end: invalid UTF-8 is replaced, a carriage return becomes a line feed,
    /// and one before the line end is removed.
    pub fn text(&self) -> Cow<'a, str> {
        if let Some(line) = self.line() {
            return line.into();
        }
        let line = self.bytes.strip_suffix(b"\n").unwrap_or(self.bytes);
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        match String::from_utf8_lossy(line) {
            text if text.contains('\r') => text.replace('\r', "\n").into(),
            text => text,
        }
    }

    /// Its bytes in base64; `None` if they equal the text and a line feed.
    pub fn encoded(&self) -> Option<String> {
        match self.line() {
            Some(_) => None,
            None => Some(STANDARD.encode(self.bytes)),
        }
    }
}

/// The decoded bytes; `None` if the input is not base64.
pub fn decode(encoded: &[u8]) -> Option<Vec<u8>> {
    STANDARD.decode(encoded).ok()
}

/// Splits a log into pieces, independent of the chunks in which it arrives.
#[derive(Debug)]
pub struct LogPieces {
    /// The start of a line whose end has not arrived yet: at most [`MAX_PIECE`].
    begun: Vec<u8>,
    /// The offset in the log at which it starts.
    offset: u64,
}

impl LogPieces {
    /// Starts at byte `offset` of the log.
    pub fn new(offset: u64) -> LogPieces {
        LogPieces {
            begun: Vec::new(),
            offset,
        }
    }

    /// Passes on all pieces that `chunk` completes.
    pub fn push(&mut self, chunk: &[u8], mut hand: impl FnMut(LogPiece<'_>)) {
        for mut part in chunk.split_inclusive(|byte| *byte == b'\n') {
            let has_end = part.ends_with(b"\n");
            while self.begun.len() + part.len() - usize::from(has_end) > MAX_PIECE {
                let (fits, rest) = part.split_at(MAX_PIECE - self.begun.len());
                self.begun.extend_from_slice(fits);
                let cut = whole_letters(&self.begun);
                self.offset += cut as u64;
                hand(LogPiece {
                    bytes: &self.begun[..cut],
                    end: self.offset,
                });
                self.begun.drain(..cut);
                part = rest;
            }
            if !has_end {
                self.begun.extend_from_slice(part);
                continue;
            }
            let line = match self.begun.is_empty() {
                true => part,
                false => {
                    self.begun.extend_from_slice(part);
                    &self.begun
                }
            };
            self.offset += line.len() as u64;
            hand(LogPiece {
                bytes: line,
                end: self.offset,
            });
            // No memory is held for a line that has not started.
            self.begun = Vec::new();
        }
    }

    /// Passes on a last line without line end.
    pub fn finish(&mut self, hand: impl FnOnce(LogPiece<'_>)) {
        if self.begun.is_empty() {
            return;
        }
        self.offset += self.begun.len() as u64;
        hand(LogPiece {
            bytes: &self.begun,
            end: self.offset,
        });
        self.begun.clear();
    }
}

/// The length without an incomplete character at the end; all bytes, if there is none. Never 0 for several
/// bytes.
fn whole_letters(bytes: &[u8]) -> usize {
    // A character has four bytes at most.
    for back in 1..=bytes.len().saturating_sub(1).min(3) {
        let at = bytes.len() - back;
        let length = match bytes[at] {
            0x80..=0xbf => continue,
            0xc0..=0xdf => 2,
            0xe0..=0xef => 3,
            0xf0..=0xff => 4,
            _ => 1,
        };
        return if length > back { at } else { bytes.len() };
    }
    bytes.len()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The pieces: their bytes, as decoded by a client, and the ids.
    fn cut(chunks: &[&[u8]]) -> Vec<(u64, Vec<u8>)> {
        let mut pieces = LogPieces::new(0);
        let mut read = Vec::new();
        let mut hand = |piece: LogPiece<'_>| {
            let bytes = match piece.encoded() {
                Some(encoded) => decode(encoded.as_bytes()).unwrap(),
                None => format!("{}\n", piece.text()).into_bytes(),
            };
            assert!(piece.bytes.len() <= MAX_PIECE + 1);
            read.push((piece.end, bytes));
        };
        for chunk in chunks {
            pieces.push(chunk, &mut hand);
        }
        pieces.finish(hand);
        read
    }

    fn piece(end: u64, bytes: &[u8]) -> (u64, Vec<u8>) {
        (end, bytes.to_owned())
    }

    #[test]
    fn a_line_is_one_piece_wherever_chunks_are_cut() {
        let expected = [piece(4, b"one\n"), piece(5, b"\n"), piece(9, b"two!")];
        assert_eq!(cut(&[b"one\n\ntwo!"]), expected);
        assert_eq!(cut(&[b"o", b"ne", b"\n", b"\n", b"two!"]), expected);
    }

    #[test]
    fn a_line_of_text_is_sent_as_text_and_other_bytes_as_text_and_bytes() {
        let sent = |bytes| {
            let piece = LogPiece { bytes, end: 0 };
            (piece.text().into_owned(), piece.encoded())
        };
        let text = |text: &str| (text.to_owned(), None);
        let both = |text: &str, encoded: &str| (text.to_owned(), Some(encoded.to_owned()));
        assert_eq!(sent(b"plain\t\0\x1b[1m\n"), text("plain\t\0\u{1b}[1m"));
        assert_eq!(sent(b"\n"), text(""));
        assert_eq!(sent(b"open"), both("open", "b3Blbg=="));
        assert_eq!(sent(b"1%\r2%\r\n"), both("1%\n2%", "MSUNMiUNCg=="));
        assert_eq!(sent(b"\xff\n"), both("\u{fffd}", "/wo="));
        assert_eq!(sent(b"x\revent: end\n").0, "x\nevent: end");
    }

    #[test]
    fn a_long_line_is_cut_between_characters() {
        for letter in ["é", "€", "😀"] {
            let long = format!("x{}\n", letter.repeat(40_000));
            let pieces = cut(&[long.as_bytes()]);
            assert!(pieces.len() > 1);
            for (_, bytes) in &pieces {
                assert!(std::str::from_utf8(bytes).is_ok(), "{letter}");
            }
            let all: Vec<u8> = pieces.into_iter().flat_map(|(_, bytes)| bytes).collect();
            assert_eq!(all, long.as_bytes());
        }
        let exact = [vec![b'x'; MAX_PIECE], b"\n".to_vec()].concat();
        assert_eq!(cut(&[&exact]), [piece(exact.len() as u64, &exact)]);
    }

    proptest! {
        #[test]
        fn the_pieces_together_are_the_log(
            parts in prop::collection::vec(
                prop_oneof![
                    prop::collection::vec(any::<u8>(), 0..40),
                    "[a\r\n\u{0}é😀]{0,20}".prop_map(String::into_bytes),
                    (any::<u8>(), 60_000..140_000usize).prop_map(|(byte, n)| vec![byte; n]),
                    (0..4usize, 30_000..40_000usize)
                        .prop_map(|(x, n)| [vec![b'x'; x], "é".repeat(n).into_bytes()].concat()),
                ],
                0..6,
            ),
            size in 1..100_000usize,
        ) {
            let log = parts.concat();
            let chunks: Vec<&[u8]> = log.chunks(size).collect();
            let mut next = 0;
            let mut all = Vec::new();
            for (end, bytes) in cut(&chunks) {
                next += bytes.len() as u64;
                prop_assert_eq!(end, next);
                all.extend(bytes);
            }
            prop_assert!(all == log);
        }
    }
}
