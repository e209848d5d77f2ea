//! Distinguishes escape sequences from text, byte by byte.
//!
//! CSI (`ESC [ … letter`), the strings OSC, DCS, SOS, PM and APC (to BEL, `ESC \` or the next control
//! character), and `ESC` with one character or a few. An incomplete sequence ends where it can no longer
//! continue, at the end of its line at the latest: no sequence swallows a log. The controls of ISO 6429 above
//! 0x7f are no escapes here: in UTF-8 they are parts of characters.

use super::chunks::ESCAPE;

/// Most bytes of parameters that are parsed: those of every colour together take fewer.
const MAX_PARAMS: usize = 128;

/// The state of the parser.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum At {
    #[default]
    Text,
    /// After `ESC`.
    Escape,
    /// After `ESC` and an intermediate byte, before its last character.
    Between,
    /// In a CSI.
    Sequence,
    /// In a string.
    Words,
}

/// The type of a byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    /// Text, or a control character.
    Text,
    /// Part of an escape sequence.
    Escape,
    /// The end of one that sets colours: see [`Escapes::params`].
    Colours,
}

/// Distinguishes escape sequences from text.
#[derive(Debug, Default)]
pub(super) struct Escapes {
    at: At,
    params: Vec<u8>,
}

impl Escapes {
    /// True outside of every sequence: until the next `ESC`, all is text.
    pub(super) fn is_in_text(&self) -> bool {
        self.at == At::Text
    }

    /// Ends the line, and an unfinished sequence with it.
    pub(super) fn end_line(&mut self) {
        self.at = At::Text;
    }

    /// Advances by one byte; of a character past ASCII, by any of its bytes.
    pub(super) fn step(&mut self, byte: u8) -> Seen {
        let (at, seen) = match (self.at, byte) {
            (_, ESCAPE) => (At::Escape, Seen::Escape),
            (At::Text, _) => (At::Text, Seen::Text),
            (At::Escape, b'[') => {
                self.params.clear();
                (At::Sequence, Seen::Escape)
            }
            (At::Escape, b']' | b'P' | b'X' | b'^' | b'_') => (At::Words, Seen::Escape),
            (At::Escape | At::Between, 0x20..=0x2f) => (At::Between, Seen::Escape),
            (At::Escape | At::Between, 0x30..=0x7e) => (At::Text, Seen::Escape),
            (At::Sequence, 0x20..=0x3f) => {
                if self.params.len() < MAX_PARAMS {
                    self.params.push(byte);
                }
                (At::Sequence, Seen::Escape)
            }
            (At::Sequence, b'm') if self.is_for_colours() => (At::Text, Seen::Colours),
            (At::Sequence, 0x40..=0x7e) => (At::Text, Seen::Escape),
            (At::Words, 0x07) => (At::Text, Seen::Escape),
            (At::Words, 0x20..) => (At::Words, Seen::Escape),
            (At::Escape | At::Between | At::Sequence | At::Words, _) => (At::Text, Seen::Text),
        };
        self.at = at;
        seen
    }

    /// The parameters of a colour sequence at the start of `bytes`, and what follows it: the result of
    /// [`Escapes::step`] for the most frequent sequence, in one step. `None` also if it is incomplete.
    pub(super) fn colours_at(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
        let inside = bytes.strip_prefix(b"\x1b[")?;
        let is_number = |byte: &u8| matches!(byte, b'0'..=b'9' | b';' | b':');
        let end = inside
            .iter()
            .take(MAX_PARAMS)
            .position(|byte| !is_number(byte))?;
        let (params, after) = inside.split_at(end);
        Some((params, after.strip_prefix(b"m")?))
    }

    /// The parameters of the last sequence.
    pub(super) fn params(&self) -> &[u8] {
        &self.params
    }

    fn is_for_colours(&self) -> bool {
        let is_number = |byte: &u8| matches!(byte, b'0'..=b'9' | b';' | b':');
        self.params.len() < MAX_PARAMS && self.params.iter().all(is_number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(of: &str) -> String {
        let mut escapes = Escapes::default();
        let bytes = of
            .bytes()
            .filter(|byte| escapes.step(*byte) == Seen::Text)
            .collect();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn every_kind_of_escape_is_removed_and_no_text_after_it() {
        for (all, shown) in [
            ("a\u{1b}[31mb\u{1b}[0mc\u{1b}[md", "abcd"),
            ("a\u{1b}[2K\u{1b}[1;2H\u{1b}[?25lb", "ab"),
            ("a\u{1b}]8;;http://x.y/\u{1b}\\b\u{1b}]8;;\u{7}c", "abc"),
            ("a\u{1b}]0;title\u{7}b\u{1b}P1$r0m\u{1b}\\c", "abc"),
            ("a\u{1b}7b\u{1b}(Bc\u{1b}=d", "abcd"),
            // Torn.
            ("a\u{1b}[3ä", "aä"),
            ("a\u{1b}[3\u{1b}[1mb", "ab"),
            ("a\u{1b}ä", "aä"),
            ("a\u{1b}]never ends\tb", "a\tb"),
            ("a\u{1b}", "a"),
            ("a\u{9b}31mb", "a\u{9b}31mb"),
        ] {
            assert_eq!(text(all), shown, "{all:?}");
        }
    }

    #[test]
    fn a_sequence_is_parsed_alike_at_once_and_byte_by_byte() {
        let taken = |bytes: &'static [u8]| Escapes::colours_at(bytes);
        assert_eq!(taken(b"\x1b[1;31mred"), Some((&b"1;31"[..], &b"red"[..])));
        assert_eq!(taken(b"\x1b[m"), Some((&b""[..], &b""[..])));
        for other in [&b"\x1b[1;3"[..], b"\x1b[1K", b"\x1b[?1m", b"\x1b", b"m"] {
            assert_eq!(taken(other), None, "{other:?}");
        }
    }

    #[test]
    fn only_sgr_sequences_are_recognized_as_colours() {
        for (sequence, is_for_colours) in [
            ("\u{1b}[m", true),
            ("\u{1b}[38:2::1:2:3m", true),
            ("\u{1b}[>4;1m", false),
            ("\u{1b}[1 m", false),
            ("\u{1b}[1K", false),
        ] {
            let mut escapes = Escapes::default();
            let last = sequence.bytes().map(|byte| escapes.step(byte)).last();
            assert_eq!(last == Some(Seen::Colours), is_for_colours, "{sequence:?}");
        }
    }
}
