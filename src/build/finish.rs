//! The end of a build: its record is completed, its directory is put in place, its data is made durable.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::sync::Arc;

use jiff::Timestamp;
use rustix::fs::{Mode, OFlags};

use super::disk::make_directory;
use super::error::{Error, disk_error};
use super::lines::{Section, excerpt};
use super::pending::PendingBuild;
use super::publish::Published;
use super::replace::Durability;
use super::store::BuildStore;
use super::{BuildAnswer, BuildInfo, Record, layout, record};
use crate::api::{ArtifactTotals, Excerpt, ExcerptPart};
use crate::faults;
use crate::filesystem::open_writable;
use crate::job::{Cancelled, Outcome, Phase, Status};

/// The warning about a build that succeeded without artifacts.
const NOTHING_LEFT: &str = "the build left nothing in /data/artifacts";

/// The end of a build, as its record will state it.
#[derive(Clone, Debug)]
pub struct End {
    /// The outcome.
    pub outcome: Outcome,
    /// The container's exit code, if it has one.
    pub exit_code: Option<i64>,
    /// An error sentence if the build could not be run to its end.
    pub error: Option<String>,
    /// The end of standard error, for a failed build.
    pub stderr: Option<String>,
    /// The cancellation.
    pub cancelled: Option<Cancelled>,
}

impl End {
    /// A build that could not be run to its end.
    pub fn errored(sentence: String) -> End {
        End {
            outcome: Outcome::Errored,
            exit_code: None,
            error: Some(sentence),
            stderr: None,
            cancelled: None,
        }
    }
}

/// A build whose end could not be written; it is still pending.
#[derive(Debug)]
pub struct Unfinished {
    /// The build, for another attempt.
    pub build: PendingBuild,
    /// Why.
    pub error: Error,
    /// Whether its data is the cause: it leaves no space for the record, or cannot be cleaned up. Then
    /// [`PendingBuild::finish_without_data`] may succeed.
    pub is_for_data: bool,
}

/// A build that is in place, but may not be on stable storage yet.
#[must_use = "a finished build is not durable before `make_durable`"]
#[derive(Debug)]
pub struct FinishedBuild {
    store: Arc<BuildStore>,
    /// In `ready`; `None` for a failed rebuild, which is on stable storage already.
    directory: Option<PathBuf>,
    record: Record,
    /// The end of its log.
    log: String,
    warning: Option<Error>,
}

/// The reason that a build was not put in place.
struct NotInPlace {
    error: Error,
    /// See [`Unfinished::is_for_data`].
    is_for_data: bool,
}

impl PendingBuild {
    /// Ends the build: the record is completed and synced, the directory is put in place by one rename, and
    /// the link is pointed at it when it succeeded.
    ///
    /// # Errors
    /// When it cannot be written. The build is returned, still pending; if the value is lost, the next
    /// process takes it over.
    pub fn finish(mut self, end: End) -> Result<FinishedBuild, Box<Unfinished>> {
        match self.put_in_place(end) {
            Ok(Published {
                directory,
                log,
                warning,
            }) => {
                if directory.is_none() {
                    // Kept as an attempt: the artifacts at this path are those of the build that is served.
                    self.record.info.path.clear();
                    self.record.info.artifacts = Some(ArtifactTotals::default());
                }
                Ok(FinishedBuild {
                    store: self.store,
                    directory,
                    record: self.record,
                    log,
                    warning,
                })
            }
            Err(NotInPlace { error, is_for_data }) => Err(Box::new(Unfinished {
                is_for_data: is_for_data || error.is_full(),
                build: self,
                error,
            })),
        }
    }

    fn put_in_place(&mut self, end: End) -> Result<Published, NotInPlace> {
        self.record.info.warnings.clear();
        if !self.is_data_stuck {
            let is_empty = self.put_data_in_order().map_err(|error| NotInPlace {
                is_for_data: is_of_data(&error),
                error,
            })?;
            if is_empty && end.outcome == Outcome::Succeeded {
                self.record.info.warnings.push(NOTHING_LEFT.to_owned());
            }
        }
        let home = self.clear_home();
        let mut published = self.write_end(end).map_err(|error| NotInPlace {
            error,
            is_for_data: false,
        })?;
        published.warning = published.warning.or(home.err());
        Ok(published)
    }

