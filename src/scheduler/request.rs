//! A job as an interface asks for it, and how large it is.

use crate::budget::Held;
use crate::job::{GroupName, Params};
use crate::project::ProjectName;

/// A job as an interface asks for it.
#[derive(Debug)]
pub struct SubmitRequest {
    /// The recipe.
    pub project: ProjectName,
    /// The group, if any.
    pub group: Option<GroupName>,
    /// The params.
    pub params: Params,
    /// A new image and a new build, whatever is cached.
    pub rebuild: bool,
    /// The build is wanted only while a client holds a handle.
    pub cancel_on_disconnect: bool,
    /// Who asks, as the interface knows them.
    pub asker: Option<String>,
    /// The request that it came with, as the interface calls it: it is in the records of the job.
    pub request: Option<String>,
    /// What its params are counted by, where they are large: [`Scheduler::hold_params`].
    pub held: Option<Held>,
}

/// Params up to this size are not counted: with them a job takes about as much as the connection that it
/// came by.
const SMALL_PARAMS: usize = 4 << 10;

/// The bytes of params, where they are large.
pub fn large(params: &Params) -> u64 {
    let bytes = params
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len());
    match bytes.sum::<usize>() {
        0..=SMALL_PARAMS => 0,
        bytes => bytes as u64,
    }
}
