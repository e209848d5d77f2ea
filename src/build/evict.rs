//! Eviction of builds: one rename moves a build to the trash, where it is removed once no reader is left.
//!
//! The last check (is it linked, pinned, read, or used meanwhile) and the rename happen under the lock that
//! links and pins also take. On a full disk even a rename may fail; then the record is removed first: a build
//! without a record counts as absent, so a crash leaves a consistent tree.

use std::ffi::OsStr;
use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::candidate::{Candidate, Category};
use super::error::{Error, disk_error};
use super::gc::Plan;
use super::groups::remove_links;
use super::lease::{self, Lease};
use super::random::random_hex;
use super::store::BuildStore;
use super::survey::named_by;
use super::{last_used, layout};
use crate::job::{GroupName, JobId};
use crate::project::ProjectName;
use crate::{faults, filesystem};

/// Attempts to remove a build that changes in the meantime.
const EVICT_ATTEMPTS: usize = 3;

const EVICT: &str = "take the build away";

/// Why a build is not removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeptReason {
    /// A link names it: it is the base of this group, or with "" the latest build without a group.
    Linked(String),
    /// It is pinned.
    Pinned,
    /// A build of the same id is pending.
    UnderWay,
    /// It is being read, or it was used or replaced since it was checked.
    InUse,
}

impl fmt::Display for KeptReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            KeptReason::Linked(group) if group.is_empty() => {
                "it is the latest build of the project without a group, which counts as a base"
            }
            KeptReason::Linked(group) => {
                return write!(
                    f,
                    "it is the base of group '{group}', whose next build would start empty"
                );
            }
            KeptReason::Pinned => "it is pinned; unpin it first",
            KeptReason::UnderWay => "a build of it is not over",
            KeptReason::InUse => "it is in use at this moment; try again later",
        })
    }
}

/// What is done with a build that a link names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IfBase {
    /// It stays.
    Keep,
    /// Its links are removed first, then the build.
    Unlink,
}

/// The result of a removal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Removed {
    /// It was removed.
    Gone {
        /// The bytes of its own that this freed, as far as measured.
        bytes: u64,
        /// The group whose base it was; "" if it was the latest build without a group.
        base_of: Option<String>,
    },
    /// It stays.
    Kept(KeptReason),
    /// No such build.
    Unknown,
}

/// Result of an eviction.
enum Evicted {
    /// The build was moved to this path in the trash, or removed at once; and whether a link named it.
    To(PathBuf, bool),
    /// It stays.
    Kept(KeptReason),
}

/// When the space of removed files is free.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freeing {
    /// Before the removal returns: the files are removed one by one.
    Now,
    /// When the filesystem finds the time.
    Later,
}

/// The result of a collection.
#[derive(Debug, Default)]
pub struct Collected {
    /// Places in the plan of the removed builds.
    pub gone: Vec<usize>,
    /// The first error; the rest was done all the same.
    pub first_error: Option<Error>,
}

impl BuildStore {
    /// Executes a plan. `may_remove` is called before each build: false skips it. With
    /// [`Freeing::Now`], the space is free before this returns, which takes longer.
    pub fn collect(
        &self,
        plan: &Plan,
        freeing: Freeing,
        may_remove: impl Fn(&Candidate) -> bool,
    ) -> Collected {
        let mut collected = Collected::default();
        let mut note = |error| {
            collected.first_error.get_or_insert(error);
        };
        let mut evicted = Vec::new();
        for (at, removal) in plan.removals.iter().enumerate() {
            if !may_remove(&removal.build) {
                continue;
            }
            match self.evict(&removal.build, IfBase::Keep) {
                Ok(Evicted::To(trashed, _)) => evicted.push((at, trashed)),
                Ok(Evicted::Kept(_)) => {}
                Err(error) => note(error),
            }
        }
        let cleared = self.clear_trash(freeing);
        for (at, trashed) in &evicted {
            match is_gone(trashed) {
                Ok(true) => collected.gone.push(*at),
                // The error is about the trash.
                Ok(false) => {}
                Err(error) => note(disk_error("look at what was removed", trashed)(error)),
            }
        }
        for result in [
            cleared,
            self.forget_idle_pins(),
            // A destroyed subvolume comes back after a crash unless that is committed.
            match evicted.is_empty() {
                false => self.sync(),
                true => Ok(()),
            },
        ] {
            if let Err(error) = result {
                note(error);
            }
        }
        collected
    }

