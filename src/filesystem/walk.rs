//! Iterates over the entries of a tree, in memory that does not grow with the tree; and looks up one entry by
//! its path.
//!
//! A directory comes before its entries, and these in byte order, as far as the names of one directory fit in
//! a page: a larger directory is read in pages, each sorted separately. Trees must not change during the
//! walk.

use std::ffi::{CStr, CString, OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat, fstat, openat2, readlinkat, statat,
};
use rustix::io::Errno;

use super::dir_walker::{self, DirWalker, Directory, open_directory};
use super::error::{Fault, into_io};
use super::names::{self, Names, Page};
use super::temporary_access;

/// The longest path that the kernel accepts, with its terminating zero.
const PATH_MAX: usize = 4096;

/// An entry that a walk found.
#[derive(Debug)]
pub struct Found<'a> {
    walker: &'a DirWalker,
    name: &'a CStr,
    /// Its metadata, with the mode that the build gave it.
    pub stat: Stat,
}

impl Found<'_> {
    /// Its path below the root of the walk; it may be longer than the kernel accepts.
    pub fn path(&self) -> PathBuf {
        self.walker.path_to(self.name)
    }

    /// Its name in its directory.
    pub fn name(&self) -> &OsStr {
        OsStr::from_bytes(self.name.to_bytes())
    }

    /// The type of the entry.
    pub fn kind(&self) -> FileType {
        FileType::from_raw_mode(self.stat.st_mode)
    }

    /// Opens a regular file for reading, even if its owner, the daemon, lacks permission.
    ///
    /// # Errors
    /// When it cannot be opened, and when it is no longer a regular file.
    pub fn open(&self) -> io::Result<File> {
        let fault = |errno| into_io(self.walker.fault("open", self.name, errno));
        let file = temporary_access::open_file(self.walker.here(), self.name).map_err(fault)?;
        let stat = fstat(&file).map_err(fault)?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => Ok(File::from(file)),
            _ => Err(fault(Errno::INVAL)),
        }
    }

    /// The target of a symbolic link.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn target(&self) -> io::Result<OsString> {
        let target = readlinkat(self.walker.here(), self.name, Vec::new())
            .map_err(|errno| into_io(self.walker.fault("read the link", self.name, errno)))?;
        Ok(OsString::from_vec(target.into_bytes()))
    }
}

/// A walk over a tree: a cursor that returns one entry after the other, and whose memory grows with the depth
/// of the tree plus a bounded number of names. It can be stored, and moved to another thread, between two
/// entries; the last entry stays accessible until the walk is dropped.
#[derive(Debug)]
pub struct Walk {
    walker: DirWalker,
    names: Names,
    /// The directories from the root to the current one.
    levels: Vec<Page>,
    /// The entry that was returned last.
    last: CString,
    /// Whether that is a directory, which is entered next.
    is_entering: bool,
}

impl Walk {
    /// Most descriptors that a walk uses, including one open file of the tree.
    pub const DESCRIPTORS: u64 = dir_walker::MAX_DESCRIPTORS;

    /// Starts at the directory that `root` refers to; a bare handle (`O_PATH`) is enough.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn new(root: impl AsFd) -> io::Result<Walk> {
        let (root, _) = Directory::reopen(root.as_fd())
            .map_err(|errno| into_io(Fault::new("open", Path::new("."), errno)))?;
        let mut walk = Walk {
            walker: DirWalker::new(root),
            names: Names::default(),
            levels: Vec::new(),
            last: CString::default(),
            is_entering: false,
        };
        let first = walk.read(0)?;
        walk.levels.push(first);
        Ok(walk)
    }

    /// The next entry; `None` after the last. No link is followed; mount points in the tree are returned and
    /// not entered.
    ///
    /// # Errors
    /// When a directory cannot be read. The walk cannot be used after that.
    pub fn next_entry(&mut self) -> io::Result<Option<Found<'_>>> {
        if std::mem::take(&mut self.is_entering) {
            self.enter()?;
        }
        let stat = loop {
            let Some(level) = self.levels.last_mut() else {
                return Ok(None);
            };
            let Some(name) = self.names.take(level) else {
                if let Some(rest) = level.rest() {
                    *level = Page::default();
                    let more = self.read(rest)?;
                    if let Some(level) = self.levels.last_mut() {
                        *level = more;
                    }
                    continue;
                }
                self.levels.pop();
                self.walker.leave().map_err(|errno| {
                    into_io(self.walker.fault("find the way up from", c".", errno))
                })?;
                continue;
            };
            let here = self.walker.here();
            match temporary_access::with_original_mode(|| {
                statat(here, &name, AtFlags::SYMLINK_NOFOLLOW)
            }) {
                Ok(stat) => {
                    self.last = name;
                    break stat;
                }
                Err(Errno::NOENT) => {}
                Err(errno) => return Err(into_io(self.walker.fault("look at", &name, errno))),
            }
        };
        self.is_entering = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        Ok(Some(Found {
            walker: &self.walker,
            name: &self.last,
            stat,
        }))
    }

    /// Bytes of memory in use.
    pub fn bytes(&self) -> usize {
        let levels = self.levels.capacity() * size_of::<Page>();
        self.walker.bytes() + self.names.bytes() + levels
    }

    /// Length of the current path in bytes.
    pub fn path_bytes(&self) -> usize {
        self.walker.path_bytes()
    }

    /// Enters the directory that was returned last.
    fn enter(&mut self) -> io::Result<()> {
        match open_directory(self.walker.here(), &self.last) {
            Ok((directory, _)) => self.walker.enter(&self.last, directory),
            // A mount point.
            Err(Errno::XDEV) => return Ok(()),
            Err(errno) => return Err(into_io(self.walker.fault("open", &self.last, errno))),
        }
        let level = self.read(0)?;
        self.levels.push(level);
        Ok(())
    }

    /// Reads the next names of the current directory.
    fn read(&mut self, from: u64) -> io::Result<Page> {
        let fault = |walker: &&DirWalker, errno| walker.fault("read", c".", errno);
        let (here, mut walker) = (self.walker.here(), &self.walker);
        let page = self
            .names
            .read(here, from, &mut walker, fault, |_, _| Ok(true));
        let mut page = page.map_err(into_io)?;
        names::sort(&mut page);
        Ok(page)
    }
}

