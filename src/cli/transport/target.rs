//! The directory that artifacts are put into.
//!
//! Every name is resolved one directory at a time from the opened target and links are never
//! followed, so nothing is written outside, whatever the names say and whatever lies there.
//! What stands in the way is replaced: a file or link by anything, a directory only when it is
//! empty. A file is written under a name of ours beside its own and renamed when it is whole.
//! Everything here blocks.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fd::OwnedFd;
use rustix::fs::{AtFlags, Mode, OFlags, Timespec, Timestamps, UTIME_OMIT};
use rustix::io::Errno;
use tokio_util::sync::CancellationToken;

use super::super::progress::Progress;
use super::Error;

/// The last second of year 9999: file systems take no later time, and no honest one is later.
const LAST_SECOND: i64 = 253_402_300_799;
/// Looks at a directory without being able to read it.
const LOOK: OFlags = OFlags::PATH
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// Removes everything in `path` but `except`; links are removed, not followed.
pub(super) fn clear(path: &Path, except: Option<&OsStr>) -> Result<(), Error> {
    let emptied = std::fs::read_dir(path).and_then(|entries| {
        for entry in entries {
            let entry = entry?;
            if Some(entry.file_name().as_os_str()) == except {
                continue;
            }
            if entry.file_type()?.is_dir() {
                std::fs::remove_dir_all(entry.path())?;
            } else {
                std::fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    });
    emptied.map_err(|error| Error::Clear(path.display().to_string(), error))
}

/// A time for a file, within what file systems take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Modified {
    pub seconds: i64,
    pub nanos: u32,
}

impl Modified {
    fn times(self) -> Timestamps {
        Timestamps {
            last_access: Timespec {
                tv_sec: 0,
                tv_nsec: UTIME_OMIT,
            },
            last_modification: Timespec {
                tv_sec: self.seconds.clamp(-LAST_SECOND, LAST_SECOND),
                tv_nsec: i64::from(self.nanos.min(999_999_999)),
            },
        }
    }
}

/// An opened target.
#[derive(Debug)]
pub(super) struct Target {
    root: Arc<OwnedFd>,
    /// The directory of the last entry, since most entries share it.
    recent: Option<(PathBuf, Arc<OwnedFd>)>,
    /// Directories around the last entry: their times are set when nothing more comes into them.
    unsettled: Vec<(PathBuf, Modified)>,
    serial: u64,
    files: u64,
    progress: Progress,
    /// Set when nobody waits for the artifacts any more.
    gone: CancellationToken,
}

impl Target {
    /// Opens a directory that is there.
    pub(super) fn open(
        path: &Path,
        progress: Progress,
        gone: CancellationToken,
    ) -> Result<Target, Error> {
        // The user named it, so a link to it is followed.
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(path, flags, Mode::empty())
            .map_err(|error| Error::Write(path.display().to_string(), error.into()))?;
        Ok(Target {
            root: Arc::new(root),
            recent: None,
            unsettled: Vec::new(),
            serial: 0,
            files: 0,
            progress,
            gone,
        })
    }

    /// Files and links put here so far.
    pub(super) fn files(&self) -> u64 {
        self.files
    }

    /// Makes a directory, or leaves the one that is there.
    pub(super) fn directory(&mut self, path: &Path, mode: u32, at: Modified) -> Result<(), Error> {
        self.settle(Some(path))?;
        let made = self.place(path).and_then(|(parent, name)| {
            // Whoever fetches must be able to write into it and to remove it again.
            step(&parent, name, Mode::from_raw_mode((mode & 0o777) | 0o700))
        });
        let directory = made.map_err(|error| failed(path, error))?;
        self.recent = Some((path.to_owned(), Arc::new(directory)));
        self.unsettled.push((path.to_owned(), at));
        Ok(())
    }

    /// Begins a file; it has its name only when [`Target::keep`] is called.
    pub(super) fn begin(&mut self, path: &Path, mode: u32) -> Result<Draft, Error> {
        self.settle(Some(path))?;
        let begun = self.place(path).and_then(|(parent, name)| {
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
            let mode = Mode::from_raw_mode((mode & 0o777) | 0o400);
            let (temporary, file) = self.unused(|temporary| {
                rustix::fs::openat(&*parent, temporary, flags | OFlags::NOFOLLOW, mode)
            })?;
            Ok(Draft {
                file: File::from(file),
                name: name.to_owned(),
                beside: Beside {
                    parent,
                    temporary,
                    kept: false,
                },
                progress: self.progress.clone(),
                gone: self.gone.clone(),
            })
        });
        begun.map_err(|error| failed(path, error))
    }

    /// Gives a file that is whole its name and its time.
    pub(super) fn keep(&mut self, path: &Path, draft: Draft, at: Modified) -> Result<(), Error> {
        let kept = rustix::fs::futimens(&draft.file, &at.times())
            .and_then(|()| self.put(draft.beside, &draft.name));
        kept.map_err(|error| failed(path, error))
    }

    /// Makes a symbolic link; where it points to does not matter, since nothing follows it here.
    pub(super) fn symlink(&mut self, path: &Path, to: &OsStr, at: Modified) -> Result<(), Error> {
        self.settle(Some(path))?;
        let made = self.place(path).and_then(|(parent, name)| {
            let (temporary, ()) = self.unused(|name| rustix::fs::symlinkat(to, &*parent, name))?;
            let link = &temporary;
            rustix::fs::utimensat(&*parent, link, &at.times(), AtFlags::SYMLINK_NOFOLLOW)?;
            let beside = Beside {
                parent,
                temporary,
                kept: false,
            };
            self.put(beside, name)
        });
        made.map_err(|error| failed(path, error))
    }

    /// Makes a second name for a file that is in the target.
    pub(super) fn hard_link(&mut self, path: &Path, to: &Path) -> Result<(), Error> {
        self.settle(Some(path))?;
        let linked = self.existing(to).and_then(|(from, old)| {
            let (parent, name) = self.place(path)?;
            // Without AT_SYMLINK_FOLLOW: a link gets a second name itself, its target does not.
            let (temporary, ()) = self.unused(|temporary| {
                rustix::fs::linkat(&from, old, &*parent, temporary, AtFlags::empty())
            })?;
            let beside = Beside {
                parent,
                temporary,
                kept: false,
            };
            self.put(beside, name)
        });
        linked.map_err(|error| failed(path, error))
    }

    /// Moves a file or link that is on the same file system to its place.
    pub(super) fn take(&mut self, path: &Path, from: &Path) -> Result<(), Error> {
        self.settle(Some(path))?;
        let taken = self.place(path).and_then(|(parent, name)| {
            self.over(name, &parent, || {
                rustix::fs::renameat(rustix::fs::CWD, from, &*parent, name)
            })
        });
        self.files += 1;
        taken.map_err(|error| failed(path, error))
    }

    /// Sets the times of directories that nothing more comes into: all, or those that do not
    /// hold `next`.
    pub(super) fn settle(&mut self, next: Option<&Path>) -> Result<(), Error> {
        while let Some((path, at)) = self.unsettled.last() {
            let holds = |next: &Path| next != path && next.starts_with(path);
            if next.is_some_and(holds) {
                return Ok(());
            }
            let (path, at) = (path.clone(), *at);
            self.unsettled.pop();
            let set = self.existing(&path).and_then(|(parent, name)| {
                rustix::fs::utimensat(&parent, name, &at.times(), AtFlags::SYMLINK_NOFOLLOW)
            });
            match set {
                // A later entry may have replaced it.
                Ok(()) | Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
                Err(error) => return Err(failed(&path, error)),
            }
        }
        Ok(())
    }

    /// Gives something that is whole its name.
    fn put(&mut self, mut beside: Beside, name: &OsStr) -> Result<(), Errno> {
        let parent = beside.parent.clone();
        self.over(name, &parent, || {
            rustix::fs::renameat(&*parent, &beside.temporary, &*parent, name)
        })?;
        // Renaming one name of a file to another of the same file does nothing and says so not.
        beside.kept = rustix::fs::statat(
            &*beside.parent,
            &beside.temporary,
            AtFlags::SYMLINK_NOFOLLOW,
        )
        .is_err();
        self.files += 1;
        Ok(())
    }

    /// Renames over what is there; an empty directory makes way.
    fn over(
        &mut self,
        name: &OsStr,
        parent: &OwnedFd,
        rename: impl Fn() -> Result<(), Errno>,
    ) -> Result<(), Errno> {
        match rename() {
            Err(Errno::ISDIR | Errno::NOTEMPTY | Errno::EXIST) => {
                match rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR) {
                    Err(Errno::EXIST) => return Err(Errno::NOTEMPTY),
                    done => done?,
                }
                self.recent = None;
                rename()
            }
            done => done,
        }
    }

    /// Makes something under a name that nothing has.
    fn unused<T>(
        &mut self,
        make: impl Fn(&OsStr) -> Result<T, Errno>,
    ) -> Result<(OsString, T), Errno> {
        loop {
            let name = OsString::from(format!(".mistry-{}-{}", std::process::id(), self.serial));
            self.serial += 1;
            match make(&name) {
                Err(Errno::EXIST) => {}
                made => return Ok((name, made?)),
            }
        }
    }

    /// The directory that `path` goes into, made where it is not there, and its last name.
    fn place<'a>(&mut self, path: &'a Path) -> Result<(Arc<OwnedFd>, &'a OsStr), Errno> {
        let name = path.file_name().ok_or(Errno::INVAL)?;
        let wanted = path.parent().unwrap_or(Path::new(""));
        let (mut at, rest) = match &self.recent {
            Some((known, fd)) => match wanted.strip_prefix(known) {
                Ok(rest) => (fd.clone(), rest),
                Err(_) => (self.root.clone(), wanted),
            },
            None => (self.root.clone(), wanted),
        };
        for part in rest {
            at = Arc::new(step(&at, part, Mode::from_raw_mode(0o777))?);
        }
        self.recent = Some((wanted.to_owned(), at.clone()));
        Ok((at, name))
    }

    /// The directory that `path` is in, and its last name; nothing is made.
    fn existing<'a>(&self, path: &'a Path) -> Result<(OwnedFd, &'a OsStr), Errno> {
        let name = path.file_name().ok_or(Errno::INVAL)?;
        let mut at = rustix::fs::openat(&*self.root, ".", LOOK, Mode::empty())?;
        for part in path.parent().unwrap_or(Path::new("")) {
            at = rustix::fs::openat(&at, part, LOOK, Mode::empty())?;
        }
        Ok((at, name))
    }
}

