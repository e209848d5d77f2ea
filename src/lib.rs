//! mistry: a general-purpose build server.

pub mod api;
pub mod build;
pub mod cli;
pub mod client;
pub mod config;
pub mod daemon;
pub mod docker;
pub mod filesystem;
pub mod job;
pub mod journal;
pub mod metrics;
pub mod pipe;
pub mod project;
pub mod scheduler;
pub mod web;
