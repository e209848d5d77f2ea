//! `mistry build`: from a request to artifacts in a directory.
//!
//! Standard output gets, on success, where the log can be found and one line about the build;
//! with `--json-result`, exactly one JSON document instead; with `--no-wait`, nothing (the id
//! with `--verbose`). All else goes to standard error.

use std::str::FromStr;
use std::time::Duration;

use clap::Args;

use super::fetch::{bring, summary, told};
use super::params;
use super::transport::{self, Transport};
use super::wait::{Reaching, Shown, Waiting};
use super::{Again, Error, say, tell, tell_json};
use crate::api::JobRequest;
use crate::build::{BuildInfo, NO_EXIT_CODE, Outcome};
use crate::client::{Client, Finished};
use crate::job::GroupName;
use crate::project::{ProjectName, parse_duration};
use crate::screen::LogView;

/// What `-h` says at its end; `--help` also says what each transport keeps.
const PARAMS_AND_STATUS: &str = "\
Params stand after `--`: --NAME=VALUE or --NAME VALUE. A value @FILE is the content of that
file, @@x is the text @x. Params whose names begin with _ are secret: they reach the build,
are shown nowhere, and do not decide whether a build is cached. Give them as --_token=@FILE
(@/dev/stdin for standard input): a value on the command line stands in the process list.

Exit status: 0 built, 1 build failed, 2 wrong command line, 3 refused, 4 artifacts not
fetched, 5 --timeout ran out, 6 build cancelled or out of time, 7 no server, 130 Ctrl-C.";

/// Build a project and fetch what the build leaves
#[derive(Debug, Args)]
#[command(
    after_help = PARAMS_AND_STATUS,
    after_long_help = format!("{PARAMS_AND_STATUS}\n\n{}", transport::KEPT),
)]
pub(super) struct Build {
    /// The project to build
    #[arg(long, value_name = "NAME")]
    project: ProjectName,
    /// Start from the latest build of this group, and become its latest
    #[arg(long, short, value_name = "NAME")]
    group: Option<String>,
    /// Build the image and the project anew, even when the result is cached
    #[arg(long)]
    rebuild: bool,
    /// How long to wait for the build, such as 90s, 15m or 2h30m; it goes on after that
    #[arg(long, value_name = "TIME", default_value = "60m")]
    timeout: Timeout,
    /// Return as soon as the job is accepted; fetch nothing
    #[arg(long, visible_alias = "async")]
    no_wait: bool,
    /// Have the build cancelled when this program ends before it and no other client wants it
    #[arg(long, conflicts_with = "no_wait")]
    cancel_on_disconnect: bool,
    /// Print the build info as JSON on standard output, and nothing else
    #[arg(long)]
    json_result: bool,
    /// Show the log of the build while it runs, on standard error
    #[arg(long, short)]
    verbose: bool,
    #[command(flatten)]
    transport: Transport,
    /// What the build is told
    #[arg(last = true, value_name = "--NAME=VALUE")]
    params: Vec<String>,
}

/// A time as it was written, since it is told back.
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
    pub(super) async fn run(&self, client: &Client, again: &Again) -> Result<(), Error> {
        let request = self.request()?;
        self.transport.check().map_err(Error::Usage)?;
        if self.no_wait {
            return self.submit_only(client, &request).await;
        }
        let shown = Shown {
            log: self.verbose,
            place: !self.json_result,
            is_bound: self.cancel_on_disconnect,
        };
        let mut waiting = Waiting::new(client, again, self.project.clone(), shown);
        let awaited = tokio::select! {
            done = tokio::time::timeout(self.timeout.time, waiting.finish(&request)) => Some(done),
            _ = tokio::signal::ctrl_c() => None,
        };
        waiting.done();
        let way_on = waiting.accepted().map(|id| {
            let id = id.to_string();
            if self.cancel_on_disconnect {
                let status = again.hint("status", &id);
                return format!(
                    "the build is cancelled unless another client wants it; see: {status}"
                );
            }
            let (logs, cancel) = (again.hint("logs -f", &id), again.hint("cancel", &id));
            format!("the build goes on; follow it with: {logs}; cancel it with: {cancel}")
        });
        let done = match awaited {
            Some(Ok(done)) => done?,
            Some(Err(_)) => {
                let text = format!("The build did not finish after {}", self.timeout.text);
                return Err(Error::TimedOut(with(text, way_on)));
            }
            None => {
                let unknown = || "whether the job was accepted is not known".to_owned();
                let way_on = way_on.unwrap_or_else(unknown);
                return Err(Error::Interrupted(with(
                    "Interrupted".to_owned(),
                    Some(way_on),
                )));
            }
        };
        self.conclude(client, again, &done).await
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
        let mut reaching = Reaching::begin();
        let job = loop {
            match client.submit_only(request).await {
                Ok(job) => break job,
                Err(error) if reaching.again(&error).await => {}
                Err(error) => return Err(error.into()),
            }
        };
        match job {
            Some(job) if self.json_result => {
                tell_json(&serde_json::to_value(&job).map_err(crate::client::Error::from)?)
            }
            Some(job) if self.verbose => tell(&job.id),
            _ => Ok(()),
        }
    }

    /// Says how it ended, and fetches what there is.
    async fn conclude(&self, client: &Client, again: &Again, done: &Finished) -> Result<(), Error> {
        if self.json_result {
            tell_json(&done.raw)?;
        }
        verdict(&done.info)?;
        let fetched = bring(client, again, &done.info, &self.transport).await?;
        if self.json_result {
            return Ok(());
        }
        let line = format!("{}, {}", told(done), summary(&fetched, &self.transport));
        tell(&line)
    }
}

