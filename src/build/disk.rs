//! Directories under the build path: created, listed, opened.

use std::fs::{DirBuilder, ReadDir};
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::str::FromStr;

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::filesystem;
use crate::job::JobId;

/// The mode of build directories under umask 0027.
pub(super) const DIRECTORY_MODE: u32 = 0o750;

pub(super) fn make_directories(path: &Path) -> io::Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(DIRECTORY_MODE)
        .create(path)
}

/// A bare handle on a directory.
pub(super) fn open_directory(path: &Path) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty())
}

/// The ids among the names in a directory; other names and non-directories are skipped.
pub(super) fn list_ids(directory: &Path) -> io::Result<Vec<JobId>> {
    list_named(directory)
}

/// The names of the directories in a directory that parse as `T`; none if there is no such directory.
pub(super) fn list_named<T: FromStr>(directory: &Path) -> io::Result<Vec<T>> {
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
            ) =>
        {
            return Ok(Vec::new());
        }
        Err(error) => return Err(error),
    };
    named_directories(entries)
}

/// The names of the directories among `entries` that parse as `T`; other entries are skipped.
pub(super) fn named_directories<T: FromStr>(entries: ReadDir) -> io::Result<Vec<T>> {
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry?;
        // A link is no directory: its target is not for the daemon to read, clear or write into.
        if let Some(name) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
            && entry.file_type().is_ok_and(|kind| kind.is_dir())
        {
            names.push(name);
        }
    }
    Ok(names)
}

/// Creates a directory if there is none, and replaces any other entry of that name. True when it was created.
pub(super) fn make_directory(
    at: BorrowedFd<'_>,
    name: impl AsRef<std::ffi::OsStr>,
) -> io::Result<bool> {
    let name = name.as_ref();
    match rustix::fs::statat(at, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(found) if FileType::from_raw_mode(found.st_mode) == FileType::Directory => {
            return Ok(false);
        }
        Ok(_) => {
            filesystem::remove_in(at, name)?;
        }
        Err(Errno::NOENT) => {}
        Err(error) => return Err(error.into()),
    }
    rustix::fs::mkdirat(at, name, Mode::from_raw_mode(0o750))?;
    Ok(true)
}
