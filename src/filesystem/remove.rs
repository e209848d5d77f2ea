//! Removing whatever has a name, whole.
//!
//! Links are removed, never followed; what is mounted inside is never entered. Directories that lack
//! permissions get them if they are ours, read-only subvolumes are made writable, attributes that
//! forbid changes are taken away where we may, and subvolumes go in one piece where the kernel allows
//! it. What others take away meanwhile is no error.

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

/// How often, in one removal, a directory may turn out not to be empty yet when all of it was read: by
/// others who write there, or on filesystems that skip names while others are removed. It ends a removal
/// where others fill as fast as it empties.
const MAX_REREADS: u32 = 10_000;

/// Removes the entry `name` of `parent`, whatever it is. `false` if there is none.
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
    // The walk begins in the parent, with one entry to remove there and no look at the others.
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
    /// The directories still to be removed at each level from the parent of the tree down to the
    /// present directory.
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

    /// Has a directory of the present one removed next.
    fn put_back(&mut self, name: &CStr) {
        if let Some(level) = self.levels.last_mut() {
            self.names.put_back(level, name);
        }
    }

    /// Goes into a directory and removes everything in it but its subdirectories.
    fn descend(&mut self, name: &CStr) -> Result<(), Fault> {
        let (directory, stat) = match open_directory(self.walker.here(), name) {
            Ok(opened) => opened,
            Err(Errno::NOENT) => return Ok(()),
            // It is a directory no more.
            Err(Errno::NOTDIR | Errno::LOOP) => return self.unlink(name),
            Err(errno) => return Err(self.walker.fault("open", name, errno)),
        };
        let subvolume = btrfs::may_be_subvolume(&stat);
        // Where one of these is refused, what comes after them fails if it was needed.
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

    /// Goes back up and removes the directory that it came from.
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

    /// Removes what is in the present directory from a place of it on and is no directory, until names
    /// of directories were found; gives those.
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
            // The directory itself was removed by others; ext4 takes no cookie for it then.
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

/// Removes one name. An entry or a directory that is immutable or append-only loses that first.
fn unlink(parent: BorrowedFd<'_>, name: &CStr, flags: AtFlags) -> Result<(), Errno> {
    match unlinkat(parent, name, flags) {
        Err(Errno::PERM) if unprotect_entry(parent, name) | unprotect(parent) => {
            unlinkat(parent, name, flags)
        }
        result => result,
    }
}

/// Takes from a file or directory the attributes that forbid to change it; whether it had any.
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
    // To open a device may do anything; and it cannot have these attributes on most filesystems.
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
    fn a_tree_goes_and_its_neighbours_stay() {
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
    fn a_link_goes_and_what_it_points_at_stays() {
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
    fn more_subdirectories_than_a_page_has_go_too() {
        let home = tempfile::tempdir().unwrap();
        for n in 0..5_000 {
            fs::create_dir_all(home.path().join(format!("tree/{n}"))).unwrap();
        }
        assert!(remove(home.path(), c"tree").unwrap());
        assert!(!home.path().join("tree").exists());
    }

    #[test]
    fn directories_without_permissions_go_if_they_are_ours() {
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
    fn a_directory_that_is_emptied_by_others_meanwhile_is_no_error() {
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
