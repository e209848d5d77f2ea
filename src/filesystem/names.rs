//! Reads the names of a directory, one bounded page at a time.
//!
//! Builds choose how many names a directory has and how long they are. A walk holds one page of names for
//! each directory on its path, and all pages of a walk together stay below [`PAGES_BUDGET_BYTES`], unless the
//! tree is so deep that the smallest pages take more. The next page starts at a filesystem cookie, which
//! stays valid when names before it are removed.

use std::ffi::{CStr, CString};
use std::os::fd::BorrowedFd;

use rustix::fs::{RawDir, RawDirEntry, SeekFrom, seek};
use rustix::io::Errno;

use super::dir_walker::is_dots;
use super::error::Fault;

/// Bytes of directory entries per read, which is more than the names in them take: all entries of nearly
/// every directory.
const PAGE_BYTES: usize = 16 << 10;
/// The minimum, in the deepest and widest trees; the kernel needs space for the longest name.
const MIN_PAGE_BYTES: usize = 1 << 10;
/// Bytes that the pages of one walk take before they become smaller.
const PAGES_BUDGET_BYTES: usize = 64 << 10;

/// The names of one directory that a walk has not reached yet.
#[derive(Debug, Default)]
pub(super) struct Page {
    /// Each with a terminating zero; the last one comes first.
    names: Vec<u8>,
    /// The cookie at which reading continues; `None` at the end.
    rest: Option<u64>,
}

impl Page {
    /// The cookie of the next page; `None` after the last.
    pub(super) fn rest(&self) -> Option<u64> {
        self.rest
    }
}

/// Reads pages, and counts their total size.
#[derive(Debug, Default)]
pub(super) struct Names {
    buffer: Vec<u8>,
    held: usize,
}

