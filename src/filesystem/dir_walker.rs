//! A position in a tree and the path to it from the root, held with few descriptors.
//!
//! Trees are filled by builds, which choose how deep they are. So a walk neither recurses nor builds paths:
//! it holds the current directory and the nearest ones above it, and returns by `..`, checking that it
//! arrives where it came from. A directory is only entered as a real directory on the same mount.
//!
//! The caller decides what is done in the directories.

use std::collections::VecDeque;
use std::ffi::{CStr, CString, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use rustix::fs::{Mode, OFlags, ResolveFlags, Stat, fstat, open, openat, openat2};
use rustix::io::Errno;

use super::error::Fault;
use super::inode::InodeId;
use super::temporary_access;

/// How many directories above the current one are held open. A directory farther above is opened again when
/// the walk returns to it, which is rare, and hundreds of concurrent walks stay far below the limits of
/// descriptors.
const MAX_OPEN_ANCESTORS: usize = 8;

/// Most descriptors that a walk uses: those, the current directory, a step up, and a file.
pub(super) const MAX_DESCRIPTORS: u64 = MAX_OPEN_ANCESTORS as u64 + 3;

/// An open directory. If it was inaccessible, it is accessible as long as this exists: see
/// `temporary_access`.
#[derive(Debug)]
pub(super) struct Directory {
    fd: OwnedFd,
    id: InodeId,
    is_granted: bool,
}

impl Directory {
    /// Opens the target of `handle` for reading; a bare handle (`O_PATH`) is enough.
    pub(super) fn reopen(handle: BorrowedFd<'_>) -> Result<(Directory, Stat), Errno> {
        let (stat, is_granted) = temporary_access::grant(handle)?;
        let id = InodeId::of(&stat);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        match open(temporary_access::path(handle), flags, Mode::empty()) {
            Ok(fd) => Ok((Directory { fd, id, is_granted }, stat)),
            Err(errno) => {
                if is_granted {
                    temporary_access::revoke(handle, id);
                }
                Err(errno)
            }
        }
    }

    /// A directory that was opened for reading.
    pub(super) fn new(fd: OwnedFd) -> Result<(Directory, Stat), Errno> {
        let (stat, is_granted) = temporary_access::grant(fd.as_fd())?;
        let id = InodeId::of(&stat);
        Ok((Directory { fd, id, is_granted }, stat))
    }
}

impl AsFd for Directory {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        if self.is_granted {
            temporary_access::revoke(self.fd.as_fd(), self.id);
        }
    }
}

/// The position of a walk, and the path to it.
#[derive(Debug)]
pub(super) struct DirWalker {
    here: Directory,
    /// The nearest directories above, the parent of `here` last.
    open_ancestors: VecDeque<Directory>,
    /// Directories above them, from the root down, whose descriptors were closed.
    closed_ancestors: Vec<ClosedAncestor>,
    /// How many of these are held accessible.
    granted_closed_ancestors: usize,
    /// The path from the root to `here`.
    path: Vec<u8>,
}

/// As small as possible: a tree may be a million directories deep.
#[derive(Debug)]
struct ClosedAncestor {
    id: InodeId,
    is_granted: bool,
}

impl DirWalker {
    pub(super) fn new(root: Directory) -> DirWalker {
        DirWalker {
            here: root,
            open_ancestors: VecDeque::new(),
            closed_ancestors: Vec::new(),
            granted_closed_ancestors: 0,
            path: Vec::new(),
        }
    }

