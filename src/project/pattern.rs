//! One pattern of a `.dockerignore`, matched as Docker matches it.
//!
//! Docker's patterns are defined only by its implementation: it checks a pattern as Go's `filepath.Match`
//! reads it, translates it into a regular expression, and matches that with Go's `regexp`
//! (`github.com/moby/patternmatcher`). The meaning of patterns such as `[?]`, `a^b` or `\d` is therefore a
//! side effect of the translation. This module makes the same translation and has [`super::regex`] run it.
//! Patterns without a wildcard are compared as bytes.

use super::path_text::{PathText, decode};
use super::regex::{Memory, MemoryExceeded, Program};
use super::regex_parser::{ParseError, parse};

/// A pattern that Docker rejects when it matches a path with it.
#[derive(Debug)]
pub(super) struct Unmatchable;

/// True when `filepath.Match` of Go compares the pattern with `.` without an error.
///
/// This is Docker's test of a pattern. It reads only as much of the pattern as is needed to see that `.` does
/// not match.
pub(super) fn is_well_formed(pattern: &[u8]) -> bool {
    compare(pattern).is_some()
}

/// Compares as much of a pattern with `.` as Go does; `None` when it is invalid.
fn compare(pattern: &[u8]) -> Option<()> {
    let mut name: &[u8] = b".";
    let mut rest = pattern;
    while !rest.is_empty() {
        let stars = rest.iter().take_while(|byte| **byte == b'*').count();
        let pattern = &rest[stars..];
        let chunk;
        (chunk, rest) = pattern.split_at(chunk_length(pattern));
        if stars > 0 && chunk.is_empty() {
            return Some(());
        }
        // At the end of the pattern the whole name must have been matched.
        let is_done = |left: &&[u8]| left.is_empty() || !rest.is_empty();
        let mut left = compare_chunk(chunk, name)?.filter(is_done);
        if left.is_none() && stars > 0 && !name.is_empty() {
            left = compare_chunk(chunk, &name[1..])?.filter(is_done);
        }
        match left {
            Some(left) => name = left,
            None => return Some(()),
        }
    }
    Some(())
}

/// Length of the text before the next `*` outside of brackets.
fn chunk_length(pattern: &[u8]) -> usize {
    let mut is_in_brackets = false;
    let mut at = 0;
    while let Some(byte) = pattern.get(at) {
        match byte {
            b'\\' => at += 1,
            b'[' => is_in_brackets = true,
            b']' => is_in_brackets = false,
            b'*' if !is_in_brackets => break,
            _ => {}
        }
        at += 1;
    }
    at.min(pattern.len())
}

/// The rest of the name after the match of a chunk without `*`, `Some(None)` when it does not match; `None`
/// when the chunk is invalid. The name is ASCII.
fn compare_chunk<'a>(mut chunk: &[u8], name: &'a [u8]) -> Option<Option<&'a [u8]>> {
    let mut left = Some(name);
    while let Some((first, rest)) = chunk.split_first() {
        let next = left.and_then(|left| left.split_first());
        let is_match;
        (is_match, chunk) = match first {
            b'[' => brackets(rest, next.map(|(byte, _)| char::from(*byte)))?,
            b'?' => (next.is_some_and(|(byte, _)| *byte != b'/'), rest),
            b'\\' => {
                let (escaped, rest) = rest.split_first()?;
                (next.is_some_and(|(byte, _)| byte == escaped), rest)
            }
            literal => (next.is_some_and(|(byte, _)| byte == literal), rest),
        };
        left = next.filter(|_| is_match).map(|(_, left)| left);
    }
    Some(left)
}

/// Parses the text after a `[`: whether it matches the character, and the text after its `]`.
fn brackets(chunk: &[u8], letter: Option<char>) -> Option<(bool, &[u8])> {
    let (is_negated, mut rest) = match chunk.strip_prefix(b"^") {
        Some(rest) => (true, rest),
        None => (false, chunk),
    };
    let mut is_match = false;
    loop {
        let (low, after) = bound(rest)?;
        let (high, after) = match after {
            [b'-', after @ ..] => bound(after)?,
            after => (low, after),
        };
        is_match |= letter.is_some_and(|letter| (low..=high).contains(&letter));
        if let [b']', after @ ..] = after {
            return Some((is_match != is_negated, after));
        }
        rest = after;
    }
}

