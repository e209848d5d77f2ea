//! Finished builds: put in place, linked, replaced, moved to the trash.
//!
//! One rename moves a build from `pending` to its place, or an exchange where it replaces another; a link is
//! replaced by a rename, too. A replaced build is moved to the trash at once and removed when it is no longer
//! read.

use std::io;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use rustix::fs::RenameFlags;

use super::disk::make_directories;
use super::error::{Error, disk_error};
use super::info::BuildGroup;
use super::layout::Layout;
use super::random::random_hex;
use super::record::{self, Bookkeeping, Record};
use super::store::BuildStore;
use crate::job::{GroupName, JobId, State};
use crate::project::ProjectName;
use crate::{faults, filesystem};

/// A build that was put in place.
pub(super) struct Published {
    /// Its directory.
    pub(super) directory: PathBuf,
    /// The error of linking or clearing.
    pub(super) warning: Option<Error>,
}

impl BuildStore {
    /// A finished record in `pending`: either its rename was not done yet, or an exchange put it there. The
    /// later one is the result.
    pub(super) fn complete_finished(&self, record: &Record) -> Result<(), Error> {
        let (project, id) = (&record.info.project, record.info.id);
        let published = [
            self.ready_order(project, id)?,
            self.failed_order(project, id)?,
        ];
        if published.into_iter().max().flatten() < Some(Order::of(record)) {
            self.publish(record)?;
        } else {
            let pending = self.layout.pending(project, id);
            self.throw_away(&pending)
                .map_err(disk_error("clear what a rebuild replaced", &pending))?;
        }
        Ok(())
    }

    /// Moves a finished build from `pending` to its place, and points the link at it.
    ///
    /// A rebuild that did not succeed never replaces a succeeded build: it is moved to `failed`. Once the
    /// build is in place, a failure to link or clear is a warning and no error.
    pub(super) fn publish(&self, record: &Record) -> Result<Published, Error> {
        let (project, id) = (&record.info.project, record.info.id);
        // A build that is in place and not linked yet must not be removed.
        let _one_at_a_time = self.changing.lock();
        let from = self.layout.pending(project, id);
        let in_force = self.find_ready(project, id)?.is_some();
        let to = if in_force && !record.info.succeeded() {
            self.layout.failed(project, id)
        } else {
            self.layout.ready(project, id)
        };
        let publish = disk_error("put the build in place", &to);
        make_directories(to.parent().unwrap_or(&to)).map_err(&publish)?;
        // The new link is created first, beside the old one: if a process ends between the two steps, the
        // next one finds it and completes it.
        let point = disk_error("point the link at the build", &to);
        let group = linked_group(record);
        if let Some(group) = group {
            self.make_link(project, group, id).map_err(&point)?;
            faults::point("link-made");
        }
        let replaced = match rename(&from, &to, RenameFlags::NOREPLACE) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                rename(&from, &to, RenameFlags::EXCHANGE).map_err(&publish)?;
                true
            }
            other => other.map(|()| false).map_err(&publish)?,
        };
        faults::point("in-place");
        let mut warning = None;
        if let Some(group) = group {
            warning = self.point(project, group, id).map_err(&point).err();
            faults::point("linked");
        }
        if replaced {
            let cleared = self.throw_away(&from);
            let cleared = cleared.map_err(disk_error("clear what the build replaced", &from));
            warning = warning.or(cleared.err());
            faults::point("replaced");
        }
        if !in_force || record.info.succeeded() {
            self.enter(&record.info);
        } else if let Ok(Some(ready)) = self.find_ready(project, id) {
            self.enter(&ready);
        }
        drop((publish, point));
        Ok(Published {
            directory: to,
            warning,
        })
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
            true => self.point(project, group, id),
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
        let before = [
            linked,
            self.ready_order(project, id)?,
            self.failed_order(project, id)?,
        ];
        let last = before.into_iter().flatten().map(|order| order.number).max();
        Ok(last.map_or(1, |last| last.saturating_add(1)))
    }

    fn ready_order(&self, project: &ProjectName, id: JobId) -> Result<Option<Order>, Error> {
        self.order(&self.layout.ready(project, id))
    }

    fn failed_order(&self, project: &ProjectName, id: JobId) -> Result<Option<Order>, Error> {
        self.order(&self.layout.failed(project, id))
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
struct Order {
    number: u64,
    finished_at: Option<Timestamp>,
}

impl Order {
    fn of(record: &Record) -> Order {
        Order::new(&record.internal, record.info.finished_at)
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
