//! A configuration that was checked, as the daemon relies on it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;
use rustix::fs::{Access, AtFlags};
use rustix::io::Errno;

use super::error::Error;
use super::file::{ConfigFile, GcRules, Public};
use crate::filesystem::Kind;
use crate::project::{
    self, Builder, Capability, ExtraHosts, LOG_LIMITS, LOG_LIMITS_WRITTEN, Limits, NameServers,
    ShmSize, Ulimits,
};

/// The network of builds where the configuration names none: the host's own, as the first mistry had it.
const DEFAULT_NETWORK: &str = "host";
/// Most builds in parallel, and most jobs waiting: beyond this it is a typing error.
const MAX_JOBS: u32 = 10_000;
/// Without `log_limit`, bytes.
const DEFAULT_LOG_LIMIT: u64 = 256 << 20;
/// Without `keep_attempts`.
const DEFAULT_KEPT_ATTEMPTS: u32 = 10;
/// Most attempts of a job: their records are read for a list of them.
const MAX_KEPT_ATTEMPTS: u32 = 1_000;
/// Without `limits.pids`: more than builds have that work, and fewer than a host runs out of.
const DEFAULT_PIDS: u64 = 4096;
/// Without `engine_wait`.
const DEFAULT_ENGINE_WAIT: Duration = Duration::from_secs(60);

/// Host path to container path.
type Mounts = BTreeMap<PathBuf, String>;

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
    /// Earlier executions of a job whose records and logs are kept.
    pub keep_attempts: u32,
    /// How long an accepted job waits for a Docker Engine that went away.
    pub engine_wait: Duration,
    /// Docker network mode of builds.
    pub network: String,
    /// What builds images, where the project does not say it.
    pub builder: Builder,
    /// Bounds of each build's container.
    pub limits: Limits,
    /// The size of its `/dev/shm`, where the project does not say it; the same of the next three.
    pub shm_size: Option<ShmSize>,
    /// Resource limits of its processes.
    pub ulimits: Option<Ulimits>,
    /// Its name servers.
    pub dns: Option<NameServers>,
    /// Additional lines of its `/etc/hosts`.
    pub extra_hosts: Option<ExtraHosts>,
    /// Image builds and containers get the proxies of this process's environment.
    pub host_proxies: bool,
    /// What projects may ask for in their `cap_add`.
    pub cap_add: BTreeSet<Capability>,
    /// What garbage collection may keep.
    pub gc: Option<GcRules>,
    /// How long the daemon may have nothing to do before it ends.
    pub idle_exit: Option<Duration>,
    /// The file of bearer tokens.
    pub auth_tokens_file: Option<PathBuf>,
    /// The file with the credentials of image registries, read at each image build.
    pub registry_auth: Option<PathBuf>,
    /// What needs no token.
    pub public: Public,
    /// Names under which clients may address the server, besides the host's own.
    pub hosts: Vec<String>,
    /// Networks of proxies that may name the client that they ask for.
    pub trusted_proxies: Vec<IpNet>,
}

impl Config {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// One line that names the file, the key and what was expected.
    pub fn read(path: &Path) -> Result<Config, Error> {
        let failed = |source| Error::Read {
            path: path.to_owned(),
            source,
        };
        let text = std::fs::read_to_string(path).map_err(failed)?;
        let file: ConfigFile = project::read_json(&text).map_err(|what| Error::Parse {
            path: path.to_owned(),
            what: with_address_option(what),
        })?;
        let absolute = std::path::absolute(path).map_err(failed)?;
        file.check(absolute).map_err(|wrong| Error::Value {
            path: path.to_owned(),
            key: wrong.key,
            expected: wrong.expected,
        })
    }
}

/// A sentence about an unknown key, and where the address is given, if it is that key.
fn with_address_option(what: String) -> String {
    let is_address = ["address", "addr", "listen", "port"]
        .iter()
        .any(|key| what.contains(&format!("unknown field `{key}`")));
    match is_address {
        true => format!("{what}; the address is given by --addr, or by the socket unit"),
        false => what,
    }
}

