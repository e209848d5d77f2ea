//! A manual page that is being written: sections of paragraphs, tagged entries and code.
//!
//! Words are given in the Markdown that the documents use (`code`, **bold**, links) and come out in
//! the fonts of man(7). Knows nothing of where they are from.

use clap_mangen::roff::{Inline, Roff, bold, italic, roman};

use super::paper::{Block, Table};

/// Indentation of code, and of what stands in a list.
const INDENT: &str = "4";

pub struct Page {
    roff: Roff,
}

impl Page {
    /// A page with its title and its section NAME.
    pub fn new(name: &str, section: u8, about: &str) -> Page {
        let mut roff = Roff::new();
        let source = concat!("mistry ", env!("CARGO_PKG_VERSION"));
        let manual = match section {
            1 => "User Commands",
            5 => "File Formats",
            _ => "System Administration",
        };
        let title = name.to_uppercase();
        // No date: two builds of one version are the same.
        // Words of code are not to be divided, since a part of one would be copied; and where words
        // are not divided, lines that are filled to the margin have holes.
        roff.control("nr", ["HY", "0"]);
        roff.control("TH", [&title, &section.to_string(), " ", source, manual]);
        roff.control("SH", ["NAME"]);
        roff.text([roman(format!("{name} - {about}"))]);
        roff.control("ad", ["l"]);
        Page { roff }
    }

    pub fn section(&mut self, title: &str) {
        self.roff.control("SH", [title.to_uppercase().as_str()]);
    }

    pub fn subsection(&mut self, title: &str) {
        self.roff.control("SS", [title]);
    }

    /// A paragraph.
    pub fn words(&mut self, markdown: &str) {
        self.roff.control("PP", []).text(inlines(markdown));
    }

    /// A paragraph in fonts of its own.
    pub fn line(&mut self, line: Vec<Inline>) {
        self.roff.control("PP", []).text(line);
    }

    /// What is to be typed, line by line.
    pub fn code(&mut self, code: &str) {
        self.roff.control("PP", []).control("RS", [INDENT]);
        self.roff.control("EX", []);
        for line in code.lines() {
            self.roff.text([roman(line)]);
        }
        self.roff.control("EE", []).control("RE", []);
    }

    /// A tag and what is said about it.
    pub fn entry(&mut self, tag: Vec<Inline>, said: &str) {
        self.roff.control("TP", []).text(tag).text(inlines(said));
    }

    pub fn entries(&mut self, entries: &[(&str, &str)]) {
        for (tag, said) in entries {
            self.entry(vec![bold(*tag)], said);
        }
    }

    /// A table as entries: the first cell of a row is the tag, the last is said about it, those
    /// between stand with the tag.
    pub fn table(&mut self, table: &Table) {
        for row in &table.rows {
            if let Some(said) = row.last() {
                self.row(table, row, said);
            }
        }
    }

    /// One row of a table, with something else said about it than its last cell.
    pub fn row(&mut self, table: &Table, row: &[String], said: &str) {
        let [tag, between @ .., _] = row else {
            return;
        };
        let mut line = inlines(tag);
        let details: Vec<String> = table.heads[1..]
            .iter()
            .zip(between)
            .filter(|(_, cell)| !cell.is_empty())
            .map(|(head, cell)| match head.as_str() {
                // "(duration, default 60s)", "(path, required)"
                "default" if cell != "required" => format!("default {cell}"),
                _ => cell.clone(),
            })
            .collect();
        if !details.is_empty() {
            line.push(roman("  ("));
            line.extend(plain(&details.join(", ")));
            line.push(roman(")"));
        }
        self.entry(line, &sentence(said));
    }

    pub fn blocks(&mut self, blocks: &[Block]) {
        for block in blocks {
            match block {
                Block::Words(words) => self.words(words),
                Block::Code(code) => self.code(code),
                Block::Table(table) => self.table(table),
                Block::Item(item) => {
                    self.roff.control("IP", ["\\(bu", "2"]).text(inlines(item));
                }
            }
        }
    }

    pub fn see(&mut self, pages: &str) {
        self.section("See also");
        self.words(pages);
    }

    pub fn finish(self) -> String {
        self.roff.render()
    }
}

/// Cells are no sentences; in a page they stand as such. What begins with code keeps its spelling.
fn sentence(cell: &str) -> String {
    let words = cell.trim_start_matches('*');
    let (marks, _) = cell.split_at(cell.len() - words.len());
    let mut letters = words.chars();
    let first: String = letters
        .next()
        .into_iter()
        .flat_map(char::to_uppercase)
        .collect();
    let end = if cell.ends_with(['.', ':', ')']) || cell.is_empty() {
        ""
    } else {
        "."
    };
    format!("{marks}{first}{}{end}", letters.as_str())
}

/// Markdown in one font.
fn plain(markdown: &str) -> Vec<Inline> {
    let mut parts = inlines(markdown);
    for part in &mut parts {
        if let Inline::Bold(text) | Inline::Italic(text) = part {
            *part = roman(std::mem::take(text));
        }
    }
    parts
}

/// `code` and **bold** in bold, pages such as mistry(1) and *stressed* words by their own, links by
/// their text alone.
pub fn inlines(markdown: &str) -> Vec<Inline> {
    let mut found = Vec::new();
    let mut rest = markdown;
    while let Some(at) = rest.find(['`', '*', '[']) {
        let (before, marked) = rest.split_at(at);
        let taken = if let Some(code) = marked.strip_prefix('`') {
            code.split_once('`')
                .map(|(code, rest)| (vec![bold(code)], rest))
        } else if let Some(strong) = marked.strip_prefix("**") {
            strong
                .split_once("**")
                .map(|(strong, rest)| (vec![bold(strong)], rest))
        } else if let Some(stressed) = marked.strip_prefix('*') {
            stressed
                .split_once('*')
                .map(|(stressed, rest)| (vec![italic(stressed)], rest))
        } else {
            link(&marked[1..]).map(|(text, rest)| (inlines(text), rest))
        };
        match taken {
            Some((parts, after)) => {
                push(&mut found, before);
                found.extend(parts);
                rest = after;
            }
            // A lone mark is itself.
            None => {
                push(&mut found, &rest[..at + 1]);
                rest = &rest[at + 1..];
            }
        }
    }
    push(&mut found, rest);
    found
}

fn push(found: &mut Vec<Inline>, text: &str) {
    if !text.is_empty() {
        found.push(roman(text));
    }
}

/// `text](address)…` behind the bracket.
fn link(marked: &str) -> Option<(&str, &str)> {
    let (text, rest) = marked.split_once("](")?;
    let (_, rest) = rest.split_once(')')?;
    (!text.contains('[')).then_some((text, rest))
}
