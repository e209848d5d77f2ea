//! The configuration: what the file may say, and what the daemon may rely on.
//!
//! [`Config::read`] turns the one into the other or says in one line which key of which file
//! is wrong and what was expected. A [`Config`] need not be checked again.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;
use serde::Deserialize;

use crate::filesystem::Kind;
use crate::project::{self, Capability, LOG_LIMITS, LOG_LIMITS_WRITTEN, Limits};

/// Most builds in parallel, and most jobs waiting: beyond this it is a typing error.
const MAX_JOBS: u32 = 10_000;
/// Without `log_limit`.
const DEFAULT_LOG_LIMIT: u64 = 256 << 20;
/// Without `limits.pids`: more than builds have that work, and fewer than a host runs out of.
const DEFAULT_PIDS: u64 = 4096;
/// Without `engine_wait`.
const DEFAULT_ENGINE_WAIT: Duration = Duration::from_secs(60);

/// What is wrong with a configuration: one line that names file, key and expectation.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read.
    #[error("could not read the configuration '{}'", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is no JSON, or a key is unknown or of the wrong type.
    #[error("the configuration '{}' is wrong: {what}", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// The key, what was expected of it, and where.
        what: String,
    },
    /// A key has a value that cannot be.
    #[error("the configuration '{}' is wrong: {key}: {expected}", path.display())]
    Value {
        /// The file.
        path: PathBuf,
        /// The key.
        key: &'static str,
        /// What was expected, and what was found.
        expected: String,
    },
}

/// `config.json` as it may be written; see `docs/operations.md` for each key.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ConfigFile {
    projects_path: PathBuf,
    build_path: PathBuf,
    #[serde(default)]
    mounts: BTreeMap<PathBuf, String>,
    #[serde(default)]
    job_concurrency: u32,
    #[serde(default)]
    job_backlog: u32,
    #[serde(default)]
    filesystem: Option<String>,
    #[serde(default, deserialize_with = "project::duration")]
    job_timeout: Option<Duration>,
    #[serde(default, deserialize_with = "project::duration")]
    silence_timeout: Option<Duration>,
    #[serde(default, deserialize_with = "project::size")]
    log_limit: Option<u64>,
    #[serde(default, deserialize_with = "project::duration")]
    engine_wait: Option<Duration>,
    #[serde(default)]
    network: Option<String>,
    #[serde(default)]
    limits: Option<Limits>,
    #[serde(default)]
    cap_add: BTreeSet<Capability>,
    #[serde(default)]
    gc: Option<Collection>,
    #[serde(default, deserialize_with = "project::duration")]
    idle_exit: Option<Duration>,
    #[serde(default)]
    auth_tokens_file: Option<PathBuf>,
    #[serde(default)]
    public: Option<Public>,
    #[serde(default)]
    hosts: Vec<String>,
    #[serde(default)]
    trusted_proxies: Vec<String>,
}

/// What garbage collection may keep; nothing is collected without it.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Collection {
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

/// A configuration that was checked: everything is there, paths are absolute and exist.
#[derive(Clone, Debug)]
pub struct Config {
    /// The file it was read from.
    pub path: PathBuf,
    /// Where project folders are.
    pub projects_path: PathBuf,
    /// The root under which builds are placed.
    pub build_path: PathBuf,
    /// Host path to container path, for every build.
    pub mounts: BTreeMap<PathBuf, String>,
    /// Builds that may run in parallel, at least 1.
    pub job_concurrency: usize,
    /// Jobs that may wait for a slot, at least 1.
    pub job_backlog: usize,
    /// Which filesystem to use.
    pub filesystem: Kind,
    /// How long a build may run.
    pub job_timeout: Option<Duration>,
    /// How long a build may print nothing.
    pub silence_timeout: Option<Duration>,
    /// Bytes that a build may print.
    pub log_limit: u64,
    /// How long an accepted job waits for a Docker Engine that went away.
    pub engine_wait: Duration,
    /// Docker network mode of builds.
    pub network: String,
    /// Bounds of each build's container.
    pub limits: Limits,
    /// What projects may ask for in their `cap_add`.
    pub cap_add: BTreeSet<Capability>,
    /// What garbage collection may keep.
    pub gc: Option<Collection>,
    /// When to exit for want of work.
    pub idle_exit: Option<Duration>,
    /// The file of bearer tokens.
    pub auth_tokens_file: Option<PathBuf>,
    /// What needs no token.
    pub public: Public,
    /// Names under which clients may address the server, besides the host's own.
    pub hosts: Vec<String>,
    /// Networks of proxies that are believed about whom they ask for.
    pub trusted_proxies: Vec<IpNet>,
}

