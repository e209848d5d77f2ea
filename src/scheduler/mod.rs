//! The heart: who builds what, when, and who waits for it.
//!
//! [`Scheduler`] is a cheap handle with few verbs. A submitted job is answered from a ready
//! build, joins one under way, or is written down and made by a task of its own
//! ([`pipeline`]); the client holds a [`JobHandle`] and may leave at any time. What is
//! decided under a lock is decided by [`queue`], a plain value.
//!
//! It knows nothing of HTTP: interfaces call it and turn its [`Error`]s into their own.

mod active_job;
mod activity;
mod adoption;
mod artifacts;
mod broadcast;
mod build_task;
mod collection;
mod container;
mod ending;
mod error;
mod event;
mod event_stream;
mod history;
mod images;
mod interruption;
mod logs;
mod lookup;
mod pause;
mod pipeline;
mod queue;
mod reading;
mod rebuild;
mod stop;
mod supervision;
mod surroundings;
mod sweep;
mod unused_images;

pub use active_job::{JobHandle, JobObserver};
pub use activity::{Activity, Last};
pub use broadcast::NewJobs;
pub use collection::Collection;
pub use error::Error;
pub use event_stream::{EventStream, StreamEvent};
pub use history::Growth;
pub use reading::{ListEnd, Newest, Reader};
pub use rebuild::ImageReport;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tokio::sync::{Notify, SetOnce, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::active_job::{ActiveJob, Origin};
use self::activity::Status;
use self::broadcast::Broadcast;
use self::collection::Collecting;
use self::event::{Event, Subject, publish, publish_engine};
use self::images::{Images, Wanted};
use self::lookup::{Looked, Lookups};
use self::queue::{Admission, Queue};
use self::reading::Readers;
use self::surroundings::Surroundings;
use self::sweep::Sweeper;
use crate::budget::{Budget, Client, Held};
use crate::build::{BuildAnswer, BuildInfo, BuildStore, Cancelled, LOG_TAIL, Policy};
use crate::docker::Docker;
use crate::faults;
use crate::job::{GroupName, JobId, Params};
use crate::metrics::Metrics;
use crate::project::{self, Capability, Context, Limits, ProjectName, Projects};

/// When an Engine that is away is asked again whether it is there.
const ENGINE_RETRY_INTERVAL: Duration = Duration::from_millis(500);

/// Bytes that are held for clients that build: requests, streams and waits for builds, and large params of
/// jobs that wait or run. Three quarters of it, which one client may have, are enough for two of the
/// largest requests.
const MAX_BODIES: u64 = 48 << 20;
/// As much more is there for clients of this host alone: one of the largest requests.
const MAX_LOCAL_BODIES: u64 = 16 << 20;

/// What the scheduler is told by the configuration.
#[derive(Clone, Debug)]
pub struct SchedulerConfig {
    /// Builds that may run in parallel.
    pub slots: usize,
    /// Jobs that may wait for a slot.
    pub backlog: usize,
    /// Host path to container path, for every build.
    pub mounts: BTreeMap<PathBuf, String>,
    /// Docker network mode.
    pub network: String,
    /// Bounds of each container.
    pub limits: Limits,
    /// What projects may ask for in their `cap_add`.
    pub cap_add: BTreeSet<Capability>,
    /// Bytes that a build may print.
    pub log_limit: u64,
    /// How long a build may run.
    pub job_timeout: Option<Duration>,
    /// How long a build may print nothing.
    pub silence_timeout: Option<Duration>,
    /// How long an accepted job waits for an Engine that went away.
    pub engine_wait: Duration,
    /// What garbage collection may keep; without it nothing is collected by itself.
    pub gc: Option<Policy>,
}

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

/// What became of it.
#[derive(Debug)]
pub enum Submission {
    /// There was a ready build: here is its info, with the end of its log.
    Cached(BuildAnswer),
    /// It will be built; here is the right to wait.
    Pending(JobHandle),
}

/// What is going on, and what there is room for.
#[derive(Clone, Debug)]
pub struct HostReport {
    /// Builds that may run in parallel.
    pub slots: usize,
    /// Builds that hold a slot.
    pub running: usize,
    /// Jobs that may wait for a slot.
    pub backlog: usize,
    /// Jobs that wait.
    pub queued: usize,
    /// Nothing new begins.
    pub paused: bool,
    /// Bytes left where builds are kept.
    pub disk_free: u64,
    /// Bytes there in all.
    pub disk_size: u64,
    /// The kind of filesystem.
    pub filesystem: &'static str,
    /// The Docker Engine's version; `None` when none answers.
    pub engine: Option<String>,
}

/// The handle. Clones share everything.
#[derive(Clone, Debug)]
pub struct Scheduler(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// A reload swaps them; what is under way keeps what it has read of them.
    config: ArcSwap<SchedulerConfig>,
    projects: Projects,
    store: Arc<BuildStore>,
    docker: Docker,
    images: Images,
    surroundings: Surroundings,
    metrics: Metrics,
    lookups: Lookups,
    /// Guards who is active; std, because it is held for a lookup and never over an await.
    queue: Mutex<Queue<Arc<ActiveJob>>>,
    /// Every task that makes or clears something.
    tasks: TaskTracker,
    stop: CancellationToken,
    status: Status,
    /// Told when there are answers to be written into the statistics.
    counted: Notify,
    broadcast: Broadcast,
    /// Set when what an earlier process left is in the queue.
    adopted: SetOnce<()>,
    /// Whether there are containers that no build owns: of an earlier process, or some that could not be
    /// removed.
    sweeper: Sweeper,
    /// Told when it may be worth a try to remove what could not be removed.
    retry_removal: Notify,
    /// One image is rebuilt at a time: it is heavy, and is not in a hurry.
    rebuilding: tokio::sync::Mutex<()>,
    /// One collection goes on at a time.
    collecting: Collecting,
    /// Held while the queue is paused or resumed, so that its mark on disk and the queue agree.
    pausing: tokio::sync::Mutex<()>,
    /// Who reads what is on disk or in the index for strangers.
    readers: Readers,
    /// See [`Scheduler::bodies`].
    bodies: Budget,
}

// === impl Scheduler ===

impl Scheduler {
    /// A scheduler over one build path and one Engine. Nothing new is built before
    /// [`Scheduler::adopt`]. What an earlier process was told about pausing holds from the beginning.
    pub fn new(
        config: SchedulerConfig,
        projects: Projects,
        store: BuildStore,
        docker: Docker,
        metrics: Metrics,
    ) -> Scheduler {
        metrics.record_slots(config.slots);
        let status = Status::new();
        status.set_capacity(config.slots, config.backlog);
        let mut queue = Queue::new(config.slots, config.backlog);
        if store.is_marked_paused() {
            queue.pause();
        }
        let store = Arc::new(store);
        let scheduler = Scheduler(Arc::new(Shared {
            queue: Mutex::new(queue),
            images: Images::new(docker.clone(), store.clone()),
            surroundings: Surroundings::default(),
            store,
            lookups: Lookups::default(),
            config: ArcSwap::from_pointee(config),
            projects,
            docker,
            metrics,
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
            status,
            counted: Notify::new(),
            broadcast: Broadcast::new(),
            adopted: SetOnce::new(),
            sweeper: Sweeper::default(),
            retry_removal: Notify::new(),
            rebuilding: tokio::sync::Mutex::new(()),
            collecting: Collecting::default(),
            readers: Readers::default(),
            bodies: Budget::new(MAX_BODIES, MAX_LOCAL_BODIES),
            pausing: tokio::sync::Mutex::new(()),
        }));
        scheduler.0.count_queue();
        scheduler
    }

    /// Takes over what an earlier process left, and begins to read the index. To be called once;
    /// what must not begin before it waits for it, and what takes long is done in the background.
    ///
    /// # Errors
    /// [`Error::Lost`]; what cannot be read of the build path is told to the journal.
    pub async fn adopt(&self) -> Result<(), Error> {
        adoption::begin(&self.0).await?;
        self.0
            .tasks
            .spawn(history::save_stats_regularly(self.0.clone()));
        // It is called once, so it is set once.
        let _ = self.0.adopted.set(());
        Ok(())
    }

    /// Asks for a job. The build, if one is needed, belongs to the scheduler: dropping this
    /// future or the handle cancels nothing, unless it is wanted [`SubmitRequest::cancel_on_disconnect`] only.
    ///
    /// # Errors
    /// [`Error::Project`], [`Error::BacklogFull`]; what is found out later, the handle says.
    pub async fn submit(&self, mut asked: SubmitRequest) -> Result<Submission, Error> {
        let asked_at = Instant::now();
        let is_rebuild = asked.rebuild;
        let cancel_on_disconnect = asked.cancel_on_disconnect;
        let origin = Origin {
            request: asked.request.take(),
            asker: asked.asker.take(),
            rebuild: is_rebuild,
        };
        let request = origin.request.clone();
        let (active, handle, has_slot, job, context) = loop {
            let (job, id, context, mut held) = match lookup::look_up(&self.0, asked).await? {
                Looked::Cached(project, id, info) => {
                    let subject = Subject {
                        project: &project,
                        id,
                        group: None,
                        request: request.as_deref(),
                    };
                    publish(
                        &self.0,
                        subject,
                        &Event::Cached {
                            took: asked_at.elapsed(),
                        },
                    );
                    return Ok(Submission::Cached(info));
                }
                Looked::ToBuild(job, id, context, held) => (job, id, context, held),
            };
            self.0.adopted.wait().await;
            let group = job.group.as_ref().map(ToString::to_string);
            let subject = Subject {
                project: &job.project,
                id,
                group: group.as_deref(),
                request: request.as_deref(),
            };
            let has_old_image = |active: &ActiveJob| is_rebuild && !active.origin.rebuild;
            // A client that is let in is counted as one that wants it before another can leave it.
            let admitted = {
                let mut queue = self.0.queue();
                faults::point("scheduler");
                let admission = queue.admit(id, || {
                    let (project, group) = (job.project.clone(), group.clone());
                    ActiveJob::new(project, id, group, origin.clone(), held.take())
                });
                let (active, has_slot) = match admission {
                    Admission::Started(active) => (Some(active), Some(true)),
                    Admission::Queued(active) => (Some(active), Some(false)),
                    Admission::Coalesced(active) => (Some(active), None),
                    Admission::Refused => (None, None),
                };
                active.map(|active| {
                    let handle = active.handle(has_slot.is_none(), self.0.stop.clone());
                    let is_joined = !has_old_image(&active) && active.want(cancel_on_disconnect);
                    (active, handle, has_slot, is_joined)
                })
            };
            self.0.count_queue();
            let Some((active, mut handle, has_slot, is_joined)) = admitted else {
                publish(&self.0, subject, &Event::Refused);
                return Err(Error::BacklogFull);
            };
            match has_slot {
                Some(has_slot) => break (active, handle, has_slot, job, context),
                // What is under way has the old image, or is being stopped. Wait for its end, then
                // ask again.
                None if !is_joined => {
                    if let Err(error @ (Error::Stopping(..) | Error::Ending)) = handle.end().await {
                        return Err(error);
                    }
                    asked = SubmitRequest {
                        project: job.project,
                        group: job.group,
                        params: job.params,
                        rebuild: is_rebuild,
                        cancel_on_disconnect,
                        asker: None,
                        request: None,
                        held,
                    };
                }
                None => {
                    active.join();
                    publish(&self.0, subject, &Event::Coalesced);
                    return Ok(Submission::Pending(handle));
                }
            }
        };
        if has_slot {
            active.slot.notify_one();
        }
        let (shared, guard, guarded) = (self.0.clone(), self.0.clone(), active.clone());
        self.0.spawn(ending::run_guarded(
            guard,
            guarded,
            pipeline::accept_and_run(shared, active, job, context),
        ));
        Ok(Submission::Pending(handle))
    }

    /// Stops a build. Returns when that is on stable storage; its container may need some seconds to
    /// end, and those who wait are told then. With `only_own`, it must have been `by` who asked first. Says
    /// how the build stands.
    ///
    /// # Errors
    /// [`Error::UnknownJob`]; [`Error::Over`] when there is nothing to stop; [`Error::NotYours`].
    pub async fn cancel(
        &self,
        project: &ProjectName,
        id: JobId,
        cancelled: Cancelled,
        only_own: bool,
        client: Client,
    ) -> Result<Arc<BuildInfo>, Error> {
        let Some(mut handle) = self.handle(project, id).await else {
            self.builder(client).find(project, id).await?;
            return Err(Error::Over(project.clone(), id));
        };
        let by = cancelled.by.clone();
        handle
            .cancel(cancelled, only_own.then_some(by.as_str()))
            .await
    }

    /// Counts what is held for clients that build: requests, their streams and waits, and large params of
    /// jobs. The interface refuses what does not fit.
    pub fn bodies(&self) -> &Budget {
        &self.0.bodies
    }

    /// Counts the params of a job for a client, as long as the job waits or runs; `None` where they are
    /// small.
    ///
    /// # Errors
    /// [`Error::BodiesFull`].
    pub fn hold_params(&self, client: Client, params: &Params) -> Result<Option<Held>, Error> {
        match large(params) {
            0 => Ok(None),
            bytes => {
                let held = self.0.bodies.hold(client, bytes);
                held.map(Some).ok_or(Error::BodiesFull)
            }
        }
    }

    /// A handle for a job that is active.
    pub async fn handle(&self, project: &ProjectName, id: JobId) -> Option<JobHandle> {
        self.0.adopted.wait().await;
        // In one step: a job that has left the queue may keep its end for those with a handle only.
        let queue = self.0.queue();
        let active = queue.get(id).filter(|active| active.project == *project)?;
        Some(active.handle(false, self.0.stop.clone()))
    }

    /// Other rules from now on. What is being built keeps those that it began with, but a free
    /// slot is taken at once.
    pub fn set_config(&self, config: SchedulerConfig) {
        let begin = self.0.queue().resize(config.slots, config.backlog);
        self.0.metrics.record_slots(config.slots);
        self.0.status.set_capacity(config.slots, config.backlog);
        self.0.config.store(Arc::new(config));
        self.0.begin(&begin);
    }

    /// What is going on, now and from now on.
    pub fn activity(&self) -> watch::Receiver<Activity> {
        self.0.status.watch()
    }

    /// Returns when the scheduler has shown that it can still do what every job needs of it: take
    /// its lock, and give it back. Blocks where it cannot.
    pub fn check_health(&self) {
        self.0.count_queue();
    }

    /// Ends: nothing new begins, waiters are told, containers run on for the next process. Returns
    /// false when the tasks did not end within `grace`.
    pub async fn drain(&self, grace: Duration) -> bool {
        self.0.stop.cancel();
        self.0.tasks.close();
        tokio::time::timeout(grace, self.0.tasks.wait())
            .await
            .is_ok()
    }
}

// === impl Shared ===

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue<Arc<ActiveJob>>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count_queue(&self) {
        let queue = self.queue();
        let (running, waiting, paused) = (queue.running(), queue.waiting(), queue.is_paused());
        self.metrics.record_queue(running, waiting, paused);
        self.status.set_counts(running, waiting, paused);
    }

    /// Tells those who got a slot by a change of the queue, and all that watch of the change.
    fn begin(&self, given: &[Arc<ActiveJob>]) {
        for active in given {
            active.slot.notify_one();
        }
        self.count_queue();
    }

    /// Work that is in hand until it is done.
    fn spawn<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> JoinHandle<T> {
        let busy = self.status.begin_work();
        // Boxed, or each layer around it would hold it twice: as it was given, and as it runs.
        let work = Box::pin(work);
        self.tasks.spawn(async move {
            let _busy = busy;
            work.await
        })
    }

    /// Asks whether the Engine is there, and tells when that has changed.
    async fn engine_there(&self) -> Result<(), Error> {
        let answer = self.docker.ping().await;
        if self.status.set_engine_away(answer.is_err()) {
            publish_engine(answer.as_ref().err());
        }
        answer.map_err(Error::EngineAway)
    }

    fn active_job(&self, project: &ProjectName, id: JobId) -> Option<Arc<ActiveJob>> {
        let active = self.queue().get(id).cloned();
        active.filter(|active| active.project == *project)
    }

    /// What every active job is doing, by id.
    fn active_infos(&self) -> HashMap<JobId, Arc<BuildInfo>> {
        let queue = self.queue();
        let now = queue
            .all()
            .filter_map(|active| Some((active.id, active.now()?)));
        now.collect()
    }

    /// True while an active job has its place in the queue.
    fn owns(&self, active: &Arc<ActiveJob>) -> bool {
        let queue = self.queue();
        queue
            .get(active.id)
            .is_some_and(|own| Arc::ptr_eq(own, active))
    }

    /// Gives back an active job's slot or place, and the slot to the job that is next.
    fn leave_queue(&self, active: &Arc<ActiveJob>) {
        let next = {
            let mut queue = self.queue();
            // Another job may have its place by now: a task that panics late has left already.
            let is_there = queue.get(active.id).is_some_and(|l| Arc::ptr_eq(l, active));
            if is_there { queue.end(active.id) } else { None }
        };
        if let Some(next) = next {
            next.slot.notify_one();
        }
        self.count_queue();
    }

    fn wanted(&self, context: Context, settings: &project::Settings) -> Wanted {
        let uid = match &settings.user {
            Some(user) => user.split(':').next().unwrap_or_default().to_owned(),
            None => rustix::process::geteuid().as_raw().to_string(),
        };
        Wanted {
            context,
            uid,
            network: settings
                .network
                .clone()
                .unwrap_or_else(|| self.config.load().network.clone()),
        }
    }
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

/// Appends to `tail`, of which only the last [`LOG_TAIL`] bytes are kept.
fn keep_tail(tail: &mut Vec<u8>, bytes: &[u8]) {
    tail.extend_from_slice(bytes);
    let excess = tail.len().saturating_sub(LOG_TAIL);
    tail.drain(..excess);
}

/// Runs what blocks on a thread that may.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Error> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|_| Error::Lost)
}
