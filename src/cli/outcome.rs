//! How a build ended, for the person and for the exit status.
//!
//! About a build that did not succeed, standard error gets the end of its log, as it was written, and then
//! what happened and which commands come next.

use super::Error;
use super::excerpt::Excerpt;
use super::format::{format_duration, short_id};
use super::output::print_message;
use super::server::ServerFlags;
use crate::api::{BuildView, NO_EXIT_CODE};
use crate::build_command::BuildCommand;
use crate::job::Outcome;

/// The beginning of the server's sentence about an image that could not be built.
const IMAGE_NOT_BUILT: &str = "could not build docker image";

/// What the messages about the end of a build depend on, beside the build.
#[derive(Debug)]
pub(super) struct Context<'a> {
    /// The options of suggested commands.
    pub flags: &'a ServerFlags,
    /// The command that requests the same build again.
    pub repeat: Option<BuildCommand>,
    /// The whole log was printed while the build ran.
    pub has_printed_log: bool,
}

impl Context<'_> {
    /// An error unless the build succeeded; prints the server's warnings, and the end of the log of a build that
    /// did not succeed.
    pub(super) fn check_outcome(&self, info: &BuildView) -> Result<(), Error> {
        for warning in &info.warnings {
            print_message(&format!("warning: {warning}"));
        }
        if info.succeeded() {
            return Ok(());
        }
        // Who cancels a build knows why; what a build did when its time ran out is in its log.
        if info.outcome != Some(Outcome::Cancelled) && !self.has_printed_log {
            print_excerpt(info);
        }
        let text = format!("{}{}", sentence(info), self.next_steps(info));
        Err(match info.outcome {
            Some(Outcome::Cancelled | Outcome::TimedOut) => Error::Stopped(text),
            _ => Error::BuildFailed(text),
        })
    }

    /// Which build it was and how long it took, and what can be done now: a line each.
    fn next_steps(&self, info: &BuildView) -> String {
        if info.id.is_empty() {
            // A server of mistry 1 may not say which build it was.
            return String::new();
        }
        let command = |verb: &str| self.flags.suggest_command(verb, &info.id);
        let logs = match info.number {
            // The log of the current attempt may be that of an earlier, succeeded one.
            2.. => command(&format!("logs --attempt {}", info.number)),
            _ => command("logs"),
        };
        let mut lines = vec![summary(info), format!("Whole log: {logs}")];
        if has_artifacts(info) {
            lines.push(format!("What it left: {} --target DIR", command("fetch")));
        }
        if let Some(repeat) = &self.repeat {
            lines.push(format!("Build it again: {repeat}"));
            if info.incremental {
                let cold = repeat.clone().cold();
                lines.push(format!("Without the group's cache: {cold}"));
            }
        }
        lines.iter().map(|line| format!("\n{line}")).collect()
    }
}

/// What the first mistry's client said, where it said something.
fn sentence(info: &BuildView) -> String {
    let code = info.exit_code;
    match info.outcome {
        Some(Outcome::Failed) => match &info.err {
            Some(why) if code == NO_EXIT_CODE => format!("Build failed: {why}"),
            _ => format!("Build failed with exit code {code}"),
        },
        Some(Outcome::Cancelled) => match &info.cancelled {
            Some(c) if c.reason.is_empty() => format!("The build was cancelled by {}", c.by),
            Some(c) => format!("The build was cancelled by {}: {}", c.by, c.reason),
            None => "The build was cancelled".to_owned(),
        },
        Some(Outcome::TimedOut) => {
            let why = info.err.as_deref().unwrap_or("the build took too long");
            format!("The {}", why.strip_prefix("the ").unwrap_or(why))
        }
        Some(Outcome::Errored | Outcome::Succeeded) | None => match (why(info), code) {
            ("", NO_EXIT_CODE) => "The build could not be run to its end".to_owned(),
            ("", code) => format!("Build failed with exit code {code}"),
            (why, _) if why.starts_with(IMAGE_NOT_BUILT) => format!("Image build failed: {why}"),
            (why, _) => format!("The build could not be run to its end: {why}"),
        },
    }
}

/// The server's sentence about a build that could not be run to its end; "" for none.
fn why(info: &BuildView) -> &str {
    info.err.as_deref().unwrap_or(&info.err_build)
}

/// `mixed/af12181c4fe8 failed after 1.2 s`: the line before it says why.
fn summary(info: &BuildView) -> String {
    let how = match info.outcome {
        Some(Outcome::Failed) => "failed",
        Some(Outcome::Cancelled) => "was cancelled",
        Some(Outcome::TimedOut) => "ran out of time",
        Some(Outcome::Errored | Outcome::Succeeded) | None => {
            match why(info).starts_with(IMAGE_NOT_BUILT) {
                true => "could not be built",
                false => "could not be run",
            }
        }
    };
    let took = match format_duration(info.duration) {
        took if took.is_empty() => took,
        took => format!(" after {took}"),
    };
    format!("{}/{} {how}{took}", info.project, short_id(&info.id))
}

