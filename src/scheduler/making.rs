//! A build in the making: what its steps share, what they may wait for, and how it is stopped.
//!
//! The story is told in [`super::pipeline`] and [`super::attend`]. Here is what holds for each of
//! their steps: the daemon may end, somebody may want the build's end, and what blocks is done on
//! threads that may.

use std::pin::pin;
use std::sync::Arc;

use jiff::Timestamp;

use super::halt::Halt;
use super::live::Live;
use super::{Error, Shared, blocking, stop};
use crate::build::{Bounds, PendingBuild, Phase, Stopped};
use crate::docker;
use crate::faults;

/// One build between its slot and its end.
pub(super) struct Making {
    pub(super) shared: Arc<Shared>,
    pub(super) live: Arc<Live>,
    /// Away only while a blocking thread has it.
    pub(super) pending: Option<PendingBuild>,
    /// The end of the container's standard error.
    pub(super) stderr: Vec<u8>,
    /// Its container has a limit of memory, or an earlier process made it: it is asked at its end whether
    /// the kernel killed something for want of memory.
    pub(super) may_lack_memory: bool,
    /// When a container that had ended while nobody watched did so.
    pub(super) found_ended: Option<Timestamp>,
}

impl Making {
    /// Waits for the Engine or whoever else may take their time, until the daemon ends or somebody
    /// wants the build's end. What the Engine made nevertheless is found by its labels.
    pub(super) async fn ask<T>(&mut self, asking: impl Future<Output = T>) -> Result<T, Halt> {
        let (shared, live) = (self.shared.clone(), self.live.clone());
        let is_stopped = self.is_stopped()?;
        let cancelled = tokio::select! {
            biased;
            () = shared.stop.cancelled() => return Err(Halt::Stopping),
            // Nothing more is decided about what is stopped already.
            cancelled = live.cancelled(), if !is_stopped => cancelled,
            answer = asking => return Ok(answer),
        };
        Err(self.stop(stop::cancelled(cancelled)).await)
    }

    /// The same, for a container that is made: where somebody wants the build's end, that is decided at
    /// once, but what is being made is waited for, so that it is known and can be removed.
    pub(super) async fn make_one(
        &mut self,
        making: impl Future<Output = Result<String, docker::Error>>,
    ) -> Result<Result<String, docker::Error>, Halt> {
        let (shared, live) = (self.shared.clone(), self.live.clone());
        let mut making = pin!(making);
        let cancelled = tokio::select! {
            made = &mut making => return Ok(made),
            () = shared.stop.cancelled() => return Err(Halt::Stopping),
            cancelled = live.cancelled() => cancelled,
        };
        let halt = self.stop(stop::cancelled(cancelled)).await;
        tokio::select! {
            made = making => self.pending()?.record_mut().keep.container = made.ok(),
            () = shared.stop.cancelled() => return Err(Halt::Stopping),
        }
        Err(halt)
    }

    /// What the build may take; a record of an earlier version does not say it.
    pub(super) fn bounds(&mut self) -> Result<Bounds, Halt> {
        let mut bounds = self.pending()?.record_mut().keep.bounds;
        if bounds.log_limit == 0 {
            bounds.log_limit = self.shared.rules.load().log_limit;
        }
        Ok(bounds)
    }

    /// What was decided about its end before it came, in this life or an earlier one.
    pub(super) fn stopped(&mut self) -> Result<Option<Stopped>, Halt> {
        Ok(self.pending()?.record_mut().keep.stopped.clone())
    }

    /// True when something was.
    pub(super) fn is_stopped(&mut self) -> Result<bool, Halt> {
        Ok(self.pending()?.record_mut().keep.stopped.is_some())
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
            tracing::error!(mistry_job = %self.live.id, error = &error as &dyn std::error::Error, "could not write down that a build is stopped; it ends so all the same");
            return Err(Halt::Stopped(decided));
        }
        written?;
        faults::point("stop-decided");
        let live = self.live.clone();
        live.show(self.pending()?.info());
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
        let live = self.live.clone();
        let pending = self.pending()?;
        pending.enter(phase);
        live.show(pending.info());
        Ok(())
    }

    /// Lets a blocking thread work on the pending build.
    pub(super) async fn on_disk<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&mut PendingBuild) -> Result<T, Halt> + Send + 'static,
    ) -> Result<T, Halt> {
        let mut pending = self.pending.take().ok_or(Halt::Lost(Error::Lost))?;
        let worked = blocking(move || {
            let result = work(&mut pending);
            (pending, result)
        });
        let (pending, result) = worked.await.map_err(Halt::Lost)?;
        self.pending = Some(pending);
        result
    }
}
