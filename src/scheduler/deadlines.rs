//! Limits of a container's run time and silence.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::build_task::BuildTask;
use super::interruption::Interruption;
use super::stop;
use crate::build::{Since, Stopped};
use crate::docker::{self, ContainerStatus, Docker};

/// How long the Engine may take to say whether a container had ended at its deadline. Without an answer the
/// container counts as running.
const CONTAINER_STATUS_TIMEOUT: Duration = Duration::from_secs(10);
/// The limits of a container's run time and silence. Both use a clock that is never set.
#[derive(Clone)]
pub(super) struct Deadlines {
    /// When it started.
    running: Since,
    /// How long it may run.
    deadline: Option<Duration>,
    /// How long it may print nothing.
    silence: Option<Duration>,
    /// When the last piece of its output came, as far as this process saw it.
    last_output: Arc<Mutex<Option<Since>>>,
}

impl Deadlines {
    pub(super) fn of(task: &mut BuildTask) -> Result<Deadlines, Interruption> {
        let limits = task.limits();
        let running = task.pending()?.running();
        Ok(Deadlines {
            running: running.unwrap_or_else(Since::now),
            deadline: limits.job_timeout.map(Duration::from_millis),
            silence: limits.silence_timeout.map(Duration::from_millis),
            last_output: Arc::default(),
        })
    }

    /// Records that output has come.
    pub(super) fn note_output(&self) {
        let mut last_output = self.last_output.lock();
        *last_output = Some(Since::now());
    }

    fn last_output(&self) -> Option<Since> {
        *self.last_output.lock()
    }

    /// Waits until a limit is passed, and returns the stop. Each limit is awaited separately, so that an
    /// Engine that does not report the time of the last output does not delay the deadline.
    pub(super) async fn exceeded(
        self,
        docker: &Docker,
        container: &str,
    ) -> Result<Stopped, docker::Error> {
        tokio::select! {
            exceeded = self.clone().deadline_exceeded(docker, container) => exceeded,
            exceeded = self.silence_exceeded(docker, container) => exceeded,
        }
    }

    async fn deadline_exceeded(
        self,
        docker: &Docker,
        container: &str,
    ) -> Result<Stopped, docker::Error> {
        wait_until_elapsed(self.running, self.deadline).await;
        match self.check_deadline(docker, container).await? {
            Some(stopped) => Ok(stopped),
            // It ended in time.
            None => std::future::pending().await,
        }
    }

    async fn silence_exceeded(
        self,
        docker: &Docker,
        container: &str,
    ) -> Result<Stopped, docker::Error> {
        // The start of the silence, as far as it was checked, and the last line seen then.
        let (mut silent, mut seen) = (self.running, None);
        loop {
            wait_until_elapsed(silent, self.silence).await;
            // The times in the log count: it may be read long after it was printed. So the Engine is asked
            // once per silence limit, and not for each line.
            let last = docker.last_line(container).await?;
            if let Some(last) = last.filter(|last| Some(*last) != seen) {
                seen = Some(last);
                silent = match self.running.until(last) {
                    Some(ran) => self.running.later(ran),
                    // The clock of that time was set meanwhile.
                    None => self.last_output().unwrap_or_else(Since::now),
                };
            }
            if let Some(limit) = self.silence.filter(|limit| silent.elapsed() >= *limit) {
                return Ok(stop::silence_timed_out(limit));
            }
        }
    }

    /// Whether a container that has ended had passed a limit.
    pub(super) async fn was_exceeded(&self, docker: &Docker, container: &str) -> Option<Stopped> {
        if self.running.elapsed() < self.deadline? {
            return None;
        }
        // An Engine that does not report the end is ignored: the container was watched.
        self.check_deadline(docker, container).await.ok().flatten()
    }

    /// The deadline has come. A container that ended earlier, or may have, is not stopped.
    async fn check_deadline(
        &self,
        docker: &Docker,
        container: &str,
    ) -> Result<Option<Stopped>, docker::Error> {
        let Some(limit) = self.deadline else {
            return Ok(None);
        };
        let is_late = match tokio::time::timeout(
            CONTAINER_STATUS_TIMEOUT,
            docker.container_status(container),
        )
        .await
        {
            Ok(status) => match status? {
                ContainerStatus::Ended(_, at) => at
                    .and_then(|at| self.running.until(at))
                    .is_some_and(|ran| ran > limit),
                _ => true,
            },
            Err(_) => true,
        };
        Ok(is_late.then(|| stop::timed_out(limit)))
    }
}

/// Waits until a time limit since a moment has passed; for ever without a limit.
async fn wait_until_elapsed(since: Since, limit: Option<Duration>) {
    let Some(limit) = limit else {
        return std::future::pending().await;
    };
    loop {
        let left = limit.saturating_sub(since.elapsed());
        if left.is_zero() {
            return;
        }
        tokio::time::sleep(left).await;
    }
}
