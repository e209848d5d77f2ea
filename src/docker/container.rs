//! Containers: created, started, followed, awaited, found again, removed.
//!
//! A container runs what its image says, without a terminal, with `/data` and nothing else of the host
//! but the mounts it is given. What becomes of its output is in `logs`.

use std::{
    collections::{BTreeMap, HashMap},
    path::{Path, PathBuf},
    pin::pin,
};

use bollard::{
    errors::Error as Bollard,
    models::{
        ContainerCreateBody, ContainerState, ContainerSummary, ContainerSummaryStateEnum,
        HostConfig, HostConfigLogConfig, Mount, MountType,
    },
    query_parameters::{
        CreateContainerOptions, InspectContainerOptions, KillContainerOptions,
        ListContainersOptions, RemoveContainerOptions, StartContainerOptions, StopContainerOptions,
        WaitContainerOptions,
    },
};
use futures_util::StreamExt;
use jiff::Timestamp;

use super::{Docker, Error, Traits, label_filter, refusal, utf8};

/// Bytes that the `local` log driver may write for one byte of output: an empty line, of one byte, is
/// an entry of 28 (its length twice, the name of the stream, the time, the keys of the fields).
pub(super) const LOG_OVERHEAD: u64 = 32;

/// Room in the driver's file beyond the bound, so that an entry that passes it is still whole; an entry
/// is 1 MB at most.
const LOG_MARGIN: u64 = 4 << 20;

/// How long a container that is stopped has to end by itself: Docker's own default, which authors of
/// images know.
const STOP_GRACE: i32 = 10;

/// What to run.
#[derive(Debug, Clone, PartialEq)]
pub struct ContainerSpec {
    /// Name of the container; one of a kind on the host.
    pub name: String,
    /// Id of the image.
    pub image: String,
    /// What the container is found by.
    pub labels: BTreeMap<String, String>,
    /// `uid:gid` of its processes.
    pub user: String,
    /// Capabilities that it does without where its user is root; other users have none.
    pub cap_drop: Vec<String>,
    /// Directory of the host that is `/data` inside; it must exist.
    pub data: PathBuf,
    /// Further directories or files of the host, which must exist, and where they are inside.
    pub mounts: BTreeMap<PathBuf, String>,
    /// Network mode; empty for the Engine's default.
    pub network: String,
    /// What it may use of the host.
    pub limits: Limits,
    /// Variables beside those of the image, as `NAME=value`.
    pub environment: Vec<String>,
    /// Bytes of output that the Engine must keep for readers, at least.
    pub log_bytes: u64,
    /// The systemd slice that it is put into, where the Engine lets systemd make the cgroups.
    pub slice: Option<String>,
}

/// What a container may use of the host; `None` is no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Limits {
    /// Bytes of memory.
    pub memory: Option<u64>,
    /// CPUs, as in `1.5`.
    pub cpus: Option<f64>,
    /// Processes and threads.
    pub pids: Option<u64>,
}

/// How a container ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exit {
    /// Its exit code; 128 + n for signal n.
    pub code: i64,
    /// The kernel killed one of its processes for want of memory, whatever the exit code is.
    /// [`Docker::wait`] leaves this false for exit code 0; [`Docker::container_status`] always knows.
    pub oom_killed: bool,
}

/// What has become of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContainerStatus {
    /// It was never started.
    Created,
    /// It runs.
    Running,
    /// It ran, and has ended: how, and when as far as the Engine knows.
    Ended(Exit, Option<Timestamp>),
    /// There is no such container.
    Gone,
}

/// A container on the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// What it runs, as the Engine writes it.
    pub command: String,
    /// When it was made, in seconds since 1970.
    pub created: i64,
    /// All its labels, those of its image among them.
    pub labels: BTreeMap<String, String>,
    /// It has been started and has not ended.
    pub running: bool,
}

