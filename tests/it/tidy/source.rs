//! Rust sources as the checks see them: without comments, without the insides of literals, and
//! without what only tests compile. Not a parser: it knows as much of the language as the
//! checks need.

use std::collections::BTreeSet;

/// The code of a file: comments become spaces, literals become empty ones; line breaks stay.
pub fn code(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    while at < bytes.len() {
        let rest = &text[at..];
        let length = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |end| end + 2)
        } else if let Some(length) = raw_string(rest, out.as_bytes().last()) {
            out.push_str("\"\"");
            length
        } else if rest.starts_with('"') {
            out.push_str("\"\"");
            string(rest)
        } else if let Some(length) = character(rest) {
            out.push_str("' '");
            length
        } else {
            let letter = rest.chars().next().unwrap();
            out.push(letter);
            at += letter.len_utf8();
            continue;
        };
        // Lines keep their numbers.
        out.extend(rest[..length].chars().filter(|letter| *letter == '\n'));
        at += length;
    }
    out
}

/// The length of `r"…"`, `br#"…"#` and the like at the beginning of `rest`.
fn raw_string(rest: &str, before: Option<&u8>) -> Option<usize> {
    if before.is_some_and(|byte| is_word(*byte)) {
        return None;
    }
    let begun = rest.strip_prefix('b').unwrap_or(rest).strip_prefix('r')?;
    let hashes = begun.len() - begun.trim_start_matches('#').len();
    let inside = begun[hashes..].strip_prefix('"')?;
    let end = format!("\"{}", "#".repeat(hashes));
    let length = inside
        .find(&end)
        .map_or(inside.len(), |found| found + end.len());
    Some(rest.len() - inside.len() + length)
}

fn string(rest: &str) -> usize {
    let mut escaped = false;
    for (at, letter) in rest.char_indices().skip(1) {
        match letter {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    rest.len()
}

/// The length of a character literal; a lifetime is none.
fn character(rest: &str) -> Option<usize> {
    let inside = rest.strip_prefix('\'')?;
    let mut letters = inside.char_indices();
    let end = match letters.next()? {
        (_, '\\') => inside[2..].find('\'')? + 2,
        _ => letters.next().filter(|(_, letter)| *letter == '\'')?.0,
    };
    Some(end + 2)
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

/// Code without items that only tests compile, or tests and fuzz targets, and the names of modules that
/// are files of their own there.
pub fn without_tests(code: &str) -> (String, Vec<String>) {
    const MARK: &str = "#[cfg(test)]";
    let code = code.replace("#[cfg(any(test, fuzzing))]", MARK);
    let mut kept = String::new();
    let mut files = Vec::new();
    let mut rest = code.as_str();
    while let Some(found) = rest.find(MARK) {
        kept.push_str(&rest[..found]);
        let item = &rest[found + MARK.len()..];
        let (brace, semicolon) = (item.find('{'), item.find(';'));
        let end = match (brace, semicolon) {
            (Some(brace), semicolon) if semicolon.is_none_or(|at| brace < at) => {
                brace + block(&item[brace..])
            }
            (_, Some(semicolon)) => {
                let name = item[..semicolon].split_whitespace().last();
                files.extend(name.map(str::to_owned));
                semicolon + 1
            }
            _ => item.len(),
        };
        rest = &item[end..];
    }
    kept.push_str(rest);
    (kept, files)
}

/// The length of a block that begins with a brace.
fn block(text: &str) -> usize {
    let mut depth = 0_usize;
    for (at, letter) in text.char_indices() {
        match letter {
            '{' => depth += 1,
            '}' if depth == 1 => return at + 1,
            '}' => depth -= 1,
            _ => {}
        }
    }
    text.len()
}

/// The first names of all paths: `a` of `a::b`, of `use a;` and of `use {a::b, c}`, and with
/// `after` = `crate`, `a` of `crate::a` and of `crate::{a::b, a}`.
pub fn heads(code: &str, after: Option<&str>) -> BTreeSet<String> {
    let words = words(code);
    let mut heads = BTreeSet::new();
    for (at, word) in words.iter().enumerate() {
        let before = at.checked_sub(1).map(|before| words[before]);
        let next = words.get(at + 1).copied();
        match after {
            None => {
                let begins = before != Some("::") && before != Some(".");
                let is_used = before == Some("use") && matches!(next, Some(";" | "as"));
                if is_name(word) && (begins && next == Some("::") || is_used) {
                    heads.insert((*word).to_owned());
                }
            }
            Some(root) => {
                if *word == root && before != Some("::") && next == Some("::") {
                    heads.extend(below(&words[at + 2..]).into_iter().map(str::to_owned));
                }
            }
        }
    }
    heads
}

/// The most `super`s in a row.
pub fn ups(code: &str) -> usize {
    let (mut most, mut row) = (0, 0);
    for word in words(code) {
        row = match word {
            "super" => row + 1,
            "::" => row,
            _ => 0,
        };
        most = most.max(row);
    }
    most
}

/// What follows `crate::`: one name, or the first name of each part of a group.
fn below<'a>(words: &[&'a str]) -> Vec<&'a str> {
    let Some((&first, rest)) = words.split_first() else {
        return Vec::new();
    };
    if first != "{" {
        return vec![first];
    }
    let (mut depth, mut begins, mut found) = (1, true, Vec::new());
    for &word in rest {
        match word {
            "{" => depth += 1,
            "}" if depth == 1 => break,
            "}" => depth -= 1,
            "," if depth == 1 => begins = true,
            _ if begins => {
                found.push(word);
                begins = false;
            }
            _ => {}
        }
    }
    found
}

