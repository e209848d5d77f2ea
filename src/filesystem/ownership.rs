//! Changes the owner and group of a whole tree.
//!
//! Every entry is changed itself: no link is followed, no mount point is entered. Entries that have the right
//! owner already are not changed, so that a tree of one's own requires no chown permission. Modes and times
//! stay, but for the set-user-id and set-group-id bits of programs: the kernel clears these, since they were
//! not set for the new owner.

use std::ffi::CStr;

use rustix::fs::{AtFlags, FileType, Gid, Stat, Uid, chownat, fchown, fstat, statat};
use rustix::io::Errno;

use super::dir_walker::{DirWalker, Directory, open_directory};
use super::error::Fault;
use super::interrupt::Interrupt;
use super::names::{Names, Page};

/// The inode that Btrfs shows in place of a subvolume that a snapshot did not include: it is no file of the
/// snapshot, and cannot be changed.
const EMPTY_SUBVOLUME_INODE: u64 = 2;

/// Changes the owner of the tree at `root`, itself included, to `user` and `group`. When interrupted, it
/// fails with `CANCELED` at the next entry.
pub(super) fn change(
    root: Directory,
    user: u32,
    group: u32,
    interrupt: &Interrupt,
) -> Result<(), Fault> {
    let change = OwnershipChange {
        user,
        group,
        interrupt,
        names: Names::default(),
        walker: DirWalker::new(root),
    };
    change.run()
}

struct OwnershipChange<'a> {
    user: u32,
    group: u32,
    interrupt: &'a Interrupt,
    names: Names,
    walker: DirWalker,
}

impl OwnershipChange<'_> {
    fn run(mut self) -> Result<(), Fault> {
        let mut levels = vec![self.read(0)?];
        while let Some(level) = levels.last_mut() {
            if let Some(name) = self.names.take(level) {
                let (directory, _) = match open_directory(self.walker.here(), &name) {
                    Ok(opened) => opened,
                    // A mount point.
                    Err(Errno::XDEV) => continue,
                    Err(errno) => return Err(self.walker.fault("open", &name, errno)),
                };
                self.walker.enter(&name, directory);
                levels.push(self.read(0)?);
            } else if let Some(rest) = level.rest() {
                *level = self.read(rest)?;
            } else {
                levels.pop();
                self.leave()?;
            }
        }
        Ok(())
    }

    /// Changes the owner of the current directory, after its contents: until then its mode applies to the old
    /// owner. Returns to the parent.
    fn leave(&mut self) -> Result<(), Fault> {
        let fault = |change: &Self, errno| change.walker.fault("give away", c".", errno);
        let here = self.walker.here();
        let stat = fstat(here).map_err(|errno| fault(self, errno))?;
        if let Some((user, group)) = self.wanted(&stat) {
            match fchown(here, user, group) {
                Err(_) if stat.st_ino == EMPTY_SUBVOLUME_INODE => {}
                given => given.map_err(|errno| fault(self, errno))?,
            }
        }
        let up = self.walker.leave();
        up.map_err(|errno| self.walker.fault("find the way up from", c".", errno))?;
        Ok(())
    }

    /// Changes the owner of the non-directories in the current directory from a cookie on, until names of
    /// directories are found; returns those.
    fn read(&mut self, from: u64) -> Result<Page, Fault> {
        let mut names = std::mem::take(&mut self.names);
        let fault = |change: &&Self, errno| change.walker.fault("read", c".", errno);
        let (here, mut change) = (self.walker.here(), &*self);
        let page = names.read(here, from, &mut change, fault, |change, entry| {
            let name = entry.file_name();
            let given = change.change_entry(name);
            given.map_err(|errno| change.walker.fault("give away", name, errno))
        });
        self.names = names;
        page
    }

    /// Changes the owner of an entry of the current directory; true for a directory, which comes later.
    fn change_entry(&self, name: &CStr) -> Result<bool, Errno> {
        self.interrupt.check()?;
        let stat = statat(self.walker.here(), name, AtFlags::SYMLINK_NOFOLLOW)?;
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            return Ok(true);
        }
        if let Some((user, group)) = self.wanted(&stat) {
            chownat(
                self.walker.here(),
                name,
                user,
                group,
                AtFlags::SYMLINK_NOFOLLOW,
            )?;
        }
        Ok(false)
    }

    /// The owner that an entry should get; `None` if it has it.
    fn wanted(&self, stat: &Stat) -> Option<(Option<Uid>, Option<Gid>)> {
        let is_right = stat.st_uid == self.user && stat.st_gid == self.group;
        (!is_right).then(|| {
            (
                Some(Uid::from_raw(self.user)),
                Some(Gid::from_raw(self.group)),
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
    use std::path::Path;

    use super::*;

    /// More subdirectories than one page holds.
    const MANY: usize = 5_000;

    fn give_to(root: &Path, user: u32, group: u32) -> Result<(), Fault> {
        let (directory, _) = Directory::new(fs::File::open(root).unwrap().into()).unwrap();
        change(directory, user, group, &Interrupt::default())
    }

    #[test]
    fn a_tree_that_has_the_right_owner_needs_no_privilege() {
        let home = tempfile::tempdir().unwrap();
        let tree = home.path().join("tree");
        fs::create_dir_all(tree.join("a/b")).unwrap();
        fs::write(tree.join("a/file"), "x").unwrap();
        symlink("/nowhere", tree.join("link")).unwrap();
        let stat = fs::metadata(&tree).unwrap();
        give_to(&tree, stat.uid(), stat.gid()).unwrap();
    }

    #[test]
    fn more_subdirectories_than_fit_in_a_page_change_their_owner_and_links_are_not_followed() {
        let home = tempfile::tempdir().unwrap();
        let tree = home.path().join("tree");
        let outside = home.path().join("outside");
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("file"), "x").unwrap();
        for n in 0..MANY {
            fs::create_dir_all(tree.join(format!("{n}"))).unwrap();
        }
        let deep = tree.join("0/deeper");
        fs::create_dir(&deep).unwrap();
        fs::write(deep.join("file"), "x").unwrap();
        fs::set_permissions(deep.join("file"), fs::Permissions::from_mode(0o640)).unwrap();
        fs::hard_link(deep.join("file"), tree.join("name")).unwrap();
        symlink(&outside, tree.join("link")).unwrap();
        let given = give_to(&tree, 1234, 1235);
        if !rustix::process::geteuid().is_root() {
            let error = given.unwrap_err();
            assert!(error.to_string().contains("give away"), "{error}");
            return;
        }
        given.unwrap();
        let owner = |path: &Path| {
            let stat = fs::symlink_metadata(path).unwrap();
            (stat.uid(), stat.gid())
        };
        for path in ["", "0/deeper", "0/deeper/file", "name", "link"] {
            assert_eq!(owner(&tree.join(path)), (1234, 1235), "{path}");
        }
        for n in 0..MANY {
            assert_eq!(owner(&tree.join(format!("{n}"))), (1234, 1235), "{n}");
        }
        let mode = fs::metadata(deep.join("file")).unwrap().mode();
        assert_eq!(mode & 0o7777, 0o640);
        for path in [outside.clone(), outside.join("file")] {
            assert_eq!(owner(&path).0, 0, "{path:?}");
        }
    }
}
