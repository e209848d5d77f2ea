//! The hard links of a tree that is copied: which files were found before, and where their copies are.
//!
//! Copies are stored as a directory and a name, directories as a parent and a name, and only those
//! directories that such a copy is in or below. A file is dropped with its last link. A stored file takes
//! some 100 bytes and its name; when all of them take more than [`MAX_REMEMBERED_BYTES`], the other names of
//! further files are copied as separate files.

use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

use rustix::fs::{AtFlags, Mode, OFlags, Stat, linkat, openat};
use rustix::io::Errno;

use super::inode::InodeId;

/// Bytes of a path resolved in one step; with the longest name after it, it stays below the kernel's 4,096
/// bytes.
const PATH_STEP_BYTES: usize = 3072;

/// Most bytes stored: half a million files whose other names are still to be found.
const MAX_REMEMBERED_BYTES: usize = 64 << 20;
/// Memory of a stored file besides its name, including its share of a table that is half empty.
const ENTRY_OVERHEAD_BYTES: usize = 112;

/// The files found so far.
pub(super) struct Links {
    root: OwnedFd,
    files: HashMap<InodeId, Copy>,
    bytes: usize,
    most: usize,
}

struct Copy {
    first: First,
    /// How many links to the original were not found yet, inside the tree or outside.
    left: u64,
}

/// A directory of the copy; the default is its root.
#[derive(Clone, Default)]
pub(super) struct Place(Option<Rc<Way>>);

struct Way {
    above: Place,
    name: CString,
}

impl Place {
    /// The directory `name` in this one.
    pub(super) fn entry(&self, name: &CStr) -> Place {
        let (above, name) = (self.clone(), name.to_owned());
        Place(Some(Rc::new(Way { above, name })))
    }

    fn is(&self, other: &Place) -> bool {
        match (&self.0, &other.0) {
            (None, None) => true,
            (Some(one), Some(other)) => Rc::ptr_eq(one, other),
            _ => false,
        }
    }
}

impl Drop for Way {
    /// Iterative: builds choose how deep a tree is, and a recursive drop would use as much stack.
    fn drop(&mut self) {
        let mut above = self.above.0.take();
        while let Some(mut way) = above.and_then(Rc::into_inner) {
            above = way.above.0.take();
        }
    }
}

/// Where the first copy of a file is.
#[derive(Clone)]
pub(super) struct First {
    directory: Place,
    name: CString,
}

/// Whether a file was found before.
pub(super) enum Seen {
    Never,
    Before(First),
}

impl Links {
    pub(super) fn new(root: OwnedFd) -> Links {
        Links {
            root,
            files: HashMap::new(),
            bytes: 0,
            most: MAX_REMEMBERED_BYTES,
        }
    }

    /// Stores the file about to be copied to `name` in `directory`, or returns the place of its copy.
    // The field differs in width between architectures.
    #[allow(clippy::unnecessary_cast)]
    pub(super) fn visit(&mut self, stat: &Stat, directory: &Place, name: &CStr) -> Seen {
        if stat.st_nlink <= 1 {
            return Seen::Never;
        }
        let id = InodeId::of(stat);
        if let Some(copy) = self.files.get_mut(&id) {
            copy.left = copy.left.saturating_sub(1);
            let first = copy.first.clone();
            if copy.left == 0 {
                self.bytes -= ENTRY_OVERHEAD_BYTES + first.name.count_bytes();
                self.files.remove(&id);
            }
            return Seen::Before(first);
        }
        let cost = ENTRY_OVERHEAD_BYTES + name.count_bytes();
        if self.bytes + cost <= self.most {
            self.bytes += cost;
            let copy = Copy {
                first: First {
                    directory: directory.clone(),
                    name: name.to_owned(),
                },
                left: stat.st_nlink as u64 - 1,
            };
            self.files.insert(id, copy);
        }
        Seen::Never
    }
}

