//! A directory in which a program that writes through links does its work: new, empty, and closed to all
//! others. What came whole is moved from it to its place.
//!
//! The program gets a path that leads to the opened directory itself, so nothing that is put in the place
//! of a name leads it elsewhere. It works one level below the directory that keeps others out, since some
//! programs set the mode of the directory that they are given.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, fstat, mkdirat, open, openat};
use rustix::io::Errno;

use super::target::{self, by_descriptor_of_ours};
use crate::filesystem;

/// Looks at a directory, never by a link.
const LOOK: OFlags = OFlags::PATH
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// Where the program works, in the directory that keeps others out.
const INSIDE: &str = "artifacts";

/// A directory for half-done work, removed with what is still in it.
#[derive(Debug)]
pub(super) struct Stage {
    /// The target, which it is in.
    target: OwnedFd,
    name: OsString,
    inside: OwnedFd,
}

impl Stage {
    /// Makes one in a directory that is there; `what` is in its name.
    ///
    /// # Errors
    /// When nothing can be made there.
    pub(super) fn make(target: &Path, what: &str) -> io::Result<Stage> {
        // The user named it, so a link to it is followed.
        let target = open(target, LOOK.difference(OFlags::NOFOLLOW), Mode::empty())?;
        let mut serial = 0;
        let name = loop {
            let name = format!(".mistry-{}-{what}-{serial}", std::process::id());
            match mkdirat(&target, &name, Mode::RWXU) {
                Err(Errno::EXIST) => serial += 1,
                made => break made.map(|()| name)?,
            }
        };
        let inside = Stage::open_inside(&target, &name).inspect_err(|_| {
            let _ = filesystem::remove_in(&target, name.as_ref());
        })?;
        Ok(Stage {
            target,
            name: name.into(),
            inside,
        })
    }

    fn open_inside(target: &OwnedFd, name: &str) -> io::Result<OwnedFd> {
        let outside = openat(target, name, LOOK, Mode::empty())?;
        let stat = fstat(&outside)?;
        // Who may write into the target may have put another directory in its place.
        if stat.st_uid != rustix::process::geteuid().as_raw() || stat.st_mode & 0o077 != 0 {
            return Err(Errno::PERM.into());
        }
        mkdirat(&outside, INSIDE, Mode::RWXU)?;
        Ok(openat(&outside, INSIDE, LOOK, Mode::empty())?)
    }

    /// The path that a program of ours is given; it holds as long as this does.
    pub(super) fn path(&self) -> PathBuf {
        by_descriptor_of_ours(self.inside.as_fd()).into()
    }

    /// The target, in the same way.
    pub(super) fn path_of_target(&self) -> PathBuf {
        by_descriptor_of_ours(self.target.as_fd()).into()
    }

    /// Its name in the target.
    pub(super) fn name(&self) -> &std::ffi::OsStr {
        &self.name
    }

    /// Opens it, also where the program has given it the mode of artifacts that are closed.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub(super) fn open(&self) -> io::Result<OwnedFd> {
        target::open_closed(self.inside.as_fd(), &fstat(&self.inside)?)?;
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(openat(&self.inside, ".", flags, Mode::empty())?)
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        // What cannot be removed can be seen by its name.
        let _ = filesystem::remove_in(&self.target, &self.name);
    }
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    use super::*;

    #[test]
    fn a_stage_leaves_nothing_behind_whatever_modes_came_into_it() {
        let dir = tempfile::tempdir().unwrap();
        let stage = Stage::make(dir.path(), "x").unwrap();
        let path = stage.path();
        std::fs::create_dir(path.join("closed")).unwrap();
        std::fs::write(path.join("closed/x"), "").unwrap();
        for path in [path.join("closed"), path] {
            std::fs::set_permissions(path, Permissions::from_mode(0o000)).unwrap();
        }
        drop(stage);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn others_do_not_get_into_a_stage_whatever_mode_the_program_gives_its_directory() {
        let dir = tempfile::tempdir().unwrap();
        let stage = Stage::make(dir.path(), "x").unwrap();
        std::fs::set_permissions(stage.path(), Permissions::from_mode(0o777)).unwrap();
        let outside = dir.path().join(stage.name());
        assert_eq!(outside.metadata().unwrap().mode() & 0o7777, 0o700);
    }

    /// As another user can who may write into the target.
    #[test]
    fn a_link_in_the_place_of_a_stage_leads_no_program_elsewhere() {
        let dir = tempfile::tempdir().unwrap();
        let elsewhere = tempfile::tempdir().unwrap();
        std::fs::create_dir(elsewhere.path().join(INSIDE)).unwrap();
        let stage = Stage::make(dir.path(), "x").unwrap();
        let name = dir.path().join(stage.name());
        std::fs::rename(&name, dir.path().join("moved")).unwrap();
        symlink(elsewhere.path(), &name).unwrap();
        std::fs::write(stage.path().join("file"), "x").unwrap();
        assert!(dir.path().join("moved").join(INSIDE).join("file").exists());
        drop(stage);
        assert!(elsewhere.path().join(INSIDE).exists());
        assert!(name.symlink_metadata().is_err());
    }

    #[test]
    fn the_target_may_be_a_link() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("release")).unwrap();
        symlink("release", dir.path().join("current")).unwrap();
        let stage = Stage::make(&dir.path().join("current"), "x").unwrap();
        assert!(dir.path().join("release").join(stage.name()).is_dir());
    }
}
