//! Pausing: no new build starts, running builds continue.
//!
//! A pause is on stable storage before it takes effect, and removed from there before the first job begins
//! again, so a restart agrees with the last answered request. Mark and queue are changed under a lock, in a
//! task that continues when its client disconnects.

use super::blocking::blocking;
use super::error::Error;
use super::event::{publish_paused, publish_resumed};
use super::service::Scheduler;
use super::shared::Shared;

impl Scheduler {
    /// Pauses the queue: no job gets a slot, new jobs wait within the backlog. Running builds continue,
    /// cached answers are returned. True if this is a change; the journal then records `by`.
    ///
    /// # Errors
    /// [`Error::Store`]: it could not be recorded, and nothing is changed.
    pub async fn pause(&self, by: &str) -> Result<bool, Error> {
        self.set_paused(true, by).await
    }

    /// Resumes the queue: jobs get slots again, waiting ones first. True if this is a change; the journal
    /// then records `by`.
    ///
    /// # Errors
    /// [`Error::Store`]: it could not be recorded, and no job begins.
    pub async fn resume(&self, by: &str) -> Result<bool, Error> {
        self.set_paused(false, by).await
    }

    /// True when no job gets a slot.
    pub fn is_paused(&self) -> bool {
        self.0.queue().is_paused()
    }

    async fn set_paused(&self, paused: bool, by: &str) -> Result<bool, Error> {
        let (shared, by) = (self.0.clone(), by.to_owned());
        // A separate task: if it were dropped with its request, mark and queue could disagree.
        let task = self.0.spawn(async move {
            let _one_at_a_time = shared.pausing.lock().await;
            let store = shared.store.clone();
            // Also without a change: a mark that was removed by hand is made again.
            blocking(move || match paused {
                true => store.mark_paused(),
                false => store.unmark_paused(),
            })
            .await??;
            Ok(shared.take_effect(paused, &by))
        });
        task.await.map_err(|_| Error::Lost)?
    }
}

impl Shared {
    /// Applies the state on disk to the queue. True if this is a change. The caller holds `pausing`.
    fn take_effect(&self, paused: bool, by: &str) -> bool {
        let given = {
            let mut queue = self.queue();
            if queue.is_paused() == paused {
                return false;
            }
            if paused {
                queue.pause();
                Vec::new()
            } else {
                queue.resume()
            }
        };
        // Published before the jobs that begin by it.
        match paused {
            true => publish_paused(by),
            false => publish_resumed(by),
        }
        self.begin(&given);
        true
    }
}
