//! Copies a tree: the implementation of clones where snapshots do not exist.
//!
//! Contents are shared with the source where the filesystem can (reflinks), else copied inside the kernel if
//! possible, else read and written. [`copy`] lists what else is preserved. Every entry is opened by its name
//! in an open directory and never through a link, and its metadata is read again after opening, so that an
//! entry that changes its type meanwhile causes an error and nothing worse.

use std::ffi::{CStr, CString};
use std::os::fd::AsFd;

use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, Stat, fchmod, fstat, mkdirat, openat, readlinkat, statat,
    symlinkat, utimensat,
};
use rustix::io::Errno;

use super::copy_file::FileCopier;
use super::dir_walker::{DirWalker, Directory, open_directory};
use super::error::Fault;
use super::interrupt::Interrupt;
use super::links::{self, Links, Seen};
use super::names::{Names, Page};
use super::{metadata, temporary_access};

/// Copies everything in `source`, except its entries `without`, into the empty directory `target`.
///
/// Preserves what `cp -a` preserves: modes (all twelve bits), times of access and change to the nanosecond,
/// hard links inside the tree, symlinks as text, holes, FIFOs, sockets, device nodes where permitted, user
/// attributes, access control lists, and owners as far as chown is permitted. Files that their owner, this
/// user, made inaccessible are copied all the same. The memory used grows with the depth of the tree, and
/// with the number of files whose other names are still to be found; `links` bounds these.
///
/// When interrupted, it fails with `CANCELED` at the next entry or piece of a large file.
pub(super) fn copy(
    (source, stat): (Directory, Stat),
    target: Directory,
    without: &[CString],
    interrupt: &Interrupt,
) -> Result<(), Fault> {
    let here = |errno| Fault::new("look at", ".".as_ref(), errno);
    // Until its own mode is set, no other user can access it; and files created inside do not inherit a
    // group.
    fchmod(&target, Mode::RWXU).map_err(here)?;
    let root = target.as_fd().try_clone_to_owned();
    let root = root.map_err(|error| Fault::new("open", ".".as_ref(), error))?;
    let mut copying = Copying {
        source: DirWalker::new(source),
        target: DirWalker::new(target),
        levels: Vec::new(),
        links: Links::new(root),
        file_copier: FileCopier::new(interrupt.clone()),
        interrupt: interrupt.clone(),
        names: Names::default(),
        without,
    };
    copying.levels.push(Level {
        stat,
        directories: Page::default(),
        place: links::Place::default(),
    });
    copying.fill(0)?;
    copying.run()
}

struct Copying<'a> {
    source: DirWalker,
    /// Always in the copy of the directory where `source` is.
    target: DirWalker,
    levels: Vec<Level>,
    links: Links,
    file_copier: FileCopier,
    interrupt: Interrupt,
    names: Names,
    /// Names of the root that are left out.
    without: &'a [CString],
}

struct Level {
    stat: Stat,
    /// The subdirectories still to be copied.
    directories: Page,
    /// The directory in terms of [`Links`].
    place: links::Place,
}

