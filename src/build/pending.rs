//! A build under way: half-done work that must be finished.
//!
//! [`PendingBuild`] owns the directory in `pending/` and the open log. Only
//! [`PendingBuild::finish`] makes it ready. When the value is lost (a crash, an end of the
//! daemon), the directory stays where it is and the next process takes it over.
//!
//! What the container may have put in the place of our names is never followed: the params
//! are written and removed beneath a handle on `data`, which the container cannot replace.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::base::Start;
use super::error::{Error, disk_error};
use super::store::BuildStore;
use super::{
    Bookkeeping, BuildInfo, BuildLog, Cancelled, Change, ImageRecord, NO_EXIT_CODE, Outcome, Phase,
    Record, Since, State, Stopped, layout, record, store,
};
use crate::filesystem::Interrupt;
use crate::job::{GroupName, JobId, Params};
use crate::project::{Context, ProjectName};
use crate::{faults, filesystem};

/// How a build ended, as its record will say.
#[derive(Clone, Debug)]
pub struct End {
    /// The outcome.
    pub outcome: Outcome,
    /// The container's exit code, or -999.
    pub exit_code: i64,
    /// One sentence where the build could not be run to its end.
    pub error: Option<String>,
    /// The end of standard error, for a failed build.
    pub stderr: Option<String>,
    /// Who cancelled it.
    pub cancelled: Option<Cancelled>,
}

impl End {
    /// A build that could not be run to its end.
    pub fn errored(sentence: String) -> End {
        End {
            outcome: Outcome::Errored,
            exit_code: NO_EXIT_CODE,
            error: Some(sentence),
            stderr: None,
            cancelled: None,
        }
    }
}

/// What a build's `data` began as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begun {
    /// Empty: there is no group, or nothing of it yet.
    Empty,
    /// As the group's latest build left it.
    Incremental,
    /// Empty, because the group's latest build holds what we may not read.
    BaseUnreadable,
    /// Empty, because the group's latest build belongs to another user, and we may not give its
    /// files away.
    BaseForeign,
    /// Empty, because a file has changed and is not newer than the group's latest build.
    BaseNewer,
    /// As an earlier build of the group left it that was made of the same files, for the same reason.
    Earlier,
}

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

/// A build whose end could not be written down; it is still pending.
#[derive(Debug)]
pub struct Unfinished {
    /// The build, for another try.
    pub build: PendingBuild,
    /// Why.
    pub error: Error,
    /// Whether its data was in the way: it leaves no room for the record, or cannot be put in order.
    /// Then [`PendingBuild::finish_without_data`] may do.
    pub is_for_data: bool,
}

/// A build that is in place, but may not be on stable storage yet.
#[must_use = "a finished build is not durable before [`FinishedBuild::make_durable`]"]
#[derive(Debug)]
pub struct FinishedBuild {
    store: Arc<BuildStore>,
    directory: PathBuf,
    record: Record,
    warning: Option<Error>,
}

/// A build that is not over.
#[must_use = "a pending build must be finished, or it waits for the daemon's next process"]
#[derive(Debug)]
pub struct PendingBuild {
    pub(super) store: Arc<BuildStore>,
    project: ProjectName,
    id: JobId,
    pub(super) record: Record,
    log: BuildLog,
    /// When its container had ended, where that was not just now.
    pub(super) ended: Option<Since>,
    /// Its data can be neither put in order nor removed, and is left as it is.
    is_data_stuck: bool,
    /// How its context differs from that of its base, until the image is known.
    pub(super) change: Option<Change>,
    /// The files of opaque params that this process wrote, at most [`OPAQUE_FILES`].
    pub(super) opaque_files: Vec<File>,
    /// Ends the cloning of its data early.
    interrupt: Interrupt,
}

