//! The fast tests: no root, no Docker, no network.

// In a test, what must not happen ends the test.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod engine;
mod openapi;
mod support;
mod tidy;
