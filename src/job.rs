//! A job is a *request*: project, params, group and context digest. It is a plain value.
//!
//! Its [`JobId`] is the SHA-256 of a versioned, length-prefixed encoding of all four, so no two jobs share an
//! id by concatenation and none depends on the host. Params whose names begin with `_` are *opaque*: the
//! build gets them but they do not enter the id, and their values are shown nowhere.

mod status;

pub use status::{Cancelled, Outcome, Phase, Phases, State};

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use sha2::{Digest as _, Sha256};

use crate::project::{Digest, NameError, ProjectName};

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
        self.0.starts_with('_')
    }
}

impl FromStr for ParamName {
    type Err = NameError;

    fn from_str(name: &str) -> Result<ParamName, NameError> {
        if crate::project::is_word(name, b"_") {
            Ok(ParamName(name.to_owned()))
        } else {
            Err(NameError::new(
                "param name",
                name,
                "1 to 128 of A-Z a-z 0-9 . _ - that begin with a letter, digit or _",
            ))
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

/// 64 lower-case hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JobId(Digest);

impl JobId {
    /// The first in order.
    pub const FIRST: JobId = JobId(Digest::from_bytes([0; 32]));
    /// The last in order.
    pub const LAST: JobId = JobId(Digest::from_bytes([0xff; 32]));

    /// The first digits, enough for people to tell builds apart.
    pub fn short(&self) -> String {
        self.to_string()[..7].to_owned()
    }
}

impl FromStr for JobId {
    type Err = NameError;

    fn from_str(text: &str) -> Result<JobId, NameError> {
        let wrong = || NameError::new("job id", text, "64 lower-case hex digits");
        // Each id has one spelling: the library accepts upper case, too.
        if text.bytes().any(|digit| digit.is_ascii_uppercase()) {
            return Err(wrong());
        }
        let mut bytes = [0; 32];
        hex::decode_to_slice(text, &mut bytes).map_err(|_| wrong())?;
        Ok(JobId(Digest::from_bytes(bytes)))
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// A job request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    /// The project.
    pub project: ProjectName,
    /// The group, whose latest successful build is the base of the next.
    pub group: Option<GroupName>,
    /// The parameters of the build.
    pub params: Params,
    /// The digest of the project's files.
    pub context: Digest,
}

impl Job {
    /// The job's identity; the same on every host.
    pub fn id(&self) -> JobId {
        fn field(hasher: &mut Sha256, bytes: &[u8]) {
            hasher.update((bytes.len() as u64).to_be_bytes());
            hasher.update(bytes);
        }
        let mut hasher = Sha256::new();
        hasher.update(b"mistry-job-v1\0");
        field(&mut hasher, self.project.as_str().as_bytes());
        // No group has the empty name, so "" stands for none.
        let group = self.group.as_ref().map_or("", GroupName::as_str);
        field(&mut hasher, group.as_bytes());
        field(&mut hasher, self.context.as_bytes());
        for (name, value) in &self.params {
            if !name.is_opaque() {
                field(&mut hasher, name.as_str().as_bytes());
                field(&mut hasher, value.as_bytes());
            }
        }
        JobId(Digest::from_bytes(hasher.finalize().into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(project: &str, group: &str, params: &[(&str, &str)]) -> Job {
        Job {
            project: project.parse().unwrap(),
            group: (!group.is_empty()).then(|| group.parse().unwrap()),
            params: params
                .iter()
                .map(|(n, v)| (n.parse().unwrap(), Arc::from(*v)))
                .collect(),
            context: Digest::of(b"context"),
        }
    }

    #[test]
    fn ids_are_golden() {
        // A change here makes every cached build of every host unreachable.
        for (job, id) in [
            (
                job("p", "", &[]),
                "ddfc856c6f914851757b4a61f3e8883ad9b45f4a0c12f914bc44f448745fca01",
            ),
            (
                job("p", "g", &[("a", "1"), ("b", "")]),
                "78e03566b6d589f8ea4f45701139ecee9f1bf4d459b19c7749ff7bd1c5808c92",
            ),
        ] {
            assert_eq!(job.id().to_string(), id);
        }
    }

    #[test]
    fn no_two_jobs_share_an_id_by_concatenation() {
        for (a, b) in [
            (job("p", "", &[("a", "bc")]), job("p", "", &[("ab", "c")])),
            (job("p", "g", &[("h", "i")]), job("p", "gh", &[("i", "")])),
            (job("pg", "", &[]), job("p", "g", &[])),
            (job("p", "", &[("a", "")]), job("p", "", &[])),
        ] {
            assert_ne!(a.id(), b.id(), "{a:?} {b:?}");
        }
    }

    #[test]
    fn opaque_params_do_not_enter_the_id() {
        assert_eq!(
            job("p", "", &[("_secret", "1"), ("a", "x")]).id(),
            job("p", "", &[("_secret", "2"), ("a", "x")]).id()
        );
    }

    #[test]
    fn an_id_is_64_lower_case_digits() {
        let id = job("p", "", &[]).id();
        assert_eq!(id.to_string().parse::<JobId>().unwrap(), id);
        let text = id.to_string();
        for wrong in [
            &text[1..],
            &text.to_uppercase(),
            &format!("{text}0"),
            "",
            &"g".repeat(64),
            &"é".repeat(32),
        ] {
            assert!(wrong.parse::<JobId>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_group_is_a_safe_file_name() {
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
