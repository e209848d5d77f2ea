//! A job and its id.

use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

use sha2::{Digest as _, Sha256};

use super::names::{GroupName, Params};
use crate::project::{Digest, NameError, ProjectName};

/// The digits of an id.
const DIGITS: usize = 64;
/// The digits that are shown where a whole id would be too long, as Docker does.
const SHORT_DIGITS: usize = 12;

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
        self.to_string()[..SHORT_DIGITS].to_owned()
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

/// The first digits of a job's id, at least one, which stand for it where no other id begins with them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobIdPrefix {
    digits: String,
    first: JobId,
    last: JobId,
}

impl JobIdPrefix {
    /// The ids that begin with these digits.
    pub fn range(&self) -> RangeInclusive<JobId> {
        self.first..=self.last
    }

    /// The id, if all of its digits are given.
    pub fn complete(&self) -> Option<JobId> {
        (self.first == self.last).then_some(self.first)
    }
}

impl From<JobId> for JobIdPrefix {
    fn from(id: JobId) -> JobIdPrefix {
        JobIdPrefix {
            digits: id.to_string(),
            first: id,
            last: id,
        }
    }
}

impl FromStr for JobIdPrefix {
    type Err = NameError;

    fn from_str(text: &str) -> Result<JobIdPrefix, NameError> {
        let padded = |digit: &str| {
            let missing = DIGITS.checked_sub(text.len())?;
            let id = format!("{text}{}", digit.repeat(missing)).parse();
            id.ok().filter(|_| !text.is_empty())
        };
        match (padded("0"), padded("f")) {
            (Some(first), Some(last)) => Ok(JobIdPrefix {
                digits: text.to_owned(),
                first,
                last,
            }),
            _ => Err(NameError::new(
                "job id",
                text,
                "1 to 64 lower-case hex digits",
            )),
        }
    }
}

impl fmt::Display for JobIdPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.digits)
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
    use std::sync::Arc;

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
    fn ids_match_the_golden_values() {
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
}
