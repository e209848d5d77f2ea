//! `mistry.json`: the settings of one project that differ from the host's.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, de};

use super::container_options::{ExtraHosts, NameServers, ShmSize, Ulimits};
use super::environment::Environment;
use super::image_options::{BuildArgs, TargetStage};
use super::param_schema::ParamSchema;
use super::similar::did_you_mean;
use super::units::{duration, size};

/// A larger log fills disks; below the lower limit a build cannot print anything useful.
pub(crate) const LOG_LIMITS: RangeInclusive<u64> = (4 << 10)..=(64 << 30);
/// The same as text.
pub(crate) const LOG_LIMITS_WRITTEN: &str = "4K to 64G";

/// An error in a settings file: the key and the expected value.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct SettingsError(String);

/// What root in an unprivileged container may do and builds may not, unless their project requests it and the
/// configuration allows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Capability {
    /// Write records of the kernel's audit log.
    AuditWrite,
    /// Create device nodes.
    Mknod,
    /// Use raw and packet sockets.
    NetRaw,
    /// Set capabilities of files.
    Setfcap,
}

impl Capability {
    /// All of them.
    pub const ALL: [Capability; 4] = [
        Capability::AuditWrite,
        Capability::Mknod,
        Capability::NetRaw,
        Capability::Setfcap,
    ];

    /// Its name in settings, and in Docker.
    pub fn as_str(self) -> &'static str {
        match self {
            Capability::AuditWrite => "AUDIT_WRITE",
            Capability::Mknod => "MKNOD",
            Capability::NetRaw => "NET_RAW",
            Capability::Setfcap => "SETFCAP",
        }
    }
}

/// What builds the image of a project.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Builder {
    /// BuildKit if the Dockerfile needs it, else the classic builder.
    #[default]
    Auto,
    /// The classic builder.
    Classic,
    /// BuildKit.
    BuildKit,
}

/// The kernel's maximum: `PID_MAX_LIMIT`.
const MAX_PIDS: u64 = 4 << 20;

/// Limits on the resources of one container; `None` is unlimited.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Bytes of memory.
    #[serde(default, deserialize_with = "size")]
    pub memory: Option<u64>,
    /// Processors, in fractions.
    #[serde(default)]
    pub cpus: Option<f64>,
    /// Processes and threads.
    #[serde(default)]
    pub pids: Option<u64>,
}

impl Limits {
    /// Returns the first invalid limit as an error.
    pub fn check(&self) -> Result<(), String> {
        if self.cpus.is_some_and(|c| !(c.is_finite() && c > 0.0)) {
            return Err("limits.cpus: expected a number above 0".to_owned());
        }
        if self
            .pids
            .is_some_and(|pids| !(1..=MAX_PIDS).contains(&pids))
        {
            return Err(format!("limits.pids: expected 1 to {MAX_PIDS}"));
        }
        // Docker's own minimum.
        if self.memory.is_some_and(|m| m < 6 << 20) {
            return Err("limits.memory: expected at least 6M".to_owned());
        }
        Ok(())
    }
}

/// What a build of a group has in `/data/artifacts` when it starts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ArtifactsStart {
    /// What its base left there.
    #[default]
    Kept,
    /// Nothing, so that the result does not depend on earlier builds.
    Fresh,
}

