//! Containers: created, started, followed, awaited, found again, removed.
//!
//! A container runs the command of its image, without a terminal, with `/data` and its mounts, and no other
//! files of the host. Its output is handled in `logs`.

use std::collections::{BTreeMap, HashMap};
use std::pin::pin;

use bollard::errors::Error as Bollard;
use bollard::models::{ContainerState, ContainerSummary, ContainerSummaryStateEnum};
use bollard::query_parameters::{
    CreateContainerOptions, InspectContainerOptions, KillContainerOptions, ListContainersOptions,
    RemoveContainerOptions, StartContainerOptions, StopContainerOptions, WaitContainerOptions,
};
use futures_util::StreamExt;
use jiff::Timestamp;

use super::container_spec::ContainerSpec;
use super::dialect::Dialect;
use super::engine::{Docker, label_filter, refusal};
use super::error::Error;

/// How long a stopped container may take to end by itself: Docker's own default, which authors of images
/// know.
const STOP_GRACE: i32 = 10;

/// How a container ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exit {
    /// Its exit code; 128 + n for signal n.
    pub code: i64,
    /// The kernel killed one of its processes for want of memory, whatever the exit code is.
    /// [`Docker::wait`] leaves this false for exit code 0; [`Docker::container_status`] always knows.
    pub oom_killed: bool,
}

