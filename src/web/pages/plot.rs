//! The durations of a project's builds over time, as a drawing that needs no script.
//!
//! Builds are on a logarithmic scale of durations; cached answers, which take a millisecond, are on a line of
//! their own below it. Marks differ by shape as well as by colour. Only the times are scaled to the width of the
//! page, so that marks and texts have one size at any width.

use std::time::Duration;

use jiff::Timestamp;

use super::super::format;
use crate::build::{AnswerStats, Point, Trend};
use crate::job::Outcome;
use crate::project::ProjectName;

const HEIGHT: f64 = 220.0;
/// Space below the scale, for the line of cached answers, and above all marks.
const BELOW: f64 = 28.0;
const ABOVE: f64 = 10.0;
/// Where cached answers are.
const CACHED: f64 = HEIGHT - 10.0;

/// Durations that may be labelled: about a power of ten apart, and as users write them.
const LABELS: [(f64, &str); 11] = [
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
    /// Dates of the first and the last mark, for `datetime` and for users.
    pub(super) from: String,
    pub(super) to: String,
    pub(super) height: u32,
}

/// One build or answer.
#[derive(Debug)]
pub(super) struct Mark {
    /// `cold`, `incremental`, `cached` or `red`: a class, and the name of a shape.
    pub(super) kind: &'static str,
    /// In percent of the width.
    pub(super) x: String,
    pub(super) y: String,
    pub(super) title: String,
    /// The address of its link; "" for an answer.
    pub(super) href: String,
}

/// Draws builds and answers; `None` where there are no builds.
pub(super) fn plot(project: &ProjectName, trend: &Trend, stats: &AnswerStats) -> Option<Plot> {
    // Answers from before the oldest build would push all other marks to the right.
    let oldest = trend.points.last()?.started;
    let answers: Vec<(Timestamp, Duration)> = stats
        .latest
        .iter()
        .filter(|(at, _)| *at >= oldest)
        .map(|(at, micros)| (*at, Duration::from_micros(*micros)))
        .collect();
    let builds = trend.points.iter().map(|point| (point.started, point.took));
    let scale = Scale::of(builds, answers.iter().map(|(at, _)| *at))?;
    let answers = answers.iter().map(|(at, took)| Mark {
        kind: "cached",
        x: scale.x(*at),
        y: format!("{CACHED:.1}"),
        title: format!("cached, answered in {}", precise(*took)),
        href: String::new(),
    });
    let builds = trend.points.iter().rev();
    let builds = builds.map(|point| mark(project, point, &scale));
    Some(Plot {
        marks: answers.chain(builds).collect(),
        lines: scale.lines(),
        from: format::stamp(scale.first),
        to: format::stamp(scale.last),
        height: HEIGHT as u32,
    })
}

fn mark(project: &ProjectName, point: &Point, scale: &Scale) -> Mark {
    let id = point.id.to_string();
    let kind = match (point.outcome, point.incremental) {
        (Outcome::Succeeded, true) => "incremental",
        (Outcome::Succeeded, false) => "cold",
        _ => "red",
    };
    let how = match point.incremental {
        true => "incremental",
        false => "cold",
    };
    Mark {
        kind,
        x: scale.x(point.started),
        y: scale.y(point.took),
        title: format!(
            "{} {}, {how}, {}",
            point.id.short(),
            point.outcome.as_str(),
            format::span(point.took)
        ),
        href: format!("/job/{project}/{id}"),
    }
}

/// The scales of times and durations in the drawing.
struct Scale {
    first: Timestamp,
    last: Timestamp,
    /// Powers of ten of the shortest and the longest duration.
    low: f64,
    high: f64,
}

#[allow(clippy::cast_precision_loss)] // A drawing is coarser.
impl Scale {
    /// The scale of builds, and of the times of answers; `None` where there are no builds.
    fn of(
        builds: impl Iterator<Item = (Timestamp, Duration)>,
        answers: impl Iterator<Item = Timestamp>,
    ) -> Option<Scale> {
        let (mut times, durations): (Vec<Timestamp>, Vec<Duration>) = builds.unzip();
        times.extend(answers);
        let low = decade(*durations.iter().min()?).floor();
        let high = decade(*durations.iter().max()?).ceil();
        Some(Scale {
            first: *times.iter().min()?,
            last: *times.iter().max()?,
            low,
            high: high.max(low + 1.0),
        })
    }

    fn x(&self, at: Timestamp) -> String {
        let since = |time: Timestamp| (time.as_millisecond() - self.first.as_millisecond()) as f64;
        let part = match self.first == self.last {
            true => 0.5,
            false => since(at) / since(self.last).max(1.0),
        };
        format!("{:.2}", part * 100.0)
    }

    /// The height of a duration as a part of all: 0 to 1 for those between `low` and `high`.
    fn part(&self, took: Duration) -> f64 {
        (decade(took) - self.low) / (self.high - self.low)
    }

    fn y(&self, took: Duration) -> String {
        let height = HEIGHT - BELOW - ABOVE;
        format!("{:.1}", HEIGHT - BELOW - self.part(took) * height)
    }

    fn lines(&self) -> Vec<(String, &'static str)> {
        let lines = LABELS.iter().filter_map(|(seconds, label)| {
            let took = Duration::try_from_secs_f64(*seconds).ok()?;
            let is_shown = (-0.001..=1.001).contains(&self.part(took));
            is_shown.then(|| (self.y(took), *label))
        });
        lines.collect()
    }
}

/// The power of ten of a duration in seconds; zero counts as a hundred microseconds.
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

    #[test]
    fn bars_are_inside_the_plot_for_any_values() {
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
            assert!((0.0..=100.0).contains(&x), "{mark:?}");
            let is_cached = mark.kind == "cached";
            assert!((0.0..=HEIGHT).contains(&y), "{mark:?}");
            assert_eq!(y > HEIGHT - BELOW, is_cached, "{mark:?}");
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
