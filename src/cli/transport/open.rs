//! Directories opened by handle, also those whose mode denies access to their owner.

use std::ffi::OsStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Mode, OFlags, Stat};
use rustix::io::Errno;

/// Opens a handle of a directory that needs no permission on it.
const DIRECTORY_HANDLE: OFlags = OFlags::PATH
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);
/// Opens a directory for reading.
pub(super) const READ_DIRECTORY: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::CLOEXEC);

/// Opens the directory `name` of `parent` so that entries can be created in it, and returns its earlier
/// metadata: if its mode denies access to the caller, its owner, the mode is changed. With `mode`, the
/// directory is made if it is missing, or replaces a file or link.
pub(super) fn open_for_entries(
    parent: BorrowedFd<'_>,
    name: &OsStr,
    mode: Option<u32>,
) -> Result<(OwnedFd, Stat), Errno> {
    let open_handle = || rustix::fs::openat(parent, name, DIRECTORY_HANDLE, Mode::empty());
    let make = |mode| {
        rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(mode) | Mode::RWXU)?;
        open_handle()
    };
    let handle = match (open_handle(), mode) {
        (Err(Errno::NOENT), Some(mode)) => make(mode)?,
        (Err(Errno::NOTDIR | Errno::LOOP), Some(mode)) => {
            rustix::fs::unlinkat(parent, name, AtFlags::empty())?;
            make(mode)?
        }
        (found, _) => found?,
    };
    let stat = rustix::fs::fstat(&handle)?;
    allow_owner(handle.as_fd(), &stat)?;
    match rustix::fs::openat(&handle, ".", READ_DIRECTORY, Mode::empty()) {
        // A directory of another user that may be written to but not read.
        Err(Errno::ACCESS) => Ok((handle, stat)),
        opened => Ok((opened?, stat)),
    }
}

/// Gives the owner of a directory, where that is the caller, all permissions on it.
pub(super) fn allow_owner(directory: BorrowedFd<'_>, stat: &Stat) -> Result<(), Errno> {
    let mode = Mode::from_raw_mode(stat.st_mode);
    if mode.contains(Mode::RWXU) || stat.st_uid != rustix::process::geteuid().as_raw() {
        return Ok(());
    }
    // Through /proc, since fchmod(2) does not work on an `O_PATH` handle.
    rustix::fs::chmod(path_of_descriptor(directory), mode | Mode::RWXU)
}

/// The same path for another process; it is valid as long as this process has the file open.
pub(super) fn path_for_other_process(opened: BorrowedFd<'_>) -> String {
    format!("/proc/{}/fd/{}", std::process::id(), opened.as_raw_fd())
}

/// A path that leads to an open file, whatever its current name.
pub(super) fn path_of_descriptor(opened: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", opened.as_raw_fd())
}
