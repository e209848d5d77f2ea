//! Reasons to stop a build early: a client cancels it, or it took too long or printed too much.
//!
//! The decision is a value that is written into the record before the build is stopped, so that no later
//! process of the daemon decides otherwise.

use std::time::Duration;

use crate::build::Stopped;
use crate::job::{Cancelled, Outcome};

/// A client has cancelled it.
pub(super) fn cancelled(cancelled: Cancelled) -> Stopped {
    let Cancelled { by, reason } = &cancelled;
    Stopped {
        outcome: Outcome::Cancelled,
        sentence: match reason.as_str() {
            "" => format!("the build was cancelled by {by}"),
            reason => format!("the build was cancelled by {by}: {reason}"),
        },
        cancelled: Some(cancelled),
    }
}

fn by_daemon(outcome: Outcome, sentence: String) -> Stopped {
    Stopped {
        outcome,
        sentence,
        cancelled: None,
    }
}

/// It has run longer than `limit`.
pub(super) fn timed_out(limit: Duration) -> Stopped {
    let sentence = format!(
        "the build ran longer than {} (job_timeout) and was stopped",
        in_largest_unit(limit)
    );
    by_daemon(Outcome::TimedOut, sentence)
}

/// Its image was being built for longer than `limit`.
pub(super) fn image_timed_out(limit: Duration) -> Stopped {
    let sentence = format!(
        "the image was not built within {} (job_timeout)",
        in_largest_unit(limit)
    );
    by_daemon(Outcome::TimedOut, sentence)
}

/// It had no running container after `limit` in one of the earlier stages.
pub(super) fn start_timed_out(limit: Duration) -> Stopped {
    let sentence = format!(
        "the build's container did not run within {} (job_timeout)",
        in_largest_unit(limit)
    );
    by_daemon(Outcome::TimedOut, sentence)
}

/// It has printed no line for `limit`.
pub(super) fn silence_timed_out(limit: Duration) -> Stopped {
    let sentence = format!(
        "the build printed nothing for {} (silence_timeout) and was stopped",
        in_largest_unit(limit)
    );
    by_daemon(Outcome::TimedOut, sentence)
}

/// It has printed more than `limit` bytes.
pub(super) fn log_limit_exceeded(limit: u64) -> Stopped {
    let sentence = format!("the build printed more than {limit} bytes (log_limit) and was stopped");
    by_daemon(Outcome::Errored, sentence)
}

/// It has printed so many short lines that the Engine stores too much for them.
pub(super) fn line_limit_exceeded(limit: u64) -> Stopped {
    let sentence = format!(
        "the build printed so many short lines that Docker stores far more for them than their bytes, more than its log of {limit} bytes (log_limit) may take, and was stopped"
    );
    by_daemon(Outcome::Errored, sentence)
}

/// Formats a duration as in configurations: `1h30m`, `90s` as `1m30s`, `500ms`.
fn in_largest_unit(duration: Duration) -> String {
    let mut left = duration.as_millis();
    let mut text = String::new();
    for (name, unit) in [
        ("d", 86_400_000),
        ("h", 3_600_000),
        ("m", 60_000),
        ("s", 1_000),
        ("ms", 1),
    ] {
        if left >= unit {
            text.push_str(&format!("{}{name}", left / unit));
            left %= unit;
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_printed_as_in_the_configuration() {
        for (milliseconds, text) in [
            (500, "500ms"),
            (90_000, "1m30s"),
            (5_400_000, "1h30m"),
            (604_800_000, "7d"),
        ] {
            let limit = Duration::from_millis(milliseconds);
            assert_eq!(in_largest_unit(limit), text);
            assert_eq!(crate::project::parse_duration(text), Some(limit));
        }
    }
}
