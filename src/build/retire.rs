//! Builds taken away: out of sight by one rename, and removed when they are not read.
//!
//! The last look (is it linked, pinned, used meanwhile, read) and the rename are one step for all code that
//! links or pins. On a full disk, where even a rename may need room that is not there, the record goes
//! first: a build without one is absent, so a crash leaves nothing that is wrong.

use std::ffi::OsStr;
use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::PoisonError;

use super::error::{Error, doing};
use super::gc::{Candidate, Plan, Shelf};
use super::lease::{self, Lease};
use super::store::{BuildStore, random_hex};
use super::survey::named_by;
use super::{layout, used};
use crate::job::{GroupName, JobId};
use crate::project::ProjectName;
use crate::{faults, filesystem};

/// How often a build that is to be removed is looked at, when it changes under our eyes.
const LOOKS: usize = 3;

/// Why a build is not removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Held {
    /// A link names it.
    Linked,
    /// It is pinned.
    Pinned,
    /// A build of the same id is under way.
    UnderWay,
    /// It is being read, or it was used or replaced since it was looked at.
    InUse,
}

impl fmt::Display for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Held::Linked => "a link names it as the latest of its group or project",
            Held::Pinned => "it is pinned; unpin it first",
            Held::UnderWay => "a build of it is not over",
            Held::InUse => "it is in use at this moment; try again later",
        })
    }
}

/// What became of a build that was to be removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Removed {
    /// It is gone; so many bytes were its own, as far as that was measured.
    Gone(u64),
    /// It stays.
    Held(Held),
    /// There is none.
    Unknown,
}

/// What became of a build that was looked at.
enum Retired {
    /// It is out of sight, and this path leads to what is left of it.
    To(PathBuf),
    /// It stays.
    Held(Held),
}

/// What a collection has done.
#[derive(Debug, Default)]
pub struct Collected {
    /// Places in the plan of what is gone.
    pub gone: Vec<usize>,
    /// The first thing that went wrong; the rest was done all the same.
    pub first_error: Option<Error>,
}