    /// The current directory of the walk.
    pub(super) fn here(&self) -> BorrowedFd<'_> {
        self.here.as_fd()
    }

    /// Bytes of memory of the path to it.
    pub(super) fn bytes(&self) -> usize {
        self.closed_ancestors.capacity() * size_of::<ClosedAncestor>() + self.path.capacity()
    }

    /// Bytes of the path from the root to it.
    pub(super) fn path_bytes(&self) -> usize {
        self.path.len()
    }

    /// Enters a directory that was opened as the entry `name` of the current one.
    pub(super) fn enter(&mut self, name: &CStr, directory: Directory) {
        if !self.is_at_root() {
            self.path.push(b'/');
        }
        self.path.extend_from_slice(name.to_bytes());
        let parent = std::mem::replace(&mut self.here, directory);
        self.open_ancestors.push_back(parent);
        if self.open_ancestors.len() > MAX_OPEN_ANCESTORS
            && let Some(mut directory) = self.open_ancestors.pop_front()
        {
            let (id, is_granted) = (directory.id, directory.is_granted);
            self.closed_ancestors
                .push(ClosedAncestor { id, is_granted });
            // It stays accessible without its descriptor.
            self.granted_closed_ancestors += usize::from(is_granted);
            directory.is_granted = false;
        }
    }

    /// Returns to the parent; returns the directory it left, still open, and its name. `None` at the root.
    pub(super) fn leave(&mut self) -> Result<Option<(Directory, CString)>, Errno> {
        let parent = match self.open_ancestors.pop_back() {
            Some(directory) => directory,
            None => {
                let Some(ClosedAncestor { id, is_granted }) = self.closed_ancestors.pop() else {
                    return Ok(None);
                };
                self.granted_closed_ancestors -= usize::from(is_granted);
                let found = self.find_parent(id).inspect_err(|_| {
                    if is_granted {
                        temporary_access::revoke_unreachable(id);
                    }
                });
                let fd = found?;
                Directory { fd, id, is_granted }
            }
        };
        let slash = self.path.iter().rposition(|byte| *byte == b'/');
        let name = self.path.split_off(slash.map_or(0, |slash| slash + 1));
        self.path.truncate(slash.unwrap_or(0));
        let left = std::mem::replace(&mut self.here, parent);
        // A name that came from the kernel has no zero.
        let name = CString::new(name).map_err(|_| Errno::INVAL)?;
        Ok(Some((left, name)))
    }

    /// Whether the walk is at its start.
    pub(super) fn is_at_root(&self) -> bool {
        self.open_ancestors.is_empty() && self.closed_ancestors.is_empty()
    }

    /// Opens the parent of the current directory, if it is unchanged.
    fn find_parent(&self, id: InodeId) -> Result<OwnedFd, Errno> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = openat(&self.here, c"..", flags, Mode::empty())?;
        // A directory that is moved meanwhile must not lead the walk out of the tree.
        if InodeId::of(&fstat(&directory)?) != id {
            return Err(Errno::STALE);
        }
        Ok(directory)
    }

    /// The failure for the entry `name` of the current directory, or for itself by the name `.`.
    pub(super) fn fault(
        &self,
        context: &'static str,
        name: &CStr,
        source: impl Into<std::io::Error>,
    ) -> Fault {
        Fault::new(context, &self.path_to(name), source)
    }

    /// The path to the entry `name` of the current directory; it may be longer than the kernel accepts.
    pub(super) fn path_to(&self, name: &CStr) -> PathBuf {
        let mut path = Vec::with_capacity(self.path.len() + 1 + name.count_bytes());
        path.extend_from_slice(&self.path);
        if !self.is_at_root() {
            path.push(b'/');
        }
        path.extend_from_slice(name.to_bytes());
        PathBuf::from(OsString::from_vec(path))
    }
}

impl Drop for DirWalker {
    /// An abandoned walk is far below directories that it holds open: their modes are restored on the way up.
    fn drop(&mut self) {
        while self.granted_closed_ancestors > 0 && self.leave().is_ok() {}
        for closed_ancestor in std::mem::take(&mut self.closed_ancestors) {
            if closed_ancestor.is_granted {
                temporary_access::revoke_unreachable(closed_ancestor.id);
            }
        }
    }
}

/// Opens the entry `name` of `parent` for reading if it is a directory: no link, no mount point. If its
/// owner, this user, lacks permission, it is accessible meanwhile.
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

/// Whether a name is one of the two that every directory contains.
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

    fn root(path: &Path) -> DirWalker {
        DirWalker::new(Directory::new(open(path)).unwrap().0)
    }

    fn descend(walker: &mut DirWalker, name: &CStr) {
        mkdirat(walker.here(), name, Mode::RWXU).unwrap();
        let (directory, _) = open_directory(walker.here(), name).unwrap();
        walker.enter(name, directory);
    }

    #[test]
    fn a_walk_returns_to_parent_directories_with_few_descriptors() {
        let home = tempfile::tempdir().unwrap();
        let mut walker = root(home.path());
        for _ in 0..200 {
            descend(&mut walker, c"d");
        }
        assert_eq!(walker.open_ancestors.len(), MAX_OPEN_ANCESTORS);
        assert_eq!(walker.path_to(c"x").components().count(), 201);
        let mut steps = 0;
        while walker.leave().unwrap().is_some() {
            steps += 1;
        }
        assert_eq!(steps, 200);
        assert_eq!(
            walker.here.id,
            InodeId::of(&fstat(open(home.path())).unwrap())
        );
    }

    #[test]
    fn a_moved_directory_does_not_lead_out_of_the_tree() {
        let home = tempfile::tempdir().unwrap();
        std::fs::create_dir(home.path().join("elsewhere")).unwrap();
        let mut walker = root(home.path());
        descend(&mut walker, c"top");
        for _ in 0..MAX_OPEN_ANCESTORS + 1 {
            descend(&mut walker, c"d");
        }
        let moved = home.path().join("top/d");
        renameat(CWD, &moved, CWD, home.path().join("elsewhere/d")).unwrap();
        for _ in 0..MAX_OPEN_ANCESTORS {
            assert!(walker.leave().unwrap().is_some());
        }
        assert_eq!(walker.leave().unwrap_err(), Errno::STALE);
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