/// Whether the links in a path are followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Links {
    /// Links that lead to entries below the root.
    FollowedBelow,
    /// None.
    Refused,
}

/// A bare handle (`O_PATH`) on the target of `path` below `root`; `None` if it does not exist or is outside.
/// In a path that is longer than the kernel accepts, and where the daemon's user lacks permission on a
/// directory in it, no link is followed.
///
/// # Errors
/// When the host's disk fails or a permission is missing.
pub fn locate(root: impl AsFd, path: &Path, links: Links) -> io::Result<Option<OwnedFd>> {
    let path = match path.as_os_str().is_empty() {
        true => Path::new("."),
        false => path,
    };
    if path.as_os_str().len() < PATH_MAX {
        let resolve = match links {
            Links::FollowedBelow => ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS,
            Links::Refused => ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS,
        };
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        match openat2(root.as_fd(), path, flags, Mode::empty(), resolve) {
            Ok(handle) => return Ok(Some(handle)),
            Err(errno) if is_absent(errno) => return Ok(None),
            Err(Errno::ACCESS) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    match step_by_step(root.as_fd(), path) {
        Ok(handle) => Ok(Some(handle)),
        Err(errno) if is_absent(errno) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

fn step_by_step(root: BorrowedFd<'_>, path: &Path) -> Result<OwnedFd, Errno> {
    let (directory, _) = Directory::reopen(root)?;
    let mut walker = DirWalker::new(directory);
    let mut last = c".".to_owned();
    for component in path.components() {
        let name = match component {
            Component::Normal(name) => CString::new(name.as_bytes()).map_err(|_| Errno::INVAL)?,
            Component::CurDir => continue,
            _ => return Err(Errno::XDEV),
        };
        if last.as_c_str() != c"." {
            let (directory, _) = open_directory(walker.here(), &last)?;
            walker.enter(&last, directory);
        }
        last = name;
    }
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    openat2(walker.here(), &last, flags, Mode::empty(), resolve)
}

/// Missing, not below here, or not of the expected kind: a client sees no difference.
fn is_absent(errno: Errno) -> bool {
    matches!(
        errno,
        Errno::NOENT
            | Errno::NOTDIR
            | Errno::XDEV
            | Errno::LOOP
            | Errno::NAMETOOLONG
            | Errno::INVAL
            // A path of openat2 that raced with a rename; no entry of a ready build is renamed.
            | Errno::AGAIN
    )
}

/// The target of a handle, opened for reading.
#[derive(Debug)]
pub enum Opened {
    /// A regular file.
    File(File),
    /// A directory, to be listed.
    Directory(OpenDirectory),
    /// Neither: it was not opened.
    Other,
}

/// An open directory whose entries can be examined as long as this exists.
#[derive(Debug)]
pub struct OpenDirectory(Directory);

impl AsFd for OpenDirectory {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Opens the target of a bare handle, even if its owner, the daemon, lacks permission. A FIFO or a device is
/// not opened.
///
/// # Errors
/// When a permission is missing or the host's disk fails.
pub fn open(handle: impl AsFd) -> io::Result<Opened> {
    let handle = handle.as_fd();
    Ok(match FileType::from_raw_mode(fstat(handle)?.st_mode) {
        FileType::RegularFile => Opened::File(File::from(temporary_access::reopen(handle)?)),
        FileType::Directory => Opened::Directory(OpenDirectory(Directory::reopen(handle)?.0)),
        _ => Opened::Other,
    })
}

/// Examines the entry `name` of a directory, as the build left it; `None` if there is none.
///
/// # Errors
/// When the host's disk fails or a permission is missing.
pub fn stat_entry(directory: impl AsFd, name: &OsStr) -> io::Result<Option<Stat>> {
    match temporary_access::with_original_mode(|| {
        statat(&directory, name, AtFlags::SYMLINK_NOFOLLOW)
    }) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}