impl ConfigFile {
    /// Checks each key; `path` is where the file is, absolute.
    fn check(self, path: PathBuf) -> Result<Config, InvalidKey> {
        // Relative paths are relative to the file, and absolute from here on: Docker wants that.
        let home = path.parent().unwrap_or(Path::new("/"));
        let projects_path = directory("projects_path", home.join(&self.projects_path), Use::Read)?;
        let build_path = directory("build_path", home.join(&self.build_path), Use::Write)?;
        if build_path == projects_path {
            // Every build would change its project.
            return invalid(
                "build_path",
                "expected another directory than projects_path",
            );
        }
        let available = || std::thread::available_parallelism().map_or(1, usize::from);
        let job_concurrency = jobs("job_concurrency", self.job_concurrency, available)?;
        let job_backlog = jobs("job_backlog", self.job_backlog, || 2 * job_concurrency)?;
        let log_limit = self.log_limit.unwrap_or(DEFAULT_LOG_LIMIT);
        if !LOG_LIMITS.contains(&log_limit) {
            return invalid("log_limit", format!("expected {LOG_LIMITS_WRITTEN}"));
        }
        if self.network.as_deref() == Some("") {
            return invalid("network", "expected a text that is not empty");
        }
        let filesystem = match self.filesystem.as_deref() {
            None => Kind::Auto,
            Some(name) => name
                .parse()
                .or_else(|error| invalid("filesystem", format!("{error}")))?,
        };
        Ok(Config {
            projects_path,
            build_path,
            mounts: mounts(self.mounts, home)?,
            job_concurrency,
            job_backlog,
            filesystem,
            job_timeout: self.job_timeout,
            silence_timeout: self.silence_timeout,
            log_limit,
            keep_attempts: kept_attempts(self.keep_attempts)?,
            engine_wait: self.engine_wait.unwrap_or(DEFAULT_ENGINE_WAIT),
            network: self.network.unwrap_or_else(|| DEFAULT_NETWORK.to_owned()),
            builder: self.builder.unwrap_or_default(),
            limits: limits(self.limits)?,
            shm_size: self.shm_size,
            ulimits: self.ulimits,
            dns: self.dns,
            extra_hosts: self.extra_hosts,
            host_proxies: self.host_proxies,
            cap_add: self.cap_add,
            gc: self.gc,
            idle_exit: self.idle_exit,
            auth_tokens_file: tokens_file(self.auth_tokens_file, home)?,
            registry_auth: self.registry_auth.map(|file| home.join(file)),
            public: self.public.unwrap_or_default(),
            hosts: hosts(self.hosts)?,
            trusted_proxies: trusted_proxies(&self.trusted_proxies)?,
            path,
        })
    }
}

/// A key that is wrong, and what was expected of it.
struct InvalidKey {
    key: &'static str,
    expected: String,
}

fn invalid<T>(key: &'static str, expected: impl Into<String>) -> Result<T, InvalidKey> {
    let expected = expected.into();
    Err(InvalidKey { key, expected })
}

/// What the daemon does with a directory.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Use {
    Read,
    Write,
}

/// A directory that is there and can be used, by its real path.
fn directory(key: &'static str, place: PathBuf, usage: Use) -> Result<PathBuf, InvalidKey> {
    let shown = place.display();
    let found = match std::fs::canonicalize(&place) {
        Ok(found) => found,
        Err(error) => {
            return invalid(key, format!("expected a directory at '{shown}': {error}"));
        }
    };
    if !found.is_dir() {
        return invalid(
            key,
            format!("expected a directory, but '{shown}' is not one"),
        );
    }
    let (access, what) = match usage {
        Use::Write => (Access::WRITE_OK, "written to"),
        Use::Read => (Access::READ_OK, "read"),
    };
    let access = access | Access::EXEC_OK;
    match rustix::fs::accessat(rustix::fs::CWD, &found, access, AtFlags::EACCESS) {
        Ok(()) => Ok(found),
        Err(error) => {
            let hint = match error {
                Errno::ROFS => {
                    "; a service may be kept out by its sandbox: see ReadWritePaths= in mistryd(8)"
                }
                Errno::ACCESS => "; run it as root (sudo), or as the daemon's user",
                _ => "",
            };
            invalid(key, format!("'{shown}' cannot be {what}: {error}{hint}"))
        }
    }
}

/// A number of jobs; 0 stands for the default.
fn jobs(key: &'static str, number: u32, default: impl Fn() -> usize) -> Result<usize, InvalidKey> {
    match number {
        0 => Ok(default()),
        number if number > MAX_JOBS => {
            invalid(key, format!("expected at most {MAX_JOBS}, found {number}"))
        }
        number => Ok(number as usize),
    }
}