/// The state of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContainerStatus {
    /// It was never started.
    Created,
    /// It runs.
    Running,
    /// It has ended: its exit, and the time if the Engine knows it.
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
    /// Its command, as the Engine reports it.
    pub command: String,
    /// When it was created, in seconds since 1970.
    pub created: i64,
    /// All its labels, including those of its image.
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
        let operation = "creating a container";
        let traits = self.traits().await?;
        let dialect = traits.dialect;
        let body = spec.body(traits)?;
        if dialect.creates_mount_sources() {
            spec.check_mount_sources(operation).await?;
        }
        let options = CreateContainerOptions {
            name: Some(spec.name.clone()),
            ..CreateContainerOptions::default()
        };
        let created = self.call(operation, async |docker| {
            docker.create_container(Some(options), body).await
        });
        match created.await? {
            Ok(created) => Ok(created.id),
            Err(error) => Err(match refusal(&error) {
                Some((404, said)) if said.to_ascii_lowercase().contains("no such image") => {
                    Error::NoSuchImage(spec.image.clone())
                }
                Some((status, said)) if dialect.is_name_taken(status, said) => {
                    Error::NameTaken(spec.name.clone())
                }
                _ => self.failed(operation, error),
            }),
        }
    }

    /// Starts a created container; a running one is not changed.
    ///
    /// # Errors
    /// [`Error::NotStarted`] when the image's program cannot be executed;
    /// [`Error::NoSuchContainer`]; [`Error::Unreachable`]; [`Error::Api`].
    pub async fn start(&self, container: &str) -> Result<(), Error> {
        let operation = "starting a container";
        self.count_output(container).await;
        let started = self.call(operation, async |docker| {
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
                None => self.failed_on(operation, container, error),
            }
        })
    }

    /// Waits until a started container has ended; one that was never started counts as ended, with code 0.
    ///
    /// # Errors
    /// [`Error::NoSuchContainer`]; [`Error::Unreachable`] when the Engine goes away while the container runs,
    /// after which this may be called again; [`Error::Api`].
    pub async fn wait(&self, container: &str) -> Result<Exit, Error> {
        let operation = "waiting for a container";
        let client = self.client(operation).await?;
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
                        operation: operation.to_owned(),
                        source: message.into(),
                    });
                }
                _ => ended.status_code,
            },
            Some(Err(error)) => return Err(self.failed_on(operation, container, error)),
            // An Engine that is stopped does the same, and then the container did not end by itself.
            None => {
                let source = "it ended the answer without a word".into();
                return Err(self.unreachable(operation, source));
            }
        };
        // Success needs no second request: the caller learns of such a kill from the events.
        if code == 0 && !self.dialect().hides_oom_kills() {
            return Ok(Exit {
                code,
                oom_killed: false,
            });
        }
        match self.state(operation, container).await {
            Ok(state) => Ok(Exit {
                code,
                ..exit(&state)
            }),
            // It was removed already; its exit code is known nevertheless.
            Err(Error::NoSuchContainer(_)) => Ok(Exit {
                code,
                oom_killed: false,
            }),
            Err(error) => Err(error),
        }
    }

    /// The current state of a container.
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

    pub(super) async fn state(
        &self,
        operation: &'static str,
        container: &str,
    ) -> Result<ContainerState, Error> {
        self.client(operation).await?;
        if self.dialect() == Dialect::Podman {
            return self.podman_state(operation, container).await;
        }
        let inspected = self.call(operation, async |docker| {
            docker
                .inspect_container(container, None::<InspectContainerOptions>)
                .await
        });
        let inspected = inspected
            .await?
            .map_err(|e| self.failed_on(operation, container, e))?;
        Ok(inspected.state.unwrap_or_default())
    }

    /// Stops a container: it gets SIGTERM, or the signal that its image sets, and is killed if it has not
    /// ended within [`STOP_GRACE`] seconds. One that has ended is not changed.
    ///
    /// # Errors
    /// [`Error::NoSuchContainer`], [`Error::Unreachable`], [`Error::Api`].
    pub async fn stop(&self, container: &str) -> Result<(), Error> {
        let operation = "stopping a container";
        let options = StopContainerOptions {
            t: Some(STOP_GRACE),
            ..StopContainerOptions::default()
        };
        let stopped = self.call(operation, async |docker| {
            docker.stop_container(container, Some(options)).await
        });
        match stopped.await? {
            Err(error) if !matches!(refusal(&error), Some((304, _))) => {
                Err(self.failed_on(operation, container, error))
            }
            _ => Ok(()),
        }
    }

    /// Kills a container's processes; one that has ended is not changed.
    ///
    /// # Errors
    /// [`Error::NoSuchContainer`], [`Error::Unreachable`], [`Error::Api`].
    pub async fn kill(&self, container: &str) -> Result<(), Error> {
        let operation = "killing a container";
        let options = KillContainerOptions {
            signal: "KILL".to_owned(),
        };
        let killed = self.call(operation, async |docker| {
            docker.kill_container(container, Some(options)).await
        });
        match killed.await? {
            Err(error) => match refusal(&error) {
                Some((status, said)) if self.dialect().is_not_running(status, said) => Ok(()),
                _ => Err(self.failed_on(operation, container, error)),
            },
            Ok(()) => Ok(()),
        }
    }

    /// Removes a container with its output and its anonymous volumes; a running one is killed. A missing
    /// container is no error, nor is a removal by another program: on return it is gone.
    ///
    /// # Errors
    /// [`Error::Unreachable`], [`Error::Api`].
    pub async fn remove(&self, container: &str) -> Result<(), Error> {
        let operation = "removing a container";
        self.forget_output(container);
        let options = RemoveContainerOptions {
            force: true,
            v: true,
            ..RemoveContainerOptions::default()
        };
        let removed = self.call(operation, async |docker| {
            docker.remove_container(container, Some(options)).await
        });
        match removed.await? {
            Ok(()) => Ok(()),
            Err(error) => match refusal(&error) {
                Some((409, said)) if said.contains("already in progress") => {
                    self.gone(operation, container).await
                }
                Some((404 | 409, _)) => Ok(()),
                _ => Err(self.failed(operation, error)),
            },
        }
    }

    /// Waits until another program has removed a container: its name is free only then.
    async fn gone(&self, operation: &str, container: &str) -> Result<(), Error> {
        let options = WaitContainerOptions {
            condition: "removed".to_owned(),
        };
        let gone = self.call(operation, async |docker| {
            let mut answer = pin!(docker.wait_container(container, Some(options)));
            answer.next().await.transpose()
        });
        match gone.await? {
            Ok(_) | Err(Bollard::DockerContainerWaitError { .. }) => Ok(()),
            Err(error) => match refusal(&error) {
                Some((404, _)) => Ok(()),
                _ => Err(self.failed(operation, error)),
            },
        }
    }

    /// All containers with all these labels, running or not.
    ///
    /// # Errors
    /// [`Error::Unreachable`], [`Error::Api`].
    pub async fn containers(&self, labels: &BTreeMap<String, String>) -> Result<Vec<Found>, Error> {
        self.list_containers("label", label_filter(labels)).await
    }

    /// The containers whose ids begin with one of these, running or not.
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
        let operation = "looking for containers";
        let options = ListContainersOptions {
            all: true,
            filters: Some(HashMap::from([(filter.to_owned(), values)])),
            ..ListContainersOptions::default()
        };
        let found = self.call(operation, async |docker| {
            docker.list_containers(Some(options)).await
        });
        let found = found.await?.map_err(|e| self.failed(operation, e))?;
        Ok(found.into_iter().filter_map(found_one).collect())
    }

    pub(super) fn failed_on(&self, operation: &str, container: &str, error: Bollard) -> Error {
        match refusal(&error) {
            Some((404, said)) if said.to_ascii_lowercase().contains("no such container") => {
                Error::NoSuchContainer(container.to_owned())
            }
            _ => self.failed(operation, error),
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

/// The exit status of `docker run` for a program that cannot be executed, by its own rule: 127 if it does not
/// exist, 126 if it is not executable. `None` for every other refusal, which is 125 there.
fn exec_status(said: &str) -> Option<i64> {
    const MISSING: [&str; 2] = ["executable file not found", "no such file or directory"];
    const FORBIDDEN: [&str; 2] = ["permission denied", "is a directory"];
    // The OCI runtime crun begins such words with a capital letter.
    let said = said.to_ascii_lowercase();
    let is_any = |of: [&str; 2]| of.iter().any(|part| said.contains(part));
    // A mount can fail with the same message, together with paths of the host.
    match said.contains("mount") {
        true => None,
        false if is_any(MISSING) => Some(127),
        false => is_any(FORBIDDEN).then_some(126),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
            (
                "crun: executable file `/nope` not found: No such file or directory: OCI runtime attempted to \
                 invoke a command that was not found",
                Some(127),
            ),
            ("cannot join the network", None),
        ] {
            assert_eq!(exec_status(said), status, "{said}");
        }
    }
}