/// Opens a directory in a directory; makes it where there is none or something else.
fn step(parent: &OwnedFd, name: &OsStr, mode: Mode) -> Result<OwnedFd, Errno> {
    match rustix::fs::openat(parent, name, LOOK, Mode::empty()) {
        Err(Errno::NOENT) => {}
        Err(Errno::NOTDIR | Errno::LOOP) => {
            rustix::fs::unlinkat(parent, name, AtFlags::empty())?;
        }
        opened => return opened,
    }
    rustix::fs::mkdirat(parent, name, mode)?;
    rustix::fs::openat(parent, name, LOOK, Mode::empty())
}

fn failed(path: &Path, error: Errno) -> Error {
    let shown = path.display().to_string();
    match error {
        Errno::NOTEMPTY => Error::InTheWay(shown),
        other => Error::Write(shown, other.into()),
    }
}

/// Something under a name of ours, removed unless it is kept.
#[derive(Debug)]
struct Beside {
    parent: Arc<OwnedFd>,
    temporary: OsString,
    kept: bool,
}

impl Drop for Beside {
    fn drop(&mut self) {
        if !self.kept {
            let _ = rustix::fs::unlinkat(&*self.parent, &self.temporary, AtFlags::empty());
        }
    }
}

/// A file that is being written and has no name of its own yet.
#[derive(Debug)]
#[must_use]
pub(super) struct Draft {
    file: File,
    name: OsString,
    beside: Beside,
    progress: Progress,
    gone: CancellationToken,
}

