//! `.dockerignore`: which paths of a project are excluded from its context.
//!
//! The file is parsed as Docker does it (`frontend/dockerfile/dockerignore` of BuildKit and `New` of
//! `github.com/moby/patternmatcher`), byte for byte and in any encoding, and a path is matched as Docker's
//! CLI does when it packs a context (`MatchesUsingParentResults`): the last line that matches decides, and a
//! line that matches a directory covers everything below it.

use std::fmt;
use std::sync::Arc;

use super::path_text::PathText;
use super::pattern::{Pattern, is_well_formed};
use super::regex::{MAX_MEMORY_BYTES, Memory, MemoryExceeded};

/// Bytes of the longest line: Go's `bufio.Scanner`, which Docker uses, accepts no longer one.
const MAX_LINE_BYTES: usize = 65_535;
/// Characters of a pattern that an error shows.
const MAX_SHOWN_LETTERS: usize = 80;

/// A line that Docker rejects, or that takes too much memory.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct InvalidLine {
    /// Counted from 1.
    number: usize,
    what: String,
}

impl fmt::Display for InvalidLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.number, self.what)
    }
}

/// The patterns of one `.dockerignore`; the default excludes nothing.
#[derive(Debug, Default)]
pub(super) struct Ignore {
    lines: Vec<Line>,
}

#[derive(Debug)]
struct Line {
    number: usize,
    pattern: Pattern,
    /// It starts with `!`: matching paths are not excluded.
    is_exception: bool,
}

/// The lines that match a directory, and thereby everything below it.
#[derive(Clone, Debug, Default)]
pub(super) struct Matched(Arc<[usize]>);

impl Ignore {
    /// Reads the file.
    ///
    /// # Errors
    /// The first line that is too long or invalid, or that makes all take more than [`MAX_MEMORY_BYTES`].
    pub(super) fn parse(text: &[u8]) -> Result<Ignore, InvalidLine> {
        Ignore::parse_within(text, Memory::new(MAX_MEMORY_BYTES))
    }

    fn parse_within(text: &[u8], mut memory: Memory) -> Result<Ignore, InvalidLine> {
        let text = text.strip_prefix("\u{feff}".as_bytes()).unwrap_or(text);
        let mut lines = Vec::new();
        for (at, line) in text.split(|byte| *byte == b'\n').enumerate() {
            let number = at + 1;
            let wrong = |what| InvalidLine { number, what };
            if line.len() > MAX_LINE_BYTES {
                let what = format!("expected at most {MAX_LINE_BYTES} bytes");
                return Err(wrong(what));
            }
            let Some((pattern, is_exception)) = cleaned(line) else {
                continue;
            };
            if is_exception && pattern.is_empty() {
                return Err(wrong("expected a pattern after '!'".to_owned()));
            }
            if !is_well_formed(&pattern) {
                return Err(wrong(not_a_pattern(&pattern)));
            }
            let pattern = Pattern::new(pattern, &mut memory).map_err(|MemoryExceeded| {
                let most = MAX_MEMORY_BYTES >> 20;
                wrong(format!(
                    "the patterns up to here take more than {most} MiB of memory"
                ))
            })?;
            lines.push(Line {
                number,
                pattern,
                is_exception,
            });
        }
        Ok(Ignore { lines })
    }

    /// True when the path, relative to the project, is excluded; and which lines match it. `above` is this
    /// function's result for the parent directory.
    ///
    /// # Errors
    /// A line that Docker rejects only when it matches a path with it.
    pub(super) fn excludes(
        &self,
        path: &[u8],
        above: &Matched,
    ) -> Result<(bool, Matched), InvalidLine> {
        let name = PathText::new(path);
        let mut is_excluded = false;
        let mut matched = Vec::new();
        let mut above = above.0.iter().copied().peekable();
        for (at, line) in self.lines.iter().enumerate() {
            let is_match = if above.next_if_eq(&at).is_some() {
                true
            } else if line.is_exception == is_excluded {
                // Only a line that would change the result is checked.
                line.pattern.matches(&name).map_err(|_| InvalidLine {
                    number: line.number,
                    what: not_a_pattern(line.pattern.text()),
                })?
            } else {
                false
            };
            if is_match {
                matched.push(at);
                is_excluded = !line.is_exception;
            }
        }
        Ok((is_excluded, Matched(matched.into())))
    }

