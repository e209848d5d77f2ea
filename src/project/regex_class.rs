//! Character classes in regular expressions: brackets, and escapes that stand for characters.

use regex_syntax::hir::{Class, HirKind};

use super::regex::Set;

/// Characters, as ranges of code points.
pub(super) type Ranges = Vec<(u32, u32)>;

/// Parses the text after a `[`, up to and with its `]`.
pub(super) fn class(rest: &[char]) -> Option<(Set, &[char])> {
    let (is_negated, mut rest) = match rest.strip_prefix(&['^']) {
        Some(rest) => (true, rest),
        None => (false, rest),
    };
    let mut ranges = Ranges::new();
    let mut most = MERGE_THRESHOLD;
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
            most = MERGE_THRESHOLD.max(2 * ranges.len());
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

/// The number of ranges of a class above which overlapping ones are merged.
const MERGE_THRESHOLD: usize = 4_096;

/// Sorts ranges, and merges those that overlap or touch.
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

/// Some character ranges, and the remaining text of the expression.
pub(super) type Named<'a> = (Ranges, &'a [char]);

/// Parses `[:alpha:]` and the like if one is next; `None` when it has no known name.
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

/// Parses `d`, `W`, `pL` and the like if one follows a backslash; `None` when it has no known name.
pub(super) fn named_escape(rest: &[char]) -> Option<Option<Named<'_>>> {
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

/// The ranges as code points, or all others. Ranges must be sorted and disjoint.
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

/// The characters of a Unicode general category or script, or all others; `None` for an unknown name.
fn unicode_group(name: &str, is_negated: bool) -> Option<Ranges> {
    let starts_upper = name.starts_with(|letter: char| letter.is_ascii_uppercase());
    let is_name = starts_upper && name.chars().all(|c| c.is_ascii_alphabetic() || c == '_');
    let inside = match name {
        // In Go, unassigned characters belong to no category.
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

/// Parses the text after a backslash that stands for one character, and returns its code point.
pub(super) fn letter_escape(rest: &[char]) -> Option<(u32, &[char])> {
    let (letter, rest) = rest.split_first()?;
    let octal = |letter: Option<&char>| letter.and_then(|letter| letter.to_digit(8));
    let letter = match letter {
        '0'..='7' => {
            // A single digit other than 0 would be a back-reference.
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

/// Parses the text after `\x`: two digits, or any number of them in braces.
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
