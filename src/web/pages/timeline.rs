//! The phases of a build, drawn to scale.

use std::time::Duration;

use jiff::Timestamp;

use super::super::format;
use crate::build::{BuildInfo, Phase};

/// The width of the drawing in its own units.
const WIDTH: f64 = 1_000.0;
/// What is shorter is drawn so wide, to be seen at all.
const LEAST: f64 = 3.0;

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
    /// It goes on.
    pub(super) is_open: bool,
}

/// The phases that a build went through so far, as parts of all.
pub(super) fn timeline(info: &BuildInfo, now: Timestamp) -> Vec<Segment> {
    let phases = &info.phases;
    let all = [
        (
            "queued",
            "waiting for a slot",
            phases.waiting,
            Phase::Queued,
        ),
        (
            "snapshot",
            "its directory made or cloned",
            phases.snapshot,
            Phase::Preparing,
        ),
        (
            "image",
            "its image found or built",
            phases.image,
            Phase::Imaging,
        ),
        (
            "run",
            "its container, from creation to end",
            phases.run,
            Phase::Running,
        ),
        (
            "finish",
            "its result put in place",
            phases.finish,
            Phase::Finishing,
        ),
    ];
    let done: u64 = all.iter().filter_map(|(_, _, millis, _)| *millis).sum();
    let since = info.queued_at.unwrap_or(info.started_at);
    let since = Duration::try_from(now.duration_since(since)).unwrap_or_default();
    let so_far = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
    let parts: Vec<_> = all
        .into_iter()
        .filter_map(|(name, what, millis, phase)| {
            let is_open = info.phase == Some(phase) && millis.is_none();
            let millis = if is_open {
                Some(so_far.saturating_sub(done))
            } else {
                millis
            };
            Some((name, what, millis?, is_open))
        })
        .collect();
    #[allow(clippy::cast_precision_loss)] // Milliseconds on a drawing.
    let sizes: Vec<f64> = parts
        .iter()
        .map(|(_, _, millis, _)| *millis as f64)
        .collect();
    let total: f64 = sizes.iter().sum::<f64>().max(1.0);
    let mut x = 0.0;
    let widths = sizes.iter().map(|size| (size / total * WIDTH).max(LEAST));
    let scale = WIDTH / widths.clone().sum::<f64>().max(LEAST);
    parts
        .into_iter()
        .zip(widths)
        .map(|((name, what, millis, is_open), width)| {
            let width = width * scale;
            let segment = Segment {
                name,
                what,
                x: format!("{x:.1}"),
                width: format!("{width:.1}"),
                took: format::span(Duration::from_millis(millis)),
                is_open,
            };
            x += width;
            segment
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::build::{Phases, State};

    #[test]
    fn phases_are_drawn_to_scale_and_the_shortest_is_seen() {
        let info = BuildInfo {
            state: State::Ready,
            phases: Phases {
                waiting: Some(0),
                snapshot: Some(10_000),
                run: Some(30_000),
                ..Phases::default()
            },
            ..BuildInfo::default()
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
    fn the_phase_that_goes_on_takes_what_is_left_until_now() {
        let began: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let info = BuildInfo {
            phase: Some(Phase::Running),
            queued_at: Some(began),
            phases: Phases {
                waiting: Some(1_000),
                ..Phases::default()
            },
            ..BuildInfo::default()
        };
        let drawn = timeline(&info, began + Duration::from_secs(4));
        let run = drawn.last().unwrap();
        assert_eq!(
            (run.name, run.is_open, run.took.as_str()),
            ("run", true, "3.0 s")
        );
        assert!(timeline(&BuildInfo::default(), began).is_empty());
    }
}
