//! A listing of one artifact directory for people: sorted, and bounded whatever the container left there.
//!
//! Names are read once, and only the first [`MAX_ENTRIES`] of them in page order are kept and examined, or as
//! many as fit in [`MAX_NAME_BYTES`]; a directory of a million names takes no more memory than one of some
//! thousands. Nothing is opened or followed.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::ffi::{CString, OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use rustix::fs::{FileType, Stat};

use crate::filesystem::{OpenDirectory, stat_entry};

/// Most names in a listing: more than a reader of a page looks through.
const MAX_ENTRIES: usize = 5_000;
/// Most bytes of names and link targets in a listing: a hundred for each name.
const MAX_NAME_BYTES: usize = 512 << 10;
/// Most bytes kept of a link target: more than a page shows.
const MAX_TARGET_BYTES: usize = 2 << 10;

/// The entries of a directory: directories first, then by name. Long link targets are cut.
#[derive(Clone, Debug, Default)]
pub struct Entries {
    /// The first entries.
    pub items: Vec<Entry>,
    /// How many further entries there are.
    pub more: usize,
}

/// One entry of a directory.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Its name; any bytes but `/`.
    pub name: OsString,
    /// Its type.
    pub kind: EntryKind,
    /// Its permissions, without the setuid, setgid and sticky bits, which are never sent.
    pub mode: u32,
    /// When it was modified, in seconds since 1970.
    pub modified: i64,
}

/// The type of a directory entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EntryKind {
    /// A directory.
    Directory,
    /// A regular file and its size in bytes.
    File(u64),
    /// A symbolic link and its target, which may lead anywhere or not exist.
    Link(OsString),
    /// A FIFO, a socket or a device, which is never sent.
    Special,
}

/// A name that is examined later, in page order.
#[derive(Debug, PartialEq, Eq)]
struct Name {
    is_directory: bool,
    name: Box<[u8]>,
}

impl Ord for Name {
    fn cmp(&self, other: &Name) -> Ordering {
        let directories_first = other.is_directory.cmp(&self.is_directory);
        directories_first.then_with(|| natural(&self.name, &other.name))
    }
}

impl PartialOrd for Name {
    fn partial_cmp(&self, other: &Name) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// A directory that was found and is not read yet.
#[derive(Debug)]
pub struct Directory(pub(super) Option<OpenDirectory>);

impl Directory {
    /// Lists the entries; for a million names this takes a second.
    ///
    /// # Errors
    /// When reading the host's disk fails.
    pub fn list(&self) -> io::Result<Entries> {
        match &self.0 {
            Some(directory) => list_at_most(directory.as_fd(), MAX_ENTRIES, MAX_NAME_BYTES),
            None => Ok(Entries::default()),
        }
    }
}

fn list_at_most(directory: BorrowedFd<'_>, most: usize, most_bytes: usize) -> io::Result<Entries> {
    // The last of the kept names is on top, and is replaced by one that sorts before it.
    let mut first: BinaryHeap<Name> = BinaryHeap::new();
    let (mut count, mut bytes) = (0_usize, 0_usize);
    for entry in rustix::fs::Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if matches!(name, b"." | b"..") {
            continue;
        }
        let kind = match entry.file_type() {
            // Not every filesystem reports the type here.
            FileType::Unknown => match stat_entry(directory, OsStr::from_bytes(name))? {
                Some(found) => FileType::from_raw_mode(found.st_mode),
                None => continue,
            },
            known => known,
        };
        count += 1;
        first.push(Name {
            is_directory: kind == FileType::Directory,
            name: name.into(),
        });
        bytes += name.len();
        while first.len() > most || bytes > most_bytes {
            bytes -= first.pop().map_or(bytes, |last| last.name.len());
        }
    }
    let mut more = count - first.len();
    let mut items = Vec::with_capacity(first.len());
    for name in first.into_sorted_vec() {
        let item = item(directory, OsString::from_vec(name.name.into()))?;
        if let Some(Entry {
            kind: EntryKind::Link(target),
            ..
        }) = &item
        {
            bytes += target.len();
        }
        if bytes > most_bytes {
            more += 1;
        } else {
            items.extend(item);
        }
    }
    Ok(Entries { items, more })
}

/// Examines one name; `None` if it was removed meanwhile.
fn item(directory: BorrowedFd<'_>, name: OsString) -> io::Result<Option<Entry>> {
    let Some(stat) = stat_entry(directory, &name)? else {
        return Ok(None);
    };
    let target = || -> io::Result<OsString> {
        let target: CString = rustix::fs::readlinkat(directory, &*name, Vec::new())?;
        let mut target = target.into_bytes();
        target.truncate(MAX_TARGET_BYTES);
        target.shrink_to_fit();
        Ok(OsString::from_vec(target))
    };
    Entry::of(&name, &stat, target).map(Some)
}

