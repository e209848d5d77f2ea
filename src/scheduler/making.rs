//! A build in the making: what its steps share, what they may wait for, and how it is stopped.
//!
//! The story is told in [`super::pipeline`] and [`super::attend`]. Here is what holds for each of
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
use super::halt::Halt;
use super::{Error, Shared, stop};
use crate::build::{BuildLimits, PendingBuild, Phase, Stopped};
use crate::docker;
use crate::faults;

/// How long a container that is being made is waited for when its build is to end: then it is known and
/// can be removed with the build. One that comes later is found by its labels.
const LATE_CONTAINER_TIMEOUT: Duration = Duration::from_secs(10);

/// One build between its slot and its end.
pub(super) struct Making {
    pub(super) shared: Arc<Shared>,
    pub(super) active: Arc<ActiveJob>,
    /// Away only while a blocking thread has it.
    pub(super) pending: Option<PendingBuild>,
    /// The thread that has it. Dropping a future that waits for the thread leaves it here.
    pub(super) working: Option<JoinHandle<PendingBuild>>,
    /// The end of the container's standard error.
    pub(super) stderr: Vec<u8>,
    /// Its container has a limit of memory, or an earlier process made it: it is asked at its end whether
    /// the kernel killed something for want of memory.
    pub(super) may_lack_memory: bool,
    /// Its container's limit of processes, watched since before it was started by this process.
    pub(super) processes: Option<docker::ProcessWatch>,
    /// When a container ended that had done so while no daemon ran.
    pub(super) found_ended: Option<Timestamp>,
    /// When the present stage on the way to a container that runs must be over.
    pub(super) due: Option<Due>,
    /// Set when it is decided how it ends, so that its last steps have an end, too.
    pub(super) decided: Arc<SetOnce<()>>,
}

/// The end of a stage, and how long the stage may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Due {
    pub(super) at: Instant,
    pub(super) limit: Duration,
}

/// Why something is not waited for any longer.
enum Ending {
    /// The daemon ends; the next process goes on.
    Daemon,
    /// The build is to end.
    Build(Stopped),
}

impl Making {
    pub(super) fn new(
        shared: Arc<Shared>,
        active: Arc<ActiveJob>,
        pending: PendingBuild,
    ) -> Making {
        let decided = match pending.internal().stopped {
            Some(_) => SetOnce::new_with(Some(())),
            None => SetOnce::new(),
        };
        Making {
            shared,
            active,
            pending: Some(pending),
            working: None,
            stderr: Vec::new(),
            may_lack_memory: true,
            processes: None,
            found_ended: None,
            due: None,
            decided: Arc::new(decided),
        }
    }

    /// Begins a stage on the way to a container that runs. It may take as long as the container may run:
    /// an Engine or a disk that hangs must not hold a slot for ever.
    pub(super) fn begin_stage(&mut self) -> Result<(), Halt> {
        let limit = self.bounds()?.job_timeout.map(Duration::from_millis);
        self.due = limit.and_then(|limit| {
            let at = Instant::now().checked_add(limit)?;
            Some(Due { at, limit })
        });
        Ok(())
    }

    /// Waits until the daemon ends, the build's end is wanted or its stage has taken too long.
    fn ending(&mut self) -> Result<impl Future<Output = Ending> + use<>, Halt> {
        let (shared, active, due) = (self.shared.clone(), self.active.clone(), self.due);
        // Nothing more is decided about what is stopped already.
        let is_stopped = self.is_stopped()?;
        Ok(async move {
            tokio::select! {
                biased;
                () = shared.stop.cancelled() => Ending::Daemon,
                cancelled = active.cancelled(), if !is_stopped => {
                    Ending::Build(stop::cancelled(cancelled))
                }
                limit = over(due), if !is_stopped => Ending::Build(stop::not_begun(limit)),
            }
        })
    }

    /// Ends what was waited for.
    async fn end(&mut self, ending: Ending) -> Halt {
        match ending {
            Ending::Daemon => Halt::Stopping,
            Ending::Build(stopped) => self.stop(stopped).await,
        }
    }

    /// Waits for the Engine or whatever else may take its time, until the daemon ends, the build's end is
    /// wanted, or its stage has taken too long. What the Engine made nevertheless is found by its labels.
    pub(super) async fn ask<T>(&mut self, asking: impl Future<Output = T>) -> Result<T, Halt> {
        let ending = self.ending()?;
        let ending = tokio::select! {
            biased;
            ending = ending => ending,
            answer = asking => return Ok(answer),
        };
        Err(self.end(ending).await)
    }

