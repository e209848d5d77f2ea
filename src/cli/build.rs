//! `mistry build`: submits a job, waits for its build and fetches the artifacts.
//!
//! Standard output gets, on success, where the log can be found and one line about the build;
//! with `--json-result`, exactly one JSON document instead; with `--no-wait`, nothing (the id
//! with `--verbose`). Everything else goes to standard error.

use std::str::FromStr;
use std::time::Duration;

use clap::Args;

use super::fetch::{describe_build, fetch_artifacts, summary};
use super::output::{print_json, print_line, print_message};
use super::retry::RetryPolicy;
use super::server::ServerFlags;
use super::transport::{self, TransportOptions};
use super::wait::{BuildWaiter, WaitOptions};
use super::{Error, params};
use crate::api::JobRequest;
use crate::api::{BuildView, NO_EXIT_CODE};
use crate::client::{self, Client, Finished};
use crate::job::{GroupName, JobId, Outcome};
use crate::project::{ProjectName, parse_duration};
use crate::screen::LogView;

/// The end of the text of `-h`; `--help` also lists what each transport keeps.
const HELP_END: &str = "\
Params follow after `--`: --NAME=VALUE or --NAME VALUE. A value @FILE is the content of that
file, @@x is the text @x. Params whose names begin with _ are secret: the build can read them,
they are never shown, and they do not decide whether a result is cached. Give them as
--_token=@FILE (@/dev/stdin for standard input): values on the command line are visible to
other users in the process list.

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
    /// Start from the latest build of this group, and become its latest
    #[arg(long, short, value_name = "NAME")]
    group: Option<String>,
    /// Rebuild the image and the project, even when the result is cached
    #[arg(long)]
    rebuild: bool,
    /// How long to wait for the build, such as 90s, 15m or 2h30m; the build continues after that
    #[arg(long, value_name = "TIME", default_value = "60m")]
    timeout: Timeout,
    /// Return as soon as the job is accepted; fetch nothing
    #[arg(long, visible_alias = "async")]
    no_wait: bool,
    /// Cancel the build if this program ends first, unless another client also asked for it
    #[arg(long, conflicts_with = "no_wait")]
    cancel_on_disconnect: bool,
    /// Print the build info as JSON on standard output, and nothing else
    #[arg(long)]
    json_result: bool,
    /// Show the log of the build while it runs, on standard error
    #[arg(long, short)]
    verbose: bool,
    #[command(flatten)]
    transport: TransportOptions,
    /// The params of the build
    #[arg(last = true, value_name = "--NAME=VALUE")]
    params: Vec<String>,
}

/// A duration and how it was written, for messages.
#[derive(Clone, Debug)]
struct Timeout {
    text: String,
    time: Duration,
}

impl FromStr for Timeout {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Timeout, &'static str> {
        match parse_duration(text) {
            Some(time) if !time.is_zero() => Ok(Timeout {
                text: text.to_owned(),
                time,
            }),
            _ => Err("expected a time such as 500ms, 90s, 15m, 2h30m or 7d"),
        }
    }
}

impl Build {
    pub(super) async fn run(&self, client: &Client, flags: &ServerFlags) -> Result<(), Error> {
        let request = self.request()?;
        self.transport.check().map_err(Error::Usage)?;
        if self.no_wait {
            return self.submit_only(client, &request).await;
        }
        let options = WaitOptions {
            print_log: self.verbose,
            print_log_location: !self.json_result,
            cancel_on_disconnect: self.cancel_on_disconnect,
        };
        let mut waiter = BuildWaiter::new(client, flags, self.project.clone(), options);
        let awaited = tokio::select! {
            done = tokio::time::timeout(self.timeout.time, waiter.run(&request)) => Some(done),
            _ = tokio::signal::ctrl_c() => None,
        };
        waiter.finish_output();
        let finished = match awaited {
            Some(Ok(finished)) => finished?,
            Some(Err(_)) => {
                let mut text = format!("The build did not finish after {}", self.timeout.text);
                if let Some(id) = waiter.accepted_id() {
                    text.push_str(&format!("; {}", self.consequence_of_exit(id, flags)));
                }
                return Err(Error::TimedOut(text));
            }
            None => {
                let consequence = match waiter.accepted_id() {
                    Some(id) => self.consequence_of_exit(id, flags),
                    None => "whether the job was accepted is not known".to_owned(),
                };
                return Err(Error::Interrupted(format!("Interrupted; {consequence}")));
            }
        };
        self.finish(client, flags, &finished).await
    }