/// Whether the build left files, or may have left some: they are counted some time after its end.
fn has_artifacts(info: &BuildView) -> bool {
    let has_run = || info.log_runs_from.is_some() || info.exit_code != NO_EXIT_CODE;
    let has_files = match info.artifacts {
        Some(artifacts) => artifacts.files > 0,
        None => has_run(),
    };
    // A failed rebuild has no path: its artifacts are gone.
    !info.path.is_empty() && has_files
}

fn print_excerpt(info: &BuildView) {
    let is_errored = info.outcome == Some(Outcome::Errored);
    let mut excerpt = Excerpt::of(info);
    if is_errored {
        excerpt.remove_error_line(why(info));
    }
    match excerpt.header() {
        Some(header) => {
            print_message(header);
            excerpt.print();
        }
        None if is_errored => {}
        None => print_message("The build printed nothing."),
    }
}

#[cfg(test)]
mod tests {
    use super::super::repeat::repeat_command;
    use super::*;

    fn info(outcome: Outcome, exit_code: i64) -> BuildView {
        BuildView {
            outcome: Some(outcome),
            exit_code,
            project: "p".to_owned(),
            id: "0123456789abcdef".to_owned(),
            path: "/builds/p".to_owned(),
            duration: 1_200_000_000,
            ..BuildView::default()
        }
    }

    fn check(info: &BuildView) -> Result<(), Error> {
        let flags = ServerFlags::of([("port", "1".to_owned())]);
        let words = ["mistry", "build", "--project", "p", "--", "--a=b"];
        let context = Context {
            flags: &flags,
            repeat: repeat_command(&words.map(std::ffi::OsString::from)),
            has_printed_log: false,
        };
        context.check_outcome(info)
    }

    #[test]
    fn each_outcome_has_its_message_and_exit_status() {
        let mut image = info(Outcome::Errored, NO_EXIT_CODE);
        image.err = Some("could not build docker image 'p'".to_owned());
        let mut errored = info(Outcome::Errored, NO_EXIT_CODE);
        errored.err = Some("the disk is full".to_owned());
        let mut cancelled = info(Outcome::Cancelled, NO_EXIT_CODE);
        cancelled.cancelled = Some(crate::job::Cancelled {
            by: "joe".to_owned(),
            reason: "wrong branch".to_owned(),
        });
        for (info, status, sentence, how) in [
            (
                info(Outcome::Failed, 3),
                1,
                "Build failed with exit code 3",
                "failed",
            ),
            (
                image,
                1,
                "Image build failed: could not build docker image 'p'",
                "could not be built",
            ),
            (
                errored,
                1,
                "The build could not be run to its end: the disk is full",
                "could not be run",
            ),
            (
                cancelled,
                6,
                "The build was cancelled by joe: wrong branch",
                "was cancelled",
            ),
            (
                info(Outcome::TimedOut, NO_EXIT_CODE),
                6,
                "The build took too long",
                "ran out of time",
            ),
        ] {
            let error = check(&info).unwrap_err();
            assert_eq!(error.exit_status(), status, "{error}");
            let text = error.to_string();
            let mut lines = text.lines();
            assert_eq!(lines.next(), Some(sentence));
            let summary = format!("p/0123456789ab {how} after 1.2 s");
            assert_eq!(lines.next(), Some(summary.as_str()));
            let mut expected = vec!["Whole log: mistry logs 0123456789ab --port 1"];
            // Only a container leaves something.
            if info.exit_code != NO_EXIT_CODE {
                expected.push("What it left: mistry fetch 0123456789ab --port 1 --target DIR");
            }
            expected.push("Build it again: mistry build --project p -- --a=b");
            assert_eq!(lines.collect::<Vec<_>>(), expected);
        }
        assert!(check(&info(Outcome::Succeeded, 0)).is_ok());
    }

    #[test]
    fn only_what_can_be_done_is_suggested() {
        let mut empty = info(Outcome::Failed, 1);
        empty.artifacts = Some(crate::api::ArtifactTotals { files: 0, bytes: 0 });
        let text = check(&empty).unwrap_err();
        assert!(!text.to_string().contains("What it left"), "{text}");
        let mut stopped = info(Outcome::TimedOut, NO_EXIT_CODE);
        stopped.log_runs_from = Some(7);
        let text = check(&stopped).unwrap_err().to_string();
        assert!(text.contains("What it left"), "{text}");
        let mut rebuild = info(Outcome::Failed, 1);
        (rebuild.path, rebuild.number) = (String::new(), 2);
        let text = check(&rebuild).unwrap_err().to_string();
        assert!(!text.contains("What it left"), "{text}");
        let log = "\nWhole log: mistry logs --attempt 2 0123456789ab --port 1\n";
        assert!(text.contains(log), "{text}");
        let mut incremental = info(Outcome::Failed, 1);
        incremental.incremental = true;
        let text = check(&incremental).unwrap_err();
        let cold = "\nWithout the group's cache: mistry build --project p --cold -- --a=b";
        assert!(text.to_string().ends_with(cold), "{text}");
        let mut unknown = info(Outcome::Failed, 1);
        unknown.id = String::new();
        let text = check(&unknown).unwrap_err();
        assert_eq!(text.to_string(), "Build failed with exit code 1");
    }
}