fn is_name(word: &str) -> bool {
    word.starts_with(|letter: char| letter.is_ascii_lowercase() || letter == '_')
}

/// Words, `::`, and single signs.
fn words(code: &str) -> Vec<&str> {
    let bytes = code.as_bytes();
    let (mut words, mut at) = (Vec::new(), 0);
    while at < bytes.len() {
        let length = if is_word(bytes[at]) {
            bytes[at..]
                .iter()
                .take_while(|byte| is_word(**byte))
                .count()
        } else if code[at..].starts_with("::") {
            2
        } else {
            code[at..].chars().next().unwrap().len_utf8()
        };
        let word = &code[at..at + length];
        if !word.trim().is_empty() {
            words.push(word);
        }
        at += length;
    }
    words
}

#[test]
fn comments_and_literals_are_not_code() {
    let text =
        "a // x.unwrap()\n/* b\n */ c(\"d \\\" // e\", r#\"f \" g\"#, 'h', '\\'', b\"i\") <'j>";
    let seen = code(text);
    for gone in ["unwrap", "b\n", "d ", " e", "f ", " g", "h'", "i\""] {
        assert!(!seen.contains(gone), "{gone} is still in {seen}");
    }
    assert!(seen.contains("c(") && seen.contains("<'j>"), "{seen}");
    assert_eq!(seen.lines().count(), text.lines().count());
}

#[test]
fn what_only_tests_compile_is_left_out() {
    let text = "one();\n#[cfg(test)]\nmod tests { fn a() { b() } }\ntwo();\n#[cfg(test)]\npub mod c;\nthree();\n#[cfg(any(test, fuzzing))]\npub mod d;\n";
    let (kept, files) = without_tests(text);
    for stays in ["one", "two", "three"] {
        assert!(kept.contains(stays), "{kept}");
    }
    assert!(!kept.contains("b()") && !kept.contains("mod c"), "{kept}");
    assert_eq!(files, ["c", "d"]);
}

#[test]
fn paths_are_found_however_they_are_written() {
    let text =
        "use crate::{a::{b, c}, d}; fn f() { crate::e::g(); std::h(); x.i::<u8>(); } use tar;";
    let all = |after| heads(text, after).into_iter().collect::<Vec<_>>();
    assert_eq!(all(Some("crate")), ["a", "d", "e"]);
    assert_eq!(all(None), ["a", "crate", "std", "tar"]);
    assert_eq!(ups("use super::super::a; super::b(); c::d();"), 2);
}