impl Draft {
    /// Fills the file with another's content; shares its blocks where that can be done.
    pub(super) fn copy(&mut self, from: &File) -> io::Result<()> {
        /// Copied at once: a quarter of a second on a slow disk, so that one can stop.
        const PIECE: u64 = 16 << 20;
        if rustix::fs::ioctl_ficlone(&self.file, from).is_ok() {
            return Ok(());
        }
        loop {
            self.still_wanted()?;
            let count = io::copy(&mut from.take(PIECE), &mut self.file)?;
            self.progress.add(count);
            if count == 0 {
                return Ok(());
            }
        }
    }

    fn still_wanted(&self) -> io::Result<()> {
        if self.gone.is_cancelled() {
            Err(io::Error::other("the transfer was given up"))
        } else {
            Ok(())
        }
    }
}

impl Write for Draft {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.still_wanted()?;
        let count = self.file.write(bytes)?;
        self.progress.add(count as u64);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// The path that an entry's name means: relative, and nowhere outside; "" is the target itself.
///
/// # Errors
/// Says what the name does that it must not.
pub(super) fn inside(name: &[u8]) -> Result<PathBuf, &'static str> {
    if name.starts_with(b"/") {
        return Err("its name is absolute");
    }
    if name.contains(&0) {
        return Err("its name holds a NUL");
    }
    let mut path = PathBuf::new();
    for part in name.split(|b| *b == b'/') {
        match part {
            b"" | b"." => {}
            b".." => return Err("its name leads out of the target"),
            part => path.push(OsStr::from_bytes(part)),
        }
    }
    Ok(path)
}
