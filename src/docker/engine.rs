//! The connection to one Docker Engine: it agrees on an API version, and bounds the time of each call.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bollard::errors::Error as Bollard;
use bollard::models::{SystemInfoCgroupDriverEnum, SystemVersion};

use parking_lot::{Mutex, MutexGuard};
use tokio_util::task::TaskTracker;

use super::counter::Counter;
use super::dialect::Dialect;
use super::error::{Cause, Error};
use super::failed_pulls::FailedPulls;

/// The Engine's default socket.
pub const DEFAULT_SOCKET: &str = "/var/run/docker.sock";

/// How long [`Docker::ping`] waits: a working Engine answers within milliseconds even on a busy host, and a
/// client should soon get a clear error.
pub const PING_TIMEOUT: Duration = Duration::from_secs(2);

/// How long an ordinary call may take. Starting or removing a container on a host whose disk is saturated
/// takes tens of seconds; after two minutes the Engine counts as hanging.
pub(super) const CALL_TIMEOUT: Duration = Duration::from_secs(120);

/// The HTTP client's time limit for the first byte of an answer, in seconds: a year, because image builds and
/// builds have no such limit, and shorter waits are bounded in this module.
const STREAM_TIMEOUT_SECONDS: u64 = 365 * 24 * 3600;

/// A handle to a Docker Engine; clones share it.
#[derive(Debug, Clone)]
pub struct Docker {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    socket: String,
    /// The client that has agreed on an API version; `None` until an Engine has answered, and again after it
    /// was gone, since the next one may have another version.
    negotiated: Mutex<Option<Agreed>>,
    /// Containers whose output is counted, until they are removed; see [`super::line_ends`].
    counters: Mutex<HashMap<String, Counter>>,
    failed_pulls: Mutex<FailedPulls>,
    /// Tasks with a child process.
    children: TaskTracker,
}

/// The version agreed on with an Engine, and the Engine's properties.
#[derive(Debug, Clone)]
struct Agreed {
    client: bollard::Docker,
    dialect: Dialect,
    /// The Engine's own words about its version.
    version: SystemVersion,
    /// `None` until requested.
    traits: Option<Traits>,
}

/// The differences between Engines that matter to a new container.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Traits {
    /// systemd makes the cgroups of its containers: other cgroup drivers have no slices.
    pub(super) has_slices: bool,
    /// The user namespace in which container users are the same users of the host, if it is not the default.
    pub(super) user_namespace: Option<&'static str>,
    pub(super) dialect: Dialect,
}

impl Traits {
    /// Container users are other users of the host (`userns-remap`), unless told otherwise.
    pub(super) fn remaps_users(self) -> bool {
        self.user_namespace == Some("host")
    }
}

impl Docker {
    /// A handle to the Engine behind `socket`. Does not connect: the Engine may be started later.
    ///
    /// # Errors
    /// [`Error::Path`] when the path is not UTF-8.
    pub fn new(socket: &Path) -> Result<Docker, Error> {
        let path = utf8(socket)?;
        let shared = Shared {
            socket: path,
            negotiated: Mutex::new(None),
            counters: Mutex::default(),
            failed_pulls: Mutex::default(),
            children: TaskTracker::new(),
        };
        Ok(Docker {
            shared: Arc::new(shared),
        })
    }

    /// Whether the Engine answers. Notices that another one answers now.
    ///
    /// # Errors
    /// [`Error::Unreachable`] within [`PING_TIMEOUT`] when it does not; [`Error::Unsupported`].
    pub async fn ping(&self) -> Result<(), Error> {
        let operation = "checking whether it answers";
        let Some(client) = self.negotiated() else {
            return self.negotiate(operation).await.map(drop);
        };
        let version = self.ask_version(operation, &client).await?;
        let is_another = |agreed: &Agreed| agreed.version != version;
        // It may have been replaced without a call that failed meanwhile.
        if self.slot().as_ref().is_none_or(is_another) {
            self.negotiate(operation).await?;
        }
        Ok(())
    }

    /// The Engine's version, as in `20.10.24`.
    ///
    /// # Errors
    /// [`Error::Unreachable`], [`Error::Api`].
    pub async fn version(&self) -> Result<String, Error> {
        let operation = "asking for its version";
        let answer = self.call(operation, async |docker| docker.version().await);
        let answer = answer.await?.map_err(|e| self.failed(operation, e))?;
        answer.version.ok_or_else(|| Error::Api {
            operation: operation.to_owned(),
            source: "the answer holds no version".into(),
        })
    }

    /// The names of its networks.
    ///
    /// # Errors
    /// [`Error::Unreachable`], [`Error::Api`].
    pub async fn networks(&self) -> Result<Vec<String>, Error> {
        let operation = "asking for its networks";
        let answer = self.call(operation, async |docker| docker.list_networks(None).await);
        let networks = answer.await?.map_err(|e| self.failed(operation, e))?;
        Ok(networks
            .into_iter()
            .filter_map(|network| network.name)
            .collect())
    }

