//! Events for clients that follow: first the current state, then the changes.
//!
//! The stream holds an observer of each job that is not over, so nothing is queued for a slow reader: it
//! reads the latest state of each job. An event is a state, not a step, so a state may be sent twice, and a
//! state that passed before it was read may be omitted, except the last: every end is sent.

use std::collections::{HashMap, VecDeque};
use std::pin::Pin;
use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::stream::{FuturesUnordered, StreamExt};
use jiff::{Timestamp, ToSpan};
use tokio::sync::{broadcast, watch};
use tokio::task::coop::unconstrained;
use tokio_util::sync::CancellationToken;

use super::active_job::JobObserver;
use super::activity::Activity;
use super::broadcast::NewJobs;
use super::error::Error;
use super::reading::Reader;
use crate::build::BuildInfo;
use crate::job::{JobId, Phase};
use crate::project::ProjectName;

/// Ends that are sent one by one to a client that reconnects; beyond it the client must list again.
const MAX_REPLAYED_ENDS: usize = 1_000;
/// Approximate bytes that a stream takes for each job that it follows, and for each event that is queued.
const BYTES_PER_FOLLOWED_JOB: usize = 1 << 10;
const BYTES_PER_PENDING_EVENT: usize = 128;
/// A build's end is recorded some time before it is published.
const SLACK_SECONDS: i64 = 60;

/// An event of the stream.
#[derive(Clone, Debug)]
pub enum StreamEvent {
    /// The activity of the host has changed.
    Host(Activity),
    /// The state of a job: accepted, in another phase, joined by another request, or over.
    Job(Arc<BuildInfo>),
    /// A build was removed; or a job is gone, because its end could not be recorded.
    Removed(ProjectName, JobId),
    /// Some events are missing: a client that keeps a list must request it again.
    Missed,
    /// The current state is complete; changes follow.
    Present,
}

/// Whether the present state has the builds that ended while the client did not listen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ends {
    Replayed,
    Omitted,
}

/// A change of a job is an event when this key changes.
type ChangeKey = (Option<Phase>, u32, bool, bool, bool);

type Following = Pin<Box<dyn Future<Output = (JobObserver, ChangeKey, Result<(), Error>)> + Send>>;

/// A stream of events.
pub struct EventStream {
    reader: Reader,
    new_jobs: NewJobs,
    removed: broadcast::Receiver<(ProjectName, JobId)>,
    activity: watch::Receiver<Activity>,
    stop: CancellationToken,
    followed: HashMap<JobId, JobObserver>,
    /// Jobs whose end was sent out of turn, because the same job was requested again.
    replaced: Vec<JobObserver>,
    following: FuturesUnordered<Following>,
    ready: VecDeque<Queued>,
    /// Every end before this time was sent.
    resume_from: Timestamp,
}

/// An entry to be sent next.
enum Queued {
    Event(StreamEvent),
    /// The state that the job has when it is sent, not a copy: its params may be large. If it is over by
    /// then, its end is sent in its turn.
    State(JobObserver),
    /// The end of a job.
    End(JobObserver),
    /// The state of a build on disk: it ended a while ago; or a rebuild of it failed, so lists show the
    /// earlier build.
    OnDisk(ProjectName, JobId),
}

/// The reasons to wake up.
enum Wake {
    Changed(JobObserver, ChangeKey, Result<(), Error>),
    NewJob(Option<JobObserver>),
    Host(bool),
    Removed(Option<(ProjectName, JobId)>),
}

impl std::fmt::Debug for EventStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EventStream")
            .field("followed", &self.followed.len())
            .finish_non_exhaustive()
    }
}

impl Reader {
    /// The current state and then the changes; with `since`, builds that ended from then on are part of the
    /// current state, whichever process of the daemon they ended in.
    ///
    /// # Errors
    /// [`Error::Lost`].
    pub async fn events(&self, since: Option<Timestamp>) -> Result<EventStream, Error> {
        let mut stream = EventStream {
            reader: self.clone(),
            // Subscribed before the current state is read, so that no job is missed in between.
            new_jobs: self.scheduler.new_jobs(),
            removed: self.scheduler.0.broadcast.removals(),
            activity: self.scheduler.activity(),
            stop: self.scheduler.0.stop.clone(),
            followed: HashMap::new(),
            replaced: Vec::new(),
            following: FuturesUnordered::new(),
            ready: VecDeque::new(),
            resume_from: since.unwrap_or_else(Timestamp::now),
        };
        let activity = stream.activity.borrow_and_update().clone();
        stream.push(StreamEvent::Host(activity));
        let ends = match since {
            Some(_) => Ends::Replayed,
            None => Ends::Omitted,
        };
        stream.push_present(ends).await?;
        stream.push(StreamEvent::Present);
        stream.reader = self.under_way();
        Ok(stream)
    }
}

impl EventStream {
    /// A client that reconnects with this time gets every end that it has not received.
    pub fn resume_from(&self) -> Timestamp {
        self.resume_from
    }

    /// Approximate bytes of memory it uses now.
    pub fn bytes(&self) -> u64 {
        let followed = self.followed.len() + self.replaced.len();
        (followed * BYTES_PER_FOLLOWED_JOB + self.ready.len() * BYTES_PER_PENDING_EVENT) as u64
    }

