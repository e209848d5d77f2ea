//! The scheduler's part of the configuration.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use super::host_proxies::HostProxies;
use crate::policy::Policy;
use crate::project::{Builder, Capability, ExtraHosts, Limits, NameServers, ShmSize, Ulimits};

/// The scheduler's part of the configuration.
#[derive(Clone, Debug)]
pub struct SchedulerConfig {
    /// Builds that may run in parallel.
    pub slots: usize,
    /// Jobs that may wait for a slot.
    pub backlog: usize,
    /// Host path to container path, for every build.
    pub mounts: BTreeMap<PathBuf, String>,
    /// Docker network mode.
    pub network: String,
    /// What builds images.
    pub builder: Builder,
    /// Bounds of each container.
    pub limits: Limits,
    /// The size of its `/dev/shm`.
    pub shm_size: Option<ShmSize>,
    /// Resource limits of its processes.
    pub ulimits: Option<Ulimits>,
    /// Its name servers.
    pub dns: Option<NameServers>,
    /// Additional lines of its `/etc/hosts`.
    pub extra_hosts: Option<ExtraHosts>,
    /// The file with the credentials of image registries.
    pub registry_auth: Option<PathBuf>,
    /// Proxies for image builds and containers.
    pub proxies: HostProxies,
    /// Capabilities that projects may request in their `cap_add`.
    pub cap_add: BTreeSet<Capability>,
    /// Bytes that a build may print.
    pub log_limit: u64,
    /// How long a build may run.
    pub job_timeout: Option<Duration>,
    /// How long a build may print nothing.
    pub silence_timeout: Option<Duration>,
    /// Earlier attempts of a job whose records and logs are kept.
    pub keep_attempts: u32,
    /// How long an accepted job waits for an Engine that went away.
    pub engine_wait: Duration,
    /// The rules of garbage collection; without them it never runs automatically.
    pub gc: Option<Policy>,
}
