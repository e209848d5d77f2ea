//! The attempts of all jobs together: counted at the start, and bounded from then on.

use std::collections::BinaryHeap;
use std::io;
use std::os::unix::fs::MetadataExt;

use super::disk::{list_ids, list_named};
use super::error::{Error, disk_error};
use super::layout;
use super::store::BuildStore;
use crate::job::JobId;
use crate::project::ProjectName;

/// Attempts that are removed after one walk through all of them: their times and paths take a few megabytes.
const REMOVED_PER_WALK: usize = 10_000;

const COUNT: &str = "count the earlier attempts of all jobs";

/// When an attempt ended, in seconds and nanoseconds, and which one it is.
type Ended = ((i64, i64), ProjectName, JobId, u32);

impl BuildStore {
    /// Counts the space of all attempts, and removes those of jobs that have no build any more. To be called
    /// once, at the start. Attempts may be added and removed meanwhile.
    ///
    /// # Errors
    /// The first error; the rest is counted all the same.
    pub(super) fn count_attempts(&self) -> Result<(), Error> {
        let counted = self.count_projects();
        self.attempts.count().end();
        let bounded = self.bound_attempts();
        counted.and(bounded)
    }

    fn count_projects(&self) -> Result<(), Error> {
        let mut first_error = None;
        for project in self.begin_count()? {
            let jobs = self.begin_project_count(&project).unwrap_or_else(|error| {
                first_error.get_or_insert(error);
                Vec::new()
            });
            for id in jobs {
                let attempts = self.layout.attempts(&project, id);
                let counted = self.count_job(&project, id);
                if let Err(error) = counted.map_err(disk_error(COUNT, &attempts)) {
                    first_error.get_or_insert(error);
                }
            }
        }
        first_error.map_or(Ok(()), Err)
    }

    /// The projects that have attempts.
    fn begin_count(&self) -> Result<Vec<ProjectName>, Error> {
        let mut count = self.attempts.count();
        let projects = self.projects_with_attempts()?;
        count.begin(&projects);
        Ok(projects)
    }

    /// The jobs of a project that have attempts.
    fn begin_project_count(&self, project: &ProjectName) -> Result<Vec<JobId>, Error> {
        let mut count = self.attempts.count();
        let jobs = self.jobs_with_attempts(project)?;
        count.begin_project(project, &jobs);
        Ok(jobs)
    }

    fn count_job(&self, project: &ProjectName, id: JobId) -> io::Result<()> {
        // A build that is put in place or removed now.
        let _one_at_a_time = self.changing.lock();
        let places = [
            self.layout.ready(project, id),
            self.layout.pending(project, id),
        ];
        if !places.iter().any(|place| place.symlink_metadata().is_ok()) {
            // The build was removed by hand, or by a process that ended before it removed these.
            self.remove_attempts(project, id)?;
        }
        let mut count = self.attempts.count();
        let bytes = self.job_attempt_bytes(project, id);
        count.count_job(project, id, *bytes.as_ref().unwrap_or(&0));
        bytes.map(drop)
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
            for (_, project, id, number) in oldest {
                if !is_too_much(goal) {
                    break;
                }
                let attempt = self.layout.attempt(&project, id, number);
                let remove = disk_error("remove earlier attempts of jobs", &attempt);
                self.remove_attempt(&project, id, number).map_err(remove)?;
            }
        }
        Ok(())
    }

    /// The attempts that ended first, oldest first.
    fn oldest_attempts(&self) -> Result<Vec<Ended>, Error> {
        let mut oldest: BinaryHeap<Ended> = BinaryHeap::new();
        for project in self.projects_with_attempts()? {
            for id in self.jobs_with_attempts(&project)? {
                for number in self.attempt_numbers(&project, id).unwrap_or_default() {
                    let attempt = self.layout.attempt(&project, id, number);
                    let Ok(record) = attempt.join(layout::RECORD).symlink_metadata() else {
                        continue;
                    };
                    let ended = (record.mtime(), record.mtime_nsec());
                    oldest.push((ended, project.clone(), id, number));
                    if oldest.len() > REMOVED_PER_WALK {
                        oldest.pop();
                    }
                }
            }
        }
        Ok(oldest.into_sorted_vec())
    }

    fn projects_with_attempts(&self) -> Result<Vec<ProjectName>, Error> {
        let all = self.layout.all_attempts();
        list_named(&all).map_err(disk_error(COUNT, &all))
    }

    fn jobs_with_attempts(&self, project: &ProjectName) -> Result<Vec<JobId>, Error> {
        let jobs = self.layout.project_attempts(project);
        list_ids(&jobs).map_err(disk_error(COUNT, &jobs))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::{Path, PathBuf};

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

    /// The bytes of all attempts, as they are on disk.
    fn on_disk(store: &BuildStore) -> u64 {
        let mut bytes = 0;
        for project in store.projects_with_attempts().unwrap() {
            for id in store.jobs_with_attempts(&project).unwrap() {
                bytes += store.job_attempt_bytes(&project, id).unwrap();
            }
        }
        bytes
    }

    #[test]
    fn what_comes_and_goes_while_all_attempts_are_counted_is_counted_once() {
        let home = tempfile::tempdir().unwrap();
        let mut store = store(home.path());
        let names = ["a", "b", "c"].map(|name| name.parse::<ProjectName>().unwrap());
        let ids = ["1", "2", "3"].map(|digit| digit.repeat(64).parse::<JobId>().unwrap());
        let from = home.path().join("from");
        fs::create_dir(&from).unwrap();
        fs::write(from.join(layout::RECORD), "{}").unwrap();
        fs::write(from.join(layout::LOG), vec![b'x'; 100 << 10]).unwrap();
        let keep = |store: &BuildStore, project: &ProjectName, id, number| {
            fs::create_dir_all(store.layout.ready(project, id)).unwrap();
            store.keep_attempt(&from, project, id, number).unwrap();
        };
        for project in &names[..2] {
            for id in &ids[..2] {
                (1..=3).for_each(|number| keep(&store, project, *id, number));
            }
        }
        let mut next = 10;
        // One attempt of each job comes and one goes: of jobs that are counted, of those that are not, and of
        // one, in an old or a new project, that was not there at the start.
        let mut change = |store: &BuildStore| {
            for project in &names {
                for id in ids {
                    keep(store, project, id, next);
                    next += 1;
                    let numbers = store.attempt_numbers(project, id).unwrap();
                    if numbers.len() > 2 {
                        store.remove_attempt(project, id, numbers[0]).unwrap();
                        // Another thread has already removed it.
                        store.remove_attempt(project, id, numbers[0]).unwrap();
                    }
                }
            }
        };
        let projects = store.begin_count().unwrap();
        change(&store);
        for project in &projects {
            let jobs = store.begin_project_count(project).unwrap();
            change(&store);
            for id in jobs {
                store.count_job(project, id).unwrap();
                change(&store);
            }
        }
        store.remove_attempts(&names[0], ids[0]).unwrap();
        store.attempts.count().end();
        assert_eq!(store.attempts.bytes(), on_disk(&store));
        change(&store);
        assert_eq!(store.attempts.bytes(), on_disk(&store));
        store.attempts.max_bytes = 1;
        store.bound_attempts().unwrap();
        assert_eq!((store.attempts.bytes(), on_disk(&store)), (0, 0));
    }
}
