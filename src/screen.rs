//! Untrusted text on a terminal: both programs print such text only through this module.
//!
//! A terminal interprets control sequences: a log may retitle the window, move the cursor over earlier
//! output, or make the terminal type an answer. So on a terminal every control character is shown in caret
//! notation (`^[`), except tab, line feed, and plain colours (`ESC [ digits and semicolons m`), which are
//! reset at the end of their line. Output that does not go to a terminal is passed on unchanged.

use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write};

/// Longest line that is buffered until it ends; a longer one is printed in pieces.
const MAX_LINE: usize = 64 << 10;
/// Longest colour sequence: `ESC[38;2;255;255;255;48;2;255;255;255m` is 38.
const MAX_COLOUR: usize = 48;

/// A sentence without control characters or colours.
pub(crate) fn line(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    // A message of mistry may have several lines (candidates of an ambiguous id).
    for letter in text.chars() {
        if letter == '\n' {
            shown.push('\n');
        } else {
            harmless(letter, &mut shown);
        }
    }
    shown
}

/// Whether a text contains terminal controls other than colours.
pub(crate) fn is_steering(text: &str) -> bool {
    let mut rest = text;
    while let Some(letter) = rest.chars().next() {
        match colour(rest) {
            Some(length) => rest = &rest[length..],
            None if !matches!(letter, '\t' | '\n') && is_harmful(letter) => return true,
            None => rest = &rest[letter.len_utf8()..],
        }
    }
    false
}

/// The same for text that must stay on one line.
pub(crate) fn cell(text: &str) -> String {
    line(text).replace('\n', "^J")
}

/// A line of a log as plain text: without colours, and without what carriage returns overwrite.
pub(crate) fn plain(line: &str) -> String {
    let mut parts = line.rsplit('\r');
    let mut rest = parts.find(|part| !part.trim().is_empty()).unwrap_or("");
    let mut shown = String::new();
    while let Some(letter) = rest.chars().next() {
        match colour(rest) {
            Some(length) => rest = &rest[length..],
            None => {
                harmless(letter, &mut shown);
                rest = &rest[letter.len_utf8()..];
            }
        }
    }
    shown.replace('\t', " ")
}

/// A document whose texts contain no terminal controls; it stays the same document.
pub(crate) fn json(value: &serde_json::Value) -> String {
    let mut shown = String::new();
    for letter in value.to_string().chars() {
        if is_harmful(letter) {
            let _ = write!(shown, "\\u{:04x}", u32::from(letter));
        } else {
            shown.push(letter);
        }
    }
    shown
}

