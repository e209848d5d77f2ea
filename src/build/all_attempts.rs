//! The attempts of all jobs together: counted at the start, and bounded from then on.

use std::collections::BinaryHeap;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use super::disk::{list_ids, list_named};
use super::error::{Error, disk_error};
use super::layout;
use super::store::BuildStore;
use crate::job::JobId;
use crate::project::ProjectName;

/// Attempts that are removed after one walk through all of them: their times and paths take a few megabytes.
const REMOVED_PER_WALK: usize = 10_000;

const COUNT: &str = "count the earlier executions of all jobs";

/// When an attempt ended, in seconds and nanoseconds, and where it is.
type Ended = ((i64, i64), PathBuf);

impl BuildStore {
    /// Counts the space of all attempts, and removes those of jobs that have no build any more. To be called
    /// once, at the start.
    ///
    /// # Errors
    /// The first error; the rest is counted all the same.
    pub(super) fn count_attempts(&self) -> Result<(), Error> {
        let mut first_error = None;
        let mut bytes = 0_u64;
        let walked = self.each_job(|project, id| {
            let counted = self.count_job(project, id);
            match counted.map_err(disk_error(COUNT, &self.layout.attempts(project, id))) {
                Ok(job) => bytes = bytes.saturating_add(job),
                Err(error) => drop(first_error.get_or_insert(error)),
            }
        });
        self.attempts.set_bytes(bytes);
        walked?;
        self.bound_attempts()?;
        first_error.map_or(Ok(()), Err)
    }

    fn count_job(&self, project: &ProjectName, id: JobId) -> io::Result<u64> {
        // A build that is put in place or removed now.
        let _one_at_a_time = self.changing.lock();
        let places = [
            self.layout.ready(project, id),
            self.layout.pending(project, id),
        ];
        match places.iter().any(|place| place.symlink_metadata().is_ok()) {
            true => self.job_attempt_bytes(project, id),
            // The build was removed by hand, or by a process that ended before it removed these.
            false => self.remove_attempts(project, id).map(|()| 0),
        }
    }

    /// Removes the oldest of all attempts if together they take more space than they may.
    ///
    /// # Errors
    /// When a system call fails.
    pub(super) fn bound_attempts(&self) -> Result<(), Error> {
        let kept = &self.attempts;
        let is_too_much = |max: u64| kept.bytes() > max;
        if !is_too_much(kept.max_bytes) {
            return Ok(());
        }
        let Some(_alone) = kept.shrinking.try_lock() else {
            return Ok(());
        };
        // Less than allowed, so that not every build that ends from now on walks through all attempts.
        let goal = kept.max_bytes / 10 * 9;
        while is_too_much(goal) {
            let oldest = self.oldest_attempts()?;
            if oldest.is_empty() {
                break;
            }
            for (_, attempt) in oldest {
                if !is_too_much(goal) {
                    break;
                }
                let remove = disk_error("remove earlier executions of jobs", &attempt);
                self.remove_attempt(&attempt).map_err(remove)?;
            }
        }
        Ok(())
    }

    /// The attempts that ended first, oldest first.
    fn oldest_attempts(&self) -> Result<Vec<Ended>, Error> {
        let mut oldest: BinaryHeap<Ended> = BinaryHeap::new();
        self.each_job(|project, id| {
            for number in self.attempt_numbers(project, id).unwrap_or_default() {
                let attempt = self.layout.attempt(project, id, number);
                let Ok(record) = attempt.join(layout::RECORD).symlink_metadata() else {
                    continue;
                };
                oldest.push(((record.mtime(), record.mtime_nsec()), attempt));
                if oldest.len() > REMOVED_PER_WALK {
                    oldest.pop();
                }
            }
        })?;
        Ok(oldest.into_sorted_vec())
    }

    /// Calls `each` for each job that has attempts.
    fn each_job(&self, mut each: impl FnMut(&ProjectName, JobId)) -> Result<(), Error> {
        let all = self.layout.all_attempts();
        let projects: Vec<ProjectName> = list_named(&all).map_err(disk_error(COUNT, &all))?;
        for project in projects {
            let jobs = self.layout.project_attempts(&project);
            for id in list_ids(&jobs).map_err(disk_error(COUNT, &jobs))? {
                each(&project, id);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;
    use crate::build::attempts::bytes_of;
    use crate::filesystem::Filesystem;

    fn store(root: &Path) -> BuildStore {
        BuildStore::open(root, Filesystem::Plain).unwrap()
    }

    fn attempt(store: &BuildStore, id: JobId, number: u32, second: u64) -> PathBuf {
        let attempt = store.layout.attempt(&"p".parse().unwrap(), id, number);
        fs::create_dir_all(&attempt).unwrap();
        fs::write(attempt.join(layout::RECORD), "{}").unwrap();
        fs::write(attempt.join(layout::LOG), vec![b'x'; 100 << 10]).unwrap();
        let record = fs::File::options()
            .write(true)
            .open(attempt.join(layout::RECORD));
        let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(second);
        record.unwrap().set_modified(time).unwrap();
        attempt
    }

    #[test]
    fn the_oldest_attempts_go_when_all_together_take_too_much() {
        let home = tempfile::tempdir().unwrap();
        let mut store = store(home.path());
        let project: ProjectName = "p".parse().unwrap();
        let ids = ["1", "2"].map(|digit| digit.repeat(64).parse::<JobId>().unwrap());
        for id in ids {
            fs::create_dir_all(store.layout.ready(&project, id)).unwrap();
        }
        // The ends of the attempts of both jobs alternate.
        let made: Vec<PathBuf> = (0..10_u32)
            .map(|n| attempt(&store, ids[n as usize % 2], n + 1, 1_000 + u64::from(n)))
            .collect();
        let each = bytes_of(&made[0]);
        store.attempts.max_bytes = each * 5;
        store.count_attempts().unwrap();
        let left: Vec<bool> = made.iter().map(|attempt| attempt.exists()).collect();
        assert_eq!(left, [vec![false; 6], vec![true; 4]].concat());
        assert_eq!(store.attempts.bytes(), each * 4);
    }

    #[test]
    fn the_oldest_attempts_of_a_job_go_when_they_take_too_much_and_the_newest_stays() {
        let home = tempfile::tempdir().unwrap();
        let mut store = store(home.path());
        let (project, id): (ProjectName, JobId) =
            ("p".parse().unwrap(), "1".repeat(64).parse().unwrap());
        let made: Vec<PathBuf> = (1..6).map(|n| attempt(&store, id, n, 1)).collect();
        for (attempts, left) in [(3, [3, 4, 5].as_slice()), (0, &[5])] {
            store.attempts.max_job_bytes = bytes_of(&made[4]) * attempts;
            store.prune_attempts(&project, id).unwrap();
            assert_eq!(store.attempt_numbers(&project, id).unwrap(), left);
        }
    }

    #[test]
    fn attempts_without_a_build_go_at_the_start() {
        let home = tempfile::tempdir().unwrap();
        let store = store(home.path());
        let ids = ["1", "2", "3"].map(|digit| digit.repeat(64).parse::<JobId>().unwrap());
        let made = ids.map(|id| attempt(&store, id, 1, 1));
        let project = "p".parse().unwrap();
        fs::create_dir_all(store.layout.ready(&project, ids[0])).unwrap();
        fs::create_dir_all(store.layout.pending(&project, ids[1])).unwrap();
        store.count_attempts().unwrap();
        assert!(made[0].exists() && made[1].exists() && !made[2].exists());
        assert_eq!(store.attempts.bytes(), 2 * bytes_of(&made[0]));
    }
}
