//! The attempts of a job, read for clients by their numbers.

use super::error::Error;
use super::reading::{LogTail, Reader};
use crate::build::{Attempt, BuildInfo, LogFollower};
use crate::job::{JobId, State};
use crate::project::ProjectName;
use crate::read_limiter::ReadPermit;

impl Reader {
    /// The attempts of a job, newest first: a bounded number of those that are over.
    ///
    /// # Errors
    /// [`Error::UnknownJob`], [`Error::NoRecord`], [`Error::Store`].
    pub async fn attempts(&self, project: &ProjectName, id: JobId) -> Result<Vec<Attempt>, Error> {
        let active = self.active_info(project, id).await;
        let (shared, project) = (self.scheduler.0.clone(), project.clone());
        let reading = self.run_limited(&self.scheduler.0.readers.records, move |_permit| {
            let found = shared.store.list_attempts(&project, id)?;
            let mut found = found.ok_or_else(|| Error::absent(&shared.store, &project, id))?;
            // Its record is only written from time to time.
            if let Some(active) = active
                && let Some(pending) = found.iter_mut().find(|attempt| {
                    attempt.state == State::Pending && attempt.number == active.number
                })
            {
                *pending = Attempt::of(&active);
            }
            Ok(found)
        });
        reading.await?
    }

    /// One attempt of a job, and the end of its log; as [`Reader::find_with_permit`].
    ///
    /// # Errors
    /// As there, and [`Error::NoAttempt`].
    pub async fn find_attempt_with_permit(
        &self,
        project: &ProjectName,
        id: JobId,
        number: u32,
        log: LogTail,
    ) -> Result<(BuildInfo, Option<String>, ReadPermit), Error> {
        let active = self.active_info(project, id).await;
        let active = active.filter(|active| active.number == number);
        if active.is_some() {
            return self.find_with_permit(project, id, log).await;
        }
        let (shared, project) = (self.scheduler.0.clone(), project.clone());
        let reading = self.run_limited(&self.scheduler.0.readers.records, move |permit| {
            let store = &shared.store;
            let Some((info, directory)) = store.find_attempt(&project, id, number)? else {
                return Err(Error::no_attempt(store, &project, id, number));
            };
            let log = log.read_by(|| store.attempt_log_tail(&directory))?;
            Ok((info, log, permit))
        });
        reading.await?
    }

    /// One attempt of a job without its log; long params are cut, as in lists.
    ///
    /// # Errors
    /// As for [`Reader::find_attempt_with_permit`].
    pub async fn find_attempt(
        &self,
        project: &ProjectName,
        id: JobId,
        number: u32,
    ) -> Result<BuildInfo, Error> {
        let finding = self.find_attempt_with_permit(project, id, number, LogTail::Omit);
        let (mut info, _log, _permit) = finding.await?;
        info.abridge();
        Ok(info)
    }

    /// Follows the log of one attempt of a job from byte `from`.
    ///
    /// # Errors
    /// As [`Reader::follow`], and [`Error::NoAttempt`].
    pub async fn follow_attempt(
        &self,
        project: &ProjectName,
        id: JobId,
        number: u32,
        from: u64,
    ) -> Result<LogFollower, Error> {
        // Not by the address of the job: while an attempt takes the place of another one, that has the log of
        // the other one for a moment.
        let progress = match self.scheduler.handle(project, id).await {
            Some(mut active) if active.now().is_some_and(|now| now.number == number) => {
                active.accepted().await?;
                active.log()
            }
            _ => None,
        };
        let (shared, project, limiter) =
            (self.scheduler.0.clone(), project.clone(), self.limiter());
        let opening = self.read(move || {
            let mut is_there = false;
            // Between finding and opening, a build may be replaced and kept as an attempt.
            for _ in 0..2 {
                let Some(path) = shared.store.attempt_log(&project, id, number)? else {
                    break;
                };
                is_there = true;
                // To open a FIFO that was left in its place would block.
                if !path.is_file() {
                    continue;
                }
                match LogFollower::open(&path, from, progress.clone(), limiter.clone()) {
                    Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                    other => return other.map_err(Error::Log),
                }
            }
            Err(match is_there {
                true => Error::NoLog(project.clone(), id),
                false => Error::no_attempt(&shared.store, &project, id, number),
            })
        });
        opening.await?
    }

    /// The state of a job's build that is not over.
    async fn active_info(
        &self,
        project: &ProjectName,
        id: JobId,
    ) -> Option<std::sync::Arc<BuildInfo>> {
        let active = self.scheduler.handle(project, id).await?;
        active.now()
    }
}