/// C0, DEL and C1 controls, and characters that reverse the text direction.
fn is_harmful(letter: char) -> bool {
    letter.is_control()
        || matches!(letter, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

fn harmless(letter: char, to: &mut String) {
    match letter {
        '\t' => to.push(letter),
        '\0'..='\u{1f}' => {
            to.push('^');
            to.push(char::from(letter as u8 ^ 0x40));
        }
        '\u{7f}' => to.push_str("^?"),
        letter if is_harmful(letter) => {
            let _ = write!(to, "<U+{:04X}>", u32::from(letter));
        }
        letter => to.push(letter),
    }
}

/// One log line for a terminal, without its line feed.
fn log_line(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut coloured = false;
    // Each redraw of a progress bar becomes a line of its own.
    for (at, part) in text.trim_end_matches('\r').split('\r').enumerate() {
        if at > 0 {
            shown.push('\n');
        }
        let mut rest = part;
        while let Some(letter) = rest.chars().next() {
            if let Some(length) = colour(rest) {
                shown.push_str(&rest[..length]);
                rest = &rest[length..];
                coloured = true;
            } else {
                harmless(letter, &mut shown);
                rest = &rest[letter.len_utf8()..];
            }
        }
    }
    if coloured {
        shown.push_str("\u{1b}[0m");
    }
    shown
}

/// Length of the colour sequence at the start of `text`.
fn colour(text: &str) -> Option<usize> {
    let inner = text.strip_prefix("\u{1b}[")?;
    let digits = inner
        .bytes()
        .take(MAX_COLOUR)
        .take_while(|b| b.is_ascii_digit() || *b == b';')
        .count();
    (inner.as_bytes().get(digits) == Some(&b'm')).then_some(digits + 3)
}

/// Writes a log to standard output or standard error.
#[derive(Debug)]
pub(crate) struct LogView<W> {
    to: W,
    is_terminal: bool,
    line: Vec<u8>,
    /// What was written last did not end a line.
    is_in_line: bool,
}

impl LogView<io::Stdout> {
    pub(crate) fn on_stdout() -> LogView<io::Stdout> {
        let to = io::stdout();
        let is_terminal = to.is_terminal();
        LogView::new(to, is_terminal)
    }
}

impl LogView<io::Stderr> {
    pub(crate) fn on_stderr() -> LogView<io::Stderr> {
        let to = io::stderr();
        let is_terminal = to.is_terminal();
        LogView::new(to, is_terminal)
    }
}

impl<W: Write> LogView<W> {
    fn new(to: W, is_terminal: bool) -> LogView<W> {
        LogView {
            to,
            is_terminal,
            line: Vec::new(),
            is_in_line: false,
        }
    }

    /// Prints bytes of a log as they arrive; on a terminal, line by line.
    pub(crate) fn push(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        if !self.is_terminal {
            if let Some(last) = bytes.last() {
                self.is_in_line = *last != b'\n';
            }
            return self.to.write_all(bytes);
        }
        while !bytes.is_empty() {
            let end = bytes.iter().position(|b| *b == b'\n');
            let room = MAX_LINE - self.line.len();
            let take = end.unwrap_or(bytes.len()).min(room);
            self.line.extend_from_slice(&bytes[..take]);
            let ended = end == Some(take);
            bytes = &bytes[take + usize::from(ended)..];
            if ended || self.line.len() == MAX_LINE {
                self.print_line(if ended { "\n" } else { "" })?;
            }
        }
        Ok(())
    }

    /// Prints an unterminated last line.
    pub(crate) fn finish(&mut self) -> io::Result<()> {
        if !self.line.is_empty() {
            self.print_line("\n")?;
        }
        self.to.flush()
    }

    /// What was written last did not end a line.
    pub(crate) fn is_in_line(&self) -> bool {
        self.is_in_line
    }

    /// Ends the line, if what was written did not, so that a message does not follow on it. What is not written
    /// yet stays so.
    pub(crate) fn begin_line(&mut self) -> io::Result<()> {
        if std::mem::take(&mut self.is_in_line) {
            self.to.write_all(b"\n")?;
        }
        self.to.flush()
    }

    fn print_line(&mut self, end: &str) -> io::Result<()> {
        self.is_in_line = end.is_empty();
        let shown = log_line(&String::from_utf8_lossy(&self.line)) + end;
        self.line.clear();
        self.to.write_all(shown.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_can_only_colour_a_terminal() {
        for (text, shown) in [
            ("plain\tünï", "plain\tünï"),
            ("\u{1b}[1;31mred", "\u{1b}[1;31mred\u{1b}[0m"),
            ("\u{1b}[m", "\u{1b}[m\u{1b}[0m"),
            ("\u{1b}]0;owned\u{7}", "^[]0;owned^G"),
            ("\u{1b}[2J\u{1b}[6n", "^[[2J^[[6n"),
            ("\u{9b}31m", "<U+009B>31m"),
            ("\u{1b}[38:2:1m", "^[[38:2:1m"),
            ("a\rb\r", "a\nb"),
            ("x\u{202e}y", "x<U+202E>y"),
            ("\u{1b}[", "^[["),
            ("\u{8}\u{7f}\0", "^H^?^@"),
        ] {
            assert_eq!(log_line(text), shown, "{text:?}");
        }
        let long = format!("\u{1b}[{}m", "1".repeat(MAX_COLOUR + 1));
        assert!(log_line(&long).starts_with("^[["));
    }

    #[test]
    fn a_terminal_gets_lines_and_a_file_gets_bytes() {
        let bytes = b"one\x1b]0;x\x07\ntwo\xff".as_slice();
        let mut shown = Vec::new();
        let mut view = LogView::new(&mut shown, true);
        for byte in bytes {
            view.push(&[*byte]).unwrap();
        }
        view.finish().unwrap();
        assert_eq!(shown, "one^[]0;x^G\ntwo\u{fffd}\n".as_bytes());

        let mut kept = Vec::new();
        let mut view = LogView::new(&mut kept, false);
        view.push(bytes).unwrap();
        view.finish().unwrap();
        assert_eq!(kept, bytes);
    }

    #[test]
    fn a_message_begins_a_line_and_a_log_is_not_changed_otherwise() {
        for (is_terminal, expected) in [(true, "ab\n"), (false, "a\nb\n")] {
            let mut shown = Vec::new();
            let mut view = LogView::new(&mut shown, is_terminal);
            view.begin_line().unwrap();
            view.push(b"a").unwrap();
            // A terminal gets whole lines.
            view.begin_line().unwrap();
            view.push(b"b").unwrap();
            view.finish().unwrap();
            view.begin_line().unwrap();
            view.begin_line().unwrap();
            assert_eq!(String::from_utf8(shown).unwrap(), expected);
        }
        let mut shown = Vec::new();
        let mut view = LogView::new(&mut shown, true);
        view.push(&[b'x'; MAX_LINE]).unwrap();
        view.begin_line().unwrap();
        assert_eq!(shown.len(), MAX_LINE + 1);
    }

    #[test]
    fn a_line_without_end_is_shown_in_pieces() {
        let mut shown = Vec::new();
        let mut view = LogView::new(&mut shown, true);
        view.push(&vec![b'x'; 3 * MAX_LINE + 7]).unwrap();
        assert_eq!(view.line.len(), 7);
        view.push(b"\n").unwrap();
        assert_eq!(shown.len(), 3 * MAX_LINE + 8);
    }

    #[test]
    fn a_plain_line_is_what_a_terminal_would_show_at_its_end() {
        for (line, shown) in [
            ("a\tb", "a b"),
            ("\u{1b}[1;31mred\u{1b}[0m", "red"),
            ("10 %\r20 %\r", "20 %"),
            ("\u{1b}[2Kx\u{9b}2J", "^[[2Kx<U+009B>2J"),
            ("\r\r", ""),
        ] {
            assert_eq!(plain(line), shown, "{line:?}");
        }
    }

    #[test]
    fn control_characters_in_sentences_are_replaced() {
        assert_eq!(line("a\u{1b}[31mb\r\nc"), "a^[[31mb^M\nc");
        assert_eq!(cell("a\u{9b}1m\nc"), "a<U+009B>1m^Jc");
    }

    #[test]
    fn colours_are_harmless_and_other_sequences_are_not() {
        assert!(!is_steering("a\u{1b}[1;31mb\u{1b}[0m\tc\n"));
        for text in [
            "\u{1b}[2J",
            "a\u{1b}[31",
            "\r",
            "\u{9b}31m",
            "\u{7}",
            "\u{202e}",
        ] {
            assert!(is_steering(text), "{text:?}");
        }
    }

    #[test]
    fn a_json_document_keeps_its_value() {
        let value = serde_json::json!({"a": "\u{9b}31m\u{202e}\u{1b}ü"});
        let text = json(&value);
        assert!(
            text.is_ascii() || !text.contains(['\u{9b}', '\u{202e}']),
            "{text}"
        );
        assert_eq!(
            serde_json::from_str::<serde_json::Value>(&text).unwrap(),
            value
        );
    }
}