    /// Returns whether the build left no artifacts.
    fn put_data_in_order(&mut self) -> Result<bool, Error> {
        let data = self.data();
        self.forget_opaque()
            .map_err(disk_error("remove the build's opaque params", &data))?;
        faults::point("params-removed");
        self.keep_artifacts_ours()
            .map_err(disk_error("look after the build's artifacts", &data))
    }

    fn write_end(&mut self, end: End) -> Result<Published, Error> {
        let (project, group) = (&self.record.info.project, self.record.info.group.name());
        self.record.internal.number =
            self.store
                .next_number(project, self.record.info.id, group)?;
        let excerpt = self.excerpt(&end);
        self.enter(Phase::Finishing);
        let duration = self.duration();
        self.count_time(duration);
        // Messages of the Engine may quote what the build was given or has printed.
        let error = end.error.map(|sentence| self.masked(sentence));
        let info = &mut self.record.info;
        let now = Timestamp::now();
        info.status = Status::Ready(end.outcome);
        info.exit_code = end.exit_code;
        info.duration = Some(duration);
        info.finished_at = Some(now);
        let built_until = [
            info.started_at.checked_add(duration).ok(),
            self.base_built_until(),
        ];
        let built_until = built_until.into_iter().flatten().fold(now, Timestamp::max);
        self.record.internal.built_until = Some(built_until);
        self.count_itself()?;
        let info = &mut self.record.info;
        if let Some(sentence) = error {
            info.error = Some(sentence);
        }
        info.stderr = end.stderr.map(Arc::from);
        info.excerpt = excerpt;
        if let Some(by) = end.cancelled {
            info.cancelled = Some(by);
        }
        self.record.internal.opaque.clear();
        self.record.internal.opaque_inodes.clear();
        self.record.internal.boot.clone_from(&self.store.boot);
        self.record.internal.durable = false;
        let directory = self.directory();
        record::write(&directory, &self.record.to_file(), Durability::OnReturn)
            .map_err(disk_error("write the record of the build", &directory))?;
        faults::point("finish-record");
        self.store.publish(&self.record)
    }

    /// The end of the log, for a build that did not succeed. If it cannot be read, only the log has it.
    fn excerpt(&mut self, end: &End) -> Option<Arc<Excerpt>> {
        let info = &self.record.info;
        let (part, from) = match (self.image_from, info.log_runs_from) {
            (Some(from), _) => (ExcerptPart::Image, from),
            (None, Some(from)) => (ExcerptPart::Run, from),
            (None, None) => return None,
        };
        let section = Section {
            part,
            from,
            // Who cancelled a build, and why its image could not be built, is in the record.
            with_notes: part == ExcerptPart::Run && end.outcome != Outcome::Cancelled,
        };
        if end.outcome == Outcome::Succeeded {
            return None;
        }
        let log = record::open_regular(&self.directory().join(layout::LOG)).ok()??;
        excerpt(&log, section, self.log().origins()).ok()?
    }

    /// Sets what depends on the other attempts of the job, now that the outcome is known.
    fn count_itself(&mut self) -> Result<(), Error> {
        let info = &self.record.info;
        let served = self.store.ready(&info.project, info.id)?;
        let flaky = self.store.is_flaky(info, served.as_ref())?;
        let info = &mut self.record.info;
        (info.numbers, info.flaky) = (info.numbers.max(info.number), flaky);
        Ok(())
    }

    /// The latest time of any file cloned from the base.
    fn base_built_until(&self) -> Option<Timestamp> {
        let base = self.record.info.base?;
        let directory = self.store.layout.ready(&self.record.info.project, base);
        record::read(&directory).ok()??.internal.built_until
    }

    /// Ends a build that [`PendingBuild::finish`] or a start has failed for: as errored, with the reason in
    /// `error`. Its data is removed, opaque params included, and so is whatever was in the way; what cannot
    /// be removed now is moved to the trash and retried. Data that allows neither stays where it is.
    ///
    /// # Errors
    /// When the record cannot be written.
    pub fn finish_without_data(mut self, error: &Error) -> Result<FinishedBuild, Box<Unfinished>> {
        // A file that cannot be emptied is removed with the data, if that is possible.
        let _ = self.empty_opaque();
        let discarded = self.store.discard(&self.directory());
        // On a full disk only the record lacks space; the data is not the cause.
        self.is_data_stuck = discarded.is_err_and(|error| !error.is_full());
        self.finish(End::errored(error.to_string()))
    }

