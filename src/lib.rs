//! mistry: a general-purpose build server.

pub mod api;
pub mod build;
pub mod cli;
pub mod client;
pub mod docker;
pub mod filesystem;
pub mod job;
pub mod project;
