//! A build that is not over.
//!
//! [`PendingBuild`] owns the directory in `pending/` and the open log. Only
//! [`PendingBuild::finish`] makes it ready. When the value is lost (a crash, an end of the
//! daemon), the directory stays where it is and the next process takes it over.
//!
//! What the container may have put in the place of our names is never followed: the params
//! are written and removed beneath a handle on `data`, which the container cannot replace.

use std::fs::File;
use std::io;
use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::error::{Error, disk_error};
use super::store::BuildStore;
use super::{
    Bookkeeping, BuildInfo, BuildLog, Change, Phase, Record, Since, Stopped, layout, record,
};
use crate::filesystem::Interrupt;
use crate::job::JobId;
use crate::project::ProjectName;

/// Who a build is inside its container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct User {
    /// Its number.
    pub user: u32,
    /// That of its group.
    pub group: u32,
    /// What we make is given to them. False where we may not, or need not: then it is ours.
    pub is_given: bool,
}

impl User {
    /// Gives them what we made.
    pub(super) fn own(&self, made: BorrowedFd<'_>) -> io::Result<()> {
        if self.is_given {
            rustix::fs::fchown(
                made,
                Some(rustix::process::Uid::from_raw(self.user)),
                Some(rustix::process::Gid::from_raw(self.group)),
            )?;
        }
        Ok(())
    }
}

impl std::fmt::Display for User {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.user, self.group)
    }
}

/// A build that is not over.
#[must_use = "a pending build must be finished, or it waits for the daemon's next process"]
#[derive(Debug)]
pub struct PendingBuild {
    pub(super) store: Arc<BuildStore>,
    pub(super) project: ProjectName,
    pub(super) id: JobId,
    pub(super) record: Record,
    log: BuildLog,
    /// When its container had ended, where that was not just now.
    pub(super) ended: Option<Since>,
    /// Its data can be neither put in order nor removed, and is left as it is.
    pub(super) is_data_stuck: bool,
    /// How its context differs from that of its base, until the image is known.
    pub(super) change: Option<Change>,
    /// The files of opaque params that this process wrote, a bounded number.
    pub(super) opaque_files: Vec<File>,
    /// Ends the cloning of its data early.
    pub(super) interrupt: Interrupt,
}

impl PendingBuild {
    /// The log goes on at the end of `log`.
    pub(super) fn new(
        store: Arc<BuildStore>,
        project: ProjectName,
        id: JobId,
        record: Record,
        log: File,
    ) -> io::Result<PendingBuild> {
        let written = log.metadata()?.len();
        store.enter(&project, id, &record.info, None, true);
        Ok(PendingBuild {
            store,
            project,
            id,
            record,
            log: BuildLog::new(log, written),
            ended: None,
            is_data_stuck: false,
            change: None,
            opaque_files: Vec::new(),
            interrupt: Interrupt::default(),
        })
    }

    /// Ends the making of its data early, which then fails: for a build that is not to begin after all.
    pub fn interrupt(&self) -> Interrupt {
        self.interrupt.clone()
    }

    /// What is told about it.
    pub fn info(&self) -> &BuildInfo {
        &self.record.info
    }

    /// What the daemon notes for itself about it.
    pub fn internal(&self) -> &Bookkeeping {
        &self.record.internal
    }

    /// The record, to be changed; it is on disk after the next [`PendingBuild::save`].
    pub fn record_mut(&mut self) -> &mut Record {
        &mut self.record
    }

    /// The log.
    pub fn log(&mut self) -> &mut BuildLog {
        &mut self.log
    }

    /// What is mounted at `/data`.
    pub fn data(&self) -> PathBuf {
        self.directory().join(layout::DATA)
    }

    pub(super) fn directory(&self) -> PathBuf {
        self.store.layout.pending(&self.project, self.id)
    }

    /// Writes the record as it is now. It survives the daemon; after a power cut there is it or the one
    /// before it.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn save(&self) -> Result<(), Error> {
        let directory = self.directory();
        record::write(&directory, &self.record, false)
            .map_err(disk_error("write the record of the build", &directory))
    }

    /// Notes that the build is in `phase` from now on.
    pub fn enter(&mut self, phase: Phase) {
        self.record.info.phase = Some(phase);
    }

    /// Writes down which container of which image is about to be started: from then on the build can
    /// be adopted, and its time runs. What the log holds came before the container's own output.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn start(&mut self, container: String, image: String) -> Result<(), Error> {
        let internal = &mut self.record.internal;
        internal.container = Some(container.clone());
        internal.log_offset = self.log.bytes();
        self.record.info.image = Some(image);
        self.record.info.container = Some(container);
        self.start_clock();
        self.save()
    }

    /// Its time runs from now on: its container is about to be started.
    pub fn start_clock(&mut self) {
        let internal = &mut self.record.internal;
        let now = Since::now();
        internal.running_since = Some(now.wall());
        internal.running_uptime = now.uptime();
        let limit = internal.limits.job_timeout.map(Duration::from_millis);
        internal.deadline = limit.and_then(|limit| now.wall().checked_add(limit).ok());
    }

    /// Since when its container runs; `None` before it is started.
    pub fn running(&self) -> Option<Since> {
        let internal = &self.record.internal;
        let since = internal.running_since?;
        Some(Since::recorded(since, internal.running_uptime))
    }

    /// Decides how the build ends, and writes that down on stable storage: from then on it ends so,
    /// whatever dies before. What was decided already stays.
    ///
    /// # Errors
    /// When it cannot be written; then nothing is decided.
    pub fn stop(&mut self, stopped: Stopped) -> Result<(), Error> {
        if self.record.internal.stopped.is_some() {
            return Ok(());
        }
        let mut record = self.record.clone();
        record.info.cancelled.clone_from(&stopped.cancelled);
        record.internal.stopped = Some(stopped);
        let directory = self.directory();
        record::write(&directory, &record, true)
            .map_err(disk_error("write the record of the build", &directory))?;
        self.record = record;
        Ok(())
    }

    /// Notes that the container has ended: just now, or at the moment that the Engine told.
    pub fn container_ended(&mut self, at: Option<Timestamp>) {
        let Some(running) = self.running() else {
            return;
        };
        let told = at.and_then(|at| running.until(at));
        let ran = told.unwrap_or_else(|| running.elapsed());
        self.record.info.phases.run = Some(u64::try_from(ran.as_millis()).unwrap_or(u64::MAX));
        // Of one that ended unwatched, the time counts at which it did.
        self.ended = at.and(told).map(|ran| running.later(ran));
    }

    /// How long the build has taken, to the end of its container where that was not just now.
    pub(super) fn duration(&self) -> Duration {
        let internal = &self.record.internal;
        let started = Since::recorded(self.record.info.started_at, internal.started_uptime);
        let over = self.ended.map(|ended| ended.elapsed()).unwrap_or_default();
        started.elapsed().saturating_sub(over)
    }

    /// Bytes of the container's output that the log holds already.
    pub fn known(&self) -> u64 {
        self.log
            .bytes()
            .saturating_sub(self.record.internal.log_offset)
    }
}
