//! The name of a project: a directory name that is safe in paths, labels and addresses.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

/// Longest name, in bytes: a directory name must leave space for suffixes.
const MAX_NAME: usize = 128;

/// An invalid name: what it names, the name, the rule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} {shown} is not allowed: expected {rule}")]
pub struct NameError {
    what: &'static str,
    shown: String,
    rule: &'static str,
}

impl NameError {
    /// An error about `name`, shown with control characters escaped and cut at 80 characters.
    pub fn new(what: &'static str, name: &str, rule: &'static str) -> NameError {
        let mut shown: String = name.chars().take(80).flat_map(char::escape_debug).collect();
        if name.chars().nth(80).is_some() {
            shown.push('…');
        }
        NameError {
            what,
            shown: format!("'{shown}'"),
            rule,
        }
    }
}

/// True when `name` is a letter or digit followed by letters, digits, `.`, `_`, `-`.
fn is_word(name: &str, also_first: &[u8]) -> bool {
    let bytes = name.as_bytes();
    bytes.len() <= MAX_NAME
        && bytes
            .first()
            .is_some_and(|b| b.is_ascii_alphanumeric() || also_first.contains(b))
        && bytes
            .iter()
            .all(|b| b.is_ascii_alphanumeric() || b"._-".contains(b))
}

/// The rule for the names of params.
pub(crate) const PARAM_NAME_RULE: &str =
    "1 to 128 of A-Z a-z 0-9 . _ - that begin with a letter, digit or _";

/// True when `name` may name a param: `[A-Za-z0-9_][A-Za-z0-9._-]{0,127}`.
pub(crate) fn is_param_name(name: &str) -> bool {
    is_word(name, b"_")
}

/// `[A-Za-z0-9][A-Za-z0-9._-]{0,127}`: the name of a directory under `projects_path`. Clones share it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProjectName(Arc<str>);

impl ProjectName {
    /// The name as text; never empty, never `.` or `..`, no separator in it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ProjectName {
    type Err = NameError;

    fn from_str(name: &str) -> Result<ProjectName, NameError> {
        if is_word(name, b"") {
            Ok(ProjectName(name.into()))
        } else {
            Err(NameError::new(
                "project name",
                name,
                "1 to 128 of A-Z a-z 0-9 . _ - that begin with a letter or digit",
            ))
        }
    }
}

impl fmt::Display for ProjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// An existing project.
#[derive(Clone, Debug)]
pub struct Project {
    /// Its name, which is that of its directory.
    pub name: ProjectName,
    /// Its directory.
    pub path: PathBuf,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_directory_names_are_projects() {
        for good in ["a", "A-b_c.d", "0", &"x".repeat(128)] {
            assert!(good.parse::<ProjectName>().is_ok(), "{good}");
        }
        for bad in [
            "",
            ".",
            "..",
            "../x",
            "a/b",
            "-a",
            "_a",
            ".a",
            "a b",
            "a\0",
            "ä",
            &"x".repeat(129),
        ] {
            assert!(bad.parse::<ProjectName>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn the_error_names_the_name_and_stays_short() {
        let error = "a\n"
            .repeat(1000)
            .parse::<ProjectName>()
            .unwrap_err()
            .to_string();
        assert!(error.contains(r"'a\na\n"), "{error}");
        assert!(error.len() < 300 && !error.contains('\n'), "{error}");
    }
}
