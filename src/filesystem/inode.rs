//! The identity of an inode.

use rustix::fs::Stat;

/// Tells one inode of the host from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct InodeId {
    device: u64,
    inode: u64,
}

impl InodeId {
    // The fields differ in width between architectures.
    #[allow(clippy::unnecessary_cast)]
    pub(super) fn of(stat: &Stat) -> InodeId {
        InodeId {
            device: stat.st_dev as u64,
            inode: stat.st_ino as u64,
        }
    }
}
