//! A job as an interface requests it, and the size of its params.

use crate::budget::Held;
use crate::job::{GroupName, Params};
use crate::project::ProjectName;

/// A job as an interface requests it.
#[derive(Debug)]
pub struct SubmitRequest {
    /// The project.
    pub project: ProjectName,
    /// The group, if any.
    pub group: Option<GroupName>,
    /// The params.
    pub params: Params,
    /// Make a new image and a new build, whatever is cached.
    pub rebuild: bool,
    /// Make a new build that starts empty, whatever is cached and whatever the group's base is.
    pub cold: bool,
    /// The build is cancelled when no client has a handle.
    pub cancel_on_disconnect: bool,
    /// The user, as the interface identifies them.
    pub asker: Option<String>,
    /// The interface's id of the request, which is in the records of the job.
    pub request: Option<String>,
    /// The budget that its params use, if they are large: [`Scheduler::hold_params`].
    pub held: Option<Held>,
}

/// Params up to this size are not counted: with them a job takes about as much memory as the connection that
/// it came by.
const SMALL_PARAMS: usize = 4 << 10;

/// The bytes of params, if they are large, else 0.
pub fn large(params: &Params) -> u64 {
    let bytes = params
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len());
    match bytes.sum::<usize>() {
        0..=SMALL_PARAMS => 0,
        bytes => bytes as u64,
    }
}
