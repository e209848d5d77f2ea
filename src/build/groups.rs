//! The groups of a project: listed with their bases, and reset.
//!
//! A group is the link that names its base. A reset removes the link and keeps the builds, none of which is a
//! base again: see [`super::group_marks`].

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use jiff::Timestamp;

use super::disk::list_named;
use super::error::{Error, disk_error};
use super::group_marks::make_synced_directories;
use super::layout::Layout;
use super::record;
use super::store::BuildStore;
use super::survey::named_by;
use crate::faults;
use crate::job::{GroupName, JobId};
use crate::project::ProjectName;

const RESET: &str = "reset the group";

/// A group, and the build from which its next build starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupBase {
    /// The group.
    pub group: String,
    /// The id of its base.
    pub base: JobId,
    /// When that ended.
    pub finished: Option<Timestamp>,
    /// The bytes on disk that it shares with no other build; 0 before it was measured.
    pub own: u64,
}

impl BuildStore {
    /// The groups of a project, by name.
    ///
    /// # Errors
    /// When a system call fails.
    pub fn groups(&self, project: &ProjectName) -> Result<Vec<GroupBase>, Error> {
        let (_, groups) = self.bases(project)?;
        let groups = groups.into_iter().map(|(group, base)| {
            let known = self.index.find(project, base);
            GroupBase {
                group,
                base,
                finished: known.as_ref().and_then(|known| known.finished),
                own: known.map_or(0, |known| known.own),
            }
        });
        Ok(groups.collect())
    }

    /// Resets a group, durably: its next build starts empty. Its builds stay, and one that is under way becomes
    /// its base when it succeeds, unless a later build is the base by then. False if there is no such group.
    ///
    /// The rename of its link resets the group; a process that ends before the rest is done leaves that to the
    /// next start.
    ///
    /// # Errors
    /// When a system call fails; the group may be reset nevertheless.
    pub fn reset_group(&self, project: &ProjectName, group: &GroupName) -> Result<bool, Error> {
        let link = self.layout.link(project, Some(group));
        let reset = disk_error(RESET, &link);
        let group = group.file_name();
        let aside = self.layout.resetting(project, group.as_ref());
        let _one_at_a_time = self.changing.lock();
        if named_by(&link).map_err(&reset)?.is_some() {
            put_aside(&link, &aside).map_err(&reset)?;
            faults::point("group-unlinked");
        } else if aside.symlink_metadata().is_err() {
            return Ok(false);
        }
        self.complete_reset(project, group.as_ref())
            .map_err(reset)?;
        faults::point("group-reset");
        Ok(true)
    }

    /// Completes the resets that a previous process has begun.
    ///
    /// # Errors
    /// The first error; the other resets are completed all the same.
    pub(super) fn complete_resets(&self) -> Result<(), Error> {
        let all = self.layout.all_resetting();
        let mut first_error = None;
        let projects = list_named(&all).map_err(disk_error(RESET, &all))?;
        for project in projects {
            let of_project = self.layout.resetting(&project, "".as_ref());
            let complete = disk_error(RESET, &of_project);
            let _one_at_a_time = self.changing.lock();
            for link in std::fs::read_dir(&of_project).map_err(&complete)? {
                let group = link.map_err(&complete)?.file_name();
                if let Err(error) = self.complete_reset(&project, &group) {
                    first_error.get_or_insert(complete(error));
                }
            }
        }
        first_error.map_or(Ok(()), Err)
    }

    /// The steps of a reset after its link was put aside.
    fn complete_reset(&self, project: &ProjectName, group: &OsStr) -> io::Result<()> {
        self.mark_reset(project, group)?;
        self.forget_new_links(project, group)?;
        remove_links(&[self.layout.resetting(project, group)])
    }

    /// Removes the links of a project to builds that do not exist: a previous process has removed the build
    /// and ended, or someone has removed it by hand.
    ///
    /// # Errors
    /// When a system call fails.
    pub(super) fn remove_links_to_nothing(&self, project: &ProjectName) -> Result<(), Error> {
        let _one_at_a_time = self.changing.lock();
        let is_absent = |place: &Path| {
            let found = place.symlink_metadata();
            found.is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
        };
        let links = self.links(project)?.into_iter();
        let links = links.filter(|(_, id)| {
            is_absent(&self.layout.ready(project, *id))
                && is_absent(&self.layout.pending(project, *id))
        });
        let links: Vec<PathBuf> = links.map(|(link, _)| link).collect();
        let remove = disk_error("remove links to builds that are gone", self.root());
        remove_links(&links).map_err(remove)
    }

    /// Removes links of a group that could not be put in their place: the next start must not do it.
    fn forget_new_links(&self, project: &ProjectName, group: &OsStr) -> io::Result<()> {
        for entry in std::fs::read_dir(self.layout.daemon_directory())? {
            let entry = entry?;
            let name = entry.file_name();
            let Some((of, id)) = name.to_str().and_then(Layout::linked_by) else {
                continue;
            };
            let is_of_group = of == *project
                && record::read(&self.layout.ready(project, id))?
                    .and_then(|record| record.view.group.parse::<GroupName>().ok())
                    .is_some_and(|of| *of.file_name() == *group);
            if is_of_group {
                std::fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }

    /// The links that name a build.
    pub(super) fn links_to(&self, project: &ProjectName, id: JobId) -> Result<Vec<PathBuf>, Error> {
        let links = self.links(project)?;
        Ok(links
            .into_iter()
            .filter_map(|(link, named)| (named == id).then_some(link))
            .collect())
    }
}

/// Moves the link of a group to where the next start finds it, durably.
fn put_aside(link: &Path, aside: &Path) -> io::Result<()> {
    let to = aside.parent().unwrap_or(aside);
    make_synced_directories(to)?;
    std::fs::rename(link, aside)?;
    for directory in [to, link.parent().unwrap_or(link)] {
        File::open(directory)?.sync_all()?;
    }
    Ok(())
}

/// Removes links, durably.
pub(super) fn remove_links(links: &[PathBuf]) -> io::Result<()> {
    for link in links {
        match std::fs::remove_file(link) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        File::open(link.parent().unwrap_or(Path::new("/")))?.sync_all()?;
    }
    Ok(())
}
