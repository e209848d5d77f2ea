//! Transport local: from this host's own disk, by the path that the server names.
//!
//! It reads only what the caller may read. Files share their blocks with the build where the filesystem
//! can do that. Each directory is opened relative to its parent, so no path is too long and links in the
//! build are never followed. Pipes, sockets and devices are skipped.

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

use super::blocking::run_blocking;
use super::dir_walker::DirWalker;
use super::metadata::Modified;
use super::open::allow_owner;
use super::target::Target;
use super::{Error, Fetched, TransportOptions};
use crate::cli::progress::Progress;
use crate::filesystem::InodeId;

/// Opens a directory for reading, never through a link.
const DIRECTORY: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// The purpose of a walk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// Artifacts on this host: files are copied.
    Artifacts,
    /// A stage: files are moved, and directories without permissions are opened nonetheless. scp fetched them
    /// from a path of this many bytes.
    Stage { scp_path_len: Option<usize> },
}

/// Longest path of a directory that scp copies completely: the kernel accepts paths of 4,095 bytes, and an
/// scp server silently skips each entry whose path would be longer.
const MAX_SCP_PATH: usize = 4_095 - 256;

pub(super) async fn fetch(
    path: String,
    options: &TransportOptions,
    cancelled: CancellationToken,
) -> Result<Fetched, Error> {
    let options = options.clone();
    run_blocking(move || {
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
        // A link here was made by the build.
        let from = match rustix::fs::open(&shown, DIRECTORY, Mode::empty()) {
            Err(Errno::NOTDIR | Errno::LOOP) => return Err(unusable()),
            opened => opened.map_err(|error| read_error(&shown, error))?,
        };
        let progress = Progress::fetching();
        let mut target = options.open_target(progress.clone(), cancelled)?;
        let walked = walk(from, &shown, &mut target, Source::Artifacts);
        progress.finish();
        walked?;
        Ok(Fetched {
            files: target.files(),
            replaced: target.replaced(),
        })
    })
    .await
}

/// Copies or moves everything in the directory `root`, named `shown` in messages, into the target.
pub(super) fn walk(
    root: OwnedFd,
    shown: &Path,
    target: &mut Target,
    source: Source,
) -> Result<(), Error> {
    let mut walk = Walk {
        walker: DirWalker::new(root).map_err(|error| read_error(shown, error))?,
        path: PathBuf::new(),
        shown,
        first_names: HashMap::new(),
        target,
        source,
    };
    // The directories still to be entered at each level. Recursion would overflow the stack of the
    // thread in a deep tree.
    let mut pending = vec![walk.transfer_files()?];
    while let Some(level) = pending.last_mut() {
        if let Some(name) = level.pop() {
            walk.enter(&name)?;
            pending.push(walk.transfer_files()?);
        } else {
            pending.pop();
            walk.leave()?;
        }
    }
    walk.target.finish()
}

/// A walk over artifacts.
struct Walk<'a> {
    walker: DirWalker,
    /// The current directory, relative to the root.
    path: PathBuf,
    shown: &'a Path,
    /// The first path of each file that has hard links.
    first_names: HashMap<InodeId, PathBuf>,
    target: &'a mut Target,
    source: Source,
}

