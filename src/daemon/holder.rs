//! Who works on the build path: the daemon that holds it, where there is one, else we ourselves.
//!
//! What `mistryd` does besides serving is asked of that daemon, so that two never work on one path.

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

/// When we end, nothing of ours is under way any more but what a panic left.
const GRACE: Duration = Duration::from_secs(5);

/// Who does it.
pub(super) enum Worker {
    /// The daemon that holds the build path.
    Daemon(Client),
    /// We ourselves, for the time being.
    Own(Scheduler),
}

impl Worker {
    /// The daemon, or the lock of the build path.
    pub(super) async fn find(
        config: &Config,
        filesystem: Filesystem,
        docker: &Path,
    ) -> Result<Worker, Error> {
        // Where systemd holds the sockets, the daemon is there as soon as it is asked, and it works
        // for its own user, not for ours; without it, clients would find the build path taken.
        if let Some(client) = daemon(config).filter(|_| is_activated(config)) {
            // A socket that no process holds any more is no daemon; then we take its place.
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

    /// To be called at the end.
    pub(super) async fn end(self) {
        if let Worker::Own(scheduler) = self {
            scheduler.drain(GRACE).await;
        }
    }
}

/// The daemon that says it holds the build path.
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
