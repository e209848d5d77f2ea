//! The host: its status, and events about it.

use serde::{Deserialize, Serialize};

/// `GET /status`: the host and its activity.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "PascalCase")]
pub struct HostView {
    /// The server's version.
    pub version: String,
    /// Builds that may run in parallel.
    pub slots: usize,
    /// Builds that hold a slot.
    pub running: usize,
    /// Jobs that may wait for a slot.
    pub backlog: usize,
    /// Jobs that wait.
    pub queued: usize,
    /// The queue is paused: no new build starts.
    pub paused: bool,
    /// Free bytes where builds are stored.
    pub disk_free: u64,
    /// Total bytes there.
    pub disk_size: u64,
    /// `btrfs` or `plain`.
    #[cfg_attr(test, schemars(extend("enum" = ["btrfs", "plain"])))]
    pub filesystem: String,
    /// The Docker Engine's version; null when it does not answer.
    pub engine: Option<String>,
}

/// The `host` event of `GET /events`: the activity of the host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct NewsHost {
    /// Builds that may run in parallel.
    pub slots: usize,
    /// Builds that hold a slot.
    pub running: usize,
    /// Jobs that may wait for a slot.
    pub backlog: usize,
    /// Jobs that wait.
    pub queued: usize,
    /// The queue is paused: no new build starts.
    pub paused: bool,
    /// The Docker Engine did not answer the last query.
    pub engine_away: bool,
}

/// The `gone` event of `GET /events`: a build that was removed from lists.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct NewsRemoved {
    /// The project's name.
    pub project: String,
    /// The job's id.
    #[serde(rename = "ID")]
    pub id: String,
}
