//! A build's artifacts: the tar of all, and single files.
//!
//! What a container wrote is hostile. Every name is opened beneath the artifacts directory by
//! the kernel's own rule (`openat2`), nothing but regular files is read, setuid bits are not
//! passed on, and FIFOs, sockets and devices are left out. Links are passed on as links in
//! the tar; for a single file they are followed only inside the artifacts. A tree may be as deep and
//! as wide as a build makes it; what it closed to its own user, us, is read all the same.
//!
//! A shared lock on the build's directory keeps it from being removed while it is read. What is
//! handed out has no such lock, since a client may hold it forever.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::FileType;

use super::directory::{Directory, Entry};
use super::layout;
use super::lease::Lease;
use super::{BuildInfo, Outcome, last_used};
use crate::budget::Held;
use crate::filesystem::{self, Links, Opened, Walk};

/// A build's artifacts, held open.
#[derive(Debug)]
pub struct Artifacts {
    /// `None`: the build left none, or put something else in their place.
    root: Option<OwnedFd>,
    lease: Lease,
    execution: String,
    is_expected: bool,
}

/// What a path among the artifacts is.
#[derive(Debug)]
pub enum Found {
    /// A regular file and its metadata.
    File(File, std::fs::Metadata),
    /// A directory, to be listed.
    Directory(Directory),
}

impl Artifacts {
    /// Opens the artifacts of the build in `lease`, whose record says `info`.
    pub(super) fn open(lease: Lease, info: &BuildInfo) -> io::Result<Artifacts> {
        let path = Path::new(layout::DATA).join(layout::ARTIFACTS);
        let root = filesystem::locate(lease.directory(), &path, Links::Refused)?;
        let root = root.filter(|root| {
            let found = rustix::fs::fstat(root);
            found.is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Directory)
        });
        Ok(Artifacts {
            root,
            lease,
            execution: execution(info),
            is_expected: matches!(info.outcome, Some(Outcome::Succeeded | Outcome::Failed)),
        })
    }

    /// True where the build ran to its end, and its directory of artifacts was removed since.
    pub fn is_gone(&self) -> bool {
        self.is_expected && self.root.is_none()
    }

    /// Notes that the build is used now, for garbage collection.
    pub fn note_use(&self) {
        last_used::note(self.lease.directory());
    }

    /// A strong entity tag of one of the files, without quotes: another file, another execution of the
    /// same job, and a file that was changed by hand have another. Times and inodes alone would not do:
    /// a container may set the one, and filesystems use the other again. The time of change is the
    /// kernel's own.
    pub fn tag_of(&self, file: &std::fs::Metadata) -> String {
        format!(
            "{}-{:x}-{:x}-{:x}.{:x}-{:x}.{:x}",
            self.execution,
            file.ino(),
            file.len(),
            file.mtime(),
            file.mtime_nsec(),
            file.ctime(),
            file.ctime_nsec()
        )
    }

    /// Finds one file or directory; links are followed inside the artifacts only. `None` is
    /// anything else: absent, outside, or neither file nor directory.
    ///
    /// # Errors
    /// When the host's disk or a permission is in the way.
    pub fn find(&self, path: &Path) -> io::Result<Option<Found>> {
        let Some(root) = &self.root else {
            return Ok(path
                .as_os_str()
                .is_empty()
                .then_some(Found::Directory(Directory(None))));
        };
        let Some(handle) = filesystem::locate(root, path, Links::FollowedBelow)? else {
            return Ok(None);
        };
        match filesystem::open(&handle)? {
            Opened::File(file) => {
                let metadata = file.metadata()?;
                Ok(Some(Found::File(file, metadata)))
            }
            Opened::Directory(directory) => Ok(Some(Found::Directory(Directory(Some(directory))))),
            Opened::Other => Ok(None),
        }
    }

    /// A descriptor for clients that leads to the artifacts and nowhere else, made by a child that
    /// runs `program`; `None` where there are none. `path` is for messages.
    pub(super) fn hand_out(
        &self,
        program: &Path,
        path: &Path,
    ) -> Result<Option<OwnedFd>, filesystem::Error> {
        let root = self.root.as_ref().map(AsFd::as_fd);
        root.map(|root| filesystem::hand_out(program, root, path))
            .transpose()
    }

    /// All artifacts, one after the other in the order of the tar. `held` counts [`Contents::BYTES`]; it
    /// grows where the tree is so deep that it takes more.
    pub fn contents(self, held: Held) -> Contents {
        Contents {
            artifacts: self,
            walk: None,
            held,
        }
    }
}

/// All artifacts of a build, one after the other: a cursor, which holds what the depth of the tree costs.
/// Special files are among them; no client is sent any.
#[derive(Debug)]
pub struct Contents {
    artifacts: Artifacts,
    /// `None` before the first, and where there is nothing.
    walk: Option<Walk>,
    held: Held,
}

impl Contents {
    /// What is held for a client while the artifacts of a build are walked, in bytes.
    pub const BYTES: u64 = 112 << 10;
    /// Descriptors that are open meanwhile, at most: of the walk, and of the lease.
    pub const DESCRIPTORS: u64 = Walk::DESCRIPTORS + 1;
    /// How often the path of an entry is there while it is told, percent-encoded and as it is.
    const PATHS: usize = 8;

    /// The next one; `None` after the last.
    ///
    /// # Errors
    /// When a directory cannot be read, and when the tree is so deep that more would be held than may
    /// be for the client.
    pub(super) fn next_found(&mut self) -> io::Result<Option<filesystem::Found<'_>>> {
        if let Some(root) = self.artifacts.root.take() {
            self.walk = Some(Walk::new(root)?);
        }
        let Some(walk) = &mut self.walk else {
            return Ok(None);
        };
        let needed = walk.bytes() + Contents::PATHS * walk.path_bytes();
        let more = (needed as u64).saturating_sub(self.held.amount());
        if more > 0 && !self.held.grow(more) {
            return Err(io::Error::new(
                io::ErrorKind::OutOfMemory,
                "the tree is so deep that more would be held for the client than may be",
            ));
        }
        walk.next_entry()
    }

    /// The path of the next one below the artifacts, and what it is; `None` after the last.
    ///
    /// # Errors
    /// When the disk or a permission is in the way, and when the tree is so deep that more would be held
    /// than may be for the client.
    pub fn next_entry(&mut self) -> io::Result<Option<(PathBuf, Entry)>> {
        let Some(found) = self.next_found()? else {
            return Ok(None);
        };
        let entry = Entry::of(found.name(), &found.stat, || found.target())?;
        Ok(Some((found.path(), entry)))
    }
}

/// What tells one execution of a job from another of the same job: when it ended, to the nanosecond.
fn execution(info: &BuildInfo) -> String {
    let ended = info.finished_at.unwrap_or(info.started_at);
    format!("{:x}.{}", ended.as_nanosecond(), info.attempt)
}
