//! Directories that an image declares below `/data`, and the home directory of a build.
//!
//! They are created once the image is known, before the container. Anything that an earlier build of the
//! group has left in place of one of them, such as a link, is replaced and never followed.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;

use super::disk::make_directory;
use super::error::{Error, disk_error};
use super::layout;
use super::pending::{PendingBuild, User};
use crate::filesystem::open_writable;

/// A mount point in the home directory for a file or directory of the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountPoint {
    /// Relative to the home directory.
    pub path: PathBuf,
    /// A directory, or a file.
    pub is_directory: bool,
}

impl PendingBuild {
    /// Creates missing directories below `data`, given relative to it, and their parents. The new ones belong
    /// to `user`; others stay unchanged, and so does a param whose path is declared a directory.
    ///
    /// # Errors
    /// When a system call fails.
    pub fn make_declared(&self, directories: &[PathBuf], user: &User) -> Result<(), Error> {
        let make = || -> io::Result<()> {
            let data = self.data();
            for path in directories {
                if !self.is_param(path) {
                    let root = open_writable(CWD, &data)?.ok_or(io::ErrorKind::NotFound)?;
                    make_path(root, path, user)?;
                }
            }
            Ok(())
        };
        make().map_err(disk_error(
            "make the directories that the image declares",
            &self.data(),
        ))
    }

    /// Creates the home directory, empty except for mount points, and returns its path. Only `user` may
    /// access it.
    ///
    /// # Errors
    /// When a system call fails.
    pub fn make_home(&self, mounts: &[MountPoint], user: &User) -> Result<PathBuf, Error> {
        self.clear_home()?;
        let path = self.home();
        let make = || -> io::Result<()> {
            rustix::fs::mkdirat(CWD, &path, Mode::RWXU)?;
            let open = || -> io::Result<OwnedFd> {
                Ok(open_writable(CWD, &path)?.ok_or(io::ErrorKind::NotFound)?)
            };
            let home = open()?;
            // The Engine would create them as root, and then only root could remove them.
            for mount in mounts {
                let name = mount.path.file_name();
                match (mount.is_directory, mount.path.parent(), name) {
                    (false, Some(parent), Some(name)) => {
                        let parent = make_path(open()?, parent, user)?;
                        make_file(parent.as_fd(), name, user)?;
                    }
                    _ => drop(make_path(open()?, &mount.path, user)?),
                }
            }
            user.chown(home.as_fd())
        };
        make().map_err(disk_error("make the build's home directory", &path))?;
        Ok(path)
    }

    /// Removes the home directory with everything that the build has left there. If that fails, it is moved
    /// to the trash: it is in no build, and removed when possible.
    ///
    /// # Errors
    /// When both fail.
    pub(super) fn clear_home(&self) -> Result<(), Error> {
        match self.store.filesystem.remove(&self.home()) {
            Ok(_) => Ok(()),
            Err(_) => self.put_home_aside(),
        }
    }

    /// Moves the home directory to the trash, even if it is in use.
    pub(super) fn put_home_aside(&self) -> Result<(), Error> {
        let home = self.home();
        let aside = self.store.throw_away(&home);
        aside.map_err(disk_error("put the build's home directory aside", &home))
    }

    fn home(&self) -> PathBuf {
        self.directory().join(layout::HOME)
    }

    /// Whether a path relative to `data` is a param.
    fn is_param(&self, path: &Path) -> bool {
        let mut parts = path.components();
        let is_inside = parts.next() == Some(Component::Normal(layout::PARAMS.as_ref()));
        let name = parts.next().and_then(|part| part.as_os_str().to_str());
        is_inside && name.is_some_and(|name| self.info().params.contains_key(name))
    }
}

/// Creates a directory and its parents; returns it, open.
fn make_path(root: OwnedFd, path: &Path, user: &User) -> io::Result<OwnedFd> {
    let mut here = root;
    for part in path.components() {
        let Component::Normal(name) = part else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        let is_made = make_directory(here.as_fd(), name)?;
        let next = open_writable(here.as_fd(), Path::new(name))?;
        here = next.ok_or(io::ErrorKind::NotADirectory)?;
        if is_made {
            user.chown(here.as_fd())?;
        }
    }
    Ok(here)
}

fn make_file(at: BorrowedFd<'_>, name: &OsStr, user: &User) -> io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match rustix::fs::openat(at, name, flags, Mode::from_raw_mode(0o640)) {
        Ok(made) => user.chown(made.as_fd()),
        // Named twice, or a directory on the way to another one.
        Err(Errno::EXIST) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