/// Files of opaque params that are held open while a build runs, so that they are emptied in the end
/// wherever the build moved them: more than builds have, and few beside the usual 1,024 descriptors.
const OPAQUE_FILES: usize = 16;

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
    /// When the disk takes it not.
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
    /// When the disk takes it not.
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
    /// When the disk takes it not; then nothing is decided.
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
    fn duration(&self) -> Duration {
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

    /// Begins: `data` is cloned from the group's latest build, or made empty, and the params
    /// are written. A base that we may not read is no base: a build that closes a file to its own
    /// user must not end its group. Nor is one that is as new as a file that has changed since; whether
    /// it is so in the image, too, is for [`PendingBuild::reconsider`]. What the container must be able
    /// to write belongs to `user`, also where another one made the base.
    ///
    /// # Errors
    /// When the tree cannot be made or cloned.
    pub fn prepare(
        &mut self,
        params: &Params,
        user: &User,
        context: &Context,
    ) -> Result<Begun, Error> {
        let now = Since::now();
        self.record.info.started_at = now.wall();
        self.record.internal.started_uptime = now.uptime();
        let info = &self.record.info;
        self.store.enter(&self.project, self.id, info, None, true);
        // Only a group has a base; the latest build without one is never built upon.
        let start = match info.group.parse::<GroupName>() {
            Ok(group) => self.store.start(&self.project, &group, context)?,
            Err(_) => Start::default(),
        };
        self.begin_from(start, params, user)
    }

    /// Looks again at the base, now that the image is known. Where a file that differs from those of
    /// the base is not newer in the image than the base, the build begins anew without that base, and
    /// the result says how; else `None`.
    ///
    /// # Errors
    /// When the tree cannot be made or cloned.
    pub fn reconsider(
        &mut self,
        image: &ImageRecord,
        params: &Params,
        user: &User,
        context: &Context,
    ) -> Result<Option<Begun>, Error> {
        let Some(change) = self.change.take() else {
            return Ok(None);
        };
        let base = self.image_of_base(&self.project);
        let group = self.record.info.group.parse::<GroupName>();
        let Ok(group) = group else { return Ok(None) };
        if image.is_newer(base.as_ref(), &change) {
            return Ok(None);
        }
        self.clear_data()?;
        let start = self.store.start_elsewhere(&self.project, &group, context);
        self.begin_from(start, params, user).map(Some)
    }

    fn begin_from(&mut self, start: Start, params: &Params, user: &User) -> Result<Begun, Error> {
        let data = self.data();
        let filesystem = self.store.filesystem;
        let mut begun = match start.is_passed {
            true => Begun::BaseNewer,
            false => Begun::Empty,
        };
        let mut is_cloned = false;
        if let Some(base) = start.base
            && let Some(_held) = self.store.lease(&self.project, base)?
        {
            let from = self
                .store
                .layout
                .ready(&self.project, base)
                .join(layout::DATA);
            let clone = |cause| Error::Tree("clone the latest build of the group", cause);
            let without = [layout::PARAMS.as_ref()];
            begun = match filesystem.clone_until(&from, &data, &without, &self.interrupt) {
                Ok(()) => match self.give_clone(base, &data, user)? {
                    Begun::Incremental => {
                        is_cloned = true;
                        match start.is_passed {
                            true => Begun::Earlier,
                            false => Begun::Incremental,
                        }
                    }
                    foreign => foreign,
                },
                Err(cause) if is_closed(&cause) => {
                    self.clear_data()?;
                    Begun::BaseUnreadable
                }
                Err(cause) => return Err(self.given_up(clone(cause))),
            };
        }
        if !is_cloned {
            filesystem
                .create(&data)
                .map_err(|cause| Error::Tree("make the build's directory", cause))?;
        }
        faults::point("data-made");
        let base = start.base.filter(|_| is_cloned);
        self.change = start.change.filter(|_| is_cloned);
        self.record.info.base = base.map(|base| base.to_string());
        self.record.info.incremental = is_cloned;
        self.record.internal.user = Some(user.to_string());
        (self.opaque_files, self.record.internal.opaque_inodes) =
            furnish(&data, params, user).map_err(disk_error("write the build's params", &data))?;
        Ok(begun)
    }

    /// Gives the clone of a base to `user`, where another one made the base.
    fn give_clone(&self, base: JobId, data: &Path, user: &User) -> Result<Begun, Error> {
        let directory = self.store.layout.ready(&self.project, base);
        let read = disk_error(
            "read the record of the latest build of the group",
            &directory,
        );
        let made = record::read(&directory).map_err(&read)?;
        let made_by = match made.and_then(|record| record.internal.user) {
            Some(made_by) => made_by,
            // A record of an earlier version; the container's user was given the root.
            None => {
                let root = data
                    .symlink_metadata()
                    .map_err(disk_error("look at the clone", data))?;
                format!("{}:{}", root.uid(), root.gid())
            }
        };
        if made_by == user.to_string() {
            return Ok(Begun::Incremental);
        }
        let filesystem = self.store.filesystem;
        let give = |cause| Error::Tree("give the latest build of the group to its user", cause);
        match filesystem.give_until(data, user.user, user.group, &self.interrupt) {
            Ok(()) => Ok(Begun::Incremental),
            Err(cause) if is_closed(&cause) => {
                self.clear_data()?;
                Ok(Begun::BaseForeign)
            }
            Err(cause) => Err(self.given_up(give(cause))),
        }
    }

    /// Ends the build: the record is completed and on stable storage, the directory takes its
    /// place in one rename, and the link is pointed at it when it succeeded.
    ///
    /// # Errors
    /// When the disk takes it not. The build is given back, still pending; if it is lost, the
    /// next process takes it over.
    pub fn finish(mut self, end: End) -> Result<FinishedBuild, Box<Unfinished>> {
        match self.put_in_place(end) {
            Ok((directory, warning)) => Ok(FinishedBuild {
                store: self.store,
                directory,
                record: self.record,
                warning,
            }),
            Err((error, is_for_data)) => Err(Box::new(Unfinished {
                is_for_data: is_for_data || error.is_full(),
                build: self,
                error,
            })),
        }
    }

    /// The second value of an error: whether it is the data's.
    fn put_in_place(&mut self, end: End) -> Result<(PathBuf, Option<Error>), (Error, bool)> {
        let began = std::time::Instant::now();
        if !self.is_data_stuck {
            self.put_data_in_order().map_err(|error| {
                let is_for_data = is_of_data(&error);
                (error, is_for_data)
            })?;
        }
        let home = self.clear_home();
        let (directory, warning) = self.write_end(end, began).map_err(|error| (error, false))?;
        Ok((directory, warning.or(home.err())))
    }

    fn put_data_in_order(&mut self) -> Result<(), Error> {
        let data = self.data();
        self.forget_opaque()
            .map_err(disk_error("remove the build's opaque params", &data))?;
        faults::point("params-removed");
        self.keep_artifacts_ours()
            .map_err(disk_error("look after the build's artifacts", &data))
    }

    fn write_end(
        &mut self,
        end: End,
        began: std::time::Instant,
    ) -> Result<(PathBuf, Option<Error>), Error> {
        let (project, group) = (&self.project, &self.record.info.group);
        self.record.internal.number = self.store.next_number(project, self.id, group)?;
        let duration = self.duration();
        let info = &mut self.record.info;
        let now = Timestamp::now();
        info.state = State::Ready;
        info.phase = None;
        info.outcome = Some(end.outcome);
        info.exit_code = end.exit_code;
        info.duration = i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX);
        info.finished_at = Some(now);
        let built_until = [
            info.started_at.checked_add(duration).ok(),
            self.base_built_until(),
        ];
        let built_until = built_until.into_iter().flatten().fold(now, Timestamp::max);
        self.record.internal.built_until = Some(built_until);
        let info = &mut self.record.info;
        if let Some(sentence) = end.error {
            info.set_error(sentence);
        }
        info.container_stderr = end.stderr;
        if let Some(by) = end.cancelled {
            info.cancelled = Some(by);
        }
        info.phases.finish = Some(began.elapsed().as_millis() as u64);
        self.record.internal.opaque.clear();
        self.record.internal.opaque_inodes.clear();
        self.record.internal.boot.clone_from(&self.store.boot);
        self.record.internal.durable = false;
        let directory = self.directory();
        record::write(&directory, &self.record, true)
            .map_err(disk_error("write the record of the build", &directory))?;
        faults::point("finish-record");
        self.store.publish(&self.project, self.id, &self.record)
    }

    /// The latest time that anything cloned from the base may have.
    fn base_built_until(&self) -> Option<Timestamp> {
        let base: JobId = self.record.info.base.as_deref()?.parse().ok()?;
        let directory = self.store.layout.ready(&self.project, base);
        record::read(&directory).ok()??.internal.built_until
    }

    /// Ends a build that [`PendingBuild::finish`] or a beginning has failed for: as errored, for the
    /// reason that `error` gives. Its data is removed, opaque params included, and so is what may have
    /// been in the way; what cannot be removed now is put out of sight and tried again. Data that allows
    /// neither stays where it is.
    ///
    /// # Errors
    /// When the record cannot be written.
    pub fn finish_without_data(mut self, error: &Error) -> Result<FinishedBuild, Box<Unfinished>> {
        // What cannot be emptied is removed with the data, where that can be done.
        let _ = self.empty_opaque();
        let discarded = self.store.discard(&self.directory());
        // Where there is no room it is the record that needs it, and the data is no obstacle.
        self.is_data_stuck = discarded.is_err_and(|error| !error.is_full());
        self.finish(End::errored(error.to_string()))
    }

    /// Takes the build's data out of it: a container that may run on still writes there, and what it
    /// writes is in no build. The opaque params that this process wrote there are emptied.
    ///
    /// # Errors
    /// When the disk is in the way.
    pub fn put_data_aside(&mut self) -> Result<(), Error> {
        let data = self.data();
        self.empty_opaque()
            .map_err(disk_error("remove the build's opaque params", &data))?;
        let aside = self.store.throw_away(&data);
        aside.map_err(disk_error("put the build's data aside", &data))?;
        self.put_home_aside()
    }

    /// What is served is a directory of ours: a link that the container put in its place would
    /// lead the transports that go by path to anywhere on the host.
    fn keep_artifacts_ours(&self) -> io::Result<()> {
        match open_directory(rustix::fs::CWD, &self.data())? {
            Some(data) => make_directory(data.as_fd(), layout::ARTIFACTS).map(drop),
            None => Ok(()),
        }
    }
}

