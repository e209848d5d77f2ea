//! The directory into which artifacts are written.
//!
//! Every name is resolved one directory at a time from the opened target and links are never followed. So
//! nothing is written outside, whatever names and links there are, and no path is too long. An existing file
//! or link is replaced by any entry, a directory only when it is empty. A file is written under a temporary
//! name in its directory and renamed when it is complete.
//!
//! Modes are those of the artifacts whatever the umask is, without set-id and sticky bits. A directory gets
//! its mode and times when the walk leaves it, since a read-only one could not be filled. A directory that is
//! entered again later gets its earlier ones back. So memory depends on the depth of the tree only, except
//! for the set of files that a later entry may link to.
//!
//! Everything here blocks.

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;
use tokio_util::sync::CancellationToken;

use super::Error;
use super::dir_walker::DirWalker;
use super::draft::{Draft, Temporary};
use super::metadata::{KEPT_MODE, Modified, set_mode};
use super::open::{READ_DIRECTORY, open_for_entries, path_of_descriptor};
use crate::cli::progress::Progress;
use crate::filesystem::{self, InodeId};

/// Removes everything in `path` but `except`, also from directories whose mode denies that to the
/// caller, their owner, and counts the entries of `path` itself. Links are removed, not followed.
pub(super) fn clear(path: &Path, except: Option<&OsStr>) -> Result<u64, Error> {
    let emptied = || -> io::Result<u64> {
        let mut removed = 0;
        // The user named this path, so a link to it is followed; entries are reached by descriptors.
        let directory = rustix::fs::open(path, READ_DIRECTORY, Mode::empty())?;
        for entry in Dir::read_from(&directory)? {
            let entry = entry?;
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            if name != "." && name != ".." && Some(name) != except {
                filesystem::remove_in(&directory, name)?;
                removed += 1;
            }
        }
        Ok(removed)
    };
    emptied().map_err(|error| Error::Clear(path.display().to_string(), error))
}

/// A directory on the path from the target to the current one.
#[derive(Debug)]
struct Level {
    name: OsString,
    /// The mode that it gets when it is left.
    mode: u32,
    at: Modified,
    /// Mode and time are those of the artifacts. Otherwise they are those from before, and failing to
    /// restore them, in a directory of another user, is no error.
    is_from_artifacts: bool,
}

/// An opened target.
#[derive(Debug)]
pub(super) struct Target {
    walker: DirWalker,
    /// The directories from the target to the current one.
    levels: Vec<Level>,
    /// The files and links that were written here: only these may get hard links.
    written: HashSet<InodeId>,
    serial: u64,
    files: u64,
    /// Of these, the ones that replaced a file or link that was here before.
    replaced: u64,
    progress: Progress,
    /// Set when the fetch is cancelled.
    cancelled: CancellationToken,
}

impl Target {
    /// Opens an existing directory.
    pub(super) fn open(
        path: &Path,
        progress: Progress,
        cancelled: CancellationToken,
    ) -> Result<Target, Error> {
        // The user named this path, so a link to it is followed.
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let walker = rustix::fs::open(path, flags, Mode::empty())
            .and_then(DirWalker::new)
            .map_err(|error| Error::Write(path.display().to_string(), error.into()))?;
        Ok(Target {
            walker,
            levels: Vec::new(),
            written: HashSet::new(),
            serial: 0,
            files: 0,
            replaced: 0,
            progress,
            cancelled,
        })
    }

    /// The number of files and links that were written here.
    pub(super) fn files(&self) -> u64 {
        self.files
    }

    /// How many files and links that were here before they replaced.
    pub(super) fn replaced(&self) -> u64 {
        self.replaced
    }

    /// Makes a directory if it is missing, and gives it this mode and time.
    pub(super) fn make_directory(
        &mut self,
        path: &Path,
        mode: u32,
        at: Modified,
    ) -> Result<(), Error> {
        let mode = mode & KEPT_MODE;
        let name = self.enter_parent(path)?;
        self.enter(name, Some(mode))
            .map_err(|error| write_error(path, error))?;
        if let Some(level) = self.levels.last_mut() {
            (level.mode, level.at, level.is_from_artifacts) = (mode, at, true);
        }
        Ok(())
    }

    /// Begins a file; it gets its name from [`Target::finish_file`].
    pub(super) fn begin_file(&mut self, path: &Path) -> Result<Draft, Error> {
        let name = self.enter_parent(path)?.to_owned();
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let mode = Mode::RUSR | Mode::WUSR;
        let made = self.make_temporary(|parent, temporary| {
            rustix::fs::openat(parent, temporary, flags | OFlags::NOFOLLOW, mode)
        });
        let (temporary, file) = made.map_err(|error| write_error(path, error))?;
        Ok(Draft {
            file: File::from(file),
            position: 0,
            length: 0,
            name,
            temporary,
            progress: self.progress.clone(),
            cancelled: self.cancelled.clone(),
        })
    }