    /// The same, for a container that is made: where the build's end is wanted, that is decided at
    /// once, but what is being made is waited for a while, so that it is known and can be removed.
    pub(super) async fn make_one(
        &mut self,
        making: impl Future<Output = Result<String, docker::Error>>,
    ) -> Result<Result<String, docker::Error>, Halt> {
        let ending = self.ending()?;
        let mut making = pin!(making);
        let ending = tokio::select! {
            made = &mut making => return Ok(made),
            ending = ending => ending,
        };
        let halt = self.end(ending).await;
        if !matches!(halt, Halt::Stopped(_)) {
            return Err(halt);
        }
        let shared = self.shared.clone();
        tokio::select! {
            made = making => self.pending()?.record_mut().internal.container = made.ok(),
            () = tokio::time::sleep(LATE_CONTAINER_TIMEOUT) => {}
            () = shared.stop.cancelled() => return Err(Halt::Stopping),
        }
        Err(halt)
    }

    /// What the build may take; a record of an earlier version does not say it.
    pub(super) fn bounds(&mut self) -> Result<BuildLimits, Halt> {
        let mut bounds = self.pending()?.internal().limits;
        if bounds.log_limit == 0 {
            bounds.log_limit = self.shared.config.load().log_limit;
        }
        Ok(bounds)
    }

    /// What was decided about its end before it came, in this process or an earlier one.
    pub(super) fn stopped(&mut self) -> Result<Option<Stopped>, Halt> {
        Ok(self.pending()?.internal().stopped.clone())
    }

    /// True when something was.
    pub(super) fn is_stopped(&mut self) -> Result<bool, Halt> {
        Ok(self.pending()?.internal().stopped.is_some())
    }

    /// Decides about its end, and lets all who wait see it; what was decided before stays.
    ///
    /// # Errors
    /// [`Halt::Stopped`] on a disk that takes no word of it: then it ends so at once.
    pub(super) async fn decide(&mut self, stopped: Stopped) -> Result<(), Halt> {
        let decided = stopped.clone();
        let written = self
            .on_disk(move |pending| Ok(pending.stop(stopped)?))
            .await;
        if let Err(Halt::Store(error)) = written {
            tracing::error!(mistry_job = %self.active.id, error = &error as &dyn std::error::Error, "could not write down that a build is stopped; it ends so all the same");
            return Err(Halt::Stopped(decided));
        }
        written?;
        // Set once: what was decided first stays.
        let _ = self.decided.set(());
        faults::point("stop-decided");
        let active = self.active.clone();
        active.show(self.pending()?.info());
        Ok(())
    }

    /// The same, where nothing of it has to be waited for.
    pub(super) async fn stop(&mut self, stopped: Stopped) -> Halt {
        match self.decide(stopped.clone()).await {
            Ok(()) => Halt::Stopped(stopped),
            Err(halt) => halt,
        }
    }

    pub(super) fn pending(&mut self) -> Result<&mut PendingBuild, Halt> {
        self.pending.as_mut().ok_or(Halt::Lost(Error::Lost))
    }

    pub(super) fn enter(&mut self, phase: Phase) -> Result<(), Halt> {
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
        work: impl FnOnce(&mut PendingBuild) -> Result<T, Halt> + Send + 'static,
    ) -> Result<T, Halt> {
        self.worked().await?;
        let result = self.begin_work(work)?;
        self.worked().await?;
        result.await.map_err(|_| Halt::Lost(Error::Lost))?
    }

    /// The same for work that may take long: where the daemon ends, the build's end is wanted, or its
    /// stage has taken too long, the work is interrupted.
    pub(super) async fn on_disk_for_long<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&mut PendingBuild) -> Result<T, Halt> + Send + 'static,
    ) -> Result<T, Halt> {
        self.worked().await?;
        let ending = self.ending()?;
        let interrupt = self.pending()?.interrupt();
        let result = self.begin_work(work)?;
        let ending = tokio::select! {
            worked = self.worked() => {
                worked?;
                return result.await.map_err(|_| Halt::Lost(Error::Lost))?;
            }
            ending = ending => ending,
        };
        interrupt.ask();
        self.worked().await?;
        Err(self.end(ending).await)
    }

    fn begin_work<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&mut PendingBuild) -> Result<T, Halt> + Send + 'static,
    ) -> Result<oneshot::Receiver<Result<T, Halt>>, Halt> {
        let mut pending = self.pending.take().ok_or(Halt::Lost(Error::Lost))?;
        let (done, result) = oneshot::channel();
        self.working = Some(tokio::task::spawn_blocking(move || {
            // Where the result is not waited for any longer, the build's record tells.
            let _ = done.send(work(&mut pending));
            pending
        }));
        Ok(result)
    }

    /// Waits for the thread that has the pending build.
    pub(super) async fn worked(&mut self) -> Result<(), Halt> {
        let Some(working) = &mut self.working else {
            return Ok(());
        };
        let pending = working.await;
        self.working = None;
        self.pending = Some(pending.map_err(|_| Halt::Lost(Error::Lost))?);
        Ok(())
    }
}

/// Waits for the end of a stage, which may take so long; for ever without one.
async fn over(due: Option<Due>) -> Duration {
    match due {
        Some(due) => {
            tokio::time::sleep_until(due.at).await;
            due.limit
        }
        None => std::future::pending().await,
    }
}
