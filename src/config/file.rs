//! `config.json` as it may be written: keys, their types, and nothing that is unknown.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use crate::project::{
    self, Builder, Capability, ExtraHosts, Limits, NameServers, ShmSize, Ulimits,
};

/// `config.json` as it may be written; see `docs/operations.md` for each key.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ConfigFile {
    pub(super) projects_path: PathBuf,
    pub(super) build_path: PathBuf,
    #[serde(default)]
    pub(super) mounts: BTreeMap<PathBuf, String>,
    #[serde(default)]
    pub(super) job_concurrency: u32,
    #[serde(default)]
    pub(super) job_backlog: u32,
    #[serde(default)]
    pub(super) filesystem: Option<String>,
    #[serde(default, deserialize_with = "project::duration")]
    pub(super) job_timeout: Option<Duration>,
    #[serde(default, deserialize_with = "project::duration")]
    pub(super) silence_timeout: Option<Duration>,
    #[serde(default, deserialize_with = "project::size")]
    pub(super) log_limit: Option<u64>,
    #[serde(default)]
    pub(super) keep_attempts: Option<u32>,
    #[serde(default, deserialize_with = "project::duration")]
    pub(super) engine_wait: Option<Duration>,
    #[serde(default)]
    pub(super) network: Option<String>,
    #[serde(default)]
    pub(super) builder: Option<Builder>,
    #[serde(default)]
    pub(super) limits: Option<Limits>,
    #[serde(default)]
    pub(super) shm_size: Option<ShmSize>,
    #[serde(default)]
    pub(super) ulimits: Option<Ulimits>,
    #[serde(default)]
    pub(super) dns: Option<NameServers>,
    #[serde(default)]
    pub(super) extra_hosts: Option<ExtraHosts>,
    #[serde(default)]
    pub(super) host_proxies: bool,
    #[serde(default)]
    pub(super) cap_add: BTreeSet<Capability>,
    #[serde(default)]
    pub(super) gc: Option<GcRules>,
    #[serde(default, deserialize_with = "project::duration")]
    pub(super) idle_exit: Option<Duration>,
    #[serde(default)]
    pub(super) auth_tokens_file: Option<PathBuf>,
    #[serde(default)]
    pub(super) registry_auth: Option<PathBuf>,
    #[serde(default)]
    pub(super) public: Option<Public>,
    #[serde(default)]
    pub(super) hosts: Vec<String>,
    #[serde(default)]
    pub(super) trusted_proxies: Vec<String>,
}

/// What garbage collection may keep; nothing is collected without it.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GcRules {
    /// Builds that were not used for that long go.
    #[serde(default, deserialize_with = "project::duration")]
    pub max_age: Option<Duration>,
    /// Bytes that all builds together may take.
    #[serde(default, deserialize_with = "project::size")]
    pub max_bytes: Option<u64>,
    /// Bytes that must stay free.
    #[serde(default, deserialize_with = "project::size")]
    pub min_free: Option<u64>,
    /// Builds of each project that stay, whatever the other rules say.
    #[serde(default)]
    pub keep_last: Option<u64>,
}

/// What is allowed over TCP without a token, where there is a tokens file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Public {
    /// To read.
    #[default]
    Read,
    /// Nothing but `/healthz`.
    None,
}
