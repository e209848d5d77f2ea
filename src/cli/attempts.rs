//! The attempts at a job, as lists and the status of its build show them.

use super::Error;
use super::format::{format_duration, format_time};
use crate::api::{AttemptView, BuildView, NO_EXIT_CODE};
use crate::client::Client;
use crate::job::{Outcome, State};

/// A line for each kept attempt at the build's job, if there was more than one.
pub(super) async fn attempt_lines(
    client: &Client,
    info: &BuildView,
) -> Result<Vec<(String, String)>, Error> {
    // A server of an earlier version numbers no attempts.
    let (1.., Ok(project), Ok(id)) = (
        info.numbers.saturating_sub(1),
        info.project.parse(),
        info.id.parse(),
    ) else {
        return Ok(Vec::new());
    };
    let attempts = client.attempts(&project, id).await?.into_iter();
    let lines = attempts.map(|attempt| {
        (
            format!("attempt {}", attempt.number),
            summary_text(&attempt),
        )
    });
    Ok(lines.collect())
}

/// The page of a build. That of a build that is over shows the same attempt when the job is built again.
pub(super) fn page_path(info: &BuildView) -> String {
    match info.state {
        State::Pending => info.url.clone(),
        State::Ready => format!("{}?attempt={}", info.url, info.number),
    }
}

/// Which attempt at its job it is, and that the job is flaky; "" for the only one.
pub(super) fn attempt_text(info: &BuildView) -> String {
    let flaky = if info.flaky { ", flaky" } else { "" };
    match info.numbers {
        0 | 1 => String::new(),
        numbers => format!("{} of {numbers}{flaky}", info.number),
    }
}

/// One attempt in one line.
fn summary_text(attempt: &AttemptView) -> String {
    let outcome = attempt.outcome.map_or("pending", Outcome::as_str);
    let code = match attempt.exit_code {
        NO_EXIT_CODE | 0 => String::new(),
        code => format!(" with exit code {code}"),
    };
    let took = match format_duration(attempt.duration) {
        took if took.is_empty() => took,
        took => format!(", took {took}"),
    };
    let served = if attempt.served { ", served" } else { "" };
    format!(
        "{outcome}{code}, started {}{took}{served}",
        format_time(attempt.started_at)
    )
}