    /// True when an exception names the directory or something below it without a wildcard before: Docker
    /// enters no other directory that is excluded.
    pub(super) fn may_except_below(&self, directory: &[u8]) -> bool {
        self.lines.iter().any(|line| {
            line.is_exception
                && line
                    .pattern
                    .text()
                    .strip_prefix(directory)
                    .is_some_and(|rest| matches!(rest, [] | [b'/', ..]))
        })
    }
}

/// The pattern of a line, and whether it is an exception; `None` when the line has none.
///
/// A line is trimmed and cleaned twice, as Docker does in its reader and in its matcher.
fn cleaned(line: &[u8]) -> Option<(Vec<u8>, bool)> {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    if line.starts_with(b"#") {
        return None;
    }
    let line = trim(line);
    if line.is_empty() {
        return None;
    }
    let mut read = Vec::new();
    let pattern = match line.strip_prefix(b"!") {
        Some(pattern) => {
            read.push(b'!');
            trim(pattern)
        }
        None => line,
    };
    if !pattern.is_empty() {
        let pattern = clean(pattern);
        match &pattern[..] {
            [b'/', rest @ ..] if !rest.is_empty() => read.extend_from_slice(rest),
            pattern => read.extend_from_slice(pattern),
        }
    }
    let read = trim(&read);
    if read.is_empty() {
        return None;
    }
    let pattern = clean(read);
    Some(match pattern.strip_prefix(b"!") {
        Some(pattern) => (pattern.to_owned(), true),
        None => (pattern, false),
    })
}

fn not_a_pattern(pattern: &[u8]) -> String {
    let text = String::from_utf8_lossy(pattern);
    let mut shown: String = text
        .chars()
        .take(MAX_SHOWN_LETTERS)
        .flat_map(char::escape_debug)
        .collect();
    if text.chars().nth(MAX_SHOWN_LETTERS).is_some() {
        shown.push('…');
    }
    format!("'{shown}' is not a pattern that Docker takes")
}

/// Removes white space at both ends, as Unicode defines it; invalid UTF-8 is not white space.
fn trim(mut text: &[u8]) -> &[u8] {
    /// Bytes of the longest white space character.
    const LONGEST: usize = 3;
    let is_space = |bytes: &[u8]| {
        std::str::from_utf8(bytes).is_ok_and(|text| text.chars().all(char::is_whitespace))
    };
    let lengths = |text: &[u8]| 1..=text.len().min(LONGEST);
    while let Some(length) = lengths(text).find(|length| is_space(&text[..*length])) {
        text = &text[length..];
    }
    while let Some(length) = lengths(text).find(|length| is_space(&text[text.len() - length..])) {
        text = &text[..text.len() - length];
    }
    text
}

