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

use rustix::fs::{Mode, OFlags, ResolveFlags, Stat, fstat, open, openat, openat2};
use rustix::io::Errno;

use super::{Fault, closed};

/// How many directories above the present one are held open. Real trees are hardly deeper, and a few
/// walks at once stay far below the usual limit of 1,024 descriptors.
const HELD: usize = 32;

/// The size of the buffer into which directories are read.
pub(super) const READ_BUFFER: usize = 32 * 1024;

/// An open directory. One that was closed to us is open to us as long as this lasts: see `closed`.
#[derive(Debug)]
pub(super) struct Directory {
    fd: OwnedFd,
    id: Id,
    is_held: bool,
}

impl Directory {
    /// Opens for reading what `handle` leads to, of which a bare handle (`O_PATH`) is enough.
    pub(super) fn reopen(handle: BorrowedFd<'_>) -> Result<(Directory, Stat), Errno> {
        let (stat, is_held) = closed::hold(handle)?;
        let id = Id::of(&stat);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        match open(closed::path(handle), flags, Mode::empty()) {
            Ok(fd) => Ok((Directory { fd, id, is_held }, stat)),
            Err(errno) => {
                if is_held {
                    closed::release(handle, id);
                }
                Err(errno)
            }
        }
    }

    /// A directory that was opened for reading.
    pub(super) fn new(fd: OwnedFd) -> Result<(Directory, Stat), Errno> {
        let (stat, is_held) = closed::hold(fd.as_fd())?;
        let id = Id::of(&stat);
        Ok((Directory { fd, id, is_held }, stat))
    }
}

impl AsFd for Directory {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        if self.is_held {
            closed::release(self.fd.as_fd(), self.id);
        }
    }
}

/// Where a walk is, and how it came there.
#[derive(Debug)]
pub(super) struct Descent {
    here: Directory,
    /// From the root down; the last one is the parent of `here`.
    above: Vec<Above>,
    /// How many of those whose descriptors were closed are held open to us.
    far_held: usize,
}

#[derive(Debug)]
struct Above {
    /// `None` where the walk is so deep that its descriptor was closed.
    directory: Option<Directory>,
    id: Id,
    /// Whether a directory whose descriptor was closed is held open to us.
    is_held: bool,
    /// The entry through which the walk went on.
    into: CString,
}

/// What tells one inode from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Id {
    device: u64,
    inode: u64,
}

impl Id {
    // The fields differ in width between architectures.
    #[allow(clippy::unnecessary_cast)]
    pub(super) fn of(stat: &Stat) -> Id {
        Id {
            device: stat.st_dev as u64,
            inode: stat.st_ino as u64,
        }
    }
}

impl Descent {
    pub(super) fn new(root: Directory) -> Descent {
        Descent {
            here: root,
            above: Vec::new(),
            far_held: 0,
        }
    }

    /// The directory where the walk is.
    pub(super) fn here(&self) -> BorrowedFd<'_> {
        self.here.as_fd()
    }

    /// Goes on into a directory that was opened as the entry `name` of the present one.
    pub(super) fn enter(&mut self, name: CString, directory: Directory) {
        let parent = std::mem::replace(&mut self.here, directory);
        self.above.push(Above {
            id: parent.id,
            is_held: parent.is_held,
            directory: Some(parent),
            into: name,
        });
        if let Some(far) = self.above.len().checked_sub(HELD + 1)
            && let Some(mut directory) = self.above[far].directory.take()
        {
            // It stays open to us without its descriptor.
            self.far_held += usize::from(directory.is_held);
            directory.is_held = false;
        }
    }

    /// Goes back to the parent; gives what was left, still open, and its name. `None` at the root.
    pub(super) fn leave(&mut self) -> Result<Option<(Directory, CString)>, Errno> {
        let Some(above) = self.above.pop() else {
            return Ok(None);
        };
        let parent = match above.directory {
            Some(directory) => directory,
            None => {
                let found = self.find_parent(above.id);
                self.far_held -= usize::from(above.is_held);
                let fd = found.inspect_err(|_| {
                    if above.is_held {
                        closed::forget(above.id);
                    }
                })?;
                Directory {
                    fd,
                    id: above.id,
                    is_held: above.is_held,
                }
            }
        };
        let left = std::mem::replace(&mut self.here, parent);
        Ok(Some((left, above.into)))
    }

    /// Opens the parent of the present directory, if that is still the one that it was.
    fn find_parent(&self, id: Id) -> Result<OwnedFd, Errno> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = openat(&self.here, c"..", flags, Mode::empty())?;
        // A directory that is moved meanwhile must not lead the walk out of the tree.
        if Id::of(&fstat(&directory)?) != id {
            return Err(Errno::STALE);
        }
        Ok(directory)
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

impl Drop for Descent {
    /// A walk that was given up is far below directories that it holds open: they get their modes back
    /// on the way up.
    fn drop(&mut self) {
        while self.far_held > 0 && self.leave().is_ok() {}
        for above in std::mem::take(&mut self.above) {
            if above.directory.is_none() && above.is_held {
                closed::forget(above.id);
            }
        }
    }
}

/// Opens the entry `name` of `parent` for reading if it is a directory: no link, no mount point. One
/// that is closed to us, its owner, is open to us meanwhile.
pub(super) fn open_directory(
    parent: BorrowedFd<'_>,
    name: &CStr,
) -> Result<(Directory, Stat), Errno> {
    let open = |access| {
        let flags = access | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let resolve = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
        openat2(parent, name, flags, Mode::empty(), resolve)
    };
    match open(OFlags::RDONLY) {
        Ok(directory) => Directory::new(directory),
        Err(Errno::ACCESS) => Directory::reopen(open(OFlags::PATH)?.as_fd()),
        Err(errno) => Err(errno),
    }
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

    fn root(path: &Path) -> Descent {
        Descent::new(Directory::new(open(path)).unwrap().0)
    }

    fn descend(descent: &mut Descent, name: &CStr) {
        mkdirat(descent.here(), name, Mode::RWXU).unwrap();
        let (directory, _) = open_directory(descent.here(), name).unwrap();
        descent.enter(name.to_owned(), directory);
    }

    #[test]
    fn a_walk_comes_back_up_the_way_it_went_with_few_descriptors() {
        let home = tempfile::tempdir().unwrap();
        let mut descent = root(home.path());
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
        assert_eq!(descent.here.id, Id::of(&fstat(open(home.path())).unwrap()));
    }

    #[test]
    fn a_directory_that_was_moved_away_does_not_lead_out_of_the_tree() {
        let home = tempfile::tempdir().unwrap();
        std::fs::create_dir(home.path().join("elsewhere")).unwrap();
        let mut descent = root(home.path());
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
