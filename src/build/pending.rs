//! An unfinished build.
//!
//! [`PendingBuild`] owns the directory in `pending/` and the open log. Only
//! [`PendingBuild::finish`] makes it ready. When the value is lost (a crash, an end of the
//! daemon), the directory stays where it is and the next process takes it over.
//!
//! Anything that the container may have put in place of the daemon's files is never followed: the params are
//! written and removed beneath a handle on `data`, which the container cannot replace.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::error::{Error, disk_error};
use super::masks::{MaskedNames, Masks};
use super::replace::Durability;
use super::store::BuildStore;
use super::{Bookkeeping, BuildInfo, BuildLog, Change, Record, Since, Stopped, layout, record};
use crate::filesystem::Interrupt;
use crate::job::{Phase, Status};

/// The user of a build inside its container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct User {
    /// Its uid.
    pub user: u32,
    /// Its gid.
    pub group: u32,
    /// Files that the daemon creates are given to it. False if that is not allowed, or not needed.
    pub owns_created_files: bool,
}

impl User {
    /// Gives it a created file.
    pub(super) fn chown(&self, made: BorrowedFd<'_>) -> io::Result<()> {
        if self.owns_created_files {
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

/// An unfinished build.
#[must_use = "a pending build must be finished, or it waits for the daemon's next process"]
#[derive(Debug)]
pub struct PendingBuild {
    pub(super) store: Arc<BuildStore>,
    pub(super) record: Record,
    log: BuildLog,
    /// The phase to which the time since the last change belongs.
    pub(super) timed: Phase,
    /// The byte of the log at which the output of an image build begins that has not succeeded yet.
    pub(super) image_from: Option<u64>,
    /// When its container ended, if that was not just now.
    pub(super) ended: Option<Since>,
    /// Its data can be neither repaired nor removed, and is left as it is.
    pub(super) is_data_stuck: bool,
    /// How its context differs from that of its base, until the image is known.
    pub(super) change: Option<Change>,
    /// The files of opaque params that this process wrote, a bounded number.
    pub(super) opaque_files: Vec<File>,
    /// Interrupts the cloning of its data.
    pub(super) interrupt: Interrupt,
    /// The secrets that are masked in its log.
    masks: Option<Arc<Masks>>,
}

impl PendingBuild {
    /// A build with its record and its log.
    pub(super) fn new(store: Arc<BuildStore>, record: Record, log: BuildLog) -> PendingBuild {
        let (masks, _) = masks_of(&record.internal);
        store.enter(&record.info);
        PendingBuild {
            store,
            timed: record.info.phase().unwrap_or(Phase::Finishing),
            image_from: None,
            record,
            log,
            ended: None,
            is_data_stuck: false,
            change: None,
            opaque_files: Vec::new(),
            interrupt: Interrupt::default(),
            masks,
        }
    }

    /// Interrupts the creation of its data, which then fails: for a build that must not start after all.
    pub fn interrupt(&self) -> Interrupt {
        self.interrupt.clone()
    }

    /// The public info of the build.
    pub fn info(&self) -> &BuildInfo {
        &self.record.info
    }

    /// The daemon's internal part of the record.
    pub fn internal(&self) -> &Bookkeeping {
        &self.record.internal
    }

    /// The record, mutable; changes are on disk after the next [`PendingBuild::save`].
    pub fn record_mut(&mut self) -> &mut Record {
        &mut self.record
    }

    /// The log.
    pub fn log(&mut self) -> &mut BuildLog {
        &mut self.log
    }

    /// Masks the values of opaque params of these names in the log, as far as they are neither too short nor
    /// too long; the next [`PendingBuild::save`] makes that last. Compiling the masks may take some
    /// milliseconds.
    pub fn mask(&mut self, names: BTreeSet<String>) -> MaskedNames {
        let internal = &mut self.record.internal;
        internal.masked = names;
        let (masks, names) = masks_of(internal);
        self.masks = masks;
        internal.masked = names.masked.iter().cloned().collect();
        names
    }

    /// The secrets that are masked in the log.
    pub fn masks(&self) -> Option<Arc<Masks>> {
        self.masks.clone()
    }

    /// A text about the build without its secrets.
    pub fn masked(&self, text: String) -> String {
        match &self.masks {
            Some(masks) => masks.mask(&text),
            None => text,
        }
    }

    /// The directory mounted at `/data`.
    pub fn data(&self) -> PathBuf {
        self.directory().join(layout::DATA)
    }

    pub(super) fn directory(&self) -> PathBuf {
        let info = &self.record.info;
        self.store.layout.pending(&info.project, info.id)
    }

    /// Writes the current record. It survives the daemon; after a power cut either it or the previous one
    /// exists.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn save(&self) -> Result<(), Error> {
        let directory = self.directory();
        record::write(&directory, &self.record.to_file(), Durability::Whole)
            .map_err(disk_error("write the record of the build", &directory))
    }

    /// Sets the phase of the build.
    pub fn enter(&mut self, phase: Phase) {
        self.time(phase);
        self.record.info.status = Status::Pending(phase);
    }

    /// Starts the build: it has its slot, and its duration is counted from now on.
    pub fn begin(&mut self) {
        let now = Since::now();
        self.record.info.started_at = now.wall();
        self.record.internal.started_uptime = now.uptime();
        self.timed = Phase::Preparing;
    }

    /// From now on, time counts for this phase; the time before it counts for the phase before.
    pub fn time(&mut self, phase: Phase) {
        if self.timed != phase {
            self.count_time(self.duration());
            self.timed = phase;
        }
    }

    /// Counts the part of the build's `duration` that belongs to no phase yet for the current one: so the
    /// phases add up to it.
    pub(super) fn count_time(&mut self, duration: Duration) {
        let phases = &mut self.record.info.phases;
        let milliseconds = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        // Time in the queue is no part of the duration, unless the build ended there.
        let waited = phases.waiting.filter(|_| phases.snapshot.is_none());
        let counted = match self.timed {
            Phase::Finishing => [waited, phases.snapshot, phases.image, phases.run],
            _ => [None, phases.snapshot, phases.image, phases.run],
        };
        let counted: u64 = counted.into_iter().flatten().sum();
        let rest = milliseconds.saturating_sub(counted);
        match self.timed {
            Phase::Queued => *phases.waiting.get_or_insert_default() = milliseconds,
            Phase::Preparing => *phases.snapshot.get_or_insert_default() += rest,
            Phase::Imaging => *phases.image.get_or_insert_default() += rest,
            Phase::Running => *phases.run.get_or_insert_default() += rest,
            Phase::Finishing => phases.finish = Some(rest),
        }
    }

    /// An image is about to be looked up, or built with its output in the log.
    pub fn image_begins(&mut self) {
        self.image_from = Some(self.log.bytes());
    }

    /// The image is there.
    pub fn image_found(&mut self, id: String) {
        self.image_from = None;
        self.record.info.image = Some(id);
    }

    /// Records which container of which image is about to be started: from then on the build can be adopted,
    /// and its time runs. The log so far precedes the container's own output.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn start(&mut self, container: String, image: String) -> Result<(), Error> {
        let internal = &mut self.record.internal;
        internal.container = Some(container.clone());
        internal.log_offset = self.log.bytes();
        self.record.info.log_runs_from = Some(internal.log_offset);
        self.record.info.image = Some(image);
        self.record.info.container = Some(container);
        self.start_clock();
        self.save()
    }

    /// Records that its container could not be started.
    pub fn not_started(&mut self) {
        self.record.internal.running_since = None;
        self.record.info.log_runs_from = None;
    }

    /// Starts the container's time: it is about to be started.
    pub fn start_clock(&mut self) {
        let internal = &mut self.record.internal;
        let now = Since::now();
        internal.running_since = Some(now.wall());
        internal.running_uptime = now.uptime();
        let limit = internal.limits.job_timeout.map(Duration::from_millis);
        internal.deadline = limit.and_then(|limit| now.wall().checked_add(limit).ok());
    }

    /// The start of its container; `None` before.
    pub fn running(&self) -> Option<Since> {
        let internal = &self.record.internal;
        let since = internal.running_since?;
        Some(Since::recorded(since, internal.running_uptime))
    }

    /// Decides how the build ends, and syncs that to disk: from then on it ends so, even if a process dies
    /// before. An earlier decision stays.
    ///
    /// # Errors
    /// When it cannot be written; then nothing is decided.
    pub fn stop(&mut self, stopped: Stopped) -> Result<(), Error> {
        if self.record.internal.stopped.is_some() {
            return Ok(());
        }
        let mut record = self.record.clone();
        record.info.cancelled.clone_from(&stopped.cancelled);
        record.info.stopping = true;
        record.internal.stopped = Some(stopped);
        let directory = self.directory();
        record::write(&directory, &record.to_file(), Durability::OnReturn)
            .map_err(disk_error("write the record of the build", &directory))?;
        self.record = record;
        Ok(())
    }

    /// Records that the container has ended: just now, or at the time that the Engine reported.
    pub fn container_ended(&mut self, at: Option<Timestamp>) {
        let Some(running) = self.running() else {
            return;
        };
        // If it ended unobserved, its recorded end time counts.
        let reported = at.and_then(|at| running.until(at));
        self.ended = reported.map(|ran| running.later(ran));
        self.time(Phase::Finishing);
    }

    /// The duration of the build, to the end of its container if that was not just now.
    pub(super) fn duration(&self) -> Duration {
        let internal = &self.record.internal;
        let started = Since::recorded(self.record.info.started_at, internal.started_uptime);
        let over = self.ended.map(|ended| ended.elapsed()).unwrap_or_default();
        started.elapsed().saturating_sub(over)
    }

    /// Bytes of the container's output, as it is masked, that are already in the log.
    pub fn known(&self) -> u64 {
        self.log
            .bytes()
            .saturating_sub(self.record.internal.log_offset)
    }
}

/// The masks of the secrets that a record names.
fn masks_of(internal: &Bookkeeping) -> (Option<Arc<Masks>>, MaskedNames) {
    let secrets = internal.masked.iter().filter_map(|name| {
        let value = internal.opaque.get(name)?;
        Some((name.as_str(), &**value))
    });
    let secrets: BTreeMap<&str, &str> = secrets.collect();
    let (masks, names) = Masks::new(&secrets);
    (masks.map(Arc::new), names)
}
