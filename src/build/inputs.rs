//! The inputs of a build: the files and symbolic links of its context, each with its digest. The next build
//! of the group compares its own inputs with them.
//!
//! A record lists a few thousand; the list of a larger context is a separate file beside it.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::layout;
use super::record::{self, Bookkeeping, MAX_INPUT_FILES};
use crate::project::Context;

/// Most entries of a separate list: some 100 MB. Of a larger context only the part in the record is known.
const MAX_LISTED_INPUTS: usize = 500_000;
/// A larger file is invalid.
const MAX_FILE_BYTES: u64 = 256 << 20;

/// Files and links by their paths.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Inputs {
    /// The digest of each file.
    pub(super) files: BTreeMap<String, String>,
    /// The digest of each link's target; `None` if the record lacks it.
    pub(super) links: Option<BTreeMap<String, String>>,
    /// Complete lists.
    #[serde(skip)]
    pub(super) is_whole: bool,
}

impl Inputs {
    /// The inputs of a context.
    pub(super) fn of(context: &Context) -> Inputs {
        let entry = |(path, digest): (&Path, crate::project::Digest)| {
            (path.to_string_lossy().into_owned(), digest.to_string())
        };
        Inputs {
            files: context.files().map(entry).collect(),
            links: Some(context.links().map(entry).collect()),
            is_whole: true,
        }
    }

    fn len(&self) -> usize {
        self.files.len() + self.links.as_ref().map_or(0, BTreeMap::len)
    }

    /// Writes them into the record; returns those that do not fit, for [`Inputs::write`].
    pub(super) fn into_record(self, record: &mut Bookkeeping) -> Option<Inputs> {
        if self.len() < MAX_INPUT_FILES {
            record.files = self.files;
            record.links = self.links;
            return None;
        }
        let first = self.files.iter().take(MAX_INPUT_FILES);
        record.files = first.map(|(k, v)| (k.clone(), v.clone())).collect();
        record.has_inputs = self.len() <= MAX_LISTED_INPUTS;
        record.has_inputs.then_some(self)
    }

    /// Writes them beside the record in `directory`. A power cut may lose the list: it is synced with the
    /// build.
    pub(super) fn write(&self, directory: &Path) -> io::Result<()> {
        let file = std::fs::File::create_new(directory.join(layout::INPUTS))?;
        let mut file = io::BufWriter::new(file);
        serde_json::to_writer(&mut file, self)?;
        file.flush()
    }

    /// The inputs of the build in `directory`, whose record is `record`.
    pub(super) fn read(directory: &Path, record: &Bookkeeping) -> Inputs {
        let listed = match record.has_inputs {
            true => read(directory),
            false => None,
        };
        listed.unwrap_or_else(|| Inputs {
            files: record.files.clone(),
            links: record.links.clone(),
            // The first mistry wrote none.
            is_whole: (1..MAX_INPUT_FILES).contains(&record.files.len()),
        })
    }
}

/// `None` if the list is missing or invalid.
fn read(directory: &Path) -> Option<Inputs> {
    let file = record::open_regular(&directory.join(layout::INPUTS)).ok()??;
    let mut text = Vec::new();
    file.take(MAX_FILE_BYTES).read_to_end(&mut text).ok()?;
    let inputs: Inputs = serde_json::from_slice(&text).ok()?;
    Some(Inputs {
        is_whole: true,
        ..inputs
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inputs(files: usize) -> Inputs {
        Inputs {
            files: (0..files)
                .map(|n| (format!("{n:05}"), n.to_string()))
                .collect(),
            links: Some([("l".to_owned(), "t".to_owned())].into()),
            is_whole: true,
        }
    }

    #[test]
    fn all_inputs_of_small_and_of_large_contexts_are_stored() {
        for files in [
            1,
            MAX_INPUT_FILES - 2,
            MAX_INPUT_FILES - 1,
            MAX_INPUT_FILES + 1,
            9_000,
        ] {
            let home = tempfile::tempdir().unwrap();
            let mut record = Bookkeeping::default();
            if let Some(rest) = inputs(files).into_record(&mut record) {
                rest.write(home.path()).unwrap();
            }
            assert!(record.files.len() <= MAX_INPUT_FILES);
            assert_eq!(Inputs::read(home.path(), &record), inputs(files), "{files}");
        }
    }

    #[test]
    fn without_a_valid_list_of_inputs_the_record_is_used() {
        let home = tempfile::tempdir().unwrap();
        let mut record = Bookkeeping::default();
        let rest = inputs(9_000).into_record(&mut record).unwrap();
        let part = Inputs::read(home.path(), &record);
        assert!(!part.is_whole && part.files.len() == MAX_INPUT_FILES);
        rest.write(home.path()).unwrap();
        std::fs::write(home.path().join(layout::INPUTS), "{\"Files\":").unwrap();
        assert!(!Inputs::read(home.path(), &record).is_whole);
        assert!(!Inputs::read(home.path(), &Bookkeeping::default()).is_whole);
    }
}
