//! Transport local: from this host's own disk, by the path that the server names.
//!
//! It reads only what the caller may read. Files share their blocks with the build where
//! the filesystem can do that. Directories are opened one beneath the other, so no path is too long
//! and links in the build are never followed; pipes, sockets and devices are left where they are.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;
use tokio_util::sync::CancellationToken;

use super::descent::Descent;
use super::target::{FileId, Modified, Target, open_closed};
use super::{Error, Fetched, Transport, blocking};
use crate::cli::progress::Progress;

/// Opens a directory that is a directory itself, not by a link.
const DIRECTORY: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// What becomes of the files that are found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum How {
    /// They stay where they are.
    Copy,
    /// They are ours and move: directories that are closed to us are opened. Those that came by scp came
    /// from a path of so many bytes.
    Take(Option<usize>),
}

/// Longest path of a directory that scp is trusted with: the kernel takes paths of 4,095 bytes, and a
/// server of scp leaves out, in silence, each name that is more than that together with its directory.
const MAX_SCP_PATH: usize = 4_095 - 256;

pub(super) async fn fetch(
    path: String,
    transport: &Transport,
    gone: CancellationToken,
) -> Result<Fetched, Error> {
    let transport = transport.clone();
    blocking(move || {
        if !path.starts_with('/') {
            let what = "the server names no absolute path of the artifacts";
            return Err(Error::Unusable(what.to_owned()));
        }
        let shown = PathBuf::from(path);
        let unusable = || {
            let what = "what the server names as the artifacts is no directory";
            Error::Unusable(what.to_owned())
        };
        if shown.components().any(|part| part == Component::ParentDir) {
            return Err(unusable());
        }
        // A link in its place was put there by the build.
        let from = match rustix::fs::open(&shown, DIRECTORY, Mode::empty()) {
            Err(Errno::NOTDIR | Errno::LOOP) => return Err(unusable()),
            opened => opened.map_err(|error| unreadable(&shown, error))?,
        };
        let progress = Progress::fetching();
        let mut target = transport.open_target(progress.clone(), gone)?;
        let walked = walk(from, &shown, &mut target, How::Copy);
        progress.done();
        walked?;
        Ok(Fetched {
            files: target.files(),
        })
    })
    .await
}

/// Brings everything in the directory `root`, which is called `shown` in messages, into the target.
pub(super) fn walk(
    root: OwnedFd,
    shown: &Path,
    target: &mut Target,
    how: How,
) -> Result<(), Error> {
    let mut walk = Walk {
        descent: Descent::new(root).map_err(|error| unreadable(shown, error))?,
        path: PathBuf::new(),
        shown,
        several: HashMap::new(),
        target,
        how,
    };
    // The directories still to be entered at each level; a stack of our own, since a deep tree must
    // not overflow the thread's.
    let mut pending = vec![walk.files()?];
    while let Some(level) = pending.last_mut() {
        if let Some(name) = level.pop() {
            walk.enter(&name)?;
            pending.push(walk.files()?);
        } else {
            pending.pop();
            walk.leave()?;
        }
    }
    walk.target.finish()
}

/// A walk over artifacts.
struct Walk<'a> {
    descent: Descent,
    /// Where it is, below the root.
    path: PathBuf,
    shown: &'a Path,
    /// The first name of each file that has several.
    several: HashMap<FileId, PathBuf>,
    target: &'a mut Target,
    how: How,
}

