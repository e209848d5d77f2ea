//! The hard links of a tree that is copied: which file was met before, and where its copy is.
//!
//! Copies are remembered as a directory and a name, directories as a parent and a name, so that deep
//! trees full of links cost no more than their names. A file is forgotten with its last link.

use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Mode, OFlags, Stat, linkat, openat};
use rustix::io::Errno;

/// How much of a path is resolved in one step; with the longest name after it, it stays below the
/// kernel's 4,096 bytes.
const STEP: usize = 3072;

/// What was met so far.
pub(super) struct Links {
    root: OwnedFd,
    /// All directories of the copy; the first is the root. An entry's parent comes before it.
    directories: Vec<(usize, CString)>,
    files: HashMap<(u64, u64), Copy>,
}

struct Copy {
    first: First,
    /// How many links to the original were not met yet, inside the tree or outside.
    left: u64,
}

/// Where the first copy of a file is.
#[derive(Clone)]
pub(super) struct First {
    directory: usize,
    name: CString,
}

/// Whether a file was met before.
pub(super) enum Seen {
    Never,
    Before(First),
}

impl Links {
    /// The root among the directories.
    pub(super) const ROOT: usize = 0;

    pub(super) fn new(root: OwnedFd) -> Links {
        Links {
            root,
            directories: vec![(Links::ROOT, CString::default())],
            files: HashMap::new(),
        }
    }

    /// Remembers a directory; gives what stands for it here.
    pub(super) fn directory(&mut self, parent: usize, name: &CStr) -> usize {
        self.directories.push((parent, name.to_owned()));
        self.directories.len() - 1
    }

    /// Remembers the file that is about to be copied to `name` in `directory`, or says where its copy is.
    // The fields differ in width between architectures.
    #[allow(clippy::unnecessary_cast)]
    pub(super) fn meet(&mut self, stat: &Stat, directory: usize, name: &CStr) -> Seen {
        if stat.st_nlink <= 1 {
            return Seen::Never;
        }
        let id = (stat.st_dev as u64, stat.st_ino as u64);
        if let Some(copy) = self.files.get_mut(&id) {
            copy.left = copy.left.saturating_sub(1);
            let first = copy.first.clone();
            if copy.left == 0 {
                self.files.remove(&id);
            }
            return Seen::Before(first);
        }
        let copy = Copy {
            first: First {
                directory,
                name: name.to_owned(),
            },
            left: stat.st_nlink as u64 - 1,
        };
        self.files.insert(id, copy);
        Seen::Never
    }
}

impl First {
    /// Makes `name` in `here`, which is the directory `node`, another link to this copy.
    pub(super) fn link(
        &self,
        links: &Links,
        node: usize,
        here: BorrowedFd<'_>,
        name: &CStr,
    ) -> Result<(), Errno> {
        if node == self.directory {
            return linkat(here, &self.name, here, name, AtFlags::empty());
        }
        let mut names = vec![self.name.as_bytes()];
        let mut at = self.directory;
        while let Some((parent, name)) = links.directories.get(at).filter(|_| at != Links::ROOT) {
            names.push(name.as_bytes());
            at = *parent;
        }
        // Nobody else writes to the copy, so there are no links among its directories.
        let mut reached: Option<OwnedFd> = None;
        let mut path = Vec::new();
        while let Some(component) = names.pop() {
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(component);
            if path.len() > STEP && !names.is_empty() {
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
    fn a_copy_is_found_again_far_below_what_a_path_can_name() {
        let home = tempfile::tempdir().unwrap();
        let root = OwnedFd::from(File::open(home.path()).unwrap());
        let mut links = Links::new(root.try_clone().unwrap());
        let name = CString::new([b'd'; 200]).unwrap();
        let (mut here, mut node) = (root.try_clone().unwrap(), Links::ROOT);
        for _ in 0..100 {
            mkdirat(&here, &name, Mode::RWXU).unwrap();
            let flags = OFlags::RDONLY | OFlags::DIRECTORY;
            here = openat(&here, &name, flags, Mode::empty()).unwrap();
            node = links.directory(node, &name);
        }
        let flags = OFlags::WRONLY | OFlags::CREATE;
        let file = openat(&here, c"file", flags, Mode::RWXU).unwrap();
        let mut stat = fstat(&file).unwrap();
        stat.st_nlink = 3;
        assert!(matches!(links.meet(&stat, node, c"file"), Seen::Never));

        for (at, node, name) in [(&root, Links::ROOT, c"top"), (&here, node, c"beside")] {
            match links.meet(&stat, node, name) {
                Seen::Before(first) => first.link(&links, node, at.as_fd(), name).unwrap(),
                Seen::Never => unreachable!("{name:?} was not recognised"),
            }
            let linked = statat(at, name, AtFlags::SYMLINK_NOFOLLOW).unwrap();
            assert_eq!(linked.st_ino, stat.st_ino);
        }
        assert!(links.files.is_empty(), "the last link was met");
    }
}
