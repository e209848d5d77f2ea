//! A build in the making: what its steps share, what they may wait for, and how it is stopped.
//!
//! The story is told in [`super::pipeline`] and [`super::supervision`]. Here is what holds for each of
//! their steps: the daemon may end, a client may cancel the build, and what blocks is done on
//! threads that may.

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
use super::shared::Shared;
use super::stop;
use crate::build::{BuildLimits, PendingBuild, Phase, Stopped};
use crate::docker;
use crate::faults;

/// How long a container that is being made is waited for when its build is to end: then it is known and
/// can be removed with the build. One that comes later is found by its labels.
const LATE_CONTAINER_TIMEOUT: Duration = Duration::from_secs(10);

/// One build between its slot and its end.
pub(super) struct BuildTask {
    pub(super) shared: Arc<Shared>,
    pub(super) active: Arc<ActiveJob>,
    /// Away only while a blocking thread has it.
    pub(super) pending: Option<PendingBuild>,
    /// What was decided about its end before it came, in this process or an earlier one; as in the record.
    stopped: Option<Stopped>,
    /// What it may take; as in the record.
    limits: BuildLimits,
    /// The thread that has it. Dropping a future that waits for the thread leaves it here.
    pub(super) worker: Option<JoinHandle<PendingBuild>>,
    /// The end of the container's standard error.
    pub(super) stderr: Vec<u8>,
    /// Its container has a limit of memory, or an earlier process made it: it is asked at its end whether
    /// the kernel killed something for want of memory.
    pub(super) may_run_out_of_memory: bool,
    /// Its container's limit of processes, watched since before it was started by this process.
    pub(super) processes: Option<docker::ProcessWatch>,
    /// When a container ended that had done so while no daemon ran.
    pub(super) found_ended: Option<Timestamp>,
    /// When the present stage on the way to a container that runs must be over.
    pub(super) stage_deadline: Option<StageDeadline>,
    /// Set when it is decided how it ends, so that its last steps have an end, too.
    pub(super) stop_decided: Arc<SetOnce<()>>,
}

/// The end of a stage, and how long the stage may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct StageDeadline {
    pub(super) at: Instant,
    pub(super) limit: Duration,
}

/// What the Engine says to a container that is to be made: its id.
pub(super) type Created = Result<String, docker::Error>;

