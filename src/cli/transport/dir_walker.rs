//! A position in a directory tree of any depth, with a bounded number of open directories: the current one
//! and its nearest ancestors. Those further up are opened again by `..`.
//!
//! If a directory was moved meanwhile, leaving it fails.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags, Stat, fstat, openat};
use rustix::io::Errno;

use crate::filesystem::InodeId;

/// Real trees are hardly deeper, and two walks stay far below the usual limit of 1,024 descriptors.
const MAX_OPEN_ANCESTORS: usize = 64;

/// A walk through a tree, at its current directory.
#[derive(Debug)]
pub(super) struct DirWalker {
    here: OwnedFd,
    id: InodeId,
    /// From the root down; `None` where the descriptor was closed.
    ancestors: Vec<(Option<OwnedFd>, InodeId)>,
}

impl DirWalker {
    /// Starts in a directory; an `O_PATH` handle is enough.
    pub(super) fn new(root: OwnedFd) -> Result<DirWalker, Errno> {
        Ok(DirWalker {
            id: InodeId::of(&fstat(&root)?),
            here: root,
            ancestors: Vec::new(),
        })
    }

    /// The current directory.
    pub(super) fn here(&self) -> BorrowedFd<'_> {
        self.here.as_fd()
    }

    /// Enters a directory of the current one.
    pub(super) fn enter(&mut self, directory: OwnedFd, stat: &Stat) {
        let parent = std::mem::replace(&mut self.here, directory);
        let id = std::mem::replace(&mut self.id, InodeId::of(stat));
        self.ancestors.push((Some(parent), id));
        if let Some(far) = self.ancestors.len().checked_sub(MAX_OPEN_ANCESTORS + 1) {
            self.ancestors[far].0 = None;
        }
    }

    /// Returns to the parent and returns the directory that was left, still open; `None` at the root.
    ///
    /// # Errors
    /// `STALE` when the directory has another parent now.
    pub(super) fn leave(&mut self) -> Result<Option<OwnedFd>, Errno> {
        let Some((parent, id)) = self.ancestors.pop() else {
            return Ok(None);
        };
        let parent = match parent {
            Some(parent) => parent,
            None => {
                let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
                let parent = openat(&self.here, "..", flags, Mode::empty())?;
                if InodeId::of(&fstat(&parent)?) != id {
                    return Err(Errno::STALE);
                }
                openat(&parent, ".", flags.difference(OFlags::PATH), Mode::empty())?
            }
        };
        self.id = id;
        Ok(Some(std::mem::replace(&mut self.here, parent)))
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use rustix::fs::{CWD, mkdirat, renameat};

    use super::*;

    fn open(path: impl rustix::path::Arg, at: BorrowedFd<'_>) -> OwnedFd {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        openat(at, path, flags, Mode::empty()).unwrap()
    }

    fn descend(walker: &mut DirWalker, name: &str) {
        mkdirat(walker.here(), name, Mode::RWXU).unwrap();
        let directory = open(name, walker.here());
        let stat = fstat(&directory).unwrap();
        walker.enter(directory, &stat);
    }

    #[test]
    fn deep_trees_are_walked_with_few_descriptors() {
        let home = tempfile::tempdir().unwrap();
        let mut walker = DirWalker::new(open(home.path(), CWD)).unwrap();
        for _ in 0..300 {
            descend(&mut walker, "d");
        }
        let held = walker
            .ancestors
            .iter()
            .filter(|ancestor| ancestor.0.is_some());
        assert_eq!(held.count(), MAX_OPEN_ANCESTORS);
        let mut steps = 0;
        while walker.leave().unwrap().is_some() {
            steps += 1;
        }
        assert_eq!(steps, 300);
        let root = InodeId::of(&fstat(open(home.path(), CWD)).unwrap());
        assert_eq!(InodeId::of(&fstat(walker.here()).unwrap()), root);
    }

    #[test]
    fn a_moved_directory_does_not_lead_out_of_the_tree() {
        let home = tempfile::tempdir().unwrap();
        let elsewhere = tempfile::tempdir_in(home.path()).unwrap();
        let mut walker = DirWalker::new(open(home.path(), CWD)).unwrap();
        descend(&mut walker, "top");
        for _ in 0..MAX_OPEN_ANCESTORS + 1 {
            descend(&mut walker, "d");
        }
        let moved = home.path().join(Path::new("top/d"));
        renameat(CWD, &moved, CWD, elsewhere.path().join("d")).unwrap();
        for _ in 0..MAX_OPEN_ANCESTORS {
            assert!(walker.leave().unwrap().is_some());
        }
        assert_eq!(walker.leave().unwrap_err(), Errno::STALE);
    }
}
