//! Logs: end state, line index, search results.

use serde::{Deserialize, Serialize};

use crate::job::{Outcome, State};

/// The last event of `GET /log/P/ID`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "PascalCase")]
pub struct LogEnd {
    /// Ready, or pending if the server stops first.
    pub state: State,
    /// The build's outcome.
    pub outcome: Option<Outcome>,
    /// The container's exit code; -999 when there is none.
    pub exit_code: i64,
}

/// `GET /log/P/ID?lines`: the line index. The three lists have an entry for each block.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "PascalCase")]
pub struct LogLines {
    /// Bytes of the log that were indexed: its length then.
    pub length: u64,
    /// Lines that start in them; the last may be incomplete.
    pub lines: u64,
    /// The offset at which each block starts.
    pub offsets: Vec<u64>,
    /// The number of the line that starts there, counted from 0.
    pub firsts: Vec<u64>,
    /// The active colours there, as parameters of one SGR sequence; "" for none.
    pub colours: Vec<String>,
}

/// `GET /log/P/ID?times`: when the log was written. The two lists have an entry for each time, which is that of the
/// bytes from an offset on. Both are empty where that is not known.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "PascalCase")]
pub struct LogTimes {
    /// Bytes of the log that have times: its length then.
    pub length: u64,
    /// The offsets, ascending.
    pub offsets: Vec<u64>,
    /// Milliseconds since 1970-01-01 UTC.
    pub times: Vec<i64>,
}

/// `GET /log/P/ID?find=TEXT`: the lines that contain a text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "PascalCase")]
pub struct LogMatches {
    /// Bytes of the log that were searched: its length then.
    pub length: u64,
    /// The number of such lines.
    pub count: u64,
    /// The first 1,000 of them.
    #[cfg_attr(test, schemars(length(max = 1_000)))]
    pub matches: Vec<LogMatch>,
}

/// One match.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "PascalCase")]
pub struct LogMatch {
    /// The line's number, counted from 0.
    pub line: u64,
    /// The offset at which it starts.
    pub offset: u64,
}