    /// The next event; `None` when the daemon stops.
    pub async fn next(&mut self) -> Option<StreamEvent> {
        loop {
            match self.ready.pop_front() {
                Some(Queued::OnDisk(project, id)) => {
                    let found = self.reader.find(&project, id).await;
                    if let Ok(info) = found {
                        return Some(StreamEvent::Job(Arc::new(info)));
                    }
                    continue;
                }
                Some(Queued::State(job)) if job.is_over() => continue,
                Some(Queued::State(job) | Queued::End(job)) => match job.now() {
                    Some(info) => return Some(StreamEvent::Job(info)),
                    None => continue,
                },
                Some(Queued::Event(stream)) => return Some(stream),
                None => {}
            }
            // The state is complete only if no event is waiting; without `unconstrained`, a task that has
            // used up its budget would look as if none were.
            let wake = match unconstrained(self.wake()).now_or_never() {
                Some(wake) => wake,
                None => {
                    self.resume_from = Timestamp::now();
                    let stop = self.stop.clone();
                    tokio::select! {
                        () = stop.cancelled() => return None,
                        wake = self.wake() => wake,
                    }
                }
            };
            match wake? {
                Wake::Changed(job, resume_from, Ok(())) => self.push_change(job, Some(resume_from)),
                // The daemon stops.
                Wake::Changed(_, _, Err(_)) | Wake::Host(false) => return None,
                Wake::NewJob(Some(job)) => self.follow_job(job),
                Wake::NewJob(None) => self.push_present(Ends::Replayed).await.ok()?,
                Wake::Host(true) => {
                    let activity = self.activity.borrow_and_update().clone();
                    self.push(StreamEvent::Host(activity));
                }
                Wake::Removed(removed) => self.push(match removed {
                    Some((project, id)) => StreamEvent::Removed(project, id),
                    None => StreamEvent::Missed,
                }),
            }
        }
    }

    /// Waits for a change; cancel-safe. Changes of a job come before the next build of it, and before its
    /// removal.
    async fn wake(&mut self) -> Option<Wake> {
        tokio::select! {
            biased;
            Some((job, resume_from, changed)) = self.following.next() => {
                Some(Wake::Changed(job, resume_from, changed))
            }
            new_jobs = self.new_jobs.next() => Some(Wake::NewJob(new_jobs)),
            changed = self.activity.changed() => Some(Wake::Host(changed.is_ok())),
            removed = self.removed.recv() => Some(Wake::Removed(removed.ok())),
        }
    }

    fn push(&mut self, stream: StreamEvent) {
        self.ready.push_back(Queued::Event(stream));
    }

    /// Queues the current state.
    async fn push_present(&mut self, ends: Ends) -> Result<(), Error> {
        // Read before the ended builds: a job that is active now and over a moment later is followed.
        let active = self.reader.scheduler.active_jobs().await;
        if ends == Ends::Replayed {
            let since = self.resume_from.checked_sub(SLACK_SECONDS.seconds());
            let since = since.unwrap_or(Timestamp::MIN);
            let (ended, is_cut) = self.reader.ended(since, MAX_REPLAYED_ENDS).await?;
            if is_cut {
                self.push(StreamEvent::Missed);
            }
            // The state of each build is read when it is sent.
            let ended = ended.into_iter();
            self.ready
                .extend(ended.map(|(project, id)| Queued::OnDisk(project, id)));
        }
        for job in active {
            let known = self.followed.get(&job.id());
            let is_known = known.is_some_and(|known| known.is_same(&job) && known.now().is_some());
            match is_known {
                // The end of an earlier build may have been sent just now.
                true => self.ready.push_back(Queued::State(job)),
                false => self.follow_job(job),
            }
        }
        Ok(())
    }

    fn follow_job(&mut self, job: JobObserver) {
        if let Some(known) = self.followed.get(&job.id()) {
            if known.is_same(&job) {
                return;
            }
            // The end of the earlier build comes before the start of this one.
            let mut known = known.clone();
            if let (true, info) = known.snapshot() {
                self.push_end(&known, info);
                self.replaced.push(known);
            }
        }
        self.followed.insert(job.id(), job.clone());
        self.push_change(job, None);
    }

    /// Queues the end of a job.
    fn push_end(&mut self, job: &JobObserver, info: Option<Arc<BuildInfo>>) {
        let (project, id) = (job.project().clone(), job.id());
        match info.filter(|info| info.outcome().is_some()) {
            Some(info) => {
                let is_beside = job.ignores_cache() && !info.succeeded();
                self.ready.push_back(Queued::End(job.clone()));
                // Lists show the earlier build, if there is one.
                if is_beside {
                    self.ready.push_back(Queued::OnDisk(project, id));
                }
            }
            None => self.push(StreamEvent::Removed(project, id)),
        }
    }

    /// Queues the state of a job if it has changed, and waits for the next change unless it is over.
    fn push_change(&mut self, mut job: JobObserver, resume_from: Option<ChangeKey>) {
        let (is_over, info) = job.snapshot();
        let state = info.as_ref().map(|info| {
            (
                info.phase(),
                info.joined,
                info.cancelled.is_some(),
                info.image.is_some(),
                // The part of the log that built the image ends there.
                info.log_runs_from.is_some(),
            )
        });
        if is_over {
            if let Some(at) = self.replaced.iter().position(|known| known.is_same(&job)) {
                self.replaced.swap_remove(at);
                return;
            }
            let known = self.followed.get(&job.id());
            if known.is_some_and(|known| known.is_same(&job)) {
                self.followed.remove(&job.id());
            }
            self.push_end(&job, info);
            return;
        }
        if info.is_some() && state != resume_from {
            self.ready.push_back(Queued::State(job.clone()));
        }
        let resume_from = state.unwrap_or_default();
        self.following.push(Box::pin(async move {
            let changed = job.changed().await;
            (job, resume_from, changed)
        }));
    }
}
