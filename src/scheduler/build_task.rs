//! The task of one build: the state its steps share, what they may wait for, and how it is interrupted.
//!
//! The steps are described in [`super::pipeline`] and [`super::supervision`]. This module has what applies to
//! each of them: the daemon may stop, a client may cancel the build, and blocking work is done on threads
//! that may block.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::{SetOnce, oneshot};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::active_job::ActiveJob;
use super::error::Error;
use super::interruption::Interruption;
use super::output::MaskedOutput;
use super::shared::Shared;
use super::stop;
use crate::build::{BuildLimits, PendingBuild, Stopped};
use crate::docker;
use crate::faults;
use crate::job::Phase;

/// How long the creation of a container is waited for when its build is cancelled: its id is known then, and
/// it can be removed with the build. A container created later is found by its labels.
const LATE_CONTAINER_TIMEOUT: Duration = Duration::from_secs(10);

/// One build from its slot to its end.
pub(super) struct BuildTask {
    pub(super) shared: Arc<Shared>,
    pub(super) active: Arc<ActiveJob>,
    pending: Location,
    /// The reason for an early end, decided in this process or an earlier one; as in the record.
    stopped: Option<Stopped>,
    /// The limits of the build; as in the record.
    limits: BuildLimits,
    /// The output of the container, as far as it was read.
    pub(super) output: MaskedOutput,
    /// The end of the container's standard error, as it is in the log.
    pub(super) stderr: Vec<u8>,
    /// Its container has a memory limit, or an earlier process made it: at its end the Engine is asked
    /// whether the kernel killed a process for want of memory.
    pub(super) may_run_out_of_memory: bool,
    /// The watch over the container's limit of processes; begun before this process started the container.
    pub(super) processes: Option<docker::ProcessWatch>,
    /// When a container ended, if it ended while no daemon ran.
    pub(super) found_ended: Option<Timestamp>,
    /// When the current stage on the way to a running container must be over.
    pub(super) stage_deadline: Option<StageDeadline>,
    /// Set when its end is decided, so that its last steps are bounded, too.
    pub(super) stop_decided: Arc<SetOnce<()>>,
}

/// Where the pending build of a task is.
enum Location {
    /// With the task.
    Task(Box<PendingBuild>),
    /// With a thread that works on it. If a future that waits for the thread is dropped, the handle stays
    /// here.
    Thread(JoinHandle<Box<PendingBuild>>),
    /// Nowhere: the thread has panicked. The build is read from the disk to end it.
    Lost,
}

/// The end of a stage, and how long the stage may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct StageDeadline {
    pub(super) at: Instant,
    pub(super) limit: Duration,
}

/// The Engine's response to the creation of a container: its id.
pub(super) type Created = Result<String, docker::Error>;

/// The reason why a wait is interrupted.
enum StopCause {
    /// The daemon stops; the next process continues the build.
    Daemon,
    /// The build is to end early.
    Build(Stopped),
}

impl BuildTask {
    pub(super) fn new(
        shared: Arc<Shared>,
        active: Arc<ActiveJob>,
        pending: PendingBuild,
    ) -> BuildTask {
        let stopped = pending.internal().stopped.clone();
        let limits = pending.internal().limits;
        let decided = SetOnce::new_with(stopped.as_ref().map(|_| ()));
        BuildTask {
            shared,
            active,
            pending: Location::Task(Box::new(pending)),
            stopped,
            limits,
            output: MaskedOutput::new(None, 0, 0),
            stderr: Vec::new(),
            may_run_out_of_memory: true,
            processes: None,
            found_ended: None,
            stage_deadline: None,
            stop_decided: Arc::new(decided),
        }
    }

    /// Begins a stage on the way to a running container. Its limit is the container's time limit: an Engine
    /// or a disk that hangs must not hold a slot for ever.
    pub(super) fn begin_stage(&mut self) {
        let limit = self.limits().job_timeout.map(Duration::from_millis);
        self.stage_deadline = limit.and_then(|limit| {
            let at = Instant::now().checked_add(limit)?;
            Some(StageDeadline { at, limit })
        });
    }

