//! mistry: a general-purpose build server.

pub mod api;
pub mod build;
pub mod docker;
pub mod filesystem;
pub mod job;
pub mod project;
