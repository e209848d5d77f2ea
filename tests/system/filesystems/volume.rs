//! A directory of a test's own on one of the filesystems, and what is compared of a tree.

use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use mistry::filesystem::{Filesystem, Kind};
use rustix::fs::{CWD, Gid, Mode, OFlags, Timespec, Timestamps, Uid};

/// A directory of a test's own on one of the filesystems.
pub struct Volume {
    pub filesystem: Filesystem,
    pub home: PathBuf,
}

impl Volume {
    pub fn on(variable: &str, filesystem: Filesystem) -> Volume {
        let Some(mount) = std::env::var_os(variable) else {
            panic!(
                "{variable} is not set: it names a writable directory on that filesystem; \
                 `make environment` mounts them all and says so"
            );
        };
        assert!(
            rustix::process::geteuid().is_root(),
            "these tests give files away and mount things, so they run as root, as `make test` does"
        );
        let home = tempfile::Builder::new()
            .prefix("mistry-")
            .permissions(Permissions::from_mode(0o755))
            .tempdir_in(mount)
            .unwrap();
        Volume {
            filesystem,
            home: home.keep(),
        }
    }

    pub fn btrfs() -> Volume {
        let volume = Volume::on("MISTRY_TEST_BTRFS", Filesystem::Btrfs);
        let detected = Filesystem::detect(Kind::Btrfs, &volume.home);
        assert_eq!(detected.unwrap(), Filesystem::Btrfs);
        volume
    }

    pub fn plain_btrfs() -> Volume {
        Volume::on("MISTRY_TEST_BTRFS", Filesystem::Plain)
    }

    pub fn ext4() -> Volume {
        Volume::on("MISTRY_TEST_EXT4", Filesystem::Plain)
    }

    pub fn tmpfs() -> Volume {
        Volume::on("MISTRY_TEST_TMPFS", Filesystem::Plain)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.home.join(name)
    }

    /// A new empty tree.
    pub fn tree(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        self.filesystem.create(&path).unwrap();
        path
    }

    pub fn clone_of(&self, from: &Path, without: &[&str]) -> PathBuf {
        let to = self.path("clone");
        let without: Vec<&OsStr> = without.iter().map(OsStr::new).collect();
        self.filesystem.clone_tree(from, &to, &without).unwrap();
        to
    }

    /// Clones, and looks whether these entries are as they were in the source. Not as they are: to be
    /// read changes the time of access.
    pub fn clone_keeps<'a>(
        &self,
        from: &Path,
        paths: impl IntoIterator<Item = &'a str, IntoIter: Clone>,
    ) -> PathBuf {
        let paths = paths.into_iter();
        let before: Vec<_> = paths.clone().map(|path| facts(&from.join(path))).collect();
        let to = self.clone_of(from, &[]);
        for (path, before) in paths.zip(before) {
            assert_eq!(before, facts(&to.join(path)), "{path}");
        }
        to
    }

    pub fn remove(&self, path: &Path) {
        assert!(self.filesystem.remove(path).unwrap());
        assert!(fs::symlink_metadata(path).is_err());
    }

    /// Does something as an unprivileged user, who owns the home from then on.
    pub fn as_a_plain_user<T: Send>(&self, act: impl FnOnce() -> T + Send) -> T {
        const NOBODY: u32 = 65534;
        chown(&self.home, Some(NOBODY), Some(NOBODY)).unwrap();
        // Linux has credentials per thread, and so has rustix.
        let acting = || {
            let (user, group) = (Uid::from_raw(NOBODY), Gid::from_raw(NOBODY));
            rustix::thread::set_thread_groups(&[]).unwrap();
            rustix::thread::set_thread_res_gid(group, group, group).unwrap();
            rustix::thread::set_thread_res_uid(user, user, user).unwrap();
            act()
        };
        std::thread::scope(|scope| scope.spawn(acting).join().unwrap())
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        let removed = self.filesystem.remove(&self.home);
        assert!(std::thread::panicking() || removed.unwrap());
    }
}

// === What is compared ===

/// What is kept about an entry itself.
pub fn facts(path: &Path) -> impl PartialEq + std::fmt::Debug + use<> {
    let m = fs::symlink_metadata(path).unwrap();
    let size = if m.is_dir() { 0 } else { m.len() };
    let times = (m.mtime(), m.mtime_nsec(), m.atime(), m.atime_nsec());
    (m.mode(), m.uid(), m.gid(), size, times)
}

pub fn set_times(path: &Path, tv_sec: i64, tv_nsec: i64) {
    let time = Timespec { tv_sec, tv_nsec };
    let times = Timestamps {
        last_access: time,
        last_modification: time,
    };
    rustix::fs::utimensat(CWD, path, &times, rustix::fs::AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

/// Follows the names that `next` gives, so many levels down.
pub fn descend<'a>(root: &Path, next: impl Fn(&File) -> Option<&'a str>, levels: usize) -> File {
    let mut here = File::open(root).unwrap();
    for _ in 0..levels {
        let Some(name) = next(&here) else { break };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        here = File::from(rustix::fs::openat(&here, name, flags, Mode::empty()).unwrap());
    }
    here
}

pub fn is_subvolume(path: &Path) -> bool {
    fs::metadata(path).unwrap().ino() == 256
}

/// An error with all that caused it.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut story = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        story.push_str(": ");
        story.push_str(&error.to_string());
        cause = error.source();
    }
    story
}