    /// Waits until the daemon stops, the build is cancelled or its stage has taken too long.
    fn stop_cause(&self) -> impl Future<Output = StopCause> + use<> {
        let (shared, active) = (self.shared.clone(), self.active.clone());
        let stage_deadline = self.stage_deadline;
        // A build whose end is decided is not stopped a second time.
        let may_stop = !self.is_stopped();
        async move {
            tokio::select! {
                biased;
                () = shared.stop.cancelled() => StopCause::Daemon,
                cancelled = active.cancelled(), if may_stop => {
                    StopCause::Build(stop::cancelled(cancelled))
                }
                limit = stage_over(stage_deadline), if may_stop => {
                    StopCause::Build(stop::start_timed_out(limit))
                }
            }
        }
    }

    /// Handles an interrupted wait.
    async fn interrupted_by(&mut self, cause: StopCause) -> Interruption {
        match cause {
            StopCause::Daemon => Interruption::Stopping,
            StopCause::Build(stopped) => self.stop(stopped).await,
        }
    }

    /// Waits for the Engine or another slow operation, until the daemon stops, the build is cancelled, or its
    /// stage has taken too long. A container that the Engine made nevertheless is found by its labels.
    pub(super) async fn cancellable<T>(
        &mut self,
        work: impl Future<Output = T>,
    ) -> Result<T, Interruption> {
        let cause = self.stop_cause();
        let cause = tokio::select! {
            biased;
            cause = cause => cause,
            answer = work => return Ok(answer),
        };
        Err(self.interrupted_by(cause).await)
    }

    /// The same for the creation of a container: a cancellation is recorded at once, but the creation is
    /// waited for a while, so that the container is known and can be removed.
    pub(super) async fn cancellable_create(
        &mut self,
        creating: impl Future<Output = Created>,
    ) -> Result<Created, Interruption> {
        let cause = self.stop_cause();
        let mut creating = pin!(creating);
        let cause = tokio::select! {
            made = &mut creating => return Ok(made),
            cause = cause => cause,
        };
        let interruption = self.interrupted_by(cause).await;
        if !matches!(interruption, Interruption::Stopped(_)) {
            return Err(interruption);
        }
        let shared = self.shared.clone();
        tokio::select! {
            made = creating => self.pending()?.record_mut().internal.container = made.ok(),
            () = tokio::time::sleep(LATE_CONTAINER_TIMEOUT) => {}
            () = shared.stop.cancelled() => return Err(Interruption::Stopping),
        }
        Err(interruption)
    }

    /// The limits of the build; a record of an earlier version does not have them.
    pub(super) fn limits(&self) -> BuildLimits {
        let mut limits = self.limits;
        if limits.log_limit == 0 {
            limits.log_limit = self.shared.config.load().log_limit;
        }
        limits
    }

    pub(super) fn set_limits(&mut self, limits: BuildLimits) -> Result<(), Interruption> {
        self.pending()?.record_mut().internal.limits = limits;
        self.limits = limits;
        Ok(())
    }

    /// The reason for an early end, decided in this process or an earlier one.
    pub(super) fn stopped(&self) -> Option<Stopped> {
        self.stopped.clone()
    }

    /// True when an early end was decided.
    pub(super) fn is_stopped(&self) -> bool {
        self.stopped.is_some()
    }

    /// Decides on an early end and publishes it to all waiters; an earlier decision stays.
    ///
    /// # Errors
    /// [`Interruption::Stopped`] when the disk cannot record the decision: the build then ends at once.
    pub(super) async fn decide_stop(&mut self, stopped: Stopped) -> Result<(), Interruption> {
        let decided = stopped.clone();
        let written = self
            .on_disk(move |pending| Ok(pending.stop(stopped)?))
            .await;
        if let Err(Interruption::Store(error)) = written {
            tracing::error!(mistry_job = %self.active.id, error = &error as &dyn std::error::Error, "could not record that a build is stopped; it is stopped nevertheless");
            return Err(Interruption::Stopped(decided));
        }
        written?;
        // It is set once: the first decision stays.
        let _ = self.stop_decided.set(());
        faults::point("stop-decided");
        let active = self.active.clone();
        active.publish_state(self.pending()?.info());
        Ok(())
    }

