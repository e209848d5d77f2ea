//! mistry: a general-purpose build server.

pub mod docker;
pub mod filesystem;
