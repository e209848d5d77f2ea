//! Every entry of a tree, one after the other, in memory that does not grow with the tree; and one
//! entry that is named by its path.
//!
//! A directory comes before what is in it, and its entries in the order of their bytes, as far as the
//! names of one directory are held at once: a longer one is read in pages, each sorted by itself. Trees
//! must not change meanwhile.

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

use super::closed;
use super::dir_walker::{self, DirWalker, Directory, open_directory};
use super::error::{Fault, into_io};
use super::names::{self, Names, Page};

/// The longest path that the kernel takes, with the zero at its end.
const PATH_MAX: usize = 4096;

/// An entry that a walk came to.
#[derive(Debug)]
pub struct Found<'a> {
    walker: &'a DirWalker,
    name: &'a CStr,
    /// What it is, with the mode that the build gave it.
    pub stat: Stat,
}

impl Found<'_> {
    /// Its path below the root of the walk; it may be longer than the kernel takes.
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

    /// Opens a regular file for reading, also one that is closed to us, its owner.
    ///
    /// # Errors
    /// When it cannot be opened, and when it is no regular file any more.
    pub fn open(&self) -> io::Result<File> {
        let fault = |errno| into_io(self.walker.fault("open", self.name, errno));
        let file = closed::open_file(self.walker.here(), self.name).map_err(fault)?;
        let stat = fstat(&file).map_err(fault)?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => Ok(File::from(file)),
            _ => Err(fault(Errno::INVAL)),
        }
    }

    /// What a symbolic link says.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn target(&self) -> io::Result<OsString> {
        let target = readlinkat(self.walker.here(), self.name, Vec::new())
            .map_err(|errno| into_io(self.walker.fault("read the link", self.name, errno)))?;
        Ok(OsString::from_vec(target.into_bytes()))
    }
}

/// A walk over a tree: a cursor that is asked for one entry after the other, and holds what the depth
/// of the tree costs and a bounded number of names. It can be kept, and given to another thread,
/// between two entries; what it was asked for last is open to it until it is dropped.
#[derive(Debug)]
pub struct Walk {
    walker: DirWalker,
    names: Names,
    /// The directories from the root to where it is.
    levels: Vec<Page>,
    /// The entry that was returned last.
    last: CString,
    /// Whether that is a directory, which is entered next.
    is_entering: bool,
}

impl Walk {
    /// Descriptors that a walk takes at most, with one file of the tree that is open.
    pub const DESCRIPTORS: u64 = dir_walker::DESCRIPTORS;

    /// Begins at the directory that `root` leads to, of which a bare handle (`O_PATH`) is enough.
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

    /// The next entry; `None` after the last. No link is followed; what is mounted in there is returned
    /// and not entered.
    ///
    /// # Errors
    /// When a directory cannot be read. The walk is of no use after that.
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
            match closed::original(|| statat(here, &name, AtFlags::SYMLINK_NOFOLLOW)) {
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

    /// Bytes that it holds now.
    pub fn bytes(&self) -> usize {
        let levels = self.levels.capacity() * size_of::<Page>();
        self.walker.bytes() + self.names.bytes() + levels
    }

    /// Bytes of the path to where it is.
    pub fn path_bytes(&self) -> usize {
        self.walker.path_bytes()
    }

    /// Goes into the directory that was returned last.
    fn enter(&mut self) -> io::Result<()> {
        match open_directory(self.walker.here(), &self.last) {
            Ok((directory, _)) => self.walker.enter(&self.last, directory),
            // The place of another filesystem.
            Err(Errno::XDEV) => return Ok(()),
            Err(errno) => return Err(into_io(self.walker.fault("open", &self.last, errno))),
        }
        let level = self.read(0)?;
        self.levels.push(level);
        Ok(())
    }

    /// Reads the next names of the present directory.
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
    /// Those that lead to what is below the root.
    FollowedBelow,
    /// None.
    Refused,
}

/// A bare handle (`O_PATH`) on what `path` leads to below `root`; `None` where that is nothing, or
/// outside. In a path that is longer than the kernel takes, and where a directory on the way is closed
/// to us, its owner, no link is followed.
///
/// # Errors
/// When the host's disk or a permission is in the way.
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

/// Not there, not below here, not of the expected kind: a client is told no difference.
fn is_absent(errno: Errno) -> bool {
    matches!(
        errno,
        Errno::NOENT
            | Errno::NOTDIR
            | Errno::XDEV
            | Errno::LOOP
            | Errno::NAMETOOLONG
            | Errno::INVAL
            // A path of openat2 that raced with a rename; nothing in a ready build is renamed.
            | Errno::AGAIN
    )
}

/// What a handle leads to, opened for reading.
#[derive(Debug)]
pub enum Opened {
    /// A regular file.
    File(File),
    /// A directory, to be listed.
    Directory(OpenDirectory),
    /// Neither: it was not opened.
    Other,
}

/// An open directory whose entries can be looked at for as long as this is kept.
#[derive(Debug)]
pub struct OpenDirectory(Directory);

impl AsFd for OpenDirectory {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Opens what a bare handle leads to, also when it is closed to us, its owner. A FIFO or a device is
/// not opened.
///
/// # Errors
/// When a permission or the host's disk is in the way.
pub fn open(handle: impl AsFd) -> io::Result<Opened> {
    let handle = handle.as_fd();
    Ok(match FileType::from_raw_mode(fstat(handle)?.st_mode) {
        FileType::RegularFile => Opened::File(File::from(closed::reopen(handle)?)),
        FileType::Directory => Opened::Directory(OpenDirectory(Directory::reopen(handle)?.0)),
        _ => Opened::Other,
    })
}

/// Looks at the entry `name` of a directory, as the build left it; `None` where there is none.
///
/// # Errors
/// When the host's disk or a permission is in the way.
pub fn look(directory: impl AsFd, name: &OsStr) -> io::Result<Option<Stat>> {
    match closed::original(|| statat(&directory, name, AtFlags::SYMLINK_NOFOLLOW)) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}
