//! The status text for `systemctl status`: one line, updated with each event.

use std::convert::Infallible;
use std::time::Duration;

use tokio::sync::watch;

use super::notify::notify;
use crate::job::Outcome;
use crate::scheduler::{Activity, Last};
use crate::systemd;

/// Digits of an id in the text.
const SHORT_ID: usize = 7;

/// Sends the current load to systemd, and why the configuration could not be reloaded, whenever one of them
/// changes.
pub(super) async fn send_changes(
    mut activity: watch::Receiver<Activity>,
    mut reload_failure: watch::Receiver<Option<String>>,
) -> Infallible {
    let mut sent = None;
    loop {
        let text = text(
            &activity.borrow_and_update(),
            &reload_failure.borrow_and_update(),
        );
        if sent.as_ref() != Some(&text) {
            let line = text.clone();
            notify(move || systemd::status(&line)).await;
            sent = Some(text);
        }
        // The senders live as long as the daemon.
        tokio::select! {
            _ = activity.changed() => {}
            _ = reload_failure.changed() => {}
        }
    }
}

fn text(activity: &Activity, reload_failure: &Option<String>) -> String {
    let mut text = match (activity.building, activity.queued) {
        (0, 0) => "idle".to_owned(),
        (building, 0) => format!("{building} building"),
        (building, queued) => format!("{building} building, {queued} queued"),
    };
    if activity.paused {
        text.push_str(", paused: no new build starts");
    }
    if let Some(last) = &activity.last {
        text.push_str(&format!("; last: {}", short(last)));
    }
    if activity.engine_away {
        text.push_str("; the Docker Engine cannot be reached: only cached builds are served");
    }
    if let Some(reason) = reload_failure {
        text.push_str(&format!("; configuration not reloaded: {reason}"));
    }
    text
}

fn short(last: &Last) -> String {
    let id = last.id.to_string();
    let id = &id[..SHORT_ID];
    let ended = match last.outcome {
        Outcome::Succeeded => "succeeded",
        Outcome::Failed => "failed",
        Outcome::Errored => "errored",
        Outcome::Cancelled => "was cancelled",
        Outcome::TimedOut => "timed out",
    };
    format!("{} {id} {ended} in {}", last.project, rounded(last.took))
}

/// A rounded duration for users.
fn rounded(took: Duration) -> String {
    let seconds = took.as_secs();
    match seconds {
        0..10 => format!("{:.1} s", took.as_secs_f64()),
        10..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        _ => format!("{} h {} min", seconds / 3600, seconds / 60 % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_is_one_line() {
        let mut activity = Activity::default();
        assert_eq!(text(&activity, &None), "idle");
        activity.last = Some(Last {
            project: "yarn".parse().unwrap(),
            id: "3fa9c1d0".repeat(8).parse().unwrap(),
            outcome: Outcome::Succeeded,
            took: Duration::from_millis(41_300),
        });
        (activity.building, activity.queued) = (2, 1);
        let expected = "2 building, 1 queued; last: yarn 3fa9c1d succeeded in 41 s";
        assert_eq!(text(&activity, &None), expected);
        activity.engine_away = true;
        let trouble = Some("no such key".to_owned());
        let text = text(&activity, &trouble);
        assert!(
            text.starts_with(expected) && text.contains("Docker Engine"),
            "{text}"
        );
        assert!(text.ends_with("not reloaded: no such key"), "{text}");
    }

    #[test]
    fn the_status_of_a_paused_queue_names_waiting_jobs_too() {
        let mut activity = Activity {
            paused: true,
            ..Activity::default()
        };
        let said = "idle, paused: no new build starts";
        assert_eq!(text(&activity, &None), said);
        (activity.building, activity.queued) = (2, 3);
        let said = "2 building, 3 queued, paused: no new build starts";
        assert_eq!(text(&activity, &None), said);
    }

    #[test]
    fn durations_are_written_for_people() {
        for (seconds, said) in [
            (0.04, "0.0 s"),
            (9.94, "9.9 s"),
            (59.9, "59 s"),
            (61.0, "1 min 1 s"),
            (7_260.0, "2 h 1 min"),
        ] {
            assert_eq!(rounded(Duration::from_secs_f64(seconds)), said);
        }
    }
}