impl Names {
    /// Reads `directory` from the cookie `from` on (0: from the start), for `walk`. `keep` is called for each
    /// entry and decides whether its name is added to the page; it is called until a name is added. `fault`
    /// creates the error for a directory that cannot be read.
    ///
    /// # Errors
    /// The error of `fault`, and the error of `keep`.
    pub(super) fn read<W>(
        &mut self,
        directory: BorrowedFd<'_>,
        from: u64,
        walk: &mut W,
        fault: impl Fn(&W, Errno) -> Fault,
        mut keep: impl FnMut(&mut W, &RawDirEntry<'_>) -> Result<bool, Fault>,
    ) -> Result<Page, Fault> {
        self.buffer.reserve(PAGE_BYTES);
        let most =
            (PAGES_BUDGET_BYTES.saturating_sub(self.held) / 2).clamp(MIN_PAGE_BYTES, PAGE_BYTES);
        seek(directory, SeekFrom::Start(from)).map_err(|errno| fault(walk, errno))?;
        let mut page = Page::default();
        let mut entries = RawDir::new(directory, &mut self.buffer.spare_capacity_mut()[..most]);
        while let Some(entry) = entries.next() {
            let entry = entry.map_err(|errno| fault(walk, errno))?;
            let next = entry.next_entry_cookie();
            let name = entry.file_name();
            if !is_dots(name) && keep(walk, &entry)? {
                page.names.extend_from_slice(name.to_bytes_with_nul());
            }
            if entries.is_buffer_empty() && !page.names.is_empty() {
                page.rest = Some(next);
                break;
            }
        }
        page.names.shrink_to_fit();
        self.held += page.names.capacity();
        Ok(page)
    }

    /// Removes the next name from a page.
    pub(super) fn take(&mut self, page: &mut Page) -> Option<CString> {
        let (_, ended) = page.names.split_last()?;
        let start = ended
            .iter()
            .rposition(|byte| *byte == 0)
            .map_or(0, |zero| zero + 1);
        let name = CStr::from_bytes_with_nul(&page.names[start..])
            .ok()?
            .to_owned();
        let before = page.names.capacity();
        page.names.truncate(start);
        // A page that a deep walk returns to late takes only the space of its names.
        if start < before / 2 {
            page.names.shrink_to_fit();
        }
        self.held = self.held.saturating_sub(before - page.names.capacity());
        Some(name)
    }

    /// Returns a name to a page; it is the next to be taken.
    pub(super) fn put_back(&mut self, page: &mut Page, name: &CStr) {
        let before = page.names.capacity();
        page.names.extend_from_slice(name.to_bytes_with_nul());
        self.held += page.names.capacity() - before;
    }

    /// Bytes that the pages and the buffer take.
    pub(super) fn bytes(&self) -> usize {
        self.held + self.buffer.capacity()
    }
}

/// Sorts the names of a page by their bytes.
pub(super) fn sort(page: &mut Page) {
    let mut names: Vec<&[u8]> = page.names.split_inclusive(|byte| *byte == 0).collect();
    names.sort_unstable_by(|a, b| b.cmp(a));
    page.names = names.concat();
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs::File;
    use std::os::fd::AsFd;
    use std::path::Path;

    use super::*;

    fn fault(_: &(), errno: Errno) -> Fault {
        Fault::new("read", Path::new("."), errno)
    }

    #[test]
    fn every_name_is_in_exactly_one_page_and_pages_are_bounded() {
        let home = tempfile::tempdir().unwrap();
        let expected: BTreeSet<String> = (0..2_000).map(|n| format!("{n:0>120}")).collect();
        for name in &expected {
            File::create(home.path().join(name)).unwrap();
        }
        let directory = File::open(home.path()).unwrap();
        let mut names = Names::default();
        let mut found = BTreeSet::new();
        let (mut from, mut pages) = (Some(0), 0);
        while let Some(at) = from {
            let mut page = names
                .read(directory.as_fd(), at, &mut (), fault, |_, _| Ok(true))
                .unwrap();
            assert!(names.bytes() < 3 * PAGE_BYTES, "{}", names.bytes());
            pages += 1;
            sort(&mut page);
            let mut before = None;
            while let Some(name) = names.take(&mut page) {
                let name = name.into_string().unwrap();
                assert!(before < Some(name.clone()));
                assert!(found.insert(name.clone()));
                before = Some(name);
            }
            from = page.rest();
        }
        assert_eq!(found, expected);
        assert!(pages > 10, "{pages}");
        assert_eq!(names.held, 0);
    }

    #[test]
    fn pages_are_smaller_when_many_are_held() {
        let home = tempfile::tempdir().unwrap();
        for n in 0..1_000 {
            File::create(home.path().join(format!("{n:0>200}"))).unwrap();
        }
        let directory = File::open(home.path()).unwrap();
        let mut names = Names::default();
        let pages: Vec<Page> = (0..100)
            .map(|_| {
                names
                    .read(directory.as_fd(), 0, &mut (), fault, |_, _| Ok(true))
                    .unwrap()
            })
            .collect();
        assert!(pages.iter().all(|page| !page.names.is_empty()));
        assert!(
            names.bytes() < PAGES_BUDGET_BYTES + 100 * MIN_PAGE_BYTES + PAGE_BYTES,
            "{}",
            names.bytes()
        );
    }

    #[test]
    fn pages_are_read_until_a_name_is_kept() {
        let home = tempfile::tempdir().unwrap();
        for n in 0..2_000 {
            File::create(home.path().join(format!("file{n}"))).unwrap();
        }
        std::fs::create_dir(home.path().join("directory")).unwrap();
        let directory = File::open(home.path()).unwrap();
        let mut names = Names::default();
        let (mut from, mut seen, mut kept) = (Some(0), 0, Vec::new());
        while let Some(at) = from {
            let keep = |(): &mut (), entry: &RawDirEntry<'_>| {
                seen += 1;
                Ok(entry.file_name() == c"directory")
            };
            let mut page = names
                .read(directory.as_fd(), at, &mut (), fault, keep)
                .unwrap();
            kept.extend(names.take(&mut page));
            assert_eq!(names.take(&mut page), None);
            from = page.rest();
        }
        assert_eq!((seen, kept), (2_001, vec![c"directory".to_owned()]));
    }
}
