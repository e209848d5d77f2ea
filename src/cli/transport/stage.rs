//! A private directory in which a program that follows links works. Complete artifacts are moved from it
//! into the target.
//!
//! The program gets a path that leads to the opened directory itself, so that another user cannot redirect
//! it by replacing a name. It works one level below the directory that denies access to others, since some
//! programs set the mode of the directory that they are given.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, fstat, mkdirat, open, openat};
use rustix::io::Errno;
use tokio_util::sync::CancellationToken;

use super::blocking::run_blocking;
use super::local::{self, Source};
use super::open::{allow_owner, path_for_other_process};
use super::target::Target;
use super::{Error, Fetched, TransportOptions};
use crate::cli::progress::Progress;
use crate::filesystem;

/// Opens a handle of a directory, never through a link.
const DIRECTORY_HANDLE: OFlags = OFlags::PATH
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// The directory of the program, inside the one that denies access to others.
const INSIDE: &str = "artifacts";

/// A directory for incomplete artifacts, removed when dropped.
#[derive(Debug)]
pub(super) struct Stage {
    /// The target, which contains the stage.
    target: OwnedFd,
    name: OsString,
    inside: OwnedFd,
}

impl Stage {
    /// Makes a stage in an existing directory; `what` is part of its name.
    pub(super) fn make(target: &Path, what: &str) -> io::Result<Stage> {
        // The user named this path, so a link to it is followed.
        let target = open(
            target,
            DIRECTORY_HANDLE.difference(OFlags::NOFOLLOW),
            Mode::empty(),
        )?;
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
        let outside = openat(target, name, DIRECTORY_HANDLE, Mode::empty())?;
        let stat = fstat(&outside)?;
        // A user who may write into the target may have replaced it.
        if stat.st_uid != rustix::process::geteuid().as_raw() || stat.st_mode & 0o077 != 0 {
            return Err(Errno::PERM.into());
        }
        mkdirat(&outside, INSIDE, Mode::RWXU)?;
        Ok(openat(&outside, INSIDE, DIRECTORY_HANDLE, Mode::empty())?)
    }

    /// The path for the program; it is valid as long as this value is.
    pub(super) fn path(&self) -> PathBuf {
        path_for_other_process(self.inside.as_fd()).into()
    }

    /// The path of the target for the program.
    pub(super) fn path_of_target(&self) -> PathBuf {
        path_for_other_process(self.target.as_fd()).into()
    }

    /// Its name in the target.
    fn name(&self) -> &std::ffi::OsStr {
        &self.name
    }

    /// Moves the fetched files into the target.
    pub(super) async fn move_to_target(
        self,
        options: &TransportOptions,
        source: Source,
        cancelled: CancellationToken,
    ) -> Result<Fetched, Error> {
        let options = options.clone();
        run_blocking(move || {
            options.clear_target(Some(self.name()))?;
            let from = self.open().map_err(|error| options.write_error(error))?;
            let mut target = Target::open(&options.target, Progress::hidden(), cancelled)?;
            local::walk(from, &self.path(), &mut target, source)?;
            Ok(Fetched {
                files: target.files(),
                replaced: target.replaced(),
            })
        })
        .await
    }

    /// Opens it, even if the program has copied the mode of a directory without permissions.
    fn open(&self) -> io::Result<OwnedFd> {
        allow_owner(self.inside.as_fd(), &fstat(&self.inside)?)?;
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(openat(&self.inside, ".", flags, Mode::empty())?)
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        // A stage that cannot be removed can be recognised by its name.
        let _ = filesystem::remove_in(&self.target, &self.name);
    }
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    use super::*;

    #[test]
    fn a_stage_is_removed_completely_whatever_modes_its_files_have() {
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
    fn other_users_cannot_enter_a_stage_whatever_mode_the_program_sets() {
        let dir = tempfile::tempdir().unwrap();
        let stage = Stage::make(dir.path(), "x").unwrap();
        std::fs::set_permissions(stage.path(), Permissions::from_mode(0o777)).unwrap();
        let outside = dir.path().join(stage.name());
        assert_eq!(outside.metadata().unwrap().mode() & 0o7777, 0o700);
    }

    /// Acts as another user with write access to the target.
    #[test]
    fn a_link_in_place_of_a_stage_is_not_followed_by_the_program() {
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