impl Walk<'_> {
    /// Copies or moves the files and links of the current directory; returns the names of directories.
    fn transfer_files(&mut self) -> Result<Vec<OsString>, Error> {
        let names = names(self.walker.here()).map_err(|error| self.read_error("", error))?;
        let mut directories = Vec::new();
        for name in names {
            let stat = rustix::fs::statat(self.walker.here(), &name, AtFlags::SYMLINK_NOFOLLOW)
                .map_err(|error| self.read_error(&name, error))?;
            match FileType::from_raw_mode(stat.st_mode) {
                FileType::Directory => directories.push(name),
                FileType::Symlink | FileType::RegularFile => self.transfer(&name, &stat)?,
                _ => {}
            }
        }
        Ok(directories)
    }

    /// Copies or moves a file or link.
    fn transfer(&mut self, name: &OsStr, stat: &Stat) -> Result<(), Error> {
        let path = self.path.join(name);
        if stat.st_nlink > 1 && self.source == Source::Artifacts {
            if let Some(first) = self.first_names.get(&InodeId::of(stat)) {
                return self.target.make_hard_link(&path, first);
            }
            self.first_names.insert(InodeId::of(stat), path.clone());
        }
        match self.source {
            Source::Artifacts => self.copy(name, stat, &path),
            Source::Stage { .. } => self.move_entry(name, stat, &path),
        }
    }

    /// Moves a file or link; each of its hard links is moved separately.
    fn move_entry(&mut self, name: &OsStr, stat: &Stat, path: &Path) -> Result<(), Error> {
        let here = self.walker.here();
        let mode = Mode::from_raw_mode(stat.st_mode);
        let is_file = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
        if is_file && mode.intersects(Mode::SUID | Mode::SGID | Mode::SVTX) {
            let plain = mode & (Mode::RWXU | Mode::RWXG | Mode::RWXO);
            rustix::fs::chmodat(here, name, plain, AtFlags::empty())
                .map_err(|error| self.read_error(name, error))?;
        }
        match self.target.move_in(path, here, name) {
            // Another filesystem is mounted there.
            Err(Error::Write(_, error)) if error.kind() == io::ErrorKind::CrossesDevices => {
                self.copy(name, stat, path)
            }
            moved => moved,
        }
    }

    /// Copies a file or link.
    fn copy(&mut self, name: &OsStr, stat: &Stat, path: &Path) -> Result<(), Error> {
        if FileType::from_raw_mode(stat.st_mode) != FileType::Symlink {
            return self.copy_file(name, path);
        }
        let to = rustix::fs::readlinkat(self.walker.here(), name, Vec::new())
            .map_err(|error| self.read_error(name, error))?;
        let to = OsStr::from_bytes(to.to_bytes());
        self.target.make_symlink(path, to, Modified::of(stat))
    }

    fn copy_file(&mut self, name: &OsStr, path: &Path) -> Result<(), Error> {
        // It may have been replaced by a link or a pipe since stat(2).
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let opened = rustix::fs::openat(self.walker.here(), name, flags, Mode::empty())
            .and_then(|source| Ok((rustix::fs::fstat(&source)?, source)));
        let (stat, source) = opened.map_err(|error| self.read_error(name, error))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Ok(());
        }
        let mut draft = self.target.begin_file(path)?;
        draft
            .copy(&File::from(source))
            .map_err(|error| Error::Write(path.display().to_string(), error))?;
        self.target
            .finish_file(path, draft, stat.st_mode, Modified::of(&stat))
    }

    /// Enters a directory of the current one.
    fn enter(&mut self, name: &OsStr) -> Result<(), Error> {
        let opened = self.open(name);
        let (directory, stat) = opened.map_err(|error| self.read_error(name, error))?;
        self.path.push(name);
        if let Source::Stage {
            scp_path_len: Some(scp_path_len),
        } = self.source
            && scp_path_len + 1 + self.path.as_os_str().len() > MAX_SCP_PATH
        {
            let what = "there are paths that are too long for scp, which may have left some out";
            let other = "take another transport";
            return Err(Error::Unusable(format!("{what}; {other}")));
        }
        self.target
            .make_directory(&self.path, stat.st_mode, Modified::of(&stat))?;
        self.walker.enter(directory, &stat);
        Ok(())
    }

    fn open(&self, name: &OsStr) -> Result<(OwnedFd, Stat), Errno> {
        let here = self.walker.here();
        if self.source == Source::Artifacts {
            let directory = rustix::fs::openat(here, name, DIRECTORY, Mode::empty())?;
            let stat = rustix::fs::fstat(&directory)?;
            return Ok((directory, stat));
        }
        let flags = DIRECTORY.union(OFlags::PATH);
        let handle = rustix::fs::openat(here, name, flags, Mode::empty())?;
        let stat = rustix::fs::fstat(&handle)?;
        allow_owner(handle.as_fd(), &stat)?;
        Ok((
            rustix::fs::openat(&handle, ".", DIRECTORY, Mode::empty())?,
            stat,
        ))
    }

    fn leave(&mut self) -> Result<(), Error> {
        self.walker
            .leave()
            .map_err(|error| self.read_error("", error))?;
        self.path.pop();
        Ok(())
    }

    fn read_error(&self, name: impl AsRef<OsStr>, error: Errno) -> Error {
        read_error(&self.shown.join(&self.path).join(name.as_ref()), error)
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

fn read_error(path: &Path, error: impl Into<io::Error>) -> Error {
    Error::Read(path.display().to_string(), error.into())
}