    /// Removes one build, its attempts, and a failed rebuild of an earlier version beside it.
    ///
    /// # Errors
    /// When a system call fails.
    pub fn remove(
        &self,
        project: &ProjectName,
        id: JobId,
        if_base: IfBase,
    ) -> Result<Removed, Error> {
        let Some(info) = self.ready(project, id)? else {
            return Ok(Removed::Unknown);
        };
        let group = info.group_name();
        if if_base == IfBase::Keep && self.linked(project)?.contains(&id) {
            return Ok(Removed::Kept(KeptReason::Linked(group.to_owned())));
        }
        let mut base_of = None;
        let mut own = 0;
        let mut evicted = Vec::new();
        let categories = [Category::Ready, Category::Failed];
        for category in categories {
            // It is marked as durable some time after its end: then it is checked again.
            let mut kept = Some(KeptReason::InUse);
            for _ in 0..EVICT_ATTEMPTS {
                let Some(build) = self.look_at(project, id, category, group)? else {
                    kept = None;
                    break;
                };
                kept = match self.evict(&build, if_base)? {
                    Evicted::Kept(reason) => Some(reason),
                    Evicted::To(trashed, was_base) => {
                        base_of = base_of.or(was_base.then(|| group.to_owned()));
                        own += build.own.unwrap_or(0);
                        evicted.push(trashed);
                        None
                    }
                };
                if kept != Some(KeptReason::InUse) {
                    break;
                }
            }
            match kept {
                Some(reason) if category == Category::Ready => return Ok(Removed::Kept(reason)),
                // Remains of a failed rebuild are collected later.
                _ => {}
            }
        }
        let cleared = self.clear_trash(Freeing::Later);
        for trashed in &evicted {
            if !is_gone(trashed).map_err(disk_error("look at what was removed", trashed))? {
                // Errors about other entries of the trash are not errors of this removal.
                cleared?;
                break;
            }
        }
        self.sync()?;
        Ok(Removed::Gone {
            bytes: own,
            base_of,
        })
    }

    /// The current state of a build; `None` when it does not exist.
    fn look_at(
        &self,
        project: &ProjectName,
        id: JobId,
        category: Category,
        group: &str,
    ) -> Result<Option<Candidate>, Error> {
        let place = self.place(project, id, category);
        let look = disk_error("look at the build", &place);
        let Some(directory) = lease::open(&place).map_err(&look)? else {
            return Ok(None);
        };
        let found = rustix::fs::fstat(&directory).map_err(|error| look(error.into()))?;
        let record = super::record::read(&place).map_err(&look)?;
        let internal = record.map(|record| record.internal).unwrap_or_default();
        let attempts = match category {
            Category::Ready => self.job_attempt_bytes(project, id).map_err(look)?,
            Category::Failed => 0,
        };
        Ok(Some(Candidate {
            project: project.clone(),
            id,
            category,
            group: group.into(),
            last_used: last_used::time(&found),
            ran: None,
            bytes: internal.bytes,
            own: internal.own.map(|own| own.saturating_add(attempts)),
            base: None,
            is_linked: false,
            is_pinned: false,
            is_busy: false,
            is_torn: false,
        }))
    }

    /// Why a build is not evicted, whether it has changed or not. The caller holds `changing`.
    fn must_stay(&self, build: &Candidate, if_base: IfBase) -> Result<Option<KeptReason>, Error> {
        let (project, id) = (&build.project, build.id);
        if self.is_pinned(project, id) {
            return Ok(Some(KeptReason::Pinned));
        }
        // Only this link can have been pointed at it since the links were read.
        let group = build.group.parse::<GroupName>().ok();
        let link = self.layout.link(project, group.as_ref());
        let named = named_by(&link).map_err(disk_error(EVICT, &link))?;
        if build.category == Category::Ready && named == Some(id) && if_base == IfBase::Keep {
            return Ok(Some(KeptReason::Linked(build.group.to_string())));
        }
        let is_pending = self.layout.pending(project, id).symlink_metadata().is_ok();
        Ok(is_pending.then_some(KeptReason::UnderWay))
    }

