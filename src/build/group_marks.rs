//! The marks of a group: when it was last reset, and when its last cold build ended.
//!
//! A build from before may hold what was to be left behind, so it is no base again. A mark is a file of its
//! own: it stays when the builds of the group are removed.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::path::Path;

use jiff::Timestamp;
use serde::Deserialize;

use super::BuildInfo;
use super::disk::make_directories;
use super::record;
use super::replace::{self, Durability};
use super::store::BuildStore;
use crate::faults;
use crate::job::{GroupName, JobId};
use crate::project::ProjectName;

/// A mark before its rename. No group's file name begins with a dot.
const NEW: &str = ".new";

/// What decides whether a build may be a base after a reset or a cold build.
#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Start {
    cold: bool,
    started_at: Option<Timestamp>,
    finished_at: Option<Timestamp>,
}

impl BuildStore {
    /// Records durably that the group with this file name is reset now.
    pub(super) fn mark_reset(&self, project: &ProjectName, group: &OsStr) -> io::Result<()> {
        write(&self.layout.reset_mark(project, group), Timestamp::now())?;
        faults::point("reset-marked");
        Ok(())
    }

    /// Records durably when a cold build of the group ended.
    pub(super) fn mark_cold(
        &self,
        project: &ProjectName,
        group: &GroupName,
        ended: Timestamp,
    ) -> io::Result<()> {
        write(
            &self.layout.cold_mark(project, group.file_name().as_ref()),
            ended,
        )?;
        faults::point("cold-marked");
        Ok(())
    }

    /// The builds among `builds` of a group that no reset and no cold build has replaced.
    pub(super) fn since_marks(
        &self,
        project: &ProjectName,
        group: &GroupName,
        builds: Vec<JobId>,
    ) -> Vec<JobId> {
        let starts = builds
            .into_iter()
            .filter_map(|id| Some((id, self.start(project, id)?)));
        let starts: Vec<(JobId, Start)> = starts.collect();
        let cold = starts.iter().filter(|(_, start)| start.cold);
        let cold = cold.filter_map(|(_, start)| start.finished_at).max();
        let group = group.file_name();
        let marks = [
            read(&self.layout.reset_mark(project, group.as_ref())),
            read(&self.layout.cold_mark(project, group.as_ref())),
            cold,
        ];
        let since = marks.into_iter().max().flatten();
        let is_after = |start: &Start| {
            let is_cold_since = start.cold && start.finished_at >= since;
            is_cold_since || start.started_at >= since
        };
        let after = starts.into_iter().filter(|(_, start)| is_after(start));
        after.map(|(id, _)| id).collect()
    }

    /// True for a build that has ended now and must not become the base of its group: it began before the
    /// last cold build had ended; or before the last reset, and a build from after it is the base.
    pub(super) fn is_behind(&self, info: &BuildInfo) -> bool {
        let Some(group) = info.group.name().filter(|_| !info.cold) else {
            return false;
        };
        let (project, began) = (&info.project, Some(info.started_at));
        let base = self.base(project, Some(group)).ok().flatten();
        let base = base.and_then(|base| self.start(project, base));
        // A time that is not over was written while the clock was ahead: no build could be a base for long.
        let now = Timestamp::now();
        let group = group.file_name();
        let cold = [
            read(&self.layout.cold_mark(project, group.as_ref())),
            base.as_ref()
                .filter(|base| base.cold)
                .and_then(|base| base.finished_at),
        ];
        if cold
            .into_iter()
            .any(|ended| ended.filter(|ended| *ended <= now) > began)
        {
            return true;
        }
        let reset = read(&self.layout.reset_mark(project, group.as_ref()));
        let reset = reset.filter(|reset| *reset <= now);
        reset > began && base.is_some_and(|base| base.started_at >= reset)
    }

    fn start(&self, project: &ProjectName, id: JobId) -> Option<Start> {
        record::read_as(&self.layout.ready(project, id)).ok()?
    }
}

/// Writes a mark, unless a later one is there. The caller holds the lock of the store.
fn write(mark: &Path, time: Timestamp) -> io::Result<()> {
    if read(mark) >= Some(time) {
        return Ok(());
    }
    let directory = mark.parent().unwrap_or(mark);
    make_synced_directories(directory)?;
    let text = format!("{time}\n");
    let new = directory.join(NEW);
    replace::replace_by(mark, &new, text.as_bytes(), 0o640, Durability::OnReturn)
}

/// The time of a mark; `None` where there is none, or none that can be read.
fn read(mark: &Path) -> Option<Timestamp> {
    let text = std::fs::read_to_string(mark).ok()?;
    text.trim_end().parse().ok()
}

/// Makes the directory of a project below one of the daemon's own, durably.
pub(super) fn make_synced_directories(directory: &Path) -> io::Result<()> {
    if directory.exists() {
        return Ok(());
    }
    make_directories(directory)?;
    for above in directory.ancestors().skip(1).take(2) {
        File::open(above)?.sync_all()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::build::{BuildGroup, BuildInfo};
    use crate::filesystem::Filesystem;

    #[test]
    fn marks_of_groups_with_similar_and_with_long_names_do_not_disturb_each_other() {
        let home = tempfile::tempdir().unwrap();
        let store = BuildStore::open(home.path(), Filesystem::Plain).unwrap();
        let project = "p".parse().unwrap();
        let long = format!("{}{}", "x".repeat(173), "/".repeat(27));
        let names = ["g.new", "g", ".new", &long];
        let groups = names.map(|name| name.parse::<GroupName>().unwrap());
        let time = |at: usize| Timestamp::from_second(at as i64).unwrap();
        for (at, group) in groups.iter().enumerate() {
            store.mark_cold(&project, group, time(at)).unwrap();
        }
        for (at, group) in groups.iter().enumerate() {
            let mark = store.layout.cold_mark(&project, group.file_name().as_ref());
            assert_eq!(read(&mark), Some(time(at)), "{}", group.as_str());
            // An earlier time does not replace it.
            write(&mark, time(0)).unwrap();
            assert_eq!(read(&mark), Some(time(at)));
        }
    }

    #[test]
    fn a_mark_of_the_future_keeps_no_build_from_being_the_base() {
        let home = tempfile::tempdir().unwrap();
        let store = BuildStore::open(home.path(), Filesystem::Plain).unwrap();
        let group: GroupName = "g".parse().unwrap();
        let info = BuildInfo {
            group: BuildGroup::Named(group.clone()),
            cold: false,
            ..BuildInfo::example()
        };
        let hour = jiff::SignedDuration::from_hours(1);
        for (ended, is_behind) in [
            (info.started_at - hour, false),
            (info.started_at + hour, true),
            (Timestamp::now() + hour, false),
        ] {
            store.mark_cold(&info.project, &group, ended).unwrap();
            assert_eq!(store.is_behind(&info), is_behind, "{ended}");
        }
    }
}