impl Docker {
    /// Creates a container and returns its id.
    ///
    /// # Errors
    /// [`Error::NoSuchImage`]; [`Error::NameTaken`]; [`Error::Path`] for a host path that is not
    /// UTF-8; [`Error::Unreachable`]; [`Error::Api`], also for a host path that does not exist.
    pub async fn create(&self, spec: &ContainerSpec) -> Result<String, Error> {
        let doing = "creating a container";
        let body = body(spec, self.traits().await?)?;
        let options = CreateContainerOptions {
            name: Some(spec.name.clone()),
            ..CreateContainerOptions::default()
        };
        let created = self.call(doing, async |docker| {
            docker.create_container(Some(options), body).await
        });
        match created.await? {
            Ok(created) => Ok(created.id),
            Err(error) => Err(match refusal(&error) {
                Some((404, said)) if said.to_ascii_lowercase().contains("no such image") => {
                    Error::NoSuchImage(spec.image.clone())
                }
                Some((409, _)) => Error::NameTaken(spec.name.clone()),
                _ => self.failed(doing, error),
            }),
        }
    }

    /// Starts a created container; one that runs already is left alone.
    ///
    /// # Errors
    /// [`Error::NotStarted`] when the image's program cannot be executed;
    /// [`Error::NoSuchContainer`]; [`Error::Unreachable`]; [`Error::Api`].
    pub async fn start(&self, container: &str) -> Result<(), Error> {
        let doing = "starting a container";
        self.count_output(container).await;
        let started = self.call(doing, async |docker| {
            docker
                .start_container(container, None::<StartContainerOptions>)
                .await
        });
        started.await?.map_err(|error| {
            let code = refusal(&error).and_then(|(_, said)| Some((exec_status(said)?, said)));
            match code {
                Some((code, said)) => Error::NotStarted {
                    code,
                    said: said.to_owned(),
                },
                None => self.failed_on(doing, container, error),
            }
        })
    }

    /// Waits until a started container has ended; one that was never started counts as ended, with 0.
    ///
    /// # Errors
    /// [`Error::NoSuchContainer`]; [`Error::Unreachable`] when the Engine goes away while the container
    /// runs, after which one may wait again; [`Error::Api`].
    pub async fn wait(&self, container: &str) -> Result<Exit, Error> {
        let doing = "waiting for a container";
        let client = self.client(doing).await?;
        let options = WaitContainerOptions {
            condition: "not-running".to_owned(),
        };
        let answer = pin!(client.wait_container(container, Some(options)))
            .next()
            .await;
        let code = match answer {
            // The client library's name for an exit code that is not 0.
            Some(Err(Bollard::DockerContainerWaitError { code, .. })) => code,
            Some(Ok(ended)) => match ended.error.and_then(|error| error.message) {
                Some(message) if !message.is_empty() => {
                    return Err(Error::Api {
                        doing: doing.to_owned(),
                        source: message.into(),
                    });
                }
                _ => ended.status_code,
            },
            Some(Err(error)) => return Err(self.failed_on(doing, container, error)),
            // So does an Engine that is stopped, and what it leaves is not the container's own end.
            None => {
                let source = "it ended the answer without a word".into();
                return Err(self.unreachable(doing, source));
            }
        };
        // Success costs no second question: the caller hears of such a kill from the events.
        if code == 0 {
            return Ok(Exit {
                code,
                oom_killed: false,
            });
        }
        match self.state(doing, container).await {
            Ok(state) => Ok(Exit {
                code,
                ..exit(&state)
            }),
            // It was removed already; its exit code is known all the same.
            Err(Error::NoSuchContainer(_)) => Ok(Exit {
                code,
                oom_killed: false,
            }),
            Err(error) => Err(error),
        }
    }

    /// What has become of a container.
    ///
    /// # Errors
    /// [`Error::Unreachable`], [`Error::Api`].
    pub async fn container_status(&self, container: &str) -> Result<ContainerStatus, Error> {
        use bollard::models::ContainerStateStatusEnum::{CREATED, DEAD, EMPTY, EXITED};
        let state = match self.state("asking about a container", container).await {
            Ok(state) => state,
            Err(Error::NoSuchContainer(_)) => return Ok(ContainerStatus::Gone),
            Err(error) => return Err(error),
        };
        Ok(match state.status {
            Some(CREATED) => ContainerStatus::Created,
            Some(EXITED | DEAD) => ended(&state),
            None | Some(EMPTY) if !state.running.unwrap_or(false) => ended(&state),
            _ => ContainerStatus::Running,
        })
    }

