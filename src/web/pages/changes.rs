//! What differs from the last build that succeeded, in short lines.

use super::super::format;
use crate::build::{Comparison, Difference, ParamDifference};
use crate::job::JobId;

/// Names in one line.
const MAX_NAMES: usize = 8;
/// Characters of a name.
const MAX_NAME: usize = 80;

/// The differences from one build.
#[derive(Debug)]
pub(super) struct Changes {
    pub(super) id: String,
    pub(super) short: String,
    pub(super) lines: Vec<Line>,
}

/// One kind of difference.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) what: String,
    pub(super) names: Vec<String>,
    /// Names that are left out.
    pub(super) more: usize,
}

/// The differences from the build `id`.
pub(super) fn changes(id: JobId, found: &Comparison) -> Changes {
    let mut lines = Vec::new();
    if !found.params.is_empty() {
        let count = found.params.len() + found.more_params;
        let names = found.params.iter().map(param);
        lines.push(line(count, "param", "differ", names));
    }
    let files = found.files.len() + found.more_files;
    if files > 0 {
        let names = found.files.iter().map(|(path, how)| match how {
            Difference::Added => format!("{path} (new)"),
            Difference::Removed => format!("{path} (removed)"),
            Difference::Changed => path.clone(),
        });
        let mut line = line(files, "file", "changed", names);
        if found.is_partial {
            line.what = format!("at least {}", line.what);
        }
        lines.push(line);
    } else if found.has_other_context {
        lines.push(told("files of the project changed"));
    }
    if found.has_other_image == Some(true) {
        lines.push(told("the image is another one"));
    }
    if lines.is_empty() {
        lines.push(told("the same params, files and image"));
    }
    Changes {
        id: id.to_string(),
        short: id.short(),
        lines,
    }
}

fn told(what: &str) -> Line {
    Line {
        what: what.to_owned(),
        names: Vec::new(),
        more: 0,
    }
}

fn line(count: usize, noun: &str, verb: &str, names: impl Iterator<Item = String>) -> Line {
    let names: Vec<String> = names
        .take(MAX_NAMES)
        .map(|name| format::cut(&format::visible(&name), MAX_NAME))
        .collect();
    let verb = match (count, verb) {
        (1, "differ") => "differs",
        (_, verb) => verb,
    };
    Line {
        what: match count {
            1 => format!("1 {noun} {verb}"),
            _ => format!("{count} {noun}s {verb}"),
        },
        more: count - names.len(),
        names,
    }
}

/// "revision: a1 → b2", "revision (new)".
fn param(param: &ParamDifference) -> String {
    let name = &param.name;
    match (param.difference, &param.before, &param.after) {
        (Difference::Changed, Some(before), Some(after)) => format!("{name}: {before} → {after}"),
        (Difference::Added, _, Some(after)) => format!("{name}: {after} (new)"),
        (Difference::Added, ..) => format!("{name} (new)"),
        (Difference::Removed, ..) => format!("{name} (removed)"),
        (Difference::Changed, ..) => name.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(found: &Comparison) -> Vec<Line> {
        changes("ab".repeat(32).parse().unwrap(), found).lines
    }

    #[test]
    fn differences_are_short_lines_with_bounded_names() {
        let found = Comparison {
            params: vec![ParamDifference {
                name: "rev".to_owned(),
                difference: Difference::Changed,
                before: Some("1".to_owned()),
                after: Some("2\n".to_owned()),
            }],
            files: (0..20)
                .map(|n| (format!("{n}.c"), Difference::Changed))
                .collect(),
            more_files: 5,
            has_other_image: Some(true),
            ..Comparison::default()
        };
        let lines = of(&found);
        assert_eq!(lines[0].what, "1 param differs");
        assert_eq!(lines[0].names, ["rev: 1 → 2⏎"]);
        assert_eq!(lines[1].what, "25 files changed");
        assert_eq!(
            (lines[1].names.len(), lines[1].more),
            (MAX_NAMES, 25 - MAX_NAMES)
        );
        assert_eq!(lines[2].what, "the image is another one");
        assert_eq!(
            of(&Comparison::default())[0].what,
            "the same params, files and image"
        );
        let elsewhere = Comparison {
            has_other_context: true,
            ..Comparison::default()
        };
        assert_eq!(of(&elsewhere)[0].what, "files of the project changed");
    }
}
