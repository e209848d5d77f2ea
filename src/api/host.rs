//! The host: how it stands, and what of that is news.

use serde::{Deserialize, Serialize};

/// `GET /status`: the host and what is going on.
#[derive(Clone, Debug, Serialize, Deserialize)]
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
    /// The queue is paused: nothing new begins.
    pub paused: bool,
    /// Bytes left where builds are kept.
    pub disk_free: u64,
    /// Bytes there in all.
    pub disk_size: u64,
    /// `btrfs` or `plain`.
    pub filesystem: String,
    /// The Docker Engine's version; null when none answers.
    pub engine: Option<String>,
}

/// The `host` event of `GET /events`: what the host is doing.
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
    /// The queue is paused: nothing new begins.
    pub paused: bool,
    /// The Docker Engine did not answer when it was asked last.
    pub engine_away: bool,
}

/// The `gone` event of `GET /events`: a build that lists show no more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct NewsRemoved {
    /// The project's name.
    pub project: String,
    /// The job's id.
    #[serde(rename = "ID")]
    pub id: String,
}
