//! The phases of a build, drawn to scale.

use std::time::Duration;

use jiff::Timestamp;

use super::super::format;
use crate::build::BuildInfo;
use crate::job::Phase;

/// The width of the drawing in its own units.
const WIDTH: f64 = 1_000.0;
/// The width of the shortest phases, so that they can be seen.
const MIN_WIDTH: f64 = 3.0;

/// One phase.
#[derive(Debug, PartialEq)]
pub(super) struct Segment {
    /// Its name, also as a class.
    pub(super) name: &'static str,
    /// What happens in it.
    pub(super) what: &'static str,
    pub(super) x: String,
    pub(super) width: String,
    pub(super) took: String,
    /// When it began, for `data-since`, if it has not ended.
    pub(super) since: Option<String>,
}

/// A phase, its name, and what happens in it.
const PHASES: [(Phase, &str, &str); 5] = [
    (Phase::Queued, "queued", "waiting for a slot"),
    (Phase::Preparing, "snapshot", "its directory made or cloned"),
    (Phase::Imaging, "image", "its image found or built"),
    (Phase::Running, "run", "its container, from creation to end"),
    (Phase::Finishing, "finish", "its result put in place"),
];

/// The phases that a build went through so far, as parts of the whole.
pub(super) fn timeline(info: &BuildInfo, now: Timestamp) -> Vec<Segment> {
    let phases = &info.phases;
    let durations = [
        phases.waiting,
        phases.snapshot,
        phases.image,
        phases.run,
        phases.finish,
    ];
    let done: u64 = durations.iter().flatten().sum();
    let since = info.queued_at.unwrap_or(info.started_at);
    let since = Duration::try_from(now.duration_since(since)).unwrap_or_default();
    let so_far = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
    let mut segments: Vec<(Segment, u64)> = Vec::new();
    for ((phase, name, what), duration) in PHASES.into_iter().zip(durations) {
        let is_open = info.phase() == Some(phase) && duration.is_none();
        let open = is_open.then(|| so_far.saturating_sub(done));
        // What took no time is nothing to see.
        if let Some(millis) = duration.filter(|millis| *millis > 0).or(open) {
            let segment = Segment {
                name,
                what,
                x: String::new(),
                width: String::new(),
                took: format::span(Duration::from_millis(millis)),
                since: is_open.then(|| {
                    let began = now.checked_sub(Duration::from_millis(millis));
                    format::stamp(began.unwrap_or(now))
                }),
            };
            segments.push((segment, millis));
        }
    }
    place(segments)
}

/// Places segments side by side, to the scale of their milliseconds.
fn place(segments: Vec<(Segment, u64)>) -> Vec<Segment> {
    #[allow(clippy::cast_precision_loss)] // Milliseconds on a drawing.
    let sizes: Vec<f64> = segments.iter().map(|(_, millis)| *millis as f64).collect();
    let total: f64 = sizes.iter().sum::<f64>().max(1.0);
    let widths = sizes
        .iter()
        .map(|size| (size / total * WIDTH).max(MIN_WIDTH));
    let scale = WIDTH / widths.clone().sum::<f64>().max(MIN_WIDTH);
    let mut x = 0.0;
    let placed = segments.into_iter().zip(widths);
    let placed = placed.map(|((segment, _), width)| {
        let width = width * scale;
        let segment = Segment {
            x: format!("{x:.1}"),
            width: format!("{width:.1}"),
            ..segment
        };
        x += width;
        segment
    });
    placed.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::{Outcome, Phases, Status};

    #[test]
    fn phases_are_drawn_to_scale_the_shortest_is_visible_and_one_without_time_is_not() {
        let info = BuildInfo {
            status: Status::Ready(Outcome::Succeeded),
            phases: Phases {
                waiting: Some(1),
                snapshot: Some(10_000),
                image: Some(0),
                run: Some(30_000),
                ..Phases::default()
            },
            ..BuildInfo::example()
        };
        let drawn = timeline(&info, Timestamp::now());
        let width = |at: usize| drawn[at].width.parse::<f64>().unwrap();
        assert_eq!(drawn.len(), 3);
        assert!(width(0) > 2.5);
        assert!((width(2) / width(1) - 3.0).abs() < 0.05);
        let end = drawn[2].x.parse::<f64>().unwrap() + width(2);
        assert!((end - WIDTH).abs() < 0.5, "{end}");
    }

    #[test]
    fn the_current_phase_is_drawn_up_to_now() {
        let began: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let info = BuildInfo {
            status: Status::Pending(Phase::Running),
            queued_at: Some(began),
            phases: Phases {
                waiting: Some(1_000),
                ..Phases::default()
            },
            ..BuildInfo::example()
        };
        let drawn = timeline(&info, began + Duration::from_secs(4));
        let run = drawn.last().unwrap();
        assert_eq!(
            (run.name, run.since.as_deref(), run.took.as_str()),
            ("run", Some("2026-01-01T00:00:01.000Z"), "3.0 s")
        );
        let without = BuildInfo {
            status: Status::Ready(Outcome::Errored),
            ..BuildInfo::example()
        };
        assert!(timeline(&without, began).is_empty());
    }
}