fn kept_attempts(given: Option<u32>) -> Result<u32, InvalidKey> {
    match given.unwrap_or(DEFAULT_KEPT_ATTEMPTS) {
        number if number > MAX_KEPT_ATTEMPTS => {
            let expected = format!("expected at most {MAX_KEPT_ATTEMPTS}, found {number}");
            invalid("keep_attempts", expected)
        }
        number => Ok(number),
    }
}

fn limits(given: Option<Limits>) -> Result<Limits, InvalidKey> {
    let mut limits = given.unwrap_or_default();
    limits
        .check()
        .or_else(|expected| invalid("limits", without("limits.", &expected)))?;
    limits.pids.get_or_insert(DEFAULT_PIDS);
    Ok(limits)
}

fn mounts(given: Mounts, home: &Path) -> Result<Mounts, InvalidKey> {
    let mounts = project::resolve_mounts(given, home)
        .or_else(|expected| invalid("mounts", without("mounts: ", &expected)))?;
    match mounts.keys().find(|host| !host.exists()) {
        None => Ok(mounts),
        Some(host) => {
            let shown = host.display();
            invalid(
                "mounts",
                format!("expected an existing path on this host, but '{shown}' does not exist"),
            )
        }
    }
}

fn tokens_file(given: Option<PathBuf>, home: &Path) -> Result<Option<PathBuf>, InvalidKey> {
    let file = given.map(|file| home.join(file));
    if let Some(file) = &file
        && let Err(error) = std::fs::metadata(file)
    {
        let shown = file.display();
        return invalid(
            "auth_tokens_file",
            format!("expected a file at '{shown}': {error}"),
        );
    }
    Ok(file)
}

fn hosts(given: Vec<String>) -> Result<Vec<String>, InvalidKey> {
    match given.iter().find(|host| !is_host(host)) {
        None => Ok(given),
        Some(host) => invalid(
            "hosts",
            format!("expected host names without port, found '{host}'"),
        ),
    }
}

fn trusted_proxies(given: &[String]) -> Result<Vec<IpNet>, InvalidKey> {
    let proxies: Result<_, String> = given.iter().map(|proxy| network(proxy)).collect();
    proxies.or_else(|expected| invalid("trusted_proxies", expected))
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
            "expected a network whose bits after the prefix are zero, such as {whole}, found '{text}'"
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

    /// A key and a value that it must not have.
    const WRONG: &[(&str, &str)] = &[
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
        ("keep_attempts", "1001"),
        ("keep_attempts", r#""many""#),
        ("log_limit", r#""big""#),
        ("engine_wait", "true"),
        ("network", r#""""#),
        ("builder", r#""buildx""#),
        ("limits", r#"{"memory":"1K"}"#),
        ("limits", r#"{"cpu":1}"#),
        ("limits", r#"{"pids":0}"#),
        ("shm_size", r#""4K-""#),
        ("shm_size", "1"),
        ("ulimits", r#"{"nofile":{"soft":2,"hard":1}}"#),
        ("ulimits", r#"{"files":1}"#),
        ("dns", r#"["localhost"]"#),
        ("extra_hosts", r#"["db"]"#),
        ("host_proxies", r#""yes""#),
        ("cap_add", r#"["SYS_ADMIN"]"#),
        ("cap_add", r#""MKNOD""#),
        ("gc", r#"{"max_age":"old"}"#),
        ("gc", r#"{"colour":1}"#),
        ("idle_exit", r#""never""#),
        ("auth_tokens_file", r#""nowhere""#),
        ("registry_auth", "{}"),
        ("public", r#""all""#),
        ("hosts", r#"["a:1"]"#),
        ("hosts", r#""a""#),
        ("trusted_proxies", r#""::1""#),
        ("trusted_proxies", r#"["proxy.example"]"#),
        ("trusted_proxies", r#"["::1", "10.0.0.0/33"]"#),
        ("trusted_proxies", r#"["10.1.2.3/8"]"#),
    ];

    #[test]
    fn each_key_with_a_wrong_value_is_named() {
        for &(key, value) in WRONG {
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

    #[test]
    fn an_unknown_key_is_answered_with_the_one_that_was_meant() {
        let slip = read(r#"{"projcts_path":"p","build_path":"b"}"#).unwrap_err();
        assert!(slip.contains("; did you mean 'projects_path'?"), "{slip}");
        let address = read(r#"{"address":"0.0.0.0:1"}"#).unwrap_err();
        let said = "; the address is given by --addr, or by the socket unit";
        assert!(address.ends_with(said), "{address}");
    }
}
