//! A Dockerfile as its instructions: lines joined, comments and here-documents left out, directives read.
//!
//! The rules are those of BuildKit's parser, which since Docker 23 is the parser of both builders.

use std::ops::Range;

/// One instruction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Instruction {
    /// The line at which it begins, from 1.
    pub(super) line: usize,
    /// All of it on one line, without its here-documents.
    pub(super) text: String,
    /// A here-document follows it.
    pub(super) has_here_document: bool,
}

/// The first lines of a Dockerfile, if they are directives: `# name=value`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Directives {
    /// The value of `syntax`, and the bytes of its line without the `#`.
    pub(super) syntax: Option<(String, Range<usize>)>,
    /// The character that continues a line; `\` unless `escape` says otherwise.
    escape: Option<char>,
}

/// Reads the directives.
pub(super) fn directives(dockerfile: &str) -> Directives {
    let mut found = Directives::default();
    let mut begin = 0;
    for line in dockerfile.split_inclusive('\n') {
        let (from, text) = (begin, line.trim_end_matches(['\n', '\r']));
        begin += line.len();
        if from == 0 && text.trim_start_matches('\u{feff}').starts_with("#!") {
            continue;
        }
        let Some((name, value)) = directive(text) else {
            break;
        };
        match name.to_ascii_lowercase().as_str() {
            "syntax" if found.syntax.is_none() => {
                let hash = from + text.find('#').map_or(0, |at| at + 1);
                found.syntax = Some((value.to_owned(), hash..from + text.len()));
            }
            "escape" if value == "`" => found.escape = Some('`'),
            _ => {}
        }
    }
    found
}

/// Name and value of a line `# name=value`.
fn directive(line: &str) -> Option<(&str, &str)> {
    let text = line.trim_start_matches('\u{feff}').trim_start();
    let (name, value) = text.strip_prefix('#')?.split_once('=')?;
    let (name, value) = (name.trim(), value.trim());
    let is_name = name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric());
    (is_name && !value.is_empty()).then_some((name, value))
}

/// The instructions, in order.
pub(super) fn instructions(dockerfile: &str) -> Vec<Instruction> {
    let escape = directives(dockerfile).escape.unwrap_or('\\');
    let mut instructions = Vec::new();
    let mut current: Option<Instruction> = None;
    let mut lines = dockerfile.lines().enumerate();
    while let Some((at, line)) = lines.next() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let instruction = current.get_or_insert(Instruction {
            line: at + 1,
            text: String::new(),
            has_here_document: false,
        });
        if let Some(part) = line.strip_suffix(escape) {
            instruction.text.push_str(part);
            instruction.text.push(' ');
            continue;
        }
        instruction.text.push_str(line);
        for end in here_documents(&instruction.text) {
            instruction.has_here_document = true;
            // Without its end, the rest of the file is the document; the builder refuses that.
            lines.by_ref().find(|(_, line)| end.is_at(line));
        }
        instructions.extend(current.take());
    }
    instructions.extend(current);
    instructions
}

/// The end of a here-document.
#[derive(Debug, PartialEq, Eq)]
struct End {
    word: String,
    /// Tabs before it do not count: `<<-`.
    may_be_indented: bool,
}

impl End {
    fn is_at(&self, line: &str) -> bool {
        let line = match self.may_be_indented {
            true => line.trim_start_matches('\t'),
            false => line,
        };
        line == self.word
    }
}

/// The here-documents that an instruction begins: words such as `<<EOF` or `3<<-"EOF"`.
fn here_documents(instruction: &str) -> Vec<End> {
    let mut words = shell_words(instruction);
    let first = words.first().map(|word| word.to_ascii_uppercase());
    if !matches!(first.as_deref(), Some("RUN" | "COPY" | "ADD")) {
        return Vec::new();
    }
    // The form `RUN ["program", "argument"]` has none.
    if words.get(1).is_some_and(|word| word.starts_with('[')) {
        return Vec::new();
    }
    words.remove(0);
    words
        .iter()
        .filter_map(|word| here_document(word))
        .collect()
}

