//! Support for the integration tests.

// Each test file uses a part of it.
#![allow(dead_code)]

pub mod bus;
pub mod bus_harness;
pub mod cli;
pub mod context;
pub mod daemon;
pub mod engine;
pub mod http;
pub mod manager;
pub mod process;
pub mod proxy;
