//! Errors of work on trees.

use std::io;
use std::path::{Path, PathBuf};

/// An error of a tree operation. The messages hold paths, so they are for the journal, not for clients.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Text that is not a [`Kind`].
    #[error("'{0}' is no kind of filesystem, there are 'auto', 'btrfs' and 'plain'")]
    UnknownKind(String),
    /// Btrfs was required, and the path is elsewhere.
    #[error("'{}' is not on btrfs but on {found}", path.display())]
    NotBtrfs {
        /// The queried path.
        path: PathBuf,
        /// The filesystem of the path, as well as it can be named.
        found: String,
    },
    /// The kernel did not tell the path's filesystem.
    #[error("could not find out which filesystem '{}' is on", path.display())]
    Detect {
        /// The queried path.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A tree was not created.
    #[error("could not create the tree '{}'", path.display())]
    Create {
        /// The tree.
        path: PathBuf,
        /// The step that failed.
        source: Fault,
    },
    /// A tree was not cloned, and nothing of the clone is left unless it could not be removed.
    #[error("could not clone '{}' to '{}'", from.display(), to.display())]
    Clone {
        /// The tree to be cloned.
        from: PathBuf,
        /// The clone.
        to: PathBuf,
        /// The step that failed.
        source: Fault,
    },
    /// A tree was not removed, or not all of it.
    #[error("could not remove the tree '{}'", path.display())]
    Remove {
        /// The tree.
        path: PathBuf,
        /// The step that failed.
        source: Fault,
    },
    /// A tree was not given to another user, or not all of it.
    #[error("could not give away the tree '{}'", path.display())]
    Give {
        /// The tree.
        path: PathBuf,
        /// The step that failed.
        source: Fault,
    },
    /// A tree was not measured.
    #[error("could not measure the tree '{}'", path.display())]
    Measure {
        /// The tree.
        path: PathBuf,
        /// The step that failed.
        source: Fault,
    },
    /// The kernel, or a security module, forbids confining a directory.
    #[error("this host does not let us confine the directory '{}'", path.display())]
    Confine {
        /// The directory.
        path: PathBuf,
        /// The step that was refused.
        source: Fault,
    },
    /// A directory could not be exported.
    #[error("could not hand out the directory '{}'", path.display())]
    HandOut {
        /// The directory.
        path: PathBuf,
        /// The step that failed.
        source: Fault,
    },
}

impl Error {
    /// The system's error, for callers that distinguish a full disk or a taken name from the rest.
    pub fn io(&self) -> Option<&io::Error> {
        match self {
            Error::UnknownKind(_) | Error::NotBtrfs { .. } => None,
            Error::Detect { source, .. } => Some(source),
            Error::Create { source, .. }
            | Error::Clone { source, .. }
            | Error::Remove { source, .. }
            | Error::Give { source, .. }
            | Error::Measure { source, .. }
            | Error::Confine { source, .. }
            | Error::HandOut { source, .. } => Some(&source.source),
        }
    }
}

/// The failed step and its path: inside a tree the path is relative to its root.
#[derive(Debug, thiserror::Error)]
#[error("could not {context} '{at}'")]
pub struct Fault {
    context: &'static str,
    at: String,
    pub(super) source: io::Error,
}

/// Paths in messages are cut to this many characters at their end: the build that fills a tree chooses its
/// depth, and a message must fit into a journal record.
const MAX_PATH_SHOWN: usize = 1024;

impl Fault {
    pub(super) fn new(context: &'static str, at: &Path, source: impl Into<io::Error>) -> Fault {
        // Builds choose names: they are escaped, so that none can forge a line in the journal.
        let mut shown: String = at.to_string_lossy().chars().flat_map(escape).collect();
        if let Some((cut, _)) = shown.char_indices().rev().nth(MAX_PATH_SHOWN) {
            shown.replace_range(..cut, "…");
        }
        Fault {
            context,
            at: shown,
            source: source.into(),
        }
    }
}

fn escape(c: char) -> impl Iterator<Item = char> {
    let (escaped, plain) = match c {
        '\\' | '\0'..='\x1f' | '\x7f'..='\u{9f}' => (Some(c.escape_default()), None),
        _ => (None, Some(c)),
    };
    escaped.into_iter().flatten().chain(plain)
}

/// The failed step as an error of the same kind.
pub(super) fn into_io(fault: Fault) -> io::Error {
    io::Error::new(fault.source.kind(), fault)
}

#[cfg(test)]
mod tests {
    use rustix::io::Errno;

    use super::*;

    #[test]
    fn an_error_shows_no_control_characters_and_the_end_of_a_long_path() {
        let long = format!("{}/a\nb\u{1b}[31m", "x".repeat(5000));
        let fault = Fault::new("open", Path::new(&long), Errno::ACCESS);
        let text = fault.to_string();
        assert!(text.ends_with("/a\\nb\\u{1b}[31m'"), "{text}");
        assert!(text.len() < 1100);
    }
}
