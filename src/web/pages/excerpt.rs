//! The end of the log of a build that did not succeed, as its page shows it on top.

use super::super::format::cut;
use crate::api::ExcerptPart;
use crate::build::{BuildInfo, lines};
use crate::job::Outcome;

/// Lines that are shown: an error with its surroundings, and the rest of the page stays in sight.
const SHOWN: usize = 15;
/// Characters of a line that are shown.
const MAX_LINE: usize = 400;

/// The end of a log.
#[derive(Debug)]
pub(super) struct Shown {
    /// What it is the end of.
    pub(super) title: &'static str,
    pub(super) lines: Vec<Line>,
    /// Some of the lines were written to standard error.
    pub(super) has_stderr: bool,
}

/// One line of it.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) text: String,
    pub(super) is_stderr: bool,
}

/// The end of the log of a build that is over and did not succeed; `None` of others, of an empty log, and of a
/// cancelled build, which has no error to look for. `log` is the end of the log.
pub(super) fn shown(info: &BuildInfo, log: &str) -> Option<Shown> {
    if matches!(
        info.outcome(),
        None | Some(Outcome::Succeeded | Outcome::Cancelled)
    ) {
        return None;
    }
    if let Some(excerpt) = &info.excerpt {
        let last = excerpt.lines.len().saturating_sub(SHOWN);
        let last = excerpt.lines.iter().skip(last).map(|line| Line {
            text: cut(&lines::readable(&line.text), MAX_LINE),
            is_stderr: line.stderr,
        });
        return of(last.collect(), excerpt.part == ExcerptPart::Image);
    }
    // Records of earlier versions have no excerpt.
    let is_image = info.phases.run.is_none() && info.exit_code.is_none();
    let text = lines::readable(log);
    let all: Vec<&str> = text.trim_end().lines().collect();
    let last = all.iter().skip(all.len().saturating_sub(SHOWN));
    let last: Vec<Line> = last
        .map(|text| Line {
            text: cut(text, MAX_LINE),
            is_stderr: false,
        })
        .collect();
    of(last, is_image)
}

fn of(lines: Vec<Line>, is_image: bool) -> Option<Shown> {
    let is_empty = lines.iter().all(|line| line.text.trim().is_empty());
    (!is_empty).then(|| Shown {
        title: match is_image {
            true => "The end of the image build",
            false => "The end of the output",
        },
        has_stderr: lines.iter().any(|line| line.is_stderr),
        lines,
    })
}