impl Config {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// One line that names the file, the key and what was expected.
    pub fn read(path: &Path) -> Result<Config, Error> {
        let text = std::fs::read_to_string(path).map_err(|source| Error::Read {
            path: path.to_owned(),
            source,
        })?;
        let file: ConfigFile = project::read_json(&text).map_err(|what| Error::Parse {
            path: path.to_owned(),
            what,
        })?;
        file.check(path)
    }
}

impl ConfigFile {
    fn check(self, path: &Path) -> Result<Config, Error> {
        let wrong = |key: &'static str, expected: String| Error::Value {
            path: path.to_owned(),
            key,
            expected,
        };
        // Relative paths are relative to the file, and absolute from here on: Docker wants that.
        let path = std::path::absolute(path).map_err(|source| Error::Read {
            path: path.to_owned(),
            source,
        })?;
        let home = path.parent().unwrap_or(Path::new("/"));
        let directory = |key, given: &Path, write: bool| -> Result<PathBuf, Error> {
            let place = home.join(given);
            let shown = place.display();
            let found = std::fs::canonicalize(&place).map_err(|error| {
                wrong(key, format!("expected a directory at '{shown}': {error}"))
            })?;
            if !found.is_dir() {
                return Err(wrong(
                    key,
                    format!("expected a directory, '{shown}' is none"),
                ));
            }
            let (access, what) = if write {
                (rustix::fs::Access::WRITE_OK, "written to")
            } else {
                (rustix::fs::Access::READ_OK, "read")
            };
            let flags = rustix::fs::AtFlags::EACCESS;
            rustix::fs::accessat(
                rustix::fs::CWD,
                &found,
                access | rustix::fs::Access::EXEC_OK,
                flags,
            )
            .map_err(|error| {
                let hint = match error {
                    rustix::io::Errno::ROFS => {
                        "; a service may be kept out by its sandbox: see ReadWritePaths= in mistryd(8)"
                    }
                    rustix::io::Errno::ACCESS => "; run it as root (sudo), or as the daemon's user",
                    _ => "",
                };
                wrong(key, format!("'{shown}' cannot be {what}: {error}{hint}"))
            })?;
            Ok(found)
        };
        let projects_path = directory("projects_path", &self.projects_path, false)?;
        let build_path = directory("build_path", &self.build_path, true)?;
        if build_path == projects_path {
            // Every build would change its project.
            let expected = "expected another directory than projects_path";
            return Err(wrong("build_path", expected.to_owned()));
        }
        for (key, number) in [
            ("job_concurrency", self.job_concurrency),
            ("job_backlog", self.job_backlog),
        ] {
            if number > MAX_JOBS {
                return Err(wrong(
                    key,
                    format!("expected at most {MAX_JOBS}, found {number}"),
                ));
            }
        }
        let job_concurrency = match self.job_concurrency {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            number => number as usize,
        };
        let job_backlog = match self.job_backlog {
            0 => 2 * job_concurrency,
            number => number as usize,
        };
        let log_limit = self.log_limit.unwrap_or(DEFAULT_LOG_LIMIT);
        if !LOG_LIMITS.contains(&log_limit) {
            let expected = format!("expected {LOG_LIMITS_WRITTEN}");
            return Err(wrong("log_limit", expected));
        }
        let mut limits = self.limits.unwrap_or_default();
        limits
            .check()
            .map_err(|expected| wrong("limits", without("limits.", &expected)))?;
        limits.pids.get_or_insert(DEFAULT_PIDS);
        if self.network.as_deref() == Some("") {
            return Err(wrong(
                "network",
                "expected a text that is not empty".to_owned(),
            ));
        }
        let filesystem = match self.filesystem.as_deref() {
            None => Kind::Auto,
            Some(name) => name
                .parse()
                .map_err(|error| wrong("filesystem", format!("{error}")))?,
        };
        let mounts = project::resolve_mounts(self.mounts, home)
            .map_err(|expected| wrong("mounts", without("mounts: ", &expected)))?;
        if let Some(host) = mounts.keys().find(|host| !host.exists()) {
            let shown = host.display();
            return Err(wrong(
                "mounts",
                format!("expected a path on this host, '{shown}' is none"),
            ));
        }
        if let Some(host) = self.hosts.iter().find(|host| !is_host(host)) {
            return Err(wrong(
                "hosts",
                format!("expected host names without port, found '{host}'"),
            ));
        }
        let mut trusted_proxies = Vec::with_capacity(self.trusted_proxies.len());
        for proxy in &self.trusted_proxies {
            let network = network(proxy).map_err(|expected| wrong("trusted_proxies", expected))?;
            trusted_proxies.push(network);
        }
        let auth_tokens_file = self.auth_tokens_file.map(|file| home.join(file));
        if let Some(file) = &auth_tokens_file
            && let Err(error) = std::fs::metadata(file)
        {
            let shown = file.display();
            return Err(wrong(
                "auth_tokens_file",
                format!("expected a file at '{shown}': {error}"),
            ));
        }
        Ok(Config {
            projects_path,
            build_path,
            mounts,
            job_concurrency,
            job_backlog,
            filesystem,
            job_timeout: self.job_timeout,
            silence_timeout: self.silence_timeout,
            log_limit,
            engine_wait: self.engine_wait.unwrap_or(DEFAULT_ENGINE_WAIT),
            network: self.network.unwrap_or_else(|| "host".to_owned()),
            limits,
            cap_add: self.cap_add,
            gc: self.gc,
            idle_exit: self.idle_exit,
            auth_tokens_file,
            public: self.public.unwrap_or_default(),
            hosts: self.hosts,
            trusted_proxies,
            path,
        })
    }
}

