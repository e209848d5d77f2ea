//! The directory that artifacts are put into.
//!
//! Every name is resolved one directory at a time from the opened target and links are never
//! followed, so nothing is written outside, whatever the names say and whatever lies there, and no
//! path is too long. What stands in the way is replaced: a file or link by anything, a directory
//! only when it is empty. A file is written under a name of ours beside its own and renamed when it
//! is whole.
//!
//! Modes are those of the artifacts whatever the umask is, without set-id and sticky bits. A
//! directory gets its mode and times when it is left, since a closed one could not be filled; one
//! that is entered later gets back what it had. So memory depends on the depth of the tree only,
//! but for the set of files that a later entry may name again.
//!
//! Everything here blocks.

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, Dir, Mode, OFlags, SeekFrom, Stat, Timespec, Timestamps, UTIME_OMIT,
};
use rustix::io::Errno;
use tokio_util::sync::CancellationToken;

use super::super::progress::Progress;
use super::Error;
use super::descent::Descent;
use crate::filesystem;

/// Looks at a directory without being able to read it.
const LOOK: OFlags = OFlags::PATH
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);
/// Opens a directory for all that its modes allow.
const OPEN: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::CLOEXEC);
/// Permission bits that artifacts keep; set-id and sticky bits mean nothing to another owner.
const KEPT_MODE: u32 = 0o777;
/// Zeros of a whole block are not written: the size of a block on nearly every filesystem.
const ZEROS: [u8; 4096] = [0; 4096];

/// Removes everything in `path` but `except`: also what is in closed directories of the caller.
/// Links are removed, not followed.
pub(super) fn clear(path: &Path, except: Option<&OsStr>) -> Result<(), Error> {
    let emptied = || -> io::Result<()> {
        // The user named it, so a link to it is followed; what is in it is reached by no path.
        let flags = OPEN.union(OFlags::RDONLY);
        let directory = rustix::fs::open(path, flags, Mode::empty())?;
        for entry in Dir::read_from(&directory)? {
            let entry = entry?;
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            if name != "." && name != ".." && Some(name) != except {
                filesystem::remove_in(&directory, name)?;
            }
        }
        Ok(())
    };
    emptied().map_err(|error| Error::Clear(path.display().to_string(), error))
}

/// A time for a file, as exact as the source told it; a filesystem takes the nearest that it knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Modified {
    /// Since 1970; negative before.
    pub seconds: i64,
    /// Forward from there, less than a second.
    pub nanos: u32,
}

impl Modified {
    /// What a file or directory has.
    // The fields differ in width and sign between architectures.
    #[allow(clippy::unnecessary_cast)]
    pub(super) fn of(stat: &Stat) -> Modified {
        Modified {
            seconds: stat.st_mtime as i64,
            nanos: stat.st_mtime_nsec as u32,
        }
    }

    fn times(self) -> Timestamps {
        Timestamps {
            last_access: Timespec {
                tv_sec: 0,
                tv_nsec: UTIME_OMIT,
            },
            last_modification: Timespec {
                tv_sec: self.seconds,
                tv_nsec: i64::from(self.nanos.min(999_999_999)),
            },
        }
    }
}

/// Which file something is a name of, whatever the name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct FileId(u64, u64);

impl FileId {
    // The fields differ in width between architectures.
    #[allow(clippy::unnecessary_cast)]
    pub(super) fn of(stat: &Stat) -> FileId {
        FileId(stat.st_dev as u64, stat.st_ino as u64)
    }
}

/// A directory in which entries are put, opened so that this can be done.
#[derive(Debug)]
struct Level {
    name: OsString,
    /// What it gets when it is left.
    mode: u32,
    at: Modified,
    /// The artifacts said so. Otherwise it is what it had before, and no error where it is not ours.
    named: bool,
}