impl Entry {
    /// The entry `name` with the metadata `stat`; `target` reads the target of a link.
    pub(super) fn of(
        name: &OsStr,
        stat: &Stat,
        target: impl FnOnce() -> io::Result<OsString>,
    ) -> io::Result<Entry> {
        let kind = match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => EntryKind::Directory,
            FileType::RegularFile => EntryKind::File(u64::try_from(stat.st_size).unwrap_or(0)),
            FileType::Symlink => EntryKind::Link(target()?),
            _ => EntryKind::Special,
        };
        Ok(Entry {
            name: name.to_owned(),
            kind,
            mode: stat.st_mode & 0o777,
            modified: stat.st_mtime,
        })
    }
}

/// The order in which people expect names: `v9` before `v10`, `a` next to `A`. Names that differ are never
/// equal.
fn natural(a: &[u8], b: &[u8]) -> Ordering {
    let (mut left, mut right) = (a, b);
    while let (Some(x), Some(y)) = (left.first(), right.first()) {
        let order = if x.is_ascii_digit() && y.is_ascii_digit() {
            let (m, n) = (number(&mut left), number(&mut right));
            m.len().cmp(&n.len()).then_with(|| m.cmp(n))
        } else {
            let order = x.to_ascii_lowercase().cmp(&y.to_ascii_lowercase());
            (left, right) = (&left[1..], &right[1..]);
            order
        };
        if order != Ordering::Equal {
            return order;
        }
    }
    left.len().cmp(&right.len()).then_with(|| a.cmp(b))
}

/// Removes the digits at the start of `text` and returns them without leading zeros.
fn number<'a>(text: &mut &'a [u8]) -> &'a [u8] {
    let is_other = |byte: &u8| !byte.is_ascii_digit();
    let end = text.iter().position(is_other).unwrap_or(text.len());
    let (digits, rest) = text.split_at(end);
    *text = rest;
    let zeros = digits.iter().take_while(|byte| **byte == b'0').count();
    &digits[zeros..]
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    #[test]
    fn numbers_in_names_are_compared_as_numbers() {
        let sorted = [
            "1",
            "01",
            "2",
            "10",
            "a",
            "A",
            "a2",
            "a10",
            "a10b",
            "b",
            "file-9.txt",
            "file-10.txt",
        ];
        let mut names: Vec<&str> = sorted.into_iter().rev().collect();
        names.sort_unstable_by(|a, b| natural(a.as_bytes(), b.as_bytes()));
        // Leading zeros are the last tie-breaker.
        assert_eq!(names[..2], ["01", "1"]);
        assert_eq!(names[2..4], sorted[2..4]);
        assert_eq!(names[4..6], ["A", "a"]);
        assert_eq!(names[6..], sorted[6..]);
        let large = "9".repeat(200);
        assert_eq!(natural(large.as_bytes(), b"10"), Ordering::Greater);
    }

    #[test]
    fn a_listing_holds_the_first_names_and_counts_the_rest() {
        let home = tempfile::tempdir().unwrap();
        for at in 0..40 {
            std::fs::write(home.path().join(format!("f{at}")), "abc").unwrap();
        }
        std::fs::create_dir(home.path().join("z")).unwrap();
        std::os::unix::fs::symlink("/etc/shadow", home.path().join("a")).unwrap();
        let directory = File::open(home.path()).unwrap();
        let listing = list_at_most(directory.as_fd(), 5, 1_000).unwrap();
        let names: Vec<_> = listing.items.iter().map(|item| &*item.name).collect();
        assert_eq!(names, ["z", "a", "f0", "f1", "f2"]);
        assert_eq!(listing.more, 37);
        // The names fit, and the link target does not.
        let shorter = list_at_most(directory.as_fd(), 5, 7).unwrap();
        assert_eq!((shorter.items.len(), shorter.more), (1, 41));
        let kinds: Vec<_> = listing.items.iter().map(|item| &item.kind).collect();
        let link = EntryKind::Link("/etc/shadow".into());
        assert_eq!(
            kinds[..3],
            [&EntryKind::Directory, &link, &EntryKind::File(3)]
        );
        assert!(
            listing
                .items
                .iter()
                .all(|item| item.modified > 1_600_000_000)
        );
    }
}
