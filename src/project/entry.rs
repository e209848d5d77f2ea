//! One file, directory or other entry of a project.

use std::fs::File;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::digest::Digest;

/// The type of an entry, and its content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Content {
    File {
        size: u64,
        digest: Digest,
    },
    Directory,
    Link(PathBuf),
    Fifo,
    Device {
        is_block: bool,
        major: u32,
        minor: u32,
    },
}

/// One file, directory or other entry of the project.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) path: PathBuf,
    /// Permissions as sent.
    pub(super) mode: u32,
    /// The modification time on disk.
    pub(super) modified: SystemTime,
    /// Device and inode of a file with several names.
    pub(super) inode: Option<(u64, u64)>,
    /// The extended attribute `security.capability`, as it is sent.
    pub(super) capability: Option<Box<[u8]>>,
    pub(super) content: Content,
    /// It is in the digest and sent to Docker; else it is only in the digest.
    pub(super) is_sent: bool,
}

impl Entry {
    /// True when these two could be names of one file.
    pub(super) fn is_same_file(&self, other: &Entry) -> bool {
        self.inode == other.inode
            && self.mode == other.mode
            && self.modified == other.modified
            && self.capability == other.capability
            && self.content == other.content
    }
}

/// Opens without following a link and without waiting for the other end of a FIFO.
pub(super) fn open(path: &Path) -> io::Result<File> {
    let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
    File::options()
        .read(true)
        .custom_flags(flags.bits().cast_signed())
        .open(path)
}