/// An opened target.
#[derive(Debug)]
pub(super) struct Target {
    descent: Descent,
    /// The directories from the target to where the descent is.
    levels: Vec<Level>,
    /// The files and links that were put here: only these may be given second names.
    written: HashSet<FileId>,
    serial: u64,
    files: u64,
    progress: Progress,
    /// Set when the artifacts are not waited for any more.
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
        let descent = rustix::fs::open(path, flags, Mode::empty())
            .and_then(Descent::new)
            .map_err(|error| Error::Write(path.display().to_string(), error.into()))?;
        Ok(Target {
            descent,
            levels: Vec::new(),
            written: HashSet::new(),
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

    /// Makes a directory, or takes the one that is there, and gives it this mode and time.
    pub(super) fn directory(&mut self, path: &Path, mode: u32, at: Modified) -> Result<(), Error> {
        let mode = mode & KEPT_MODE;
        let name = self.enter_parent(path)?;
        self.step(name, Some(mode))
            .map_err(|error| failed(path, error))?;
        if let Some(level) = self.levels.last_mut() {
            (level.mode, level.at, level.named) = (mode, at, true);
        }
        Ok(())
    }

    /// Begins a file; it has its name only when [`Target::keep`] is called.
    pub(super) fn begin(&mut self, path: &Path) -> Result<Draft, Error> {
        let name = self.enter_parent(path)?.to_owned();
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let mode = Mode::RUSR | Mode::WUSR;
        let begun = self.temporary(|parent, temporary| {
            rustix::fs::openat(parent, temporary, flags | OFlags::NOFOLLOW, mode)
        });
        let (temporary, file) = begun.map_err(|error| failed(path, error))?;
        Ok(Draft {
            file: File::from(file),
            position: 0,
            length: 0,
            name,
            temporary,
            progress: self.progress.clone(),
            gone: self.gone.clone(),
        })
    }

    /// Gives a file that is whole its mode, its time and its name.
    pub(super) fn keep(
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
        let kept = rustix::fs::futimens(file, &at.times())
            .and_then(|()| set_mode(file.as_fd(), mode & KEPT_MODE))
            .and_then(|()| rustix::fs::fstat(file))
            .and_then(|stat| self.put(draft.temporary, &draft.name, &stat));
        kept.map_err(|error| failed(path, error))
    }

    /// Makes a symbolic link; where it points to does not matter, since nothing follows it here.
    pub(super) fn symlink(&mut self, path: &Path, to: &OsStr, at: Modified) -> Result<(), Error> {
        let name = self.enter_parent(path)?;
        let made = self
            .temporary(|parent, link| rustix::fs::symlinkat(to, parent, link))
            .and_then(|(link, ())| {
                let flags = AtFlags::SYMLINK_NOFOLLOW;
                rustix::fs::utimensat(&link.parent, &link.name, &at.times(), flags)?;
                let stat = rustix::fs::statat(&link.parent, &link.name, flags)?;
                self.put(link, name, &stat)
            });
        made.map_err(|error| failed(path, error))
    }

    /// Makes a second name for a file or link that was put here.
    ///
    /// # Errors
    /// [`Error::Hostile`] for one that was in the target before: what is written to one name of it
    /// would be written to the other.
    pub(super) fn hard_link(&mut self, path: &Path, to: &Path) -> Result<(), Error> {
        let handle = self.find_written(path, to)?;
        let name = self.enter_parent(path)?;
        // The directory of the other name may be closed again, so it is linked by its handle. That
        // of a symbolic link leads to the link and not to its target.
        let from = by_descriptor(handle.as_fd());
        let made = self
            .temporary(|parent, link| {
                rustix::fs::linkat(CWD, &from, parent, link, AtFlags::SYMLINK_FOLLOW)
            })
            .and_then(|(link, ())| self.put(link, name, &rustix::fs::fstat(&handle)?));
        made.map_err(|error| failed(path, error))
    }

    /// The file or link `to`, which was put here, for `path`, which shall be a second name of it.
    fn find_written(&mut self, path: &Path, to: &Path) -> Result<OwnedFd, Error> {
        let directory = to.parent().unwrap_or(Path::new(""));
        self.leave_for(directory)?;
        let mut find = || {
            for name in directory.iter().skip(self.levels.len()) {
                self.step(name, None)?;
            }
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let name = to.file_name().ok_or(Errno::NOENT)?;
            let handle = rustix::fs::openat(self.descent.here(), name, flags, Mode::empty())?;
            let stat = rustix::fs::fstat(&handle)?;
            Ok((handle, stat))
        };
        match find() {
            Ok((handle, stat)) if self.written.contains(&FileId::of(&stat)) => Ok(handle),
            Ok(_) | Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {
                let what = "it is a second name of a file that did not come with it";
                Err(Error::Hostile(path.display().to_string(), what))
            }
            Err(error) => Err(failed(to, error)),
        }
    }

    /// Moves a file or link that is on the same filesystem, the entry `from` of `parent`, to its place.
    pub(super) fn take(
        &mut self,
        path: &Path,
        parent: BorrowedFd<'_>,
        from: &OsStr,
    ) -> Result<(), Error> {
        let name = self.enter_parent(path)?;
        let here = self.descent.here();
        let taken = over(here, name, || {
            rustix::fs::renameat(parent, from, here, name)
        });
        taken.map_err(|error| failed(path, error))?;
        self.files += 1;
        Ok(())
    }

    /// Leaves all directories, so that each has its mode and times.
    pub(super) fn finish(&mut self) -> Result<(), Error> {
        self.leave_for(Path::new(""))
    }

    /// Gives something that is whole its name.
    fn put(&mut self, mut whole: Temporary, name: &OsStr, stat: &Stat) -> Result<(), Errno> {
        let parent = whole.parent.as_fd();
        over(parent, name, || {
            rustix::fs::renameat(parent, &whole.name, parent, name)
        })?;
        // Renaming one name of a file to another of the same file does nothing and is no error: then
        // the temporary one is still there, and goes.
        whole.renamed = stat.st_nlink < 2
            || rustix::fs::statat(parent, &whole.name, AtFlags::SYMLINK_NOFOLLOW).is_err();
        self.written.insert(FileId::of(stat));
        self.files += 1;
        Ok(())
    }

    /// Makes something under a name that nothing has, in the present directory.
    fn temporary<T>(
        &mut self,
        make: impl Fn(BorrowedFd<'_>, &OsStr) -> Result<T, Errno>,
    ) -> Result<(Temporary, T), Errno> {
        let parent = rustix::io::fcntl_dupfd_cloexec(self.descent.here(), 0)?;
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

    /// Goes to the directory that `path` is in, made where it is not there; gives the last name.
    fn enter_parent<'a>(&mut self, path: &'a Path) -> Result<&'a OsStr, Error> {
        let directory = path.parent().unwrap_or(Path::new(""));
        self.leave_for(directory)?;
        let mut enter = || {
            for name in directory.iter().skip(self.levels.len()) {
                self.step(name, Some(0o777))?;
            }
            path.file_name().ok_or(Errno::INVAL)
        };
        enter().map_err(|error| failed(path, error))
    }

    /// Goes on into the directory `name` of the present one; with `make`, it is made with that mode
    /// where there is none or something else.
    fn step(&mut self, name: &OsStr, make: Option<u32>) -> Result<(), Errno> {
        let (directory, stat) = open_for_entries(self.descent.here(), name, make)?;
        self.descent.enter(directory, &stat);
        self.levels.push(Level {
            name: name.to_owned(),
            mode: stat.st_mode & 0o7777,
            at: Modified::of(&stat),
            named: false,
        });
        Ok(())
    }

    /// Leaves directories until the present one is `next` or one above it.
    fn leave_for(&mut self, next: &Path) -> Result<(), Error> {
        let names = self.levels.iter().map(|level| level.name.as_os_str());
        let shared = names.zip(next).take_while(|(is, goes)| is == goes).count();
        while self.levels.len() > shared {
            self.leave()?;
        }
        Ok(())
    }

    /// Leaves the present directory, which gets its mode and time.
    fn leave(&mut self) -> Result<(), Error> {
        let Some(level) = self.levels.pop() else {
            return Ok(());
        };
        let mut leave = || {
            let Some(directory) = self.descent.leave()? else {
                return Ok(());
            };
            let set = rustix::fs::futimens(&directory, &level.at.times())
                .and_then(|()| set_mode(directory.as_fd(), level.mode));
            // Of what was here before and is not ours, both are as they were but for the time.
            if level.named { set } else { Ok(()) }
        };
        leave().map_err(|error| {
            let above = self.levels.iter().map(|level| &level.name);
            let path: PathBuf = above.chain([&level.name]).collect();
            failed(&path, error)
        })
    }
}

impl Drop for Target {
    /// After an error, directories that were opened are closed again as far as can be.
    fn drop(&mut self) {
        while !self.levels.is_empty() {
            let _ = self.leave();
        }
    }
}

/// Opens a directory of a directory so that entries can be put into it, and gives what it was like
/// before: one of ours that is closed is opened. With `mode`, it is made with that where there is
/// none, or something else.
pub(super) fn open_for_entries(
    parent: BorrowedFd<'_>,
    name: &OsStr,
    mode: Option<u32>,
) -> Result<(OwnedFd, Stat), Errno> {
    let look = || rustix::fs::openat(parent, name, LOOK, Mode::empty());
    let make = |mode| {
        rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(mode) | Mode::RWXU)?;
        look()
    };
    let handle = match (look(), mode) {
        (Err(Errno::NOENT), Some(mode)) => make(mode)?,
        (Err(Errno::NOTDIR | Errno::LOOP), Some(mode)) => {
            rustix::fs::unlinkat(parent, name, AtFlags::empty())?;
            make(mode)?
        }
        (found, _) => found?,
    };
    let stat = rustix::fs::fstat(&handle)?;
    open_closed(handle.as_fd(), &stat)?;
    match rustix::fs::openat(&handle, ".", OPEN, Mode::empty()) {
        // Another's, which takes entries and cannot be read.
        Err(Errno::ACCESS) => Ok((handle, stat)),
        opened => Ok((opened?, stat)),
    }
}

/// Gives the owner of a directory, where that is the caller, all rights in it.
pub(super) fn open_closed(directory: BorrowedFd<'_>, stat: &Stat) -> Result<(), Errno> {
    let mode = Mode::from_raw_mode(stat.st_mode);
    if mode.contains(Mode::RWXU) || stat.st_uid != rustix::process::geteuid().as_raw() {
        return Ok(());
    }
    // By way of /proc, since a handle that opens nothing takes no mode itself.
    rustix::fs::chmod(by_descriptor(directory), mode | Mode::RWXU)
}

/// The same for another program, as long as we have it open.
pub(super) fn by_descriptor_of_ours(opened: BorrowedFd<'_>) -> String {
    format!("/proc/{}/fd/{}", std::process::id(), opened.as_raw_fd())
}

/// A path that leads to what is opened, whatever its name is now.
fn by_descriptor(opened: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", opened.as_raw_fd())
}

/// Gives a file or directory exactly this mode, whatever the umask and inherited rules made of it.
fn set_mode(of: BorrowedFd<'_>, mode: u32) -> Result<(), Errno> {
    let stat = rustix::fs::fstat(of)?;
    if stat.st_mode & 0o7777 == mode {
        return Ok(());
    }
    match rustix::fs::fchmod(of, Mode::from_raw_mode(mode)) {
        // A filesystem without modes, such as FAT, refuses them to the owner, too.
        Err(Errno::PERM | Errno::OPNOTSUPP)
            if stat.st_uid == rustix::process::geteuid().as_raw() =>
        {
            Ok(())
        }
        set => set,
    }
}

/// Renames over what is there; an empty directory makes way.
fn over(
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

fn failed(path: &Path, error: Errno) -> Error {
    let shown = path.display().to_string();
    match error {
        Errno::NOTEMPTY => Error::InTheWay(shown),
        other => Error::Write(shown, other.into()),
    }
}

/// Something under a name of ours, removed unless it got its own.
#[derive(Debug)]
struct Temporary {
    parent: OwnedFd,
    name: OsString,
    renamed: bool,
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.renamed {
            let _ = rustix::fs::unlinkat(&self.parent, &self.name, AtFlags::empty());
        }
    }
}

/// A file that is being written and has no name of its own yet.
#[derive(Debug)]
#[must_use]
pub(super) struct Draft {
    file: File,
    /// Where the next bytes belong.
    position: u64,
    /// How long the file is so far: less than `position` behind a hole.
    length: u64,
    name: OsString,
    temporary: Temporary,
    progress: Progress,
    gone: CancellationToken,
}

impl Draft {
    /// Adds bytes. Blocks of zeros become holes.
    pub(super) fn write(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        self.still_wanted()?;
        self.progress.add(bytes.len() as u64);
        while !bytes.is_empty() {
            let (piece, rest) = bytes.split_at(leading(bytes, self.position, false));
            self.file.write_all_at(piece, self.position)?;
            self.position += piece.len() as u64;
            if !piece.is_empty() {
                self.length = self.position;
            }
            let zeros = leading(rest, self.position, true);
            self.position += zeros as u64;
            bytes = rest.split_at(zeros).1;
        }
        Ok(())
    }