impl BuildStore {
    /// Does what a plan says. `goes_on` is asked before each build: false leaves it alone. With
    /// `at_once`, what is removed makes room before this returns, which takes longer.
    pub fn collect(
        &self,
        plan: &Plan,
        at_once: bool,
        goes_on: impl Fn(&Candidate) -> bool,
    ) -> Collected {
        let mut collected = Collected::default();
        let mut note = |error| {
            collected.first_error.get_or_insert(error);
        };
        let mut retired = Vec::new();
        for (at, removal) in plan.removals.iter().enumerate() {
            if !goes_on(&removal.build) {
                continue;
            }
            match self.retire(&removal.build) {
                Ok(Retired::To(away)) => retired.push((at, away)),
                Ok(Retired::Held(_)) => {}
                Err(error) => note(error),
            }
        }
        let cleared = self.clear_trash(at_once);
        for (at, away) in &retired {
            match is_gone(away) {
                Ok(true) => collected.gone.push(*at),
                // The error is that of the trash.
                Ok(false) => {}
                Err(error) => note(doing("look at what was removed", away)(error)),
            }
        }
        for result in [
            cleared,
            self.forget_idle_pins(),
            // A subvolume that is destroyed comes back after a crash unless that is committed.
            match retired.is_empty() {
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

    /// Removes one build, and the failed rebuild beside it.
    ///
    /// # Errors
    /// When the disk is in the way.
    pub fn remove(&self, project: &ProjectName, id: JobId) -> Result<Removed, Error> {
        let Some(info) = self.ready(project, id)? else {
            return Ok(Removed::Unknown);
        };
        if self.linked(project)?.contains(&id) {
            return Ok(Removed::Held(Held::Linked));
        }
        let mut own = 0;
        let mut retired = Vec::new();
        let shelves = [Shelf::Ready, Shelf::Failed];
        for shelf in shelves {
            // It is marked as durable some time after its end: then it is looked at again.
            let mut held = Some(Held::InUse);
            for _ in 0..LOOKS {
                let Some(build) = self.look_at(project, id, shelf, &info.group)? else {
                    held = None;
                    break;
                };
                held = match self.retire(&build)? {
                    Retired::Held(held) => Some(held),
                    Retired::To(away) => {
                        own += build.own.unwrap_or(0);
                        retired.push(away);
                        None
                    }
                };
                if held != Some(Held::InUse) {
                    break;
                }
            }
            match held {
                Some(held) if shelf == Shelf::Ready => return Ok(Removed::Held(held)),
                // What is left of a failed rebuild is collected later.
                _ => {}
            }
        }
        let cleared = self.clear_trash(false);
        for away in &retired {
            if !is_gone(away).map_err(doing("look at what was removed", away))? {
                // Errors about what else is in the trash are not errors of this removal.
                cleared?;
                break;
            }
        }
        self.sync()?;
        Ok(Removed::Gone(own))
    }

    /// A build as it is now; `None` when it is not there.
    fn look_at(
        &self,
        project: &ProjectName,
        id: JobId,
        shelf: Shelf,
        group: &str,
    ) -> Result<Option<Candidate>, Error> {
        let place = self.place(project, id, shelf);
        let look = doing("look at the build", &place);
        let Some(directory) = lease::open(&place).map_err(&look)? else {
            return Ok(None);
        };
        let found = rustix::fs::fstat(&directory).map_err(|error| look(error.into()))?;
        let record = super::record::read(&place).map_err(&look)?;
        let internal = record.map(|record| record.internal).unwrap_or_default();
        Ok(Some(Candidate {
            project: project.clone(),
            id,
            shelf,
            group: group.into(),
            used: used::time(&found),
            ran: None,
            bytes: internal.bytes,
            own: internal.own,
            base: None,
            is_linked: false,
            is_pinned: false,
            is_busy: false,
            is_torn: false,
        }))
    }

    /// Takes a build out of sight, as it was looked at; or says why not.
    fn retire(&self, build: &Candidate) -> Result<Retired, Error> {
        let (project, id) = (&build.project, build.id);
        let place = self.place(project, id, build.shelf);
        let retire = doing("take the build away", &place);
        let changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        if self.is_pinned(project, id) {
            return Ok(Retired::Held(Held::Pinned));
        }
        // Only this link can have been pointed at it since the links were read.
        let group = build.group.parse::<GroupName>().ok();
        let link = named_by(&self.layout.link(project, group.as_ref())).map_err(&retire)?;
        if build.shelf == Shelf::Ready && link == Some(id) {
            return Ok(Retired::Held(Held::Linked));
        }
        if self.layout.pending(project, id).symlink_metadata().is_ok() {
            return Ok(Retired::Held(Held::UnderWay));
        }
        let is_same = |path: &Path| -> io::Result<bool> {
            let found = rustix::fs::lstat(path)?;
            Ok(used::time(&found) == build.used)
        };
        let Some(last) = Lease::take_last(&place).map_err(&retire)? else {
            return Ok(Retired::Held(Held::InUse));
        };
        if !is_same(&place).map_err(&retire)? {
            return Ok(Retired::Held(Held::InUse));
        }
        let away = self.layout.trash().join(random_hex().map_err(&retire)?);
        match std::fs::rename(&place, &away) {
            Ok(()) => {
                faults::point("retired");
                // Who was answered from it in this moment has noted it.
                if !is_same(&away).map_err(&retire)? {
                    std::fs::rename(&away, &place).map_err(&retire)?;
                    return Ok(Retired::Held(Held::InUse));
                }
                self.forget(build);
            }
            Err(error) if retire(error_like(&error)).is_full() => {
                match std::fs::remove_file(place.join(layout::RECORD)) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => {
                        return Err(retire(error));
                    }
                    _ => {}
                }
                self.forget(build);
                drop(changing);
                self.clear_out(&place)?;
                self.remove_tree(&place)?;
            }
            Err(error) => return Err(retire(error)),
        }
        drop(last);
        Ok(Retired::To(away))
    }

    fn place(&self, project: &ProjectName, id: JobId, shelf: Shelf) -> std::path::PathBuf {
        match shelf {
            Shelf::Ready => self.layout.ready(project, id),
            Shelf::Failed => self.layout.failed(project, id),
        }
    }

    fn forget(&self, build: &Candidate) {
        if build.shelf == Shelf::Ready {
            self.index.remove(&build.project, build.id);
        }
    }

    fn remove_tree(&self, path: &Path) -> Result<(), Error> {
        let removed = self.filesystem.remove(path);
        removed
            .map(drop)
            .map_err(|cause| Error::Tree("remove the build's data", cause))
    }

    /// Removes the data of the build in `directory` so that its room is there on return, which must
    /// also work where there is none left.
    pub(super) fn clear_out(&self, directory: &Path) -> Result<(), Error> {
        let data = directory.join(layout::DATA);
        let clear = doing("remove the build's data", &data);
        // One by one first: Btrfs clears a subvolume some time after it is gone. Where its root cannot be
        // opened, all at once must do.
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
        // And what is removed there makes room with the next commit only.
        let directory = File::open(directory).map_err(&clear)?;
        rustix::fs::syncfs(directory).map_err(|error| clear(error.into()))
    }

    /// Takes the data of the build in `directory` away. What cannot be removed goes into the trash, where
    /// it is tried again; so it is out of the way, whatever is in it.
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

    /// Removes what was thrown away. What is still read stays for the next time, without
    /// waiting for a slow reader.
    ///
    /// # Errors
    /// The first thing that cannot be removed; it stays in the trash, and the others go.
    pub fn empty_trash(&self) -> Result<(), Error> {
        self.clear_trash(false)
    }

    pub(super) fn clear_trash(&self, at_once: bool) -> Result<(), Error> {
        let trash = self.layout.trash();
        let empty = doing("empty the trash", &trash);
        let mut first_error = None;
        for entry in std::fs::read_dir(&trash).map_err(&empty)? {
            let path = entry.map_err(&empty)?.path();
            let _ours = match Lease::take_last(&path) {
                Ok(Some(lease)) => lease,
                Ok(None) => continue,
                // One that cannot be opened is no reason to keep the others.
                Err(error) => {
                    first_error.get_or_insert(doing("empty the trash", &path)(error));
                    continue;
                }
            };
            if let Err(error) = self.remove_build(&path, at_once) {
                first_error.get_or_insert(error);
            }
        }
        first_error.map_or(Ok(()), Err)
    }

    fn remove_build(&self, path: &Path, at_once: bool) -> Result<(), Error> {
        // The tree is a subvolume of its own where the filesystem has them.
        let remove = || {
            self.remove_tree(&path.join(layout::DATA))?;
            faults::point("emptied");
            self.remove_tree(path)
        };
        if at_once {
            self.clear_out(path)?;
        }
        match remove() {
            Err(error) if error.is_full() => {
                self.clear_out(path)?;
                remove()
            }
            // A thread that marks it as durable just now holds it open, and may have put its record there again.
            Err(error) if error.is_not_empty() => remove(),
            other => other,
        }
    }

    /// Commits what was done under the build path.
    fn sync(&self) -> Result<(), Error> {
        let sync = doing("bring removals to stable storage", self.root());
        let root = File::open(self.root()).map_err(&sync)?;
        rustix::fs::syncfs(root).map_err(|error| sync(error.into()))
    }
}

/// Whether nothing is left of what was taken out of sight.
fn is_gone(away: &Path) -> io::Result<bool> {
    // A build that has just ended may be emptying the trash, too.
    Lease::wait_for_removal(away)?;
    match away.symlink_metadata() {
        Ok(_) => Ok(false),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(error) => Err(error),
    }
}

/// The same kind of error, for one more look at it.
fn error_like(error: &io::Error) -> io::Error {
    error.kind().into()
}
