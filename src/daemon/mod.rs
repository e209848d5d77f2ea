//! The daemon: assembled, announced, served, ended. The only place where all rooms meet.
//!
//! [`run`] tells the story in order. Readiness never waits for the index, the Engine, or what
//! an earlier process left: a request that needs one of them waits for it alone.

mod args;
mod gc;
mod holder;
mod idle;
mod listen;
mod rebuild;
mod reload;
mod status;
mod token;
mod watchdog;

pub use self::args::{Command, is_confinement};
pub use crate::filesystem::confine;

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use self::args::Verb;
use self::idle::{Doors, Left};
use self::listen::{DEFAULT_ADDRESS, Listening};
use self::reload::Reloading;
use crate::build::{self, BuildStore, Holder, random_hex};
use crate::config::{self, Config};
use crate::dbus::{self, Bus, Dbus, Facts};
use crate::docker::{self, Docker};
use crate::filesystem::{self, Filesystem};
use crate::metrics::Metrics;
use crate::project::Projects;
use crate::scheduler::{self, Scheduler, SchedulerConfig};
use crate::screen;
use crate::systemd::{self, Socket};
use crate::turns;
use crate::web::{self, Access, Proxies, Scope, Token, TokensFile, Web};

/// The exit status of a wrong configuration: `EX_CONFIG` of sysexits(3).
const WRONG_CONFIG: u8 = 78;
/// The exit status of a daemon that has something to do and was ending all the same: `EX_TEMPFAIL` of
/// sysexits(3). mistryd.service starts it again.
const START_AGAIN: u8 = 75;
/// The exit status of a wrong command line, as clap has it.
const WRONG_USAGE: u8 = 2;
/// What builds do between two awaits when the daemon ends: write a record, clone a tree.
const GRACE: Duration = Duration::from_secs(10);
/// What may still hang then is a thread in the kernel; it must not keep the process.
const THREADS_GRACE: Duration = Duration::from_secs(1);
/// Our umask: what a build leaves is for our user and group.
const UMASK: u32 = 0o027;
/// With clients at the door, a daemon that cannot start tells them so for this long before it ends:
/// their coming starts it again, and so that happens once in this time, however many come.
const TURNING_AWAY: Duration = Duration::from_secs(5);
/// What they are told; where the reason is, only those on the host may read.
const CANNOT_START: &str =
    "mistryd cannot start; the administrator of the host sees why with: journalctl -u mistryd";
/// What is read where systemd keeps the tokens from us: `LoadCredential=` of mistryd.service.
const TOKENS_CREDENTIAL: &str = "tokens";

const SERVING: &str = "03ad2c8104284b9f899695452143b987";
const STOPPING: &str = "8dbb612cd34d4078ba151159d4e5cd82";
const IDLE: &str = "a22b43c71a9948ee934e1926106d92dd";
const MISCONFIGURED: &str = "d1c53a7e64f84b0f9be0a8123f57c9e4";

/// The Docker network mode in which a build has the network of this host.
const HOST_NETWORK: &str = "host";

/// Where the Engine is, when it is elsewhere.
const DOCKER_HOST: &str = "DOCKER_HOST";

