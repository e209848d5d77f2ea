//! `.dockerignore`: which paths of a project stay out of its context.
//!
//! Docker's rules: one pattern a line, `#` comments, `!` brings back, the last line that
//! matches decides, a pattern that matches a directory covers all below it, `**` spans
//! directories, everything is relative to the project whether or not it begins with `/`.

use std::path::Path;

use globset::{GlobBuilder, GlobMatcher};

/// Its file name.
pub(super) const IGNORE_FILE: &str = ".dockerignore";

/// The patterns of one `.dockerignore`; the default excludes nothing.
#[derive(Debug, Default)]
pub(super) struct Ignore {
    lines: Vec<Line>,
}

#[derive(Debug)]
struct Line {
    matcher: GlobMatcher,
    brings_back: bool,
}

impl Ignore {
    /// Reads the file's text. A line that is no pattern matches nothing.
    pub(super) fn parse(text: &str) -> Ignore {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let lines = text
            .lines()
            .filter(|line| !line.starts_with('#'))
            .filter_map(|line| {
                let line = line.trim();
                let (line, brings_back) = match line.strip_prefix('!') {
                    Some(rest) => (rest.trim_start(), true),
                    None => (line, false),
                };
                let matcher = GlobBuilder::new(&clean(line)?)
                    .literal_separator(true)
                    .backslash_escape(true)
                    .build()
                    .ok()?
                    .compile_matcher();
                Some(Line {
                    matcher,
                    brings_back,
                })
            })
            .collect();
        Ignore { lines }
    }

    /// True when some line may bring back what lies below an excluded directory.
    pub(super) fn has_exceptions(&self) -> bool {
        self.lines.iter().any(|line| line.brings_back)
    }

    /// True when `path`, relative to the project, stays out.
    pub(super) fn excludes(&self, path: &Path) -> bool {
        let mut excluded = false;
        for line in &self.lines {
            // Only a line that would change the verdict needs to be asked.
            if line.brings_back == excluded
                && path
                    .ancestors()
                    .take_while(|p| !p.as_os_str().is_empty())
                    .any(|p| line.matcher.is_match(p))
            {
                excluded = !line.brings_back;
            }
        }
        excluded
    }
}

/// Resolves `.` and `..`, drops slashes at both ends, and takes braces literally, as Docker does.
fn clean(pattern: &str) -> Option<String> {
    let mut parts: Vec<&str> = Vec::new();
    for part in pattern.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    let joined = parts.join("/").replace('{', r"\{").replace('}', r"\}");
    (!joined.is_empty()).then_some(joined)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_mean_what_docker_means() {
        for (text, out, kept) in [
            (
                "# all\n\nnode_modules",
                vec!["node_modules", "node_modules/a/b"],
                vec!["x/node_modules"],
            ),
            ("/a/", vec!["a", "a/b"], vec!["b/a"]),
            ("**/*.log", vec!["x.log", "a/b/x.log"], vec!["x.txt"]),
            (
                "*.md\n!README.md",
                vec!["a.md"],
                vec!["README.md", "d/a.md"],
            ),
            (
                "*/temp*",
                vec!["a/temp1", "a/temp1/x"],
                vec!["temp1", "a/b/temp1"],
            ),
            ("temp?", vec!["temp1"], vec!["temp", "temp12"]),
            ("a/**/z", vec!["a/z", "a/b/c/z"], vec!["z"]),
            (
                "docs\n!docs/keep\ndocs/keep/not",
                vec!["docs/x", "docs/keep/not"],
                vec!["docs/keep", "docs/keep/y"],
            ),
            ("./a/../b", vec!["b"], vec!["a"]),
            ("x{1}", vec!["x{1}"], vec!["x1"]),
            ("[ab]c", vec!["ac", "bc"], vec!["cc"]),
            ("  ", vec![], vec!["a"]),
        ] {
            let ignore = Ignore::parse(text);
            for path in out {
                assert!(ignore.excludes(Path::new(path)), "{text:?} keeps {path}");
            }
            for path in kept {
                assert!(
                    !ignore.excludes(Path::new(path)),
                    "{text:?} excludes {path}"
                );
            }
        }
    }

    #[test]
    fn a_line_that_is_no_pattern_matches_nothing() {
        let ignore = Ignore::parse("[a\nb");
        assert!(!ignore.excludes(Path::new("[a")));
        assert!(ignore.excludes(Path::new("b")));
    }
}