/// A project's own settings; each overrides the daemon's.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// The maximum duration of a build.
    #[serde(default, deserialize_with = "duration")]
    pub job_timeout: Option<Duration>,
    /// The maximum time without output.
    #[serde(default, deserialize_with = "duration")]
    pub silence_timeout: Option<Duration>,
    /// Maximum bytes of output.
    #[serde(default, deserialize_with = "size")]
    pub log_limit: Option<u64>,
    /// Docker network mode.
    #[serde(default)]
    pub network: Option<String>,
    /// What builds the image.
    #[serde(default)]
    pub builder: Option<Builder>,
    /// Values for the `ARG`s of the Dockerfile.
    #[serde(default)]
    pub build_args: BuildArgs,
    /// The stage of the Dockerfile that is built; without it, the last.
    #[serde(default)]
    pub target: Option<TargetStage>,
    /// Limits of the container.
    #[serde(default)]
    pub limits: Option<Limits>,
    /// Variables of the container.
    #[serde(default)]
    pub env: Environment,
    /// The size of the container's `/dev/shm`.
    #[serde(default)]
    pub shm_size: Option<ShmSize>,
    /// Whether the Engine's own init is the first process of the container.
    #[serde(default)]
    pub init: bool,
    /// Resource limits of the container's processes.
    #[serde(default)]
    pub ulimits: Option<Ulimits>,
    /// Name servers of the container.
    #[serde(default)]
    pub dns: Option<NameServers>,
    /// Additional lines of the container's `/etc/hosts`.
    #[serde(default)]
    pub extra_hosts: Option<ExtraHosts>,
    /// Host path to container path, in addition to the daemon's mounts.
    #[serde(default)]
    pub mounts: BTreeMap<PathBuf, String>,
    /// `uid` or `uid:gid`, in numbers.
    #[serde(default)]
    pub user: Option<String>,
    /// Additional capabilities of builds that run as root.
    #[serde(default)]
    pub cap_add: BTreeSet<Capability>,
    /// The params that it takes; without it, any.
    #[serde(default)]
    pub params: Option<ParamSchema>,
    /// The ids of build secrets: the value of `id` is the param `_id`.
    #[serde(default)]
    pub secrets: BTreeSet<String>,
    /// The param `_ssh` is the private key that the build of the image may use for ssh.
    #[serde(default)]
    pub ssh: Option<String>,
    /// What is in `/data/artifacts` at the start of a build of a group.
    #[serde(default)]
    pub artifacts: ArtifactsStart,
}

impl Settings {
    /// Parses a `mistry.json` of the project at `home`; mounts are relative to that.
    ///
    /// # Errors
    /// One line that names the key and what was expected.
    pub fn parse(text: &[u8], home: &Path) -> Result<Settings, SettingsError> {
        let text = std::str::from_utf8(text)
            .map_err(|error| SettingsError(format!("expected UTF-8: {error}")))?;
        let mut settings: Settings = read_json(text).map_err(SettingsError)?;
        if let Some(limits) = &settings.limits {
            limits.check().map_err(SettingsError)?;
        }
        if settings.user.as_deref().is_some_and(|user| !is_user(user)) {
            // A name has a meaning in the image only, and `/data` must be made writable here.
            let expected = "user: expected uid or uid:gid in numbers, such as 1000:1000";
            return Err(SettingsError(expected.to_owned()));
        }
        if let Some(params) = &settings.params {
            params.check_rules().map_err(SettingsError)?;
        }
        let params = settings.params.as_ref();
        settings.env.check(params).map_err(SettingsError)?;
        settings.check_secrets().map_err(SettingsError)?;
        let log_limit = settings.log_limit.unwrap_or(*LOG_LIMITS.start());
        if !LOG_LIMITS.contains(&log_limit) {
            let expected = format!("log_limit: expected {LOG_LIMITS_WRITTEN}");
            return Err(SettingsError(expected));
        }
        if settings.network.as_deref() == Some("") {
            let expected = "network: expected a text that is not empty";
            return Err(SettingsError(expected.to_owned()));
        }
        settings.mounts = resolve_mounts(settings.mounts, home).map_err(SettingsError)?;
        Ok(settings)
    }