    /// Gives a complete file its mode, its time and its name.
    pub(super) fn finish_file(
        &mut self,
        path: &Path,
        draft: Draft,
        mode: u32,
        at: Modified,
    ) -> Result<(), Error> {
        let file = &draft.file;
        if draft.length < draft.position {
            file.set_len(draft.position)
                .map_err(|error| Error::Write(path.display().to_string(), error))?;
        }
        let renamed = rustix::fs::futimens(file, &at.timestamps())
            .and_then(|()| set_mode(file.as_fd(), mode & KEPT_MODE))
            .and_then(|()| rustix::fs::fstat(file))
            .and_then(|stat| self.publish(draft.temporary, &draft.name, &stat));
        renamed.map_err(|error| write_error(path, error))
    }

    /// Makes a symbolic link; it may lead anywhere, since it is never followed here.
    pub(super) fn make_symlink(
        &mut self,
        path: &Path,
        to: &OsStr,
        at: Modified,
    ) -> Result<(), Error> {
        let name = self.enter_parent(path)?;
        let made = self
            .make_temporary(|parent, link| rustix::fs::symlinkat(to, parent, link))
            .and_then(|(link, ())| {
                let flags = AtFlags::SYMLINK_NOFOLLOW;
                rustix::fs::utimensat(&link.parent, &link.name, &at.timestamps(), flags)?;
                let stat = rustix::fs::statat(&link.parent, &link.name, flags)?;
                self.publish(link, name, &stat)
            });
        made.map_err(|error| write_error(path, error))
    }

    /// Makes a hard link to a file or link that was written here.
    ///
    /// # Errors
    /// [`Error::Hostile`] if the file was in the target before: a program that writes to the new name would
    /// change the user's file.
    pub(super) fn make_hard_link(&mut self, path: &Path, to: &Path) -> Result<(), Error> {
        let handle = self.find_written(path, to)?;
        let name = self.enter_parent(path)?;
        // The directory of the other name may be read-only again, so the file is linked by its handle.
        // The handle of a symbolic link leads to the link and not to its target.
        let from = path_of_descriptor(handle.as_fd());
        let made = self
            .make_temporary(|parent, link| {
                rustix::fs::linkat(CWD, &from, parent, link, AtFlags::SYMLINK_FOLLOW)
            })
            .and_then(|(link, ())| self.publish(link, name, &rustix::fs::fstat(&handle)?));
        made.map_err(|error| write_error(path, error))
    }

    /// A handle of `to`, to which `path` will be a hard link and which must have been written here.
    fn find_written(&mut self, path: &Path, to: &Path) -> Result<OwnedFd, Error> {
        let directory = to.parent().unwrap_or(Path::new(""));
        self.leave_for(directory)?;
        let mut find = || {
            for name in directory.iter().skip(self.levels.len()) {
                self.enter(name, None)?;
            }
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let name = to.file_name().ok_or(Errno::NOENT)?;
            let handle = rustix::fs::openat(self.walker.here(), name, flags, Mode::empty())?;
            let stat = rustix::fs::fstat(&handle)?;
            Ok((handle, stat))
        };
        match find() {
            Ok((handle, stat)) if self.written.contains(&InodeId::of(&stat)) => Ok(handle),
            Ok(_) | Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {
                let what = "it is a second name of a file that did not come with it";
                Err(Error::Hostile(path.display().to_string(), what))
            }
            Err(error) => Err(write_error(to, error)),
        }
    }

    /// Moves a file or link, the entry `from` of `parent` on the same filesystem, into the target.
    pub(super) fn move_in(
        &mut self,
        path: &Path,
        parent: BorrowedFd<'_>,
        from: &OsStr,
    ) -> Result<(), Error> {
        let name = self.enter_parent(path)?;
        let here = self.walker.here();
        let is_replaced = self.replaces(here, name);
        let moved = rename_over(here, name, || {
            rustix::fs::renameat(parent, from, here, name)
        });
        moved.map_err(|error| write_error(path, error))?;
        self.files += 1;
        self.replaced += u64::from(is_replaced);
        Ok(())
    }

    /// Leaves all directories, so that each gets its mode and times.
    pub(super) fn finish(&mut self) -> Result<(), Error> {
        self.leave_for(Path::new(""))
    }

