//! A job is a *request*: project, params, group and context digest. It is a plain value.
//!
//! Its [`JobId`] is the SHA-256 of a versioned, length-prefixed encoding of all four, so no two jobs share an
//! id by concatenation and none depends on the host. Params whose names begin with `_` are *opaque*: the
//! build gets them but they do not enter the id, and their values are shown nowhere.

mod identity;
mod names;
mod status;

pub use identity::{Job, JobId, JobIdPrefix};
pub use names::{GroupName, MAX_PARAMS, ParamName, Params};
pub use status::{Cancelled, Outcome, Phase, Phases, State, Status};
