//! Statistics of answers: counted at once, written to disk some time later.

use std::sync::Arc;
use std::time::Duration;

use super::blocking::blocking;
use super::shared::Shared;
use crate::build::Answered;
use crate::project::ProjectName;

/// The delay between a counted answer and writing the statistics.
const STATS_SAVE_DELAY: Duration = Duration::from_secs(5);

impl Shared {
    /// Counts an answer.
    pub(super) fn count(&self, project: &ProjectName, answered: Answered, took: Duration) {
        self.store.count(project, answered, took);
        self.counted.notify_one();
    }
}

/// Writes the statistics some time after an answer was counted, and at the end. It is not counted as
/// activity, because nothing waits for it: the daemon may stop at any time.
pub(super) async fn save_stats_regularly(shared: Arc<Shared>) {
    let mut is_reported = false;
    loop {
        tokio::select! {
            () = shared.counted.notified() => {}
            () = shared.stop.cancelled() => {}
        }
        // One write covers many answers; a build that ends does not wait for it.
        let _ = tokio::time::timeout(STATS_SAVE_DELAY, shared.stop.cancelled()).await;
        let saving = shared.clone();
        let saved = blocking(move || saving.store.save_stats()).await;
        if let Ok(Err(error)) = saved {
            if !is_reported {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "could not save how jobs were answered; the rates of projects may be wrong"
                );
            }
            is_reported = true;
        }
        if shared.stop.is_cancelled() {
            return;
        }
    }
}