    /// Checks `cap_add` against what the configuration allows, for a build of user `uid`.
    ///
    /// # Errors
    /// One line that names the key, the requested value and the allowed ones.
    pub fn check_capabilities(
        &self,
        allowed: &BTreeSet<Capability>,
        uid: u32,
    ) -> Result<(), SettingsError> {
        let Some(first) = self.cap_add.first() else {
            return Ok(());
        };
        if let Some(capability) = self.cap_add.difference(allowed).next() {
            let names: Vec<&str> = allowed.iter().map(|one| one.as_str()).collect();
            let allowed = match names.is_empty() {
                true => "nothing".to_owned(),
                false => names.join(", "),
            };
            return Err(SettingsError(format!(
                "cap_add: expected what 'cap_add' in the daemon's config.json allows ({allowed}), found {}",
                capability.as_str()
            )));
        }
        if uid != 0 {
            return Err(SettingsError(format!(
                "cap_add: expected a build of root (\"user\": \"0\"), since user {uid} has no capabilities, found {}",
                first.as_str()
            )));
        }
        Ok(())
    }
}

fn is_user(user: &str) -> bool {
    let (uid, gid) = user.split_once(':').unwrap_or((user, "0"));
    [uid, gid].iter().all(|id| {
        // Rust accepts a sign in a number, Docker does not.
        id.bytes().all(|digit| digit.is_ascii_digit()) && id.parse::<u32>().is_ok()
    })
}

/// Parses JSON; an error names the key, what was expected, and the line.
pub(crate) fn read_json<T: de::DeserializeOwned>(text: &str) -> Result<T, String> {
    // A JSON list would be read as the keys' values in source order.
    if !text.trim_start().starts_with('{') {
        return Err("expected an object: { \"key\": value, … }".to_owned());
    }
    let mut input = serde_json::Deserializer::from_str(text);
    let value = serde_path_to_error::deserialize(&mut input).map_err(|error| {
        let (path, mut what) = (error.path().to_string(), error.inner().to_string());
        if let Some(meant) = meant_key(&what) {
            what = format!("{what}; {meant}");
        }
        match path.as_str() {
            "." | "?" => what,
            key => format!("{key}: {what}"),
        }
    })?;
    input.end().map_err(|error| error.to_string())?;
    Ok(value)
}

/// The question which key was meant, from the sentence of serde about a key that is unknown: it names that key
/// and then the known ones, all between backticks.
fn meant_key(sentence: &str) -> Option<String> {
    let rest = sentence.strip_prefix("unknown field `")?;
    let (unknown, known) = rest.split_once("`, expected ")?;
    did_you_mean(unknown, known.split('`').skip(1).step_by(2))
}

