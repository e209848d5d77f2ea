//! One artifact as a page: a text with its lines, a picture, or facts about any other file.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use askama::Template;
use hyper::HeaderMap;

use super::directory::{Moment, Trail, moment};
use crate::job::JobId;
use crate::project::ProjectName;
use crate::web::client_budget::ClientBudget;
use crate::web::error::ApiError;
use crate::web::format;
use crate::web::media::Media;
use crate::web::response::Response;

/// Bytes of a text that a page shows: some thousand lines, and a page that any browser can handle.
pub(in crate::web) const SHOWN: u64 = 256 << 10;
/// Lines of them: each is an element of the page.
const MAX_LINES: usize = 10_000;

#[derive(Template)]
#[template(path = "file.html")]
struct Page<'a> {
    trail: Trail,
    body: Shown,
    size: String,
    size_exact: u64,
    mode: String,
    modified: Option<Moment>,
    /// The browser itself can show all of it.
    is_plain: bool,
    /// Only the beginning is shown; its size in words.
    cut: Option<String>,
    why_not: &'a str,
}

enum Shown {
    Text(Vec<String>),
    Image,
    Nothing,
}

/// A file that is shown.
pub(in crate::web) struct File<'a> {
    pub(in crate::web) metadata: &'a Metadata,
    /// Its kind, by its name.
    pub(in crate::web) media: Media,
    /// Its beginning, if it is a text.
    pub(in crate::web) head: &'a [u8],
}

/// The page of the file at `path` of a build's artifacts.
pub(in crate::web) fn render(
    budget: &ClientBudget,
    headers: &HeaderMap,
    project: &ProjectName,
    id: JobId,
    path: &Path,
    file: File<'_>,
) -> Result<Response, ApiError> {
    let File {
        metadata,
        media,
        head,
    } = file;
    let length = metadata.len();
    let (body, cut, why_not) = match media {
        Media::Image(_) => (Shown::Image, None, ""),
        Media::Unknown => (
            Shown::Nothing,
            None,
            "Its name is not that of a text or a picture that can be shown here.",
        ),
        Media::Text | Media::Markup => match text(head, length) {
            Some((lines, cut)) => (Shown::Text(lines), cut, ""),
            None => (
                Shown::Nothing,
                None,
                "Its name is that of a text, but its content is no text.",
            ),
        },
    };
    super::page::page(
        budget,
        headers,
        &Page {
            trail: Trail::new(project, id, path),
            body,
            size: format::bytes(length),
            size_exact: length,
            mode: permissions(metadata.mode()),
            modified: moment(metadata.mtime()),
            is_plain: media == Media::Text,
            cut,
            why_not,
        },
    )
}

/// The lines of a text that begins with `head` and is `length` bytes long, and a note if lines are omitted;
/// `None` if it is no text.
fn text(head: &[u8], length: u64) -> Option<(Vec<String>, Option<String>)> {
    let is_whole = head.len() as u64 >= length;
    let text = match std::str::from_utf8(head) {
        Ok(text) => text,
        // A character that is cut in two is not invalid.
        Err(error) if !is_whole && error.error_len().is_none() => {
            std::str::from_utf8(&head[..error.valid_up_to()]).ok()?
        }
        Err(_) => return None,
    };
    if text.contains('\0') {
        return None;
    }
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut lines = text.lines();
    let shown: Vec<String> = lines.by_ref().take(MAX_LINES).map(line).collect();
    let cut = if lines.next().is_some() {
        Some(format!("first {MAX_LINES} lines"))
    } else {
        (!is_whole).then(|| format!("first {}", format::bytes(head.len() as u64)))
    };
    Some((shown, cut))
}

/// One line, with its tabs unchanged.
fn line(line: &str) -> String {
    let parts: Vec<String> = line.split('\t').map(format::visible).collect();
    parts.join("\t")
}

/// Permissions as `ls` writes them.
fn permissions(mode: u32) -> String {
    let bit = |at: u32, letter| if mode >> at & 1 == 1 { letter } else { '-' };
    (0..9)
        .map(|at| bit(8 - at, ['r', 'w', 'x'][at as usize % 3]))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_text_is_shown_in_lines() {
        let all = |text: &str| super::text(text.as_bytes(), text.len() as u64);
        let (lines, cut) = all("\u{feff}a\r\n\tb\u{202e}\x1b[1m\n\nc").unwrap();
        assert_eq!(lines, ["a", "\tb<U+202E><U+001B>[1m", "", "c"]);
        assert!(cut.is_none());
        assert_eq!(all("").unwrap().0.len(), 0);
        assert!(all("a\0b").is_none());
        assert!(super::text(b"a\xff", 2).is_none());
        // A cut character is invalid only at the end of a file.
        assert!(super::text(b"a\xc3", 2).is_none());
        let (lines, cut) = super::text(b"ab\xc3", 9).unwrap();
        assert_eq!(
            (lines, cut.unwrap()),
            (vec!["ab".to_owned()], "first 3 B".to_owned())
        );
        let (lines, cut) = all(&"\n".repeat(MAX_LINES + 1)).unwrap();
        assert_eq!(
            (lines.len(), cut.unwrap()),
            (MAX_LINES, "first 10000 lines".to_owned())
        );
        assert!(all(&"\n".repeat(MAX_LINES)).unwrap().1.is_none());
    }

    #[test]
    fn permissions_are_written_as_by_ls() {
        assert_eq!(permissions(0o100_755), "rwxr-xr-x");
        assert_eq!(permissions(0o104_640), "rw-r-----");
        assert_eq!(permissions(0), "---------");
    }
}