/// What a project's settings name with its key is here told beneath that key.
fn without(key: &str, expected: &str) -> String {
    expected.strip_prefix(key).unwrap_or(expected).to_owned()
}

fn is_host(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 253
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b))
}

/// A network, or one address; else what was expected.
fn network(text: &str) -> Result<IpNet, String> {
    let address = text.parse::<IpAddr>().map(IpNet::from);
    let Ok(network) = address.or_else(|_| text.parse::<IpNet>()) else {
        return Err(format!(
            "expected addresses or networks such as 10.0.0.0/8 and ::1, found '{text}'"
        ));
    };
    // A bit after the prefix is a typing error on one of its sides.
    let whole = network.trunc();
    if network != whole {
        return Err(format!(
            "expected a network without bits after its prefix, such as {whole}, found '{text}'"
        ));
    }
    Ok(network)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Config, String> {
        let home = tempfile::tempdir().unwrap();
        for name in ["p", "b"] {
            std::fs::create_dir(home.path().join(name)).unwrap();
        }
        let path = home.path().join("config.json");
        std::fs::write(&path, text).unwrap();
        Config::read(&path).map_err(|error| error.to_string())
    }

    #[test]
    fn two_paths_are_enough() {
        let config = read(r#"{"projects_path":"p","build_path":"b"}"#).unwrap();
        assert!(config.build_path.is_absolute());
        assert_eq!(config.job_backlog, 2 * config.job_concurrency);
        assert_eq!(config.log_limit, 256 << 20);
        assert_eq!(config.network, "host");
        assert_eq!(config.limits.pids, Some(4096));
        assert!(config.cap_add.is_empty());
    }

    #[test]
    fn a_trusted_proxy_is_an_address_or_a_network() {
        let config = read(
            r#"{"projects_path":"p","build_path":"b","trusted_proxies":["127.0.0.1","2001:db8::/32"]}"#,
        );
        let written = config.unwrap().trusted_proxies;
        let written: Vec<String> = written.iter().map(ToString::to_string).collect();
        assert_eq!(written, ["127.0.0.1/32", "2001:db8::/32"]);
        let wrong = read(
            r#"{"projects_path":"p","build_path":"b","trusted_proxies":["::1","10.1.2.3/8"]}"#,
        );
        let wrong = wrong.unwrap_err();
        assert!(wrong.contains("10.0.0.0/8, found '10.1.2.3/8'"), "{wrong}");
    }

    #[test]
    fn each_key_wrong_in_turn_is_named() {
        for (key, value) in [
            ("projects_path", r#""nowhere""#),
            ("projects_path", "7"),
            ("build_path", r#""config.json""#),
            ("build_path", r#""p""#),
            ("mounts", r#"{"/nowhere/at/all":"/x"}"#),
            ("mounts", r#"{"/":"relative"}"#),
            ("mounts", "[]"),
            ("job_concurrency", "-1"),
            ("job_concurrency", "100000"),
            ("job_backlog", r#""many""#),
            ("filesystem", r#""zfs""#),
            ("job_timeout", r#""soon""#),
            ("job_timeout", r#""0s""#),
            ("silence_timeout", "5"),
            ("log_limit", "1"),
            ("log_limit", r#""big""#),
            ("engine_wait", "true"),
            ("network", r#""""#),
            ("limits", r#"{"memory":"1K"}"#),
            ("limits", r#"{"cpu":1}"#),
            ("limits", r#"{"pids":0}"#),
            ("cap_add", r#"["SYS_ADMIN"]"#),
            ("cap_add", r#""MKNOD""#),
            ("gc", r#"{"max_age":"old"}"#),
            ("gc", r#"{"colour":1}"#),
            ("idle_exit", r#""never""#),
            ("auth_tokens_file", r#""nowhere""#),
            ("public", r#""all""#),
            ("hosts", r#"["a:1"]"#),
            ("hosts", r#""a""#),
            ("trusted_proxies", r#""::1""#),
            ("trusted_proxies", r#"["proxy.example"]"#),
            ("trusted_proxies", r#"["::1", "10.0.0.0/33"]"#),
            ("trusted_proxies", r#"["10.1.2.3/8"]"#),
        ] {
            let mut keys = vec![("projects_path", r#""p""#), ("build_path", r#""b""#)];
            keys.retain(|(name, _)| *name != key);
            keys.push((key, value));
            let body: Vec<String> = keys.iter().map(|(k, v)| format!("\"{k}\": {v}")).collect();
            let text = format!("{{{}}}", body.join(","));
            let error = read(&text).expect_err(&format!("{key}: {value}"));
            let named = [": ", ".", "["].map(|after| error.contains(&format!("{key}{after}")));
            let named = named.contains(&true);
            assert!(
                named && error.contains("config.json"),
                "{key}: {value}: {error}"
            );
            assert!(!error.contains('\n'), "{error}");
        }
        let unknown = read(r#"{"projects_path":"p","build_path":"b","colour":1}"#).unwrap_err();
        assert!(
            unknown.contains("colour") && unknown.contains("log_limit"),
            "{unknown}"
        );
        let missing = read(r#"{"projects_path":"p"}"#).unwrap_err();
        assert!(missing.contains("build_path"), "{missing}");
    }
}
