//! What the tests stand on.

// Each test file uses a part of it.
#![allow(dead_code)]

pub mod context;
pub mod engine;