    async fn state(&self, doing: &str, container: &str) -> Result<ContainerState, Error> {
        let inspected = self.call(doing, async |docker| {
            docker
                .inspect_container(container, None::<InspectContainerOptions>)
                .await
        });
        let inspected = inspected
            .await?
            .map_err(|e| self.failed_on(doing, container, e))?;
        Ok(inspected.state.unwrap_or_default())
    }

    /// Stops a container: it is told to end (SIGTERM, or what its image says), and killed when it has
    /// not within [`STOP_GRACE`] seconds. One that has ended is left alone.
    ///
    /// # Errors
    /// [`Error::NoSuchContainer`], [`Error::Unreachable`], [`Error::Api`].
    pub async fn stop(&self, container: &str) -> Result<(), Error> {
        let doing = "stopping a container";
        let options = StopContainerOptions {
            t: Some(STOP_GRACE),
            ..StopContainerOptions::default()
        };
        let stopped = self.call(doing, async |docker| {
            docker.stop_container(container, Some(options)).await
        });
        match stopped.await? {
            Err(error) if !matches!(refusal(&error), Some((304, _))) => {
                Err(self.failed_on(doing, container, error))
            }
            _ => Ok(()),
        }
    }

    /// Kills a container's processes; one that has ended is left alone.
    ///
    /// # Errors
    /// [`Error::NoSuchContainer`], [`Error::Unreachable`], [`Error::Api`].
    pub async fn kill(&self, container: &str) -> Result<(), Error> {
        let doing = "killing a container";
        let options = KillContainerOptions {
            signal: "KILL".to_owned(),
        };
        let killed = self.call(doing, async |docker| {
            docker.kill_container(container, Some(options)).await
        });
        match killed.await? {
            Err(error) if !matches!(refusal(&error), Some((409, _))) => {
                Err(self.failed_on(doing, container, error))
            }
            _ => Ok(()),
        }
    }

    /// Removes a container with its output and its anonymous volumes; one that runs is killed. Gone
    /// already is fine, and so is another program that removes it: on return it is gone.
    ///
    /// # Errors
    /// [`Error::Unreachable`], [`Error::Api`].
    pub async fn remove(&self, container: &str) -> Result<(), Error> {
        let doing = "removing a container";
        self.forget_output(container);
        let options = RemoveContainerOptions {
            force: true,
            v: true,
            ..RemoveContainerOptions::default()
        };
        let removed = self.call(doing, async |docker| {
            docker.remove_container(container, Some(options)).await
        });
        match removed.await? {
            Ok(()) => Ok(()),
            Err(error) => match refusal(&error) {
                Some((409, said)) if said.contains("already in progress") => {
                    self.gone(doing, container).await
                }
                Some((404 | 409, _)) => Ok(()),
                _ => Err(self.failed(doing, error)),
            },
        }
    }

    /// Waits until another program has removed a container: its name is free only then.
    async fn gone(&self, doing: &str, container: &str) -> Result<(), Error> {
        let options = WaitContainerOptions {
            condition: "removed".to_owned(),
        };
        let gone = self.call(doing, async |docker| {
            let mut answer = pin!(docker.wait_container(container, Some(options)));
            answer.next().await.transpose()
        });
        match gone.await? {
            Ok(_) | Err(Bollard::DockerContainerWaitError { .. }) => Ok(()),
            Err(error) => match refusal(&error) {
                Some((404, _)) => Ok(()),
                _ => Err(self.failed(doing, error)),
            },
        }
    }

    /// All containers that carry all these labels, whether they run or not.
    ///
    /// # Errors
    /// [`Error::Unreachable`], [`Error::Api`].
    pub async fn containers(&self, labels: &BTreeMap<String, String>) -> Result<Vec<Found>, Error> {
        self.list_containers("label", label_filter(labels)).await
    }

