//! A part of a log that was read, as lines. Their beginning or their end may be outside of it.

use std::ops::Range;

/// Consecutive bytes of a log.
pub(super) struct Window {
    pub(super) bytes: Vec<u8>,
    /// The offset of the first of them.
    pub(super) at: u64,
    /// The first line began before them.
    pub(super) is_cut: bool,
    /// The last line goes on behind them.
    pub(super) is_open: bool,
}

/// A line in a window.
pub(super) struct Line<'a> {
    /// Without its line end.
    pub(super) text: &'a [u8],
    /// Its bytes in the log, with its line end.
    pub(super) range: Range<u64>,
    pub(super) is_cut: bool,
    pub(super) is_open: bool,
}

impl Window {
    /// Leaves out what is behind the line that has the byte at `offset`. If no end of that line was read, it goes
    /// on behind the window; if the window ends where later bytes were read (`is_read`), it is known already.
    pub(super) fn end_with_line_of(&mut self, offset: u64, is_read: bool) {
        let at = usize::try_from(offset.saturating_sub(self.at)).unwrap_or(usize::MAX);
        let rest = self.bytes.get(at..).unwrap_or_default();
        match memchr::memchr(b'\n', rest) {
            Some(end) => self.bytes.truncate(at + end + 1),
            None if is_read => {
                let end = memchr::memrchr(b'\n', &self.bytes).map_or(0, |end| end + 1);
                self.bytes.truncate(end);
            }
            None => self.is_open = true,
        }
    }

    pub(super) fn lines_from_end(&self) -> impl Iterator<Item = Line<'_>> {
        let mut rest = &self.bytes[..];
        std::iter::from_fn(move || {
            let last = rest.len();
            if last == 0 {
                return None;
            }
            let end = last - usize::from(rest.ends_with(b"\n"));
            let start = memchr::memrchr(b'\n', &rest[..end]).map_or(0, |at| at + 1);
            let text = &rest[start..end];
            rest = &rest[..start];
            Some(Line {
                text,
                range: self.at + start as u64..self.at + last as u64,
                is_cut: self.is_cut && start == 0,
                is_open: self.is_open && last == self.bytes.len(),
            })
        })
    }
}