impl FinishedBuild {
    /// What is told about it.
    pub fn info(&self) -> &BuildInfo {
        &self.record.info
    }

    /// What is told about it, with the end of its log.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn answer(&self) -> Result<BuildInfo, Error> {
        let mut info = self.record.info.clone();
        let tail = store::tail(&self.directory)
            .map_err(disk_error("read the log of the build", &self.directory))?;
        info.container_stdouterr = Some(tail);
        Ok(info)
    }

    /// What could not be linked or cleared although the build is in place; for the journal.
    pub fn warning(&self) -> Option<&Error> {
        self.warning.as_ref()
    }

    /// Brings everything of the build to stable storage and marks it durable; until then it
    /// counts as absent after a power cut. Then removes what it replaced.
    ///
    /// # Errors
    /// When the disk is in the way; the build is in force all the same, until the next boot.
    pub fn make_durable(self) -> Result<(), Error> {
        let directory = self.directory;
        self.store
            .make_durable(std::slice::from_ref(&directory))
            .map_err(disk_error("bring the build to stable storage", &directory))?;
        faults::point("settled");
        self.store.empty_trash()
    }
}

/// Whether data is what keeps us from putting it in order, so that another try fails as well. Else the
/// host was short of something for a moment, such as descriptors or memory.
fn is_of_data(error: &Error) -> bool {
    let kind = error.io().map(io::Error::kind);
    let is_refused = matches!(
        kind,
        Some(io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem)
    );
    is_refused || error.is_full()
}

