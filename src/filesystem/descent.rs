//! The way from a tree's root to where a walk is, with few descriptors.
//!
//! Trees are filled by strangers, who choose how deep they are. So a walk neither recurses nor builds
//! paths: it holds the directory where it is and the nearest ones above it, and finds its way up by
//! `..`, checking that it comes out where it went in. A directory is only entered as a real directory
//! on the same mount.
//!
//! What is done in the directories is left to `plain` and `remove`.

use std::ffi::{CStr, CString, OsStr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use rustix::fs::{Mode, OFlags, ResolveFlags, Stat, fstat, openat, openat2};
use rustix::io::Errno;

use super::Fault;

/// How many directories above the present one are held open. Real trees are hardly deeper, and a few
/// walks at once stay far below the usual limit of 1,024 descriptors.
const HELD: usize = 32;

/// The size of the buffer into which directories are read.
pub(super) const READ_BUFFER: usize = 32 * 1024;

/// Where a walk is, and how it came there.
#[derive(Debug)]
pub(super) struct Descent {
    here: OwnedFd,
    id: Id,
    /// From the root down; the last one is the parent of `here`.
    above: Vec<Above>,
}

#[derive(Debug)]
struct Above {
    /// `None` where the walk is so deep that it was closed.
    directory: Option<OwnedFd>,
    id: Id,
    /// The entry through which the walk went on.
    into: CString,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Id {
    device: u64,
    inode: u64,
}

impl Id {
    // The fields differ in width between architectures.
    #[allow(clippy::unnecessary_cast)]
    fn of(stat: &Stat) -> Id {
        Id {
            device: stat.st_dev as u64,
            inode: stat.st_ino as u64,
        }
    }
}

impl Descent {
    pub(super) fn new(root: OwnedFd) -> Result<Descent, Errno> {
        let id = Id::of(&fstat(&root)?);
        Ok(Descent {
            here: root,
            id,
            above: Vec::new(),
        })
    }

    /// The directory where the walk is.
    pub(super) fn here(&self) -> BorrowedFd<'_> {
        self.here.as_fd()
    }

    /// Goes on into a directory that was opened as the entry `name` of the present one.
    pub(super) fn enter(&mut self, name: CString, directory: OwnedFd, stat: &Stat) {
        let parent = std::mem::replace(&mut self.here, directory);
        let id = std::mem::replace(&mut self.id, Id::of(stat));
        self.above.push(Above {
            directory: Some(parent),
            id,
            into: name,
        });
        if let Some(far) = self.above.len().checked_sub(HELD + 1) {
            self.above[far].directory = None;
        }
    }

    /// Goes back to the parent; gives what was left, still open, and its name. `None` at the root.
    pub(super) fn leave(&mut self) -> Result<Option<(OwnedFd, CString)>, Errno> {
        let Some(above) = self.above.pop() else {
            return Ok(None);
        };
        let parent = match above.directory {
            Some(directory) => directory,
            None => {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
                let directory = openat(&self.here, c"..", flags, Mode::empty())?;
                // Whoever moved a directory meanwhile must not lead the walk out of the tree.
                if Id::of(&fstat(&directory)?) != above.id {
                    return Err(Errno::STALE);
                }
                directory
            }
        };
        self.id = above.id;
        let left = std::mem::replace(&mut self.here, parent);
        Ok(Some((left, above.into)))
    }

    /// What failed for the entry `name` of the present directory, or for itself by the name of `.`.
    pub(super) fn fault(
        &self,
        doing: &'static str,
        name: &CStr,
        source: impl Into<std::io::Error>,
    ) -> Fault {
        Fault::new(doing, &self.path_to(name), source)
    }

    fn path_to(&self, name: &CStr) -> PathBuf {
        let names = self.above.iter().map(|above| above.into.as_c_str());
        names
            .chain([name])
            .map(|name| OsStr::from_bytes(name.to_bytes()))
            .collect()
    }
}

/// Opens the entry `name` of `parent` for reading if it is a directory: no link, no mount point.
pub(super) fn open_directory(
    parent: BorrowedFd<'_>,
    name: &CStr,
) -> Result<(OwnedFd, Stat), Errno> {
    let directory = openat2(
        parent,
        name,
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
        ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV,
    )?;
    let stat = fstat(&directory)?;
    Ok((directory, stat))
}

/// Whether a directory's listing holds this name besides the entries proper.
pub(super) fn is_dots(name: &CStr) -> bool {
    matches!(name.to_bytes(), b"." | b"..")
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use rustix::fs::{CWD, mkdirat, renameat};

    use super::*;

    fn open(path: &Path) -> OwnedFd {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        openat(CWD, path, flags, Mode::empty()).unwrap()
    }

    fn descend(descent: &mut Descent, name: &CStr) {
        mkdirat(descent.here(), name, Mode::RWXU).unwrap();
        let (directory, stat) = open_directory(descent.here(), name).unwrap();
        descent.enter(name.to_owned(), directory, &stat);
    }

    #[test]
    fn a_walk_comes_back_up_the_way_it_went_with_few_descriptors() {
        let home = tempfile::tempdir().unwrap();
        let mut descent = Descent::new(open(home.path())).unwrap();
        for _ in 0..200 {
            descend(&mut descent, c"d");
        }
        let held = descent.above.iter().filter(|a| a.directory.is_some());
        assert_eq!(held.count(), HELD);
        assert_eq!(descent.path_to(c"x").components().count(), 201);
        let mut steps = 0;
        while descent.leave().unwrap().is_some() {
            steps += 1;
        }
        assert_eq!(steps, 200);
        assert_eq!(descent.id, Id::of(&fstat(open(home.path())).unwrap()));
    }

    #[test]
    fn a_directory_that_was_moved_away_does_not_lead_out_of_the_tree() {
        let home = tempfile::tempdir().unwrap();
        std::fs::create_dir(home.path().join("elsewhere")).unwrap();
        let mut descent = Descent::new(open(home.path())).unwrap();
        descend(&mut descent, c"top");
        for _ in 0..HELD + 1 {
            descend(&mut descent, c"d");
        }
        let moved = home.path().join("top/d");
        renameat(CWD, &moved, CWD, home.path().join("elsewhere/d")).unwrap();
        for _ in 0..HELD {
            assert!(descent.leave().unwrap().is_some());
        }
        assert_eq!(descent.leave().unwrap_err(), Errno::STALE);
    }

    #[test]
    fn a_link_to_a_directory_is_not_entered() {
        let home = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/etc", home.path().join("params")).unwrap();
        let root = open(home.path());
        assert!(open_directory(root.as_fd(), c"params").is_err());
        assert_eq!(
            open_directory(open(Path::new("/")).as_fd(), c"proc").unwrap_err(),
            Errno::XDEV,
        );
    }
}
