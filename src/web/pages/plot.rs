//! How long the builds of a project took over time, as a drawing without a module.
//!
//! The duration is on a logarithmic scale: a cached answer takes a millisecond, a cold build minutes,
//! and both are to be seen. Marks differ by shape as well as by colour.

use std::time::Duration;

use jiff::Timestamp;

use super::super::format;
use super::row::short;
use crate::build::{AnswerStats, Outcome, Trend};
use crate::project::ProjectName;

const WIDTH: f64 = 960.0;
const HEIGHT: f64 = 220.0;
/// Room for the scale at the left, and for the dates below.
const LEFT: f64 = 64.0;
const BELOW: f64 = 22.0;
const ABOVE: f64 = 8.0;

/// Durations that the scale may show: about a power of ten apart, and said as people say them.
const SCALE: [(f64, &str); 11] = [
    (1e-4, "0.1 ms"),
    (1e-3, "1 ms"),
    (1e-2, "10 ms"),
    (1e-1, "100 ms"),
    (1.0, "1 s"),
    (10.0, "10 s"),
    (60.0, "1 min"),
    (600.0, "10 min"),
    (3_600.0, "1 h"),
    (36_000.0, "10 h"),
    (360_000.0, "100 h"),
];

/// The drawing.
#[derive(Debug)]
pub(super) struct Plot {
    pub(super) marks: Vec<Mark>,
    /// Lines of the scale: height, and the duration there.
    pub(super) lines: Vec<(String, &'static str)>,
    /// Dates of the first and the last mark, for `datetime` and for people.
    pub(super) from: String,
    pub(super) to: String,
    pub(super) width: u32,
    pub(super) height: u32,
    pub(super) left: String,
}

/// One build or answer.
#[derive(Debug)]
pub(super) struct Mark {
    /// `cold`, `incremental`, `cached` or `red`: a class, and the name of a shape.
    pub(super) kind: &'static str,
    pub(super) x: String,
    pub(super) y: String,
    pub(super) title: String,
    /// Where it leads; "" for an answer.
    pub(super) href: String,
}

/// Draws; `None` where there is nothing to be drawn.
#[allow(clippy::cast_precision_loss)] // A drawing is coarser.
pub(super) fn plot(project: &ProjectName, trend: &Trend, stats: &AnswerStats) -> Option<Plot> {
    let builds = trend.points.iter().map(|point| (point.started, point.took));
    // Answers of before the oldest build would press all others to the right.
    let oldest = trend.points.last()?.started;
    let answers: Vec<(Timestamp, Duration)> = stats
        .latest
        .iter()
        .filter(|(at, _)| *at >= oldest)
        .map(|(at, micros)| (*at, Duration::from_micros(*micros)))
        .collect();
    let all: Vec<(Timestamp, Duration)> = builds.chain(answers.iter().copied()).collect();
    let (first, last) = (
        all.iter().map(|(at, _)| *at).min()?,
        all.iter().map(|(at, _)| *at).max()?,
    );
    let shortest = all.iter().map(|(_, took)| *took).min()?;
    let longest = all.iter().map(|(_, took)| *took).max()?;
    let low = decade(shortest).floor();
    let high = decade(longest).ceil().max(low + 1.0);
    let span = (last.as_millisecond() - first.as_millisecond()).max(1) as f64;
    let x = |at: Timestamp| {
        let part = (at.as_millisecond() - first.as_millisecond()) as f64 / span;
        let part = if first == last { 0.5 } else { part };
        format!("{:.1}", LEFT + 8.0 + part * (WIDTH - LEFT - 16.0))
    };
    let y = |took: Duration| {
        let part = (decade(took) - low) / (high - low);
        format!("{:.1}", HEIGHT - BELOW - part * (HEIGHT - BELOW - ABOVE))
    };
    let answers = answers.iter().map(|(at, took)| Mark {
        kind: "cached",
        x: x(*at),
        y: y(*took),
        title: format!("cached, answered in {}", precise(*took)),
        href: String::new(),
    });
    let builds = trend.points.iter().rev().map(|point| {
        let id = point.id.to_string();
        let kind = match (point.outcome, point.incremental) {
            (Outcome::Succeeded, true) => "incremental",
            (Outcome::Succeeded, false) => "cold",
            _ => "red",
        };
        let how = if point.incremental {
            "incremental"
        } else {
            "cold"
        };
        Mark {
            kind,
            x: x(point.started),
            y: y(point.took),
            title: format!(
                "{} {}, {how}, {}",
                short(&id),
                point.outcome.as_str(),
                format::span(point.took)
            ),
            href: format!("/job/{project}/{id}"),
        }
    });
    let lines = SCALE.iter().filter_map(|(seconds, said)| {
        let took = Duration::try_from_secs_f64(*seconds).ok()?;
        let part = (decade(took) - low) / (high - low);
        (-0.001..=1.001).contains(&part).then(|| (y(took), *said))
    });
    Some(Plot {
        marks: answers.chain(builds).collect(),
        lines: lines.collect(),
        from: format::stamp(first),
        to: format::stamp(last),
        width: WIDTH as u32,
        height: HEIGHT as u32,
        left: format!("{LEFT:.0}"),
    })
}

/// The power of ten of a duration in seconds; what took no time took a hundred microseconds.
fn decade(took: Duration) -> f64 {
    took.as_secs_f64().max(1e-4).log10()
}

/// A duration that may be shorter than a millisecond.
fn precise(took: Duration) -> String {
    match took.as_micros() {
        micros @ 0..1_000 => format!(
            "{:.1} ms",
            Duration::from_micros(micros as u64).as_secs_f64() * 1e3
        ),
        _ => format::span(took),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::build::Point;

    #[test]
    fn builds_and_answers_stand_within_the_drawing_however_they_differ() {
        let project: ProjectName = "p".parse().unwrap();
        let began: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let point = |hour: u64, took: u64, incremental, outcome| Point {
            id: format!("{hour:064x}").parse().unwrap(),
            started: began + Duration::from_secs(hour * 3600),
            took: Duration::from_millis(took),
            incremental,
            outcome,
        };
        let trend = Trend {
            points: vec![
                point(3, 0, false, Outcome::Failed),
                point(2, 3, true, Outcome::Succeeded),
                point(1, 900_000, false, Outcome::Succeeded),
            ],
            ..Trend::default()
        };
        let mut stats = AnswerStats::default();
        for hour in [0, 2] {
            let at = began + Duration::from_secs(hour * 3600);
            stats.latest.push_back((at, 300));
        }
        let drawn = plot(&project, &trend, &stats).unwrap();
        let kinds: Vec<_> = drawn.marks.iter().map(|mark| mark.kind).collect();
        assert_eq!(kinds, ["cached", "cold", "incremental", "red"]);
        for mark in &drawn.marks {
            let (x, y): (f64, f64) = (mark.x.parse().unwrap(), mark.y.parse().unwrap());
            assert!((LEFT..=WIDTH).contains(&x), "{mark:?}");
            assert!((0.0..=HEIGHT - BELOW).contains(&y), "{mark:?}");
        }
        assert!(plot(&project, &Trend::default(), &stats).is_none());
        let alone = Trend {
            points: vec![point(1, 5, false, Outcome::Succeeded)],
            ..Trend::default()
        };
        assert_eq!(
            plot(&project, &alone, &AnswerStats::default())
                .unwrap()
                .marks
                .len(),
            1
        );
    }
}
