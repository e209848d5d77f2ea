//! The end of the log of a build that did not succeed, as it is printed.
//!
//! Both streams are shown in the order of the log, because many programs print warnings to standard error and the
//! error itself to standard output. Lines of standard error are marked where the server says which they are, and
//! it is said where lines are left out.

use super::output::print_log;
use crate::api::{BuildView, ExcerptPart, MAX_EXCERPT_LINES};

/// The mark of a line of standard error, and what stands before other lines beside it. ASCII, since the
/// terminal may know nothing else.
const MARKS: [&str; 2] = ["2> ", "   "];

/// The last lines of a log.
#[derive(Debug)]
pub(super) struct Excerpt<'a> {
    /// They are of the build of the image.
    is_of_image: bool,
    lines: Vec<Line<'a>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Line<'a> {
    text: &'a str,
    is_stderr: bool,
    /// Lines of the log that are left out before it.
    skipped: u64,
}

impl<'a> Excerpt<'a> {
    /// The excerpt that the server made, else the end of the log that it sent.
    pub(super) fn of(info: &'a BuildView) -> Excerpt<'a> {
        if let Some(excerpt) = info.excerpt.as_deref() {
            let lines = excerpt.lines.iter().map(|line| Line {
                text: &line.text,
                is_stderr: line.stderr,
                skipped: line.skipped,
            });
            return Excerpt::new(excerpt.part == ExcerptPart::Image, lines.collect());
        }
        let text = |text: &'a Option<std::sync::Arc<str>>| text.as_deref().unwrap_or_default();
        let log = match text(&info.container_stdouterr) {
            "" => text(&info.container_stderr),
            log => log,
        };
        let lines = log.trim_end_matches('\n').lines().map(|text| Line {
            text,
            is_stderr: false,
            skipped: 0,
        });
        Excerpt::new(false, lines.collect())
    }

    fn new(is_of_image: bool, mut lines: Vec<Line<'a>>) -> Excerpt<'a> {
        // Of a progress bar, which redraws its line, the last state is enough.
        for line in &mut lines {
            let mut states = line.text.rsplit('\r');
            line.text = states.find(|state| !state.is_empty()).unwrap_or_default();
        }
        lines.drain(..lines.len().saturating_sub(MAX_EXCERPT_LINES));
        Excerpt { is_of_image, lines }
    }

    /// Removes the server's line about the error at the end, which is printed elsewhere.
    pub(super) fn remove_error_line(&mut self, why: &str) {
        let expected: Vec<&str> = why.lines().collect();
        let Some(start) = self.lines.len().checked_sub(expected.len()) else {
            return;
        };
        let found = self.lines[start..].iter().zip(&expected).enumerate();
        let is_there = found.into_iter().all(|(at, (line, expected))| match at {
            0 => line.text.strip_prefix("mistry: ") == Some(expected),
            _ => line.text == *expected,
        });
        if is_there {
            self.lines.truncate(start);
            while self.lines.last().is_some_and(|line| line.text.is_empty()) {
                self.lines.pop();
            }
        }
    }

    /// What stands above the lines; `None` if there are none.
    pub(super) fn header(&self) -> Option<&'static str> {
        if self.lines.is_empty() {
            return None;
        }
        Some(match (self.is_of_image, self.has_marks()) {
            (true, _) => "The end of the output of the image build:",
            (false, true) => "The end of the log (\"2>\" marks lines of standard error):",
            (false, false) => "The end of the log:",
        })
    }

    /// Marks help only to tell lines apart.
    fn has_marks(&self) -> bool {
        !self.is_of_image && self.lines.iter().any(|line| line.is_stderr)
    }

    /// Prints the lines to standard error.
    pub(super) fn print(&self) {
        print_log(self.text().as_bytes());
    }

    fn text(&self) -> String {
        let has_marks = self.has_marks();
        let mark = |line: &Line<'_>| match has_marks {
            true => MARKS[usize::from(!line.is_stderr)],
            false => "",
        };
        let gap = |line: &Line<'_>| match line.skipped {
            0 => String::new(),
            1 => "… 1 line\n".to_owned(),
            count => format!("… {count} lines\n"),
        };
        let lines = self.lines.iter();
        lines
            .map(|line| format!("{}{}{}\n", gap(line), mark(line), line.text))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn excerpt(lines: &[(&'static str, bool)]) -> Excerpt<'static> {
        let lines = lines.iter().map(|(text, is_stderr)| Line {
            text,
            is_stderr: *is_stderr,
            skipped: 0,
        });
        Excerpt::new(false, lines.collect())
    }

    #[test]
    fn the_end_of_the_log_is_shown_as_it_was_written() {
        let mut info = BuildView::default();
        assert_eq!(Excerpt::of(&info).header(), None);
        info.container_stderr = Some("npm WARN\n".into());
        assert_eq!(Excerpt::of(&info).text(), "npm WARN\n");
        info.container_stdouterr = Some("npm WARN\nerror TS2322\n".into());
        assert_eq!(Excerpt::of(&info).text(), "npm WARN\nerror TS2322\n");
        assert_eq!(Excerpt::of(&info).header(), Some("The end of the log:"));
        let many: String = (0..100).map(|n| format!("{n}\n")).collect();
        info.container_stdouterr = Some(many.into());
        let text = Excerpt::of(&info).text();
        assert_eq!(text.lines().count(), MAX_EXCERPT_LINES);
        assert!(text.starts_with("60\n") && text.ends_with("99\n"));
    }

    #[test]
    fn the_excerpt_of_the_server_is_shown_before_the_end_of_the_log() {
        let line = |text: &str, stderr| crate::api::ExcerptLine {
            text: text.to_owned(),
            stderr,
            skipped: 0,
        };
        let with = |part| BuildView {
            container_stdouterr: Some("other".into()),
            excerpt: Some(std::sync::Arc::new(crate::api::Excerpt {
                part,
                from: 7,
                lines: vec![line("a", false), line("b", true)],
            })),
            ..BuildView::default()
        };
        let info = with(ExcerptPart::Run);
        assert_eq!(Excerpt::of(&info).text(), "   a\n2> b\n");
        let info = with(ExcerptPart::Image);
        assert_eq!(Excerpt::of(&info).text(), "a\nb\n");
        let header = "The end of the output of the image build:";
        assert_eq!(Excerpt::of(&info).header(), Some(header));
        for (skipped, shown) in [
            (1, "   a\n… 1 line\n2> b\n"),
            (60, "   a\n… 60 lines\n2> b\n"),
        ] {
            let mut info = with(ExcerptPart::Run);
            let excerpt = std::sync::Arc::make_mut(info.excerpt.as_mut().unwrap());
            excerpt.lines[1].skipped = skipped;
            assert_eq!(Excerpt::of(&info).text(), shown);
        }
    }

    #[test]
    fn lines_of_standard_error_are_marked_and_the_mark_is_explained() {
        let mixed = excerpt(&[("a", false), ("b", true)]);
        assert_eq!(mixed.text(), "   a\n2> b\n");
        assert!(mixed.header().unwrap().contains("\"2>\" marks"));
        assert_eq!(excerpt(&[("a", false)]).text(), "a\n");
    }

    #[test]
    fn the_error_of_a_build_is_printed_once() {
        for (log, why, shown) in [
            (
                &["step 1", "", "mistry: disk full"][..],
                "disk full",
                "step 1\n",
            ),
            (&["mistry: disk full"], "disk full", ""),
            (&["step 1", "mistry: a: b", "c"], "a: b\nc", "step 1\n"),
            (&["step 1"], "disk full", "step 1\n"),
            (&["echo disk full"], "disk full", "echo disk full\n"),
            (&["I say mistry: x"], "x", "I say mistry: x\n"),
            (&["mistry: "], "", "mistry: \n"),
        ] {
            let lines: Vec<_> = log.iter().map(|text| (*text, false)).collect();
            let mut found = excerpt(&lines);
            found.remove_error_line(why);
            assert_eq!(found.text(), shown, "{log:?}");
        }
    }
}
