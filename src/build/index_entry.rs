//! The index entry of a build: as much as ordering, filtering and statistics need.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::BuildInfo;
use crate::job::{Outcome, State, Status};

/// Bytes of a build's params that can be searched: names and the first bytes of values.
const MAX_SEARCHED_BYTES: usize = 256;

/// A build as the index knows it, without its record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IndexEntry {
    /// Its project and group. Builds of one group share it.
    pub(super) group: Arc<Group>,
    /// Its number among the attempts at its job.
    pub number: u32,
    /// What it is doing, or how it ended.
    pub status: Status,
    /// It started as a clone of its group's latest.
    pub incremental: bool,
    /// The client that requested it first.
    pub(super) asked_by: Option<Arc<str>>,
    /// No rule of garbage collection removes it. Only the index knows.
    pub(super) is_pinned: bool,
    /// From start to end.
    pub took: Option<Duration>,
    /// When it finished.
    pub finished: Option<Timestamp>,
    /// Bytes on disk that no other build shared when it was measured; 0 before.
    pub own: u64,
    /// The searched text besides the group: the params in lower case.
    text: Box<str>,
}

/// A group of a project, or its builds without one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Group {
    /// The group, or "".
    pub(super) name: Box<str>,
    /// The searched text: project and group in lower case.
    text: Box<str>,
}

impl IndexEntry {
    /// The entry of a build that takes `own` bytes.
    pub(super) fn of(info: &BuildInfo, own: Option<u64>) -> IndexEntry {
        IndexEntry {
            group: Arc::new(Group {
                name: info.group_name().into(),
                text: format!("{} {}", info.project, info.group_name())
                    .to_lowercase()
                    .into(),
            }),
            number: info.number,
            status: info.status,
            incremental: info.incremental,
            asked_by: info.asked_by.as_deref().map(Into::into),
            is_pinned: false,
            took: info.duration,
            finished: info.finished_at,
            own: own.unwrap_or(0),
            text: text(info),
        }
    }

    /// Pending or ready.
    pub fn state(&self) -> State {
        self.status.state()
    }

    /// Its outcome, once it has one.
    pub fn outcome(&self) -> Option<Outcome> {
        self.status.outcome()
    }

    /// True when each of `words`, which are in lower case, occurs in the build's names or params.
    pub(super) fn holds(&self, words: &[String], id: impl Fn() -> String) -> bool {
        words.iter().all(|word| {
            let is_digits = word.bytes().all(|byte| byte.is_ascii_hexdigit());
            [&self.group.text, &self.text]
                .iter()
                .any(|text| text.contains(word.as_str()))
                || (is_digits && id().starts_with(word.as_str()))
        })
    }
}

/// An entry with the key that orders it.
pub(super) struct Shown<'a>(pub(super) &'a IndexEntry);

impl PartialEq for Shown<'_> {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Shown<'_> {}

impl PartialOrd for Shown<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Shown<'_> {
    fn cmp(&self, _: &Self) -> std::cmp::Ordering {
        std::cmp::Ordering::Equal
    }
}

fn text(info: &BuildInfo) -> Box<str> {
    let params = info.params.iter().flat_map(|(name, value)| {
        let value = value.as_deref().unwrap_or_default();
        [name.as_str(), "=", value, " "]
    });
    let letters = params.flat_map(str::chars).flat_map(char::to_lowercase);
    let mut bytes = 0;
    let text: String = letters
        .take_while(|letter| {
            bytes += letter.len_utf8();
            bytes <= MAX_SEARCHED_BYTES
        })
        .collect();
    // A copy, since truncating a buffer leaves a gap in the heap.
    text.as_str().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_search_finds_names_params_and_the_beginning_of_ids() {
        let mut info = BuildInfo {
            project: "Yarn".parse().unwrap(),
            group: crate::build::BuildGroup::Named("Feature/Ünï".parse().unwrap()),
            ..BuildInfo::example()
        };
        for (name, value) in [("branch", Some("Main Line")), ("_token", None)] {
            let value = value.map(Into::into);
            info.params.insert(name.to_owned(), value);
        }
        let entry = IndexEntry::of(&info, None);
        let holds = |words: &str| {
            let words: Vec<String> = words.split_whitespace().map(str::to_lowercase).collect();
            entry.holds(&words, || "0af3".repeat(16))
        };
        for found in [
            "",
            "yarn",
            "ÜNÏ",
            "branch=main",
            "line YARN",
            "_token",
            "0af30",
        ] {
            assert!(holds(found), "{found}");
        }
        for not_found in ["af3", "yarn nothing", "0af4"] {
            assert!(!holds(not_found), "{not_found}");
        }
    }

    #[test]
    fn long_params_take_little_memory() {
        let mut info = BuildInfo::example();
        for name in ["a", "b"] {
            info.params
                .insert(name.to_owned(), Some("é".repeat(100_000).into()));
        }
        assert!(IndexEntry::of(&info, None).text.len() <= MAX_SEARCHED_BYTES);
    }
}
