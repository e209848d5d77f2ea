//! The candidates of garbage collection: every finished build on disk.
//!
//! The disk is authoritative, so a survey reads all of it: records, links, pins. Files that do not belong to
//! mistry are no candidates. Unreadable builds are none either, and are reported.

use std::collections::HashSet;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use rustix::fs::{AtFlags, Stat};
use serde::Deserialize;

use super::candidate::{Candidate, Category};
use super::disk::{list_ids, open_directory};
use super::error::{Error, disk_error};
use super::gc::{self, Plan};
use super::interned::Interned;
use super::layout::Layout;
use super::store::BuildStore;
use super::{last_used, record};
use crate::job::{JobId, State};
use crate::policy::Policy;
use crate::project::ProjectName;

/// The part of a record that garbage collection needs: reading all of ten thousand records would take
/// seconds.
#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct RecordSummary {
    group: String,
    started_at: Option<Timestamp>,
    finished_at: Option<Timestamp>,
    base: Option<String>,
    bookkeeping: InternalSummary,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct InternalSummary {
    durable: bool,
    boot: String,
    bytes: Option<u64>,
    own: Option<u64>,
}

impl BuildStore {
    /// The removals by a policy, as the disk is now; `is_busy` tells whether a build is pending. Unreadable
    /// builds are left out; the second value is their first error.
    ///
    /// # Errors
    /// When the free space cannot be determined.
    pub fn plan(
        &self,
        policy: &Policy,
        is_busy: impl Fn(&ProjectName, JobId) -> bool,
    ) -> Result<(Plan, Option<Error>), Error> {
        let (mut found, first_error) = self.survey();
        for build in &mut found {
            build.is_busy |= is_busy(&build.project, build.id);
        }
        let (free, _) = self.disk_space()?;
        let mut policy = *policy;
        let last_use = found.iter().map(|build| build.last_used).max();
        let doubted_until = self.doubt_ages(last_use);
        if doubted_until.is_some() {
            policy.max_age = None;
            // It is torn whatever the clock says, but may have been pending a moment ago.
            found.retain(|build| !build.is_torn);
        }
        let mut plan = gc::decide(found, &policy, Timestamp::now(), free);
        plan.doubted_until = doubted_until;
        Ok((plan, first_error))
    }

    /// Every finished build of every project; and the first error.
    fn survey(&self) -> (Vec<Candidate>, Option<Error>) {
        let mut first_error = None;
        let mut note = |error: Error| {
            first_error.get_or_insert(error);
        };
        let mut found = Vec::new();
        let projects = self.projects().unwrap_or_else(|error| {
            note(disk_error("list the builds", self.root())(error));
            Vec::new()
        });
        let pins = match self.pins() {
            Ok(pins) => pins,
            // Without the list of pins, nothing may be removed.
            Err(error) => return (Vec::new(), Some(error)),
        };
        for project in projects {
            match self.survey_project(&project, &pins, &mut note) {
                Ok(builds) => found.extend(builds),
                Err(error) => note(error),
            }
        }
        (found, first_error)
    }