fn is_closed(error: &filesystem::Error) -> bool {
    let cause = error.io();
    cause.is_some_and(|cause| cause.kind() == io::ErrorKind::PermissionDenied)
}

/// Makes `artifacts`, `cache` and `params` under `data`, and writes the params. Gives the files of the
/// first opaque ones, and the inodes of all of them.
fn furnish(
    data: &Path,
    params: &Params,
    user: &User,
) -> io::Result<(Vec<File>, BTreeMap<String, u64>)> {
    let Some(data) = open_directory(rustix::fs::CWD, data)? else {
        return Err(io::ErrorKind::NotFound.into());
    };
    user.own(data.as_fd())?;
    for name in [layout::ARTIFACTS, layout::CACHE, layout::PARAMS] {
        // A clone may hold a file or a link that an earlier container left in our place.
        let is_made = make_directory(data.as_fd(), name)?;
        // Opened in any case: one that an earlier build closed to its owner is open to the next build.
        match open_directory(data.as_fd(), Path::new(name)) {
            Ok(Some(directory)) if is_made => user.own(directory.as_fd())?,
            // That of another user, whom the next build may act for.
            Err(error) if is_made || error.kind() != io::ErrorKind::PermissionDenied => {
                return Err(error);
            }
            _ => {}
        }
    }
    let Some(directory) = open_directory(data.as_fd(), Path::new(layout::PARAMS))? else {
        return Err(io::ErrorKind::NotFound.into());
    };
    let (mut opaque_files, mut opaque_inodes) = (Vec::new(), BTreeMap::new());
    for (name, value) in params {
        let mut file = File::from(rustix::fs::openat(
            &directory,
            name.as_str(),
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC,
            Mode::from_raw_mode(if name.is_opaque() { 0o600 } else { 0o640 }),
        )?);
        file.write_all(value.as_bytes())?;
        user.own(file.as_fd())?;
        if name.is_opaque() {
            let inode = rustix::fs::fstat(&file)?.st_ino;
            opaque_inodes.insert(name.to_string(), inode);
            if opaque_files.len() < OPAQUE_FILES {
                opaque_files.push(file);
            }
        }
    }
    Ok((opaque_files, opaque_inodes))
}

/// Makes a directory where there is none, in the place of whatever else stands there. True when
/// it was made.
pub(super) fn make_directory(
    at: BorrowedFd<'_>,
    name: impl AsRef<std::ffi::OsStr>,
) -> io::Result<bool> {
    let name = name.as_ref();
    match rustix::fs::statat(at, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(found) if FileType::from_raw_mode(found.st_mode) == FileType::Directory => {
            return Ok(false);
        }
        Ok(_) => {
            filesystem::remove_in(at, name)?;
        }
        Err(Errno::NOENT) => {}
        Err(error) => return Err(error.into()),
    }
    rustix::fs::mkdirat(at, name, Mode::from_raw_mode(0o750))?;
    Ok(true)
}

/// Opens a directory to write into, whatever a build did to its modes; never through a link in its
/// last name. `None` when it is none.
pub(super) fn open_directory(at: BorrowedFd<'_>, path: &Path) -> io::Result<Option<OwnedFd>> {
    filesystem::open_writable(at, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_error_that_comes_from_the_data_lets_it_be_discarded() {
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