/// One bound of a range, and the non-empty text after it.
fn bound(chunk: &[u8]) -> Option<(char, &[u8])> {
    let chunk = match chunk {
        [] | [b'-' | b']', ..] => return None,
        [b'\\', rest @ ..] => rest,
        chunk => chunk,
    };
    let letter = chunk.utf8_chunks().next()?.valid().chars().next()?;
    let rest = &chunk[letter.len_utf8()..];
    (!rest.is_empty()).then_some((letter, rest))
}

/// A pattern, cleaned as a path and without its `!`.
#[derive(Debug)]
pub(super) struct Pattern {
    text: Vec<u8>,
    matcher: Matcher,
}

/// How the pattern is compared with a path.
#[derive(Debug)]
enum Matcher {
    Exact,
    /// The pattern ends with its only wildcard, `**`.
    Prefix,
    /// The pattern starts with its only wildcard, `**`.
    Suffix,
    /// The alternatives of a regular expression.
    Programs(Vec<Program>),
    Unmatchable,
}

impl Pattern {
    /// Parses a pattern, using as much of `memory` as it needs.
    pub(super) fn new(text: Vec<u8>, memory: &mut Memory) -> Result<Pattern, MemoryExceeded> {
        memory.take(size_of::<Pattern>() + text.len())?;
        let (matcher, regex) = translate(&text);
        let matcher = match matcher {
            None => {
                let mut left = *memory;
                match parse(&regex, &mut left) {
                    Ok(programs) => {
                        *memory = left;
                        Matcher::Programs(programs)
                    }
                    // Nothing of it is kept.
                    Err(ParseError::Refused) => Matcher::Unmatchable,
                    Err(ParseError::MemoryExceeded) => return Err(MemoryExceeded),
                }
            }
            Some(matcher) => matcher,
        };
        Ok(Pattern { text, matcher })
    }

    pub(super) fn text(&self) -> &[u8] {
        &self.text
    }

    pub(super) fn matches(&self, name: &PathText<'_>) -> Result<bool, Unmatchable> {
        Ok(match &self.matcher {
            Matcher::Exact => name.bytes() == self.text,
            Matcher::Prefix => name.bytes().starts_with(&self.text[..self.text.len() - 2]),
            Matcher::Suffix => {
                let suffix = &self.text[2..];
                name.bytes().ends_with(suffix)
                    || suffix
                        .strip_prefix(b"/")
                        .is_some_and(|whole| name.bytes() == whole)
            }
            Matcher::Programs(programs) => programs.iter().any(|program| program.matches(name)),
            Matcher::Unmatchable => return Err(Unmatchable),
        })
    }
}

/// The matcher, or `None` and the regular expression that decides.
fn translate(pattern: &[u8]) -> (Option<Matcher>, Vec<char>) {
    let mut letters = decode(pattern).into_iter().peekable();
    // Go's scanner, which reads the pattern, skips a byte order mark.
    letters.next_if_eq(&'\u{feff}');
    let mut regex = vec!['^'];
    let mut matcher = Some(Matcher::Exact);
    let mut is_first = true;
    while let Some(letter) = letters.next() {
        match letter {
            '*' if letters.next_if_eq(&'*').is_some() => {
                letters.next_if_eq(&'/');
                if letters.peek().is_some() {
                    regex.extend("(.*/)?".chars());
                    matcher = None;
                } else if matches!(matcher, Some(Matcher::Exact)) {
                    matcher = Some(Matcher::Prefix);
                } else {
                    regex.extend(".*".chars());
                    matcher = None;
                }
                if is_first {
                    matcher = Some(Matcher::Suffix);
                }
            }
            '*' => {
                regex.extend("[^/]*".chars());
                matcher = None;
            }
            '?' => {
                regex.extend("[^/]".chars());
                matcher = None;
            }
            // Docker intends to escape `|`, `{` and `}` as well, but does not.
            '.' | '+' | '(' | ')' | '$' => regex.extend(['\\', letter]),
            '\\' => {
                regex.push('\\');
                if let Some(escaped) = letters.next() {
                    regex.push(escaped);
                    matcher = None;
                }
            }
            '[' | ']' => {
                regex.push(letter);
                matcher = None;
            }
            letter => regex.push(letter),
        }
        is_first = false;
    }
    regex.push('$');
    (matcher, regex)
}