    fn survey_project(
        &self,
        project: &ProjectName,
        pins: &HashSet<(ProjectName, JobId)>,
        note: &mut impl FnMut(Error),
    ) -> Result<Vec<Candidate>, Error> {
        let linked = self.linked(project)?;
        let pending = self.layout.builds(project, State::Pending);
        let pending = list_ids(&pending).map_err(disk_error("list the builds", &pending))?;
        let pending: HashSet<JobId> = pending.into_iter().collect();
        let mut found = Vec::new();
        let mut groups = Interned::default();
        let attempts = self.layout.project_attempts(project);
        let with_attempts: HashSet<JobId> = list_ids(&attempts)
            .map_err(disk_error("list the builds", &attempts))?
            .into_iter()
            .collect();
        for (category, place) in [
            (Category::Ready, self.layout.builds(project, State::Ready)),
            (Category::Failed, self.layout.all_failed(project)),
        ] {
            let list = disk_error("list the builds", &place);
            let ids = list_ids(&place).map_err(&list)?;
            if ids.is_empty() {
                continue;
            }
            let open = open_directory(&place).map_err(|errno| list(errno.into()))?;
            for id in ids {
                let (stat, brief) = match inspect(open.as_fd(), &place, id) {
                    Ok(Some(read)) => read,
                    Ok(None) => continue,
                    Err(error) => {
                        note(error);
                        continue;
                    }
                };
                let brief = brief.filter(|brief| {
                    let kept = &brief.bookkeeping;
                    self.lasts(&kept.boot, kept.durable)
                });
                let is_torn = brief.is_none();
                let brief = brief.unwrap_or_default();
                // They are not measured with the build, and may be removed without it.
                let attempts = match category == Category::Ready && with_attempts.contains(&id) {
                    true => self.job_attempt_bytes(project, id).unwrap_or(0),
                    false => 0,
                };
                let with_its_attempts = |bytes: u64| bytes.saturating_add(attempts);
                found.push(Candidate {
                    project: project.clone(),
                    id,
                    category,
                    group: groups.intern(brief.group.into()),
                    last_used: last_used::time(&stat),
                    ran: brief.started_at.zip(brief.finished_at),
                    bytes: brief.bookkeeping.bytes.map(with_its_attempts),
                    own: brief.bookkeeping.own.map(with_its_attempts),
                    base: brief.base.and_then(|base| base.parse().ok()),
                    is_linked: category == Category::Ready && linked.contains(&id),
                    is_pinned: pins.contains(&(project.clone(), id)),
                    is_busy: pending.contains(&id),
                    is_torn,
                });
            }
        }
        Ok(found)
    }

    /// The builds that a link of the project names, whether they exist or not.
    pub(super) fn linked(&self, project: &ProjectName) -> Result<HashSet<JobId>, Error> {
        let links = self.links(project)?;
        Ok(links.into_iter().map(|(_, named)| named).collect())
    }

    /// The links of a project, each with the build that it names.
    pub(super) fn links(&self, project: &ProjectName) -> Result<Vec<(PathBuf, JobId)>, Error> {
        const READ: &str = "read the link of a group";
        let link = self.layout.link(project, None);
        let named = named_by(&link).map_err(disk_error(READ, &link))?;
        let mut linked: Vec<_> = named.map(|named| (link, named)).into_iter().collect();
        let links = self.layout.groups(project);
        let list = disk_error("list the groups of a project", &links);
        match std::fs::read_dir(&links) {
            Ok(links) => {
                for link in links {
                    let link = link.map_err(&list)?.path();
                    let named = named_by(&link).map_err(disk_error(READ, &link))?;
                    linked.extend(named.map(|named| (link, named)));
                }
            }
            Err(error) if is_none(&error) => {}
            Err(error) => return Err(list(error)),
        }
        Ok(linked)
    }

    /// Free bytes and total bytes of the build path's filesystem.
    ///
    /// # Errors
    /// When the filesystem cannot tell.
    pub fn disk_space(&self) -> Result<(u64, u64), Error> {
        let found = rustix::fs::statvfs(self.root())
            .map_err(|error| disk_error("ask how much is free", self.root())(error.into()))?;
        let bytes = |blocks: u64| blocks.saturating_mul(found.f_frsize);
        Ok((bytes(found.f_bavail), bytes(found.f_blocks)))
    }
}

/// The directory of a build at `place`, and its record's content; `None` if it is gone.
fn inspect(
    open: BorrowedFd<'_>,
    place: &Path,
    id: JobId,
) -> Result<Option<(Stat, Option<RecordSummary>)>, Error> {
    let name = id.to_string();
    let path = place.join(&name);
    let looked = rustix::fs::statat(open, &name, AtFlags::SYMLINK_NOFOLLOW);
    let read = looked
        .map_err(io::Error::from)
        .and_then(|stat| Ok((stat, record::read_as::<RecordSummary>(&path)?)));
    match read {
        Ok(read) => Ok(Some(read)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(disk_error("read the record of a build", &path)(error)),
    }
}

/// The build that a link names; `None` if there is no link, or a foreign one.
pub(super) fn named_by(link: &Path) -> io::Result<Option<JobId>> {
    match std::fs::read_link(link) {
        Ok(target) => Ok(Layout::linked_id(&target)),
        Err(error) if is_none(&error) || error.kind() == io::ErrorKind::InvalidInput => Ok(None),
        Err(error) => Err(error),
    }
}

fn is_none(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}