fn here_document(word: &str) -> Option<End> {
    let digits = word.trim_start_matches(|c: char| c.is_ascii_digit());
    let rest = digits.strip_prefix("<<")?;
    let (name, may_be_indented) = match rest.strip_prefix('-') {
        Some(name) => (name, true),
        None => (rest, false),
    };
    let word = name.replace(['"', '\''], "");
    let is_one = !word.is_empty() && !name.contains('<');
    is_one.then_some(End {
        word,
        may_be_indented,
    })
}

/// Splits at spaces that are not quoted, as a shell does; quotes stay.
fn shell_words(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let (mut quote, mut is_escaped) = (None, false);
    for c in text.chars() {
        match quote {
            None if c.is_whitespace() && !is_escaped => {
                if !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
                continue;
            }
            None if matches!(c, '"' | '\'') && !is_escaped => quote = Some(c),
            Some(open) if open == c && !is_escaped => quote = None,
            _ => {}
        }
        is_escaped = c == '\\' && !is_escaped && quote != Some('\'');
        word.push(c);
    }
    if !word.is_empty() {
        words.push(word);
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(dockerfile: &str) -> Vec<(usize, String)> {
        let found = instructions(dockerfile).into_iter();
        found.map(|found| (found.line, found.text)).collect()
    }

    #[test]
    fn here_documents_are_no_instructions() {
        let dockerfile = "FROM a\nRUN <<EOF\nFROM b\n# no comment\n\n  EOF\nEOF\n\
            COPY <<-\"one\" <<'two' /to/\n\tFROM c\n\t\tone\nFROM d\ntwo\n\
            RUN echo \"<<EOF\" '<<EOF' $((1<<2)) <<<word <<\nRUN [\"sh\", \"<<EOF\"]\nENV A=<<EOF\nUSER 1\n\
            RUN 3<<EOF cat\nFROM e\n";
        let found = texts(dockerfile);
        let words: Vec<&str> = found
            .iter()
            .map(|(_, text)| text.split(' ').next().unwrap())
            .collect();
        assert_eq!(
            words,
            ["FROM", "RUN", "COPY", "RUN", "RUN", "ENV", "USER", "RUN"]
        );
        let lines: Vec<usize> = found.iter().map(|(line, _)| *line).collect();
        assert_eq!(lines, [1, 2, 8, 13, 14, 15, 16, 17]);
        let with: Vec<bool> = instructions(dockerfile)
            .iter()
            .map(|i| i.has_here_document)
            .collect();
        assert_eq!(with, [false, true, true, false, false, false, false, true]);
    }

    #[test]
    fn lines_are_joined_without_comments_between_them() {
        let dockerfile = "# escape=`\nRUN a `\n# no\n\n  b\\\nUSER `\n";
        let expected = [(2, "RUN a  b\\".to_owned()), (6, "USER  ".to_owned())];
        assert_eq!(texts(dockerfile), expected);
    }

    #[test]
    fn directives_are_the_first_lines_only() {
        let syntax = |text: &str| directives(text).syntax;
        let line = "#  syntax = docker/dockerfile:1 \r\nFROM a\n";
        let (name, range) = syntax(line).unwrap();
        assert_eq!(name, "docker/dockerfile:1");
        assert_eq!(&line[range], "  syntax = docker/dockerfile:1 ");
        for text in [
            "#!/usr/bin/env x\n#syntax=a",
            "# escape=`\n# SYNTAX=a\n",
            "\u{feff}#syntax=a",
        ] {
            assert_eq!(syntax(text).unwrap().0, "a", "{text:?}");
        }
        for text in [
            "# a comment\n# syntax=a",
            "\n# syntax=a",
            "FROM a\n# syntax=a",
            "# syntax=",
            "# syn tax=a",
        ] {
            assert_eq!(syntax(text), None, "{text:?}");
        }
    }
}