/// The shortest equivalent path, as `filepath.Clean` of Go defines it.
fn clean(path: &[u8]) -> Vec<u8> {
    let is_rooted = path.starts_with(b"/");
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in path.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => match parts.last() {
                Some(last) if *last != b".." => {
                    parts.pop();
                }
                _ if is_rooted => {}
                _ => parts.push(part),
            },
            part => parts.push(part),
        }
    }
    let mut cleaned = if is_rooted { vec![b'/'] } else { Vec::new() };
    cleaned.extend_from_slice(&parts.join(&b'/'));
    if cleaned.is_empty() {
        cleaned.push(b'.');
    }
    cleaned
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether a path is excluded, as checked by a walk.
    fn excludes(ignore: &Ignore, path: &str) -> bool {
        let mut above = Matched::default();
        let mut is_excluded = false;
        for (end, _) in path.match_indices('/').chain([(path.len(), "")]) {
            let path = &path.as_bytes()[..end];
            (is_excluded, above) = ignore.excludes(path, &above).unwrap();
        }
        is_excluded
    }

    /// Each row shows the behaviour of Docker 28.
    #[test]
    fn patterns_match_as_in_docker() {
        for (text, out, kept) in [
            (
                "# all\n\nnode_modules",
                &["node_modules", "node_modules/a/b"][..],
                &["x/node_modules"][..],
            ),
            ("/a/", &["a", "a/b"], &["b/a"]),
            ("**/*.log", &["x.log", "a/b/x.log"], &["x.txt"]),
            ("**.log", &["x.log", "sub/b.log"], &["b.logs"]),
            ("sub/**b", &["sub/b", "sub/x/b"], &["sub/xb", "b"]),
            (
                "**node_modules",
                &["xnode_modules", "a/node_modules/b"],
                &["a"],
            ),
            ("[!k]eep", &["keep", "!eep"], &["jeep"]),
            ("[^k]eep", &["jeep"], &["keep"]),
            ("../foo", &[], &["foo"]),
            ("foo/", &["foo/f"], &["fo"]),
            ("\\#x", &["#x"], &["x"]),
            (" #x", &["#x"], &["x"]),
            ("*.md\n!README.md", &["a.md"], &["README.md", "d/a.md"]),
            (
                "*/temp*",
                &["a/temp1", "a/temp1/x"],
                &["temp1", "a/b/temp1"],
            ),
            ("temp?", &["temp1", "tempé"], &["temp", "temp12"]),
            ("a/**/z", &["a/z", "a/b/c/z"], &["z"]),
            ("a/**", &["a/z", "a/b/c"], &["a"]),
            (
                "docs\n!docs/keep\ndocs/keep/not",
                &["docs/x", "docs/keep/not"],
                &["docs/keep", "docs/keep/y"],
            ),
            ("./a/../b", &["b"], &["a"]),
            ("[ab]c", &["ac", "bc"], &["cc"]),
            ("  ", &[], &["a"]),
            ("!/a\n/!a", &[], &["a", "!a"]),
            // Side effects of the translation into a regular expression.
            ("a{2}", &["a{2}"], &["aa"]),
            ("a{2}*", &["aa", "aab"], &["a{2}", "a"]),
            ("x|b", &["x|b"], &["x"]),
            ("x|?b", &["x", "xy", "ab", "aab"], &["a", "b"]),
            ("\\d*", &["5", "55"], &["d", "a5"]),
            ("a^*", &[], &["a^", "a"]),
            ("[[:alpha:]]?", &["ab"], &["5b"]),
            ("\\Qa.b", &["a\\.b$"], &["a.b"]),
        ] {
            let ignore = Ignore::parse(text.as_bytes()).unwrap();
            for path in out {
                assert!(excludes(&ignore, path), "{text:?} keeps {path}");
            }
            for path in kept {
                assert!(!excludes(&ignore, path), "{text:?} excludes {path}");
            }
        }
    }

    #[test]
    fn a_line_that_is_wrong_only_for_some_paths_is_refused_when_it_is_matched() {
        let wrong = |text: &str| {
            let ignore = Ignore::parse(text.as_bytes()).unwrap();
            ignore.excludes(b"a", &Matched::default()).is_err()
        };
        assert!(wrong("[z-a]"));
        assert!(wrong("a\n![z-a]"));
        assert!(!wrong("![z-a]"));
        assert!(!wrong("*\n[z-a]"));
    }

    #[test]
    fn an_excluded_directory_is_entered_for_exceptions_inside_it() {
        let ignore = Ignore::parse(b"*\n!a/b/c\n!**/d\n!e*\n").unwrap();
        for (directory, is_looked_into) in [
            ("a", true),
            ("a/b", true),
            ("a/b/c", true),
            ("ab", false),
            ("d", false),
            ("e", false),
        ] {
            let looked_into = ignore.may_except_below(directory.as_bytes());
            assert_eq!(looked_into, is_looked_into, "{directory}");
        }
    }

    /// Docker accepts each of the lines.
    #[test]
    fn patterns_that_take_too_much_memory_are_refused_with_their_line() {
        let parsed = |text: &str| Ignore::parse_within(text.as_bytes(), Memory::new(1 << 20));
        let long = format!("?{}", "a{1000}".repeat(20));
        assert!(parsed(&format!("x\n{long}\nb?")).is_ok());
        let alternatives = format!("?{}", "|".repeat(12_000));
        let plain = "a\n".repeat(20_000);
        for (text, line) in [
            (format!("x\n{long}\n\n{long}\nb"), 4),
            (format!("{alternatives}\n{alternatives}"), 2),
            (format!("{plain}{long}"), 20_001),
        ] {
            let error = parsed(&text).err().unwrap().to_string();
            let expected = "the patterns up to here take more than 128 MiB of memory";
            assert_eq!(error, format!("line {line}: {expected}"));
        }
    }

    #[test]
    fn patterns_refused_for_their_length_do_not_count_against_other_patterns() {
        let endless = format!("?{}", "a{1000}".repeat(3_400));
        let long = format!("?{}", "a{1000}".repeat(3_000));
        let ignore = Ignore::parse(format!("{endless}\n{endless}\n{long}").as_bytes()).unwrap();
        let error = ignore.excludes(b"a", &Matched::default()).unwrap_err();
        assert_eq!(error.number, 1);
    }
}
