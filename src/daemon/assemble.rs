//! Creates the parts of the daemon from the configuration.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::error::Error;
use crate::build::BuildStore;
use crate::config::{self, Config, GcRules};
use crate::docker::{self, Docker};
use crate::metrics::Metrics;
use crate::policy::Policy;
use crate::project::Projects;
use crate::scheduler::{HostProxies, Scheduler, SchedulerConfig, registry_auth_warnings};
use crate::systemd;
use crate::web::{self, Access, Proxies, Scope, Token, TokensFile};

/// The variable with the Engine's address.
const DOCKER_HOST: &str = "DOCKER_HOST";
/// The credential with the tokens, if systemd keeps the file from us: `LoadCredential=` of mistryd.service.
const TOKENS_CREDENTIAL: &str = "tokens";

/// Creates the scheduler over a store, as configured.
pub(super) fn assemble(
    config: &Config,
    store: BuildStore,
    docker: &Path,
    metrics: Metrics,
) -> Result<Scheduler, Error> {
    let docker = Docker::new(docker)?;
    let projects = Projects::new(&config.projects_path);
    Ok(Scheduler::new(
        scheduler_config(config),
        projects,
        store,
        docker,
        metrics,
    ))
}

/// The scheduler's part of the configuration.
pub(super) fn scheduler_config(config: &Config) -> SchedulerConfig {
    SchedulerConfig {
        slots: config.job_concurrency,
        backlog: config.job_backlog,
        mounts: config.mounts.clone(),
        network: config.network.clone(),
        builder: config.builder,
        limits: config.limits.clone(),
        shm_size: config.shm_size,
        ulimits: config.ulimits.clone(),
        dns: config.dns.clone(),
        extra_hosts: config.extra_hosts.clone(),
        registry_auth: config.registry_auth.clone(),
        proxies: host_proxies(config),
        cap_add: config.cap_add.clone(),
        log_limit: config.log_limit,
        job_timeout: config.job_timeout,
        silence_timeout: config.silence_timeout,
        keep_attempts: config.keep_attempts,
        engine_wait: config.engine_wait,
        gc: config.gc.as_ref().map(policy),
    }
}

/// The proxies of this process's environment, and the names of those that are too long.
pub(super) fn proxies_of_environment() -> (HostProxies, Vec<String>) {
    HostProxies::of(|name| std::env::var(name).ok())
}

/// The proxies of this process's environment, if the configuration passes them on.
fn host_proxies(config: &Config) -> HostProxies {
    if !config.host_proxies {
        return HostProxies::default();
    }
    let (proxies, too_long) = proxies_of_environment();
    if !too_long.is_empty() {
        tracing::warn!(
            "host_proxies: values of more than 2,000 bytes are not passed to builds: {}",
            too_long.join(", ")
        );
    }
    proxies
}

/// The rules of access of the configuration.
pub(super) fn access(config: &Config, tokens: Option<Arc<TokensFile>>, secret: &str) -> Access {
    Access {
        hosts: hosts(config),
        tokens,
        public: match config.public {
            config::Public::Read => web::Public::Read,
            config::Public::None => web::Public::Nothing,
        },
        local: Some(Token::of("local", vec![Scope::Admin], secret)),
        proxies: Proxies::new(config.trusted_proxies.clone()),
    }
}

/// The tokens file, if one is configured; if it is not readable for us, the copy that systemd made before the
/// start.
pub(super) fn open_tokens(config: &Config) -> Result<Option<Arc<TokensFile>>, Error> {
    let Some(path) = &config.auth_tokens_file else {
        return Ok(None);
    };
    let opened = match (
        TokensFile::open(path),
        systemd::credential(TOKENS_CREDENTIAL),
    ) {
        (Err(error), Some(credential)) if error.is_closed() => {
            tracing::warn!(
                "mistryd may not read the tokens file: the copy that systemd read from /etc/mistry/tokens at the start is in force; changes need a restart"
            );
            TokensFile::open(&credential)
        }
        (opened, _) => opened,
    };
    Ok(Some(Arc::new(opened?)))
}

/// Warns in the journal about the file with the credentials of image registries. Blocks.
pub(super) fn warn_of_registry_auth(config: &Config) {
    if let Some(file) = &config.registry_auth {
        for warning in registry_auth_warnings(file) {
            tracing::warn!("{warning}");
        }
    }
}

/// The Engine's socket: from Docker's own variable, else the default.
pub(super) fn docker_socket() -> Result<PathBuf, Error> {
    match std::env::var(DOCKER_HOST) {
        Ok(host) => match host.strip_prefix("unix://") {
            Some(path) if path.starts_with('/') => Ok(PathBuf::from(path)),
            _ => Err(Error::DockerHost(host)),
        },
        Err(_) => Ok(Path::new(docker::DEFAULT_SOCKET).to_owned()),
    }
}

/// Names by which clients may address the server: the configured ones and this host's.
fn hosts(config: &Config) -> Vec<String> {
    let uname = rustix::system::uname();
    let own = uname.nodename().to_string_lossy().to_ascii_lowercase();
    let mut hosts: Vec<String> = config
        .hosts
        .iter()
        .map(|host| host.to_ascii_lowercase())
        .collect();
    if let Some((short, _)) = own.split_once('.') {
        hosts.push(short.to_owned());
    }
    hosts.push(own);
    hosts
}

/// Converts the rules of the configuration for the scheduler.
pub(super) fn policy(configured: &GcRules) -> Policy {
    Policy {
        max_age: configured.max_age,
        max_bytes: configured.max_bytes,
        min_free: configured.min_free,
        keep_last: configured.keep_last,
    }
}
