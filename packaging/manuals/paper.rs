//! A document of this repository, taken apart: sections of paragraphs, lists, tables and code.
//!
//! Knows the Markdown that the documents use and no other. What is asked for and is not there is an
//! error, so that a page never loses a table in silence.

use std::fs;
use std::path::{Path, PathBuf};

use super::Result;

#[derive(Debug)]
pub enum Block {
    /// A paragraph.
    Words(String),
    /// An item of a list.
    Item(String),
    /// Lines between fences.
    Code(String),
    Table(Table),
}

#[derive(Debug)]
pub struct Table {
    pub heads: Vec<String>,
    pub rows: Vec<Vec<String>>,
}

pub struct Paper {
    path: PathBuf,
    /// Titles as they are written, and what stands below them.
    sections: Vec<(String, Vec<Block>)>,
}

impl Paper {
    pub fn read(path: &Path) -> Result<Paper> {
        let text = fs::read_to_string(path)?;
        let mut sections: Vec<(String, Vec<Block>)> = Vec::new();
        let mut lines = text.lines().peekable();
        while let Some(line) = lines.next() {
            if let Some(title) = line.strip_prefix('#') {
                let title = title.trim_start_matches('#').trim();
                sections.push((title.to_owned(), Vec::new()));
                continue;
            }
            let Some((_, blocks)) = sections.last_mut() else {
                continue;
            };
            if line.starts_with("```") {
                let code: Vec<&str> = lines
                    .by_ref()
                    .take_while(|l| !l.starts_with("```"))
                    .collect();
                blocks.push(Block::Code(code.join("\n")));
            } else if line.starts_with('|') {
                // The line below the heads is a rule.
                lines.next();
                let mut rows = Vec::new();
                while let Some(row) = lines.next_if(|line| line.starts_with('|')) {
                    rows.push(cells(row));
                }
                let heads = cells(line);
                blocks.push(Block::Table(Table { heads, rows }));
            } else if let Some(item) = line.strip_prefix("- ") {
                blocks.push(Block::Item(item.to_owned()));
            } else if !line.trim().is_empty() {
                blocks.push(Block::Words(line.to_owned()));
            }
        }
        let path = path.to_owned();
        Ok(Paper { path, sections })
    }

    /// All that stands below a title.
    pub fn section(&self, title: &str) -> Result<&[Block]> {
        let found = self.sections.iter().find(|(name, _)| name == title);
        let found = found.map(|(_, blocks)| blocks.as_slice());
        found.ok_or_else(|| self.missing("section", title))
    }

    /// The first table, anywhere, whose first head is `head`.
    pub fn table(&self, head: &str) -> Result<&Table> {
        let mut blocks = self.sections.iter().flat_map(|(_, blocks)| blocks);
        let found = blocks.find_map(|block| match block {
            Block::Table(table) if table.heads[0] == head => Some(table),
            _ => None,
        });
        found.ok_or_else(|| self.missing("table", head))
    }

    /// What stands in a section before a table and the paragraph that introduces it.
    pub fn before(&self, title: &str, head: &str) -> Result<&[Block]> {
        let at = self.position(title, head)?;
        Ok(&self.section(title)?[..at.saturating_sub(1)])
    }

    /// That paragraph, and the table.
    pub fn introduced(&self, title: &str, head: &str) -> Result<(&str, &Table)> {
        let at = self.position(title, head)?;
        match &self.section(title)?[at.saturating_sub(1)..=at] {
            [Block::Words(words), Block::Table(table)] => Ok((words, table)),
            _ => Err(self.missing("paragraph before", head)),
        }
    }

    fn position(&self, title: &str, head: &str) -> Result<usize> {
        let mut blocks = self.section(title)?.iter();
        let is_it = |block: &Block| matches!(block, Block::Table(t) if t.heads[0] == head);
        blocks
            .position(is_it)
            .ok_or_else(|| self.missing("table", head))
    }

    fn missing(&self, what: &str, name: &str) -> Box<dyn std::error::Error> {
        let path = self.path.display();
        format!("{path} has no {what} '{name}', which a manual page is made of").into()
    }
}

fn cells(row: &str) -> Vec<String> {
    let row = row.trim().trim_start_matches('|').trim_end_matches('|');
    row.split('|').map(|cell| cell.trim().to_owned()).collect()
}
