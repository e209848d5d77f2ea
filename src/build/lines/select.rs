//! Which lines are shown where there is no room for all: the last ones, and of each stream some.
//!
//! Docker keeps no order between the two streams of a container, so the end of a log may be of one stream alone
//! although the other one has the error.

/// Who wrote a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The container: not all of it to its standard error.
    Stdout,
    /// The container, all of it to its standard error.
    Stderr,
    /// mistryd.
    Note,
    /// The container; which stream is not known.
    Unknown,
}

/// What is shown at most.
#[derive(Clone, Copy, Debug)]
pub struct Room {
    /// Lines.
    pub lines: usize,
    /// Bytes of their texts.
    pub bytes: usize,
    /// Lines of each stream, and of mistryd, that are shown in any case: they take up to half of the bytes.
    pub of_each: usize,
}

/// Which of the lines, given with the lengths of their texts, are shown.
pub fn select(lines: &[(Source, usize)], room: Room) -> Vec<bool> {
    let mut selection = Selection {
        lines,
        shown: vec![false; lines.len()],
        left: room.lines,
    };
    let mut bytes = room.bytes;
    bytes -= selection.take(Some(Source::Note), room.of_each, bytes);
    let half = bytes / 2;
    for stream in [Source::Stdout, Source::Stderr] {
        bytes -= selection.take(Some(stream), room.of_each, half);
    }
    selection.take(None, room.lines, bytes);
    selection.shown
}

struct Selection<'a> {
    lines: &'a [(Source, usize)],
    shown: Vec<bool>,
    /// Lines that may still be shown.
    left: usize,
}

impl Selection<'_> {
    /// Shows the last lines, or the last ones of a source, that are not shown yet; returns their bytes.
    fn take(&mut self, source: Option<Source>, most: usize, bytes: usize) -> usize {
        let (mut most, mut taken) = (most, 0);
        for (shown, (of, length)) in self.shown.iter_mut().zip(self.lines).rev() {
            if *shown || source.is_some_and(|source| source != *of) {
                continue;
            }
            if most.min(self.left) == 0 || *length > bytes - taken {
                break;
            }
            *shown = true;
            taken += length;
            most -= 1;
            self.left -= 1;
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOM: Room = Room {
        lines: 6,
        bytes: 100,
        of_each: 2,
    };

    /// `o` and `e` are lines of 10 bytes, `O` and `E` of 40, `n` notes.
    fn selected(lines: &str) -> String {
        let written: Vec<_> = lines
            .chars()
            .map(|line| match line {
                'o' => (Source::Stdout, 10),
                'O' => (Source::Stdout, 40),
                'e' => (Source::Stderr, 10),
                'E' => (Source::Stderr, 40),
                'n' => (Source::Note, 10),
                _ => (Source::Unknown, 10),
            })
            .collect();
        let shown = select(&written, ROOM);
        let shown = lines.chars().zip(shown);
        let shown = shown.map(|(line, is_shown)| if is_shown { line } else { '.' });
        shown.collect()
    }

    #[test]
    fn the_last_lines_are_shown_and_of_each_stream_some() {
        for (lines, shown) in [
            ("", ""),
            ("oeo", "oeo"),
            ("oooooooo", "..oooooo"),
            ("oooeoooe", "..oeoooe"),
            ("ooooeeeeeeee", "..oo....eeee"),
            ("oeeeeeeee", "o...eeeee"),
            ("eeeeeeeeo", "...eeeeeo"),
            ("oonooeeeeeeee", "..noo.....eee"),
            ("oeeeeeeeen", "o....eeeen"),
            ("??eeeeeeee", "....eeeeee"),
        ] {
            assert_eq!(selected(lines), shown, "{lines}");
        }
    }

    #[test]
    fn long_lines_of_one_stream_leave_room_for_those_of_the_other() {
        for (lines, shown) in [
            ("OOOO", "..OO"),
            ("oEEEE", "o..EE"),
            ("OEEEE", "O...E"),
            ("OOeeee", ".Oeeee"),
        ] {
            assert_eq!(selected(lines), shown, "{lines}");
        }
    }
}
