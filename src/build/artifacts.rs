//! A build's artifacts: the tar of all files, and single files.
//!
//! Files that a container wrote are hostile. Every name is opened beneath the artifacts directory by the
//! kernel's own rule (`openat2`), only regular files are read, setuid bits are not passed on, and FIFOs,
//! sockets and devices are left out. Links are passed on as links in the tar; for a single file they are
//! followed only inside the artifacts. A build may make a tree as deep and as wide as it likes; files that it
//! made inaccessible to its own user, the daemon's, are read all the same.
//!
//! A shared lock on the build's directory prevents its removal while it is read. Descriptors sent to clients
//! have no such lock, since a client may hold them forever.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::FileType;

use super::directory::{Directory, Entry};
use super::last_used;
use super::layout;
use super::lease::Lease;
use crate::api::BuildView;
use crate::budget::Held;
use crate::filesystem::{self, Links, Opened, Walk};
use crate::job::Outcome;

/// A build's artifacts, held open.
#[derive(Debug)]
pub struct Artifacts {
    /// `None`: the build left none, or replaced the directory with something else.
    root: Option<OwnedFd>,
    lease: Lease,
    attempt: String,
    is_expected: bool,
}

/// The target of a path among the artifacts.
#[derive(Debug)]
pub enum Found {
    /// A regular file and its metadata.
    File(File, std::fs::Metadata),
    /// A directory, to be listed.
    Directory(Directory),
}

impl Artifacts {
    /// Opens the artifacts of the build in `lease`, whose record is `view`.
    pub(super) fn open(lease: Lease, view: &BuildView) -> io::Result<Artifacts> {
        let path = Path::new(layout::DATA).join(layout::ARTIFACTS);
        let root = filesystem::locate(lease.directory(), &path, Links::Refused)?;
        let root = root.filter(|root| {
            let found = rustix::fs::fstat(root);
            found.is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Directory)
        });
        Ok(Artifacts {
            root,
            lease,
            attempt: attempt(view),
            is_expected: matches!(view.outcome, Some(Outcome::Succeeded | Outcome::Failed)),
        })
    }

    /// True where the build ran to its end, and its directory of artifacts was removed since.
    pub fn is_gone(&self) -> bool {
        self.is_expected && self.root.is_none()
    }

    /// Records that the build is used now, for garbage collection.
    pub fn note_use(&self) {
        last_used::note(self.lease.directory());
    }

    /// A strong entity tag of one of the files, without quotes: it differs for another file, another
    /// attempt of the same job, and a file that was changed by hand. Times and inodes alone are not enough:
    /// a container may set the former, and filesystems reuse the latter. The change time is set by the
    /// kernel.
    pub fn tag_of(&self, file: &std::fs::Metadata) -> String {
        format!(
            "{}-{:x}-{:x}-{:x}.{:x}-{:x}.{:x}",
            self.attempt,
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
    /// When the host's disk fails or a permission is missing.
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

    /// A descriptor for clients that gives access to the artifacts and nothing else, created by a child that
    /// runs `program`; `None` if there are none. `path` is for messages.
    pub(super) fn hand_out(
        &self,
        program: &Path,
        path: &Path,
    ) -> Result<Option<OwnedFd>, filesystem::Error> {
        let root = self.root.as_ref().map(AsFd::as_fd);
        root.map(|root| filesystem::hand_out(program, root, path))
            .transpose()
    }

    /// Iterates over all artifacts in the order of the tar. `held` counts [`Contents::BYTES`]; it grows when
    /// the tree is so deep that it takes more.
    pub fn contents(self, held: Held) -> Contents {
        Contents {
            artifacts: self,
            walk: None,
            held,
        }
    }
}

/// Iterator over all artifacts of a build: a cursor, whose memory grows with the depth of the tree. It
/// returns special files too; they are never sent to clients.
#[derive(Debug)]
pub struct Contents {
    artifacts: Artifacts,
    /// `None` before the first, and for an empty tree.
    walk: Option<Walk>,
    held: Held,
}

impl Contents {
    /// Bytes held for a client while the artifacts of a build are walked.
    pub const BYTES: u64 = 112 << 10;
    /// Most descriptors that are open meanwhile: those of the walk, and of the lease.
    pub const DESCRIPTORS: u64 = Walk::DESCRIPTORS + 1;
    /// Copies of an entry's path in memory while it is sent, percent-encoded and plain.
    const PATHS: usize = 8;

    /// The next one; `None` after the last.
    ///
    /// # Errors
    /// When a directory cannot be read, and when the tree is so deep that its memory exceeds the client's
    /// limit.
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

    /// The path of the next one below the artifacts, and its type; `None` after the last.
    ///
    /// # Errors
    /// When the disk fails or a permission is missing, and when the tree is so deep that its memory exceeds
    /// the client's limit.
    pub fn next_entry(&mut self) -> io::Result<Option<(PathBuf, Entry)>> {
        let Some(found) = self.next_found()? else {
            return Ok(None);
        };
        let entry = Entry::of(found.name(), &found.stat, || found.target())?;
        Ok(Some((found.path(), entry)))
    }
}

/// Distinguishes attempts of the same job: the time of the end, to the nanosecond.
fn attempt(view: &BuildView) -> String {
    let ended = view.finished_at.unwrap_or(view.started_at);
    format!("{:x}.{}", ended.as_nanosecond(), view.attempt)
}
