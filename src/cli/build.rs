//! `mistry build`: submits a job, waits for its build and fetches the artifacts.
//!
//! Standard output gets, on success, where the log can be found and one line about the build;
//! with `--json-result`, exactly one JSON document instead; with `--no-wait`, the job's id.
//! Everything else goes to standard error.

use clap::Args;
use clap::builder::FalseyValueParser;

use super::Error;
use super::awaited_build::WaitOptions;
use super::build_waiter::BuildWaiter;
use super::fetch::{describe_build, fetch_artifacts, summary};
use super::format::short_id;
use super::json_result::Document;
use super::outcome;
use super::output::{print_line, print_message};
use super::retry::{BUSY_RETRY_TIMEOUT, RetryPolicy};
use super::server::ServerFlags;
use super::timeout::{Cut, Timeout, wait_at_most};
use super::transport::{self, TransportOptions};
use crate::api::{JobRequest, JobState};
use crate::build_command::BuildCommand;
use crate::client::{self, Client, Finished};
use crate::job::{GroupName, JobId, State};
use crate::project::ProjectName;

/// The end of the text of `-h`; `--help` also lists what each transport keeps.
const HELP_END: &str = "\
Params follow after `--`: --NAME=VALUE or --NAME VALUE. A value @FILE is the content of that
file, @- that of standard input, @@x is the text @x. A variable MISTRY_PARAM_NAME of the
environment gives a param, too; the command line has precedence. `mistry projects NAME` shows
the params that a project takes.

Params whose names begin with _ are secret: the build can read them, they do not decide whether
a result is cached, no record shows them, and they are masked in the log. Give them as
--_token=@FILE or MISTRY_PARAM__token: values on the command line are visible to other users in
the process list.

Exit status: 0 built, 1 build failed, 2 wrong command line, 3 refused, 4 artifacts not
fetched, 5 --timeout ran out, 6 build cancelled or out of time, 7 no server, 130 Ctrl-C.";

/// Build a project and fetch its artifacts
#[derive(Debug, Args)]
#[command(
    after_help = HELP_END,
    after_long_help = format!("{HELP_END}\n\n{}", transport::KEPT),
)]
pub(super) struct Build {
    /// The project to build
    #[arg(long, value_name = "NAME")]
    project: ProjectName,
    /// Start from the base of this group, its last succeeded build; a build that succeeds becomes the base
    #[arg(long, short, value_name = "NAME")]
    group: Option<String>,
    /// Make a new image and a new build, even when the result is cached; the build starts from the base of its
    /// group (see --cold)
    #[arg(long)]
    rebuild: bool,
    /// Make a cold build, even when the result is cached: it starts empty, not from the base of the group, and
    /// becomes the base when it succeeds
    #[arg(long)]
    cold: bool,
    /// How long to wait for the build, such as 90s, 15m or 2h30m; the build continues after that [default:
    /// 60m, and 10m for a busy server to take the job]
    #[arg(long, value_name = "TIME")]
    timeout: Option<Timeout>,
    /// End at once when the server is busy, and not only after --timeout
    #[arg(long)]
    no_retry: bool,
    /// Return as soon as the job is accepted, and print its id; fetch nothing. A busy server is not asked again
    #[arg(long, visible_alias = "async")]
    no_wait: bool,
    /// Cancel the build if this program ends first, unless another client also asked for it
    #[arg(long, conflicts_with = "no_wait")]
    cancel_on_disconnect: bool,
    /// Print one JSON document on standard output, and nothing else: the build info, or why there is none
    #[arg(long, visible_alias = "json")]
    pub(super) json_result: bool,
    /// Show the log of the build while it runs, on standard error
    #[arg(long, short, env = "MISTRY_VERBOSE", hide_env_values = true, value_parser = FalseyValueParser::new())]
    verbose: bool,
    #[command(flatten)]
    transport: TransportOptions,
    /// The params of the build
    #[arg(last = true, value_name = "--NAME=VALUE")]
    params: Vec<String>,
    /// This command, for messages.
    #[arg(skip)]
    pub(super) repeat: Option<BuildCommand>,
}

