//! Builds that a previous process left in `pending`: they are found and taken over.
//!
//! A build that had its container is adopted as it is, and its log is continued. Any other build is run again
//! with a new container; the log keeps what was printed so far, so that a client that follows it misses
//! nothing and sees nothing twice.

use std::io;
use std::sync::Arc;

use super::disk::list_ids;
use super::error::{Error, disk_error};
use super::layout;
use super::log::BuildLog;
use super::pending::PendingBuild;
use super::replace::Durability;
use super::store::BuildStore;
use super::{Bookkeeping, Record, RecordFile, Since, record};
use crate::faults;
use crate::job::{JobId, Phase, State, Status};
use crate::project::ProjectName;

/// A build that a previous process of the daemon, or the first mistry, left in `pending`.
#[derive(Debug)]
pub struct OrphanedBuild {
    /// Its project.
    pub project: ProjectName,
    /// Its id.
    pub id: JobId,
    /// Its record, if it can be parsed.
    pub record: Option<Record>,
}

const LIST: &str = "list what an earlier process left";

impl BuildStore {
    /// Every build in `pending`, in order of acceptance, after builds that lacked only their rename were put
    /// in place. Unreadable builds are skipped; the second value is the first error.
    pub fn orphaned_builds(&self) -> (Vec<OrphanedBuild>, Option<Error>) {
        let mut first_error = None;
        let mut note = |error: Error| {
            first_error.get_or_insert(error);
        };
        // First the resets: a link that they remove must not be completed.
        for completed in [self.complete_resets(), self.complete_links()] {
            if let Err(error) = completed {
                note(error);
            }
        }
        let mut found = Vec::new();
        let projects = self.projects().unwrap_or_else(|error| {
            note(disk_error(LIST, self.root())(error));
            Vec::new()
        });
        for project in projects {
            for done in [
                self.take_over_failed(&project),
                self.remove_links_to_nothing(&project),
            ] {
                if let Err(error) = done {
                    note(error);
                }
            }
            let builds = self.layout.builds(&project, State::Pending);
            let ids = list_ids(&builds).unwrap_or_else(|error| {
                note(disk_error(LIST, &builds)(error));
                Vec::new()
            });
            for id in ids {
                match self.orphaned_build(&project, id) {
                    Ok(orphan) => found.extend(orphan),
                    Err(error) => note(error),
                }
            }
        }
        found.sort_by_key(|orphan| {
            let record = orphan.record.as_ref();
            record.and_then(|record| record.info.queued_at)
        });
        (found, first_error)
    }

    /// A build in `pending` that must be taken over; `None` when it only had to be put in place or removed.
    fn orphaned_build(
        &self,
        project: &ProjectName,
        id: JobId,
    ) -> Result<Option<OrphanedBuild>, Error> {
        let directory = self.layout.pending(project, id);
        let list = disk_error(LIST, &directory);
        let mut record = record::read(&directory).map_err(&list)?;
        let is_ready = |record: &RecordFile| record.view.state == State::Ready;
        let finished = record.take_if(|record| is_ready(record) && self.survived(&record.internal));
        if let Some(finished) = finished {
            let path = self.layout.served(project, id);
            self.complete_finished(&finished.complete(project, id, State::Ready, path))?;
            return Ok(None);
        }
        // The job already has its result, and no new one was requested.
        if record
            .as_ref()
            .is_some_and(|record| is_ready(record) && !record.internal.rebuild && !record.view.cold)
            && matches!(self.find_ready(project, id), Ok(Some(_)))
        {
            self.throw_away(&directory).map_err(list)?;
            return Ok(None);
        }
        // A process that ended while it wrote the job has not told any client that it was accepted.
        if record.is_none() && self.is_begun_only(project, id) {
            self.throw_away(&directory).map_err(list)?;
            return Ok(None);
        }
        // Lists show it from now on, taken over or not. An end that a power cut undid does not count: the job
        // is built again.
        let path = self.layout.served(project, id);
        let mut record = record.map(|record| record.complete(project, id, State::Pending, path));
        if let Some(record) = &mut record {
            self.number_anew(record)?;
            self.enter(&record.info);
        }
        Ok(Some(OrphanedBuild {
            project: project.clone(),
            id,
            record,
        }))
    }

    /// Numbers a build whose record is of an earlier version, and has no number yet.
    fn number_anew(&self, record: &mut Record) -> Result<(), Error> {
        let info = &mut record.info;
        let (next, flaky) = self.next_attempt(&info.project, info.id)?;
        info.number = info.number.max(next);
        info.numbers = info.numbers.max(info.number);
        info.flaky |= flaky;
        Ok(())
    }

    /// True when the build has only its directory and an empty log.
    fn is_begun_only(&self, project: &ProjectName, id: JobId) -> bool {
        let directory = self.layout.pending(project, id);
        let is_absent = |name| {
            let found = directory.join(name).symlink_metadata();
            found.is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
        };
        let log = directory.join(layout::LOG).symlink_metadata();
        is_absent(layout::RECORD)
            && is_absent(layout::DATA)
            && log.map_or(true, |log| log.is_file() && log.len() == 0)
    }

