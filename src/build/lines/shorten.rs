//! Long lines, cut so that neither a character nor an escape sequence is torn.

use std::ops::Range;

use super::escapes::Escapes;

/// Bytes that are kept of the beginning and of the end of a long line: some lines of a wide terminal.
pub(super) const KEPT_AT_EACH_END: usize = 1 << 10;

/// A line as an excerpt shows it.
pub(super) struct Shortened {
    pub(super) text: String,
    /// Bytes left out at its beginning.
    pub(super) skipped: usize,
}

/// Cuts a line that is too long in its middle, and one whose beginning is unknown at its beginning.
pub(super) fn shorten(line: &[u8], is_cut: bool) -> Shortened {
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
