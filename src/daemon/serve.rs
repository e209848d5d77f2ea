//! The running daemon: started in order, monitored until it is told to stop, stopped in order.
//!
//! Readiness never waits for the index, the Engine, or the jobs of an earlier process: only a request that
//! needs one of them waits for it.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::assemble::{access, assemble, policy};
use super::check;
use super::error::{EXIT_START_AGAIN, Error};
use super::idle::{self, Closed, Interfaces};
use super::listen::Listening;
use super::notify::notify;
use super::reload::Reloading;
use super::{status, watchdog};
use crate::build::{BuildStore, Holder, random_hex};
use crate::config::{self, Config};
use crate::dbus::{self, Bus, Dbus, Reload, StaticInfo};
use crate::filesystem::Filesystem;
use crate::metrics::Metrics;
use crate::scheduler::Scheduler;
use crate::systemd::{self, Socket};
use crate::web::{self, Listener, TokensFile, Web};

/// Time for the work of builds between two awaits when the daemon stops: write a record, clone a tree.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);

const SERVING: &str = "03ad2c8104284b9f899695452143b987";
const STOPPING: &str = "8dbb612cd34d4078ba151159d4e5cd82";
const IDLE: &str = "a22b43c71a9948ee934e1926106d92dd";

/// The Docker network mode with the network of this host.
const HOST_NETWORK: &str = "host";

/// The options of serving from the command line.
pub(super) struct ServeOptions<'a> {
    pub(super) address: Option<&'a str>,
    pub(super) bus: Bus,
}

/// Why the daemon stops regularly.
enum Ending {
    /// SIGTERM or SIGINT.
    Signal,
    /// It had no work for the configured time.
    Idle(Closed),
}

/// The signals that the daemon handles.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

/// The server, assembled and not started.
struct Server {
    scheduler: Scheduler,
    web: Web,
    bus: Dbus,
    reload_requests: mpsc::Receiver<Reload>,
    interfaces: Interfaces,
    listeners: Vec<Listener>,
    is_inherited: bool,
    reloading: Reloading,
    stop: CancellationToken,
}

/// Serves until a signal comes, or until there was no work for the configured time.
pub(super) async fn serve(
    config: Config,
    filesystem: Filesystem,
    docker: &Path,
    tokens: Option<Arc<TokensFile>>,
    sockets: &mut Vec<Socket>,
    options: ServeOptions<'_>,
) -> Result<ExitCode, Error> {
    // The lock comes first: a second daemon must not touch the builds of the first one.
    let store = BuildStore::open(&config.build_path, filesystem)?;
    let listening = Listening::begin(std::mem::take(sockets), options.address).await?;
    let secret = random_hex().map_err(|error| Error::System("make a token", error))?;
    write_holder(&store, &listening, &secret)?;
    let metrics = Metrics::new().map_err(Error::Metrics)?;
    let scheduler = assemble(&config, store, docker, metrics.clone())?;
    let stop = CancellationToken::new();
    let access = access(&config, tokens, &secret);
    let web = Web::new(scheduler.clone(), metrics, access, stop.clone());
    let static_info = StaticInfo {
        projects_path: config.projects_path.clone(),
        build_path: config.build_path.clone(),
        filesystem: filesystem.name(),
    };
    let (bus, reload_requests) = Dbus::new(scheduler.clone(), static_info, options.bus);
    bus.open_to_all(config.public == config::Public::Read);
    let signals = Signals::handled()?;
    log_start(&config, filesystem, &listening);
    let limit = config.idle_exit.filter(|_| listening.inherited);
    let server = Server {
        reload_requests,
        interfaces: Interfaces {
            web: web.accept_control(),
            bus: bus.control(),
        },
        listeners: listening.listeners,
        is_inherited: listening.inherited,
        reloading: Reloading {
            config,
            scheduler: scheduler.clone(),
            web: web.clone(),
            bus: bus.clone(),
            secret,
            idle_exit: watch::channel(limit).0,
            failure: watch::channel(None).0,
        },
        scheduler,
        web,
        bus,
        stop,
    };
    server.run(signals).await
}

/// Writes the address for programs on this host into the lock file.
fn write_holder(store: &BuildStore, listening: &Listening, secret: &str) -> Result<(), Error> {
    let written = store.announce(&Holder {
        pid: std::process::id(),
        address: listening.address(),
        token: Some(secret.to_owned()),
        activated: listening.inherited,
    });
    match written {
        // Cached builds can be served on a full disk.
        Err(error) if error.is_full() => tracing::error!(
            error = &error as &dyn std::error::Error,
            "the disk is full: cached builds are served; mistryd rebuild does not find this daemon"
        ),
        written => written?,
    }
    Ok(())
}

impl Signals {
    fn handled() -> Result<Signals, Error> {
        let handler =
            |kind| signal(kind).map_err(|error| Error::System("listen for signals", error));
        Ok(Signals {
            terminate: handler(SignalKind::terminate())?,
            interrupt: handler(SignalKind::interrupt())?,
            hangup: handler(SignalKind::hangup())?,
        })
    }
}