    /// True when a build with this record may still be running: its container was created in this boot.
    pub fn has_container(&self, record: &Bookkeeping) -> bool {
        record.container.is_some() && record.boot == self.boot
    }

    /// True when the record of a pending build names this container as its own. An unreadable record counts
    /// as yes: leaving a container alone loses nothing.
    pub fn awaits(&self, project: &ProjectName, id: JobId, container: &str) -> bool {
        match record::read(&self.layout.pending(project, id)) {
            Ok(record) => record.is_some_and(|record| {
                record.view.state == State::Pending
                    && self.has_container(&record.internal)
                    && record.internal.container.as_deref() == Some(container)
            }),
            Err(_) => true,
        }
    }

    /// The record of a pending build whose own cannot be read.
    pub fn empty_record(&self, project: &ProjectName, id: JobId) -> Record {
        let path = self.layout.served(project, id);
        let mut record = RecordFile::default().complete(project, id, State::Pending, path);
        // Without it, it ends as the first attempt.
        let _ = self.number_anew(&mut record);
        record
    }

    /// Adopts a build as a previous process left it: its log is continued.
    ///
    /// # Errors
    /// When a system call fails; the orphaned build stays for the next process.
    pub fn adopt(self: &Arc<Self>, mut record: Record) -> Result<PendingBuild, Error> {
        let (project, id) = (record.info.project.clone(), record.info.id);
        record.internal.boot.clone_from(&self.boot);
        let directory = self.layout.pending(&project, id);
        let take_over = disk_error("take over an interrupted build", &directory);
        let log = BuildLog::open(&directory).map_err(take_over)?;
        Ok(PendingBuild::new(self.clone(), record, log))
    }

    /// Recovers a build whose task in this process was lost, from its record; `None` when it is not pending.
    ///
    /// # Errors
    /// When a system call fails.
    pub fn take_back(
        self: &Arc<Self>,
        project: &ProjectName,
        id: JobId,
    ) -> Result<Option<PendingBuild>, Error> {
        let directory = self.layout.pending(project, id);
        let record = record::read(&directory)
            .map_err(disk_error("read the record of a build", &directory))?;
        match record.filter(|record| record.view.state == State::Pending) {
            Some(record) => {
                let path = self.layout.served(project, id);
                let record = record.complete(project, id, State::Pending, path);
                self.adopt(record).map(Some)
            }
            None => Ok(None),
        }
    }

    /// Takes over a job whose build must be run, or run again: partial results are removed, the record and
    /// the log are kept.
    ///
    /// # Errors
    /// When a system call fails; the orphaned build stays for the next process. When partial results can be
    /// neither removed nor set aside; then the build has ended as errored.
    pub fn resume(self: &Arc<Self>, record: Record) -> Result<PendingBuild, Error> {
        // A build that was only queued has not been attempted yet.
        let was_begun = record.info.status != Status::Pending(Phase::Queued);
        let mut pending = self.adopt(record)?;
        let begun = match was_begun {
            true => pending.begin_container_retry(),
            false => pending.begin_again(),
        };
        match begun {
            Ok(()) => Ok(pending),
            // Data that cannot be removed now cannot be removed at the next start either.
            Err(error) if matches!(error, Error::Tree(..)) && !error.is_full() => {
                match pending.finish_without_data(&error) {
                    Ok(finished) => finished.make_durable().and(Err(error)),
                    Err(unfinished) => Err(unfinished.error),
                }
            }
            Err(error) => Err(error),
        }
    }
}

impl PendingBuild {
    /// Begins a container retry, and resets the build: partial results are removed, the log is kept.
    ///
    /// # Errors
    /// When a system call fails.
    pub fn begin_container_retry(&mut self) -> Result<(), Error> {
        self.record.info.container_tries += 1;
        self.begin_again()
    }

