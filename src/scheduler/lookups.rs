//! The requests that wait for a lookup, by project.

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

/// The result of a lookup on disk.
#[derive(Debug)]
pub(super) enum LookupResult {
    /// A ready build.
    Cached(JobId, BuildAnswer),
    /// There is none: it needs this context.
    ToBuild(Arc<Recipe>),
}

#[derive(Debug)]
pub(super) struct Waiter {
    pub(super) request: Arc<SubmitRequest>,
    /// The budget used by its params: it is kept here also if the client has disconnected.
    pub(super) held: Option<Arc<Held>>,
    pub(super) answer: oneshot::Sender<Result<LookupResult, Error>>,
}

/// The requests that wait for a walk, by project. A project with an entry has a thread that walks.
#[derive(Debug, Default)]
pub(super) struct Lookups(Mutex<HashMap<ProjectName, Vec<Waiter>>>);

impl Lookups {
    /// Locked for a push or a take.
    pub(super) fn lock(&self) -> MutexGuard<'_, HashMap<ProjectName, Vec<Waiter>>> {
        self.0.lock()
    }
}
