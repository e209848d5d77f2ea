//! How long to wait, as the command line says it, and the end of waiting.

use std::str::FromStr;
use std::time::Duration;

use crate::project::parse_duration;

/// A duration and how it was written, for messages.
#[derive(Clone, Debug)]
pub(super) struct Timeout {
    pub(super) text: String,
    pub(super) time: Duration,
}

impl Default for Timeout {
    /// As long as a person, or a CI system, is likely to wait.
    fn default() -> Timeout {
        Timeout {
            text: "60m".to_owned(),
            time: Duration::from_secs(3_600),
        }
    }
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

/// Why waiting ended before the build did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cut {
    /// The time of the caller ran out.
    TimedOut,
    /// Ctrl-C.
    Interrupted,
}

/// Waits for `work`, but no longer than `time`, and not after Ctrl-C.
pub(super) async fn wait_at_most<T>(
    time: Duration,
    work: impl Future<Output = T>,
) -> Result<T, Cut> {
    tokio::select! {
        done = tokio::time::timeout(time, work) => done.map_err(|_| Cut::TimedOut),
        _ = tokio::signal::ctrl_c() => Err(Cut::Interrupted),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeout_is_parsed_as_a_duration() {
        assert_eq!("1h30m".parse::<Timeout>().unwrap().time.as_secs(), 5_400);
        for wrong in ["", "0s", "1", "x", "-1s"] {
            assert!(wrong.parse::<Timeout>().is_err(), "{wrong}");
        }
    }
}
