//! Support for the system tests: the built programs, started on a real filesystem, and the Docker Engine
//! that they work with.
//!
//! Promises that what is missing is named together with the command that provides it, and that all that
//! a test has made on the host is removed when it ends, also when it fails.

pub mod daemon;
pub mod dice;
pub mod engine;
pub mod foreign;
pub mod http;
pub mod many_builds;
pub mod proxy;
pub mod servers;

use std::ffi::OsStr;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};

use mistry::filesystem::Filesystem;

/// The path that `make environment` exports in this variable.
pub fn environment(variable: &str) -> PathBuf {
    match std::env::var_os(variable) {
        Some(place) => PathBuf::from(place),
        None => panic!(
            "{variable} is not set: `make environment` brings up what it names and prints it"
        ),
    }
}

/// The most memory that a process has ever had, in kB.
pub fn most_resident(process: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:"));
    let size = line.unwrap().split_whitespace().nth(1).unwrap();
    size.parse().unwrap()
}

/// A real filesystem, and the kind that mistryd is configured to use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Subvolumes and snapshots.
    Btrfs,
    /// Reflinks.
    BtrfsAsPlain,
    Ext4,
    Tmpfs,
    /// A small ext4 that a test may fill.
    FullExt4,
    /// A small Btrfs that a test may fill.
    FullBtrfs,
    /// Wherever the host has its temporary files: every user may get there.
    Host,
}

impl Place {
    pub fn mount(self) -> PathBuf {
        match self {
            Place::Btrfs | Place::BtrfsAsPlain => environment("MISTRY_TEST_BTRFS"),
            Place::Ext4 => environment("MISTRY_TEST_EXT4"),
            Place::Tmpfs => environment("MISTRY_TEST_TMPFS"),
            Place::FullExt4 => environment("MISTRY_TEST_FULL_EXT4"),
            Place::FullBtrfs => environment("MISTRY_TEST_FULL_BTRFS"),
            Place::Host => std::env::temp_dir(),
        }
    }

    pub fn has_subvolumes(self) -> bool {
        matches!(self, Place::Btrfs | Place::FullBtrfs)
    }

    pub fn kind(self) -> &'static str {
        if self.has_subvolumes() {
            "btrfs"
        } else {
            "plain"
        }
    }
}

/// A directory that is removed in the end, subvolumes and all.
#[derive(Debug)]
pub struct Home {
    path: PathBuf,
    /// One filesystem that is filled is one test's at a time.
    _alone: Option<MutexGuard<'static, ()>>,
}

impl Home {
    pub fn on(place: Place) -> Home {
        assert!(
            rustix::process::geteuid().is_root(),
            "these tests speak to the Docker Engine and fill filesystems, so they run as root, as \
             `make test` does"
        );
        static FULL: [Mutex<()>; 2] = [const { Mutex::new(()) }; 2];
        let alone = match place {
            Place::FullExt4 => Some(&FULL[0]),
            Place::FullBtrfs => Some(&FULL[1]),
            _ => None,
        };
        let alone = alone.map(|lock| lock.lock().unwrap_or_else(PoisonError::into_inner));
        let home = tempfile::Builder::new()
            .prefix("mistry-system-")
            .permissions(Permissions::from_mode(0o755))
            .tempdir_in(place.mount());
        let home = home.unwrap_or_else(|error| {
            panic!("{place:?} is not usable ({error}): `make environment` mounts it")
        });
        Home {
            path: home.keep(),
            _alone: alone,
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.path.join(name)
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        // On every kind: what knows subvolumes knows directories.
        let removed = Filesystem::Btrfs.remove(&self.path);
        if let Err(error) = removed {
            eprintln!("'{}' is left: {error}", self.path.display());
            assert!(std::thread::panicking());
        }
        // The space of subvolumes is free some time after they are gone; the next test fills it all.
        if let Some(mount) = self.path.parent().filter(|_| self._alone.is_some()) {
            let mut sync = Command::new("btrfs");
            // On another filesystem it says so and does nothing.
            let _ = sync.args(["subvolume", "sync"]).arg(mount).output();
        }
    }
}

/// A word that no other test has.
pub fn word() -> String {
    let mut random = [0; 8];
    rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty()).unwrap();
    format!("{:016x}", u64::from_ne_bytes(random))
}

/// Everything below `root`: a relative path and what is there, as `-rwx`-like text with the content
/// of files and the targets of links. Properties that are not fetched are left out.
pub fn tree(root: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut pending = vec![root.to_owned()];
    while let Some(directory) = pending.pop() {
        for entry in fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(root).unwrap().display().to_string();
            let facts = fs::symlink_metadata(&path).unwrap();
            let runs = if facts.permissions().mode() & 0o100 != 0 {
                'x'
            } else {
                '-'
            };
            found.push(if facts.is_dir() {
                pending.push(path);
                format!("{name}/")
            } else if facts.is_symlink() {
                format!("{name} -> {}", fs::read_link(&path).unwrap().display())
            } else if facts.is_file() {
                let text = fs::read(&path).unwrap();
                format!("{name} {runs} {:?}", String::from_utf8_lossy(&text))
            } else {
                format!("{name} is neither file nor link nor directory")
            });
        }
    }
    found.sort();
    found
}

/// The names in a directory, sorted; none where there is no directory.
pub fn names(directory: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(directory) else {
        return Vec::new();
    };
    let name = |name: &OsStr| name.to_string_lossy().into_owned();
    let mut names: Vec<_> = entries.map(|e| name(&e.unwrap().file_name())).collect();
    names.sort();
    names
}
