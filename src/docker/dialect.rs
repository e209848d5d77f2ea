//! The dialect of an Engine: how podman's Docker-compatible API differs from Docker's. A value without I/O, chosen
//! from what the Engine says about its version.

use std::collections::HashMap;

use bollard::models::{HostConfigLogConfig, SystemVersion};

use super::output::LOG_OVERHEAD;

/// Space in the log file beyond the bound, so that an entry that exceeds it is still complete; an entry is 1
/// MB at most.
const LOG_MARGIN: u64 = 4 << 20;

/// The component of podman's answer that names it.
const PODMAN_COMPONENT: &str = "Podman Engine";

/// The oldest podman that works: earlier ones find no image by its labels, and burn a core for each wait.
const OLDEST_PODMAN: u32 = 5;

/// The API version (minor version of 1) of the first Docker whose `local` log driver returns all line ends.
const FIRST_WHOLE: usize = 42;

/// A kind of Engine.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Dialect {
    /// Docker.
    #[default]
    Docker,
    /// podman, behind its Docker-compatible socket.
    Podman,
}

impl Dialect {
    /// The dialect of an Engine with this version; the error is a sentence about an Engine that is too old.
    pub(super) fn of(version: &SystemVersion) -> Result<Dialect, String> {
        let mut components = version.components.iter().flatten();
        let Some(podman) = components.find(|component| component.name == PODMAN_COMPONENT) else {
            return Ok(Dialect::Docker);
        };
        let major = podman.version.split('.').next().unwrap_or_default();
        match major.parse::<u32>() {
            Ok(major) if major < OLDEST_PODMAN => Err(format!(
                "mistry needs podman {OLDEST_PODMAN} or newer; found {}",
                podman.version
            )),
            _ => Ok(Dialect::Podman),
        }
    }

    /// The log driver that changes and drops no byte, for a log of this size. It writes one file, because a rotation
    /// would delete the first bytes.
    pub(super) fn log_config(self, bytes: u64) -> HostConfigLogConfig {
        let (driver, options) = match self {
            Dialect::Docker => ("local", local_options(bytes)),
            // With a bound, conmon truncates the file (containers/conmon#563).
            Dialect::Podman => ("k8s-file", HashMap::new()),
        };
        HostConfigLogConfig {
            typ: Some(driver.to_owned()),
            config: Some(options),
        }
    }

    /// The Engine creates the source of a bind mount if it is missing, instead of refusing the container.
    pub(super) fn creates_mount_sources(self) -> bool {
        self == Dialect::Podman
    }

    /// Containers keep running while the Engine is stopped, restarted or killed.
    pub(super) fn containers_outlive_engine(self) -> bool {
        self == Dialect::Podman
    }

    /// No event tells of a kill for want of memory.
    pub(super) fn hides_oom_kills(self) -> bool {
        self == Dialect::Podman
    }

    /// The log has pieces of lines of both outputs in turn.
    pub(super) fn splits_lines(self) -> bool {
        self == Dialect::Podman
    }

    /// The log driver of an Engine with this API version leaves line ends out.
    pub(super) fn leaves_line_ends_out(self, api: &bollard::ClientVersion) -> bool {
        self == Dialect::Docker && api.major_version == 1 && api.minor_version < FIRST_WHOLE
    }

    /// The user namespace of containers whose files and network belong to the host, if it is not the default;
    /// `options` are the security options of the Engine.
    pub(super) fn user_namespace(self, options: &[String]) -> Option<&'static str> {
        let has = |name: &str| options.iter().any(|option| option == name);
        match self {
            Dialect::Docker => has("name=userns").then_some("host"),
            // Without it, files in `/data` would belong to a user id that mistryd cannot remove.
            Dialect::Podman => has("name=rootless").then_some("keep-id"),
        }
    }

    /// The capabilities that a container of root gets in addition to those of the Engine, so that it has Docker's
    /// without those that are dropped.
    pub(super) fn capabilities_of_root(self, dropped: &[String]) -> Vec<String> {
        let missing: &[&str] = match self {
            Dialect::Docker => &[],
            Dialect::Podman => &["AUDIT_WRITE", "MKNOD", "NET_RAW"],
        };
        let is_kept = |name: &&&str| !dropped.iter().any(|dropped| dropped == **name);
        missing
            .iter()
            .filter(is_kept)
            .map(|name| (*name).to_owned())
            .collect()
    }

    /// One builder reads all Dockerfiles, with the instructions of BuildKit, by the request of the classic one.
    pub(super) fn has_one_builder(self) -> bool {
        self == Dialect::Podman
    }

    /// Whether an image could not be built because a base could not be pulled, by the words of the Engine. Those
    /// of Docker do not tell.
    pub(super) fn is_failed_pull(self, message: &str) -> bool {
        self == Dialect::Podman && message.contains("initializing source docker://")
    }

    /// Whether an image could not be built because a layer of the cache, or the container of a step, was removed
    /// meanwhile, by the words of podman.
    pub(super) fn is_lost_layer(self, message: &str) -> bool {
        let words = ["layer not known", "container not known"];
        self == Dialect::Podman && words.iter().any(|words| message.contains(words))
    }

    /// Whether the refusal to create a container means that another one has its name.
    pub(super) fn is_name_taken(self, status: u16, said: &str) -> bool {
        match self {
            Dialect::Docker => status == 409,
            Dialect::Podman => {
                status == 409 || status == 500 && said.contains("name is already in use")
            }
        }
    }

    /// Whether the refusal to kill a container means that it does not run.
    pub(super) fn is_not_running(self, status: u16, said: &str) -> bool {
        match self {
            Dialect::Docker => status == 409,
            Dialect::Podman => {
                status == 409 || status == 500 && said.contains("container state improper")
            }
        }
    }

    /// Whether the refusal is caused by the settings of the request.
    pub(super) fn is_refused_setting(self, status: u16, said: &str) -> bool {
        // A missing network is the only 404 that is caused by the request's own settings.
        let is_of_docker = status == 400 || (status == 404 && said.starts_with("network "));
        is_of_docker
            || self == Dialect::Podman
                && status == 500
                && REFUSED_BY_PODMAN.iter().any(|words| said.contains(words))
    }
}