impl Build {
    pub(super) async fn run(
        &self,
        client: &Client,
        flags: &ServerFlags,
        document: &mut Document,
    ) -> Result<(), Error> {
        let request = self.request()?;
        self.transport.check().map_err(Error::Usage)?;
        if self.no_wait {
            return self.submit_only(client, flags, &request, document).await;
        }
        let options = WaitOptions {
            print_log: self.verbose,
            print_log_location: !self.json_result,
            cancel_on_disconnect: self.cancel_on_disconnect,
            busy_timeout: match (&self.timeout, self.no_retry) {
                (_, true) => None,
                (Some(timeout), _) => Some(timeout.time),
                (None, _) => Some(BUSY_RETRY_TIMEOUT),
            },
        };
        let timeout = self.timeout.clone().unwrap_or_default();
        let mut waiter = BuildWaiter::new(client, flags, self.project.clone(), options);
        let awaited = wait_at_most(timeout.time, waiter.run(&request)).await;
        waiter.finish_output();
        document.job = waiter.accepted_id();
        let finished = match awaited {
            Ok(finished) => finished?,
            Err(Cut::TimedOut) => {
                let mut text = format!("The build did not finish after {}", timeout.text);
                if let Some(id) = waiter.accepted_id() {
                    text.push_str(&format!("; {}", self.consequence_of_exit(id, flags)));
                }
                return Err(Error::TimedOut(text));
            }
            Err(Cut::Interrupted) => {
                let consequence = match waiter.accepted_id() {
                    Some(id) => self.consequence_of_exit(id, flags),
                    None => "whether the job was accepted is not known".to_owned(),
                };
                return Err(Error::Interrupted(format!("Interrupted; {consequence}")));
            }
        };
        self.finish(client, flags, &finished, document).await
    }

    /// What the server does with the build when this program exits, and the commands to control it.
    fn consequence_of_exit(&self, id: JobId, flags: &ServerFlags) -> String {
        let id = id.to_string();
        if self.cancel_on_disconnect {
            let status = flags.suggest_command("status", &id);
            return format!("the build is cancelled unless another client wants it; see: {status}");
        }
        flags.suggest_control(&id)
    }

    fn request(&self) -> Result<JobRequest, Error> {
        let group = self.group.clone().unwrap_or_default();
        if !group.is_empty() {
            let checked = group.parse::<GroupName>();
            checked.map_err(|error| Error::Usage(error.to_string()))?;
        }
        let params = client::parse_params(&self.params, std::env::vars_os(), std::io::stdin());
        Ok(JobRequest {
            project: self.project.to_string(),
            params: params.map_err(|error| Error::Usage(error.to_string()))?,
            group,
            rebuild: self.rebuild,
            cold: self.cold,
            cancel_on_disconnect: self.cancel_on_disconnect,
        })
    }

    async fn submit_only(
        &self,
        client: &Client,
        flags: &ServerFlags,
        request: &JobRequest,
        document: &mut Document,
    ) -> Result<(), Error> {
        let mut retry = RetryPolicy::new();
        let job = loop {
            match client.submit_only(request).await {
                Ok(job) => break job,
                Err(error) if retry.should_retry(&error).await => {}
                Err(error) => return Err(error.into()),
            }
        };
        match job {
            Some(job) if self.json_result => {
                document.print(&serde_json::to_value(&job).map_err(client::Error::from)?)
            }
            Some(job) => {
                print_line(&job.id)?;
                print_message(&next_commands(&job, flags));
                Ok(())
            }
            // A server of mistry 1 does not say the id.
            None => document.print(&serde_json::json!({})),
        }
    }

    /// Prints the result of a finished build, and fetches its artifacts if it succeeded.
    async fn finish(
        &self,
        client: &Client,
        flags: &ServerFlags,
        finished: &Finished,
        document: &mut Document,
    ) -> Result<(), Error> {
        document.print(&finished.raw)?;
        let context = outcome::Context {
            flags,
            repeat: self.repeat.clone(),
            has_printed_log: self.verbose,
        };
        context.check_outcome(&finished.info)?;
        let fetched = fetch_artifacts(client, flags, &finished.info, &self.transport).await?;
        if self.json_result {
            return Ok(());
        }
        let line = format!(
            "{}, {}",
            describe_build(finished),
            summary(&fetched, &self.transport)
        );
        print_line(&line)
    }
}

/// What a client can do about a job that it does not wait for.
fn next_commands(job: &JobState, flags: &ServerFlags) -> String {
    let id = short_id(&job.id);
    if job.state == State::Ready {
        let fetch = flags.suggest_command("fetch", id);
        return format!("Build {id} is ready. Get the result: {fetch} --target DIR");
    }
    let logs = flags.suggest_command("logs -f", id);
    let wait = flags.suggest_command("wait", id);
    format!("Build {id} accepted. Follow it: {logs}. Get the result: {wait} --target DIR")
}
