//! Finished builds: put in place, linked, replaced, moved to the trash.
//!
//! One rename moves a build from `pending` to its place, or an exchange where it replaces another; a link is
//! replaced by a rename, too. A replaced build is kept as an attempt, without its data; the build itself is
//! moved to the trash at once and removed when it is no longer read.

use std::io;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use rustix::fs::RenameFlags;

use super::disk::make_directories;
use super::error::{Error, disk_error};
use super::info::BuildGroup;
use super::layout::Layout;
use super::log::tail;
use super::random::random_hex;
use super::record::{self, Bookkeeping, Record, RecordFile};
use super::store::BuildStore;
use crate::job::{GroupName, JobId, State};
use crate::project::ProjectName;
use crate::{faults, filesystem};

const CLEAR: &str = "clear what the build replaced";

/// A build that was put in place.
pub(super) struct Published {
    /// Its directory in `ready`; `None` for a failed rebuild.
    pub(super) directory: Option<PathBuf>,
    /// The end of its log.
    pub(super) log: String,
    /// The error of linking, keeping or clearing.
    pub(super) warning: Option<Error>,
}

impl BuildStore {
    /// A finished record in `pending`: either its rename was not done yet, or an exchange put it there. The
    /// later one is the result.
    pub(super) fn complete_finished(&self, record: &Record) -> Result<(), Error> {
        let (project, id) = (&record.info.project, record.info.id);
        if self.ready_order(project, id)? < Some(Order::of(record)) {
            self.publish(record)?;
        } else {
            let _one_at_a_time = self.changing.lock();
            let pending = self.layout.pending(project, id);
            self.keep_attempt(&pending, project, id, record.info.number)?;
            self.throw_away(&pending)
                .map_err(disk_error(CLEAR, &pending))?;
        }
        Ok(())
    }

    /// Moves a finished build from `pending` to its place, and points the link at it. What it replaces is
    /// kept as an attempt.
    ///
    /// A rebuild that did not succeed never replaces a succeeded build: it is kept as an attempt. Once the
    /// build is in place, a failure to link, keep or clear is a warning and no error.
    pub(super) fn publish(&self, record: &Record) -> Result<Published, Error> {
        let (project, id) = (&record.info.project, record.info.id);
        // A build that is in place and not linked yet must not be removed.
        let _one_at_a_time = self.changing.lock();
        let from = self.layout.pending(project, id);
        let log = tail(&from).map_err(disk_error("read the log of the build", &from));
        let is_beside = !record.info.succeeded() && self.find_ready(project, id)?.is_some();
        let (directory, warning) = match is_beside {
            true => {
                self.put_beside(record, &from)?;
                (None, None)
            }
            false => {
                let (directory, warning) = self.put_in_place(record, &from)?;
                (Some(directory), warning)
            }
        };
        let (log, unread) = match log {
            Ok(log) => (log, None),
            Err(error) => (String::new(), Some(error)),
        };
        Ok(Published {
            directory,
            log,
            warning: warning.or(unread),
        })
    }

    /// Keeps a rebuild that did not succeed as an attempt, beside the succeeded build. That build counts it
    /// first, so that no later attempt gets its number.
    fn put_beside(&self, record: &Record, from: &Path) -> Result<(), Error> {
        let (project, id) = (&record.info.project, record.info.id);
        self.count_attempt(&record.info)?;
        self.keep_attempt(from, project, id, record.info.number)?;
        self.throw_away(from).map_err(disk_error(CLEAR, from))?;
        if let Ok(Some(ready)) = self.find_ready(project, id) {
            self.enter(&ready);
        }
        Ok(())
    }

