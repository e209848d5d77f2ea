//! The same promises about trees, on a real Btrfs (with snapshots, and as a plain filesystem with
//! reflinks), on ext4 and on tmpfs; and what only Btrfs promises.
//!
//! `MISTRY_TEST_BTRFS`, `MISTRY_TEST_EXT4` and `MISTRY_TEST_TMPFS` name a writable directory on each.
//! The suite runs as root, and uses the filesystems as an unprivileged user too.

mod btrfs;
mod closed;
mod handed_out;
mod trees;
mod volume;