/// How podman refuses settings, with status 500.
const REFUSED_BY_PODMAN: [&str; 3] = ["network not found", "invalid argument", "invalid option"];

fn local_options(bytes: u64) -> HashMap<String, String> {
    let size = bytes
        .saturating_mul(LOG_OVERHEAD)
        .saturating_add(LOG_MARGIN);
    let size = i64::try_from(size).unwrap_or(i64::MAX);
    let options = [
        ("max-size", size.to_string()),
        ("max-file", "1".to_owned()),
        // The Engine refuses compression with only one file.
        ("compress", "false".to_owned()),
    ];
    HashMap::from(options.map(|(key, value)| (key.to_owned(), value)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(name: &str, version: &str) -> SystemVersion {
        let document = serde_json::json!({
            "Version": version,
            "Components": [{"Name": name, "Version": version}],
        });
        serde_json::from_value(document).unwrap()
    }

    #[test]
    fn the_dialect_is_that_of_the_engine_and_an_old_podman_is_refused() {
        for (name, number, dialect) in [
            ("Engine", "20.10.24+dfsg1", Dialect::Docker),
            ("Engine", "4.3.1", Dialect::Docker),
            ("Podman Engine", "5.4.2", Dialect::Podman),
            ("Podman Engine", "10.0.0-dev", Dialect::Podman),
            ("Podman Engine", "?", Dialect::Podman),
        ] {
            assert_eq!(Dialect::of(&version(name, number)), Ok(dialect), "{number}");
        }
        assert_eq!(Dialect::of(&SystemVersion::default()), Ok(Dialect::Docker));
        let old = Dialect::of(&version("Podman Engine", "4.3.1")).unwrap_err();
        assert_eq!(old, "mistry needs podman 5 or newer; found 4.3.1");
    }

    #[test]
    fn the_log_of_empty_lines_fits_the_driver() {
        let config = Dialect::Docker.log_config(1 << 20).config.unwrap();
        assert!(config["max-size"].parse::<u64>().unwrap() >= 28 << 20);
        assert_eq!(config["max-file"], "1");
        Dialect::Docker.log_config(u64::MAX);
        let config = Dialect::Podman.log_config(1 << 20);
        assert_eq!(config.typ.as_deref(), Some("k8s-file"));
        assert!(config.config.unwrap().is_empty());
    }

    #[test]
    fn the_refusals_of_both_kinds_are_understood() {
        let taken = "container create: creating container storage: the container name \"t1\" is already \
                     in use by 752a3a9ef6f9. You have to remove that container to be able to reuse that \
                     name: that name is already in use";
        assert!(Dialect::Podman.is_name_taken(500, taken));
        assert!(Dialect::Docker.is_name_taken(409, "Conflict."));
        assert!(!Dialect::Docker.is_name_taken(500, taken));
        let ended = "can only kill running containers. 0403a95a14be is in state exited: container state \
                     improper";
        for (dialect, status) in [
            (Dialect::Podman, 500),
            (Dialect::Podman, 409),
            (Dialect::Docker, 409),
        ] {
            assert!(dialect.is_not_running(status, ended));
        }
        let network =
            "container create: unable to find network with name or ID x: network not found";
        assert!(Dialect::Podman.is_refused_setting(500, network));
        assert!(!Dialect::Docker.is_refused_setting(500, network));
        assert!(Dialect::Docker.is_refused_setting(404, "network x not found"));
        let layer = "checking if cached image exists from a previous build: getting top layer info: layer not known";
        assert!(Dialect::Podman.is_lost_layer(layer));
        let container = "locating container \"a3ae5b50\": container not known";
        assert!(Dialect::Podman.is_lost_layer(container));
    }

    #[test]
    fn root_has_the_capabilities_of_docker_without_those_that_are_dropped() {
        let dropped = ["MKNOD".to_owned(), "SETFCAP".to_owned()];
        let added = Dialect::Podman.capabilities_of_root(&dropped);
        assert_eq!(added, ["AUDIT_WRITE", "NET_RAW"]);
        assert!(Dialect::Docker.capabilities_of_root(&dropped).is_empty());
    }

    #[test]
    fn only_old_dockers_leave_line_ends_out() {
        let old = bollard::ClientVersion {
            major_version: 1,
            minor_version: 41,
        };
        assert!(Dialect::Docker.leaves_line_ends_out(&old));
        // podman says that it has this version of the API.
        assert!(!Dialect::Podman.leaves_line_ends_out(&old));
    }

    #[test]
    fn containers_of_a_rootless_podman_keep_the_ids_of_the_host() {
        let options = ["name=rootless".to_owned(), "name=userns".to_owned()];
        assert_eq!(Dialect::Podman.user_namespace(&options), Some("keep-id"));
        assert_eq!(Dialect::Docker.user_namespace(&options), Some("host"));
        assert_eq!(Dialect::Podman.user_namespace(&[]), None);
    }
}