/// Nothing for a build that succeeded; for others shows what they printed last.
fn verdict(info: &BuildInfo) -> Result<(), Error> {
    match info.outcome {
        Some(Outcome::Succeeded) => Ok(()),
        Some(Outcome::Failed) => {
            let (head, text) = last_words(info);
            say(head);
            show(text);
            let code = info.exit_code;
            Err(Error::BuildFailed(match &info.err {
                Some(why) if code == NO_EXIT_CODE => format!("Build failed: {why}"),
                _ => format!("Build failed with exit code {code}"),
            }))
        }
        Some(Outcome::Errored) | None => {
            let why = info.err.as_deref().unwrap_or(&info.err_build);
            let log = info.container_stdouterr.as_deref().unwrap_or_default();
            show(without(log, why));
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
            // The user wants to know what it was doing when it hung.
            let (head, text) = last_words(info);
            say(head);
            show(text);
            let why = info.err.as_deref().unwrap_or("the build took too long");
            let why = why.strip_prefix("the ").unwrap_or(why);
            Err(Error::Stopped(format!("The {why}")))
        }
    }
}

/// The log of a build that could not be run to its end, without its last line where that is the
/// server's, saying once more what is said here anyway.
fn without<'a>(log: &'a str, why: &str) -> &'a str {
    log.trim_end()
        .strip_suffix(why)
        .and_then(|log| log.strip_suffix("mistry: "))
        .filter(|log| !why.is_empty() && (log.is_empty() || log.ends_with('\n')))
        .map_or(log, str::trim_end)
}

/// What a failed build said last: its standard error, or else the end of its log.
fn last_words(info: &BuildInfo) -> (&'static str, &str) {
    let text = |field: &'_ Option<String>| field.as_deref().is_some_and(|t| !t.is_empty());
    if text(&info.container_stderr) {
        let error = info.container_stderr.as_deref().unwrap_or_default();
        ("Container error logs:", error)
    } else if text(&info.container_stdouterr) {
        let log = info.container_stdouterr.as_deref().unwrap_or_default();
        ("The end of the log:", log)
    } else {
        ("There are no container error logs.", "")
    }
}

/// Text that a build wrote, on standard error.
fn show(text: &str) {
    if text.is_empty() {
        return;
    }
    let mut view = LogView::on_stderr();
    // A standard error that is gone changes nothing about the build.
    let _ = view.push(text.as_bytes());
    if !text.ends_with('\n') {
        let _ = view.push(b"\n");
    }
    let _ = view.finish();
}

fn with(text: String, more: Option<String>) -> String {
    match more {
        Some(more) if !more.is_empty() => format!("{text}; {more}"),
        _ => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(outcome: Outcome, exit_code: i64) -> BuildInfo {
        BuildInfo {
            outcome: Some(outcome),
            exit_code,
            ..BuildInfo::default()
        }
    }

    #[test]
    fn each_outcome_has_its_sentence_and_status() {
        let mut errored = ended(Outcome::Errored, NO_EXIT_CODE);
        errored.err = Some("could not build docker image".to_owned());
        let mut cancelled = ended(Outcome::Cancelled, NO_EXIT_CODE);
        cancelled.cancelled = Some(crate::build::Cancelled {
            by: "joe".to_owned(),
            reason: "wrong branch".to_owned(),
        });
        for (info, status, sentence) in [
            (
                ended(Outcome::Failed, 3),
                1,
                "Build failed with exit code 3",
            ),
            (
                errored,
                1,
                "The build could not be run to its end: could not build docker image",
            ),
            (cancelled, 6, "The build was cancelled by joe: wrong branch"),
            (
                ended(Outcome::TimedOut, NO_EXIT_CODE),
                6,
                "The build took too long",
            ),
        ] {
            let error = verdict(&info).unwrap_err();
            assert_eq!(
                (error.exit_status(), error.to_string().as_str()),
                (status, sentence)
            );
        }
        assert!(verdict(&ended(Outcome::Succeeded, 0)).is_ok());
    }

    #[test]
    fn the_sentence_of_an_errored_build_is_said_once() {
        for (log, why, shown) in [
            ("step 1\n\nmistry: no room\n", "no room", "step 1"),
            ("mistry: no room\n", "no room", ""),
            ("step 1\nmistry: a: b\nc\n", "a: b\nc", "step 1"),
            ("step 1\n", "no room", "step 1\n"),
            ("say no room\n", "no room", "say no room\n"),
            (
                "I say mistry: no room\n",
                "no room",
                "I say mistry: no room\n",
            ),
            ("mistry: \n", "", "mistry: \n"),
        ] {
            assert_eq!(without(log, why), shown, "{log:?}");
        }
    }

    #[test]
    fn a_failed_build_says_its_standard_error_or_the_end_of_its_log() {
        let mut info = ended(Outcome::Failed, 1);
        assert_eq!(
            last_words(&info),
            ("There are no container error logs.", "")
        );
        info.container_stdouterr = Some("out".to_owned());
        assert_eq!(last_words(&info), ("The end of the log:", "out"));
        info.container_stderr = Some(String::new());
        assert_eq!(last_words(&info).1, "out");
        info.container_stderr = Some("err".to_owned());
        assert_eq!(last_words(&info), ("Container error logs:", "err"));
    }

    #[test]
    fn a_timeout_is_a_time() {
        assert_eq!("1h30m".parse::<Timeout>().unwrap().time.as_secs(), 5_400);
        for wrong in ["", "0s", "1", "x", "-1s"] {
            assert!(wrong.parse::<Timeout>().is_err(), "{wrong}");
        }
    }
}