    /// Makes what lies before `position` and was not written a hole.
    pub(super) fn skip_to(&mut self, position: u64) {
        self.position = position;
    }

    /// Fills the file with another's content; shares its blocks where that can be done, and has its
    /// holes.
    pub(super) fn copy(&mut self, from: &File) -> io::Result<()> {
        if rustix::fs::ioctl_ficlone(&self.file, from).is_ok() {
            return Ok(());
        }
        let size = from.metadata()?.len();
        while self.position < size {
            let start = match rustix::fs::seek(from, SeekFrom::Data(self.position)) {
                Ok(start) => start.min(size),
                // Nothing but a hole from here on.
                Err(Errno::NXIO) => size,
                // A filesystem that knows no holes.
                Err(Errno::INVAL) => self.position,
                Err(error) => return Err(error.into()),
            };
            let end = match rustix::fs::seek(from, SeekFrom::Hole(start)) {
                Ok(end) if end > start => end.min(size),
                _ => size,
            };
            self.copy_data(from, start, end)?;
        }
        Ok(())
    }

    fn copy_data(&mut self, mut from: &File, start: u64, end: u64) -> io::Result<()> {
        /// Copied at once: a quarter of a second on a slow disk, so that one can stop.
        const PIECE: u64 = 16 << 20;
        from.seek(io::SeekFrom::Start(start))?;
        self.file.seek(io::SeekFrom::Start(start))?;
        self.position = start;
        while self.position < end {
            self.still_wanted()?;
            let wanted = (end - self.position).min(PIECE);
            let count = io::copy(&mut from.take(wanted), &mut self.file)?;
            if count == 0 {
                return Err(io::Error::other("it became shorter while it was read"));
            }
            self.progress.add(count);
            self.position += count;
            self.length = self.position;
        }
        Ok(())
    }

    fn still_wanted(&self) -> io::Result<()> {
        if self.gone.is_cancelled() {
            Err(io::Error::other("the transfer was given up"))
        } else {
            Ok(())
        }
    }
}

/// How many of the first bytes are in blocks of the file that are all zeros here, or are not.
fn leading(bytes: &[u8], position: u64, zeros: bool) -> usize {
    let block = ZEROS.len();
    // What is left of the block that the first byte is in.
    let mut end = block - usize::try_from(position % block as u64).unwrap_or(0);
    let mut start = 0;
    while start < bytes.len() {
        let piece = &bytes[start..end.min(bytes.len())];
        if (piece == &ZEROS[..piece.len()]) != zeros {
            break;
        }
        (start, end) = (end, end + block);
    }
    start.min(bytes.len())
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
