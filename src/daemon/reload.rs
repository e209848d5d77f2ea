//! `SIGHUP`: reads the configuration again and applies the settings that can change at run time.
//!
//! An invalid file changes nothing. Nor does one with another path of projects or builds: that would be
//! another daemon, and takes a restart.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::Signal;
use tokio::sync::{mpsc, watch};

use super::assemble::{access, open_tokens, scheduler_config, warn_of_registry_auth};
use super::error::{Error, with_causes};
use super::notify::notify;
use crate::config::{self, Config};
use crate::dbus::{Dbus, Reload};
use crate::scheduler::Scheduler;
use crate::systemd;
use crate::web::{TokensFile, Web};

const RELOADED: &str = "f10f5750e1ff46008359a3660c4386e0";
const NOT_RELOADED: &str = "93a1cf23a5dc4e46942f529f3b027c30";

/// The state that it changes.
pub(super) struct Reloading {
    /// The current values.
    pub(super) config: Config,
    pub(super) scheduler: Scheduler,
    pub(super) web: Web,
    pub(super) bus: Dbus,
    /// The token of this process.
    pub(super) secret: String,
    pub(super) idle_exit: watch::Sender<Option<Duration>>,
    /// Why the file could not be reloaded; `None` when it is applied.
    pub(super) failure: watch::Sender<Option<String>>,
}

impl Reloading {
    /// Reads the file again on each SIGHUP or request of a D-Bus client.
    pub(super) async fn handle_requests(
        &mut self,
        hangup: &mut Signal,
        requests: &mut mpsc::Receiver<Reload>,
    ) -> Infallible {
        loop {
            let requester = tokio::select! {
                _ = hangup.recv() => None,
                Some(requester) = requests.recv() => Some(requester),
            };
            let reloaded = self.reload().await;
            if let Some(requester) = requester {
                // The client may have disconnected.
                let _ = requester.send(reloaded);
            }
        }
    }

    /// Reads the file again and applies it, or reports why not: in the journal, and in one sentence to the
    /// client.
    async fn reload(&mut self) -> Result<(), String> {
        notify(systemd::reloading).await;
        let path = self.config.path.clone();
        let read = tokio::task::spawn_blocking(move || read(&path)).await;
        let result = match read {
            Ok(Ok((config, tokens))) => self.apply(config, tokens),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(Error::Lost),
        };
        let outcome = match result {
            Ok(()) => {
                self.failure.send_replace(None);
                tracing::info!(
                    message_id = RELOADED,
                    mistry_event = "reloaded",
                    "the configuration '{}' was read again and is in force",
                    self.config.path.display()
                );
                Ok(())
            }
            Err(error) => {
                let reason = with_causes(&error);
                tracing::error!(
                    message_id = NOT_RELOADED,
                    mistry_event = "not-reloaded",
                    "the configuration stays as it was: {reason}"
                );
                self.failure.send_replace(Some(reason.clone()));
                Err(reason)
            }
        };
        notify(systemd::ready).await;
        outcome
    }

    fn apply(&mut self, new: Config, tokens: Option<Arc<TokensFile>>) -> Result<(), Error> {
        let old = &self.config;
        for (key, changed) in [
            ("projects_path", new.projects_path != old.projects_path),
            ("build_path", new.build_path != old.build_path),
            ("filesystem", new.filesystem != old.filesystem),
        ] {
            if changed {
                return Err(Error::Fixed {
                    key,
                    path: new.path,
                });
            }
        }
        self.scheduler.set_config(scheduler_config(&new));
        self.web.change(access(&new, tokens, &self.secret));
        self.bus.open_to_all(new.public == config::Public::Read);
        self.idle_exit.send_replace(new.idle_exit);
        self.config = new;
        Ok(())
    }
}

/// Blocks.
fn read(path: &std::path::Path) -> Result<(Config, Option<Arc<TokensFile>>), Error> {
    let config = Config::read(path)?;
    let tokens = open_tokens(&config)?;
    warn_of_registry_auth(&config);
    Ok((config, tokens))
}
