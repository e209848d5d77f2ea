//! The regular expressions that patterns of `.dockerignore` are translated into.
//!
//! They are those of Go (`regexp/syntax`), as far as the translation can write them: there are no
//! groups but its own. The syntax is Go's and no other's: what a pattern with a stray `\w` or
//! `{2}` matches, and whether Docker refuses it, depends on it. An expression is run in time
//! that is linear in the length of the path. A repetition is written out, so a short expression may
//! take much memory; all of one file together take at most [`MOST_MEMORY`].

use std::sync::Arc;

use regex_syntax::hir::{Class, HirKind};

use super::pattern::Name;

/// Letters, as ranges of their numbers.
type Ranges = Vec<(u32, u32)>;

#[derive(Clone, Debug)]
enum Set {
    One(u32),
    NotNewline,
    /// Repetitions share them.
    Ranges {
        ranges: Arc<[(u32, u32)]>,
        is_negated: bool,
    },
}

impl Set {
    fn has(&self, letter: char) -> bool {
        match self {
            Set::One(one) => *one == u32::from(letter),
            Set::NotNewline => letter != '\n',
            Set::Ranges { ranges, is_negated } => {
                let number = u32::from(letter);
                let is_in = ranges
                    .iter()
                    .any(|(low, high)| (*low..=*high).contains(&number));
                is_in != *is_negated
            }
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Assertion {
    Begin,
    End,
    WordBoundary,
    NoWordBoundary,
}

impl Assertion {
    fn holds(self, letters: &[char], at: usize) -> bool {
        let is_word = |letter: Option<&char>| {
            letter.is_some_and(|letter| letter.is_ascii_alphanumeric() || *letter == '_')
        };
        let is_boundary = || {
            let before = at.checked_sub(1).and_then(|before| letters.get(before));
            is_word(before) != is_word(letters.get(at))
        };
        match self {
            Assertion::Begin => at == 0,
            Assertion::End => at == letters.len(),
            Assertion::WordBoundary => is_boundary(),
            Assertion::NoWordBoundary => !is_boundary(),
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    /// One letter of the set.
    One(Set),
    /// Any number of letters of the set.
    Many(Set),
    /// As many of the steps that follow may be passed over.
    Skip(usize),
    Assert(Assertion),
}

impl Step {
    /// How many ranges of letters it has.
    fn count_ranges(&self) -> usize {
        match self {
            Step::One(Set::Ranges { ranges, .. }) | Step::Many(Set::Ranges { ranges, .. }) => {
                ranges.len()
            }
            _ => 0,
        }
    }
}

/// Bytes that all patterns of one file take at most. The longest expression that Go takes fits in.
pub(super) const MOST_MEMORY: usize = 128 << 20;
const _: () = assert!(MOST_STEPS * size_of::<Step>() < MOST_MEMORY);

/// Bytes that patterns may still take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Memory(usize);

/// Patterns take more memory than there is for them.
#[derive(Debug)]
pub(super) struct TooMuch;

impl Memory {
    pub(super) fn new(bytes: usize) -> Memory {
        Memory(bytes)
    }

    pub(super) fn take(&mut self, bytes: usize) -> Result<(), TooMuch> {
        self.0 = self.0.checked_sub(bytes).ok_or(TooMuch)?;
        Ok(())
    }
}

/// Why there is no program.
#[derive(Debug)]
pub(super) enum Wrong {
    /// Go refuses the expression.
    Refused,
    /// It takes too much memory.
    TooMuch,
}

impl From<TooMuch> for Wrong {
    fn from(_: TooMuch) -> Wrong {
        Wrong::TooMuch
    }
}

/// One alternative of a regular expression, run over a path on all its branches at once.
#[derive(Debug)]
pub(super) struct Program {
    steps: Box<[Step]>,
    /// It matches from the beginning of a path only.
    is_anchored: bool,
    /// What each path that matches ends with; most paths are told apart by it.
    ending: String,
}

impl Program {
    fn new(steps: Vec<Step>) -> Program {
        let mut ending = Vec::new();
        if let [steps @ .., Step::Assert(Assertion::End)] = &steps[..] {
            for (at, step) in steps.iter().enumerate().rev() {
                let is_optional = steps[..at]
                    .iter()
                    .rev()
                    .take(2)
                    .any(|step| matches!(step, Step::Skip(_)));
                match step {
                    Step::One(Set::One(number)) if !is_optional => match char::from_u32(*number) {
                        None | Some(char::REPLACEMENT_CHARACTER) => break,
                        Some(letter) => ending.push(letter),
                    },
                    _ => break,
                }
            }
        }
        Program {
            ending: ending.into_iter().rev().collect(),
            is_anchored: matches!(steps.first(), Some(Step::Assert(Assertion::Begin))),
            steps: steps.into(),
        }
    }

    pub(super) fn matches(&self, name: &Name<'_>) -> bool {
        if !name.bytes().ends_with(self.ending.as_bytes()) {
            return false;
        }
        let letters = name.letters();
        let mut now = Vec::new();
        let mut next = Vec::new();
        // At which letter a step was last reached; each is followed once.
        let mut reached = vec![usize::MAX; self.steps.len()];
        for at in 0..=letters.len() {
            if (at == 0 || !self.is_anchored) && self.reach(0, letters, at, &mut now, &mut reached)
            {
                return true;
            }
            let Some(letter) = letters.get(at) else {
                break;
            };
            for step in now.drain(..) {
                let follows = match &self.steps[step] {
                    Step::One(set) if set.has(*letter) => step + 1,
                    Step::Many(set) if set.has(*letter) => step,
                    _ => continue,
                };
                if self.reach(follows, letters, at + 1, &mut next, &mut reached) {
                    return true;
                }
            }
            if next.is_empty() && self.is_anchored {
                return false;
            }
            std::mem::swap(&mut now, &mut next);
        }
        false
    }

    /// Adds the steps that may be taken at a letter from `step` on; true when the end is reached.
    fn reach(
        &self,
        step: usize,
        letters: &[char],
        at: usize,
        into: &mut Vec<usize>,
        reached: &mut [usize],
    ) -> bool {
        let mut open = vec![step];
        while let Some(step) = open.pop() {
            let Some(what) = self.steps.get(step) else {
                return true;
            };
            if reached[step] == at {
                continue;
            }
            reached[step] = at;
            match what {
                Step::One(_) => into.push(step),
                Step::Many(_) => {
                    into.push(step);
                    open.push(step + 1);
                }
                Step::Skip(count) => open.extend([step + 1, step + 1 + count]),
                Step::Assert(assertion) => {
                    if assertion.holds(letters, at) {
                        open.push(step + 1);
                    }
                }
            }
        }
        false
    }
}

/// What the last piece of an alternative is, to a repetition that follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Last {
    /// There is none.
    None,
    /// One step, which may be repeated.
    Piece,
    /// A repetition, which Go does not repeat again.
    Repetition,
}

/// Reads a regular expression that the translation wrote.
///
/// # Errors
/// When Go refuses it, or when it needs more than is left of `memory`.
pub(super) fn parse(regex: &[char], memory: &mut Memory) -> Result<Vec<Program>, Wrong> {
    let mut programs = Vec::new();
    let mut steps = Vec::new();
    let mut last = Last::None;
    let mut count = 0;
    let mut rest = regex;
    while let Some((letter, after)) = rest.split_first() {
        rest = after;
        let length = steps.len();
        let mut now = Last::Piece;
        match letter {
            '|' => {
                memory.take(size_of::<Program>())?;
                programs.push(Program::new(std::mem::take(&mut steps)));
                last = Last::None;
                continue;
            }
            '{' if let Some((least, most, after)) = bounds(after) => {
                if last != Last::Piece
                    || least > MOST_TIMES
                    || most.is_some_and(|most| most > MOST_TIMES || most < least)
                {
                    return Err(Wrong::Refused);
                }
                rest = after;
                let piece = steps.pop().ok_or(Wrong::Refused)?;
                repeat(&mut steps, piece, least, most);
                now = Last::Repetition;
            }
            '^' => steps.push(Step::Assert(Assertion::Begin)),
            '$' => steps.push(Step::Assert(Assertion::End)),
            // Outside of brackets these two are the translation's own.
            '.' => {
                rest = after.strip_prefix(&['*']).ok_or(Wrong::Refused)?;
                steps.push(Step::Many(Set::NotNewline));
                now = Last::Repetition;
            }
            '(' => {
                let group = after.strip_prefix(&['.', '*', '/', ')', '?']);
                rest = group.ok_or(Wrong::Refused)?;
                steps.push(Step::Skip(2));
                steps.push(Step::Many(Set::NotNewline));
                steps.push(Step::One(Set::One(u32::from('/'))));
                now = Last::Repetition;
            }
            '[' => {
                let (set, after) = class(after).ok_or(Wrong::Refused)?;
                match after.strip_prefix(&['*']) {
                    Some(after) => {
                        rest = after;
                        steps.push(Step::Many(set));
                        now = Last::Repetition;
                    }
                    None => {
                        rest = after;
                        steps.push(Step::One(set));
                    }
                }
            }
            '\\' => {
                rest = escaped(after, &mut steps).ok_or(Wrong::Refused)?;
                if steps.len() == length {
                    // An empty quotation.
                    now = last;
                }
            }
            letter => steps.push(Step::One(Set::One(u32::from(*letter)))),
        }
        last = now;
        let added = steps.get(length..).unwrap_or_default();
        count += added.len();
        if count > MOST_STEPS {
            return Err(Wrong::Refused);
        }
        let ranges: usize = match letter {
            // They are those of the piece, which are counted.
            '{' => 0,
            _ => added.iter().map(Step::count_ranges).sum(),
        };
        memory.take(size_of_val(added) + ranges * size_of::<(u32, u32)>())?;
    }
    memory.take(size_of::<Program>())?;
    programs.push(Program::new(steps));
    Ok(programs)
}

/// How often Go repeats a piece at most.
const MOST_TIMES: u32 = 1_000;
/// How long an expression Go takes at most: 128 MiB of instructions, of 40 bytes each.
const MOST_STEPS: usize = (128 << 20) / 40;

/// Reads what follows a `{` where it is a repetition: how often at least and at most, and what
/// follows it.
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

/// Adds a piece as often as it may or must stand.
fn repeat(steps: &mut Vec<Step>, piece: Step, least: u32, most: Option<u32>) {
    if let Step::Assert(_) = piece {
        // It says no more when it is asked twice.
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

/// Reads what follows a backslash outside of brackets.
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

/// Reads what follows a `[`, up to and with its `]`.
fn class(rest: &[char]) -> Option<(Set, &[char])> {
    let (is_negated, mut rest) = match rest.strip_prefix(&['^']) {
        Some(rest) => (true, rest),
        None => (false, rest),
    };
    let mut ranges = Ranges::new();
    let mut most = MERGED_FROM;
    let mut is_first = true;
    loop {
        if let Some(after) = rest.strip_prefix(&[']'])
            && !is_first
        {
            merge(&mut ranges);
            let ranges = ranges.into();
            return Some((Set::Ranges { ranges, is_negated }, after));
        }
        is_first = false;
        if ranges.len() > most {
            merge(&mut ranges);
            most = MERGED_FROM.max(2 * ranges.len());
        }
        if let Some((named, after)) = posix_class(rest)? {
            ranges.extend(named);
            rest = after;
            continue;
        }
        if let Some(after) = rest.strip_prefix(&['\\'])
            && let Some((named, after)) = named_escape(after)?
        {
            ranges.extend(named);
            rest = after;
            continue;
        }
        let (low, after) = class_letter(rest)?;
        let (high, after) = match after {
            ['-', bound, ..] if *bound != ']' => class_letter(&after[1..])?,
            after => (low, after),
        };
        if high < low {
            return None;
        }
        ranges.push((low, high));
        rest = after;
    }
}

/// How many ranges a class may have before those that overlap are made one.
const MERGED_FROM: usize = 4_096;

/// Sorts ranges, and makes one of those that overlap or touch.
fn merge(ranges: &mut Ranges) {
    ranges.sort_unstable();
    ranges.dedup_by(|next, last| {
        let is_joined = next.0 <= last.1.saturating_add(1);
        if is_joined {
            last.1 = last.1.max(next.1);
        }
        is_joined
    });
}

fn class_letter(rest: &[char]) -> Option<(u32, &[char])> {
    match rest.split_first()? {
        ('\\', after) => letter_escape(after),
        (letter, after) => Some((u32::from(*letter), after)),
    }
}

/// Some ranges of letters, and what follows them in the expression.
type Named<'a> = (Ranges, &'a [char]);

/// Reads `[:alpha:]` and the like where one stands; `None` when it has no known name.
fn posix_class(rest: &[char]) -> Option<Option<Named<'_>>> {
    let Some(body) = rest.strip_prefix(&['[', ':']) else {
        return Some(None);
    };
    let Some(end) = body.windows(2).position(|two| two == [':', ']']) else {
        return Some(None);
    };
    let name: String = body[..end].iter().collect();
    let (name, is_negated) = match name.strip_prefix('^') {
        Some(name) => (name, true),
        None => (&name[..], false),
    };
    let ranges: &[(char, char)] = match name {
        "alnum" => &[('0', '9'), ('A', 'Z'), ('a', 'z')],
        "alpha" => &[('A', 'Z'), ('a', 'z')],
        "ascii" => &[('\0', '\x7f')],
        "blank" => &[('\t', '\t'), (' ', ' ')],
        "cntrl" => &[('\0', '\x1f'), ('\x7f', '\x7f')],
        "digit" => &[('0', '9')],
        "graph" => &[('!', '~')],
        "lower" => &[('a', 'z')],
        "print" => &[(' ', '~')],
        "punct" => &[('!', '/'), (':', '@'), ('[', '`'), ('{', '~')],
        "space" => &[('\t', '\r'), (' ', ' ')],
        "upper" => &[('A', 'Z')],
        "word" => &[('0', '9'), ('A', 'Z'), ('_', '_'), ('a', 'z')],
        "xdigit" => &[('0', '9'), ('A', 'F'), ('a', 'f')],
        _ => return None,
    };
    Some(Some((numbers(ranges, is_negated), &body[end + 2..])))
}

/// Reads `d`, `W`, `pL` and the like where one stands behind a backslash; `None` when it has no
/// known name.
fn named_escape(rest: &[char]) -> Option<Option<Named<'_>>> {
    let Some((letter, after)) = rest.split_first() else {
        return Some(None);
    };
    if let 'p' | 'P' = letter {
        let (first, after) = after.split_first()?;
        let (name, after) = match first {
            '{' => {
                let end = after.iter().position(|letter| *letter == '}')?;
                (after[..end].iter().collect(), &after[end + 1..])
            }
            letter => (letter.to_string(), after),
        };
        let (name, is_negated) = match name.strip_prefix('^') {
            Some(name) => (name, *letter == 'p'),
            None => (&name[..], *letter == 'P'),
        };
        return Some(Some((unicode_group(name, is_negated)?, after)));
    }
    let ranges: &[(char, char)] = match letter.to_ascii_lowercase() {
        'd' => &[('0', '9')],
        's' => &[('\t', '\n'), ('\x0c', '\r'), (' ', ' ')],
        'w' => &[('0', '9'), ('A', 'Z'), ('_', '_'), ('a', 'z')],
        _ => return Some(None),
    };
    Some(Some((numbers(ranges, letter.is_ascii_uppercase()), after)))
}

/// The ranges as numbers, or those of all other letters. Ranges must be sorted and apart.
fn numbers(ranges: &[(char, char)], is_negated: bool) -> Ranges {
    let ranges = ranges
        .iter()
        .map(|(low, high)| (u32::from(*low), u32::from(*high)));
    if !is_negated {
        return ranges.collect();
    }
    let mut others = Ranges::new();
    let mut from = 0;
    for (low, high) in ranges {
        if from < low {
            others.push((from, low - 1));
        }
        from = high + 1;
    }
    others.push((from, u32::from(char::MAX)));
    others
}

/// The letters of a general category or script of Unicode, or all others; `None` for an unknown
/// name.
fn unicode_group(name: &str, is_negated: bool) -> Option<Ranges> {
    let starts_upper = name.starts_with(|letter: char| letter.is_ascii_uppercase());
    let is_name = starts_upper && name.chars().all(|c| c.is_ascii_alphabetic() || c == '_');
    let inside = match name {
        // In Go what is not assigned belongs to no category.
        "C" => r"\p{Cc}\p{Cf}\p{Co}".to_owned(),
        "Any" => r"\p{Any}".to_owned(),
        name if is_name && name.len() <= 2 => format!(r"\p{{gc={name}}}"),
        name if is_name => format!(r"\p{{sc={name}}}"),
        _ => return None,
    };
    let class = format!("[{}{inside}]", if is_negated { "^" } else { "" });
    let hir = regex_syntax::Parser::new().parse(&class).ok()?;
    let HirKind::Class(Class::Unicode(class)) = hir.kind() else {
        return None;
    };
    let ranges = class
        .ranges()
        .iter()
        .map(|range| (u32::from(range.start()), u32::from(range.end())));
    Some(ranges.collect())
}

/// Reads what follows a backslash that stands for one letter, of which it gives the number.
fn letter_escape(rest: &[char]) -> Option<(u32, &[char])> {
    let (letter, rest) = rest.split_first()?;
    let octal = |letter: Option<&char>| letter.and_then(|letter| letter.to_digit(8));
    let letter = match letter {
        '0'..='7' => {
            // A single digit other than 0 would lead back to a group.
            if *letter != '0' && octal(rest.first()).is_none() {
                return None;
            }
            let mut number = octal(Some(letter))?;
            let mut rest = rest;
            for _ in 1..3 {
                let Some(digit) = octal(rest.first()) else {
                    break;
                };
                number = number * 8 + digit;
                rest = &rest[1..];
            }
            return Some((number, rest));
        }
        'x' => return hexadecimal(rest),
        'a' => '\x07',
        'f' => '\x0c',
        'n' => '\n',
        'r' => '\r',
        't' => '\t',
        'v' => '\x0b',
        letter if letter.is_ascii() && !letter.is_ascii_alphanumeric() => *letter,
        _ => return None,
    };
    Some((u32::from(letter), rest))
}

/// Reads what follows `\x`: two digits, or any number of them in braces.
fn hexadecimal(rest: &[char]) -> Option<(u32, &[char])> {
    let (digits, rest) = match rest.strip_prefix(&['{']) {
        Some(rest) => {
            let end = rest.iter().position(|letter| *letter == '}')?;
            (&rest[..end], &rest[end + 1..])
        }
        None => rest.split_at_checked(2)?,
    };
    let mut number = 0;
    for digit in digits {
        number = number * 16 + digit.to_digit(16)?;
        if number > u32::from(char::MAX) {
            return None;
        }
    }
    (!digits.is_empty()).then_some((number, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Address and length of the ranges of each step that has some.
    fn ranges_of(regex: &str) -> Vec<(*const (u32, u32), usize)> {
        let regex: Vec<char> = regex.chars().collect();
        let programs = parse(&regex, &mut Memory::new(MOST_MEMORY)).unwrap();
        let ranges = programs[0].steps.iter().filter_map(|step| match step {
            Step::One(Set::Ranges { ranges, .. }) | Step::Many(Set::Ranges { ranges, .. }) => {
                Some((ranges.as_ptr(), ranges.len()))
            }
            _ => None,
        });
        ranges.collect()
    }

    #[test]
    fn letters_of_a_piece_that_is_repeated_are_kept_once() {
        for (regex, times) in [(r"\pL{1000}", 1_000), ("[a-z]{2,5}", 5), (r"\d{3,}", 4)] {
            let ranges = ranges_of(regex);
            assert_eq!(ranges.len(), times, "{regex}");
            assert!(ranges.iter().all(|one| one == &ranges[0]), "{regex}");
        }
    }

    #[test]
    fn letters_that_a_class_names_often_are_kept_once() {
        let length = |regex: &str| ranges_of(regex)[0].1;
        assert_eq!(
            length(&format!("[{}]", r"\pL".repeat(1_000))),
            length(r"\pL")
        );
        assert_eq!(length("[c-ea-bx-zd-fg0-9]"), 3);
        assert_eq!(length("[^a-ca-c]"), 1);
    }

    #[test]
    fn letters_are_counted_as_memory_once_for_each_time_that_they_are_written() {
        let parsed = |regex: &str| {
            let regex: Vec<char> = regex.chars().collect();
            parse(&regex, &mut Memory::new(10_000))
        };
        for fits in [r"\pL", r"\pL{100}", r"[\pL\pL\pL]"] {
            assert!(parsed(fits).is_ok(), "{fits}");
        }
        for large in [r"\pL\pL", r"\pL{1000}", r"[\pL][\pL]"] {
            assert!(matches!(parsed(large), Err(Wrong::TooMuch)), "{large}");
        }
        assert!(matches!(parsed(r"\y"), Err(Wrong::Refused)));
    }
}
