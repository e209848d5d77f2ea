//! Which blocks of a file are not shared: queried from the kernel by FIEMAP.
//!
//! One query about one open file. Filesystems without shared blocks, or that cannot tell, are distinguished
//! from those where nothing is shared.

use std::os::fd::BorrowedFd;

use linux_raw_sys::ioctl::{
    FIEMAP_EXTENT_DATA_INLINE, FIEMAP_EXTENT_LAST, FIEMAP_EXTENT_SHARED, FS_IOC_FIEMAP,
};
use rustix::io::Errno;
use rustix::ioctl::{Opcode, Updater, ioctl};

/// Extents per answer: all extents of nearly every file, in 14 KiB.
const EXTENTS_PER_CALL: usize = 256;

/// `struct fiemap_extent` of linux/fiemap.h.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Extent {
    logical: u64,
    physical: u64,
    length: u64,
    reserved64: [u64; 2],
    flags: u32,
    reserved: [u32; 3],
}

/// `struct fiemap`, with space for the answer.
#[repr(C)]
struct Request {
    start: u64,
    length: u64,
    flags: u32,
    mapped_extents: u32,
    extent_count: u32,
    reserved: u32,
    extents: [Extent; EXTENTS_PER_CALL],
}

/// The bytes of a file that no other file shares.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Unshared {
    /// In blocks that only this file uses.
    pub(super) blocks: u64,
    /// Stored beside the file's metadata, in blocks that may be shared with other small files, which the
    /// kernel does not report.
    pub(super) inline: u64,
}

/// Sends repeated queries with the same memory.
pub(super) struct ExtentReader(Box<Request>);

impl ExtentReader {
    pub(super) fn new() -> ExtentReader {
        ExtentReader(Box::new(Request {
            start: 0,
            length: 0,
            flags: 0,
            mapped_extents: 0,
            extent_count: 0,
            reserved: 0,
            extents: [Extent::default(); EXTENTS_PER_CALL],
        }))
    }

    /// The part of an open regular file that is shared with no other; `None` where the filesystem cannot
    /// tell. Written data without allocated blocks counts as not shared.
    pub(super) fn unshared(&mut self, file: BorrowedFd<'_>) -> Result<Option<Unshared>, Errno> {
        let mut found = Unshared::default();
        let mut start = 0;
        loop {
            match self.read_extents(file, start) {
                Ok(()) => {}
                Err(Errno::OPNOTSUPP | Errno::NOTTY | Errno::NOSYS) => return Ok(None),
                Err(errno) => return Err(errno),
            }
            let count = usize::try_from(self.0.mapped_extents).unwrap_or(EXTENTS_PER_CALL);
            let extents = &self.0.extents[..count.min(EXTENTS_PER_CALL)];
            for extent in extents {
                if extent.flags & FIEMAP_EXTENT_DATA_INLINE != 0 {
                    found.inline = found.inline.saturating_add(extent.length);
                } else if extent.flags & FIEMAP_EXTENT_SHARED == 0 {
                    found.blocks = found.blocks.saturating_add(extent.length);
                }
            }
            let Some(last) = extents.last() else {
                return Ok(Some(found));
            };
            let next = last.logical.saturating_add(last.length);
            if last.flags & FIEMAP_EXTENT_LAST != 0 || next <= start {
                return Ok(Some(found));
            }
            start = next;
        }
    }

    #[allow(unsafe_code)]
    fn read_extents(&mut self, file: BorrowedFd<'_>, start: u64) -> Result<(), Errno> {
        self.0.start = start;
        self.0.length = u64::MAX - start;
        self.0.flags = 0;
        self.0.mapped_extents = 0;
        self.0.extent_count = EXTENTS_PER_CALL as u32;
        // SAFETY: FIEMAP reads the head of a `struct fiemap`, whose layout `Request` has, and writes to that
        // head and to at most `extent_count` extents behind it, which is the number that `Request` can hold;
        // any bit pattern is valid in them.
        unsafe {
            ioctl(
                file,
                Updater::<{ FS_IOC_FIEMAP as Opcode }, _>::new(&mut *self.0),
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn the_structures_have_the_layout_of_the_kernel() {
        assert_eq!(size_of::<Extent>(), 56);
        assert_eq!(std::mem::offset_of!(Extent, flags), 40);
        assert_eq!(std::mem::offset_of!(Request, extents), 32);
    }

    #[test]
    fn without_fiemap_the_unshared_size_is_unknown() {
        let file = tempfile::tempfile_in("/dev/shm").unwrap();
        std::io::Write::write_all(&mut &file, b"x").unwrap();
        assert_eq!(ExtentReader::new().unshared(file.as_fd()).unwrap(), None);
    }
}