    /// Moves the build's data out of it: a container that may still be running writes there, and its output
    /// is in no build. The opaque params that this process wrote there are emptied.
    ///
    /// # Errors
    /// When a system call fails.
    pub fn put_data_aside(&mut self) -> Result<(), Error> {
        let data = self.data();
        self.empty_opaque()
            .map_err(disk_error("remove the build's opaque params", &data))?;
        let aside = self.store.throw_away(&data);
        aside.map_err(disk_error("put the build's data aside", &data))?;
        self.put_home_aside()
    }

    /// Ensures that artifacts are served from a real directory: a link that the container put in its place
    /// would lead transports that work by path to anywhere on the host. Returns whether it is empty.
    fn keep_artifacts_ours(&self) -> io::Result<bool> {
        let Some(data) = open_writable(rustix::fs::CWD, &self.data())? else {
            return Ok(true);
        };
        let is_made = make_directory(data.as_fd(), layout::ARTIFACTS)?;
        Ok(is_made || is_empty(data.as_fd(), layout::ARTIFACTS))
    }
}

impl FinishedBuild {
    /// The public info of the build.
    pub fn info(&self) -> &BuildInfo {
        &self.record.info
    }

    /// The answer for its clients, with the end of its log.
    pub fn answer(&self) -> BuildAnswer {
        BuildAnswer::new(self.record.info.clone(), Some(self.log.clone()))
    }

    /// The error of linking or clearing after the build was put in place; for the journal.
    pub fn warning(&self) -> Option<&Error> {
        self.warning.as_ref()
    }

    /// Syncs everything of the build and marks it durable; until then it counts as absent after a power cut.
    /// Then removes the build that it replaced, and attempts past the bounds.
    ///
    /// # Errors
    /// When a system call fails; the build is valid all the same, until the next boot.
    pub fn make_durable(self) -> Result<(), Error> {
        let (store, info) = (self.store, &self.record.info);
        if let Some(directory) = self.directory {
            store
                .make_durable(std::slice::from_ref(&directory))
                .map_err(disk_error("bring the build to stable storage", &directory))?;
        }
        faults::point("settled");
        store.prune_attempts(&info.project, info.id)?;
        store.bound_attempts()?;
        store.empty_trash()
    }
}

/// Whether a directory is known to have no entries.
fn is_empty(parent: BorrowedFd<'_>, name: &str) -> bool {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let opened = rustix::fs::openat(parent, name, flags, Mode::empty());
    // A build may have made it unreadable, which is not worth more effort.
    let Ok(mut entries) = opened.and_then(rustix::fs::Dir::new) else {
        return false;
    };
    let is_entry = |name: &CStr| !matches!(name.to_bytes(), b"." | b"..");
    !entries.any(|entry| entry.map_or(true, |entry| is_entry(entry.file_name())))
}

/// Whether the data caused the error, so that another attempt fails as well. Otherwise the host was short of
/// a resource for a moment, such as descriptors or memory.
fn is_of_data(error: &Error) -> bool {
    let kind = error.io().map(io::Error::kind);
    let is_refused = matches!(
        kind,
        Some(io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem)
    );
    is_refused || error.is_full()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use rustix::io::Errno;

    use super::*;

    #[test]
    fn data_is_discarded_only_for_an_error_of_the_data_itself() {
        let is_of_data =
            |errno: Errno| is_of_data(&disk_error("do it", Path::new("/x"))(errno.into()));
        for errno in [
            Errno::ACCESS,
            Errno::PERM,
            Errno::ROFS,
            Errno::NOSPC,
            Errno::DQUOT,
        ] {
            assert!(is_of_data(errno), "{errno}");
        }
        for errno in [
            Errno::MFILE,
            Errno::NFILE,
            Errno::NOMEM,
            Errno::INTR,
            Errno::IO,
        ] {
            assert!(!is_of_data(errno), "{errno}");
        }
    }
}
