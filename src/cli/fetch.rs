//! `mistry fetch ID`: fetches the artifacts of a finished build.

use std::future::poll_fn;
use std::task::Poll;

use clap::Args;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::Error;
use super::awaited_build::WaitOptions;
use super::build_ref::BuildRef;
use super::build_waiter::wait_for;
use super::format::{format_duration, short_id};
use super::outcome;
use super::output::{print_line, print_message};
use super::repeat::command_of_build;
use super::retry::{BUSY_RETRY_TIMEOUT, BusyPolicy, RetryPolicy};
use super::server::ServerFlags;
use super::timeout::Timeout;
use super::transport::{self, Fetched, TransportOptions};

use crate::api::BuildView;
use crate::client::{Client, Finished};
use crate::job::State;
use crate::screen;

/// Fetch the artifacts of a build
#[derive(Debug, Args)]
#[command(after_long_help = transport::KEPT)]
pub(super) struct Fetch {
    /// The build's id or the first digits of it, also as PROJECT/ID
    #[arg(value_name = "ID")]
    id: BuildRef,
    /// Wait for the build first, where it is not over. What a failed build left is fetched as well, with exit
    /// status 0: scripts use mistry wait ID --target DIR, which then ends with 1
    #[arg(long)]
    wait: bool,
    /// How long to wait, such as 90s, 15m or 2h30m; the build continues after that
    #[arg(long, value_name = "TIME", default_value = "60m", requires = "wait")]
    timeout: Timeout,
    #[command(flatten)]
    pub(super) transport: TransportOptions,
}

impl Fetch {
    pub(super) async fn run(&self, client: &Client, flags: &ServerFlags) -> Result<(), Error> {
        self.transport.check().map_err(Error::Usage)?;
        let (project, id) = self.id.resolve(client).await?;
        if self.wait {
            let (build, options) = ((project.clone(), id), WaitOptions::default());
            let finished = wait_for(client, flags, build, options, &self.timeout).await?;
            // A failed rebuild left nothing; the artifacts of the build before it were not waited for.
            if finished.info.path.is_empty() {
                let context = outcome::Context {
                    flags,
                    repeat: command_of_build(&finished.info, flags),
                    has_printed_log: false,
                };
                context.check_outcome(&finished.info)?;
            }
        }
        let mut info = client.job(&project, id).await?.build_info;
        // A record of mistry 1 may lack both; the request named them.
        info.project = project.to_string();
        info.id = id.to_string();
        let short = short_id(&info.id).to_owned();
        if info.state == State::Pending {
            let advice = format!(
                "follow it with: {}; wait for it with: {} --wait",
                flags.suggest_command("logs -f", &short),
                flags.suggest_command("fetch", &short)
            );
            return Err(Error::Refused(format!(
                "build {short} is not over; {advice}"
            )));
        }
        if !info.succeeded() {
            if self.transport.clear_target {
                let what = "did not succeed; the target is not emptied for its artifacts: fetch without --clear-target";
                return Err(Error::Refused(format!("build {short} {what}")));
            }
            print_message(&format!(
                "build {short} did not succeed; fetching what it left"
            ));
        }
        let fetched = fetch_artifacts(client, flags, &info, &self.transport).await?;
        print_line(&format!("{short}: {}", summary(&fetched, &self.transport)))
    }
}

/// Fetches the artifacts of a build and retries when the connection breaks. SIGINT and SIGTERM interrupt
/// this; files that are incomplete are removed then.
pub(super) async fn fetch_artifacts(
    client: &Client,
    flags: &ServerFlags,
    info: &BuildView,
    transport: &TransportOptions,
) -> Result<Fetched, Error> {
    let interrupted = interrupt_signal();
    transport::warn_about_git(transport);
    let fetching = async {
        let mut retry = RetryPolicy::new();
        let busy = BusyPolicy::new(Some(BUSY_RETRY_TIMEOUT));
        loop {
            let error = match transport::fetch(client, info, transport).await {
                Ok(fetched) => return Ok(fetched),
                Err(error) => error,
            };
            let should_retry = match &error {
                transport::Error::Server(error) => match busy.next_pause(error) {
                    Some(pause) => {
                        tokio::time::sleep(pause).await;
                        true
                    }
                    None => retry.should_retry(error).await,
                },
                transport::Error::Torn(_) => retry.should_retry_broken().await,
                _ => false,
            };
            if !should_retry {
                return Err(error);
            }
        }
    };
    tokio::select! {
        fetched = fetching => Ok(fetched?),
        () = interrupted => Err(Error::Interrupted(format!(
            "Interrupted; fetch the artifacts later with: {}",
            flags.suggest_command("fetch", &info.id)
        ))),
    }
}

/// Completes on SIGINT or SIGTERM. The handlers are installed by this call, not when the future is first
/// polled. SIGHUP keeps its default action: with a handler for it, nohup(1) would have no effect.
fn interrupt_signal() -> impl Future<Output = ()> {
    let kinds = [SignalKind::interrupt(), SignalKind::terminate()];
    // A signal without a handler keeps its default action, which ends the program.
    let mut signals: Vec<_> = kinds.into_iter().flat_map(signal).collect();
    poll_fn(move |context| {
        let arrived = |signal: &mut Signal| signal.poll_recv(context).is_ready();
        match signals.iter_mut().any(arrived) {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    })
}

/// `12 files in /home/joe/x (3 replaced earlier ones)`.
pub(super) fn summary(fetched: &Fetched, transport: &TransportOptions) -> String {
    let what = match fetched.files {
        0 => "no files".to_owned(),
        1 => "1 file".to_owned(),
        files => format!("{files} files"),
    };
    // The directory is not always named on the command line.
    let target = std::path::absolute(&transport.target);
    let target = target.unwrap_or_else(|_| transport.target.clone());
    let replaced = match fetched.replaced {
        0 => String::new(),
        1 => " (1 replaced an earlier one)".to_owned(),
        replaced => format!(" ({replaced} replaced earlier ones)"),
    };
    screen::line(&format!("{what} in {}{replaced}", target.display()))
}

/// One line about a build that succeeded.
pub(super) fn describe_build(finished: &Finished) -> String {
    let info = &finished.info;
    let took = format_duration(info.duration);
    let how = match (info.cached, info.incremental) {
        (true, _) => format!("cached (took {took} when it was built)"),
        (false, true) => format!("built in {took} (incremental)"),
        (false, false) => format!("built in {took}"),
    };
    let how = match info.coalesced {
        true => format!("{how}, joined"),
        false => how,
    };
    format!("{} {how}", short_id(&info.id))
}
