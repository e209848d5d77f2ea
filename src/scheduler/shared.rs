//! The state that all parts of the scheduler share, and the operations on the queue.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use arc_swap::ArcSwap;
use tokio::sync::{Notify, SetOnce};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use parking_lot::{Mutex, MutexGuard};

use super::active_job::ActiveJob;
use super::activity::Status;
use super::broadcast::Broadcast;
use super::build_secrets::GivenSecrets;
use super::config::SchedulerConfig;
use super::image_properties::ImageProperties;
use super::images::{Images, Wanted};
use super::lookups::Lookups;
use super::queue::Queue;
use super::readers::Readers;
use super::sweep_state::Sweeper;
use crate::budget::Budget;
use crate::build::{BuildStore, LOG_TAIL};
use crate::docker::{self, Docker};
use crate::job::{JobId, Params};
use crate::metrics::Metrics;
use crate::project::{self, Context, ProjectName, Projects};

#[derive(Debug)]
pub(super) struct Shared {
    /// A reload replaces it; operations under way keep the values that they have read.
    pub(super) config: ArcSwap<SchedulerConfig>,
    pub(super) projects: Projects,
    pub(super) store: Arc<BuildStore>,
    pub(super) docker: Docker,
    pub(super) images: Images,
    pub(super) image_properties: ImageProperties,
    pub(super) metrics: Metrics,
    pub(super) lookups: Lookups,
    /// Guards the active jobs. A mutex that blocks, because it is held for a lookup and never over an await.
    pub(super) queue: Mutex<Queue<Arc<ActiveJob>>>,
    /// Every task that builds or removes something.
    pub(super) tasks: TaskTracker,
    pub(super) stop: CancellationToken,
    pub(super) status: Status,
    /// Notified when there are answers to be written into the statistics.
    pub(super) counted: Notify,
    pub(super) broadcast: Broadcast,
    /// Set when the jobs that an earlier process left are in the queue.
    pub(super) adopted: SetOnce<()>,
    /// Whether there are containers without a build that owns them: of an earlier process, or some that could
    /// not be removed.
    pub(super) sweeper: Sweeper,
    /// Notified when a failed removal may be worth another try.
    pub(super) retry_removal: Notify,
    /// One image is rebuilt at a time: a rebuild is expensive and not urgent.
    pub(super) rebuilding: tokio::sync::Mutex<()>,
    /// One collection runs at a time. Has the time when one last could not free enough space.
    pub(super) collecting: tokio::sync::Mutex<Option<Instant>>,
    /// Held while the queue is paused or resumed, so that the mark on disk and the queue agree.
    pub(super) pausing: tokio::sync::Mutex<()>,
    /// The limiters of reads from the disk or the index for clients.
    pub(super) readers: Readers,
    /// The budget of memory held for clients that build.
    pub(super) bodies: Budget,
}

impl Shared {
    pub(super) fn queue(&self) -> MutexGuard<'_, Queue<Arc<ActiveJob>>> {
        self.queue.lock()
    }

    pub(super) fn count_queue(&self) {
        let queue = self.queue();
        let (running, waiting, paused) = (queue.running(), queue.waiting(), queue.is_paused());
        self.metrics.record_queue(running, waiting, paused);
        self.status.set_counts(running, waiting, paused);
    }

    /// Notifies the jobs that got a slot by a change of the queue, and all observers of the change.
    pub(super) fn begin(&self, given: &[Arc<ActiveJob>]) {
        for active in given {
            active.slot.notify_one();
        }
        self.count_queue();
    }

    /// Spawns a task that a stopping daemon waits for.
    pub(super) fn spawn<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> JoinHandle<T> {
        let busy = self.status.begin_work();
        // Boxed, because each layer around it would store it twice: as an argument, and as it runs.
        let work = Box::pin(work);
        self.tasks.spawn(async move {
            let _busy = busy;
            work.await
        })
    }

    pub(super) fn active_job(&self, project: &ProjectName, id: JobId) -> Option<Arc<ActiveJob>> {
        let active = self.queue().get(id).cloned();
        active.filter(|active| active.project == *project)
    }

    /// True while an active job is in the queue.
    pub(super) fn owns(&self, active: &Arc<ActiveJob>) -> bool {
        let queue = self.queue();
        queue
            .get(active.id)
            .is_some_and(|own| Arc::ptr_eq(own, active))
    }

    /// Removes an active job from the queue, and gives a freed slot to the next job.
    pub(super) fn leave_queue(&self, active: &Arc<ActiveJob>) {
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

    /// The image of a project, built with the secrets among these params.
    pub(super) fn wanted(
        &self,
        context: Context,
        settings: &project::Settings,
        params: &Params,
    ) -> Wanted {
        let config = self.config.load();
        let uid = match &settings.user {
            Some(user) => user.split(':').next().unwrap_or_default().to_owned(),
            None => rustix::process::geteuid().as_raw().to_string(),
        };
        let (mut build_args, mut optional_args) = (BTreeMap::new(), Vec::new());
        let proxies = config.proxies.iter().map(|(k, v)| (k.clone(), v.clone()));
        for (name, value) in proxies.chain([("uid".to_owned(), uid.clone())]) {
            optional_args.push(name.clone());
            build_args.insert(name, value);
        }
        let own = settings.build_args.as_map();
        build_args.extend(own.iter().map(|(k, v)| (k.clone(), v.clone())));
        Wanted {
            context,
            uid,
            build_args,
            optional_args,
            registry_auth: config.registry_auth.clone(),
            target: settings
                .target
                .as_ref()
                .map_or_else(String::new, |stage| stage.as_str().to_owned()),
            network: settings
                .network
                .clone()
                .unwrap_or_else(|| config.network.clone()),
            builder: match settings.builder.unwrap_or(config.builder) {
                project::Builder::Auto => docker::Builder::Auto,
                project::Builder::Classic => docker::Builder::Classic,
                project::Builder::BuildKit => docker::Builder::BuildKit,
            },
            given: GivenSecrets::of(settings, params),
        }
    }
}

/// Appends to `tail`, and keeps only its last [`LOG_TAIL`] bytes.
pub(super) fn keep_tail(tail: &mut Vec<u8>, bytes: &[u8]) {
    tail.extend_from_slice(bytes);
    let excess = tail.len().saturating_sub(LOG_TAIL);
    tail.drain(..excess);
}
