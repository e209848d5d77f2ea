//! The copy of a tree: what a clone is where there are no snapshots.
//!
//! Contents are shared with the source where the filesystem can (reflinks), else copied inside the
//! kernel where it can, else read and written. [`copy`] says what else is kept. Every entry is opened
//! by its name in an open directory and never through a link, and what was opened is looked at again,
//! so that an entry that changes its type meanwhile gives an error and nothing worse.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, RawDir, Stat, fchmod, fstat, mkdirat, openat, readlinkat,
    statat, symlinkat, utimensat,
};
use rustix::io::Errno;

use super::Fault;
use super::contents::Contents;
use super::descent::{Descent, READ_BUFFER, is_dots, open_directory};
use super::links::{Links, Seen};
use super::metadata;

/// Copies everything in `source`, except its entries `without`, into the empty directory `target`.
///
/// Kept are modes (all twelve bits), times of access and change to the nanosecond, hard links inside
/// the tree, symlinks as text, holes, FIFOs, `user.` attributes, and owners as far as we may give things
/// away. Sockets and device nodes are left out. The memory that it takes grows with the number of
/// directories and of hard links that are yet to be met, not with that of files or with their sizes.
pub(super) fn copy(source: OwnedFd, target: OwnedFd, without: &[CString]) -> Result<(), Fault> {
    let here = |errno| Fault::new("look at", ".".as_ref(), errno);
    let stat = fstat(&source).map_err(here)?;
    // Until it gets its own mode, nobody else looks into it; and what is made inside does not inherit
    // a group.
    fchmod(&target, Mode::RWXU).map_err(here)?;
    let root = target.as_fd().try_clone_to_owned();
    let root = root.map_err(|error| Fault::new("open", ".".as_ref(), error))?;
    let mut copying = Copying {
        source: Descent::new(source).map_err(here)?,
        target: Descent::new(target).map_err(here)?,
        levels: Vec::new(),
        links: Links::new(root),
        contents: Contents::default(),
        buffer: Vec::with_capacity(READ_BUFFER),
    };
    let directories = copying.fill(without)?;
    copying.levels.push(Level {
        stat,
        directories,
        node: Links::ROOT,
    });
    copying.run()
}

struct Copying {
    source: Descent,
    /// Always in the counterpart of the directory where `source` is.
    target: Descent,
    levels: Vec<Level>,
    links: Links,
    contents: Contents,
    buffer: Vec<u8>,
}

struct Level {
    stat: Stat,
    /// The subdirectories that are still to be copied.
    directories: Vec<CString>,
    /// The directory as [`Links`] knows it.
    node: usize,
}

impl Copying {
    fn run(mut self) -> Result<(), Fault> {
        while let Some(level) = self.levels.last_mut() {
            if let Some(name) = level.directories.pop() {
                self.descend(name)?;
            } else if let Some(level) = self.levels.pop() {
                self.ascend(&level.stat)?;
            }
        }
        Ok(())
    }

    fn descend(&mut self, name: CString) -> Result<(), Fault> {
        let (from, stat) = open_directory(self.source.here(), &name)
            .map_err(|errno| self.source.fault("open", &name, errno))?;
        let (to, to_stat) = mkdirat(self.target.here(), &name, Mode::RWXU)
            .and_then(|()| open_directory(self.target.here(), &name))
            .map_err(|errno| self.source.fault("create", &name, errno))?;
        let node = self.links.directory(self.node(), &name);
        self.source.enter(name.clone(), from, &stat);
        self.target.enter(name, to, &to_stat);
        self.levels.push(Level {
            stat,
            directories: Vec::new(),
            node,
        });
        let directories = self.fill(&[])?;
        if let Some(level) = self.levels.last_mut() {
            level.directories = directories;
        }
        Ok(())
    }

    /// Goes back up. Only now the directory gets its own mode and times: writing into it would spoil
    /// the one and might be forbidden by the other.
    fn ascend(&mut self, stat: &Stat) -> Result<(), Fault> {
        metadata::keep_attributes(self.source.here(), self.target.here())
            .map_err(|errno| self.source.fault("copy the attributes of", c".", errno))?;
        let up = |copying: &Self, errno| copying.source.fault("find the way up from", c".", errno);
        let target = self.target.leave().map_err(|errno| up(self, errno))?;
        let source = self.source.leave().map_err(|errno| up(self, errno))?;
        match (target, source) {
            (Some((left, name)), Some(_)) => metadata::keep(left.as_fd(), stat)
                .map_err(|errno| self.source.fault("set mode and times of", &name, errno)),
            _ => metadata::keep(self.target.here(), stat)
                .map_err(|errno| self.source.fault("set mode and times of", c".", errno)),
        }
    }

