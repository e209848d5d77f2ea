//! The requests that wait to be looked up, by project.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::oneshot;

use parking_lot::{Mutex, MutexGuard};

use super::error::Error;
use super::recipe::Recipe;
use super::request::SubmitRequest;
use crate::budget::Held;
use crate::build::BuildAnswer;
use crate::job::JobId;
use crate::project::ProjectName;

/// What a look at the disk said about a request.
#[derive(Debug)]
pub(super) enum Looked {
    /// A ready build.
    Cached(JobId, BuildAnswer),
    /// None: to be built from this context.
    ToBuild(Arc<Recipe>),
}

#[derive(Debug)]
pub(super) struct Waiter {
    pub(super) request: Arc<SubmitRequest>,
    /// What its params are counted by: they are here also where the client has left.
    pub(super) held: Option<Arc<Held>>,
    pub(super) answer: oneshot::Sender<Result<Looked, Error>>,
}

/// Who waits for a walk, by project. A project that is in it has a thread that walks.
#[derive(Debug, Default)]
pub(super) struct Lookups(Mutex<HashMap<ProjectName, Vec<Waiter>>>);

impl Lookups {
    /// Held for a push or a take.
    pub(super) fn lock(&self) -> MutexGuard<'_, HashMap<ProjectName, Vec<Waiter>>> {
        self.0.lock()
    }
}
