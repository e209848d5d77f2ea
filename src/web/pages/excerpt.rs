//! The end of the log of a build that did not succeed, as its page shows it on top.

use super::super::format::cut;
use crate::api::{Excerpt, ExcerptPart};
use crate::build::BuildInfo;
use crate::build::lines::{self, Room, Source, select};
use crate::job::Outcome;

/// Lines that are shown: an error with its surroundings, and the rest of the page stays in sight.
const SHOWN: usize = 15;
/// Lines of each stream that are shown in any case.
const OF_EACH: usize = 5;
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
    /// How many lines are left out before it, if any are.
    pub(super) gap: Option<String>,
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
        return of(selected(excerpt), excerpt.part == ExcerptPart::Image);
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
            gap: None,
        })
        .collect();
    of(last, is_image)
}

/// The last lines of an excerpt, and of each stream in it.
fn selected(excerpt: &Excerpt) -> Vec<Line> {
    let source = |is_stderr| match is_stderr {
        true => Source::Stderr,
        false => Source::Stdout,
    };
    let lines = excerpt.lines.iter();
    let sources: Vec<_> = lines.map(|line| (source(line.stderr), 0)).collect();
    let room = Room {
        lines: SHOWN,
        bytes: 0,
        of_each: OF_EACH,
    };
    let mut shown = Vec::new();
    let mut skipped = 0_u64;
    for (line, is_shown) in excerpt.lines.iter().zip(select(&sources, room)) {
        skipped = skipped.saturating_add(line.skipped);
        if !is_shown {
            skipped = skipped.saturating_add(1);
            continue;
        }
        let is_gap = skipped > 0 && !shown.is_empty();
        shown.push(Line {
            text: cut(&lines::readable(&line.text), MAX_LINE),
            is_stderr: line.stderr,
            gap: is_gap.then(|| format!("… {skipped} line{}", if skipped == 1 { "" } else { "s" })),
        });
        skipped = 0;
    }
    shown
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