    /// Copies what is in the present directory and is no directory; gives the names of those.
    fn fill(&mut self, without: &[CString]) -> Result<Vec<CString>, Fault> {
        let mut directories = Vec::new();
        // Taken out for the time of the loop, which needs the rest of `self`.
        let mut buffer = std::mem::take(&mut self.buffer);
        let directory = self
            .source
            .here()
            .try_clone_to_owned()
            .map_err(|error| self.source.fault("open", c".", error))?;
        let mut entries = RawDir::new(directory, buffer.spare_capacity_mut());
        while let Some(entry) = entries.next() {
            let entry = entry.map_err(|errno| self.source.fault("read", c".", errno))?;
            let name = entry.file_name();
            if is_dots(name) || without.iter().any(|left_out| left_out.as_c_str() == name) {
                continue;
            }
            let kind = match entry.file_type() {
                FileType::Unknown => {
                    let stat = self.stat(name)?;
                    FileType::from_raw_mode(stat.st_mode)
                }
                kind => kind,
            };
            match kind {
                FileType::Directory => directories.push(name.to_owned()),
                FileType::RegularFile => self.file(name)?,
                FileType::Symlink => self.symlink(name)?,
                FileType::Fifo => self.fifo(name)?,
                // A socket is dead without its listener, and a device node was never a build's to give.
                _ => {}
            }
        }
        drop(entries);
        self.buffer = buffer;
        Ok(directories)
    }

    fn file(&mut self, name: &CStr) -> Result<(), Fault> {
        // NONBLOCK: should it be a FIFO by now, nobody waits for a writer.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let (from, stat) = openat(self.source.here(), name, flags, Mode::empty())
            .and_then(|from| fstat(&from).map(|stat| (from, stat)))
            .map_err(|errno| self.source.fault("open", name, errno))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(self
                .source
                .fault("open as the file it was", name, Errno::INVAL));
        }
        if let Seen::Before(first) = self.links.meet(&stat, self.node(), name) {
            match first.link(&self.links, self.node(), self.target.here(), name) {
                Ok(()) => return Ok(()),
                // So many links to one file are more than the filesystem has room for.
                Err(Errno::MLINK) => {}
                Err(errno) => return Err(self.source.fault("link", name, errno)),
            }
        }
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let to = openat(self.target.here(), name, flags, Mode::RUSR | Mode::WUSR)
            .map_err(|errno| self.source.fault("create", name, errno))?;
        self.contents
            .copy(&from, &to, &stat)
            .map_err(|errno| self.source.fault("copy", name, errno))?;
        metadata::keep_attributes(from.as_fd(), to.as_fd())
            .map_err(|errno| self.source.fault("copy the attributes of", name, errno))?;
        metadata::keep(to.as_fd(), &stat)
            .map_err(|errno| self.source.fault("set mode and times of", name, errno))
    }

    fn symlink(&mut self, name: &CStr) -> Result<(), Fault> {
        let stat = self.stat(name)?;
        let target = self.target.here();
        readlinkat(self.source.here(), name, Vec::new())
            .and_then(|text| symlinkat(&text, target, name))
            .and_then(|()| metadata::keep_owner_of_entry(target, name, &stat).map(drop))
            .and_then(|()| {
                let times = metadata::times(&stat);
                utimensat(target, name, &times, AtFlags::SYMLINK_NOFOLLOW)
            })
            .map_err(|errno| self.source.fault("copy the link", name, errno))
    }

    fn fifo(&mut self, name: &CStr) -> Result<(), Fault> {
        let stat = self.stat(name)?;
        metadata::make_fifo(self.target.here(), name, &stat)
            .map_err(|errno| self.source.fault("copy the fifo", name, errno))
    }

    fn stat(&self, name: &CStr) -> Result<Stat, Fault> {
        statat(self.source.here(), name, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|errno| self.source.fault("look at", name, errno))
    }

    fn node(&self) -> usize {
        self.levels.last().map_or(Links::ROOT, |level| level.node)
    }
}
