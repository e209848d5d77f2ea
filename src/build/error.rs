//! What can go wrong under the build path: a sentence for strangers, the path and the cause for the
//! journal, as the source of that sentence.

use std::io;
use std::path::{Path, PathBuf};

use crate::{filesystem, located};

/// What can go wrong under the build path, in our words.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another daemon holds the lock. Only [`BuildStore::open`] gives it, before there are strangers.
    ///
    /// [`BuildStore::open`]: super::BuildStore::open
    #[error("the build path '{path}' is held by another mistryd ({by})")]
    Held {
        /// The build path.
        path: PathBuf,
        /// Its process and address, as far as it has said.
        by: String,
    },
    /// The disk said no.
    #[error("could not {doing}{room}", room = self.room())]
    Disk {
        /// What we were doing.
        doing: &'static str,
        /// What the disk said, and about what: a file, or the directory of a build.
        source: io::Error,
    },
    /// A tree could not be made, cloned or removed; the source has its path.
    #[error("could not {0}{room}", room = self.room())]
    Tree(&'static str, #[source] filesystem::Error),
    /// The kernel does not let us make what directories are handed out as.
    #[error("this host does not let mistryd hand out directories{room}", room = self.room())]
    Confine(#[source] filesystem::Error),
}

impl Error {
    /// The end of the sentence where there was no room.
    fn room(&self) -> &'static str {
        if self.is_full() {
            ": the disk is full"
        } else {
            ""
        }
    }

    pub(super) fn io(&self) -> Option<&io::Error> {
        match self {
            Error::Disk { source, .. } => Some(source),
            Error::Tree(_, cause) | Error::Confine(cause) => cause.io(),
            Error::Held { .. } => None,
        }
    }

    /// True when a directory that was to go had something in it again.
    pub(super) fn is_not_empty(&self) -> bool {
        let kind = self.io().map(io::Error::kind);
        kind == Some(io::ErrorKind::DirectoryNotEmpty)
    }

    /// True when there was no room: the one cause that strangers may be told.
    pub fn is_full(&self) -> bool {
        self.io().is_some_and(|cause| {
            matches!(
                cause.kind(),
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
            )
        })
    }
}

/// For `map_err`: what we were doing, and to what.
pub(super) fn doing(doing: &'static str, path: &Path) -> impl Fn(io::Error) -> Error {
    move |source| Error::Disk {
        doing,
        source: located::at(path)(source),
    }
}
