//! Directory trees: created, cloned and removed, on Btrfs or on any other filesystem.
//!
//! A tree is named by an absolute path whose parent is trusted; everything below its root is hostile.
//! No link in a tree is ever followed, nothing that is mounted in it is entered, and neither depth nor
//! odd names can exhaust the stack, the file descriptors or `PATH_MAX`. A failed clone is removed.
//!
//! All functions block, so async callers use `spawn_blocking`. The module does not sync, lock or log,
//! and does not know what the trees are for. The caller ensures that no other process writes to a tree
//! while it is cloned.

mod btrfs;
mod confined;
mod copy_file;
mod dir_walker;
mod error;
mod fiemap;
mod inode;
mod interrupt;
mod links;
mod metadata;
mod names;
mod ownership;
mod plain;
mod remove;
mod temporary_access;
mod tree;
mod usage;
mod walk;

pub use confined::{OURSELVES, VERB, confine, hand_out};
pub use error::{Error, Fault};
pub use inode::InodeId;
pub use interrupt::Interrupt;
pub use tree::{Filesystem, Kind, open_writable, remove_in};
pub use usage::Usage;
pub use walk::{Found, Links, OpenDirectory, Opened, Walk, locate, open, stat_entry};