    fn put_in_place(
        &self,
        record: &Record,
        from: &Path,
    ) -> Result<(PathBuf, Option<Error>), Error> {
        let (project, id) = (&record.info.project, record.info.id);
        let to = self.layout.ready(project, id);
        let publish = disk_error("put the build in place", &to);
        make_directories(to.parent().unwrap_or(&to)).map_err(&publish)?;
        // The new link is created first, beside the old one: if a process ends between the two steps, the
        // next one finds it and completes it.
        let point = disk_error("point the link at the build", &to);
        let group = linked_group(record).filter(|_| !self.is_behind(&record.info));
        if let Some(group) = group {
            self.make_link(project, group, id).map_err(&point)?;
            faults::point("link-made");
        }
        let replaced = match rename(from, &to, RenameFlags::NOREPLACE) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                rename(from, &to, RenameFlags::EXCHANGE).map_err(&publish)?;
                true
            }
            other => other.map(|()| false).map_err(&publish)?,
        };
        faults::point("in-place");
        let mut warning = None;
        if let Some(group) = group {
            warning = self.lead_to(record, group).map_err(&point).err();
            faults::point("linked");
        }
        if replaced {
            warning = warning.or(self.put_replaced_away(project, id, from).err());
            faults::point("replaced");
        }
        self.enter(&record.info);
        drop((publish, point));
        Ok((to, warning))
    }

    /// Keeps the build that another one has replaced as an attempt, and moves it to the trash.
    fn put_replaced_away(
        &self,
        project: &ProjectName,
        id: JobId,
        from: &Path,
    ) -> Result<(), Error> {
        let clear = disk_error(CLEAR, from);
        let kept = match record::read(from).map_err(&clear)? {
            Some(record) => self.keep_attempt(from, project, id, record.view.number),
            // It was torn, and counted as absent.
            None => Ok(()),
        };
        self.throw_away(from).map_err(clear)?;
        kept
    }

    /// Creates the new link beside the old one, which is replaced by [`BuildStore::point`].
    fn make_link(
        &self,
        project: &ProjectName,
        group: Option<&GroupName>,
        id: JobId,
    ) -> io::Result<()> {
        let new = self.layout.new_link(project, id);
        // `group` of the same job is the same link, so an existing one is obsolete.
        match std::fs::remove_file(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        std::os::unix::fs::symlink(Layout::link_target(group, id), &new)
    }

    /// The new link is renamed over the old one: a link always exists.
    fn point(&self, project: &ProjectName, group: Option<&GroupName>, id: JobId) -> io::Result<()> {
        let link = self.layout.link(project, group);
        if group.is_some() {
            make_directories(&self.layout.groups(project))?;
        }
        std::fs::rename(self.layout.new_link(project, id), &link)
    }

    /// Points the link of its group at a build that is in place. After a cold build, none from before is a
    /// base again, not even when the cold build is removed.
    fn lead_to(&self, record: &Record, group: Option<&GroupName>) -> io::Result<()> {
        let info = &record.info;
        // Without the mark, only the record of the cold build tells.
        let marked = match (group, info.finished_at) {
            (Some(group), Some(ended)) if info.cold => self.mark_cold(&info.project, group, ended),
            _ => Ok(()),
        };
        self.point(&info.project, group, info.id).and(marked)
    }

    /// Completes new links that a previous process left unfinished if they lead to a build that is in place,
    /// unless a later one has been linked since; removes the others.
    pub(super) fn complete_links(&self) -> Result<(), Error> {
        let directory = self.layout.daemon_directory();
        let complete = disk_error("complete the links of an earlier process", &directory);
        let mut first_error = Ok(());
        for entry in std::fs::read_dir(&directory).map_err(&complete)? {
            let entry = entry.map_err(&complete)?;
            let name = entry.file_name();
            let Some((project, id)) = name.to_str().and_then(Layout::linked_by) else {
                continue;
            };
            // A link that fails is left to the next process, and must not block the others.
            if let Err(error) = self.complete_link(&project, id) {
                first_error = Err(error);
            }
        }
        first_error
    }

    fn complete_link(&self, project: &ProjectName, id: JobId) -> Result<(), Error> {
        let ready = self.layout.ready(project, id);
        let complete = disk_error("complete the links of an earlier process", &ready);
        let record = record::read(&ready).map_err(&complete)?;
        let record = record.filter(|record| self.survived(&record.internal));
        let path = self.layout.served(project, id);
        let record = record.map(|record| record.complete(project, id, State::Ready, path));
        let group = record.as_ref().and_then(linked_group);
        let (Some(record), Some(group)) = (&record, group) else {
            return std::fs::remove_file(self.layout.new_link(project, id)).map_err(complete);
        };
        let linked = match self.base(project, group)? {
            Some(linked) => self.ready_order(project, linked)?,
            None => None,
        };
        match linked <= Some(Order::of(record)) {
            true => self.lead_to(record, group),
            false => std::fs::remove_file(self.layout.new_link(project, id)),
        }
        .map_err(complete)
    }

    /// The number of a build that ends now: larger than that of each build that it may replace, the one of
    /// the same id and the latest of its group.
    pub(super) fn next_number(
        &self,
        project: &ProjectName,
        id: JobId,
        group: Option<&GroupName>,
    ) -> Result<u64, Error> {
        let linked = match self.base(project, group)? {
            Some(linked) => self.ready_order(project, linked)?,
            None => None,
        };
        let before = [linked, self.ready_order(project, id)?];
        let last = before.into_iter().flatten().map(|order| order.number).max();
        Ok(last.map_or(1, |last| last.saturating_add(1)))
    }

    fn ready_order(&self, project: &ProjectName, id: JobId) -> Result<Option<Order>, Error> {
        self.order(&self.layout.ready(project, id))
    }

    /// `None` if no build is there, or none that survived.
    fn order(&self, directory: &Path) -> Result<Option<Order>, Error> {
        let record =
            record::read(directory).map_err(disk_error("read the record of a build", directory))?;
        let record = record.filter(|record| self.survived(&record.internal));
        Ok(record.map(|record| Order::new(&record.internal, record.view.finished_at)))
    }

    /// Moves a directory to the trash, whatever a build did to its mode; [`BuildStore::empty_trash`] removes
    /// it.
    ///
    /// # Errors
    /// When it cannot be moved; then it stays where it is.
    pub(super) fn throw_away(&self, directory: &Path) -> io::Result<()> {
        let name = random_hex()?;
        // Moving a directory to another parent requires write permission on the directory itself. If that
        // cannot be set, the rename fails.
        let _ = filesystem::open_writable(rustix::fs::CWD, directory);
        match std::fs::rename(directory, self.layout.trash().join(name)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }
}

/// The order of builds by creation. Their numbers define it; records without one are compared by their end
/// times, which is wrong if the clock was set back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Order {
    number: u64,
    finished_at: Option<Timestamp>,
}

impl Order {
    fn of(record: &Record) -> Order {
        Order::new(&record.internal, record.info.finished_at)
    }

    pub(super) fn of_file(record: &RecordFile) -> Order {
        Order::new(&record.internal, record.view.finished_at)
    }

    fn new(internal: &Bookkeeping, finished_at: Option<Timestamp>) -> Order {
        Order {
            number: internal.number,
            finished_at,
        }
    }
}

/// The group whose link leads to a build, or no group; `None` for a build that no link leads to.
fn linked_group(record: &Record) -> Option<Option<&GroupName>> {
    match &record.info.group {
        _ if !record.info.succeeded() => None,
        BuildGroup::None => Some(None),
        BuildGroup::Named(name) => Some(Some(name)),
        BuildGroup::Foreign(_) => None,
    }
}

fn rename(from: &Path, to: &Path, flags: RenameFlags) -> io::Result<()> {
    Ok(rustix::fs::renameat_with(
        rustix::fs::CWD,
        from,
        rustix::fs::CWD,
        to,
        flags,
    )?)
}
