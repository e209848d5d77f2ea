//! Failed rebuilds of earlier versions, in `failed/<id>`, become attempts.
//!
//! What is there without a readable build in `ready`, or is damaged, stays for garbage collection.

use rustix::fs::{AtFlags, Timespec, Timestamps, UTIME_OMIT};

use super::attempt::Outcomes;
use super::disk::list_ids;
use super::error::{Error, disk_error};
use super::publish::Order;
use super::replace::Durability;
use super::store::BuildStore;
use super::{RecordFile, record};
use crate::job::JobId;
use crate::project::ProjectName;

const TAKE_OVER: &str = "take over a failed rebuild of an earlier version";

impl BuildStore {
    /// Makes attempts of all failed rebuilds that an earlier version kept of a project.
    ///
    /// # Errors
    /// The first error; the others are taken over all the same.
    pub(super) fn take_over_failed(&self, project: &ProjectName) -> Result<(), Error> {
        let all = self.layout.all_failed(project);
        let mut first_error = None;
        for id in list_ids(&all).map_err(disk_error(TAKE_OVER, &all))? {
            if let Err(error) = self.take_over_failed_rebuild(project, id) {
                first_error.get_or_insert(error);
            }
        }
        // Only if it is empty.
        let _ = std::fs::remove_dir(&all);
        first_error.map_or(Ok(()), Err)
    }

    /// Each step may be repeated after a crash: the attempt first, then the record of the build that stays,
    /// then `failed/<id>` goes.
    fn take_over_failed_rebuild(&self, project: &ProjectName, id: JobId) -> Result<(), Error> {
        let _one_at_a_time = self.changing.lock();
        // The record of the served build is read, changed and replaced: no one else may change it meanwhile.
        let _marking = self.marking.lock();
        let (failed, ready) = (
            self.layout.failed(project, id),
            self.layout.ready(project, id),
        );
        let take_over = disk_error(TAKE_OVER, &failed);
        let records = (record::read(&failed), record::read(&ready));
        let (Some(rebuild), Some(mut served)) = (
            records.0.map_err(&take_over)?,
            records.1.map_err(&take_over)?,
        ) else {
            return Ok(());
        };
        let is_later = Order::of_file(&rebuild) > Order::of_file(&served);
        let number = match self.number_of(project, id, &rebuild)? {
            Some(number) => number,
            None if is_later => served.view.numbers.max(served.view.number) + 1,
            None => served.view.number,
        };
        self.keep_attempt(&failed, project, id, number)?;
        let view = &mut served.view;
        let before = (view.number, view.numbers, view.flaky);
        if !is_later && view.number <= number {
            view.number = number + 1;
        }
        view.numbers = view.numbers.max(view.number).max(number);
        let mut outcomes = Outcomes::default();
        outcomes.add(view.outcome);
        outcomes.add(rebuild.view.outcome);
        view.flaky |= outcomes.are_mixed();
        if before != (view.number, view.numbers, view.flaky) {
            let used = ready.symlink_metadata().map_err(&take_over)?;
            record::write(&ready, &served, Durability::OnReturn).map_err(&take_over)?;
            // This is no use of the build.
            restore_modified(&ready, &used);
        }
        self.throw_away(&failed).map_err(take_over)
    }

    /// The number under which an earlier process has kept the attempt with this record.
    fn number_of(
        &self,
        project: &ProjectName,
        id: JobId,
        of: &RecordFile,
    ) -> Result<Option<u32>, Error> {
        let directory = self.layout.attempts(project, id);
        let numbers = self.attempt_numbers(project, id);
        for number in numbers.map_err(disk_error(TAKE_OVER, &directory))? {
            let attempt = self.layout.attempt(project, id, number);
            let kept = record::read(&attempt).map_err(disk_error(TAKE_OVER, &attempt))?;
            if kept.is_some_and(|kept| Order::of_file(&kept) == Order::of_file(of)) {
                return Ok(Some(number));
            }
        }
        Ok(None)
    }
}

/// Sets the modification time of a directory back. If that fails, the build counts as used now.
fn restore_modified(directory: &std::path::Path, before: &std::fs::Metadata) {
    use std::os::unix::fs::MetadataExt;
    let times = Timestamps {
        last_access: Timespec {
            tv_sec: 0,
            tv_nsec: UTIME_OMIT,
        },
        last_modification: Timespec {
            tv_sec: before.mtime(),
            tv_nsec: before.mtime_nsec(),
        },
    };
    let _ = rustix::fs::utimensat(
        rustix::fs::CWD,
        directory,
        &times,
        AtFlags::SYMLINK_NOFOLLOW,
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::filesystem::Filesystem;
    use crate::job::{Outcome, State};

    fn record(outcome: Outcome, order: u64) -> RecordFile {
        let mut record = <RecordFile>::default();
        record.view.state = State::Ready;
        record.view.outcome = Some(outcome);
        record.internal.number = order;
        record
    }

    #[test]
    fn a_build_that_is_marked_while_a_failed_rebuild_is_taken_over_stays_marked() {
        let home = tempfile::tempdir().unwrap();
        let store = BuildStore::open(home.path(), Filesystem::Plain).unwrap();
        let (project, id): (ProjectName, JobId) =
            ("p".parse().unwrap(), "1".repeat(64).parse().unwrap());
        let ready = store.layout.ready(&project, id);
        let mut served = record(Outcome::Succeeded, 1);
        let rebuild = record(Outcome::Failed, 2);
        for (place, record) in [
            (&ready, &served),
            (&store.layout.failed(&project, id), &rebuild),
        ] {
            std::fs::create_dir_all(place).unwrap();
            record::write(place, record, Durability::OnReturn).unwrap();
        }
        std::thread::scope(|threads| {
            let marking = store.marking.lock();
            let taking_over = threads.spawn(|| store.take_over_failed(&project));
            served.internal.durable = true;
            record::write(&ready, &served, Durability::OnReturn).unwrap();
            drop(marking);
            taking_over.join().unwrap().unwrap();
        });
        let now = record::read(&ready).unwrap().unwrap();
        assert!(now.internal.durable, "the mark was overwritten");
        assert_eq!(
            (now.view.numbers, now.view.flaky),
            (now.view.number + 1, true)
        );
    }
}
