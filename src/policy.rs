//! The rules of garbage collection.

use std::time::Duration;

/// Limits for stored builds; an absent rule has no effect.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Policy {
    /// Builds unused for that long are removed: `90m`, `12h`, `7d`.
    #[cfg_attr(test, schemars(with = "Option<String>"))]
    pub max_age: Option<Duration>,
    /// Bytes that all builds together may take: a number, or a text like `512M` or `20G`.
    #[cfg_attr(test, schemars(extend("type" = ["integer", "string", "null"])))]
    pub max_bytes: Option<u64>,
    /// Bytes that must be free where builds are kept: a number, or a text like `512M` or `20G`.
    #[cfg_attr(test, schemars(extend("type" = ["integer", "string", "null"])))]
    pub min_free: Option<u64>,
    /// This many builds of each project stay, whatever the other rules say.
    pub keep_last: Option<u64>,
}

impl Policy {
    /// True when there is a rule that removes builds; `keep_last` is none.
    pub fn has_rule(&self) -> bool {
        self.max_age.is_some() || self.max_bytes.is_some() || self.min_free.is_some()
    }

    /// This policy with those rules replaced that `other` sets.
    pub fn overridden_by(self, other: Policy) -> Policy {
        Policy {
            max_age: other.max_age.or(self.max_age),
            max_bytes: other.max_bytes.or(self.max_bytes),
            min_free: other.min_free.or(self.min_free),
            keep_last: other.keep_last.or(self.keep_last),
        }
    }
}