    /// The containers whose ids begin with one of these, whether they run or not.
    ///
    /// # Errors
    /// [`Error::Unreachable`], [`Error::Api`].
    pub async fn containers_by_id(&self, ids: &[String]) -> Result<Vec<Found>, Error> {
        self.list_containers("id", ids.to_vec()).await
    }

    async fn list_containers(
        &self,
        filter: &str,
        values: Vec<String>,
    ) -> Result<Vec<Found>, Error> {
        let doing = "looking for containers";
        let options = ListContainersOptions {
            all: true,
            filters: Some(HashMap::from([(filter.to_owned(), values)])),
            ..ListContainersOptions::default()
        };
        let found = self.call(doing, async |docker| {
            docker.list_containers(Some(options)).await
        });
        let found = found.await?.map_err(|e| self.failed(doing, e))?;
        Ok(found.into_iter().filter_map(found_one).collect())
    }

    pub(super) fn failed_on(&self, doing: &str, container: &str, error: Bollard) -> Error {
        match refusal(&error) {
            Some((404, said)) if said.to_ascii_lowercase().contains("no such container") => {
                Error::NoSuchContainer(container.to_owned())
            }
            _ => self.failed(doing, error),
        }
    }
}

fn found_one(summary: ContainerSummary) -> Option<Found> {
    use ContainerSummaryStateEnum::{PAUSED, RESTARTING, RUNNING, STOPPING};
    let running = matches!(
        summary.state,
        Some(RUNNING | PAUSED | RESTARTING | STOPPING)
    );
    let name = summary.names.unwrap_or_default().into_iter().next();
    Some(Found {
        id: summary.id?,
        name: name.unwrap_or_default().trim_start_matches('/').to_owned(),
        command: summary.command.unwrap_or_default(),
        created: summary.created.unwrap_or_default(),
        labels: summary.labels.unwrap_or_default().into_iter().collect(),
        running,
    })
}

fn exit(state: &ContainerState) -> Exit {
    let code = state.exit_code.unwrap_or(0);
    Exit {
        code,
        oom_killed: state.oom_killed.unwrap_or(false),
    }
}

fn ended(state: &ContainerState) -> ContainerStatus {
    let at = state.finished_at.as_ref();
    ContainerStatus::Ended(exit(state), at.and_then(|at| at.parse().ok()))
}

fn body(spec: &ContainerSpec, engine: Traits) -> Result<ContainerCreateBody, Error> {
    let mut mounts = vec![bind(&spec.data, "/data")?];
    for (host, inside) in &spec.mounts {
        mounts.push(bind(host, inside)?);
    }
    let host_config = HostConfig {
        mounts: Some(mounts),
        network_mode: (!spec.network.is_empty()).then(|| spec.network.clone()),
        cap_drop: Some(match is_root(&spec.user) {
            true => spec.cap_drop.clone(),
            false => vec!["ALL".to_owned()],
        }),
        security_opt: Some(vec!["no-new-privileges".to_owned()]),
        auto_remove: Some(false),
        log_config: Some(log_config(spec.log_bytes)),
        memory: spec.limits.memory.map(signed),
        // A rounded number of billionths of a CPU; absurd ones are the Engine's to refuse.
        nano_cpus: spec.limits.cpus.map(|cpus| (cpus * 1e9).round() as i64),
        pids_limit: spec.limits.pids.map(signed),
        cgroup_parent: spec.slice.clone().filter(|_| engine.has_slices),
        // The files of builds belong to users of the host, and so does the host's network.
        userns_mode: engine.remaps_users.then(|| "host".to_owned()),
        ..HostConfig::default()
    };
    Ok(ContainerCreateBody {
        image: Some(spec.image.clone()),
        user: Some(spec.user.clone()),
        env: Some(spec.environment.clone()),
        labels: Some(spec.labels.clone().into_iter().collect()),
        tty: Some(false),
        host_config: Some(host_config),
        ..ContainerCreateBody::default()
    })
}

