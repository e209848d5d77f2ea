//! The log of a job, followed over several connections.

use super::Error;
use crate::api::LogTimes;
use crate::client::{self, Client};
use crate::job::{JobId, State};
use crate::project::ProjectName;

/// Why [`LogFollower::follow`] returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FollowEnd {
    /// The build is finished, and its log was read to the end.
    BuildFinished,
    /// The stream ended before the build did.
    Interrupted,
}

/// Reads the log of a job event by event and remembers the position, over several connections.
#[derive(Debug)]
pub(super) struct LogFollower {
    pub(super) project: ProjectName,
    pub(super) id: JobId,
    /// The attempt at the job; `None` for the current one.
    attempt: Option<u32>,
    position: u64,
}

impl LogFollower {
    pub(super) fn new(project: ProjectName, id: JobId) -> LogFollower {
        LogFollower {
            project,
            id,
            attempt: None,
            position: 0,
        }
    }

    /// The same for one attempt at the job.
    pub(super) fn of_attempt(self, attempt: Option<u32>) -> LogFollower {
        LogFollower { attempt, ..self }
    }

    /// The offset of the next byte of the log.
    pub(super) fn position(&self) -> u64 {
        self.position
    }

    /// When the log was written, as far as it is.
    pub(super) async fn times(&self, client: &Client) -> Result<LogTimes, client::Error> {
        client.log_times(&self.project, self.id, self.attempt).await
    }

    /// Passes the log to `print` until the log or the connection ends.
    pub(super) async fn follow(
        &mut self,
        client: &Client,
        print: &mut dyn FnMut(&[u8]) -> Result<(), Error>,
    ) -> Result<FollowEnd, Error> {
        let following = client.follow(&self.project, self.id, self.attempt, self.position);
        let Some(mut events) = following.await? else {
            return Ok(FollowEnd::BuildFinished);
        };
        while let Some(event) = events.next().await? {
            match event.name.as_str() {
                "end" => {
                    return Ok(match event.end()?.state {
                        State::Ready => FollowEnd::BuildFinished,
                        State::Pending => FollowEnd::Interrupted,
                    });
                }
                // Mistry 1 sends the lines of a log without an event type.
                "log" | "message" => {
                    let id = event.id.clone();
                    print(&event.log_bytes())?;
                    self.set_position(id.as_deref());
                }
                _ => {}
            }
        }
        Ok(FollowEnd::Interrupted)
    }

    /// Continues after the event with this id, which is an offset in the log.
    pub(super) fn set_position(&mut self, id: Option<&str>) {
        if let Some(position) = id.and_then(|id| id.parse().ok()) {
            self.position = position;
        }
    }
}
