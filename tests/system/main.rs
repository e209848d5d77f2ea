//! System tests: the built programs on the real Docker, real filesystems, sshd, rsync and a browser.
//!
//! Each file is named for the part of the environment that it uses or the promise that it tests. Where
//! a part is missing, its tests fail with a sentence that says how to provide it, and are never skipped;
//! `make environment` provides all of it.

// The lints that keep panics out of the programs know only single test functions.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
// A test is one sequence of steps.
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
