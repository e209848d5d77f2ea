//! The list of a build's artifacts, as in their tar, for programs.

use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use jiff::Timestamp;
use percent_encoding::percent_encode;

use super::pages::directory::IN_PATH;
use crate::api::ManifestItem;
use crate::build::{Contents, Entry, EntryKind};
use crate::pipe::{self, More, Source};

/// A manifest that is being sent.
pub(super) struct Manifest {
    contents: Contents,
    /// The text before the next item.
    before: &'static str,
}

impl Manifest {
    /// The manifest of `contents`.
    pub(super) fn new(contents: Contents) -> Manifest {
        Manifest {
            contents,
            before: "[",
        }
    }
}

impl Source for Manifest {
    fn fill(&mut self, to: &mut Vec<u8>) -> io::Result<More> {
        while to.len() < pipe::CHUNK {
            let Some((path, entry)) = self.contents.next_entry()? else {
                let end: &[u8] = if self.before == "[" { b"[]\n" } else { b"]\n" };
                to.extend_from_slice(end);
                return Ok(More::No);
            };
            to.extend_from_slice(self.before.as_bytes());
            self.before = ",\n";
            serde_json::to_writer(&mut *to, &item(&path, &entry))?;
        }
        Ok(More::Yes)
    }
}

fn item(path: &Path, entry: &Entry) -> ManifestItem {
    let names: Vec<String> = path
        .iter()
        .map(|name| percent_encode(name.as_bytes(), IN_PATH).to_string())
        .collect();
    let (kind, size, target) = match &entry.kind {
        EntryKind::Directory => ("directory", 0, None),
        EntryKind::File(size) => ("file", *size, None),
        EntryKind::Link(target) => ("link", 0, Some(target.to_string_lossy().into_owned())),
        EntryKind::Special => ("special", 0, None),
    };
    ManifestItem {
        path: path.to_string_lossy().into_owned(),
        url: names.join("/"),
        kind,
        mode: format!("{:04o}", entry.mode),
        size,
        modified: Timestamp::from_second(entry.modified).ok(),
        target,
    }
}
