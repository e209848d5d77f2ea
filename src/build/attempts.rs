//! Kept attempts: those of a job that are over and not served, each with its record and its log.
//!
//! The data of an attempt stays only where it is served: in `ready`. When another attempt takes that place, or
//! a rebuild fails beside a succeeded build, the record and the log are kept, under the number of the attempt.
//! The directory of a kept attempt is made of hard links, synced, and renamed to its final name before the
//! build itself goes to the trash. So a process that ends in between leaves the build in `pending`, and the
//! next process repeats the steps.

use std::cmp::Reverse;
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::attempt::{Attempt, Numbered, Outcomes, Summary};
use super::disk::{list_named, make_directories};
use super::error::{Error, disk_error};
use super::layout;
use super::log::tail;
use super::replace::Durability;
use super::store::BuildStore;
use super::{BuildInfo, RecordFile, record};
use crate::faults;
use crate::job::{JobId, State};
use crate::project::ProjectName;

/// Attempts that are removed at the end of one build. There are more than a few only after `keep_attempts` was
/// set lower.
const REMOVED_AT_ONCE: usize = 1_000;

const KEEP: &str = "keep an earlier attempt of the job";
const READ: &str = "read the earlier attempts of a job";

impl BuildStore {
    /// Keeps at most this many attempts of a job, from its next end on.
    pub fn set_kept_attempts(&self, most: u32) {
        self.attempts.set_most(most);
    }

    /// The numbers of the kept attempts of a job, in order.
    pub(super) fn attempt_numbers(&self, project: &ProjectName, id: JobId) -> io::Result<Vec<u32>> {
        let named = list_named::<Numbered>(&self.layout.attempts(project, id))?;
        let mut numbers: Vec<u32> = named.into_iter().map(|Numbered(number)| number).collect();
        numbers.sort_unstable();
        Ok(numbers)
    }

    /// The number of the next attempt of a job, and whether its attempts so far have both succeeded and
    /// failed.
    pub(super) fn next_attempt(
        &self,
        project: &ProjectName,
        id: JobId,
    ) -> Result<(u32, bool), Error> {
        let directory = self.layout.attempts(project, id);
        let kept = self
            .attempt_numbers(project, id)
            .map_err(disk_error(READ, &directory))?;
        let ready = self.layout.ready(project, id);
        // Also of a build that did not survive a power cut: its number was given to clients.
        let ready = record::read(&ready).map_err(disk_error(READ, &ready))?;
        let (known, flaky) = ready.map_or((0, false), |record| {
            let view = record.view;
            (view.numbers.max(view.number), view.flaky)
        });
        let last = known.max(kept.last().copied().unwrap_or(0));
        Ok((last.saturating_add(1), flaky))
    }

    /// Whether the attempts of a job that are kept once `ending` is over have both succeeded and failed.
    pub(super) fn is_flaky(
        &self,
        ending: &BuildInfo,
        served: Option<&BuildInfo>,
    ) -> Result<bool, Error> {
        let (project, id) = (&ending.project, ending.id);
        let mut outcomes = Outcomes::default();
        outcomes.add(ending.outcome());
        let mut others = self
            .attempt_numbers(project, id)
            .map_err(disk_error(READ, &self.layout.attempts(project, id)))?;
        let mut most = self.attempts.most();
        if let Some(served) = served {
            // One of the two becomes an attempt.
            if most > 0 {
                outcomes.add(served.outcome());
            }
            most = most.saturating_sub(1);
        }
        others.retain(|number| *number != ending.number);
        for number in others.into_iter().rev().take(most) {
            if let Some(summary) = self.summary(project, id, number)? {
                outcomes.add(summary.outcome);
            }
        }
        Ok(outcomes.are_mixed())
    }

    fn summary(
        &self,
        project: &ProjectName,
        id: JobId,
        number: u32,
    ) -> Result<Option<Summary>, Error> {
        let directory = self.layout.attempt(project, id, number);
        record::read_as(&directory).map_err(disk_error(READ, &directory))
    }

    /// Keeps the record and the log of the build in `from` as an attempt, on stable storage. The build itself
    /// stays where it is. Does nothing if none are kept, or an earlier process has kept it.
    pub(super) fn keep_attempt(
        &self,
        from: &Path,
        project: &ProjectName,
        id: JobId,
        number: u32,
    ) -> Result<(), Error> {
        if self.attempts.most() == 0 {
            return Ok(());
        }
        let place = self.layout.attempt(project, id, number);
        if place.symlink_metadata().is_ok() {
            return Ok(());
        }
        let new = self.layout.new_attempt(project, id, number);
        let put_in_place = || {
            self.link_attempt(from, &new)?;
            let mut count = self.attempts.count();
            std::fs::rename(&new, &place)?;
            count.add(project, id, bytes_of(&place));
            drop(count);
            for above in place.ancestors().skip(1).take(4) {
                File::open(above)?.sync_all()?;
            }
            faults::point("attempt-kept");
            Ok(())
        };
        put_in_place().map_err(disk_error(KEEP, &place))
    }