    /// One ordinary call, bounded in time. The inner result is the Engine's answer, for callers that
    /// distinguish refusals; [`Docker::failed`] converts all other errors.
    pub(super) async fn call<T>(
        &self,
        operation: &str,
        ask: impl AsyncFnOnce(&bollard::Docker) -> Result<T, Bollard>,
    ) -> Result<Result<T, Bollard>, Error> {
        let client = self.client(operation).await?;
        self.within(CALL_TIMEOUT, operation, ask(&client)).await
    }

    pub(super) async fn within<T>(
        &self,
        timeout: Duration,
        operation: &str,
        answer: impl Future<Output = T>,
    ) -> Result<T, Error> {
        let answer = tokio::time::timeout(timeout, answer).await;
        answer.map_err(|late| self.unreachable(operation, late.into()))
    }

    /// A client with an API version that the Engine supports.
    pub(super) async fn client(&self, operation: &str) -> Result<bollard::Docker, Error> {
        match self.negotiated() {
            Some(client) => Ok(client),
            None => self.negotiate(operation).await,
        }
    }

    /// Agrees on an API version: old Engines refuse newer versions than theirs, new Engines very old ones,
    /// and only this request needs no version.
    async fn negotiate(&self, operation: &str) -> Result<bollard::Docker, Error> {
        let client = self.connect(operation).await?;
        let version = self.ask_version(operation, &client).await?;
        let dialect = Dialect::of(&version).map_err(Error::Unsupported)?;
        *self.slot() = Some(Agreed {
            client: client.clone(),
            dialect,
            version,
            traits: None,
        });
        Ok(client)
    }

    async fn ask_version(
        &self,
        operation: &str,
        client: &bollard::Docker,
    ) -> Result<SystemVersion, Error> {
        let version = self.within(PING_TIMEOUT, operation, client.version());
        version.await?.map_err(|e| self.failed(operation, e))
    }

    /// The dialect of the Engine that was agreed with last; Docker's if there is none.
    pub(super) fn dialect(&self) -> Dialect {
        self.slot()
            .as_ref()
            .map(|agreed| agreed.dialect)
            .unwrap_or_default()
    }

    /// Whether the log driver leaves line ends out.
    pub(super) fn leaves_line_ends_out(&self) -> bool {
        self.slot().as_ref().is_some_and(|agreed| {
            let api = agreed.client.client_version();
            agreed.dialect.leaves_line_ends_out(&api)
        })
    }

    /// A client with a new connection, which has agreed on a version.
    async fn connect(&self, operation: &str) -> Result<bollard::Docker, Error> {
        let newest = bollard::API_DEFAULT_VERSION;
        let client =
            bollard::Docker::connect_with_unix(&self.shared.socket, STREAM_TIMEOUT_SECONDS, newest)
                .map_err(|e| self.failed(operation, e))?;
        self.within(PING_TIMEOUT, operation, client.negotiate_version())
            .await?
            .map_err(|e| self.failed(operation, e))
    }

    /// Whether the Engine accepts new connections.
    ///
    /// An Engine that is stopped closes its socket first, then ends its containers, and answers on existing
    /// connections until it exits. So this always opens a new connection.
    ///
    /// # Errors
    /// [`Error::Unreachable`] within [`PING_TIMEOUT`] when it does not; [`Error::Api`].
    pub async fn accepts(&self) -> Result<(), Error> {
        self.connect("asking whether it is about to end")
            .await
            .map(drop)
    }

    /// The Engine's properties. Requested once per Engine.
    pub(super) async fn traits(&self) -> Result<Traits, Error> {
        let operation = "asking for its cgroup driver";
        if let Some(known) = self.slot().as_ref().and_then(|agreed| agreed.traits) {
            return Ok(known);
        }
        let answer = self.call(operation, async |docker| docker.info().await);
        let info = answer.await?.map_err(|e| self.failed(operation, e))?;
        let options = info.security_options.unwrap_or_default();
        let dialect = self.dialect();
        let traits = Traits {
            has_slices: info.cgroup_driver == Some(SystemInfoCgroupDriverEnum::SYSTEMD),
            user_namespace: dialect.user_namespace(&options),
            dialect,
        };
        if let Some(agreed) = self.slot().as_mut() {
            agreed.traits = Some(traits);
        }
        Ok(traits)
    }

    pub(super) fn negotiated(&self) -> Option<bollard::Docker> {
        self.slot().as_ref().map(|agreed| agreed.client.clone())
    }

