//! Which build of its group a new build begins from.
//!
//! That is the latest, unless a file of the context has changed since and is not newer than it: tools
//! that decide by time (make, cargo) would take the old results in the base for those of the new file.
//! Times on disk tell it first ([`difference`]); what the image has may be older, and is asked when the
//! image is there ([`ImageRecord::is_newer`]).

use std::collections::HashMap;
use std::path::Path;
use std::time::{Duration, SystemTime};

use super::store::{BuildStore, Error};
use super::{
    Change, Filter, ImageRecord, MAX_INPUT_FILES, Outcome, PendingBuild, Record, State, layout,
    record,
};
use crate::job::{GroupName, JobId};
use crate::project::{Context, ProjectName};

/// Builds of the group that are looked at for one of the same files: each costs a record to read.
const MOST_LOOKED_AT: usize = 20;
/// What the names of archives end with that `ADD` unpacks.
const ARCHIVES: [&str; 8] = [
    ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst",
];

/// Where a build begins.
#[derive(Debug, Default)]
pub(super) struct Start {
    /// The build whose data is cloned.
    pub(super) base: Option<JobId>,
    /// How the context differs from that of the base: its image is still to be asked.
    pub(super) change: Option<Change>,
    /// The latest build of the group could not be taken.
    pub(super) is_passed: bool,
}

/// How a context differs from the one that a build was made of.
#[derive(Debug, PartialEq, Eq)]
enum Difference {
    /// In no file.
    Nothing,
    /// In files that were changed after the build.
    Later(Change),
    /// In a file that was not, or nobody can tell.
    Other,
}

fn difference(base: &Record, context: &Context) -> Difference {
    if base.info.inputs.context == context.digest().to_string() {
        return Difference::Nothing;
    }
    let known = &base.keep.files;
    if known.len() >= MAX_INPUT_FILES {
        return Difference::Other;
    }
    let since = base.info.finished_at.unwrap_or(base.info.started_at);
    // The first mistry kept no digests: what is older than its build counts as unchanged.
    let is_known = !known.is_empty();
    let modified: HashMap<&Path, SystemTime> = context.modified().collect();
    let mut change = Change {
        since,
        latest: SystemTime::UNIX_EPOCH,
        is_dockerfile: false,
        is_archive: false,
    };
    let mut differs = false;
    for (path, digest) in context.files() {
        let name = path.to_string_lossy();
        if known.get(name.as_ref()) == Some(&digest.to_string()) {
            continue;
        }
        let is_later = modified
            .get(path)
            .is_some_and(|time| whole_second(*time) > SystemTime::from(since));
        if !is_later && is_known {
            return Difference::Other;
        }
        if !is_later {
            continue;
        }
        differs = true;
        change.latest = modified[path].max(change.latest);
        change.is_dockerfile |= is_known && name == "Dockerfile";
        let name = name.to_ascii_lowercase();
        change.is_archive |= ARCHIVES.iter().any(|end| name.ends_with(end));
    }
    match differs {
        true => Difference::Later(change),
        false => Difference::Nothing,
    }
}

/// As the image has it: Docker keeps whole seconds.
fn whole_second(time: SystemTime) -> SystemTime {
    let since = time.duration_since(SystemTime::UNIX_EPOCH);
    let seconds = since.map_or(0, |since| since.as_secs());
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

impl BuildStore {
    /// Where a build of this context begins in its group.
    pub(super) fn start(
        &self,
        project: &ProjectName,
        group: &GroupName,
        context: &Context,
    ) -> Result<Start, Error> {
        let Some(base) = self.base(project, Some(group))? else {
            return Ok(Start::default());
        };
        let record = record::read(&self.layout.ready(project, base));
        let difference = record.map_or(Difference::Other, |record| {
            record.map_or(Difference::Other, |record| difference(&record, context))
        });
        Ok(match difference {
            Difference::Nothing => Start {
                base: Some(base),
                ..Start::default()
            },
            Difference::Later(change) => Start {
                base: Some(base),
                change: Some(change),
                is_passed: false,
            },
            Difference::Other => self.start_elsewhere(project, group, context),
        })
    }

    /// The same where the latest build of the group cannot be taken: an earlier one that was made of the
    /// same files, or none.
    pub(super) fn start_elsewhere(
        &self,
        project: &ProjectName,
        group: &GroupName,
        context: &Context,
    ) -> Start {
        let filter = Filter {
            project: Some(project.clone()),
            group: Some(group.to_string()),
            state: Some(State::Ready),
            outcome: Some(Outcome::Succeeded),
            ..Filter::default()
        };
        let files = context.files().count();
        let builds = self.index.page(&filter, MOST_LOOKED_AT);
        let same = builds.into_iter().find(|(place, _)| {
            let record = record::read(&self.layout.ready(project, place.id));
            record.ok().flatten().is_some_and(|record| {
                let is_same = difference(&record, context) == Difference::Nothing;
                let is_whole = record.keep.files.len() == files.min(MAX_INPUT_FILES);
                is_same && is_whole
            })
        });
        Start {
            base: same.map(|(place, _)| place.id),
            change: None,
            is_passed: true,
        }
    }
}

impl PendingBuild {
    /// The image of the base that this build began from.
    pub(super) fn image_of_base(&self, project: &ProjectName) -> Option<ImageRecord> {
        let base: JobId = self.info().base.as_deref()?.parse().ok()?;
        let record = record::read(&self.store.layout.ready(project, base)).ok()??;
        let image = record.info.image?;
        let records = self.store.image_records(project);
        records.images.into_iter().find(|known| known.id == image)
    }

    /// Removes what was begun from a base that turned out to be none.
    pub(super) fn clear_data(&self) -> Result<(), Error> {
        let data = self.directory().join(layout::DATA);
        let removed = self.store.filesystem.remove(&data);
        removed.map_err(|cause| Error::Tree("clear what was cloned", cause))?;
        Ok(())
    }
}
