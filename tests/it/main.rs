//! The fast tests: no root, no Docker, no network.

// In a test, what must not happen ends the test.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod artifacts;
mod backlog;
mod bad_input;
mod caching;
mod coalescing;
mod engine;
mod errors_do_not_leak;
mod groups;
mod http_contract;
mod logs;
mod old_wire;
mod openapi;
mod support;
mod tidy;
mod tokens;