    /// The same, where the caller need not wait for the result.
    pub(super) async fn stop(&mut self, stopped: Stopped) -> Interruption {
        match self.decide_stop(stopped.clone()).await {
            Ok(()) => Interruption::Stopped(stopped),
            Err(interruption) => interruption,
        }
    }

    pub(super) fn pending(&mut self) -> Result<&mut PendingBuild, Interruption> {
        match &mut self.pending {
            Location::Task(pending) => Ok(pending),
            Location::Thread(_) | Location::Lost => Err(Interruption::Lost(Error::Lost)),
        }
    }

    /// The pending build, after a thread that still works on it; `None` if that has panicked.
    pub(super) async fn into_pending(mut self) -> Option<PendingBuild> {
        self.wait_for_worker().await.ok()?;
        match self.pending {
            Location::Task(pending) => Some(*pending),
            Location::Thread(_) | Location::Lost => None,
        }
    }

    pub(super) fn enter(&mut self, phase: Phase) -> Result<(), Interruption> {
        let active = self.active.clone();
        let pending = self.pending()?;
        pending.enter(phase);
        active.publish_state(pending.info());
        Ok(())
    }

    /// Runs work on the pending build on a blocking thread. Dropping the future does not stop the thread: the
    /// next step waits for it.
    pub(super) async fn on_disk<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&mut PendingBuild) -> Result<T, Interruption> + Send + 'static,
    ) -> Result<T, Interruption> {
        self.wait_for_worker().await?;
        let result = self.start_worker(work)?;
        self.wait_for_worker().await?;
        result.await.map_err(|_| Interruption::Lost(Error::Lost))?
    }

    /// The same for work that may take long: when the daemon stops, the build is cancelled, or its stage has
    /// taken too long, the work is interrupted.
    pub(super) async fn on_disk_interruptible<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&mut PendingBuild) -> Result<T, Interruption> + Send + 'static,
    ) -> Result<T, Interruption> {
        self.wait_for_worker().await?;
        let cause = self.stop_cause();
        let interrupt = self.pending()?.interrupt();
        let result = self.start_worker(work)?;
        let cause = tokio::select! {
            worker = self.wait_for_worker() => {
                worker?;
                return result.await.map_err(|_| Interruption::Lost(Error::Lost))?;
            }
            cause = cause => cause,
        };
        interrupt.ask();
        self.wait_for_worker().await?;
        Err(self.interrupted_by(cause).await)
    }

    fn start_worker<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&mut PendingBuild) -> Result<T, Interruption> + Send + 'static,
    ) -> Result<oneshot::Receiver<Result<T, Interruption>>, Interruption> {
        let Location::Task(mut pending) = std::mem::replace(&mut self.pending, Location::Lost)
        else {
            return Err(Interruption::Lost(Error::Lost));
        };
        let (done, result) = oneshot::channel();
        self.pending = Location::Thread(tokio::task::spawn_blocking(move || {
            // If the result is not waited for any longer, the build's record has it.
            let _ = done.send(work(&mut pending));
            pending
        }));
        Ok(result)
    }

    /// Waits for the thread that has the pending build.
    pub(super) async fn wait_for_worker(&mut self) -> Result<(), Interruption> {
        let Location::Thread(worker) = &mut self.pending else {
            return Ok(());
        };
        let Ok(pending) = worker.await else {
            self.pending = Location::Lost;
            return Err(Interruption::Lost(Error::Lost));
        };
        self.stopped.clone_from(&pending.internal().stopped);
        self.pending = Location::Task(pending);
        Ok(())
    }
}

/// Waits for the end of a stage, and returns its limit; waits for ever without a stage.
async fn stage_over(stage_deadline: Option<StageDeadline>) -> Duration {
    match stage_deadline {
        Some(stage_deadline) => {
            tokio::time::sleep_until(stage_deadline.at).await;
            stage_deadline.limit
        }
        None => std::future::pending().await,
    }
}
