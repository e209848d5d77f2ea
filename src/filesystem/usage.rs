//! The disk usage of a tree, and how much of that it shares with no other tree.
//!
//! Blocks are counted, not lengths: a hole takes no space. A file with several names is divided equally among
//! them, so that no list of names is needed and a tree that has all names counts it once. Links are not
//! followed, and mount points are not entered.
//!
//! Sharing by reflink or snapshot is visible after the data has been allocated (syncfs). A file that shares
//! blocks with another one of the same tree counts as sharing. Compressed blocks count with their
//! uncompressed size.

use std::ffi::CStr;
use std::os::fd::AsFd;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat, fstat, openat, statat};
use rustix::io::Errno;

use super::dir_walker::{DirWalker, Directory, open_directory};
use super::error::Fault;
use super::fiemap::ExtentReader;
use super::names::{Names, Page};

/// The unit of stat's block count, whatever the filesystem's block size is.
const STAT_BLOCK_BYTES: u64 = 512;

/// The disk usage of a tree, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// All its blocks.
    pub bytes: u64,
    /// Blocks that no other tree shares: freed when this tree is removed. At most `bytes`.
    pub own: u64,
}

impl Usage {
    fn add(&mut self, bytes: u64, own: u64) {
        self.bytes = self.bytes.saturating_add(bytes);
        self.own = self.own.saturating_add(own.min(bytes));
    }
}

/// Measures a tree. With `cloned`, the second of the epoch at which it was created as a clone, shared blocks
/// of its files are queried; else all blocks are its own. The memory used grows with the depth of the tree
/// alone.
pub(super) fn of(root: Directory, cloned: Option<i64>) -> Result<Usage, Fault> {
    let here = |errno| Fault::new("look at", ".".as_ref(), errno);
    let stat = fstat(&root).map_err(here)?;
    let mut measuring = Measuring {
        walker: DirWalker::new(root),
        found: Usage::default(),
        cloned,
        extents: cloned.map(|_| ExtentReader::new()),
        names: Names::default(),
    };
    measuring.count_whole(&stat);
    measuring.run()?;
    Ok(measuring.found)
}

struct Measuring {
    walker: DirWalker,
    found: Usage,
    cloned: Option<i64>,
    /// Removed once a filesystem cannot answer.
    extents: Option<ExtentReader>,
    names: Names,
}

impl Measuring {
    fn run(&mut self) -> Result<(), Fault> {
        let mut levels = vec![self.read(0)?];
        while let Some(level) = levels.last_mut() {
            let Some(name) = self.names.take(level) else {
                if let Some(rest) = level.rest() {
                    *level = self.read(rest)?;
                    continue;
                }
                levels.pop();
                self.walker
                    .leave()
                    .map_err(|errno| self.walker.fault("find the way up from", c".", errno))?;
                continue;
            };
            let (directory, stat) = match open_directory(self.walker.here(), &name) {
                Ok(opened) => opened,
                // Removed, replaced, or a mount point.
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::XDEV) => continue,
                Err(errno) => return Err(self.walker.fault("open", &name, errno)),
            };
            self.count_whole(&stat);
            self.walker.enter(&name, directory);
            levels.push(self.read(0)?);
        }
        Ok(())
    }

    /// Counts the non-directories of the current directory from a cookie on, until names of directories are
    /// found; returns those.
    fn read(&mut self, from: u64) -> Result<Page, Fault> {
        let mut names = std::mem::take(&mut self.names);
        let here = self.walker.here().try_clone_to_owned();
        let here = here.map_err(|error| self.walker.fault("open", c".", error))?;
        let fault = |measuring: &Self, errno| measuring.walker.fault("read", c".", errno);
        let page = names.read(here.as_fd(), from, self, fault, |measuring, entry| {
            measuring.count(entry.file_name())
        });
        self.names = names;
        page
    }

    /// Counts an entry of the current directory; true for a directory, which is counted later.
    fn count(&mut self, name: &CStr) -> Result<bool, Fault> {
        let stat = match statat(self.walker.here(), name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => return Ok(false),
            Err(errno) => return Err(self.walker.fault("look at", name, errno)),
        };
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => return Ok(true),
            FileType::RegularFile => self.count_file(name, &stat)?,
            _ => self.count_whole(&stat),
        }
        Ok(false)
    }

    fn count_whole(&mut self, stat: &Stat) {
        let bytes = part(stat);
        self.found.add(bytes, bytes);
    }

    fn count_file(&mut self, name: &CStr, stat: &Stat) -> Result<(), Fault> {
        let bytes = part(stat);
        let own = match bytes {
            0 => Some(0),
            _ => self
                .unshared_bytes(name, stat)
                .map_err(|errno| self.walker.fault("ask for the blocks of", name, errno))?,
        };
        self.found.add(bytes, own.unwrap_or(bytes));
        Ok(())
    }

    /// One name's share of a file's unshared blocks; `None` if that is unknown.
    fn unshared_bytes(&mut self, name: &CStr, stat: &Stat) -> Result<Option<u64>, Errno> {
        let (Some(extents), Some(cloned)) = (&mut self.extents, self.cloned) else {
            return Ok(None);
        };
        // Non-blocking, in case it is a FIFO by now.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = match openat(self.walker.here(), name, flags, Mode::empty()) {
            Ok(file) => file,
            Err(Errno::NOENT) => return Ok(Some(0)),
            // Inaccessible, or something else by now.
            Err(Errno::ACCESS | Errno::PERM | Errno::LOOP | Errno::NXIO) => return Ok(None),
            Err(errno) => return Err(errno),
        };
        if FileType::from_raw_mode(fstat(&file)?.st_mode) != FileType::RegularFile {
            return Ok(None);
        }
        let Some(unshared) = extents.unshared(file.as_fd())? else {
            self.extents = None;
            return Ok(None);
        };
        // A small file is stored in its directory's own blocks; unchanged since the clone, it is shared.
        let is_as_cloned = stat.st_ctime < cloned;
        let inline = if is_as_cloned { 0 } else { unshared.inline };
        let own = unshared.blocks.saturating_add(inline);
        Ok(Some(own / names(stat)))
    }
}