    /// What the server does with the build when this program exits, and the commands to control it.
    fn consequence_of_exit(&self, id: JobId, flags: &ServerFlags) -> String {
        let id = id.to_string();
        if self.cancel_on_disconnect {
            let status = flags.suggest_command("status", &id);
            return format!("the build is cancelled unless another client wants it; see: {status}");
        }
        let logs = flags.suggest_command("logs -f", &id);
        let cancel = flags.suggest_command("cancel", &id);
        format!("the build goes on; follow it with: {logs}; cancel it with: {cancel}")
    }

    fn request(&self) -> Result<JobRequest, Error> {
        let group = self.group.clone().unwrap_or_default();
        if !group.is_empty() {
            let checked = group.parse::<GroupName>();
            checked.map_err(|error| Error::Usage(error.to_string()))?;
        }
        let params = params::parse(&self.params);
        Ok(JobRequest {
            project: self.project.to_string(),
            params: params.map_err(|error| Error::Usage(error.to_string()))?,
            group,
            rebuild: self.rebuild,
            cancel_on_disconnect: self.cancel_on_disconnect,
        })
    }

    async fn submit_only(&self, client: &Client, request: &JobRequest) -> Result<(), Error> {
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
                print_json(&serde_json::to_value(&job).map_err(client::Error::from)?)
            }
            Some(job) if self.verbose => print_line(&job.id),
            _ => Ok(()),
        }
    }

    /// Prints the result of a finished build, and fetches its artifacts if it succeeded.
    async fn finish(
        &self,
        client: &Client,
        flags: &ServerFlags,
        finished: &Finished,
    ) -> Result<(), Error> {
        if self.json_result {
            print_json(&finished.raw)?;
        }
        check_outcome(&finished.info)?;
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

/// An error unless the build succeeded; prints the end of what a failed build printed.
fn check_outcome(info: &BuildView) -> Result<(), Error> {
    match info.outcome {
        Some(Outcome::Succeeded) => Ok(()),
        Some(Outcome::Failed) => {
            let (header, text) = end_of_output(info);
            print_message(header);
            print_build_output(text);
            let code = info.exit_code;
            Err(Error::BuildFailed(match &info.err {
                Some(why) if code == NO_EXIT_CODE => format!("Build failed: {why}"),
                _ => format!("Build failed with exit code {code}"),
            }))
        }
        Some(Outcome::Errored) | None => {
            let why = info.err.as_deref().unwrap_or(&info.err_build);
            let log = info.container_stdouterr.as_deref().unwrap_or_default();
            print_build_output(without_error_line(log, why));
            let code = info.exit_code;
            Err(Error::BuildFailed(match (why, code) {
                ("", NO_EXIT_CODE) => "The build could not be run to its end".to_owned(),
                ("", code) => format!("Build failed with exit code {code}"),
                (why, _) => format!("The build could not be run to its end: {why}"),
            }))
        }
        Some(Outcome::Cancelled) => Err(Error::Stopped(match &info.cancelled {
            Some(c) if c.reason.is_empty() => format!("The build was cancelled by {}", c.by),
            Some(c) => format!("The build was cancelled by {}: {}", c.by, c.reason),
            None => "The build was cancelled".to_owned(),
        })),
        Some(Outcome::TimedOut) => {
            // This shows what the build was doing when it hung.
            let (header, text) = end_of_output(info);
            print_message(header);
            print_build_output(text);
            let why = info.err.as_deref().unwrap_or("the build took too long");
            let why = why.strip_prefix("the ").unwrap_or(why);
            Err(Error::Stopped(format!("The {why}")))
        }
    }
}

/// A log without its last line if that is the server's error line, which is printed elsewhere.
fn without_error_line<'a>(log: &'a str, why: &str) -> &'a str {
    log.trim_end()
        .strip_suffix(why)
        .and_then(|log| log.strip_suffix("mistry: "))
        .filter(|log| !why.is_empty() && (log.is_empty() || log.ends_with('\n')))
        .map_or(log, str::trim_end)
}

