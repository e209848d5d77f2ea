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
    /// The value of `syntax`, and the bytes of its line behind the `#`.
    pub(super) syntax: Option<(String, Range<usize>)>,
    /// The line `# escape=…`: the character that continues a line, and the bytes behind the `#`.
    pub(super) escape: Option<(char, Range<usize>)>,
}

/// Reads the directives. They end before the first line that is none, or that has an unknown name.
pub(super) fn directives(dockerfile: &str) -> Directives {
    let mut found = Directives::default();
    let mut begin = 0;
    for line in dockerfile.split_inclusive('\n') {
        let (from, text) = (begin, line.trim_end_matches(['\n', '\r']));
        begin += line.len();
        if from == 0 && text.trim_start_matches(BYTE_ORDER_MARK).starts_with("#!") {
            continue;
        }
        let Some((name, value)) = directive(text) else {
            break;
        };
        let hash = from + text.find('#').map_or(0, |at| at + 1);
        let range = hash..from + text.len();
        match name.to_ascii_lowercase().as_str() {
            "syntax" => found.syntax = Some((value.to_owned(), range)),
            "escape" => found.escape = value.chars().next().map(|escape| (escape, range)),
            "check" => {}
            _ => break,
        }
    }
    found
}

const BYTE_ORDER_MARK: char = '\u{feff}';

/// Name and value of a line `# name=value`.
fn directive(line: &str) -> Option<(&str, &str)> {
    let text = line.trim_start_matches(BYTE_ORDER_MARK).trim_start();
    let (name, value) = text.strip_prefix('#')?.split_once('=')?;
    let (name, value) = (name.trim(), value.trim());
    let is_name = name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric());
    (is_name && !value.is_empty()).then_some((name, value))
}

/// The instructions, in order.
pub(super) fn instructions(dockerfile: &str) -> Vec<Instruction> {
    let escape = directives(dockerfile).escape.map_or('\\', |(c, _)| c);
    let mut instructions = Vec::new();
    let dockerfile = dockerfile.trim_start_matches(BYTE_ORDER_MARK);
    let mut lines = dockerfile.lines().enumerate();
    while let Some((at, line)) = lines.next() {
        if is_comment(line) || line.trim().is_empty() {
            continue;
        }
        let mut instruction = Instruction {
            line: at + 1,
            text: String::new(),
            has_here_document: false,
        };
        let mut next = Some(line.trim_start());
        while let Some(line) = next.take() {
            let is_continued = match continued(line, escape) {
                Some(part) => {
                    instruction.text.push_str(part);
                    true
                }
                None => {
                    instruction.text.push_str(line);
                    false
                }
            };
            if is_continued {
                // Empty lines and comments may stand between.
                let mut rest = lines.by_ref().map(|(_, line)| line);
                next = rest.find(|line| !is_comment(line) && !line.trim().is_empty());
            }
        }
        for end in here_documents(&instruction.text) {
            instruction.has_here_document = true;
            // Without its end, the rest of the file is the document; the builder refuses that.
            lines.by_ref().find(|(_, line)| end.is_at(line));
        }
        instructions.push(instruction);
    }
    instructions
}

fn is_comment(line: &str) -> bool {
    line.trim_start().starts_with('#')
}

/// A line without the character that continues it at its end, of which two are none; `None` if it ends there.
fn continued(line: &str, escape: char) -> Option<&str> {
    let part = line.trim_end_matches([' ', '\t']).strip_suffix(escape)?;
    (!part.ends_with(escape)).then_some(part)
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
    let mut rest = instruction.trim();
    let mut word = first_word(&mut rest);
    if word == "ONBUILD" {
        word = first_word(&mut rest);
    }
    if !matches!(word.as_str(), "RUN" | "COPY" | "ADD") {
        return Vec::new();
    }
    while rest.starts_with("--") {
        first_word(&mut rest);
    }
    // The form `RUN ["program", "argument"]` has none.
    if rest.starts_with('[') && serde_json::from_str::<Vec<String>>(rest).is_ok() {
        return Vec::new();
    }
    let words = shell_words(rest);
    words
        .iter()
        .filter_map(|word| here_document(word))
        .collect()
}

/// Takes the first word, in capitals.
fn first_word(text: &mut &str) -> String {
    let end = text.find(char::is_whitespace).unwrap_or(text.len());
    let (word, rest) = text.split_at(end);
    *text = rest.trim_start();
    word.to_ascii_uppercase()
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
            RUN --mount=x 3<<EOF cat\nFROM e\n";
        let found = texts(dockerfile);
        let words = found
            .iter()
            .map(|(_, text)| text.split(' ').next().unwrap());
        let words: Vec<&str> = words.collect();
        assert_eq!(
            words,
            ["FROM", "RUN", "COPY", "RUN", "RUN", "ENV", "USER", "RUN"]
        );
        let lines: Vec<usize> = found.iter().map(|(line, _)| *line).collect();
        assert_eq!(lines, [1, 2, 8, 13, 14, 15, 16, 17]);
        let found = instructions(dockerfile);
        let with: Vec<bool> = found.iter().map(|found| found.has_here_document).collect();
        assert_eq!(with, [false, true, true, false, false, false, false, true]);
        // A test is no list of words, and a trigger has here-documents like an instruction.
        for with in [
            "RUN [ -f /x ] || cat <<EOF > /y",
            "ONBUILD RUN cat <<EOF",
            "onbuild copy <<EOF /a",
        ] {
            let found = instructions(&format!("{with}\nFROM x\nEOF\n"));
            assert!(found.len() == 1 && found[0].has_here_document, "{with}");
        }
    }

    #[test]
    fn lines_are_joined_as_the_builder_joins_them() {
        let dockerfile = "\u{feff}# escape=`\nRUN a,`\n# no\n\n  b\\\nUSER ` \t\n";
        let expected = [(2, "RUN a,  b\\".to_owned()), (6, "USER ".to_owned())];
        assert_eq!(texts(dockerfile), expected);
        let dockerfile = "\u{feff}FROM a\nRUN echo a\\\\\nUSER 1\n";
        let words: Vec<String> = texts(dockerfile)
            .into_iter()
            .map(|(_, text)| text)
            .collect();
        assert_eq!(words, ["FROM a", "RUN echo a\\\\", "USER 1"]);
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
            "# check=skip=all\n#syntax=a\n",
            "\u{feff}#syntax=a",
        ] {
            assert_eq!(syntax(text).unwrap().0, "a", "{text:?}");
        }
        for text in [
            "# a comment\n# syntax=a",
            "# other=b\n# syntax=a",
            "\n# syntax=a",
            "FROM a\n# syntax=a",
            "# syntax=",
            "# syn tax=a",
        ] {
            assert_eq!(syntax(text), None, "{text:?}");
        }
    }
}
