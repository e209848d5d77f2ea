//! The colours and other attributes that are active at a position of a log (SGR, `ESC [ … m`).
//!
//! They are written as the shortest parameters that produce them after a reset, so that a reader can start
//! there without the text before.

use std::fmt;

/// Numbers of one sequence that are evaluated; the rest of a longer one is ignored.
const MAX_NUMBERS: usize = 64;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Colour {
    /// One of the sixteen, by the parameter that sets it: 30–37, 40–47, 90–97, 100–107.
    Named(u8),
    Palette(u8),
    Direct(u8, u8, u8),
}

/// The active attributes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Style {
    /// Bit N is the parameter N: 1 bold, 2 faint, 3 italic, 4 underlined, 5 and 6 blinking,
    /// 7 inverse, 8 concealed, 9 crossed out.
    flags: u16,
    front: Option<Colour>,
    back: Option<Colour>,
}

impl Style {
    /// Applies a sequence with these parameters: digits, `;` and `:`.
    pub(super) fn apply(&mut self, params: &[u8]) {
        let mut groups = params.split(|byte| *byte == b';').take(MAX_NUMBERS);
        while let Some(group) = groups.next() {
            let mut parts = group.split(|byte| *byte == b':').map(number);
            let first = parts.next().flatten().unwrap_or(0);
            if matches!(first, 38 | 48) {
                let colour = if group.contains(&b':') {
                    let parts: Vec<_> = parts.collect();
                    match parts.as_slice() {
                        [Some(5), index, ..] => palette(*index),
                        // With or without a colour space.
                        [Some(2), _, red, green, blue, ..] | [Some(2), red, green, blue] => {
                            direct(*red, *green, *blue)
                        }
                        _ => None,
                    }
                } else {
                    let mut next = || groups.next().and_then(number);
                    match next() {
                        Some(5) => palette(next()),
                        Some(2) => direct(next(), next(), next()),
                        _ => None,
                    }
                };
                let place = match first {
                    38 => &mut self.front,
                    _ => &mut self.back,
                };
                *place = colour.or(*place);
            } else {
                self.set(first, parts.next().flatten());
            }
        }
    }

    fn set(&mut self, number: u16, kind: Option<u16>) {
        let named = |number: u16| u8::try_from(number).ok().map(Colour::Named);
        match number {
            0 => *self = Style::default(),
            4 if kind == Some(0) => self.flags &= !(1 << 4),
            1..=9 => self.flags |= 1 << number,
            // Doubly underlined.
            21 => self.flags |= 1 << 4,
            22 => self.flags &= !(1 << 1 | 1 << 2),
            23 | 24 | 27 | 28 | 29 => self.flags &= !(1 << (number - 20)),
            25 => self.flags &= !(1 << 5 | 1 << 6),
            30..=37 | 90..=97 => self.front = named(number),
            39 => self.front = None,
            40..=47 | 100..=107 => self.back = named(number),
            49 => self.back = None,
            _ => {}
        }
    }
}

impl fmt::Display for Style {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut gap = "";
        for flag in (1..=9).filter(|flag| self.flags & (1 << flag) != 0) {
            write!(f, "{gap}{flag}")?;
            gap = ";";
        }
        for (place, colour) in [(38, self.front), (48, self.back)] {
            match colour {
                None => continue,
                Some(Colour::Named(number)) => write!(f, "{gap}{number}")?,
                Some(Colour::Palette(index)) => write!(f, "{gap}{place};5;{index}")?,
                Some(Colour::Direct(red, green, blue)) => {
                    write!(f, "{gap}{place};2;{red};{green};{blue}")?;
                }
            }
            gap = ";";
        }
        Ok(())
    }
}

/// A number of at most three digits; `None` if it is empty.
fn number(digits: &[u8]) -> Option<u16> {
    if digits.is_empty() || digits.len() > 3 {
        return None;
    }
    digits.iter().try_fold(0, |sum, digit| {
        let is_digit = digit.is_ascii_digit();
        is_digit.then(|| sum * 10 + u16::from(digit - b'0'))
    })
}

fn palette(index: Option<u16>) -> Option<Colour> {
    Some(Colour::Palette(u8::try_from(index?).ok()?))
}

/// A missing part is 0.
fn direct(red: Option<u16>, green: Option<u16>, blue: Option<u16>) -> Option<Colour> {
    let part = |value: Option<u16>| u8::try_from(value.unwrap_or(0)).ok();
    Some(Colour::Direct(part(red)?, part(green)?, part(blue)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn after(sequences: &[&str]) -> Style {
        let mut style = Style::default();
        for params in sequences {
            style.apply(params.as_bytes());
        }
        style
    }

    #[test]
    fn the_current_colours_are_written_as_one_short_sequence() {
        let cases: &[(&[&str], &str)] = &[
            (&[], ""),
            (&["1;31"], "1;31"),
            (&["31", "32", "33"], "33"),
            (&["1", "31", "0"], ""),
            (&["1;4;31", ""], ""),
            (&["1;2;3;4;9", "22", "24"], "3;9"),
            (&["38;5;208;1"], "1;38;5;208"),
            (&["38:5:208;1"], "1;38;5;208"),
            (&["48;2;1;2;3"], "48;2;1;2;3"),
            (&["38:2::1:2:3"], "38;2;1;2;3"),
            (&["38:2:1:2:3"], "38;2;1;2;3"),
            (&["4:3"], "4"),
            (&["4", "4:0"], ""),
            (&["91;104"], "91;104"),
            (&["91;104", "39;49"], ""),
            (&["38;5;999", "38;7;1", "73", "1234"], ""),
        ];
        for (sequences, shown) in cases {
            assert_eq!(after(sequences).to_string(), *shown, "{sequences:?}");
        }
    }

    proptest! {
        #[test]
        fn the_written_sequence_sets_the_same_colours_whatever_the_parameters(params in "[0-9;:]{0,80}") {
            let style = after(&["1;38;2;255;254;253", &params]);
            let written = style.to_string();
            prop_assert!(written.len() <= 64, "{}", written);
            let mut again = Style::default();
            if !written.is_empty() {
                again.apply(written.as_bytes());
            }
            prop_assert_eq!(again, style);
        }
    }
}
