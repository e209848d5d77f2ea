//! The attempts at one job, in a list.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::job::{Outcome, State};

/// One attempt at a job: an element of `GET /job/P/ID/attempts`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(rename = "Attempt"))]
#[serde(rename_all = "PascalCase")]
pub struct AttemptView {
    /// Its number among the attempts at the job, from 1.
    pub number: u32,
    /// Pending or ready.
    pub state: State,
    /// The outcome, once ready.
    pub outcome: Option<Outcome>,
    /// The container's exit code, or -999.
    pub exit_code: i64,
    /// When it started; while it is queued, when it was accepted.
    pub started_at: Timestamp,
    /// Time of the end.
    pub finished_at: Option<Timestamp>,
    /// Nanoseconds from start to end, or -1000000000.
    pub duration: i64,
    /// The client that requested it first: `token NAME`, `uid N`, or an address.
    pub asked_by: Option<String>,
    /// Its artifacts are there: it is the build of the job that is over and in place.
    pub served: bool,
}
