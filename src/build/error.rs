//! Errors under the build path: a sentence for clients, with the path and the cause as its source,
//! for the journal.

use std::io;
use std::path::{Path, PathBuf};

use crate::{filesystem, located};

/// An error under the build path.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another daemon holds the lock. Only [`BuildStore::open`] returns it, before there are clients.
    ///
    /// [`BuildStore::open`]: super::BuildStore::open
    #[error("the build path '{path}' is held by another mistryd ({by})")]
    Held {
        /// The build path.
        path: PathBuf,
        /// Its process and address, if it has announced them.
        by: String,
    },
    /// A system call failed.
    #[error("could not {context}{reason}", reason = self.reason())]
    Disk {
        /// The action that failed.
        context: &'static str,
        /// The cause, with the file or the build's directory.
        source: io::Error,
    },
    /// A tree could not be created, cloned or removed; the source has its path.
    #[error("could not {0}{reason}", reason = self.reason())]
    Tree(&'static str, #[source] filesystem::Error),
    /// The kernel forbids creating the confined mounts for clients.
    #[error("this host does not let mistryd hand out directories{reason}", reason = self.reason())]
    Confine(#[source] filesystem::Error),
}

impl Error {
    /// The end of the sentence if the disk is full.
    fn reason(&self) -> &'static str {
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

    /// True when a directory that was to be removed was not empty.
    pub(super) fn is_not_empty(&self) -> bool {
        let kind = self.io().map(io::Error::kind);
        kind == Some(io::ErrorKind::DirectoryNotEmpty)
    }

    /// True when the disk is full: the only cause that is named to clients.
    pub fn is_full(&self) -> bool {
        self.io().is_some_and(|cause| {
            matches!(
                cause.kind(),
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
            )
        })
    }
}

/// For `map_err`: adds the failed action and its path.
pub(super) fn disk_error(context: &'static str, path: &Path) -> impl Fn(io::Error) -> Error {
    move |source| Error::Disk {
        context,
        source: located::at(path)(source),
    }
}
