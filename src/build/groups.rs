//! The groups of a project: listed with their bases, and reset.
//!
//! A group is the link that names its base. A reset removes the link and keeps the builds. Since a build
//! whose group's base cannot be used may start from an earlier build of the group, the time of the reset is
//! stored beside: no build from before is a base again.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::Deserialize;

use super::BuildInfo;
use super::disk::make_directories;
use super::error::{Error, disk_error};
use super::layout::Layout;
use super::record;
use super::replace::{self, Durability};
use super::store::BuildStore;
use super::survey::named_by;
use crate::job::{GroupName, JobId};
use crate::project::ProjectName;

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

/// What decides whether a build may be a base after a reset or a cold build.
#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Start {
    cold: bool,
    started_at: Option<Timestamp>,
    finished_at: Option<Timestamp>,
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

    /// Removes the link of a group, durably: its next build starts empty. Its builds stay, and one that is
    /// under way becomes its base when it succeeds. False if there is no such group.
    ///
    /// # Errors
    /// When a system call fails; the group may be reset nevertheless.
    pub fn reset_group(&self, project: &ProjectName, group: &GroupName) -> Result<bool, Error> {
        let link = self.layout.link(project, Some(group));
        let reset = disk_error("reset the group", &link);
        let _one_at_a_time = self.changing.lock();
        if named_by(&link).map_err(&reset)?.is_none() {
            return Ok(false);
        }
        self.mark_reset(project, group).map_err(&reset)?;
        self.forget_new_links(project, group).map_err(&reset)?;
        remove_links(std::slice::from_ref(&link)).map_err(&reset)?;
        Ok(true)
    }

    /// Records the time of a reset, durably.
    fn mark_reset(&self, project: &ProjectName, group: &GroupName) -> io::Result<()> {
        let mark = self.layout.reset(project, group);
        if let Some(directory) = mark.parent()
            && !directory.exists()
        {
            make_directories(directory)?;
            for above in directory.ancestors().skip(1).take(2) {
                File::open(above)?.sync_all()?;
            }
        }
        let text = format!("{}\n", Timestamp::now());
        replace::replace(&mark, text.as_bytes(), 0o640, Durability::OnReturn)
    }

    /// Removes links of a group that could not be put in their place: the next start must not do it.
    fn forget_new_links(&self, project: &ProjectName, group: &GroupName) -> io::Result<()> {
        for entry in std::fs::read_dir(self.layout.daemon_directory())? {
            let entry = entry?;
            let name = entry.file_name();
            let Some((of, id)) = name.to_str().and_then(Layout::linked_by) else {
                continue;
            };
            let is_of_group = of == *project
                && record::read(&self.layout.ready(project, id))?
                    .is_some_and(|record| record.view.group == group.as_str());
            if is_of_group {
                std::fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }

    /// The builds among `builds` of a group that no reset and no cold build has replaced: a build from before
    /// may hold what was to be left behind.
    pub(super) fn since_reset(
        &self,
        project: &ProjectName,
        group: &GroupName,
        builds: Vec<JobId>,
    ) -> Vec<JobId> {
        let starts = builds.into_iter().filter_map(|id| {
            let directory = self.layout.ready(project, id);
            Some((id, record::read_as::<Start>(&directory).ok()??))
        });
        let starts: Vec<(JobId, Start)> = starts.collect();
        let cold = starts.iter().filter(|(_, start)| start.cold);
        let cold = cold.filter_map(|(_, start)| start.finished_at).max();
        let since = self.last_reset(project, group).max(cold);
        let is_after = |start: &Start| {
            let is_cold_since = start.cold && start.finished_at >= since;
            is_cold_since || start.started_at >= since
        };
        let after = starts.into_iter().filter(|(_, start)| is_after(start));
        after.map(|(id, _)| id).collect()
    }

    /// True for a build that began before the base of its group, a cold build, was there: it may hold what the
    /// cold build has left behind.
    pub(super) fn is_behind_cold(&self, info: &BuildInfo) -> bool {
        let Some(group) = info.group.name().filter(|_| !info.cold) else {
            return false;
        };
        let base = self.base(&info.project, Some(group)).ok().flatten();
        let start = base.and_then(|base| {
            let directory = self.layout.ready(&info.project, base);
            record::read_as::<Start>(&directory).ok()?
        });
        start.is_some_and(|base| base.cold && base.finished_at > Some(info.started_at))
    }

    /// The time of the last reset of a group.
    fn last_reset(&self, project: &ProjectName, group: &GroupName) -> Option<Timestamp> {
        let mark = self.layout.reset(project, group);
        let text = std::fs::read_to_string(mark).ok()?;
        text.trim_end().parse().ok()
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