/// Why something is not waited for any longer.
enum StopCause {
    /// The daemon ends; the next process goes on.
    Daemon,
    /// The build is to end.
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
            pending: Some(pending),
            stopped,
            limits,
            worker: None,
            stderr: Vec::new(),
            may_run_out_of_memory: true,
            processes: None,
            found_ended: None,
            stage_deadline: None,
            stop_decided: Arc::new(decided),
        }
    }

    /// Begins a stage on the way to a container that runs. It may take as long as the container may run:
    /// an Engine or a disk that hangs must not hold a slot for ever.
    pub(super) fn begin_stage(&mut self) {
        let limit = self.limits().job_timeout.map(Duration::from_millis);
        self.stage_deadline = limit.and_then(|limit| {
            let at = Instant::now().checked_add(limit)?;
            Some(StageDeadline { at, limit })
        });
    }

    /// Waits until the daemon ends, the build's end is wanted or its stage has taken too long.
    fn stop_cause(&self) -> impl Future<Output = StopCause> + use<> {
        let (shared, active) = (self.shared.clone(), self.active.clone());
        let stage_deadline = self.stage_deadline;
        // Nothing more is decided about what is stopped already.
        let may_stop = !self.is_stopped();
        async move {
            tokio::select! {
                biased;
                () = shared.stop.cancelled() => StopCause::Daemon,
                cancelled = active.cancelled(), if may_stop => {
                    StopCause::Build(stop::cancelled(cancelled))
                }
                limit = stage_over(stage_deadline), if may_stop => {
                    StopCause::Build(stop::not_begun(limit))
                }
            }
        }
    }

    /// Ends what was waited for.
    async fn interrupted_by(&mut self, cause: StopCause) -> Interruption {
        match cause {
            StopCause::Daemon => Interruption::Stopping,
            StopCause::Build(stopped) => self.stop(stopped).await,
        }
    }

    /// Waits for the Engine or whatever else may take its time, until the daemon ends, the build's end is
    /// wanted, or its stage has taken too long. What the Engine made nevertheless is found by its labels.
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

    /// The same, for a container that is made: where the build's end is wanted, that is decided at
    /// once, but what is being made is waited for a while, so that it is known and can be removed.
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

    /// What the build may take; a record of an earlier version does not say it.
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

    /// What was decided about its end before it came, in this process or an earlier one.
    pub(super) fn stopped(&self) -> Option<Stopped> {
        self.stopped.clone()
    }

    /// True when its end was decided.
    pub(super) fn is_stopped(&self) -> bool {
        self.stopped.is_some()
    }

    /// Decides about its end, and lets all who wait see it; what was decided before stays.
    ///
    /// # Errors
    /// [`Interruption::Stopped`] on a disk that takes no word of it: then it ends so at once.
    pub(super) async fn decide_stop(&mut self, stopped: Stopped) -> Result<(), Interruption> {
        let decided = stopped.clone();
        let written = self
            .on_disk(move |pending| Ok(pending.stop(stopped)?))
            .await;
        if let Err(Interruption::Store(error)) = written {
            tracing::error!(mistry_job = %self.active.id, error = &error as &dyn std::error::Error, "could not write down that a build is stopped; it ends so all the same");
            return Err(Interruption::Stopped(decided));
        }
        written?;
        // Set once: what was decided first stays.
        let _ = self.stop_decided.set(());
        faults::point("stop-decided");
        let active = self.active.clone();
        active.show(self.pending()?.info());
        Ok(())
    }

    /// The same, where nothing of it has to be waited for.
    pub(super) async fn stop(&mut self, stopped: Stopped) -> Interruption {
        match self.decide_stop(stopped.clone()).await {
            Ok(()) => Interruption::Stopped(stopped),
            Err(interruption) => interruption,
        }
    }

    pub(super) fn pending(&mut self) -> Result<&mut PendingBuild, Interruption> {
        self.pending.as_mut().ok_or(Interruption::Lost(Error::Lost))
    }

    pub(super) fn enter(&mut self, phase: Phase) -> Result<(), Interruption> {
        let active = self.active.clone();
        let pending = self.pending()?;
        pending.enter(phase);
        active.show(pending.info());
        Ok(())
    }

    /// Lets a blocking thread work on the pending build. Dropping the future leaves the thread at work:
    /// what comes next waits for it.
    pub(super) async fn on_disk<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&mut PendingBuild) -> Result<T, Interruption> + Send + 'static,
    ) -> Result<T, Interruption> {
        self.wait_for_worker().await?;
        let result = self.start_worker(work)?;
        self.wait_for_worker().await?;
        result.await.map_err(|_| Interruption::Lost(Error::Lost))?
    }

    /// The same for work that may take long: where the daemon ends, the build's end is wanted, or its
    /// stage has taken too long, the work is interrupted.
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
        let mut pending = self.pending.take().ok_or(Interruption::Lost(Error::Lost))?;
        let (done, result) = oneshot::channel();
        self.worker = Some(tokio::task::spawn_blocking(move || {
            // Where the result is not waited for any longer, the build's record tells.
            let _ = done.send(work(&mut pending));
            pending
        }));
        Ok(result)
    }

    /// Waits for the thread that has the pending build.
    pub(super) async fn wait_for_worker(&mut self) -> Result<(), Interruption> {
        let Some(worker) = &mut self.worker else {
            return Ok(());
        };
        let pending = worker.await;
        self.worker = None;
        let pending = pending.map_err(|_| Interruption::Lost(Error::Lost))?;
        self.stopped.clone_from(&pending.internal().stopped);
        self.pending = Some(pending);
        Ok(())
    }
}

/// Waits for the end of a stage, which may take so long; for ever without one.
async fn stage_over(stage_deadline: Option<StageDeadline>) -> Duration {
    match stage_deadline {
        Some(stage_deadline) => {
            tokio::time::sleep_until(stage_deadline.at).await;
            stage_deadline.limit
        }
        None => std::future::pending().await,
    }
}
