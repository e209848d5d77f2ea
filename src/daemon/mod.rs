//! The daemon: assembled, started, served, stopped. The only module that uses all others.
//!
//! [`run`] executes the command line; `serve.rs` is the daemon itself.

mod args;
mod assemble;
mod check;
mod error;
mod gc;
mod holder;
mod idle;
mod listen;
mod notify;
mod output;
mod rebuild;
mod reload;
mod serve;
mod status;
mod token;
mod watchdog;

pub use self::args::{Command, is_confinement};
pub use self::output::print_usage;
pub use crate::filesystem::confine;

use std::io;
use std::process::ExitCode;
use std::time::Duration;

use self::args::Verb;
use self::assemble::{docker_socket, open_tokens, warn_of_registry_auth};
use self::error::{Error, with_causes};
use self::output::print_error;
use self::serve::ServeOptions;
use crate::config::Config;
use crate::dbus::Bus;
use crate::docker::Docker;
use crate::filesystem::Filesystem;
use crate::read_limiter;
use crate::systemd::{self, Socket};
use crate::web;

/// A thread may still hang in the kernel at the end; it must not keep the process alive.
const THREADS_TIMEOUT: Duration = Duration::from_secs(1);
/// The umask: files of a build are readable by the daemon's user and group.
const UMASK: u32 = 0o027;
/// A daemon that cannot start, but has clients, answers them for this long before it exits: new clients start
/// it again, and this limits restarts to one in this time, however many clients come.
const REFUSAL_TIME: Duration = Duration::from_secs(5);
/// The answer to these clients; the reason is only in the journal, for users of the host who may read it.
const CANNOT_START: &str =
    "mistryd cannot start; the administrator of the host sees why with: journalctl -u mistryd";

const MISCONFIGURED: &str = "d1c53a7e64f84b0f9be0a8123f57c9e4";

/// The sockets that systemd passed, and an error if some of them are invalid.
pub type Inherited = (Vec<Socket>, Result<(), systemd::Error>);

/// Executes the command line with the sockets that systemd passed; errors go to standard error, or to systemd
/// and the journal if they started the process.
pub fn run(command: Command, inherited: Inherited) -> ExitCode {
    let (mut sockets, in_order) = inherited;
    let result = in_order
        .map_err(Error::from)
        .and_then(|()| perform(command, &mut sockets));
    let error = match result {
        Ok(code) => return code,
        Err(error) => error,
    };
    let reason = with_causes(&error);
    if systemd::is_started_by_systemd() {
        match error.is_configuration() {
            true => tracing::error!(
                message_id = MISCONFIGURED,
                mistry_event = "misconfigured",
                "mistryd cannot start: {reason}"
            ),
            false => tracing::error!("mistryd ends: {reason}"),
        }
        // If this fails, there is no other place for the message.
        let _ = systemd::status(&reason);
    } else {
        print_error(&reason);
    }
    // At a socket that cannot be served an unseen client may wait, and start the daemon again.
    let is_blind = matches!(error, Error::Inherited(_)) && systemd::is_started_by_systemd();
    if is_blind || systemd::is_awaited(&sockets) {
        refuse_clients(sockets);
    }
    error.exit()
}

/// Answers waiting clients that the daemon cannot start.
fn refuse_clients(sockets: Vec<Socket>) {
    let refused = runtime().and_then(|runtime| {
        runtime.block_on(async {
            let listeners: io::Result<Vec<_>> = sockets.into_iter().map(listen::listener).collect();
            let refusing = async { web::refuse_all(listeners?, CANNOT_START, REFUSAL_TIME).await };
            refusing
                .await
                .map_err(|error| Error::System("turn clients away", error))
        })
    });
    if let Err(error) = refused {
        tracing::error!("{}", with_causes(&error));
    }
}

/// What is done with a runtime.
enum Work {
    Serve,
    Rebuild(args::Rebuild),
    Gc(args::Gc),
}

fn perform(command: Command, sockets: &mut Vec<Socket>) -> Result<ExitCode, Error> {
    let config = Config::read(&command.config()?)?;
    let kind = command.filesystem.unwrap_or(config.filesystem);
    let filesystem = Filesystem::detect(kind, &config.build_path)?;
    let tokens = open_tokens(&config)?;
    let docker = docker_socket()?;
    if command.check_config {
        return runtime()?.block_on(async { check::run(&config, &Docker::new(&docker)?).await });
    }
    let work = match command.verb {
        Some(Verb::Token(args::TokenVerb::New { name, scope })) => {
            return token::new(&config, &name, &scope);
        }
        Some(Verb::Rebuild(options)) => Work::Rebuild(options),
        Some(Verb::Gc(options)) => Work::Gc(options),
        None => {
            warn_of_registry_auth(&config);
            Work::Serve
        }
    };
    // Each connection and each build uses descriptors; the usual soft limit exists for select(2).
    let mut files = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    if files.current != files.maximum {
        files.current = files.maximum;
        rustix::process::setrlimit(rustix::process::Resource::Nofile, files)
            .map_err(|error| Error::System("raise the limit of open files", error.into()))?;
    }
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(UMASK));
    let runtime = runtime()?;
    let result = runtime.block_on(async {
        match work {
            Work::Rebuild(options) => rebuild::run(&config, filesystem, &docker, &options).await,
            Work::Gc(options) => gc::run(&config, filesystem, &docker, &options).await,
            Work::Serve => {
                let options = ServeOptions {
                    address: command.addr.as_deref(),
                    bus: match command.user_bus {
                        true => Bus::User,
                        false => Bus::System,
                    },
                };
                serve::serve(config, filesystem, &docker, tokens, sockets, options).await
            }
        }
    });
    runtime.shutdown_timeout(THREADS_TIMEOUT);
    result
}

fn runtime() -> Result<tokio::runtime::Runtime, Error> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .max_blocking_threads(read_limiter::THREADS)
        .build()
        .map_err(|error| Error::System("start the runtime", error))
}
