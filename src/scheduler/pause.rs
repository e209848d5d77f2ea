//! Pausing: no new build starts, running builds continue.
//!
//! That the queue is paused is on stable storage before it holds, and gone from there before the
//! first job begins again, so a restart finds what the last request was answered. Mark and queue
//! are changed by one at a time, in a task that goes on when its client leaves.

use super::blocking::blocking;
use super::error::Error;
use super::event::{publish_paused, publish_resumed};
use super::service::Scheduler;
use super::shared::Shared;

impl Scheduler {
    /// From now on no job gets a slot: what is new waits, as far as the backlog goes. What runs goes
    /// on, cached answers are given. True when it was not so before; `by` is told to the journal then.
    ///
    /// # Errors
    /// [`Error::Store`]: it could not be written down, and nothing is changed.
    pub async fn pause(&self, by: &str) -> Result<bool, Error> {
        self.set_paused(true, by).await
    }

    /// Jobs get slots again, first those who wait. True when it was not so before; `by` is told to the
    /// journal then.
    ///
    /// # Errors
    /// [`Error::Store`]: it could not be written down, and nothing begins.
    pub async fn resume(&self, by: &str) -> Result<bool, Error> {
        self.set_paused(false, by).await
    }

    /// True when nothing new begins.
    pub fn is_paused(&self) -> bool {
        self.0.queue().is_paused()
    }

    async fn set_paused(&self, paused: bool, by: &str) -> Result<bool, Error> {
        let (shared, by) = (self.0.clone(), by.to_owned());
        // A task of its own: were it given up with its asker, mark and queue could disagree.
        let task = self.0.spawn(async move {
            let _one_at_a_time = shared.pausing.lock().await;
            let store = shared.store.clone();
            // Also where nothing changes: a mark that was removed by hand is made anew.
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
    /// What is on disk holds from here on. True when that is news. The caller holds `pausing`.
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
        // Told before what begins by it tells of itself.
        match paused {
            true => publish_paused(by),
            false => publish_resumed(by),
        }
        self.begin(&given);
        true
    }
}
