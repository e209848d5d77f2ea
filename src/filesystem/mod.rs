//! Create, clone and remove a directory tree: plain or Btrfs.
