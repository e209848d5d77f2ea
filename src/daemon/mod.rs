//! The daemon: assembled, announced, served, ended. The only place where all rooms meet.
//!
//! [`run`] tells the story in order. Readiness never waits for the index, the Engine, or what
//! an earlier life left: a request that needs one of them waits for it alone.

mod args;
mod rebuild;
mod token;

pub use args::Command;

use std::io;
use std::net::ToSocketAddrs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use self::args::Verb;
use crate::build::{self, BuildStore, random_hex};
use crate::config::{self, Config};
use crate::docker::{self, Docker};
use crate::filesystem::{self, Filesystem};
use crate::metrics::Metrics;
use crate::project::Projects;
use crate::scheduler::{self, Rules, Scheduler};
use crate::web::{self, Access, Listener, Scope, Token, TokensFile, Web};

/// Where to listen when nothing is said.
const DEFAULT_ADDRESS: &str = "127.0.0.1:8462";
/// The exit status of a wrong configuration: `EX_CONFIG` of sysexits(3).
const WRONG_CONFIG: u8 = 78;
/// The exit status of a wrong command line, as clap has it.
const WRONG_USAGE: u8 = 2;
/// What builds do between two awaits when the daemon ends: write a record, clone a tree.
const GRACE: Duration = Duration::from_secs(10);
/// What may still hang then is a thread in the kernel; it must not keep the process.
const THREADS_GRACE: Duration = Duration::from_secs(1);
/// Our umask: what a build leaves is for our user and group.
const UMASK: u32 = 0o027;
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
    Tokens(#[from] web::TokensError),
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
    #[error("could not take over what an earlier life left")]
    Adoption(#[source] scheduler::Error),
    #[error("--addr: expected HOST:PORT such as {DEFAULT_ADDRESS}, found '{0}'")]
    Address(String),
    #[error("could not listen on '{0}'")]
    Listen(String, #[source] io::Error),
    #[error("could not {0}")]
    System(&'static str, #[source] io::Error),
}

impl Error {
    fn exit(&self) -> ExitCode {
        match self {
            // Not to be tried again before somebody has changed something.
            Error::NoConfig(_)
            | Error::Config(_)
            | Error::Tokens(_)
            | Error::Filesystem(_)
            | Error::DockerHost(_) => ExitCode::from(WRONG_CONFIG),
            Error::Address(_) => ExitCode::from(WRONG_USAGE),
            _ => ExitCode::FAILURE,
        }
    }
}

/// Does what the command line asks; what goes wrong is told on standard error.
pub fn run(command: Command) -> ExitCode {
    match perform(command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("mistryd: {}", told(&error));
            error.exit()
        }
    }
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

fn perform(command: Command) -> Result<ExitCode, Error> {
    let config = Config::read(&command.config()?)?;
    let kind = command.filesystem.unwrap_or(config.filesystem);
    let filesystem = Filesystem::detect(kind, &config.build_path)?;
    let tokens = match &config.auth_tokens_file {
        Some(path) => Some(Arc::new(TokensFile::open(path)?)),
        None => None,
    };
    if command.check_config {
        println!("the configuration '{}' is in order", config.path.display());
        for key in config.without_effect() {
            println!("note: '{key}' is set, but this version does not act on it yet");
        }
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(Verb::Token(args::TokenVerb::New { name, scope })) = &command.verb {
        return token::new(&config, name, scope);
    }
    // Each connection and each build takes descriptors; the usual soft limit is for select(2).
    let mut files = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    files.current = files.maximum;
    rustix::process::setrlimit(rustix::process::Resource::Nofile, files)
        .map_err(|error| Error::System("raise the limit of open files", error.into()))?;
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(UMASK));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Error::System("start the runtime", error))?;
    let result = runtime.block_on(async {
        match command.verb {
            Some(Verb::Rebuild(asked)) => rebuild::run(&config, filesystem, &asked).await,
            _ => {
                let address = command.addr.as_deref().unwrap_or(DEFAULT_ADDRESS);
                serve(&config, filesystem, tokens, address).await
            }
        }
    });
    runtime.shutdown_timeout(THREADS_GRACE);
    result
}

async fn serve(
    config: &Config,
    filesystem: Filesystem,
    tokens: Option<Arc<TokensFile>>,
    address: &str,
) -> Result<ExitCode, Error> {
    // The lock comes first: a second daemon must not touch what the first one builds.
    let store = BuildStore::open(&config.build_path, filesystem)?;
    let listener = listen(address).await?;
    let bound = listener
        .local_addr()
        .map_err(|error| Error::Listen(address.to_owned(), error))?;
    let secret = random_hex().map_err(|error| Error::System("make a token", error))?;
    store.announce(Some(bound.to_string()), Some(secret.clone()))?;

    let metrics = Metrics::new().map_err(Error::Metrics)?;
    let scheduler = assemble(config, store, metrics.clone())?;
    scheduler.adopt().await.map_err(Error::Adoption)?;

    let stop = CancellationToken::new();
    let access = Access {
        hosts: hosts(config),
        tokens,
        public: match config.public {
            config::Public::Read => web::Public::Read,
            config::Public::None => web::Public::Nothing,
        },
        local: Some(Token::of("local", vec![Scope::Admin], &secret)),
    };
    let face = Web::new(scheduler.clone(), metrics, access, stop.clone());
    announce(config, filesystem, bound);
    let mut serving = Box::pin(web::serve(vec![Listener::Tcp(listener)], face));

    let mut terminate = handler(SignalKind::terminate())?;
    let mut interrupt = handler(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        served = &mut serving => {
            // Nobody asked it to end: that is a fault.
            served.map_err(|error| Error::Listen(address.to_owned(), error))?;
            return Ok(ExitCode::FAILURE);
        }
    }
    tracing::info!("stopping; what is being built is made again at the next start");
    stop.cancel();
    // Waiters are told by the scheduler, and the web lets them have their answer.
    let (drained, served) = tokio::join!(scheduler.drain(GRACE), serving);
    if !drained {
        tracing::warn!("some builds did not let go in time; the next start takes them over");
    }
    served.map_err(|error| Error::Listen(address.to_owned(), error))?;
    Ok(ExitCode::SUCCESS)
}

/// The scheduler over a store, as the configuration wants it.
fn assemble(config: &Config, store: BuildStore, metrics: Metrics) -> Result<Scheduler, Error> {
    let rules = Rules {
        slots: config.job_concurrency,
        backlog: config.job_backlog,
        mounts: config.mounts.clone(),
        network: config.network.clone(),
        limits: config.limits.clone(),
        log_limit: config.log_limit,
        job_timeout: config.job_timeout,
    };
    let docker = Docker::new(&docker_socket()?)?;
    let projects = Projects::new(&config.projects_path);
    Ok(Scheduler::new(rules, projects, store, docker, metrics))
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

async fn listen(address: &str) -> Result<tokio::net::TcpListener, Error> {
    let failed = |error| Error::Listen(address.to_owned(), error);
    let named = address.to_owned();
    let resolved = tokio::task::spawn_blocking(move || {
        named.to_socket_addrs().map(Iterator::collect::<Vec<_>>)
    });
    let resolved = resolved
        .await
        .map_err(|error| failed(io::Error::other(error)))?;
    let resolved = resolved.map_err(|error| match error.kind() {
        io::ErrorKind::InvalidInput => Error::Address(address.to_owned()),
        _ => failed(error),
    })?;
    tokio::net::TcpListener::bind(&*resolved)
        .await
        .map_err(failed)
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

fn announce(config: &Config, filesystem: Filesystem, bound: std::net::SocketAddr) {
    tracing::info!(
        "serving on http://{bound}; projects in '{}', builds in '{}' ({}), {} at once, {} waiting",
        config.projects_path.display(),
        config.build_path.display(),
        filesystem.name(),
        config.job_concurrency,
        config.job_backlog,
    );
    if !bound.ip().is_loopback() && config.auth_tokens_file.is_none() {
        tracing::warn!(
            "anybody who can reach {bound} may build here, which is as good as running programs on this host: set auth_tokens_file, or listen on 127.0.0.1"
        );
    }
    for key in config.without_effect() {
        tracing::warn!("'{key}' is set, but this version does not act on it yet");
    }
}

fn handler(kind: SignalKind) -> Result<tokio::signal::unix::Signal, Error> {
    signal(kind).map_err(|error| Error::System("listen for signals", error))
}
