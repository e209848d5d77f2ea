//! The scheduler's interface to the daemon: created, configured, observed, stopped.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::{Notify, SetOnce, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use parking_lot::Mutex;

use super::activity::{Activity, Status};
use super::broadcast::Broadcast;
use super::config::SchedulerConfig;
use super::error::Error;
use super::image_properties::ImageProperties;
use super::images::Images;
use super::lookups::Lookups;
use super::queue::Queue;
use super::readers::Readers;
use super::request::large;
use super::shared::Shared;
use super::sweep_state::Sweeper;
use super::{adoption, statistics};
use crate::budget::{Budget, Client, Held};
use crate::build::BuildStore;
use crate::docker::Docker;
use crate::job::Params;
use crate::metrics::Metrics;
use crate::project::Projects;

/// Bytes that are held for clients that build: requests, streams and waits for builds, and large params of
/// jobs that wait or run. Three quarters of it, the most for one client, are enough for two of the largest
/// requests.
const MAX_BODIES: u64 = 48 << 20;
/// Additional bytes for clients of this host alone: one of the largest requests.
const MAX_LOCAL_BODIES: u64 = 16 << 20;

/// The handle. Clones share everything.
#[derive(Clone, Debug)]
pub struct Scheduler(pub(super) Arc<Shared>);

impl Scheduler {
    /// A scheduler over one build path and one Engine. No build starts before [`Scheduler::adopt`]. A pause
    /// by an earlier process is in effect from the beginning.
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
        store.set_kept_attempts(config.keep_attempts);
        let store = Arc::new(store);
        let scheduler = Scheduler(Arc::new(Shared {
            queue: Mutex::new(queue),
            images: Images::new(docker.clone(), store.clone()),
            image_properties: ImageProperties::default(),
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
            collecting: tokio::sync::Mutex::default(),
            readers: Readers::default(),
            bodies: Budget::new(MAX_BODIES, MAX_LOCAL_BODIES),
            pausing: tokio::sync::Mutex::new(()),
        }));
        scheduler.0.count_queue();
        scheduler
    }

    /// Takes over the jobs of an earlier process, and begins to read the index. To be called once; the steps
    /// that others depend on are awaited, the slow ones run in the background.
    ///
    /// # Errors
    /// [`Error::Lost`]; unreadable parts of the build path are logged to the journal.
    pub async fn adopt(&self) -> Result<(), Error> {
        adoption::begin(&self.0).await?;
        self.0
            .tasks
            .spawn(statistics::save_stats_regularly(self.0.clone()));
        // This is called once, so it is not set yet.
        let _ = self.0.adopted.set(());
        Ok(())
    }

    /// The budget held for clients that build: requests, their streams and waits, and large params of jobs.
    /// The interface refuses requests that exceed it.
    pub fn bodies(&self) -> &Budget {
        &self.0.bodies
    }

    /// Counts the params of a job for a client, while the job waits or runs; `None` if they are small.
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

    /// Sets another configuration. Builds under way keep the one that they began with, but new free slots are
    /// used at once.
    pub fn set_config(&self, config: SchedulerConfig) {
        let begin = self.0.queue().resize(config.slots, config.backlog);
        self.0.metrics.record_slots(config.slots);
        self.0.status.set_capacity(config.slots, config.backlog);
        self.0.store.set_kept_attempts(config.keep_attempts);
        self.0.config.store(Arc::new(config));
        self.0.begin(&begin);
    }

    /// The current load, updated with each change.
    pub fn activity(&self) -> watch::Receiver<Activity> {
        self.0.status.watch()
    }

    /// Returns when the scheduler has shown that it can still do what every job needs: take its lock, and
    /// release it. Blocks if it cannot.
    pub fn check_health(&self) {
        self.0.count_queue();
    }

    /// Stops: no job begins, waiters are notified, containers continue for the next process. Returns false
    /// when the tasks did not end within `grace`.
    pub async fn drain(&self, grace: Duration) -> bool {
        self.0.stop.cancel();
        self.0.tasks.close();
        let ended = async {
            self.0.tasks.wait().await;
            self.0.docker.drained().await;
        };
        tokio::time::timeout(grace, ended).await.is_ok()
    }
}
