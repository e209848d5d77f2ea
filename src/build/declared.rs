//! Directories that an image declares below `/data`, and the home directory of a build.
//!
//! They are made once the image is known, before its container is. What an earlier build of the group
//! has left in the place of one of them, such as a link, is replaced and never followed.

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

/// A place in the home directory over which something of the host is mounted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountPoint {
    /// Relative to the home directory.
    pub path: PathBuf,
    /// A directory, or a file.
    pub is_directory: bool,
}

impl PendingBuild {
    /// Makes directories below `data`, given relative to it, and those on the way, where there are
    /// none. The ones that are made belong to `user`; others stay as they are, and so does a param
    /// whose place is declared a directory.
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

    /// Makes the home directory, empty but for what something is to be mounted over, and gives its
    /// path. Only `user` may look into it.
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
            // The Engine would make them as root, and then only root could remove them.
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
            user.own(home.as_fd())
        };
        make().map_err(disk_error("make the build's home directory", &path))?;
        Ok(path)
    }

    /// Removes the home directory with all that the build has left there. What cannot be removed is
    /// put into the trash: it is in no build, and removed when that can be.
    ///
    /// # Errors
    /// When neither can be done.
    pub(super) fn clear_home(&self) -> Result<(), Error> {
        match self.store.filesystem.remove(&self.home()) {
            Ok(_) => Ok(()),
            Err(_) => self.put_home_aside(),
        }
    }

    /// Puts the home directory into the trash, though it may be in use.
    pub(super) fn put_home_aside(&self) -> Result<(), Error> {
        let home = self.home();
        let aside = self.store.throw_away(&home);
        aside.map_err(disk_error("put the build's home directory aside", &home))
    }

    fn home(&self) -> PathBuf {
        self.directory().join(layout::HOME)
    }

    /// Whether a param stands at a path relative to `data`.
    fn is_param(&self, path: &Path) -> bool {
        let mut parts = path.components();
        let is_inside = parts.next() == Some(Component::Normal(layout::PARAMS.as_ref()));
        let name = parts.next().and_then(|part| part.as_os_str().to_str());
        is_inside && name.is_some_and(|name| self.info().params.contains_key(name))
    }
}

/// Makes a directory and those on the way to it; gives it, open.
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
            user.own(here.as_fd())?;
        }
    }
    Ok(here)
}

fn make_file(at: BorrowedFd<'_>, name: &OsStr, user: &User) -> io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match rustix::fs::openat(at, name, flags, Mode::from_raw_mode(0o640)) {
        Ok(made) => user.own(made.as_fd()),
        // Named twice, or a directory on the way to another one.
        Err(Errno::EXIST) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
