//! Submits a job: answered from a ready build, joined to the build under way, or queued.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::active_job::{ActiveJob, JobHandle, Origin};
use super::error::Error;
use super::event::{Event, Subject, publish};
use super::lookup::look_up;
use super::lookups::LookupResult;
use super::queue::Admission;
use super::recipe::Recipe;
use super::request::SubmitRequest;
use super::service::Scheduler;
use super::shared::Shared;
use super::{ending, pipeline};
use crate::budget::Held;
use crate::build::BuildAnswer;
use crate::faults;
use crate::job::{GroupName, JobId};
use crate::project::ProjectName;

/// The result of a request.
#[derive(Debug)]
pub enum Submission {
    /// A ready build: its info, with the end of its log.
    Cached(BuildAnswer),
    /// It will be built; the handle waits for it.
    Pending(JobHandle),
}

/// A request that was admitted.
struct Admitted {
    active: Arc<ActiveJob>,
    handle: JobHandle,
    place: Place,
}

/// A request's place in the queue.
enum Place {
    /// First, with a slot.
    Slot,
    /// First, waiting for a slot.
    Backlog,
    /// It joined the build under way.
    Joined,
    /// The build under way uses the old image or a base, or is being stopped.
    Behind,
}

impl Scheduler {
    /// Requests a job. The build, if one is needed, belongs to the scheduler: dropping this future or the
    /// handle cancels nothing, unless the request says `cancel_on_disconnect`.
    ///
    /// # Errors
    /// [`Error::Project`], [`Error::BacklogFull`]; the handle returns later errors.
    pub async fn submit(&self, mut request: SubmitRequest) -> Result<Submission, Error> {
        let asked_at = Instant::now();
        let origin = Origin {
            request: request.request.take(),
            asker: request.asker.take(),
            rebuild: request.rebuild,
            cold: request.cold,
        };
        let held = request.held.take().map(Arc::new);
        let request = Arc::new(request);
        loop {
            let recipe = match look_up(&self.0, request.clone(), held.clone()).await? {
                LookupResult::Cached(id, answer) => {
                    let took = asked_at.elapsed();
                    self.0.publish_cached(&request.project, id, &origin, took);
                    return Ok(Submission::Cached(answer));
                }
                LookupResult::ToBuild(recipe) => recipe,
            };
            self.0.adopted.wait().await;
            let subject = Subject {
                project: &recipe.job.project,
                id: recipe.id,
                group: recipe.job.group.as_ref().map(GroupName::as_str),
                request: origin.request.as_deref(),
            };
            let admitted = self.0.admit(&recipe, &request, &origin, held.as_ref());
            self.0.count_queue();
            let Some(Admitted {
                active,
                mut handle,
                place,
            }) = admitted
            else {
                publish(&self.0, subject, &Event::Refused);
                return Err(Error::BacklogFull);
            };
            match place {
                Place::Slot | Place::Backlog => {
                    if let Place::Slot = place {
                        active.slot.notify_one();
                    }
                    self.0.run_build(active, recipe);
                    return Ok(Submission::Pending(handle));
                }
                Place::Joined => {
                    active.join();
                    publish(&self.0, subject, &Event::Coalesced);
                    return Ok(Submission::Pending(handle));
                }
                // The project may have changed when that build has ended, so the lookup is repeated.
                Place::Behind => {
                    // Its params and context would be held for as long as that build takes.
                    drop(recipe);
                    if let Err(error @ (Error::Stopping(..) | Error::Ending)) = handle.end().await {
                        return Err(error);
                    }
                }
            }
        }
    }
}

impl Shared {
    /// Spawns the task of an admitted job.
    fn run_build(self: &Arc<Self>, active: Arc<ActiveJob>, recipe: Arc<Recipe>) {
        let task = pipeline::accept_and_run(self.clone(), active.clone(), recipe);
        self.spawn(ending::run_guarded(self.clone(), active, task));
    }

    fn publish_cached(&self, project: &ProjectName, id: JobId, origin: &Origin, took: Duration) {
        let subject = Subject {
            project,
            id,
            group: None,
            request: origin.request.as_deref(),
        };
        publish(self, subject, &Event::Cached { took });
    }

    /// Admits a request into the queue; `None` if it is full. The client is counted as a waiter before
    /// another client can leave the build.
    fn admit(
        &self,
        recipe: &Recipe,
        request: &SubmitRequest,
        origin: &Origin,
        held: Option<&Arc<Held>>,
    ) -> Option<Admitted> {
        let mut queue = self.queue();
        faults::point("scheduler");
        let admission = queue.admit(recipe.id, || {
            let (project, group) = (recipe.job.project.clone(), recipe.job.group.clone());
            ActiveJob::new(project, recipe.id, group, origin.clone(), held.cloned())
        });
        let (active, place) = match admission {
            Admission::Started(active) => (active, Place::Slot),
            Admission::Queued(active) => (active, Place::Backlog),
            Admission::Coalesced(active) => (active, Place::Joined),
            Admission::Refused => return None,
        };
        let is_coalesced = matches!(place, Place::Joined);
        let handle = active.handle(is_coalesced, self.stop.clone());
        let is_wanted =
            active.origin.satisfies(request) && active.add_request(request.cancel_on_disconnect);
        let place = match place {
            Place::Joined if !is_wanted => Place::Behind,
            place => place,
        };
        Some(Admitted {
            active,
            handle,
            place,
        })
    }
}
