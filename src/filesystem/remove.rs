//! Removes a tree or any other entry completely.
//!
//! Links are removed, never followed; mount points inside are never entered. Directories that lack
//! permissions get them if this user owns them, read-only subvolumes are made writable, attributes that
//! forbid changes are removed where permitted, and subvolumes are removed in one call where the kernel allows
//! it. Entries that other processes remove meanwhile cause no error.

use std::ffi::{CStr, OsStr};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{
    AtFlags, FileType, IFlags, Mode, OFlags, Stat, fchmod, fstat, ioctl_getflags, ioctl_setflags,
    openat, statat, unlinkat,
};
use rustix::io::Errno;

use super::btrfs;
use super::dir_walker::{DirWalker, Directory, open_directory};
use super::error::Fault;
use super::names::{Names, Page};

/// How often, in one removal, a directory may be found non-empty after all of it was read: because other
/// processes write there, or on filesystems that skip names while others are removed. The limit ends a
/// removal when other processes create files as fast as it removes them.
const MAX_REREADS: u32 = 10_000;

/// Removes the entry `name` of `parent`, whatever its type. `false` if it does not exist.
pub(super) fn entry(parent: BorrowedFd<'_>, name: &CStr) -> Result<bool, Fault> {
    let fault = |context, errno| {
        Fault::new(
            context,
            Path::new(OsStr::from_bytes(name.to_bytes())),
            errno,
        )
    };
    match statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => return Ok(false),
        Err(errno) => return Err(fault("look at", errno)),
        Ok(stat) if !is_directory(&stat) => {
            return match unlink(parent, name, AtFlags::empty()) {
                Ok(()) => Ok(true),
                Err(Errno::NOENT) => Ok(false),
                Err(errno) => Err(fault("remove", errno)),
            };
        }
        Ok(_) => {}
    }
    // The walk starts in the parent, to remove one entry there without reading the others.
    let parent = parent
        .try_clone_to_owned()
        .map_err(|error| Fault::new("open", Path::new(".."), error))?;
    let (parent, _) =
        Directory::new(parent).map_err(|errno| fault("look at the parent of", errno))?;
    let mut removal = Removal {
        walker: DirWalker::new(parent),
        levels: vec![Page::default()],
        names: Names::default(),
        rereads: 0,
    };
    removal.put_back(name);
    removal.run()?;
    Ok(true)
}

struct Removal {
    walker: DirWalker,
    /// The directories still to be removed at each level from the parent of the tree down to the current
    /// directory.
    levels: Vec<Page>,
    names: Names,
    rereads: u32,
}

impl Removal {
    fn run(mut self) -> Result<(), Fault> {
        while let Some(level) = self.levels.last_mut() {
            if let Some(name) = self.names.take(level) {
                self.descend(&name)?;
            } else if let Some(level) = self.levels.pop() {
                match level.rest() {
                    Some(rest) => {
                        let more = self.sweep(rest)?;
                        self.levels.push(more);
                    }
                    None => self.ascend()?,
                }
            }
        }
        Ok(())
    }

    /// Schedules a subdirectory to be removed next.
    fn put_back(&mut self, name: &CStr) {
        if let Some(level) = self.levels.last_mut() {
            self.names.put_back(level, name);
        }
    }

    /// Enters a directory and removes everything in it except its subdirectories.
    fn descend(&mut self, name: &CStr) -> Result<(), Fault> {
        let (directory, stat) = match open_directory(self.walker.here(), name) {
            Ok(opened) => opened,
            Err(Errno::NOENT) => return Ok(()),
            // It is no longer a directory.
            Err(Errno::NOTDIR | Errno::LOOP) => return self.unlink(name),
            Err(errno) => return Err(self.walker.fault("open", name, errno)),
        };
        let subvolume = btrfs::may_be_subvolume(&stat);
        // If one of these is refused, a later call fails if it was needed.
        if subvolume {
            let _ = btrfs::make_writable(directory.as_fd());
        }
        let mode = Mode::from_raw_mode(stat.st_mode);
        if !mode.contains(Mode::RWXU) {
            let _ = fchmod(&directory, mode | Mode::RWXU);
        }
        if subvolume && btrfs::destroy(self.walker.here(), name).is_ok() {
            return Ok(());
        }
        self.walker.enter(name, directory);
        let level = self.sweep(0)?;
        self.levels.push(level);
        Ok(())
    }

    /// Returns to the parent and removes the directory it left.
    fn ascend(&mut self) -> Result<(), Fault> {
        let name = match self.walker.leave() {
            Ok(None) => return Ok(()),
            Ok(Some((_, name))) => name,
            Err(errno) => return Err(self.walker.fault("find the way up from", c".", errno)),
        };
        match unlink(self.walker.here(), &name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(Errno::NOTDIR) => self.unlink(&name),
            Err(Errno::NOTEMPTY | Errno::EXIST) if self.rereads < MAX_REREADS => {
                self.rereads += 1;
                self.put_back(&name);
                Ok(())
            }
            Err(errno) => Err(self.walker.fault("remove", &name, errno)),
        }
    }