impl First {
    /// Creates `name` in `here`, which is the directory `place`, as another link to this copy.
    pub(super) fn link(
        &self,
        links: &Links,
        place: &Place,
        here: BorrowedFd<'_>,
        name: &CStr,
    ) -> Result<(), Errno> {
        if place.is(&self.directory) {
            return linkat(here, &self.name, here, name, AtFlags::empty());
        }
        let mut names = vec![self.name.as_bytes()];
        let mut at = &self.directory;
        while let Some(way) = &at.0 {
            names.push(way.name.as_bytes());
            at = &way.above;
        }
        // No other process writes to the copy, so there are no links among its directories.
        let mut reached: Option<OwnedFd> = None;
        let mut path = Vec::new();
        while let Some(component) = names.pop() {
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(component);
            if path.len() > PATH_STEP_BYTES && !names.is_empty() {
                let from = reached.as_ref().unwrap_or(&links.root);
                let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                reached = Some(openat(from, &path, flags, Mode::empty())?);
                path.clear();
            }
        }
        let from = reached.as_ref().unwrap_or(&links.root);
        linkat(from.as_fd(), &path, here, name, AtFlags::empty())
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use rustix::fs::{fstat, mkdirat, statat};

    use super::*;

    #[test]
    fn a_copy_is_found_again_below_the_longest_path() {
        let home = tempfile::tempdir().unwrap();
        let root = OwnedFd::from(File::open(home.path()).unwrap());
        let mut links = Links::new(root.try_clone().unwrap());
        let name = CString::new([b'd'; 200]).unwrap();
        let (mut here, mut place) = (root.try_clone().unwrap(), Place::default());
        for _ in 0..100 {
            mkdirat(&here, &name, Mode::RWXU).unwrap();
            let flags = OFlags::RDONLY | OFlags::DIRECTORY;
            here = openat(&here, &name, flags, Mode::empty()).unwrap();
            place = place.entry(&name);
        }
        let flags = OFlags::WRONLY | OFlags::CREATE;
        let file = openat(&here, c"file", flags, Mode::RWXU).unwrap();
        let mut stat = fstat(&file).unwrap();
        stat.st_nlink = 3;
        let seen = links.visit(&stat, &place, c"file");
        assert!(matches!(seen, Seen::Never));

        let top = Place::default();
        for (at, place, name) in [(&root, &top, c"top"), (&here, &place, c"beside")] {
            match links.visit(&stat, place, name) {
                Seen::Before(first) => first.link(&links, place, at.as_fd(), name).unwrap(),
                Seen::Never => unreachable!("{name:?} was not recognised"),
            }
            let linked = statat(at, name, AtFlags::SYMLINK_NOFOLLOW).unwrap();
            assert_eq!(linked.st_ino, stat.st_ino);
        }
        assert!(links.files.is_empty(), "the last link was met");
        assert_eq!(links.bytes, 0);
    }

    #[test]
    fn links_beyond_the_bound_are_files_of_their_own_until_others_are_dropped() {
        let home = tempfile::tempdir().unwrap();
        let root = File::open(home.path()).unwrap();
        let mut stat = fstat(&root).unwrap();
        let mut links = Links::new(root.into());
        links.most = 2 * (ENTRY_OVERHEAD_BYTES + 1);
        let mut meet = |inode, name: &CStr| {
            (stat.st_ino, stat.st_nlink) = (inode, 2);
            matches!(links.visit(&stat, &Place::default(), name), Seen::Before(_))
        };
        assert!(!meet(1, c"a") && !meet(2, c"b") && !meet(3, c"c"));
        assert!(meet(1, c"d") && !meet(3, c"e"));
        assert!(meet(3, c"f") && meet(2, c"g"));
    }

    #[test]
    fn a_directory_is_dropped_with_its_last_file_at_any_depth() {
        let mut deepest = Place::default();
        for _ in 0..1_000_000 {
            deepest = deepest.entry(c"d");
        }
        let above = deepest
            .0
            .as_ref()
            .map(|way| Rc::downgrade(&way.above.0.clone().unwrap()));
        drop(deepest);
        assert!(above.unwrap().upgrade().is_none());
    }
}
