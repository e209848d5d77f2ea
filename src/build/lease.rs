//! A lease keeps a build's directory from being removed while it is read.
//!
//! It is a shared `flock` on the directory itself, so the kernel counts the holders: it cannot leak, whatever
//! process dies, and works between processes.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, Mode, OFlags};

use crate::filesystem::InodeId;

/// How often a directory may be replaced between opening and locking it before this fails.
const MAX_LEASE_ATTEMPTS: usize = 16;

/// A build's directory, open and not removable.
#[derive(Debug)]
pub(super) struct Lease(File);

impl Lease {
    /// Takes a lease on the directory at `path`; `None` when there is none.
    pub(super) fn take(path: &Path) -> io::Result<Option<Lease>> {
        for _ in 0..MAX_LEASE_ATTEMPTS {
            let Some(directory) = open(path)? else {
                return Ok(None);
            };
            match Lease::lock(directory, FlockOperation::NonBlockingLockShared) {
                // It may have been replaced and removed before it was locked.
                Ok(lease) if is_at(&lease.0, path)? => return Ok(Some(lease)),
                Ok(_) => {}
                // It is being removed: its name refers to another directory by now, or to none.
                Err(rustix::io::Errno::WOULDBLOCK) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(None)
    }

    /// The directory.
    pub(super) fn directory(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// A path that leads to the directory itself, wherever it is moved, while it is held.
    pub(super) fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.0.as_raw_fd()))
    }

    /// Permission to remove the directory at `path`, which must be in the trash already; `None` while it is
    /// read or removed.
    pub(super) fn take_last(path: &Path) -> io::Result<Option<Lease>> {
        let Some(directory) = open(path)? else {
            return Ok(None);
        };
        match Lease::lock(directory, FlockOperation::NonBlockingLockExclusive) {
            Ok(lease) => Ok(Some(lease)),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
    /// Waits until no removal of the directory at `path` is running; it must be in the trash already.
    pub(super) fn wait_for_removal(path: &Path) -> io::Result<()> {
        if let Some(directory) = open(path)? {
            drop(Lease::lock(directory, FlockOperation::LockShared)?);
        }
        Ok(())
    }

    fn lock(directory: File, how: FlockOperation) -> rustix::io::Result<Lease> {
        rustix::fs::flock(&directory, how)?;
        Ok(Lease(directory))
    }
}

impl Drop for Lease {
    /// A child process that is being started holds copies of all descriptors until it runs its program, and
    /// closing ours alone would leave the lock to it for that time.
    fn drop(&mut self) {
        // Nothing can be done about an error; the kernel releases the lock with the last descriptor.
        let _ = rustix::fs::flock(&self.0, FlockOperation::Unlock);
    }
}

fn is_at(directory: &File, path: &Path) -> io::Result<bool> {
    let ours = rustix::fs::fstat(directory)?;
    match rustix::fs::lstat(path) {
        Ok(there) => Ok(InodeId::of(&there) == InodeId::of(&ours)),
        Err(rustix::io::Errno::NOENT) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Opens a directory, never through a link; `None` when there is none.
pub(super) fn open(path: &Path) -> io::Result<Option<File>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(directory) => Ok(Some(File::from(directory))),
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_ends_when_it_is_dropped_even_if_a_child_process_has_its_descriptor() {
        let home = tempfile::tempdir().unwrap();
        let lease = Lease::take(home.path()).unwrap().unwrap();
        assert!(Lease::take_last(home.path()).unwrap().is_none());
        // A child has the same open file until it runs its program, as a copy of the descriptor has.
        let _of_child = lease.0.try_clone().unwrap();
        drop(lease);
        let last = Lease::take_last(home.path()).unwrap().unwrap();
        let _of_child = last.0.try_clone().unwrap();
        drop(last);
        assert!(Lease::take_last(home.path()).unwrap().is_some());
    }
}
