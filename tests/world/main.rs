//! What is promised about real worlds: real filesystems, a real Docker Engine, the built programs.
//!
//! Each file is named for the world that it meets or the promise that it keeps. A world that is
//! missing fails its tests with a sentence that says how to provide it, and is never passed over;
//! `make worlds` provides them all.

// The lints that keep panics out of the programs know only single test functions.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
// A test tells its story from the beginning to the end.
#![allow(clippy::too_many_lines)]

mod browser;
mod builds;
mod clocks;
mod confinement;
mod containers;
mod demo;
mod docker;
mod faulty_engine;
mod faulty_engine_storm;
mod filesystems;
mod full_disk;
mod garbage;
mod hostile;
mod images;
mod kills;
mod npm;
mod oracle;
mod pressure;
mod stops;
mod support;
mod transports;
mod two_daemons;
mod unfinishable;
mod unprivileged;
#[path = "pressure/vanished.rs"]
mod vanished;