    /// Renames a complete file or link to its name.
    fn publish(
        &mut self,
        mut temporary: Temporary,
        name: &OsStr,
        stat: &Stat,
    ) -> Result<(), Errno> {
        let parent = temporary.parent.as_fd();
        let is_replaced = self.replaces(parent, name);
        rename_over(parent, name, || {
            rustix::fs::renameat(parent, &temporary.name, parent, name)
        })?;
        // rename(2) does nothing if both names are hard links to one file. Then the temporary name still
        // exists and is removed.
        temporary.renamed = stat.st_nlink < 2
            || rustix::fs::statat(parent, &temporary.name, AtFlags::SYMLINK_NOFOLLOW).is_err();
        self.written.insert(InodeId::of(stat));
        self.files += 1;
        self.replaced += u64::from(is_replaced);
        Ok(())
    }

    /// Whether an entry of this name replaces a file or link that was here before the artifacts.
    fn replaces(&self, parent: BorrowedFd<'_>, name: &OsStr) -> bool {
        let before = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW);
        before.is_ok_and(|before| {
            FileType::from_raw_mode(before.st_mode) != FileType::Directory
                && !self.written.contains(&InodeId::of(&before))
        })
    }

    /// Makes a file or link under an unused name in the current directory.
    fn make_temporary<T>(
        &mut self,
        make: impl Fn(BorrowedFd<'_>, &OsStr) -> Result<T, Errno>,
    ) -> Result<(Temporary, T), Errno> {
        let parent = rustix::io::fcntl_dupfd_cloexec(self.walker.here(), 0)?;
        loop {
            let name = OsString::from(format!(".mistry-{}-{}", std::process::id(), self.serial));
            self.serial += 1;
            match make(parent.as_fd(), &name) {
                Err(Errno::EXIST) => {}
                made => {
                    let made = made?;
                    let temporary = Temporary {
                        parent,
                        name,
                        renamed: false,
                    };
                    return Ok((temporary, made));
                }
            }
        }
    }

    /// Enters the directory of `path`, which is made if it is missing; returns the last name.
    fn enter_parent<'a>(&mut self, path: &'a Path) -> Result<&'a OsStr, Error> {
        let directory = path.parent().unwrap_or(Path::new(""));
        self.leave_for(directory)?;
        let mut enter = || {
            for name in directory.iter().skip(self.levels.len()) {
                self.enter(name, Some(0o777))?;
            }
            path.file_name().ok_or(Errno::INVAL)
        };
        enter().map_err(|error| write_error(path, error))
    }

    /// Enters the directory `name` of the current one. With `make_mode`, it is made with that mode if it is
    /// missing, or replaces a file or link.
    fn enter(&mut self, name: &OsStr, make_mode: Option<u32>) -> Result<(), Errno> {
        let (directory, stat) = open_for_entries(self.walker.here(), name, make_mode)?;
        self.walker.enter(directory, &stat);
        self.levels.push(Level {
            name: name.to_owned(),
            mode: stat.st_mode & 0o7777,
            at: Modified::of(&stat),
            is_from_artifacts: false,
        });
        Ok(())
    }

    /// Leaves directories until the current one is `next` or one above it.
    fn leave_for(&mut self, next: &Path) -> Result<(), Error> {
        let names = self.levels.iter().map(|level| level.name.as_os_str());
        let shared = names.zip(next).take_while(|(is, goes)| is == goes).count();
        while self.levels.len() > shared {
            self.leave()?;
        }
        Ok(())
    }

    /// Leaves the current directory, which gets its mode and time.
    fn leave(&mut self) -> Result<(), Error> {
        let Some(level) = self.levels.pop() else {
            return Ok(());
        };
        let mut leave = || {
            let Some(directory) = self.walker.leave()? else {
                return Ok(());
            };
            let set = rustix::fs::futimens(&directory, &level.at.timestamps())
                .and_then(|()| set_mode(directory.as_fd(), level.mode));
            if level.is_from_artifacts { set } else { Ok(()) }
        };
        leave().map_err(|error| {
            let above = self.levels.iter().map(|level| &level.name);
            let path: PathBuf = above.chain([&level.name]).collect();
            write_error(&path, error)
        })
    }
}

impl Drop for Target {
    /// After an error, directories get their modes back as far as possible.
    fn drop(&mut self) {
        while !self.levels.is_empty() {
            let _ = self.leave();
        }
    }
}

/// Renames over an existing entry; an empty directory is removed first.
fn rename_over(
    parent: BorrowedFd<'_>,
    name: &OsStr,
    rename: impl Fn() -> Result<(), Errno>,
) -> Result<(), Errno> {
    match rename() {
        Err(Errno::ISDIR | Errno::NOTEMPTY | Errno::EXIST) => {
            match rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR) {
                Err(Errno::EXIST) => return Err(Errno::NOTEMPTY),
                removed => removed?,
            }
            rename()
        }
        renamed => renamed,
    }
}

fn write_error(path: &Path, error: Errno) -> Error {
    let shown = path.display().to_string();
    match error {
        Errno::NOTEMPTY => Error::InTheWay(shown),
        other => Error::Write(shown, other.into()),
    }
}
