//! The specification of a container, and its request to the Engine.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use bollard::models::{ContainerCreateBody, HostConfig, Mount, MountType, ResourcesUlimits};

use super::engine::{Traits, utf8};
use super::error::Error;

/// What to run.
#[derive(Debug, Clone, PartialEq)]
pub struct ContainerSpec {
    /// Name of the container; unique on the host.
    pub name: String,
    /// Id of the image.
    pub image: String,
    /// Labels by which the container is found.
    pub labels: BTreeMap<String, String>,
    /// `uid:gid` of its processes.
    pub user: String,
    /// Capabilities that are dropped if its user is root; other users have none.
    pub cap_drop: Vec<String>,
    /// Directory of the host that is mounted at `/data`; it must exist.
    pub data: PathBuf,
    /// Further directories or files of the host, which must exist, and their paths in the container.
    pub mounts: BTreeMap<PathBuf, String>,
    /// Network mode; empty for the Engine's default.
    pub network: String,
    /// Its limits.
    pub limits: Limits,
    /// What else `docker run` may set.
    pub options: RunOptions,
    /// Variables in addition to those of the image, as `NAME=value`.
    pub environment: Vec<String>,
    /// Bytes of output that the Engine must at least store for readers.
    pub log_bytes: u64,
    /// Its systemd slice, if the Engine lets systemd make the cgroups.
    pub slice: Option<String>,
}

/// The limits of a container; `None` is no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Limits {
    /// Bytes of memory.
    pub memory: Option<u64>,
    /// CPUs, as in `1.5`.
    pub cpus: Option<f64>,
    /// Processes and threads.
    pub pids: Option<u64>,
}

/// Options of `docker run`; the default is none of them.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RunOptions {
    /// `--shm-size`, in bytes.
    pub shm_size: Option<u64>,
    /// `--init`.
    pub init: bool,
    /// `--ulimit`.
    pub ulimits: Vec<Ulimit>,
    /// `--dns`.
    pub dns: Vec<String>,
    /// `--add-host`, as `name:address`.
    pub extra_hosts: Vec<String>,
}

/// A limit of a container's processes; -1 is no limit.
#[derive(Debug, Clone, PartialEq)]
pub struct Ulimit {
    /// Its name, such as `nofile`.
    pub name: String,
    /// The limit.
    pub soft: i64,
    /// The highest value of the limit.
    pub hard: i64,
}

impl ContainerSpec {
    /// Refuses a mount whose source is missing, as Docker does.
    pub(super) async fn check_mount_sources(&self, operation: &str) -> Result<(), Error> {
        for source in std::iter::once(&self.data).chain(self.mounts.keys()) {
            if !tokio::fs::try_exists(source).await.unwrap_or(false) {
                return Err(Error::Refused {
                    operation: operation.to_owned(),
                    said: format!("{MISSING_SOURCE}: {}", source.display()),
                });
            }
        }
        Ok(())
    }

    /// The request that creates it.
    pub(super) fn body(&self, engine: Traits) -> Result<ContainerCreateBody, Error> {
        let mut mounts = vec![bind(&self.data, "/data")?];
        for (host, inside) in &self.mounts {
            mounts.push(bind(host, inside)?);
        }
        let host_config = HostConfig {
            mounts: Some(mounts),
            network_mode: (!self.network.is_empty()).then(|| self.network.clone()),
            cap_drop: Some(match is_root(&self.user) {
                true => self.cap_drop.clone(),
                false => vec!["ALL".to_owned()],
            }),
            cap_add: is_root(&self.user)
                .then(|| engine.dialect.capabilities_of_root(&self.cap_drop))
                .filter(|added| !added.is_empty()),
            security_opt: Some(vec!["no-new-privileges".to_owned()]),
            auto_remove: Some(false),
            log_config: Some(engine.dialect.log_config(self.log_bytes)),
            memory: self.limits.memory.map(signed),
            // The number is rounded to billionths of a CPU; the Engine refuses invalid ones.
            nano_cpus: self.limits.cpus.map(|cpus| (cpus * 1e9).round() as i64),
            pids_limit: self.limits.pids.map(signed),
            shm_size: self.options.shm_size.map(signed),
            init: self.options.init.then_some(true),
            ulimits: some(self.options.ulimits.iter().map(ulimit).collect()),
            dns: some(self.options.dns.clone()),
            extra_hosts: some(self.options.extra_hosts.clone()),
            cgroup_parent: self.slice.clone().filter(|_| engine.has_slices),
            // The files of builds belong to users of the host, as does the host's network.
            userns_mode: engine.user_namespace.map(str::to_owned),
            ..HostConfig::default()
        };
        Ok(ContainerCreateBody {
            image: Some(self.image.clone()),
            user: Some(self.user.clone()),
            env: Some(self.environment.clone()),
            labels: Some(self.labels.clone().into_iter().collect()),
            tty: Some(false),
            host_config: Some(host_config),
            ..ContainerCreateBody::default()
        })
    }
}

/// The words of Docker about a source that is missing.
const MISSING_SOURCE: &str = "bind source path does not exist";