    /// Removes the non-directories of the current directory from a cookie on, until names of directories are
    /// found; returns those.
    fn sweep(&mut self, from: u64) -> Result<Page, Fault> {
        let fault = |walker: &&DirWalker, errno| walker.fault("read", c".", errno);
        let (here, mut walker) = (self.walker.here(), &self.walker);
        let page = self.names.read(here, from, &mut walker, fault, |_, entry| {
            let name = entry.file_name();
            if entry.file_type() == FileType::Directory {
                return Ok(true);
            }
            match unlink(here, name, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => Ok(false),
                Err(Errno::ISDIR) => Ok(true),
                Err(errno) => Err(self.walker.fault("remove", name, errno)),
            }
        });
        match page {
            // Another process removed the directory itself; ext4 then rejects the cookie.
            Err(_) if fstat(here).is_ok_and(|stat| stat.st_nlink == 0) => Ok(Page::default()),
            Err(fault) if fault.source.kind() == io::ErrorKind::NotFound => Ok(Page::default()),
            page => page,
        }
    }

    fn unlink(&self, name: &CStr) -> Result<(), Fault> {
        match unlink(self.walker.here(), name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(self.walker.fault("remove", name, errno)),
        }
    }
}

/// Removes one name. An immutable or append-only attribute of it or the directory is cleared first.
fn unlink(parent: BorrowedFd<'_>, name: &CStr, flags: AtFlags) -> Result<(), Errno> {
    match unlinkat(parent, name, flags) {
        Err(Errno::PERM) if unprotect_entry(parent, name) | unprotect(parent) => {
            unlinkat(parent, name, flags)
        }
        result => result,
    }
}

/// Clears the attributes of a file or directory that forbid changes; returns whether it had any.
fn unprotect(file: impl AsFd) -> bool {
    let forbidding = IFlags::IMMUTABLE | IFlags::APPEND;
    let Ok(flags) = ioctl_getflags(&file) else {
        return false;
    };
    flags.intersects(forbidding) && ioctl_setflags(&file, flags - forbidding).is_ok()
}

fn unprotect_entry(parent: BorrowedFd<'_>, name: &CStr) -> bool {
    let is_plain = statat(parent, name, AtFlags::SYMLINK_NOFOLLOW).is_ok_and(|stat| {
        let kind = FileType::from_raw_mode(stat.st_mode);
        matches!(kind, FileType::RegularFile | FileType::Directory)
    });
    // Opening a device can have side effects; and it cannot have these attributes on most filesystems.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    is_plain && openat(parent, name, flags, Mode::empty()).is_ok_and(unprotect)
}

fn is_directory(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Directory
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::fd::OwnedFd;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn remove(home: &Path, name: &CStr) -> Result<bool, Fault> {
        let home = OwnedFd::from(fs::File::open(home).unwrap());
        entry(home.as_fd(), name)
    }

    #[test]
    fn a_tree_is_removed_and_its_siblings_stay() {
        let home = tempfile::tempdir().unwrap();
        for path in ["tree/a/b/c", "tree/d", "neighbour"] {
            fs::create_dir_all(home.path().join(path)).unwrap();
            fs::write(home.path().join(path).join("file"), "x").unwrap();
        }
        assert!(remove(home.path(), c"tree").unwrap());
        assert!(!home.path().join("tree").exists());
        assert!(home.path().join("neighbour/file").exists());
        assert!(!remove(home.path(), c"tree").unwrap());
    }

    #[test]
    fn a_link_is_removed_and_its_target_stays() {
        let home = tempfile::tempdir().unwrap();
        fs::create_dir(home.path().join("kept")).unwrap();
        fs::write(home.path().join("kept/file"), "x").unwrap();
        fs::create_dir(home.path().join("tree")).unwrap();
        symlink(home.path().join("kept"), home.path().join("tree/link")).unwrap();
        symlink("kept", home.path().join("link")).unwrap();
        assert!(remove(home.path(), c"tree").unwrap());
        assert!(remove(home.path(), c"link").unwrap());
        assert!(home.path().join("kept/file").exists());
    }

    #[test]
    fn more_subdirectories_than_fit_in_a_page_are_removed() {
        let home = tempfile::tempdir().unwrap();
        for n in 0..5_000 {
            fs::create_dir_all(home.path().join(format!("tree/{n}"))).unwrap();
        }
        assert!(remove(home.path(), c"tree").unwrap());
        assert!(!home.path().join("tree").exists());
    }

    #[test]
    fn own_directories_without_permissions_are_removed() {
        let home = tempfile::tempdir().unwrap();
        for (name, mode) in [("closed", 0o000), ("read-only", 0o555), ("blind", 0o300)] {
            let path = home.path().join("tree").join(name);
            fs::create_dir_all(path.join("inner")).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        }
        assert!(remove(home.path(), c"tree").unwrap());
        assert!(!home.path().join("tree").exists());
    }

    #[test]
    fn a_directory_that_others_empty_meanwhile_is_no_error() {
        let home = tempfile::tempdir().unwrap();
        let tree = home.path().join("tree");
        for n in 0..2000 {
            fs::create_dir_all(tree.join(format!("{n}/inner"))).unwrap();
            fs::write(tree.join(format!("{n}/file")), "x").unwrap();
        }
        let (one, other) = std::thread::scope(|scope| {
            let one = scope.spawn(|| remove(home.path(), c"tree"));
            let other = scope.spawn(|| remove(home.path(), c"tree"));
            (one.join().unwrap(), other.join().unwrap())
        });
        one.unwrap();
        other.unwrap();
        assert!(!tree.exists());
    }
}