    fn slot(&self) -> MutexGuard<'_, Option<Agreed>> {
        self.shared.negotiated.lock()
    }

    /// The path of the Engine's socket.
    pub(super) fn socket(&self) -> &str {
        &self.shared.socket
    }

    /// Returns when no child process of this handle is left. None may be started after this.
    pub async fn drained(&self) {
        self.shared.children.close();
        self.shared.children.wait().await;
    }

    pub(super) fn children(&self) -> &TaskTracker {
        &self.shared.children
    }

    pub(super) fn counters(&self) -> MutexGuard<'_, HashMap<String, Counter>> {
        self.shared.counters.lock()
    }

    pub(super) fn failed_pulls(&self) -> MutexGuard<'_, FailedPulls> {
        self.shared.failed_pulls.lock()
    }

    pub(super) fn unreachable(&self, operation: &str, source: Cause) -> Error {
        *self.slot() = None;
        Error::Unreachable {
            socket: PathBuf::from(&self.shared.socket),
            operation: operation.to_owned(),
            source,
        }
    }

    /// Converts the error of a failed call for which the caller has no better meaning.
    pub(super) fn failed(&self, operation: &str, error: Bollard) -> Error {
        match error {
            Bollard::SocketNotFoundError(_)
            | Bollard::RequestTimeoutError
            | Bollard::HyperLegacyError { .. }
            | Bollard::HyperResponseError { .. }
            | Bollard::IOError { .. } => self.unreachable(operation, error.into()),
            other => {
                // "client version 1.41 is too old": the Engine was upgraded between two calls.
                if refusal(&other).is_some_and(|(_, said)| said.contains("client version")) {
                    *self.slot() = None;
                }
                match refusal(&other) {
                    Some((status, said)) if self.dialect().is_refused_setting(status, said) => {
                        return Error::Refused {
                            operation: operation.to_owned(),
                            said: said.to_owned(),
                        };
                    }
                    _ => {}
                }
                Error::Api {
                    operation: operation.to_owned(),
                    source: other.into(),
                }
            }
        }
    }
}

/// Status and message, if the Engine has refused the request.
pub(super) fn refusal(error: &Bollard) -> Option<(u16, &str)> {
    match error {
        Bollard::DockerResponseServerError {
            status_code,
            message,
        } => Some((*status_code, message)),
        _ => None,
    }
}

pub(super) fn utf8(path: &Path) -> Result<String, Error> {
    let text = path.to_str().map(str::to_owned);
    text.ok_or_else(|| Error::Path(path.to_owned()))
}

/// The filter for all objects that carry these labels with these values.
pub(super) fn label_filter(labels: &Labels) -> Vec<String> {
    labels
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect()
}

pub(super) type Labels = std::collections::BTreeMap<String, String>;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::docker::ImageSpec;

    #[tokio::test]
    async fn a_missing_socket_is_an_unreachable_engine() {
        let docker = Docker::new(Path::new("/nonexistent/docker.sock")).unwrap();
        let error = docker.ping().await.unwrap_err();
        assert!(matches!(error, Error::Unreachable { .. }), "{error:?}");
    }

    #[tokio::test]
    async fn a_socket_that_no_process_serves_is_an_unreachable_engine() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("docker.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let docker = Docker::new(&path).unwrap();
        let error = docker.version().await.unwrap_err();
        assert!(matches!(error, Error::Unreachable { .. }), "{error:?}");
    }

    #[tokio::test]
    async fn a_silent_engine_is_unreachable_after_the_timeout() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("docker.sock");
        let _silent = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let docker = Docker::new(&path).unwrap();
        let asked = tokio::time::Instant::now();
        let error = docker.ping().await.unwrap_err();
        assert!(matches!(error, Error::Unreachable { .. }), "{error:?}");
        assert!(asked.elapsed() <= PING_TIMEOUT + Duration::from_secs(1));
    }

    #[test]
    fn every_call_can_be_spawned() {
        fn check<T: Send>(_: T) {}
        let docker = Docker::new(Path::new(DEFAULT_SOCKET)).unwrap();
        let labels = Labels::new();
        let (output, _) = tokio::sync::mpsc::channel(1);
        let spec = ImageSpec {
            tag: String::new(),
            labels: Labels::new(),
            build_args: Labels::new(),
            optional_args: Vec::new(),
            target: String::new(),
            registries: crate::docker::Registries::default(),
            network: String::new(),
            fresh: true,
            builder: crate::docker::Builder::Auto,
            dockerfile: crate::docker::Dockerfile::default(),
            secrets: crate::docker::BuildSecrets::default(),
            scratch: PathBuf::new(),
        };
        check(docker.ping());
        check(docker.images());
        check(docker.build_image(&spec, |_| futures_util::stream::empty(), output));
        check(docker.start("c"));
        let over = tokio_util::sync::CancellationToken::new();
        check(docker.logs("c", over));
        check(docker.wait("c"));
        check(docker.containers(&labels));
    }
}
