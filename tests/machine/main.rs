//! Tests on a whole machine: a Debian, booted with systemd as PID 1, on which the packages are installed
//! and their units run unchanged.
//!
//! Each file is named for the promise that it tests. Where the machine is missing, the tests fail with a
//! sentence that says how to provide it, and are never skipped; `make environment` boots it. The tests
//! may run in any order, one at a time: each begins by putting the machine in order.

// The lints that keep panics out of the programs know only single test functions.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
// A test is one sequence of steps.
#![allow(clippy::too_many_lines)]

mod access;
mod activation;
mod bus;
mod configuration;
mod debian_13;
mod docker;
mod engine;
mod garbage;
mod idle;
mod install;
mod journal;
mod limits;
mod privileges;
mod reload;
mod remove;
mod status;
mod story;
mod support;
mod upgrade;
mod watchdog;