    /// Moves a build to the trash, unless it has changed since it was checked or must stay.
    fn evict(&self, build: &Candidate, if_base: IfBase) -> Result<Evicted, Error> {
        let (project, id) = (&build.project, build.id);
        let place = self.place(project, id, build.category);
        let evict = disk_error(EVICT, &place);
        let changing = self.changing.lock();
        if let Some(reason) = self.must_stay(build, if_base)? {
            return Ok(Evicted::Kept(reason));
        }
        let is_same = |path: &Path| -> io::Result<bool> {
            let found = rustix::fs::lstat(path)?;
            Ok(last_used::time(&found) == build.last_used)
        };
        let Some(last) = Lease::take_last(&place).map_err(&evict)? else {
            return Ok(Evicted::Kept(KeptReason::InUse));
        };
        if !is_same(&place).map_err(&evict)? {
            return Ok(Evicted::Kept(KeptReason::InUse));
        }
        let links = match (build.category, if_base) {
            (Category::Ready, IfBase::Unlink) => self.links_to(project, id)?,
            _ => Vec::new(),
        };
        let trashed = self.layout.trash().join(random_hex().map_err(&evict)?);
        match std::fs::rename(&place, &trashed) {
            Ok(()) => {
                faults::point("retired");
                // A client that was answered from it at this moment has noted its use.
                if !is_same(&trashed).map_err(&evict)? {
                    std::fs::rename(&trashed, &place).map_err(&evict)?;
                    return Ok(Evicted::Kept(KeptReason::InUse));
                }
                self.forget(build);
                self.remove_links_of_evicted(&place, &links)
                    .map_err(&evict)?;
            }
            Err(error) if evict(error_like(&error)).is_full() => {
                match std::fs::remove_file(place.join(layout::RECORD)) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => {
                        return Err(evict(error));
                    }
                    _ => {}
                }
                self.forget(build);
                self.remove_links_of_evicted(&place, &links)
                    .map_err(&evict)?;
                drop(changing);
                self.clear_out(&place)?;
                self.remove_tree(&place)?;
            }
            Err(error) => return Err(evict(error)),
        }
        drop(last);
        Ok(Evicted::To(trashed, !links.is_empty()))
    }

    /// Removes the links to a build that is out of sight. Until then they lead nowhere, which is the same as
    /// no link; a process that ends before leaves them to the next start.
    fn remove_links_of_evicted(&self, place: &Path, links: &[PathBuf]) -> io::Result<()> {
        if links.is_empty() {
            return Ok(());
        }
        // A link must not be gone after a power cut while its build is there.
        if let Some(builds) = place.parent() {
            File::open(builds)?.sync_all()?;
        }
        remove_links(links)?;
        faults::point("base-unlinked");
        Ok(())
    }

    fn place(&self, project: &ProjectName, id: JobId, category: Category) -> std::path::PathBuf {
        match category {
            Category::Ready => self.layout.ready(project, id),
            Category::Failed => self.layout.failed(project, id),
        }
    }

    fn forget(&self, build: &Candidate) {
        if build.category == Category::Ready {
            self.index.remove(&build.project, build.id);
            // What cannot be moved is removed at the next start, since it has no build any more.
            let _ = self.remove_attempts(&build.project, build.id);
        }
    }

    fn remove_tree(&self, path: &Path) -> Result<(), Error> {
        let removed = self.filesystem.remove(path);
        removed
            .map(drop)
            .map_err(|cause| Error::Tree("remove the build's data", cause))
    }

    /// Removes the data of the build in `directory` so that its space is free on return. This must
    /// also work on a full disk.
    pub(super) fn clear_out(&self, directory: &Path) -> Result<(), Error> {
        let data = directory.join(layout::DATA);
        let clear = disk_error("remove the build's data", &data);
        // One by one first: Btrfs frees a subvolume's space some time after its removal. If its root cannot
        // be opened, it is removed in one call.
        if let Ok(Some(open)) = filesystem::open_writable(rustix::fs::CWD, &data) {
            for entry in rustix::fs::Dir::read_from(&open).map_err(|error| clear(error.into()))? {
                let entry = entry.map_err(|error| clear(error.into()))?;
                let name = OsStr::from_bytes(entry.file_name().to_bytes());
                if name != "." && name != ".." {
                    filesystem::remove_in(&open, name).map_err(&clear)?;
                }
            }
        }
        self.remove_tree(&data)?;
        // The space of the entries removed there is also freed only by the next commit.
        let directory = File::open(directory).map_err(&clear)?;
        rustix::fs::syncfs(directory).map_err(|error| clear(error.into()))
    }

    /// Removes the data of the build in `directory`. Data that cannot be removed is moved to the trash, where
    /// the removal is retried.
    ///
    /// # Errors
    /// When neither is possible.
    pub(super) fn discard(&self, directory: &Path) -> Result<(), Error> {
        let data = directory.join(layout::DATA);
        match self.clear_out(directory) {
            Err(error) if !error.is_full() => self.throw_away(&data).map_err(|_| error),
            result => result,
        }
    }

    /// Empties the trash. Builds that are still read stay until the next call, which this does not wait for.
    ///
    /// # Errors
    /// The first error of an entry; that entry stays in the trash, and the others are removed.
    pub fn empty_trash(&self) -> Result<(), Error> {
        self.clear_trash(Freeing::Later)
    }

    pub(super) fn clear_trash(&self, freeing: Freeing) -> Result<(), Error> {
        let trash = self.layout.trash();
        let empty = disk_error("empty the trash", &trash);
        let mut first_error = None;
        for entry in std::fs::read_dir(&trash).map_err(&empty)? {
            let path = entry.map_err(&empty)?.path();
            let _ours = match Lease::take_last(&path) {
                Ok(Some(lease)) => lease,
                Ok(None) => continue,
                // An entry that cannot be opened must not prevent the removal of others.
                Err(error) => {
                    first_error.get_or_insert(disk_error("empty the trash", &path)(error));
                    continue;
                }
            };
            if let Err(error) = self.remove_build(&path, freeing) {
                first_error.get_or_insert(error);
            }
        }
        first_error.map_or(Ok(()), Err)
    }

    fn remove_build(&self, path: &Path, freeing: Freeing) -> Result<(), Error> {
        // The tree is a subvolume where the filesystem supports them.
        let remove = || {
            self.remove_tree(&path.join(layout::DATA))?;
            faults::point("emptied");
            self.remove_tree(path)
        };
        if freeing == Freeing::Now {
            self.clear_out(path)?;
        }
        match remove() {
            Err(error) if error.is_full() => {
                self.clear_out(path)?;
                remove()
            }
            // A thread that is marking it as durable holds it open, and may have written its record there
            // again.
            Err(error) if error.is_not_empty() => remove(),
            other => other,
        }
    }

    /// Commits the changes under the build path.
    fn sync(&self) -> Result<(), Error> {
        let sync = disk_error("bring removals to stable storage", self.root());
        let root = File::open(self.root()).map_err(&sync)?;
        rustix::fs::syncfs(root).map_err(|error| sync(error.into()))
    }
}

/// Whether a build that was moved to the trash has been removed.
fn is_gone(trashed: &Path) -> io::Result<bool> {
    // A build that has just ended may be emptying the trash, too.
    Lease::wait_for_removal(trashed)?;
    match trashed.symlink_metadata() {
        Ok(_) => Ok(false),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(error) => Err(error),
    }
}

/// An error of the same kind, for a second check.
fn error_like(error: &io::Error) -> io::Error {
    error.kind().into()
}
