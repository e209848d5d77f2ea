//! Builds: one execution of a job and its directory on disk.
mod info;
pub use info::*;
