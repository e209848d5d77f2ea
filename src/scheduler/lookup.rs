//! Looks requests up: the project's digest, and a ready build if there is one.
//!
//! One walk over a project serves all requests that came before the walk began, so many concurrent requests
//! cost little more than one. Projects do not wait for each other.

use std::collections::hash_map::Entry;
use std::sync::Arc;

use tokio::sync::oneshot;

use super::error::Error;
use super::lookups::{LookupResult, Lookups, Waiter};
use super::recipe::{Recipe, environment};
use super::request::SubmitRequest;
use super::shared::Shared;
use crate::budget::Held;
use crate::build::BuildAnswer;
use crate::job::{Job, JobId};
use crate::project::{self, Context, ProjectName, Settings};

/// Looks a request up in the next walk over its project.
pub(super) async fn look_up(
    shared: &Arc<Shared>,
    request: Arc<SubmitRequest>,
    held: Option<Arc<Held>>,
) -> Result<LookupResult, Error> {
    let (answer, answered) = oneshot::channel();
    let project = request.project.clone();
    let waiter = Waiter {
        request,
        held,
        answer,
    };
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

/// Walks until no request waits. Blocks.
fn walk(shared: &Shared, project: &ProjectName) {
    /// If a walk panics, the waiting requests fail, and the next request gets a new thread.
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
                // No request may come between the check and the removal, or it would wait for ever.
                std::mem::forget(leaving);
                return;
            }
            Entry::Occupied(mut waiting) => std::mem::take(waiting.get_mut()),
            Entry::Vacant(_) => return,
        };
        let read = shared.projects.context(project).and_then(|context| {
            let settings = Arc::new(context.settings()?);
            Ok((context, settings))
        });
        match read {
            Ok((context, settings)) => {
                // Concurrent requests are often for the same job.
                let mut last = None;
                for waiter in waiters {
                    let Waiter {
                        request,
                        held,
                        answer,
                    } = waiter;
                    let found = find(shared, &request, context.clone(), &settings, &mut last);
                    // The waiting client counts them in its budget, and may send another request at once.
                    drop((request, held));
                    // A request that was dropped needs no answer.
                    let _ = answer.send(found);
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
    request: &SubmitRequest,
    context: Context,
    settings: &Arc<Settings>,
    last: &mut Option<(JobId, BuildAnswer)>,
) -> Result<LookupResult, Error> {
    if let Some(schema) = &settings.params {
        let params = request.params.iter();
        let sent = params.map(|(name, value)| (name.as_str(), &**value));
        // Before a ready build is looked for: what is wrong with opaque params is not part of the id.
        let checked = schema.check(sent);
        checked.map_err(|error| project::Error::Params(request.project.clone(), error))?;
    }
    // The same of variables that cannot be made from them.
    environment(&request.params, settings)
        .map_err(|error| project::Error::Params(request.project.clone(), error))?;
    let job = Job {
        project: request.project.clone(),
        group: request.group.clone(),
        params: request.params.clone(),
        context: context.digest(),
    };
    let id = job.id();
    // While a build of the id is put in place, its links are not there yet; then joining it is better. A
    // rebuild or cold build under way leaves the cached build valid.
    let may_be_cached = !(request.rebuild || request.cold)
        && shared
            .queue()
            .get(id)
            .is_none_or(|active| active.origin.ignores_cache());
    if may_be_cached {
        let same = last.as_ref().filter(|(of, _)| *of == id);
        let cached = match same {
            Some((_, cached)) => Some(cached.clone()),
            None => shared.store.cached(&job.project, id)?,
        };
        if let Some(cached) = cached {
            *last = Some((id, cached.clone()));
            return Ok(LookupResult::Cached(id, cached));
        }
    }
    Ok(LookupResult::ToBuild(Arc::new(Recipe::with_settings(
        job,
        id,
        context,
        settings.clone(),
    ))))
}