/// One name's share of a file's blocks in bytes.
fn part(stat: &Stat) -> u64 {
    u64::try_from(stat.st_blocks).unwrap_or(0) * STAT_BLOCK_BYTES / names(stat)
}

// The field's width differs between architectures.
#[allow(clippy::unnecessary_cast)]
fn names(stat: &Stat) -> u64 {
    match FileType::from_raw_mode(stat.st_mode) {
        // The links of a directory are its subdirectories.
        FileType::Directory => 1,
        _ => (stat.st_nlink as u64).max(1),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::MetadataExt;
    use std::path::Path;

    use super::super::Filesystem;
    use super::*;

    fn measure(path: &Path) -> Usage {
        Filesystem::Plain.usage(path, None).unwrap()
    }

    fn blocks(path: &Path) -> u64 {
        fs::symlink_metadata(path).unwrap().blocks() * STAT_BLOCK_BYTES
    }

    #[test]
    fn blocks_are_counted_and_holes_are_not() {
        let home = tempfile::tempdir().unwrap();
        let tree = home.path().join("tree");
        fs::create_dir_all(tree.join("a/b/c")).unwrap();
        fs::write(tree.join("a/b/c/file"), vec![1; 100_000]).unwrap();
        let sparse = fs::File::create(tree.join("sparse")).unwrap();
        sparse.set_len(1 << 40).unwrap();
        let mut expected = 0;
        for path in ["", "a", "a/b", "a/b/c", "a/b/c/file", "sparse"] {
            expected += blocks(&tree.join(path));
        }
        let found = measure(&tree);
        assert_eq!((found.bytes, found.own), (expected, expected));
        assert!((100_000..1 << 30).contains(&found.bytes), "{found:?}");
    }

    #[test]
    fn a_file_with_many_hard_links_counts_once() {
        let home = tempfile::tempdir().unwrap();
        let tree = home.path().join("tree");
        fs::create_dir(&tree).unwrap();
        let first = tree.join("0");
        fs::write(&first, vec![1; 64 << 10]).unwrap();
        for n in 1..4 {
            fs::hard_link(&first, tree.join(n.to_string())).unwrap();
        }
        assert_eq!(measure(&tree).bytes, blocks(&tree) + blocks(&first));
    }

    #[test]
    fn links_are_not_followed_and_a_missing_path_is_an_error() {
        let home = tempfile::tempdir().unwrap();
        let tree = home.path().join("tree");
        fs::create_dir(&tree).unwrap();
        std::os::unix::fs::symlink("/usr", tree.join("out")).unwrap();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            tree.join("fifo"),
            FileType::Fifo,
            Mode::RUSR,
            0,
        )
        .unwrap();
        assert!(measure(&tree).bytes < 1 << 20);
        assert!(
            Filesystem::Plain
                .usage(&home.path().join("none"), None)
                .is_err()
        );
        std::os::unix::fs::symlink(&tree, home.path().join("link")).unwrap();
        assert!(
            Filesystem::Plain
                .usage(&home.path().join("link"), None)
                .is_err()
        );
    }

    #[test]
    fn without_fiemap_all_blocks_count_as_unshared() {
        let home = tempfile::tempdir_in("/dev/shm").unwrap();
        fs::write(home.path().join("file"), vec![1; 64 << 10]).unwrap();
        let found = Filesystem::Plain.usage(home.path(), Some(0)).unwrap();
        assert_eq!(found.own, found.bytes);
        assert!(found.bytes >= 64 << 10);
    }
}
