//! A parser of the regular expressions that patterns of `.dockerignore` are translated into.
//!
//! They have Go's syntax (`regexp/syntax`), as far as the translation can generate it: there are no groups
//! but its own. The syntax is Go's and no other's: it determines what a pattern with a stray `\w` or `{2}`
//! matches, and whether Docker rejects it.

use super::regex::{Assertion, MAX_MEMORY_BYTES, Memory, MemoryExceeded, Program, Set, Step};
use super::regex_class::{class, letter_escape, named_escape};

/// Go's maximum number of repetitions.
const MAX_REPETITIONS: u32 = 1_000;
/// Go's maximum size of an expression: 128 MiB of instructions, of 40 bytes each.
const MAX_STEPS: usize = (128 << 20) / 40;
const _: () = assert!(MAX_STEPS * size_of::<Step>() < MAX_MEMORY_BYTES);

/// Why parsing failed.
#[derive(Debug)]
pub(super) enum ParseError {
    /// Go rejects the expression.
    Refused,
    /// It takes too much memory.
    MemoryExceeded,
}

impl From<MemoryExceeded> for ParseError {
    fn from(_: MemoryExceeded) -> ParseError {
        ParseError::MemoryExceeded
    }
}

/// The type of an alternative's last piece, for a repetition that follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Last {
    /// There is none.
    None,
    /// One step, which may be repeated.
    Piece,
    /// A repetition, which Go does not repeat again.
    Repetition,
}

/// Parses a regular expression that the translation generated.
///
/// # Errors
/// When Go rejects it, or when it needs more than is left of `memory`.
pub(super) fn parse(regex: &[char], memory: &mut Memory) -> Result<Vec<Program>, ParseError> {
    let mut programs = Vec::new();
    let mut steps = Vec::new();
    let mut last = Last::None;
    let mut count = 0;
    let mut rest = regex;
    while let Some((letter, after)) = rest.split_first() {
        if *letter == '|' {
            memory.take(size_of::<Program>())?;
            programs.push(Program::new(std::mem::take(&mut steps)));
            (last, rest) = (Last::None, after);
            continue;
        }
        let length = steps.len();
        (last, rest) = parse_piece(*letter, after, last, &mut steps)?;
        let added = steps.get(length..).unwrap_or_default();
        count += added.len();
        if count > MAX_STEPS {
            return Err(ParseError::Refused);
        }
        let ranges: usize = match letter {
            // They belong to the piece and are counted there.
            '{' => 0,
            _ => added.iter().map(Step::count_ranges).sum(),
        };
        memory.take(size_of_val(added) + ranges * size_of::<(u32, u32)>())?;
    }
    memory.take(size_of::<Program>())?;
    programs.push(Program::new(steps));
    Ok(programs)
}

/// Parses the piece that starts with `letter`, and adds its steps. Returns its type for a repetition that
/// follows, and the remaining text.
fn parse_piece<'a>(
    letter: char,
    after: &'a [char],
    last: Last,
    steps: &mut Vec<Step>,
) -> Result<(Last, &'a [char]), ParseError> {
    Ok(match letter {
        '{' if let Some((least, most, after)) = bounds(after) => {
            if last != Last::Piece
                || least > MAX_REPETITIONS
                || most.is_some_and(|most| most > MAX_REPETITIONS || most < least)
            {
                return Err(ParseError::Refused);
            }
            let piece = steps.pop().ok_or(ParseError::Refused)?;
            repeat(steps, piece, least, most);
            (Last::Repetition, after)
        }
        '^' => {
            steps.push(Step::Assert(Assertion::Begin));
            (Last::Piece, after)
        }
        '$' => {
            steps.push(Step::Assert(Assertion::End));
            (Last::Piece, after)
        }
        // Outside of brackets the translation generates these two.
        '.' => {
            let after = after.strip_prefix(&['*']).ok_or(ParseError::Refused)?;
            steps.push(Step::Many(Set::NotNewline));
            (Last::Repetition, after)
        }
        '(' => {
            let group = after.strip_prefix(&['.', '*', '/', ')', '?']);
            steps.push(Step::Skip(2));
            steps.push(Step::Many(Set::NotNewline));
            steps.push(Step::One(Set::One(u32::from('/'))));
            (Last::Repetition, group.ok_or(ParseError::Refused)?)
        }
        '[' => {
            let (set, after) = class(after).ok_or(ParseError::Refused)?;
            match after.strip_prefix(&['*']) {
                Some(after) => {
                    steps.push(Step::Many(set));
                    (Last::Repetition, after)
                }
                None => {
                    steps.push(Step::One(set));
                    (Last::Piece, after)
                }
            }
        }
        '\\' => {
            let length = steps.len();
            let after = escaped(after, steps).ok_or(ParseError::Refused)?;
            // An empty quotation is no piece.
            let is_empty = steps.len() == length;
            (if is_empty { last } else { Last::Piece }, after)
        }
        letter => {
            steps.push(Step::One(Set::One(u32::from(letter))));
            (Last::Piece, after)
        }
    })
}