/// A mount, not a `-v` bind, so that a missing directory is an error and not created by root.
fn bind(host: &Path, inside: &str) -> Result<Mount, Error> {
    Ok(Mount {
        typ: Some(MountType::BIND),
        source: Some(utf8(host)?),
        target: Some(inside.to_owned()),
        ..Mount::default()
    })
}

fn ulimit(limit: &Ulimit) -> ResourcesUlimits {
    ResourcesUlimits {
        name: Some(limit.name.clone()),
        soft: Some(limit.soft),
        hard: Some(limit.hard),
    }
}

/// A list, unless it is empty.
fn some<T>(list: Vec<T>) -> Option<Vec<T>> {
    (!list.is_empty()).then_some(list)
}

fn is_root(user: &str) -> bool {
    let name = user.split(':').next().unwrap_or("");
    name == "root" || name.parse::<u32>() == Ok(0)
}

/// The API's numbers are signed.
fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> ContainerSpec {
        ContainerSpec {
            name: "n".into(),
            image: "sha256:0".into(),
            labels: BTreeMap::new(),
            user: "1000:1000".into(),
            cap_drop: vec!["MKNOD".into()],
            data: "/d".into(),
            mounts: BTreeMap::from([(PathBuf::from("/cache"), "/c".to_owned())]),
            network: String::new(),
            limits: Limits::default(),
            options: RunOptions::default(),
            environment: Vec::new(),
            log_bytes: 1 << 20,
            slice: None,
        }
    }

    fn host(spec: &ContainerSpec) -> HostConfig {
        spec.body(Traits::default()).unwrap().host_config.unwrap()
    }

    #[test]
    fn only_root_keeps_capabilities_and_no_user_gains_privileges() {
        for (user, dropped) in [
            ("1000:1000", "ALL"),
            ("0", "MKNOD"),
            ("0:5", "MKNOD"),
            ("root", "MKNOD"),
        ] {
            let host = host(&ContainerSpec {
                user: user.into(),
                ..spec()
            });
            assert_eq!(host.cap_drop.unwrap(), [dropped], "{user}");
            assert_eq!(host.security_opt.unwrap(), ["no-new-privileges"]);
        }
    }

    #[test]
    fn mounts_are_binds_that_create_nothing() {
        let host = host(&spec());
        assert!(host.binds.is_none());
        for mount in host.mounts.unwrap() {
            assert_eq!(mount.typ, Some(MountType::BIND));
            assert!(mount.bind_options.is_none());
        }
    }

    #[test]
    fn limits_are_sent_in_the_units_of_the_engine() {
        let host = host(&ContainerSpec {
            limits: Limits {
                memory: Some(1 << 30),
                cpus: Some(1.5),
                pids: Some(100),
            },
            ..spec()
        });
        assert_eq!(host.memory, Some(1 << 30));
        assert_eq!(host.nano_cpus, Some(1_500_000_000));
        assert_eq!(host.pids_limit, Some(100));
    }

    #[test]
    fn options_of_docker_run_are_sent_only_if_they_are_set() {
        let plain = host(&spec());
        assert_eq!((plain.shm_size, plain.init), (None, None));
        assert_eq!((plain.dns, plain.extra_hosts), (None, None));
        assert_eq!(plain.ulimits, None);
        let host = host(&ContainerSpec {
            options: RunOptions {
                shm_size: Some(64 << 20),
                init: true,
                ulimits: vec![Ulimit {
                    name: "core".into(),
                    soft: 0,
                    hard: -1,
                }],
                dns: vec!["192.0.2.1".into()],
                extra_hosts: vec!["a:192.0.2.2".into()],
            },
            ..spec()
        });
        assert_eq!((host.shm_size, host.init), (Some(64 << 20), Some(true)));
        let limit = &host.ulimits.unwrap()[0];
        assert_eq!(limit.name.as_deref(), Some("core"));
        assert_eq!((limit.soft, limit.hard), (Some(0), Some(-1)));
        assert_eq!(host.dns.unwrap(), ["192.0.2.1"]);
        assert_eq!(host.extra_hosts.unwrap(), ["a:192.0.2.2"]);
    }

    #[test]
    fn slices_and_namespaces_are_sent_only_to_engines_that_have_them() {
        let spec = ContainerSpec {
            slice: Some("s.slice".into()),
            ..spec()
        };
        let plain = host(&spec);
        assert_eq!((plain.cgroup_parent, plain.userns_mode), (None, None));
        let engine = Traits {
            has_slices: true,
            user_namespace: Some("host"),
            ..Traits::default()
        };
        let host = spec.body(engine).unwrap().host_config.unwrap();
        assert_eq!(host.cgroup_parent.as_deref(), Some("s.slice"));
        assert_eq!(host.userns_mode.as_deref(), Some("host"));
    }

    #[test]
    fn a_path_that_is_not_utf8_is_refused() {
        use std::os::unix::ffi::OsStringExt;
        let data = PathBuf::from(std::ffi::OsString::from_vec(b"/\xff".to_vec()));
        let error = ContainerSpec { data, ..spec() }
            .body(Traits::default())
            .unwrap_err();
        assert!(matches!(error, Error::Path(_)));
    }
}