/// Makes host paths absolute (relative to `home`) and checks that container paths are.
pub(crate) fn resolve_mounts(
    mounts: BTreeMap<PathBuf, String>,
    home: &Path,
) -> Result<BTreeMap<PathBuf, String>, String> {
    mounts
        .into_iter()
        .map(|(host, inside)| {
            let shadows_data = inside == "/data" || inside.starts_with("/data/");
            if !inside.starts_with('/') || inside == "/" || shadows_data {
                return Err(format!(
                    "mounts: '{inside}': expected an absolute path in the container that is neither / nor under /data"
                ));
            }
            Ok((home.join(host), inside))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_settings_file_is_named_by_its_key() {
        let home = Path::new("/p");
        for (text, key) in [
            (r#"{"usr":"x"}"#, "usr"),
            (r#"{"job_timeout":"soon"}"#, "job_timeout: "),
            (r#"{"limits":{"memory":"lots"}}"#, "limits.memory: "),
            (r#"{"limits":{"cpus":0}}"#, "limits.cpus"),
            (r#"{"limits":{"pids":0}}"#, "limits.pids: "),
            (r#"{"limits":{"pids":4194305}}"#, "limits.pids: "),
            (r#"{"cap_add":"MKNOD"}"#, "cap_add: "),
            (r#"{"mounts":{"/x":"rel"}}"#, "mounts"),
            (r#"{"mounts":{"/x":"/data/params"}}"#, "mounts"),
            (r#"{"user":""}"#, "user"),
            (r#"{"user":"+1"}"#, "user"),
            (r#"{"user":"1:+1"}"#, "user"),
            (r#"{"log_limit":"1K"}"#, "log_limit: "),
            (r#"{"params":{"a":{"secret":true}}}"#, "params.a.secret: "),
            (r#"{"build_args":{"uid":"0"}}"#, "build_args: 'uid'"),
            (r#"{"target":""}"#, "target: "),
            (r#"{"env":{"A":"$x"}}"#, "env: A: "),
            (r#"{"env":["A=x"]}"#, "env: "),
            (r#"{"env":{"A":"${b}"},"params":{}}"#, "env.A: param 'b' "),
            (
                r#"{"env":{"A":"${b}"},"params":{"b":{}}}"#,
                "env.A: param 'b' ",
            ),
            (r#"{"shm_size":0}"#, "shm_size: "),
            (r#"{"init":1}"#, "init: "),
            (r#"{"ulimits":{"nofile":-2}}"#, "ulimits: nofile: "),
            (r#"{"ulimits":{"nofile":"x"}}"#, "ulimits.nofile: "),
            (r#"{"dns":["x"]}"#, "dns: "),
            (r#"{"extra_hosts":["x"]}"#, "extra_hosts: "),
            (r#"{"secrets":"a"}"#, "secrets: "),
            (r#"{"secrets":["a,b"]}"#, "secrets: expected 1 to 127 of"),
            (r#"{"secrets":[""]}"#, "secrets: expected 1 to 127 of"),
            (r#"{"ssh":"a b"}"#, "ssh: expected 1 to 127 of"),
            (
                r#"{"secrets":["a"],"builder":"classic"}"#,
                "builder: expected \"auto\" or \"buildkit\", since only BuildKit can use the param _a",
            ),
            (
                r#"{"secrets":["a"],"params":{"_a":{"secret":false}}}"#,
                "params._a.secret: ",
            ),
        ] {
            let error = Settings::parse(text.as_bytes(), home)
                .unwrap_err()
                .to_string();
            assert!(error.contains(key), "{text}: {error}");
        }
    }

    #[test]
    fn root_gets_a_capability_that_the_configuration_allows() {
        let parse = |text: &str| Settings::parse(text.as_bytes(), Path::new("/p"));
        let settings = parse(r#"{"cap_add":["MKNOD","NET_RAW","MKNOD"]}"#).unwrap();
        let allowed = BTreeSet::from([Capability::Mknod, Capability::NetRaw]);
        assert!(settings.check_capabilities(&allowed, 0).is_ok());
        assert!(
            Settings::default()
                .check_capabilities(&BTreeSet::new(), 5)
                .is_ok()
        );
        let mknod = BTreeSet::from([Capability::Mknod]);
        for (allowed, uid, parts) in [
            (
                &BTreeSet::new(),
                0,
                ["config.json allows (nothing)", "found MKNOD"],
            ),
            (&mknod, 0, ["config.json allows (MKNOD)", "found NET_RAW"]),
            (&allowed, 1000, ["\"user\": \"0\"", "user 1000"]),
        ] {
            let error = settings.check_capabilities(allowed, uid).unwrap_err();
            let error = error.to_string();
            assert!(error.starts_with("cap_add: "), "{error}");
            assert!(parts.iter().all(|part| error.contains(part)), "{error}");
        }
        let unknown = parse(r#"{"cap_add":["SYS_ADMIN"]}"#).unwrap_err();
        let unknown = unknown.to_string();
        for capability in Capability::ALL {
            assert!(unknown.contains(capability.as_str()), "{unknown}");
        }
        assert!(unknown.contains("cap_add[0]: "), "{unknown}");
    }

    #[test]
    fn relative_mounts_start_at_the_project() {
        let settings = Settings::parse(br#"{"mounts":{"ssh":"/ssh"}}"#, Path::new("/p")).unwrap();
        assert_eq!(settings.mounts[Path::new("/p/ssh")], "/ssh");
    }
}