impl Server {
    async fn run(self, signals: Signals) -> Result<ExitCode, Error> {
        let Server {
            scheduler,
            interfaces,
            mut reloading,
            mut reload_requests,
            stop,
            ..
        } = self;
        let Signals {
            terminate,
            interrupt,
            mut hangup,
        } = signals;
        let idle_exit = reloading.idle_exit.subscribe();
        let reload_failure = reloading.failure.subscribe();
        let mut serving = Box::pin(web::serve(self.listeners, self.web));
        let mut on_bus = Box::pin(dbus::serve(self.bus, stop.clone()));
        notify(systemd::ready).await;
        let is_inherited = self.is_inherited;
        let idle = until_idle(&scheduler, &interfaces, idle_exit, is_inherited);
        let ending = tokio::select! {
            () = until_signal(terminate, interrupt) => Ending::Signal,
            closed = idle => Ending::Idle(closed?),
            // Both end when `stop` is cancelled, which happens later: until then an end is an error.
            served = &mut serving => {
                scheduler.drain(DRAIN_TIMEOUT).await;
                served.map_err(|error| Error::System("accept connections", error))?;
                return Err(Error::Ended("HTTP"));
            }
            () = &mut on_bus => {
                scheduler.drain(DRAIN_TIMEOUT).await;
                return Err(Error::Ended("D-Bus"));
            }
            never = watchdog::keep_alive(&interfaces.web, &scheduler) => match never {},
            never = status::send_changes(scheduler.activity(), reload_failure) => match never {},
            never = reloading.handle_requests(&mut hangup, &mut reload_requests) => match never {},
        };
        let code = ending.log().await;
        // Clients that wait for a reload get an error.
        drop(reload_requests);
        stop.cancel();
        // The scheduler answers waiting clients, and the interfaces stay open until the answers are sent.
        let (drained, served, ()) = tokio::join!(scheduler.drain(DRAIN_TIMEOUT), serving, on_bus);
        if !drained {
            tracing::warn!("some builds did not stop in time; the next start takes them over");
        }
        served.map_err(|error| Error::System("accept connections", error))?;
        Ok(code)
    }
}

async fn until_signal(mut terminate: Signal, mut interrupt: Signal) {
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}

/// Takes over the jobs of an earlier process first: until then the daemon does not count as idle. Then waits
/// until there was no work for the configured time.
async fn until_idle(
    scheduler: &Scheduler,
    interfaces: &Interfaces,
    idle_exit: watch::Receiver<Option<Duration>>,
    is_inherited: bool,
) -> Result<Closed, Error> {
    scheduler.adopt().await.map_err(Error::Adoption)?;
    match is_inherited {
        true => Ok(idle::close_when_idle(interfaces, scheduler.activity(), idle_exit).await),
        // The daemon would not be started again.
        false => std::future::pending().await,
    }
}

impl Ending {
    /// Writes the reason to the journal, notifies systemd, and returns the exit status.
    async fn log(self) -> ExitCode {
        match self {
            Ending::Signal => {
                tracing::info!(
                    message_id = STOPPING,
                    mistry_event = "stopping",
                    "stopping; running builds continue, and the next start follows them"
                );
                notify(|| systemd::stopping("stopping; running builds continue")).await;
                ExitCode::SUCCESS
            }
            Ending::Idle(Closed::Idle) => {
                tracing::info!(
                    message_id = IDLE,
                    mistry_event = "idle",
                    "nothing to do: ending; the next client starts it again"
                );
                ExitCode::SUCCESS
            }
            Ending::Idle(Closed::Busy) => {
                tracing::info!(
                    message_id = STOPPING,
                    mistry_event = "stopping",
                    "ending because there is nothing to do, but a client came at the last moment: must be started again"
                );
                ExitCode::from(EXIT_START_AGAIN)
            }
        }
    }
}

fn log_start(config: &Config, filesystem: Filesystem, listening: &Listening) {
    for address in &listening.tcp {
        if !address.ip().is_loopback() && config.auth_tokens_file.is_none() {
            tracing::warn!(
                "every client that can reach {address} may start builds, and so run programs on this host: set auth_tokens_file, or listen on 127.0.0.1"
            );
        }
    }
    let on_loopback = listening
        .tcp
        .iter()
        .find(|address| address.ip().is_loopback());
    if let Some(address) = on_loopback
        && config.auth_tokens_file.is_none()
        && config.network == HOST_NETWORK
    {
        tracing::warn!(
            "builds have this host's network ('network' is '{HOST_NETWORK}'), so that they can read and command this server at {address}, where no token is needed: set auth_tokens_file, or \"network\": \"bridge\""
        );
    }
    if config.idle_exit.is_some() && !listening.inherited {
        tracing::warn!(
            "'idle_exit' is set, but has no effect here: without sockets held by systemd nothing would start mistryd again"
        );
    }
    if let Some(gc) = &config.gc
        && !policy(gc).has_rule()
    {
        tracing::warn!("{}", check::NO_RULE);
    }
    tracing::info!(
        message_id = SERVING,
        mistry_event = "serving",
        "serving on {}; projects in '{}', builds in '{}' ({}), {} at once, {} waiting",
        listening.shown.join(" and "),
        config.projects_path.display(),
        config.build_path.display(),
        filesystem.name(),
        config.job_concurrency,
        config.job_backlog,
    );
}