/// Why the daemon could not do its work.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    NoConfig(#[from] args::NoConfig),
    #[error(transparent)]
    Config(#[from] config::Error),
    #[error(transparent)]
    Inherited(#[from] systemd::Error),
    #[error(transparent)]
    Tokens(#[from] web::TokensError),
    #[error("the configuration '{}' names another {key} than the one in force: restart mistryd for that", path.display())]
    Fixed { key: &'static str, path: PathBuf },
    #[error("a thread of ours ended without a word")]
    Lost,
    #[error("the interface {0} ended, which nothing had asked for")]
    Ended(&'static str),
    #[error(transparent)]
    Filesystem(#[from] filesystem::Error),
    #[error(transparent)]
    Store(#[from] build::Error),
    #[error(transparent)]
    Docker(#[from] docker::Error),
    #[error("DOCKER_HOST: expected unix:///PATH, found '{0}'")]
    DockerHost(String),
    #[error("could not make the metrics")]
    Metrics(#[source] crate::metrics::Error),
    #[error("could not take over what an earlier process left")]
    Adoption(#[source] scheduler::Error),
    #[error("--addr: expected HOST:PORT such as {DEFAULT_ADDRESS}, found '{0}'")]
    Address(String),
    #[error("could not listen on '{0}'")]
    Listen(String, #[source] io::Error),
    #[error("could not {0}")]
    System(&'static str, #[source] io::Error),
}

impl Error {
    /// Not to be tried again before something was changed.
    fn is_configuration(&self) -> bool {
        match self {
            Error::NoConfig(_)
            | Error::Config(_)
            | Error::Inherited(_)
            | Error::Tokens(_)
            | Error::Filesystem(_)
            | Error::DockerHost(_) => true,
            Error::Store(error) => error.is_full(),
            _ => false,
        }
    }

    fn exit(&self) -> ExitCode {
        match self {
            error if error.is_configuration() => ExitCode::from(WRONG_CONFIG),
            Error::Address(_) => ExitCode::from(WRONG_USAGE),
            _ => ExitCode::FAILURE,
        }
    }
}

/// The sockets that systemd gave us, and whether all that it gave us are.
pub type Inherited = (Vec<Socket>, Result<(), systemd::Error>);

/// Does what the command line asks, at the sockets that systemd gave us; what goes wrong is told on
/// standard error, or to systemd and the journal where they started us.
pub fn run(command: Command, inherited: Inherited) -> ExitCode {
    let (mut sockets, in_order) = inherited;
    let result = in_order
        .map_err(Error::from)
        .and_then(|()| perform(command, &mut sockets));
    let error = match result {
        Ok(code) => return code,
        Err(error) => error,
    };
    let told = told(&error);
    if systemd::is_watching() {
        match error.is_configuration() {
            true => tracing::error!(
                message_id = MISCONFIGURED,
                mistry_event = "misconfigured",
                "mistryd cannot start: {told}"
            ),
            false => tracing::error!("mistryd ends: {told}"),
        }
        // If this fails, there is no other place to tell it.
        let _ = systemd::status(&told);
    } else {
        say(&told);
    }
    // At a socket that cannot be served an unseen client may wait, and start us again.
    let is_blind = matches!(error, Error::Inherited(_)) && systemd::is_watching();
    if is_blind || systemd::is_awaited(&sockets) {
        turn_away(sockets);
    }
    error.exit()
}

/// Tells those who wait at the door that it stays closed.
fn turn_away(sockets: Vec<Socket>) {
    let turned_away = runtime().and_then(|runtime| {
        runtime.block_on(async {
            let listeners: io::Result<Vec<_>> = sockets.into_iter().map(listen::listener).collect();
            let turning = async { web::turn_away(listeners?, CANNOT_START, TURNING_AWAY).await };
            turning
                .await
                .map_err(|error| Error::System("turn clients away", error))
        })
    });
    if let Err(error) = turned_away {
        tracing::error!("{}", told(&error));
    }
}

/// Prints what the command line was instead of a [`Command`]: help goes to standard output, mistakes to
/// standard error. A mistake quotes what was typed, which may come from elsewhere.
pub fn print_usage(error: &clap::Error) {
    let text = error.render();
    // Where one of the two cannot be written to, there is no reader.
    match error.use_stderr() && screen::is_steering(&text.ansi().to_string()) {
        true => _ = write!(io::stderr(), "{}", screen::line(&text.to_string())),
        false => _ = error.print(),
    }
}

/// One line on standard error. It may quote what a build, Docker or a client wrote.
fn say(line: &str) {
    // A standard error that is gone is no reason to fail.
    let _ = writeln!(io::stderr(), "mistryd: {}", screen::line(line));
}

/// One line on standard output, likewise.
fn tell(line: &str) {
    let _ = writeln!(io::stdout(), "{}", screen::line(line));
}

/// On the host itself, causes are told as well.
fn told(error: &dyn std::error::Error) -> String {
    let mut told = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        told = format!("{told}: {error}");
        cause = error.source();
    }
    told
}

fn perform(command: Command, sockets: &mut Vec<Socket>) -> Result<ExitCode, Error> {
    let config = Config::read(&command.config()?)?;
    let kind = command.filesystem.unwrap_or(config.filesystem);
    let filesystem = Filesystem::detect(kind, &config.build_path)?;
    let tokens = open_tokens(&config)?;
    let docker = docker_socket()?;
    if command.check_config {
        let path = config.path.display();
        tell(&format!("the configuration '{path}' is in order"));
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(Verb::Token(args::TokenVerb::New { name, scope })) = &command.verb {
        return token::new(&config, name, scope);
    }
    // Each connection and each build takes descriptors; the usual soft limit is for select(2).
    let mut files = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    if files.current != files.maximum {
        files.current = files.maximum;
        rustix::process::setrlimit(rustix::process::Resource::Nofile, files)
            .map_err(|error| Error::System("raise the limit of open files", error.into()))?;
    }
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(UMASK));
    let runtime = runtime()?;
    let result = runtime.block_on(async {
        match command.verb {
            Some(Verb::Rebuild(asked)) => rebuild::run(&config, filesystem, &docker, &asked).await,
            Some(Verb::Gc(asked)) => gc::run(&config, filesystem, &docker, &asked).await,
            _ => {
                let asked = Asked {
                    address: command.addr.as_deref(),
                    bus: match command.user_bus {
                        true => Bus::User,
                        false => Bus::System,
                    },
                };
                serve(config, filesystem, &docker, tokens, sockets, asked).await
            }
        }
    });
    runtime.shutdown_timeout(THREADS_GRACE);
    result
}

fn runtime() -> Result<tokio::runtime::Runtime, Error> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .max_blocking_threads(turns::THREADS)
        .build()
        .map_err(|error| Error::System("start the runtime", error))
}

/// What the command line says of how to serve.
struct Asked<'a> {
    address: Option<&'a str>,
    bus: Bus,
}

async fn serve(
    config: Config,
    filesystem: Filesystem,
    docker: &Path,
    tokens: Option<Arc<TokensFile>>,
    sockets: &mut Vec<Socket>,
    asked: Asked<'_>,
) -> Result<ExitCode, Error> {
    // The lock comes first: a second daemon must not touch what the first one builds.
    let store = BuildStore::open(&config.build_path, filesystem)?;
    let listening = Listening::begin(std::mem::take(sockets), asked.address).await?;
    let secret = random_hex().map_err(|error| Error::System("make a token", error))?;
    let announced = store.announce(&Holder {
        pid: std::process::id(),
        address: listening.address(),
        token: Some(secret.clone()),
        activated: listening.inherited,
    });
    match announced {
        // What is cached can be served without a byte of room.
        Err(error) if error.is_full() => tracing::error!(
            error = &error as &dyn std::error::Error,
            "the disk is full: cached builds are served; mistryd rebuild does not find this daemon"
        ),
        announced => announced?,
    }

    let metrics = Metrics::new().map_err(Error::Metrics)?;
    let scheduler = assemble(&config, store, docker, metrics.clone())?;
    let stop = CancellationToken::new();
    let access = access(&config, tokens, &secret);
    let web = Web::new(scheduler.clone(), metrics, access, stop.clone());
    let facts = Facts {
        projects_path: config.projects_path.clone(),
        build_path: config.build_path.clone(),
        filesystem: filesystem.name(),
    };
    let (bus, mut reloads_asked) = Dbus::new(scheduler.clone(), facts, asked.bus);
    bus.open_to_all(config.public == config::Public::Read);
    let doors = Doors {
        web: web.door(),
        bus: bus.door(),
    };
    let limit = config.idle_exit.filter(|_| listening.inherited);
    let is_inherited = listening.inherited;
    let mut terminate = handler(SignalKind::terminate())?;
    let mut interrupt = handler(SignalKind::interrupt())?;
    let mut hangup = handler(SignalKind::hangup())?;
    announce(&config, filesystem, &listening);
    let mut reloading = Reloading {
        config,
        scheduler: scheduler.clone(),
        web: web.clone(),
        bus: bus.clone(),
        secret,
        idle_exit: watch::channel(limit).0,
        trouble: watch::channel(None).0,
    };
    let (idle_exit, trouble) = (
        reloading.idle_exit.subscribe(),
        reloading.trouble.subscribe(),
    );
    let mut serving = Box::pin(web::serve(listening.listeners, web));
    let mut on_bus = Box::pin(dbus::serve(bus, stop.clone()));
    tell_systemd(systemd::ready).await;

    let asked_to_end = async {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    let reloads = reloading.keep(&mut hangup, &mut reloads_asked);
    // What an earlier process left comes first: a daemon that has not looked is not idle.
    let working = async {
        scheduler.adopt().await.map_err(Error::Adoption)?;
        Ok::<Left, Error>(match is_inherited {
            true => idle::idle(&doors, scheduler.activity(), idle_exit).await,
            // Nothing would start it again.
            false => std::future::pending().await,
        })
    };
    let mut code = ExitCode::SUCCESS;
    tokio::select! {
        () = asked_to_end => {
            tracing::info!(
                message_id = STOPPING,
                mistry_event = "stopping",
                "stopping; builds under way run on, the next start follows them"
            );
            tell_systemd(|| systemd::stopping("stopping; builds under way run on")).await;
        }
        left = working => match left? {
            Left::Quiet => tracing::info!(
                message_id = IDLE,
                mistry_event = "idle",
                "nothing to do: ending; the next client starts it again"
            ),
            Left::Busy => {
                code = ExitCode::from(START_AGAIN);
                tracing::info!(
                    message_id = STOPPING,
                    mistry_event = "stopping",
                    "ending for want of work, and a client came in the last moment: to be started again"
                );
            }
        },
        // Both end when `stop` is cancelled, which comes after this: until then it is a fault.
        served = &mut serving => {
            scheduler.drain(GRACE).await;
            served.map_err(|error| Error::System("accept connections", error))?;
            return Err(Error::Ended("HTTP"));
        }
        () = &mut on_bus => {
            scheduler.drain(GRACE).await;
            return Err(Error::Ended("D-Bus"));
        }
        never = watchdog::keep(&doors.web, &scheduler) => match never {},
        never = status::tell(scheduler.activity(), trouble) => match never {},
        never = reloads => match never {},
    }
    // Those who wait for a reload are told that there is none.
    drop(reloads_asked);
    stop.cancel();
    // Waiters are told by the scheduler, and the interfaces let them have their answer.
    let (drained, served, ()) = tokio::join!(scheduler.drain(GRACE), serving, on_bus);
    if !drained {
        tracing::warn!("some builds did not let go in time; the next start takes them over");
    }
    served.map_err(|error| Error::System("accept connections", error))?;
    Ok(code)
}

/// Tells systemd something, on a thread that may wait for it.
async fn tell_systemd(tell: impl FnOnce() -> io::Result<()> + Send + 'static) {
    if let Ok(Err(error)) = tokio::task::spawn_blocking(tell).await {
        note_deaf(&error);
    }
}

/// Says that systemd does not hear us; once, because it is told again and again.
fn note_deaf(error: &io::Error) {
    static IS_TOLD: AtomicBool = AtomicBool::new(false);
    if !IS_TOLD.swap(true, Ordering::Relaxed) {
        tracing::warn!(
            error = error as &dyn std::error::Error,
            "systemd does not hear us"
        );
    }
}

/// The scheduler over a store, as the configuration wants it.
fn assemble(
    config: &Config,
    store: BuildStore,
    docker: &Path,
    metrics: Metrics,
) -> Result<Scheduler, Error> {
    let docker = Docker::new(docker)?;
    let projects = Projects::new(&config.projects_path);
    Ok(Scheduler::new(
        rules(config),
        projects,
        store,
        docker,
        metrics,
    ))
}

/// What the scheduler is told by the configuration.
fn rules(config: &Config) -> SchedulerConfig {
    SchedulerConfig {
        slots: config.job_concurrency,
        backlog: config.job_backlog,
        mounts: config.mounts.clone(),
        network: config.network.clone(),
        limits: config.limits.clone(),
        cap_add: config.cap_add.clone(),
        log_limit: config.log_limit,
        job_timeout: config.job_timeout,
        silence_timeout: config.silence_timeout,
        engine_wait: config.engine_wait,
        gc: config.gc.as_ref().map(gc::policy),
    }
}

/// Who may ask what, as the configuration says.
fn access(config: &Config, tokens: Option<Arc<TokensFile>>, secret: &str) -> Access {
    Access {
        hosts: hosts(config),
        tokens,
        public: match config.public {
            config::Public::Read => web::Public::Read,
            config::Public::None => web::Public::Nothing,
        },
        local: Some(Token::of("local", vec![Scope::Admin], secret)),
        proxies: Proxies::new(config.trusted_proxies.clone()),
    }
}

/// The tokens file, if one is configured; where it is closed to us, what systemd read of it before
/// it started us.
fn open_tokens(config: &Config) -> Result<Option<Arc<TokensFile>>, Error> {
    let Some(path) = &config.auth_tokens_file else {
        return Ok(None);
    };
    let opened = match (
        TokensFile::open(path),
        systemd::credential(TOKENS_CREDENTIAL),
    ) {
        (Err(error), Some(credential)) if error.is_closed() => {
            tracing::warn!(
                "the tokens file is closed to mistryd: in force is what systemd read of /etc/mistry/tokens before it started us; a change takes a restart"
            );
            TokensFile::open(&credential)
        }
        (opened, _) => opened,
    };
    Ok(Some(Arc::new(opened?)))
}

/// The Engine's socket: Docker's own variable, else the usual place.
fn docker_socket() -> Result<PathBuf, Error> {
    match std::env::var(DOCKER_HOST) {
        Ok(host) => match host.strip_prefix("unix://") {
            Some(path) if path.starts_with('/') => Ok(PathBuf::from(path)),
            _ => Err(Error::DockerHost(host)),
        },
        Err(_) => Ok(Path::new(docker::DEFAULT_SOCKET).to_owned()),
    }
}

/// Names under which clients may address us: the configured ones and this host's.
fn hosts(config: &Config) -> Vec<String> {
    let uname = rustix::system::uname();
    let own = uname.nodename().to_string_lossy().to_ascii_lowercase();
    let mut hosts: Vec<String> = config
        .hosts
        .iter()
        .map(|host| host.to_ascii_lowercase())
        .collect();
    if let Some((short, _)) = own.split_once('.') {
        hosts.push(short.to_owned());
    }
    hosts.push(own);
    hosts
}

fn announce(config: &Config, filesystem: Filesystem, listening: &Listening) {
    for address in &listening.tcp {
        if !address.ip().is_loopback() && config.auth_tokens_file.is_none() {
            tracing::warn!(
                "anybody who can reach {address} may build here, which is as good as running programs on this host: set auth_tokens_file, or listen on 127.0.0.1"
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
        && !gc::policy(gc).has_rule()
    {
        tracing::warn!(
            "'gc' holds no rule (max_age, max_bytes, min_free), so nothing is collected by itself"
        );
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

fn handler(kind: SignalKind) -> Result<tokio::signal::unix::Signal, Error> {
    signal(kind).map_err(|error| Error::System("listen for signals", error))
}
