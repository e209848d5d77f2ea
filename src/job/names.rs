//! The names of a job's params and group.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::project::{Digest, NameError, PARAM_NAME_RULE, is_opaque_param, is_param_name};

/// Most params of one job: a lock file and a few flags are usual, a thousand is generous.
pub const MAX_PARAMS: usize = 1_000;
/// Longest group name in bytes.
const MAX_GROUP: usize = 200;
/// Longest file name that Linux file systems take, in bytes.
const MAX_FILE_NAME: usize = 255;

/// `[A-Za-z0-9_][A-Za-z0-9._-]{0,127}`: the name of a file under `data/params`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ParamName(String);

impl ParamName {
    /// The name as text; safe as a file name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// True when the value does not enter the id and is not shown.
    pub fn is_opaque(&self) -> bool {
        is_opaque_param(&self.0)
    }
}

impl FromStr for ParamName {
    type Err = NameError;

    fn from_str(name: &str) -> Result<ParamName, NameError> {
        if is_param_name(name) {
            Ok(ParamName(name.to_owned()))
        } else {
            Err(NameError::new("param name", name, PARAM_NAME_RULE))
        }
    }
}

impl fmt::Display for ParamName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The params of a job by name. A value may be megabytes, so all holders of a job share it.
pub type Params = BTreeMap<ParamName, Arc<str>>;

/// Any text of 1 to 200 bytes without control characters.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupName(String);

impl GroupName {
    /// The name as given.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name as a file name: `/`, `%` and a leading `.` percent-encoded; past 255 bytes
    /// `%~` and the SHA-256 of the name, which no encoding yields.
    pub fn file_name(&self) -> String {
        let mut encoded = String::with_capacity(self.0.len());
        for (at, letter) in self.0.char_indices() {
            match letter {
                '/' => encoded.push_str("%2F"),
                '%' => encoded.push_str("%25"),
                '.' if at == 0 => encoded.push_str("%2E"),
                other => encoded.push(other),
            }
        }
        if encoded.len() <= MAX_FILE_NAME {
            encoded
        } else {
            format!("%~{}", Digest::of(self.0.as_bytes()))
        }
    }
}

impl FromStr for GroupName {
    type Err = NameError;

    fn from_str(name: &str) -> Result<GroupName, NameError> {
        if (1..=MAX_GROUP).contains(&name.len()) && !name.chars().any(char::is_control) {
            Ok(GroupName(name.to_owned()))
        } else {
            Err(NameError::new(
                "group name",
                name,
                "1 to 200 bytes without control characters",
            ))
        }
    }
}

impl fmt::Display for GroupName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_becomes_a_safe_file_name() {
        for (name, file) in [
            ("main", "main"),
            ("feature/x", "feature%2Fx"),
            ("..", "%2E."),
            (".hidden.x", "%2Ehidden.x"),
            ("100%", "100%25"),
            ("ünï", "ünï"),
        ] {
            assert_eq!(name.parse::<GroupName>().unwrap().file_name(), file);
        }
        let long = "/".repeat(200).parse::<GroupName>().unwrap().file_name();
        assert!(long.starts_with("%~") && long.len() == 66, "{long}");
        for wrong in ["", "a\0", "a\nb", &"x".repeat(201)] {
            assert!(wrong.parse::<GroupName>().is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn param_names_are_safe_file_names() {
        for good in ["a", "_a", "A.b-c_d", "0"] {
            assert!(good.parse::<ParamName>().is_ok(), "{good}");
        }
        for bad in [
            "",
            ".",
            "..",
            "../x",
            "a/b",
            "-a",
            "a b",
            "a\0",
            &"x".repeat(129),
        ] {
            assert!(bad.parse::<ParamName>().is_err(), "{bad:?}");
        }
    }
}
