//! Finds the process that works on the build path: the daemon that holds it, else this process.
//!
//! Other commands of `mistryd` send their requests to that daemon, so that two never work on one path.

use std::path::Path;
use std::time::Duration;

use super::assemble::assemble;
use super::error::Error;
use crate::build::{self, BuildStore, holder};
use crate::client::{Address, Client};
use crate::config::Config;
use crate::filesystem::Filesystem;
use crate::metrics::Metrics;
use crate::scheduler::Scheduler;

/// At the end, only tasks left by a panic can still run.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// The worker.
pub(super) enum Worker {
    /// The daemon that holds the build path.
    Daemon(Client),
    /// This process, which holds the lock for now.
    Own(Scheduler),
}

impl Worker {
    /// The daemon, or the lock of the build path.
    pub(super) async fn find(
        config: &Config,
        filesystem: Filesystem,
        docker: &Path,
    ) -> Result<Worker, Error> {
        // If systemd holds the sockets, the first request starts the daemon, and it runs as its own user, not
        // as ours; if we took the path instead, clients would find it locked.
        if let Some(client) = daemon(config).filter(|_| is_activated(config)) {
            // A socket without a listening process is no daemon; then we lock the path ourselves.
            let _ = client.status().await;
        }
        match BuildStore::open(&config.build_path, filesystem) {
            Ok(store) => {
                let metrics = Metrics::new().map_err(Error::Metrics)?;
                Ok(Worker::Own(assemble(config, store, docker, metrics)?))
            }
            Err(held @ build::Error::Held { .. }) => match daemon(config) {
                Some(client) => Ok(Worker::Daemon(client)),
                None => Err(held.into()),
            },
            Err(error) => Err(error.into()),
        }
    }

    /// Must be called at the end.
    pub(super) async fn end(self) {
        if let Worker::Own(scheduler) = self {
            scheduler.drain(DRAIN_TIMEOUT).await;
        }
    }
}

/// The daemon that the build path's lock file names.
fn daemon(config: &Config) -> Option<Client> {
    let holder = holder(&config.build_path)?;
    let address = holder.address.as_deref()?;
    let address = match address.parse() {
        Ok(unix @ Address::Unix(_)) => unix,
        _ => {
            let (host, port) = address.rsplit_once(':')?;
            Address::tcp(host, port.parse().ok()?).ok()?
        }
    };
    Some(Client::new(address, holder.token))
}

fn is_activated(config: &Config) -> bool {
    holder(&config.build_path).is_some_and(|holder| holder.activated)
}
