//! What arrives equals what was built, by every transport: compared name by name, with what rsync itself
//! finds different, and with the table that `mistry fetch --help` prints.
//!
//! One small build is made for each test; the test then fills its artifacts with trees that no script
//! of busybox can make. The servers are real: `rsync --daemon` and `sshd`.

mod fetches;
mod properties;
mod scene;
mod trees;