/// As a mount and not as `-v` would, so that a missing directory is an error and not made by root.
fn bind(host: &Path, inside: &str) -> Result<Mount, Error> {
    Ok(Mount {
        typ: Some(MountType::BIND),
        source: Some(utf8(host)?),
        target: Some(inside.to_owned()),
        ..Mount::default()
    })
}

/// The `local` driver, because the others spoil bytes or drop some; one file that is never rotated,
/// because a rotation would take the first bytes away.
fn log_config(bytes: u64) -> HostConfigLogConfig {
    let size = bytes
        .saturating_mul(LOG_OVERHEAD)
        .saturating_add(LOG_MARGIN);
    let config = [
        ("max-size", signed(size).to_string()),
        ("max-file", "1".to_owned()),
        // The Engine refuses to compress where there is one file only.
        ("compress", "false".to_owned()),
    ];
    HostConfigLogConfig {
        typ: Some("local".to_owned()),
        config: Some(config.map(|(key, value)| (key.to_owned(), value)).into()),
    }
}

/// The exit status that `docker run` has for a program that cannot be executed, by its own rule:
/// 127 where there is none, 126 where it may not be executed. `None` for every other refusal, which
/// is 125 there.
fn exec_status(said: &str) -> Option<i64> {
    const MISSING: [&str; 2] = ["executable file not found", "no such file or directory"];
    const FORBIDDEN: [&str; 2] = ["permission denied", "is a directory"];
    let is_any = |of: [&str; 2]| of.iter().any(|part| said.contains(part));
    // The same words are said of a mount, together with paths of the host.
    match said.contains("mount") {
        true => None,
        false if is_any(MISSING) => Some(127),
        false => is_any(FORBIDDEN).then_some(126),
    }
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
            environment: Vec::new(),
            log_bytes: 1 << 20,
            slice: None,
        }
    }

    fn host(spec: &ContainerSpec) -> HostConfig {
        body(spec, Traits::default()).unwrap().host_config.unwrap()
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
    fn limits_are_told_in_the_engines_units() {
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
    fn slices_and_namespaces_are_told_to_those_engines_that_have_them() {
        let spec = ContainerSpec {
            slice: Some("s.slice".into()),
            ..spec()
        };
        let plain = host(&spec);
        assert_eq!((plain.cgroup_parent, plain.userns_mode), (None, None));
        let engine = Traits {
            has_slices: true,
            remaps_users: true,
        };
        let host = body(&spec, engine).unwrap().host_config.unwrap();
        assert_eq!(host.cgroup_parent.as_deref(), Some("s.slice"));
        assert_eq!(host.userns_mode.as_deref(), Some("host"));
    }

    #[test]
    fn a_program_that_cannot_be_executed_has_the_status_of_docker_run() {
        for (said, status) in [
            (
                "exec: \"/nope\": stat /nope: no such file or directory: unknown",
                Some(127),
            ),
            (
                "exec: \"nope\": executable file not found in $PATH: unknown",
                Some(127),
            ),
            ("exec: \"/etc\": permission denied: unknown", Some(126)),
            ("exec: \"/etc\": is a directory: unknown", Some(126)),
            ("error mounting \"/srv/x\": no such file or directory", None),
            ("cannot join the network", None),
        ] {
            assert_eq!(exec_status(said), status, "{said}");
        }
    }

    #[test]
    fn the_log_of_empty_lines_fits_the_driver() {
        let config = host(&spec()).log_config.unwrap().config.unwrap();
        assert!(config["max-size"].parse::<u64>().unwrap() >= 28 << 20);
        assert_eq!(config["max-file"], "1");
        log_config(u64::MAX);
    }

    #[test]
    fn a_path_that_is_not_utf8_is_refused_and_not_mangled() {
        use std::os::unix::ffi::OsStringExt;
        let data = PathBuf::from(std::ffi::OsString::from_vec(b"/\xff".to_vec()));
        let error = body(&ContainerSpec { data, ..spec() }, Traits::default()).unwrap_err();
        assert!(matches!(error, Error::Path(_)));
    }
}