    /// Makes the attempt, not yet in its place.
    fn link_attempt(&self, from: &Path, new: &Path) -> io::Result<()> {
        // A process that ended has left it incomplete.
        self.throw_away(new)?;
        make_directories(new)?;
        for name in layout::ATTEMPT_FILES {
            match link_or_copy(&from.join(name), &new.join(name)) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                other => other?,
            }
        }
        // The record was synced when it was written. The log is, too, if the build was marked as durable.
        if let Some(log) = record::open_regular(&new.join(layout::LOG))? {
            log.sync_data()?;
        }
        File::open(new)?.sync_all()?;
        faults::point("attempt-made");
        Ok(())
    }

    /// Counts an attempt that is over beside the served build of its job, in the record of that build.
    pub(super) fn count_attempt(&self, ended: &BuildInfo) -> Result<(), Error> {
        let directory = self.layout.ready(&ended.project, ended.id);
        let count = disk_error("count the attempts of the job", &directory);
        let _one_at_a_time = self.marking.lock();
        let Some(mut record) = record::read(&directory).map_err(&count)? else {
            return Ok(());
        };
        let view = &mut record.view;
        let numbers = view.numbers.max(view.number).max(ended.number);
        if (view.numbers, view.flaky) == (numbers, ended.flaky) {
            return Ok(());
        }
        (view.numbers, view.flaky) = (numbers, ended.flaky);
        record::write(&directory, &record, Durability::OnReturn).map_err(count)?;
        faults::point("attempt-counted");
        Ok(())
    }

    /// Removes the oldest attempts of a job that exceed the bounds, a bounded number of them. The newest
    /// stays, whatever its size.
    ///
    /// # Errors
    /// When a system call fails.
    pub(super) fn prune_attempts(&self, project: &ProjectName, id: JobId) -> Result<(), Error> {
        let directory = self.layout.attempts(project, id);
        let prune = disk_error("remove earlier attempts of the job", &directory);
        let numbers = self.attempt_numbers(project, id).map_err(&prune)?;
        let newest = numbers.iter().rev().take(self.attempts.most());
        let mut bytes = 0;
        let kept = newest.take_while(|number| {
            let is_newest = bytes == 0;
            bytes += bytes_of(&self.layout.attempt(project, id, **number));
            is_newest || bytes <= self.attempts.max_job_bytes
        });
        let surplus = numbers.len() - kept.count();
        for number in numbers.iter().take(surplus.min(REMOVED_AT_ONCE)) {
            self.remove_attempt(project, id, *number).map_err(&prune)?;
        }
        Ok(())
    }

    /// Moves one attempt to the trash.
    pub(super) fn remove_attempt(
        &self,
        project: &ProjectName,
        id: JobId,
        number: u32,
    ) -> io::Result<()> {
        let attempt = self.layout.attempt(project, id, number);
        let mut count = self.attempts.count();
        let bytes = bytes_of(&attempt);
        self.throw_away(&attempt)?;
        count.subtract(project, id, bytes);
        Ok(())
    }

    /// Moves all attempts of a job to the trash, after its build.
    pub(super) fn remove_attempts(&self, project: &ProjectName, id: JobId) -> io::Result<()> {
        let mut count = self.attempts.count();
        let bytes = self.job_attempt_bytes(project, id)?;
        self.throw_away(&self.layout.attempts(project, id))?;
        count.subtract(project, id, bytes);
        Ok(())
    }

    /// The bytes of all attempts of a job.
    pub(super) fn job_attempt_bytes(&self, project: &ProjectName, id: JobId) -> io::Result<u64> {
        let numbers = self.attempt_numbers(project, id)?;
        let attempt = |number| bytes_of(&self.layout.attempt(project, id, number));
        Ok(numbers.into_iter().map(attempt).sum())
    }

    /// An attempt of a job by its number, and its directory: pending, served or kept. Its number of
    /// attempts is that of the job.
    ///
    /// # Errors
    /// When a system call fails.
    pub fn find_attempt(
        &self,
        project: &ProjectName,
        id: JobId,
        number: u32,
    ) -> Result<Option<(BuildInfo, PathBuf)>, Error> {
        // A build may move on between two of the places, but not twice.
        for _ in 0..2 {
            if let Some(found) = self.look_for_attempt(project, id, number)? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    fn look_for_attempt(
        &self,
        project: &ProjectName,
        id: JobId,
        number: u32,
    ) -> Result<Option<(BuildInfo, PathBuf)>, Error> {
        let (ready, pending) = (
            self.layout.ready(project, id),
            self.layout.pending(project, id),
        );
        let served = self.ready(project, id)?;
        let in_pending = record::read(&pending).map_err(disk_error(READ, &pending))?;
        let of_record =
            |record: RecordFile, state, path| record.complete(project, id, state, path).info;
        let (mut numbers, mut flaky) = (0, false);
        if let Some(info) = &served {
            (numbers, flaky) = (info.numbers, info.flaky);
            if info.number == number {
                let numbers = in_pending.map_or(numbers, |record| numbers.max(record.view.numbers));
                let info = BuildInfo {
                    numbers,
                    ..info.clone()
                };
                return Ok(Some((info, ready)));
            }
        }
        if let Some(record) = in_pending {
            // Over, and replaced or not yet in place.
            let state = record.view.state;
            let info = of_record(record, state, self.layout.served(project, id));
            (numbers, flaky) = (numbers.max(info.numbers), flaky || info.flaky);
            if info.number == number {
                return Ok(Some((BuildInfo { numbers, ..info }, pending)));
            }
        }
        let directory = self.layout.attempt(project, id, number);
        let record = record::read(&directory).map_err(disk_error(READ, &directory))?;
        Ok(record.map(|record| {
            // Its artifacts are gone.
            let info = of_record(record, State::Ready, String::new());
            let numbers = numbers.max(info.numbers).max(number);
            (
                BuildInfo {
                    number,
                    numbers,
                    flaky,
                    ..info
                },
                directory,
            )
        }))
    }

    /// The current path of the log of an attempt; `None` if there is no such attempt.
    ///
    /// # Errors
    /// When a system call fails.
    pub fn attempt_log(
        &self,
        project: &ProjectName,
        id: JobId,
        number: u32,
    ) -> Result<Option<PathBuf>, Error> {
        let found = self.find_attempt(project, id, number)?;
        Ok(found.map(|(_, directory)| directory.join(layout::LOG)))
    }

    /// The end of the log in the directory of an attempt; "" when there is none.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn attempt_log_tail(&self, directory: &Path) -> Result<String, Error> {
        match tail(directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
            other => other.map_err(disk_error("read the log of a build", directory)),
        }
    }

    /// The attempts of a job that are on disk, newest first: at most as many attempts as are kept, besides
    /// the served build and the pending one. `None` if there is no such job.
    ///
    /// # Errors
    /// When a system call fails.
    pub fn list_attempts(
        &self,
        project: &ProjectName,
        id: JobId,
    ) -> Result<Option<Vec<Attempt>>, Error> {
        let Some(current) = self.find(project, id)? else {
            return Ok(None);
        };
        let mut found = vec![Attempt::of(&current)];
        if current.state() == State::Pending
            && let Some(served) = self.ready(project, id)?
        {
            found.push(Attempt::of(&served));
        }
        let directory = self.layout.attempts(project, id);
        let mut numbers = self
            .attempt_numbers(project, id)
            .map_err(disk_error(READ, &directory))?;
        numbers.retain(|number| found.iter().all(|known| known.number != *number));
        for number in numbers.into_iter().rev().take(self.attempts.most()) {
            if let Some(summary) = self.summary(project, id, number)? {
                found.push(Attempt::kept(number, summary));
            }
        }
        found.sort_by_key(|attempt| Reverse(attempt.number));
        Ok(Some(found))
    }
}

/// The disk space of an attempt; 0 where there is none.
pub(super) fn bytes_of(attempt: &Path) -> u64 {
    let files = layout::ATTEMPT_FILES.iter();
    let found = files.filter_map(|name| attempt.join(name).symlink_metadata().ok());
    found.map(|found| found.blocks() * 512).sum()
}

/// Links a file under another name. Where the filesystem cannot, the file is copied: the first mistry made
/// each build a subvolume, and no link leads out of one.
fn link_or_copy(from: &Path, to: &Path) -> io::Result<()> {
    match std::fs::hard_link(from, to) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            std::fs::copy(from, to)?;
            File::open(to)?.sync_all()
        }
        other => other,
    }
}