impl Copying<'_> {
    fn run(mut self) -> Result<(), Fault> {
        while let Some(level) = self.levels.last_mut() {
            if let Some(name) = self.names.take(&mut level.directories) {
                self.descend(&name)?;
            } else if let Some(rest) = level.directories.rest() {
                self.fill(rest)?;
            } else if let Some(level) = self.levels.pop() {
                self.ascend(&level.stat)?;
            }
        }
        Ok(())
    }

    fn descend(&mut self, name: &CStr) -> Result<(), Fault> {
        let (from, stat) = open_directory(self.source.here(), name)
            .map_err(|errno| self.source.fault("open", name, errno))?;
        let (to, _) = mkdirat(self.target.here(), name, Mode::RWXU)
            .and_then(|()| open_directory(self.target.here(), name))
            .map_err(|errno| self.source.fault("create", name, errno))?;
        let place = self.place().entry(name);
        self.source.enter(name, from);
        self.target.enter(name, to);
        self.levels.push(Level {
            stat,
            directories: Page::default(),
            place,
        });
        self.fill(0)
    }

    /// Returns to the parent. Only now the directory gets its own mode and times: writing into it would
    /// change its times, and its mode might forbid that.
    fn ascend(&mut self, stat: &Stat) -> Result<(), Fault> {
        let up = |copying: &Self, errno| copying.source.fault("find the way up from", c".", errno);
        let left = self.target.leave().map_err(|errno| up(self, errno))?;
        let target = match &left {
            Some((left, _)) => left.as_fd(),
            None => self.target.here(),
        };
        metadata::copy_with_attributes(self.source.here(), target, stat)
            .map_err(|errno| self.source.fault("set the metadata of", c".", errno))?;
        self.source.leave().map_err(|errno| up(self, errno))?;
        Ok(())
    }

    /// Copies the non-directories of the current directory from a cookie on, until names of directories are
    /// found; those are copied next.
    fn fill(&mut self, from: u64) -> Result<(), Fault> {
        // Taken for the duration of the call, which needs the rest of `self`.
        let mut names = std::mem::take(&mut self.names);
        let directory = self
            .source
            .here()
            .try_clone_to_owned()
            .map_err(|error| self.source.fault("open", c".", error))?;
        let fault = |copying: &Self, errno| copying.source.fault("read", c".", errno);
        let page = names.read(directory.as_fd(), from, self, fault, |copying, entry| {
            copying.entry(entry.file_name(), entry.file_type())
        });
        self.names = names;
        let page = page?;
        if let Some(level) = self.levels.last_mut() {
            level.directories = page;
        }
        Ok(())
    }

    /// Copies an entry of the current directory; true for a directory, which is copied later.
    fn entry(&mut self, name: &CStr, kind: FileType) -> Result<bool, Fault> {
        self.interrupt
            .check()
            .map_err(|errno| self.source.fault("go on to", name, errno))?;
        if self.source.is_at_root() && self.without.iter().any(|out| out.as_c_str() == name) {
            return Ok(false);
        }
        let kind = match kind {
            FileType::Unknown => {
                let stat = self.stat(name)?;
                FileType::from_raw_mode(stat.st_mode)
            }
            kind => kind,
        };
        match kind {
            FileType::Directory => return Ok(true),
            FileType::RegularFile => self.file(name)?,
            FileType::Symlink => self.symlink(name)?,
            _ => self.special(name)?,
        }
        Ok(false)
    }

    fn file(&mut self, name: &CStr) -> Result<(), Fault> {
        let (from, stat) = temporary_access::open_file(self.source.here(), name)
            .and_then(|from| {
                temporary_access::with_original_mode(|| fstat(&from)).map(|stat| (from, stat))
            })
            .map_err(|errno| self.source.fault("open", name, errno))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(self
                .source
                .fault("open as the file it was", name, Errno::INVAL));
        }
        if self.is_linked(&stat, name)? {
            return Ok(());
        }
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let to = openat(self.target.here(), name, flags, Mode::RUSR | Mode::WUSR)
            .map_err(|errno| self.source.fault("create", name, errno))?;
        self.file_copier
            .copy(&from, &to, &stat)
            .map_err(|errno| self.source.fault("copy", name, errno))?;
        metadata::copy_with_attributes(from.as_fd(), to.as_fd(), &stat)
            .map_err(|errno| self.source.fault("set the metadata of", name, errno))
    }

    fn symlink(&mut self, name: &CStr) -> Result<(), Fault> {
        let stat = self.stat(name)?;
        if self.is_linked(&stat, name)? {
            return Ok(());
        }
        let target = self.target.here();
        readlinkat(self.source.here(), name, Vec::new())
            .and_then(|text| symlinkat(&text, target, name))
            .and_then(|()| metadata::copy_owner_of_entry(target, name, &stat).map(drop))
            .and_then(|()| {
                let times = metadata::times(&stat);
                utimensat(target, name, &times, AtFlags::SYMLINK_NOFOLLOW)
            })
            .map_err(|errno| self.source.fault("copy the link", name, errno))
    }

    /// Creates another name for a file copied before, if `name` is another name of it.
    fn is_linked(&mut self, stat: &Stat, name: &CStr) -> Result<bool, Fault> {
        let place = self.place();
        let Seen::Before(first) = self.links.visit(stat, &place, name) else {
            return Ok(false);
        };
        match first.link(&self.links, &place, self.target.here(), name) {
            Ok(()) => Ok(true),
            // The filesystem does not support so many links to one file; or the first was a device, which
            // this user may not create.
            Err(Errno::MLINK | Errno::NOENT) => Ok(false),
            Err(errno) => Err(self.source.fault("link", name, errno)),
        }
    }

    /// A FIFO, a socket or a device; a device only where permitted.
    fn special(&mut self, name: &CStr) -> Result<(), Fault> {
        let stat = self.stat(name)?;
        if self.is_linked(&stat, name)? {
            return Ok(());
        }
        metadata::make_special(self.target.here(), name, &stat)
            .map(drop)
            .map_err(|errno| self.source.fault("copy the special file", name, errno))
    }

    fn stat(&self, name: &CStr) -> Result<Stat, Fault> {
        statat(self.source.here(), name, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|errno| self.source.fault("look at", name, errno))
    }

    fn place(&self) -> links::Place {
        let level = self.levels.last();
        level.map_or_else(links::Place::default, |level| level.place.clone())
    }
}
