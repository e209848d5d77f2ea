//! What all parts of the scheduler share, and what each of them may do with the queue.

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
use super::config::SchedulerConfig;
use super::images::{Images, Wanted};
use super::lookups::Lookups;
use super::queue::Queue;
use super::readers::Readers;
use super::surroundings::Surroundings;
use super::sweep_state::Sweeper;
use crate::budget::Budget;
use crate::build::{BuildStore, LOG_TAIL};
use crate::docker::Docker;
use crate::job::JobId;
use crate::metrics::Metrics;
use crate::project::{self, Context, ProjectName, Projects};

#[derive(Debug)]
pub(super) struct Shared {
    /// A reload swaps it; what is under way keeps what it has read of it.
    pub(super) config: ArcSwap<SchedulerConfig>,
    pub(super) projects: Projects,
    pub(super) store: Arc<BuildStore>,
    pub(super) docker: Docker,
    pub(super) images: Images,
    pub(super) surroundings: Surroundings,
    pub(super) metrics: Metrics,
    pub(super) lookups: Lookups,
    /// Guards who is active; std, because it is held for a lookup and never over an await.
    pub(super) queue: Mutex<Queue<Arc<ActiveJob>>>,
    /// Every task that makes or clears something.
    pub(super) tasks: TaskTracker,
    pub(super) stop: CancellationToken,
    pub(super) status: Status,
    /// Told when there are answers to be written into the statistics.
    pub(super) counted: Notify,
    pub(super) broadcast: Broadcast,
    /// Set when what an earlier process left is in the queue.
    pub(super) adopted: SetOnce<()>,
    /// Whether there are containers that no build owns: of an earlier process, or some that could not be
    /// removed.
    pub(super) sweeper: Sweeper,
    /// Told when it may be worth a try to remove what could not be removed.
    pub(super) retry_removal: Notify,
    /// One image is rebuilt at a time: it is heavy, and is not in a hurry.
    pub(super) rebuilding: tokio::sync::Mutex<()>,
    /// One collection goes on at a time. Holds when one last could not free enough space.
    pub(super) collecting: tokio::sync::Mutex<Option<Instant>>,
    /// Held while the queue is paused or resumed, so that its mark on disk and the queue agree.
    pub(super) pausing: tokio::sync::Mutex<()>,
    /// The turns of those who read what is on disk or in the index for clients.
    pub(super) readers: Readers,
    /// What is held for clients that build.
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

    /// Tells those who got a slot by a change of the queue, and all that watch of the change.
    pub(super) fn begin(&self, given: &[Arc<ActiveJob>]) {
        for active in given {
            active.slot.notify_one();
        }
        self.count_queue();
    }

    /// Work that is in hand until it is done.
    pub(super) fn spawn<T: Send + 'static>(
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

    pub(super) fn active_job(&self, project: &ProjectName, id: JobId) -> Option<Arc<ActiveJob>> {
        let active = self.queue().get(id).cloned();
        active.filter(|active| active.project == *project)
    }

    /// True while an active job has its place in the queue.
    pub(super) fn owns(&self, active: &Arc<ActiveJob>) -> bool {
        let queue = self.queue();
        queue
            .get(active.id)
            .is_some_and(|own| Arc::ptr_eq(own, active))
    }

    /// Gives back an active job's slot or place, and the slot to the job that is next.
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

    pub(super) fn wanted(&self, context: Context, settings: &project::Settings) -> Wanted {
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

/// Appends to `tail`, of which only the last [`LOG_TAIL`] bytes are kept.
pub(super) fn keep_tail(tail: &mut Vec<u8>, bytes: &[u8]) {
    tail.extend_from_slice(bytes);
    let excess = tail.len().saturating_sub(LOG_TAIL);
    tail.drain(..excess);
}