impl Walk<'_> {
    /// Brings what is in the present directory and is no directory; gives the names of those.
    fn files(&mut self) -> Result<Vec<OsString>, Error> {
        let names = names(self.descent.here()).map_err(|error| self.unreadable("", error))?;
        let mut directories = Vec::new();
        for name in names {
            let stat = rustix::fs::statat(self.descent.here(), &name, AtFlags::SYMLINK_NOFOLLOW)
                .map_err(|error| self.unreadable(&name, error))?;
            match FileType::from_raw_mode(stat.st_mode) {
                FileType::Directory => directories.push(name),
                FileType::Symlink | FileType::RegularFile => self.file(&name, &stat)?,
                _ => {}
            }
        }
        Ok(directories)
    }

    /// Brings a file or link.
    fn file(&mut self, name: &OsStr, stat: &Stat) -> Result<(), Error> {
        let path = self.path.join(name);
        if stat.st_nlink > 1 && self.how == How::Copy {
            if let Some(first) = self.several.get(&FileId::of(stat)) {
                return self.target.hard_link(&path, first);
            }
            self.several.insert(FileId::of(stat), path.clone());
        }
        match self.how {
            How::Copy => self.bring(name, stat, &path),
            How::Take(_) => self.take(name, stat, &path),
        }
    }

    /// Moves a file or link, with all its names one after the other.
    fn take(&mut self, name: &OsStr, stat: &Stat, path: &Path) -> Result<(), Error> {
        let here = self.descent.here();
        let mode = Mode::from_raw_mode(stat.st_mode);
        let is_file = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
        if is_file && mode.intersects(Mode::SUID | Mode::SGID | Mode::SVTX) {
            let plain = mode & (Mode::RWXU | Mode::RWXG | Mode::RWXO);
            rustix::fs::chmodat(here, name, plain, AtFlags::empty())
                .map_err(|error| self.unreadable(name, error))?;
        }
        match self.target.take(path, here, name) {
            // Something else is mounted there.
            Err(Error::Write(_, error)) if error.kind() == io::ErrorKind::CrossesDevices => {
                self.bring(name, stat, path)
            }
            taken => taken,
        }
    }

    /// Makes another one of a file or link.
    fn bring(&mut self, name: &OsStr, stat: &Stat, path: &Path) -> Result<(), Error> {
        if FileType::from_raw_mode(stat.st_mode) != FileType::Symlink {
            return self.copy(name, path);
        }
        let to = rustix::fs::readlinkat(self.descent.here(), name, Vec::new())
            .map_err(|error| self.unreadable(name, error))?;
        let to = OsStr::from_bytes(to.to_bytes());
        self.target.symlink(path, to, Modified::of(stat))
    }

    fn copy(&mut self, name: &OsStr, path: &Path) -> Result<(), Error> {
        // It may have become a link or a pipe since it was looked at.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let opened = rustix::fs::openat(self.descent.here(), name, flags, Mode::empty())
            .and_then(|source| Ok((rustix::fs::fstat(&source)?, source)));
        let (stat, source) = opened.map_err(|error| self.unreadable(name, error))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Ok(());
        }
        let mut draft = self.target.begin(path)?;
        draft
            .copy(&File::from(source))
            .map_err(|error| Error::Write(path.display().to_string(), error))?;
        self.target
            .keep(path, draft, stat.st_mode, Modified::of(&stat))
    }

    /// Goes on into a directory.
    fn enter(&mut self, name: &OsStr) -> Result<(), Error> {
        let opened = self.open(name);
        let (directory, stat) = opened.map_err(|error| self.unreadable(name, error))?;
        self.path.push(name);
        if let How::Take(Some(above)) = self.how
            && above + 1 + self.path.as_os_str().len() > MAX_SCP_PATH
        {
            let what = "there are paths that are too long for scp, which may have left some out";
            let other = "take another transport";
            return Err(Error::Unusable(format!("{what}; {other}")));
        }
        self.target
            .directory(&self.path, stat.st_mode, Modified::of(&stat))?;
        self.descent.enter(directory, &stat);
        Ok(())
    }

    fn open(&self, name: &OsStr) -> Result<(OwnedFd, Stat), Errno> {
        let here = self.descent.here();
        if self.how == How::Copy {
            let directory = rustix::fs::openat(here, name, DIRECTORY, Mode::empty())?;
            let stat = rustix::fs::fstat(&directory)?;
            return Ok((directory, stat));
        }
        let flags = DIRECTORY.union(OFlags::PATH);
        let handle = rustix::fs::openat(here, name, flags, Mode::empty())?;
        let stat = rustix::fs::fstat(&handle)?;
        open_closed(handle.as_fd(), &stat)?;
        Ok((
            rustix::fs::openat(&handle, ".", DIRECTORY, Mode::empty())?,
            stat,
        ))
    }

    fn leave(&mut self) -> Result<(), Error> {
        self.descent
            .leave()
            .map_err(|error| self.unreadable("", error))?;
        self.path.pop();
        Ok(())
    }

    fn unreadable(&self, name: impl AsRef<OsStr>, error: Errno) -> Error {
        unreadable(&self.shown.join(&self.path).join(name.as_ref()), error)
    }
}

/// The names in a directory.
pub(super) fn names(directory: BorrowedFd<'_>) -> Result<Vec<OsString>, Errno> {
    let mut names = Vec::new();
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(OsStr::from_bytes(name).to_owned());
        }
    }
    Ok(names)
}

fn unreadable(path: &Path, error: impl Into<io::Error>) -> Error {
    Error::Read(path.display().to_string(), error.into())
}
