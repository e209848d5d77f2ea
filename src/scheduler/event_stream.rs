//! What happens, for clients that follow: the present first, then the news.
//!
//! A follower of its own is held of each job that is not over, so nothing is queued up for a slow
//! reader: they see the latest of each job when they come to it. What is told is a state and no step,
//! so a state may be told twice, and one that was over before it could be read not at all, but
//! for the last: every end is told.

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
use crate::build::{BuildInfo, Phase};
use crate::job::JobId;
use crate::project::ProjectName;

/// Ends that a reader who comes back is told one by one; past it they are told to list anew.
const MAX_REPLAYED_ENDS: usize = 1_000;
/// About what a feed takes for each job that it follows, and for each thing that it is about to tell.
const BYTES_PER_FOLLOWED_JOB: usize = 1 << 10;
const BYTES_PER_PENDING_EVENT: usize = 128;
/// A build's end is written down some time before it is told.
const SLACK_SECONDS: i64 = 60;

/// Something that happened.
#[derive(Clone, Debug)]
pub enum StreamEvent {
    /// What the host is doing has changed.
    Host(Activity),
    /// How a job goes: accepted, another phase, one more who waits for it, over.
    Job(Arc<BuildInfo>),
    /// A build is there no more; or a job is not, because its end could not be written down.
    Removed(ProjectName, JobId),
    /// Not all can be told: a client that keeps a list asks for it anew.
    Missed,
    /// The present was told; what comes now is new.
    Present,
}

/// What decides whether a change of a job is news.
type ChangeKey = (Option<Phase>, u32, bool, bool);

type Following = Pin<Box<dyn Future<Output = (JobObserver, ChangeKey, Result<(), Error>)> + Send>>;

/// The news as they come.
pub struct EventStream {
    reader: Reader,
    new_jobs: NewJobs,
    removed: broadcast::Receiver<(ProjectName, JobId)>,
    activity: watch::Receiver<Activity>,
    stop: CancellationToken,
    followed: HashMap<JobId, JobObserver>,
    /// Whose end was told before their turn, because the same job was asked for again.
    replaced: Vec<JobObserver>,
    following: FuturesUnordered<Following>,
    ready: VecDeque<Queued>,
    /// Whatever ended before then was told.
    resume_from: Timestamp,
}

/// What is to be told next.
enum Queued {
    Event(StreamEvent),
    /// How a job goes when it is told, and no copy of that: its params may be large. Where it is over by
    /// then, its end is told in its turn.
    State(JobObserver),
    /// How a job ended.
    End(JobObserver),
    /// How a build stands on disk: it ended a while ago; or a rebuild of it did not succeed, so lists show
    /// the one before.
    OnDisk(ProjectName, JobId),
}

/// What wakes a feed.
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
    /// The present and then the news; with `since`, builds that ended from then on are part of the
    /// present, whichever process of the daemon they ended in.
    ///
    /// # Errors
    /// [`Error::Lost`].
    pub async fn events(&self, since: Option<Timestamp>) -> Result<EventStream, Error> {
        let mut stream = EventStream {
            reader: self.clone(),
            // Before the look at what is there, so that nothing falls in between.
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
        stream.push_present(since.is_some()).await?;
        stream.push(StreamEvent::Present);
        stream.reader = self.under_way();
        Ok(stream)
    }
}

impl EventStream {
    /// A client that comes back with this is told every end that it was not told.
    pub fn resume_from(&self) -> Timestamp {
        self.resume_from
    }

    /// About how many bytes it takes now.
    pub fn bytes(&self) -> u64 {
        let followed = self.followed.len() + self.replaced.len();
        (followed * BYTES_PER_FOLLOWED_JOB + self.ready.len() * BYTES_PER_PENDING_EVENT) as u64
    }

    /// The next news; `None` when the daemon ends.
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
            // Only when nothing is waiting to be told, all is told; a task that has had its share for now
            // would look as if nothing were.
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
                // The daemon ends.
                Wake::Changed(_, _, Err(_)) | Wake::Host(false) => return None,
                Wake::NewJob(Some(job)) => self.follow_job(job),
                Wake::NewJob(None) => self.push_present(true).await.ok()?,
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

    /// Waits until something happens; loses nothing when it is given up. What is told of a job comes
    /// before its next process, and before that it is gone.
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

    /// Tells what there is now, and with `ends` what ended since everything was told.
    async fn push_present(&mut self, ends: bool) -> Result<(), Error> {
        // Before the look at what ended: what is active now and over a moment later is followed.
        let active = self.reader.scheduler.active_jobs().await;
        if ends {
            let since = self.resume_from.checked_sub(SLACK_SECONDS.seconds());
            let since = since.unwrap_or(Timestamp::MIN);
            let (ended, is_cut) = self.reader.ended(since, MAX_REPLAYED_ENDS).await?;
            if is_cut {
                self.push(StreamEvent::Missed);
            }
            // What is known of each is read when it is told.
            let ended = ended.into_iter();
            self.ready
                .extend(ended.map(|(project, id)| Queued::OnDisk(project, id)));
        }
        for job in active {
            let known = self.followed.get(&job.id());
            let is_told = known.is_some_and(|known| known.is_same(&job) && known.now().is_some());
            match is_told {
                // An end of before may have been told just now.
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
            // The end of the build before comes before this one's beginning.
            let mut known = known.clone();
            if let (true, info) = known.snapshot() {
                self.push_end(&known, info);
                self.replaced.push(known);
            }
        }
        self.followed.insert(job.id(), job.clone());
        self.push_change(job, None);
    }

    /// Tells that a job is over.
    fn push_end(&mut self, job: &JobObserver, info: Option<Arc<BuildInfo>>) {
        let (project, id) = (job.project().clone(), job.id());
        match info.filter(|info| info.outcome.is_some()) {
            Some(info) => {
                let is_beside = job.is_rebuild() && !info.succeeded();
                self.ready.push_back(Queued::End(job.clone()));
                // The build of before it, if there is one, is what lists show.
                if is_beside {
                    self.ready.push_back(Queued::OnDisk(project, id));
                }
            }
            None => self.push(StreamEvent::Removed(project, id)),
        }
    }

    /// Tells how a job goes where that is news, and waits for the next change unless it is over.
    fn push_change(&mut self, mut job: JobObserver, resume_from: Option<ChangeKey>) {
        let (is_over, info) = job.snapshot();
        let state = info.as_ref().map(|info| {
            let is_known = info.image.is_some();
            (info.phase, info.joined, info.cancelled.is_some(), is_known)
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