/// Parses the text after a `{` if it is a repetition: its minimum and maximum, and the remaining text.
fn bounds(rest: &[char]) -> Option<(u32, Option<u32>, &[char])> {
    let number = |rest: &mut &[char]| {
        let text: String = rest.iter().take_while(|c| c.is_ascii_digit()).collect();
        *rest = &rest[text.len()..];
        let is_number = !text.is_empty() && (text == "0" || !text.starts_with('0'));
        is_number.then(|| text.parse().unwrap_or(u32::MAX))
    };
    let mut rest = rest;
    let least = number(&mut rest)?;
    let mut most = Some(least);
    if let Some(after) = rest.strip_prefix(&[',']) {
        rest = after;
        most = match rest {
            ['}', ..] => None,
            _ => Some(number(&mut rest)?),
        };
    }
    Some((least, most, rest.strip_prefix(&['}'])?))
}

/// Adds a piece as often as it may or must occur.
fn repeat(steps: &mut Vec<Step>, piece: Step, least: u32, most: Option<u32>) {
    if let Step::Assert(_) = piece {
        // Repeating an assertion has no effect.
        steps.extend((least > 0).then_some(piece));
        return;
    }
    steps.extend((0..least).map(|_| piece.clone()));
    match (most, piece) {
        (None, Step::One(set)) => steps.push(Step::Many(set)),
        (None, piece) => steps.push(piece),
        (Some(most), piece) => {
            for _ in least..most {
                steps.extend([Step::Skip(1), piece.clone()]);
            }
        }
    }
}

/// Parses the text after a backslash outside of brackets.
fn escaped<'a>(rest: &'a [char], steps: &mut Vec<Step>) -> Option<&'a [char]> {
    let assertion = match rest.first()? {
        'A' => Some(Assertion::Begin),
        'z' => Some(Assertion::End),
        'b' => Some(Assertion::WordBoundary),
        'B' => Some(Assertion::NoWordBoundary),
        _ => None,
    };
    if let Some(assertion) = assertion {
        steps.push(Step::Assert(assertion));
        return Some(&rest[1..]);
    }
    let one = |letter: &char| Step::One(Set::One(u32::from(*letter)));
    if let Some(quoted) = rest.strip_prefix(&['Q']) {
        let end = quoted.windows(2).position(|two| two == ['\\', 'E']);
        let literal = &quoted[..end.unwrap_or(quoted.len())];
        steps.extend(literal.iter().map(one));
        return Some(end.map_or(&[], |end| &quoted[end + 2..]));
    }
    if let Some((ranges, rest)) = named_escape(rest)? {
        steps.push(Step::One(Set::Ranges {
            ranges: ranges.into(),
            is_negated: false,
        }));
        return Some(rest);
    }
    let (number, rest) = letter_escape(rest)?;
    steps.push(Step::One(Set::One(number)));
    Some(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Address and length of the ranges of each step that has any.
    fn ranges_of(regex: &str) -> Vec<(*const (u32, u32), usize)> {
        let regex: Vec<char> = regex.chars().collect();
        let programs = parse(&regex, &mut Memory::new(MAX_MEMORY_BYTES)).unwrap();
        let ranges = programs[0].steps.iter().filter_map(|step| match step {
            Step::One(Set::Ranges { ranges, .. }) | Step::Many(Set::Ranges { ranges, .. }) => {
                Some((ranges.as_ptr(), ranges.len()))
            }
            _ => None,
        });
        ranges.collect()
    }

    #[test]
    fn characters_of_a_repeated_part_are_stored_once() {
        for (regex, times) in [(r"\pL{1000}", 1_000), ("[a-z]{2,5}", 5), (r"\d{3,}", 4)] {
            let ranges = ranges_of(regex);
            assert_eq!(ranges.len(), times, "{regex}");
            assert!(ranges.iter().all(|one| one == &ranges[0]), "{regex}");
        }
    }

    #[test]
    fn characters_that_a_class_repeats_are_stored_once() {
        let length = |regex: &str| ranges_of(regex)[0].1;
        assert_eq!(
            length(&format!("[{}]", r"\pL".repeat(1_000))),
            length(r"\pL")
        );
        assert_eq!(length("[c-ea-bx-zd-fg0-9]"), 3);
        assert_eq!(length("[^a-ca-c]"), 1);
    }

    #[test]
    fn each_occurrence_of_a_character_counts_as_memory_once() {
        let parsed = |regex: &str| {
            let regex: Vec<char> = regex.chars().collect();
            parse(&regex, &mut Memory::new(10_000))
        };
        for fits in [r"\pL", r"\pL{100}", r"[\pL\pL\pL]"] {
            assert!(parsed(fits).is_ok(), "{fits}");
        }
        for large in [r"\pL\pL", r"\pL{1000}", r"[\pL][\pL]"] {
            assert!(
                matches!(parsed(large), Err(ParseError::MemoryExceeded)),
                "{large}"
            );
        }
        assert!(matches!(parsed(r"\y"), Err(ParseError::Refused)));
    }
}
