//! Facts about the server and about an active build, asked for where they are printed. They are
//! additions: a server that does not answer these requests is no reason to give up a build.

use std::time::Duration;

use jiff::Timestamp;

use super::build_progress::BuildProgress;
use super::format::format_duration;
use crate::client::{Client, Error, Filter};
use crate::job::{JobId, Phase, State};
use crate::project::ProjectName;

/// Pending builds that are counted: more than a queue holds.
const MAX_PENDING: usize = 1_000;

/// Sets the place of a job that waits, and the state and the last line of one whose stream is lost.
pub(super) async fn refresh(client: &Client, project: &ProjectName, progress: &BuildProgress) {
    if let Some(id) = progress.requested.get() {
        if let Ok(view) = client.job_without_log(project, id).await
            && view.state == State::Pending
        {
            progress.set_job_phase(view.build_info.phase, view.build_info.stopping);
        }
        if let Ok(end) = client.end_of_log(project, id).await {
            progress.set_log(&end);
        }
    }
    if progress.is_waiting_for_slot()
        && let Some(id) = progress.accepted.get()
        && let Some((place, all)) = place_in_queue(client, project, id).await
    {
        let addition = match is_paused(client).await {
            true => ", which is paused until 'mistry resume'",
            false => "",
        };
        progress.set_place(place, all, addition);
    }
}

/// Whether the queue is paused, so that no build starts.
async fn is_paused(client: &Client) -> bool {
    let status = client.status().await;
    status.is_ok_and(|status| status.get("Paused") == Some(&serde_json::Value::Bool(true)))
}

/// The place of a job among those that wait for a slot, and their number.
async fn place_in_queue(
    client: &Client,
    project: &ProjectName,
    id: JobId,
) -> Option<(usize, usize)> {
    let filter = Filter {
        state: State::Pending.as_str().to_owned(),
        ..Filter::default()
    };
    let items = client.index(&filter, MAX_PENDING).await.ok()?;
    let mut waiting: Vec<_> = items
        .iter()
        .filter(|item| item.build_info.phase == Some(Phase::Queued))
        .collect();
    waiting.sort_by_key(|item| item.build_info.queued_at);
    let (project, id) = (project.as_str(), id.to_string());
    let place = waiting
        .iter()
        .position(|item| item.project == project && item.id == id)?;
    Some((place + 1, waiting.len()))
}

/// `Joined a build that uid 1000 asked for 19 s ago`.
pub(super) async fn describe_joined(client: &Client, project: &ProjectName, id: JobId) -> String {
    let Ok(view) = client.job_without_log(project, id).await else {
        return "Joined a build that another client asked for".to_owned();
    };
    let info = view.build_info;
    let by = info.asked_by.as_deref().unwrap_or("another client");
    let age = info.queued_at.map(|at| Timestamp::now().duration_since(at));
    // The clock of the server may differ.
    let ago = match age.filter(|age| age.as_secs() >= 1) {
        Some(age) => format_duration(i64::try_from(age.as_nanos()).unwrap_or(i64::MAX)),
        None => "a moment".to_owned(),
    };
    format!("Joined a build that {by} asked for {ago} ago")
}

/// Says why a busy server refuses a job, and how long it is asked again.
pub(super) async fn describe_refusal(
    client: &Client,
    error: &Error,
    time: Duration,
    timeout: Duration,
) -> String {
    let sentence = match error {
        Error::Response(response) => response.sentence(),
        other => other.to_string(),
    };
    let duration =
        |time: Duration| format_duration(i64::try_from(time.as_nanos()).unwrap_or(i64::MAX));
    if !time.is_zero() {
        return format!("Still asking after {}: {sentence}", duration(time));
    }
    let queue = full_queue(client).await.unwrap_or_default();
    format!(
        "{sentence}{queue}. This command asks again for up to {}; --no-retry ends it at once",
        duration(timeout)
    )
}

/// How full the queue is, if that is why a job is refused.
async fn full_queue(client: &Client) -> Option<String> {
    let status = client.status().await.ok()?;
    let count = |name: &str| status.get(name).and_then(serde_json::Value::as_u64);
    let (running, queued) = (count("Running")?, count("Queued")?);
    let backlog = count("Backlog")?;
    (queued >= backlog).then(|| {
        format!(
            " (running: {running}, waiting: {queued}, as many as job_backlog on the server allows)"
        )
    })
}
