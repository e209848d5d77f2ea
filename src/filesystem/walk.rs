//! Every entry of a tree, told in one pass whose memory does not grow with the tree; and one entry
//! that is named by its path.
//!
//! A directory comes before what is in it, and its entries in the order of their bytes, as far as the
//! names of one directory are held at once: a longer one is read in parts, each sorted by itself. The
//! walk takes memory for one path and for [`NAMES_AT_ONCE`] names. Trees must not change meanwhile.

use std::ffi::{CString, OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, RawDir, ResolveFlags, SeekFrom, Stat, fstat, openat2,
    readlinkat, seek, statat,
};
use rustix::io::Errno;

use super::descent::{Descent, Directory, READ_BUFFER, is_dots, open_directory};
use super::{Fault, closed, into_io};

/// How many names a walk holds, over all directories from the root to where it is: some 10 MB where
/// each has 255 bytes.
const NAMES_AT_ONCE: usize = 32 * 1024;
/// How many names of one directory it holds at most: more than nearly every directory has.
const NAMES_OF_ONE: usize = 8 * 1024;
/// … and at least, in the deepest and widest of trees.
const FEWEST_NAMES: usize = 16;

/// The longest path that the kernel takes, with the zero at its end.
const PATH_MAX: usize = 4096;

/// An entry that a walk came to.
#[derive(Debug)]
pub struct Found<'a> {
    directory: BorrowedFd<'a>,
    name: &'a CString,
    /// The path below the root of the walk; it may be longer than the kernel takes.
    pub path: &'a Path,
    /// What it is, with the mode that the build gave it.
    pub stat: Stat,
}

impl Found<'_> {
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
        let fault = |errno| into_io(Fault::new("open", self.path, errno));
        let file = closed::open_file(self.directory, self.name).map_err(fault)?;
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
        let target = readlinkat(self.directory, self.name, Vec::new())
            .map_err(|errno| into_io(Fault::new("read the link", self.path, errno)))?;
        Ok(OsString::from_vec(target.into_bytes()))
    }
}

/// Tells `each` of every entry below the directory that `root` leads to, of which a bare handle
/// (`O_PATH`) is enough. No link is followed; what is mounted in there is told and not entered.
///
/// # Errors
/// When a directory cannot be read, and what `each` returns.
pub fn walk(root: impl AsFd, mut each: impl FnMut(&Found<'_>) -> io::Result<()>) -> io::Result<()> {
    let (root, _) = Directory::reopen(root.as_fd())
        .map_err(|errno| into_io(Fault::new("open", Path::new("."), errno)))?;
    let mut walk = Walk {
        descent: Descent::new(root),
        levels: Vec::new(),
        held: 0,
        buffer: Vec::with_capacity(READ_BUFFER),
    };
    walk.run(&mut each)
}

struct Walk {
    descent: Descent,
    levels: Vec<Level>,
    /// Names that all levels hold.
    held: usize,
    buffer: Vec<u8>,
}

/// A directory on the way.
struct Level {
    /// The next names, the first one last.
    names: Vec<CString>,
    /// Where the directory is read on after them; `None` at its end.
    rest: Option<u64>,
}

impl Walk {
    fn run(&mut self, each: &mut impl FnMut(&Found<'_>) -> io::Result<()>) -> io::Result<()> {
        let mut path = PathBuf::new();
        let first = self.read(None).map_err(into_io)?;
        self.levels.push(first);
        while let Some(level) = self.levels.last_mut() {
            let Some(name) = level.names.pop() else {
                if let Some(rest) = level.rest {
                    let more = self.read(Some(rest)).map_err(into_io)?;
                    if let Some(level) = self.levels.last_mut() {
                        *level = more;
                    }
                    continue;
                }
                self.levels.pop();
                self.descent.leave().map_err(|errno| {
                    into_io(self.descent.fault("find the way up from", c".", errno))
                })?;
                path.pop();
                continue;
            };
            self.held -= 1;
            let here = self.descent.here();
            let stat = closed::original(|| statat(here, &name, AtFlags::SYMLINK_NOFOLLOW));
            let stat = match stat {
                Ok(stat) => stat,
                Err(Errno::NOENT) => continue,
                Err(errno) => return Err(into_io(self.descent.fault("look at", &name, errno))),
            };
            path.push(OsStr::from_bytes(name.to_bytes()));
            let found = Found {
                directory: self.descent.here(),
                name: &name,
                path: &path,
                stat,
            };
            each(&found)?;
            if found.kind() != FileType::Directory {
                path.pop();
                continue;
            }
            match open_directory(self.descent.here(), &name) {
                Ok((directory, _)) => self.descent.enter(name, directory),
                // The place of another filesystem.
                Err(Errno::XDEV) => {
                    path.pop();
                    continue;
                }
                Err(errno) => return Err(into_io(self.descent.fault("open", &name, errno))),
            }
            let level = self.read(None).map_err(into_io)?;
            self.levels.push(level);
        }
        Ok(())
    }

    /// Reads the next names of the present directory.
    fn read(&mut self, rest: Option<u64>) -> Result<Level, Fault> {
        let fault = |errno| self.descent.fault("read", c".", errno);
        if let Some(rest) = rest {
            seek(self.descent.here(), SeekFrom::Start(rest)).map_err(fault)?;
        }
        let most = (NAMES_AT_ONCE.saturating_sub(self.held) / 2).clamp(FEWEST_NAMES, NAMES_OF_ONE);
        let mut level = Level {
            names: Vec::new(),
            rest: None,
        };
        let mut entries = RawDir::new(self.descent.here(), self.buffer.spare_capacity_mut());
        while let Some(entry) = entries.next() {
            let entry = entry.map_err(fault)?;
            if is_dots(entry.file_name()) {
                continue;
            }
            level.names.push(entry.file_name().to_owned());
            if level.names.len() == most {
                level.rest = Some(entry.next_entry_cookie());
                break;
            }
        }
        level.names.sort_unstable_by(|a, b| b.cmp(a));
        self.held += level.names.len();
        Ok(level)
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
    let mut descent = Descent::new(directory);
    let mut last = c".".to_owned();
    for component in path.components() {
        let name = match component {
            Component::Normal(name) => CString::new(name.as_bytes()).map_err(|_| Errno::INVAL)?,
            Component::CurDir => continue,
            _ => return Err(Errno::XDEV),
        };
        if last.as_c_str() != c"." {
            let (directory, _) = open_directory(descent.here(), &last)?;
            descent.enter(last, directory);
        }
        last = name;
    }
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    openat2(descent.here(), &last, flags, Mode::empty(), resolve)
}

/// Not there, not below here, not what it was taken for: all the same to a stranger.
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
