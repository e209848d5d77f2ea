//! The identity of an inode.

use rustix::fs::Stat;

/// Identifies a file whatever its name: device and inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InodeId {
    device: u64,
    inode: u64,
}

impl InodeId {
    /// The inode that a `stat` is about.
    // The fields differ in width between architectures.
    #[allow(clippy::unnecessary_cast)]
    pub fn of(stat: &Stat) -> InodeId {
        InodeId {
            device: stat.st_dev as u64,
            inode: stat.st_ino as u64,
        }
    }
}