    fn begin_again(&mut self) -> Result<(), Error> {
        let (directory, store) = (self.directory(), self.store.clone());
        let now = Since::now();
        self.record.info.forget_container_try(now.wall());
        let internal = &mut self.record.internal;
        internal.started_uptime = now.uptime();
        internal.running_uptime = None;
        internal.container = None;
        internal.running_since = None;
        internal.deadline = None;
        internal.durable = false;
        // They belong to the previous container.
        (self.change, self.ended, self.image_from) = (None, None, None);
        self.timed = Phase::Queued;
        // Data that cannot be removed is moved to the trash as it is.
        self.empty_opaque()
            .map_err(disk_error("remove the build's opaque params", &directory))?;
        store.discard(&directory)?;
        self.clear_home()?;
        faults::point("data-cleared");
        record::write(&directory, &self.record.to_file(), Durability::OnReturn)
            .map_err(disk_error("take over an interrupted build", &directory))
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{PermissionsExt, chown};
    use std::path::{Path, PathBuf};

    use rustix::process::{Uid, geteuid};
    use rustix::thread::set_thread_res_uid;

    use super::*;
    use crate::build::{Requested, User};
    use crate::filesystem::Filesystem;
    use crate::job::Job;
    use crate::project::{ArtifactsStart, Projects};

    const SECRET: &str = "only-for-the-build";
    /// The user `nobody`.
    const NOBODY: u32 = 65534;

    /// Starts a build of a job with an opaque param, in its own build path with its own data and home.
    fn begun(home: &Path) -> PendingBuild {
        let builds = home.join("builds");
        fs::create_dir(&builds).unwrap();
        fs::create_dir_all(home.join("projects/p")).unwrap();
        fs::write(home.join("projects/p/Dockerfile"), "FROM scratch\n").unwrap();
        let projects = Projects::new(&home.join("projects"));
        let context = projects.context(&"p".parse().unwrap()).unwrap();
        let params = [("_token".parse().unwrap(), SECRET.into())];
        let job = Job {
            project: "p".parse().unwrap(),
            group: None,
            params: params.into(),
            context: context.digest(),
        };
        let store = Arc::new(BuildStore::open(&builds, Filesystem::Plain).unwrap());
        let mut pending = store
            .accept(&job, job.id(), &context, Requested::default())
            .unwrap();
        let user = User {
            user: 0,
            group: 0,
            owns_created_files: false,
        };
        let kept = ArtifactsStart::Kept;
        pending.prepare(&job.params, &user, &context, kept).unwrap();
        pending.make_home(&[], &user).unwrap();
        pending
    }

    fn set_mode(path: PathBuf, mode: u32) {
        fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }

    /// Runs a test without capabilities, in a directory owned by that user. Only its thread changes its user.
    fn without_capabilities(test: fn(&Path)) {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().to_owned();
        if geteuid().is_root() {
            chown(&path, Some(NOBODY), None).unwrap();
        }
        let thread = std::thread::spawn(move || {
            if geteuid().is_root() {
                let user = Uid::from_raw(NOBODY);
                set_thread_res_uid(user, user, user).unwrap();
            }
            test(&path);
        });
        thread.join().unwrap();
    }

    #[test]
    fn data_and_home_without_permissions_are_moved_to_the_trash() {
        without_capabilities(|home| {
            for (of_data, of_home) in [(0o555, 0o700), (0o700, 0o555), (0o000, 0o000)] {
                let place = home.join(format!("{of_data}-{of_home}"));
                fs::create_dir(&place).unwrap();
                let mut pending = begun(&place);
                set_mode(pending.data(), of_data);
                set_mode(pending.directory().join(layout::HOME), of_home);
                pending.put_data_aside().unwrap();
                assert!(!pending.data().exists());
                assert!(!pending.directory().join(layout::HOME).exists());
                pending.begin_container_retry().unwrap();
                pending.store.empty_trash().unwrap();
                let trash = pending.store.layout.trash();
                assert_eq!(fs::read_dir(trash).unwrap().count(), 0);
            }
        });
    }
    #[test]
    fn an_opaque_param_that_was_moved_is_emptied_by_a_process_that_did_not_write_it() {
        without_capabilities(|home| {
            let mut pending = begun(home);
            // As after a start of the daemon: no file is held open.
            pending.opaque_files.clear();
            let data = pending.data();
            fs::rename(data.join("params/_token"), data.join("cache/moved")).unwrap();
            fs::hard_link(data.join("cache/moved"), data.join("artifacts/linked")).unwrap();
            set_mode(data.join("cache/moved"), 0o400);
            set_mode(data.join("cache"), 0o500);
            fs::write(data.join("artifacts/of-its-own"), SECRET).unwrap();
            pending.forget_opaque().unwrap();
            for name in ["cache/moved", "artifacts/linked"] {
                assert_eq!(fs::read(data.join(name)).unwrap(), b"", "{name}");
            }
            // Files that the build wrote itself belong to it.
            let own = fs::read_to_string(data.join("artifacts/of-its-own")).unwrap();
            assert_eq!(own, SECRET);
        });
    }

    #[test]
    fn opaque_params_are_emptied_wherever_they_are_when_the_data_leaves_the_build() {
        let leave: [fn(PendingBuild); 3] = [
            |mut pending| pending.begin_container_retry().unwrap(),
            |mut pending| pending.put_data_aside().unwrap(),
            |pending| {
                let error = disk_error("do it", Path::new("/x"))(io::ErrorKind::Other.into());
                drop(pending.finish_without_data(&error).unwrap());
            },
        ];
        for leave in leave {
            let home = tempfile::tempdir().unwrap();
            let pending = begun(home.path());
            // The link stands for data in the trash, or anywhere else where the build has put it.
            let link = home.path().join("link");
            fs::hard_link(pending.data().join("params/_token"), &link).unwrap();
            assert_eq!(fs::read_to_string(&link).unwrap(), SECRET);
            leave(pending);
            assert_eq!(fs::read_to_string(&link).unwrap(), "");
        }
    }
}
