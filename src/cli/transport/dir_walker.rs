//! Where one is in a tree whose depth others chose: the directory itself and the nearest ones above it
//! are open, and the way further up is found by `..`.
//!
//! It comes up where it went down, or not at all: a directory that is moved meanwhile leads nowhere.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags, Stat, fstat, openat};
use rustix::io::Errno;

use super::target::FileId;

/// How many directories above the present one are open. Real trees are hardly deeper, and two walks
/// stay far below the usual limit of 1,024 descriptors.
const OPEN_ABOVE: usize = 64;

/// A place in a tree.
#[derive(Debug)]
pub(super) struct Descent {
    here: OwnedFd,
    id: FileId,
    /// From the root down: descriptors that were closed are `None`.
    above: Vec<(Option<OwnedFd>, FileId)>,
}

impl Descent {
    /// Begins in a directory; a handle that opens nothing (`O_PATH`) will do.
    pub(super) fn new(root: OwnedFd) -> Result<Descent, Errno> {
        Ok(Descent {
            id: FileId::of(&fstat(&root)?),
            here: root,
            above: Vec::new(),
        })
    }

    /// The present directory.
    pub(super) fn here(&self) -> BorrowedFd<'_> {
        self.here.as_fd()
    }

    /// Goes on into a directory of the present one.
    pub(super) fn enter(&mut self, directory: OwnedFd, stat: &Stat) {
        let parent = std::mem::replace(&mut self.here, directory);
        let id = std::mem::replace(&mut self.id, FileId::of(stat));
        self.above.push((Some(parent), id));
        if let Some(far) = self.above.len().checked_sub(OPEN_ABOVE + 1) {
            self.above[far].0 = None;
        }
    }

    /// Goes back to the parent and gives what was left, still open; `None` at the root.
    ///
    /// # Errors
    /// `STALE` when the parent is not where it was.
    pub(super) fn leave(&mut self) -> Result<Option<OwnedFd>, Errno> {
        let Some((parent, id)) = self.above.pop() else {
            return Ok(None);
        };
        let parent = match parent {
            Some(parent) => parent,
            None => {
                let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
                let parent = openat(&self.here, "..", flags, Mode::empty())?;
                if FileId::of(&fstat(&parent)?) != id {
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

    fn descend(descent: &mut Descent, name: &str) {
        mkdirat(descent.here(), name, Mode::RWXU).unwrap();
        let directory = open(name, descent.here());
        let stat = fstat(&directory).unwrap();
        descent.enter(directory, &stat);
    }

    #[test]
    fn it_comes_up_the_way_it_went_with_few_descriptors() {
        let home = tempfile::tempdir().unwrap();
        let mut descent = Descent::new(open(home.path(), CWD)).unwrap();
        for _ in 0..300 {
            descend(&mut descent, "d");
        }
        let held = descent.above.iter().filter(|above| above.0.is_some());
        assert_eq!(held.count(), OPEN_ABOVE);
        let mut steps = 0;
        while descent.leave().unwrap().is_some() {
            steps += 1;
        }
        assert_eq!(steps, 300);
        let root = FileId::of(&fstat(open(home.path(), CWD)).unwrap());
        assert_eq!(FileId::of(&fstat(descent.here()).unwrap()), root);
    }

    #[test]
    fn a_directory_that_was_moved_away_does_not_lead_out_of_the_tree() {
        let home = tempfile::tempdir().unwrap();
        let elsewhere = tempfile::tempdir_in(home.path()).unwrap();
        let mut descent = Descent::new(open(home.path(), CWD)).unwrap();
        descend(&mut descent, "top");
        for _ in 0..OPEN_ABOVE + 1 {
            descend(&mut descent, "d");
        }
        let moved = home.path().join(Path::new("top/d"));
        renameat(CWD, &moved, CWD, elsewhere.path().join("d")).unwrap();
        for _ in 0..OPEN_ABOVE {
            assert!(descent.leave().unwrap().is_some());
        }
        assert_eq!(descent.leave().unwrap_err(), Errno::STALE);
    }
}
