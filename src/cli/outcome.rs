//! How a build ended, for the person and for the exit status.

use super::Error;
use super::output::print_message;
use crate::api::{BuildView, NO_EXIT_CODE};
use crate::job::Outcome;
use crate::screen::LogView;

/// An error unless the build succeeded; prints the remarks about it, or the end of what a failed build printed.
pub(super) fn check_outcome(info: &BuildView) -> Result<(), Error> {
    match info.outcome {
        Some(Outcome::Succeeded) => {
            for warning in &info.warnings {
                print_message(&format!("warning: {warning}"));
            }
            Ok(())
        }
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
}
