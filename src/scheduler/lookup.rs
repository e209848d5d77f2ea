//! Looking a request up: the project's digest, and a ready build if there is one.
//!
//! One walk over a project serves all requests that came before the walk began, so many
//! who ask at once cost little more than one. Projects do not wait for each other.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use super::{Error, Shared, SubmitRequest};
use crate::budget::Held;
use crate::build::BuildAnswer;
use crate::job::{Job, JobId};
use crate::project::{self, Context, ProjectName};

/// What a look at the disk said about a request.
#[derive(Debug)]
pub(super) enum Looked {
    /// A ready build.
    Cached(ProjectName, JobId, BuildAnswer),
    /// None: to be built from this context.
    ToBuild(Job, JobId, Context, Option<Held>),
}

#[derive(Debug)]
struct Waiter {
    asked: SubmitRequest,
    answer: oneshot::Sender<Result<Looked, Error>>,
}

/// Who waits for a walk, by project. A project that is in it has a thread that walks.
#[derive(Debug, Default)]
pub(super) struct Lookups(Mutex<HashMap<ProjectName, Vec<Waiter>>>);

impl Lookups {
    /// Std, held for a push or a take.
    fn lock(&self) -> MutexGuard<'_, HashMap<ProjectName, Vec<Waiter>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Looks a request up, on the next walk over its project.
pub(super) async fn look_up(shared: &Arc<Shared>, asked: SubmitRequest) -> Result<Looked, Error> {
    let (answer, answered) = oneshot::channel();
    let project = asked.project.clone();
    let waiter = Waiter { asked, answer };
    let has_walker = match shared.lookups.lock().entry(project.clone()) {
        Entry::Occupied(mut waiting) => {
            waiting.get_mut().push(waiter);
            true
        }
        Entry::Vacant(place) => {
            place.insert(vec![waiter]);
            false
        }
    };
    if !has_walker {
        let shared = shared.clone();
        let tasks = shared.tasks.clone();
        tasks.spawn_blocking(move || walk(&shared, &project));
    }
    answered.await.map_err(|_| Error::Lost)?
}

/// Walks as long as a request waits. Blocks.
fn walk(shared: &Shared, project: &ProjectName) {
    /// Should a walk panic, those who wait are told, and the next one gets a new thread.
    struct Leaving<'a>(&'a Lookups, &'a ProjectName);
    impl Drop for Leaving<'_> {
        fn drop(&mut self) {
            self.0.lock().remove(self.1);
        }
    }
    let leaving = Leaving(&shared.lookups, project);
    loop {
        let waiters = match shared.lookups.lock().entry(project.clone()) {
            Entry::Occupied(waiting) if waiting.get().is_empty() => {
                waiting.remove();
                // No request may come between the look and the removal, or it waits for ever.
                std::mem::forget(leaving);
                return;
            }
            Entry::Occupied(mut waiting) => std::mem::take(waiting.get_mut()),
            Entry::Vacant(_) => return,
        };
        match shared.projects.context(project) {
            Ok(context) => {
                // Many who ask at once often ask the same.
                let mut last = None;
                for waiter in waiters {
                    let found = find(shared, waiter.asked, context.clone(), &mut last);
                    // A request that was given up needs no answer.
                    let _ = waiter.answer.send(found);
                }
            }
            Err(error) => {
                if let project::Error::Read(..) | project::Error::List(_) = &error {
                    tracing::error!(mistry_project = %project, error = &error as &dyn std::error::Error, "could not read a project");
                }
                let error = Arc::new(Error::Project(error));
                for waiter in waiters {
                    let _ = waiter.answer.send(Err(Error::Rejected(error.clone())));
                }
            }
        }
    }
}

fn find(
    shared: &Shared,
    asked: SubmitRequest,
    context: Context,
    last: &mut Option<(JobId, BuildAnswer)>,
) -> Result<Looked, Error> {
    let job = Job {
        project: asked.project,
        group: asked.group,
        params: asked.params,
        context: context.digest(),
    };
    let id = job.id();
    // While a build of the id is put in place its links are not; then it is better to join it.
    // A rebuild under way leaves what is cached in force.
    let may_be_cached = !asked.rebuild
        && shared
            .queue()
            .get(id)
            .is_none_or(|active| active.origin.rebuild);
    if may_be_cached {
        let same = last.as_ref().filter(|(of, _)| *of == id);
        let cached = match same {
            Some((_, cached)) => Some(cached.clone()),
            None => shared.store.cached(&job.project, id)?,
        };
        if let Some(cached) = cached {
            *last = Some((id, cached.clone()));
            return Ok(Looked::Cached(job.project, id, cached));
        }
    }
    Ok(Looked::ToBuild(job, id, context, asked.held))
}