/// The last output of a failed build, with a header: its standard error, or else the end of its log.
fn end_of_output(info: &BuildView) -> (&'static str, &str) {
    let has_text =
        |field: &Option<std::sync::Arc<str>>| field.as_deref().is_some_and(|t| !t.is_empty());
    if has_text(&info.container_stderr) {
        let error = info.container_stderr.as_deref().unwrap_or_default();
        ("Container error logs:", error)
    } else if has_text(&info.container_stdouterr) {
        let log = info.container_stdouterr.as_deref().unwrap_or_default();
        ("The end of the log:", log)
    } else {
        ("There are no container error logs.", "")
    }
}

/// Prints text that a build wrote to standard error.
fn print_build_output(text: &str) {
    if text.is_empty() {
        return;
    }
    let mut view = LogView::on_stderr();
    // A closed standard error is ignored.
    let _ = view.push(text.as_bytes());
    if !text.ends_with('\n') {
        let _ = view.push(b"\n");
    }
    let _ = view.finish();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(outcome: Outcome, exit_code: i64) -> BuildView {
        BuildView {
            outcome: Some(outcome),
            exit_code,
            ..BuildView::default()
        }
    }

    #[test]
    fn each_outcome_has_its_message_and_exit_status() {
        let mut errored = info(Outcome::Errored, NO_EXIT_CODE);
        errored.err = Some("could not build docker image".to_owned());
        let mut cancelled = info(Outcome::Cancelled, NO_EXIT_CODE);
        cancelled.cancelled = Some(crate::job::Cancelled {
            by: "joe".to_owned(),
            reason: "wrong branch".to_owned(),
        });
        for (info, status, sentence) in [
            (info(Outcome::Failed, 3), 1, "Build failed with exit code 3"),
            (
                errored,
                1,
                "The build could not be run to its end: could not build docker image",
            ),
            (cancelled, 6, "The build was cancelled by joe: wrong branch"),
            (
                info(Outcome::TimedOut, NO_EXIT_CODE),
                6,
                "The build took too long",
            ),
        ] {
            let error = check_outcome(&info).unwrap_err();
            assert_eq!(
                (error.exit_status(), error.to_string().as_str()),
                (status, sentence)
            );
        }
        assert!(check_outcome(&info(Outcome::Succeeded, 0)).is_ok());
    }

    #[test]
    fn the_error_of_a_build_is_printed_once() {
        for (log, why, shown) in [
            ("step 1\n\nmistry: disk full\n", "disk full", "step 1"),
            ("mistry: disk full\n", "disk full", ""),
            ("step 1\nmistry: a: b\nc\n", "a: b\nc", "step 1"),
            ("step 1\n", "disk full", "step 1\n"),
            ("echo disk full\n", "disk full", "echo disk full\n"),
            (
                "I say mistry: disk full\n",
                "disk full",
                "I say mistry: disk full\n",
            ),
            ("mistry: \n", "", "mistry: \n"),
        ] {
            assert_eq!(without_error_line(log, why), shown, "{log:?}");
        }
    }

    #[test]
    fn a_failed_build_is_shown_with_its_standard_error_or_the_end_of_its_log() {
        let mut info = info(Outcome::Failed, 1);
        assert_eq!(
            end_of_output(&info),
            ("There are no container error logs.", "")
        );
        info.container_stdouterr = Some("out".into());
        assert_eq!(end_of_output(&info), ("The end of the log:", "out"));
        info.container_stderr = Some("".into());
        assert_eq!(end_of_output(&info).1, "out");
        info.container_stderr = Some("err".into());
        assert_eq!(end_of_output(&info), ("Container error logs:", "err"));
    }

    #[test]
    fn a_timeout_is_parsed_as_a_duration() {
        assert_eq!("1h30m".parse::<Timeout>().unwrap().time.as_secs(), 5_400);
        for wrong in ["", "0s", "1", "x", "-1s"] {
            assert!(wrong.parse::<Timeout>().is_err(), "{wrong}");
        }
    }
}
