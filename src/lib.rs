//! mistry: a general-purpose build server.

pub mod api;
pub mod build;
pub mod config;
pub mod docker;
pub mod filesystem;
pub mod job;
pub mod metrics;
pub mod pipe;
pub mod project;
pub mod scheduler;
