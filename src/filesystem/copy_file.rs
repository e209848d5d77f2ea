//! Copies the contents of a file by the cheapest method that works here.
//!
//! Contents are shared with the original (a reflink: no data is moved), else copied inside the kernel, else
//! read and written. A method that a filesystem does not support is not tried again in the same tree. Holes
//! are preserved.

use std::os::fd::OwnedFd;

use rustix::buffer::spare_capacity;
use rustix::fs::{SeekFrom, Stat, copy_file_range, ftruncate, ioctl_ficlone, seek};
use rustix::io::{Errno, pread, pwrite};

use super::interrupt::Interrupt;

/// Read size when the kernel does not copy: large enough that the cost of calls is negligible.
const BUFFER_BYTES: usize = 256 * 1024;

/// Bytes that the kernel copies per call: few enough that the process can be interrupted in between.
const KERNEL_COPY_BYTES: u64 = 128 * 1024 * 1024;

/// The methods that are still worth trying.
pub(super) struct FileCopier {
    reflink: bool,
    in_kernel: bool,
    buffer: Vec<u8>,
    interrupt: Interrupt,
}

impl FileCopier {
    /// Copies until it is interrupted, which is reported as an error of the file being copied.
    pub(super) fn new(interrupt: Interrupt) -> FileCopier {
        FileCopier {
            interrupt,
            reflink: true,
            in_kernel: true,
            buffer: Vec::new(),
        }
    }

    /// Copies the contents that `from` had when `stat` was taken into the new file `to`.
    pub(super) fn copy(&mut self, from: &OwnedFd, to: &OwnedFd, stat: &Stat) -> Result<(), Errno> {
        let size = u64::try_from(stat.st_size).map_err(|_| Errno::INVAL)?;
        if size == 0 {
            return Ok(());
        }
        if self.reflink {
            match ioctl_ficlone(to, from) {
                Ok(()) => return Ok(()),
                Err(Errno::OPNOTSUPP | Errno::NOTTY | Errno::NOSYS | Errno::XDEV) => {
                    self.reflink = false;
                }
                // A property of this one file, such as being exempt from copy-on-write.
                Err(Errno::INVAL | Errno::PERM | Errno::TXTBSY) => {}
                Err(errno) => return Err(errno),
            }
        }
        // These blocks are 512 bytes, whatever the filesystem's block size is.
        let allocated = u64::try_from(stat.st_blocks).unwrap_or(0) * 512;
        if allocated >= size {
            return self.range(from, to, 0, size);
        }
        self.sparse(from, to, size)
    }

    fn sparse(&mut self, from: &OwnedFd, to: &OwnedFd, size: u64) -> Result<(), Errno> {
        let mut at = 0;
        while at < size {
            let start = match seek(from, SeekFrom::Data(at)) {
                Ok(start) if start < size => start,
                // Only a hole follows.
                Ok(_) | Err(Errno::NXIO) => break,
                Err(errno) => return Err(errno),
            };
            let end = seek(from, SeekFrom::Hole(start))?.min(size);
            self.range(from, to, start, end)?;
            at = end;
        }
        ftruncate(to, size)
    }

    fn range(&mut self, from: &OwnedFd, to: &OwnedFd, start: u64, end: u64) -> Result<(), Errno> {
        let mut at = start;
        while self.in_kernel && at < end {
            self.interrupt.check()?;
            let (mut read, mut written) = (at, at);
            let length = usize::try_from((end - at).min(KERNEL_COPY_BYTES)).unwrap_or(BUFFER_BYTES);
            match copy_file_range(from, Some(&mut read), to, Some(&mut written), length) {
                // The file was truncated, or the kernel cannot tell its size; reading shows which.
                Ok(0) => break,
                Ok(copied) => at += copied as u64,
                Err(Errno::INTR) => {}
                Err(Errno::XDEV | Errno::NOSYS | Errno::OPNOTSUPP | Errno::INVAL | Errno::PERM) => {
                    self.in_kernel = false;
                }
                Err(errno) => return Err(errno),
            }
        }
        self.through_buffer(from, to, at, end)
    }

    fn through_buffer(
        &mut self,
        from: &OwnedFd,
        to: &OwnedFd,
        mut at: u64,
        end: u64,
    ) -> Result<(), Errno> {
        if at < end {
            self.buffer.reserve_exact(BUFFER_BYTES);
        }
        while at < end {
            self.interrupt.check()?;
            self.buffer.clear();
            match pread(from, spare_capacity(&mut self.buffer), at) {
                // It was truncated.
                Ok(0) => break,
                Ok(_) => {}
                Err(Errno::INTR) => continue,
                Err(errno) => return Err(errno),
            }
            let room = usize::try_from(end - at).unwrap_or(usize::MAX);
            let mut rest = self.buffer.get(..room).unwrap_or(&self.buffer);
            while !rest.is_empty() {
                match pwrite(to, rest, at) {
                    Ok(0) => return Err(Errno::NOSPC),
                    Ok(written) => {
                        at += written as u64;
                        rest = rest.get(written..).unwrap_or_default();
                    }
                    Err(Errno::INTR) => {}
                    Err(errno) => return Err(errno),
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Read, Seek, Write};
    use std::os::unix::fs::{FileExt, MetadataExt};

    use rustix::fs::fstat;

    use super::*;

    fn copy(ways: &mut FileCopier, from: File) -> File {
        let to = tempfile::tempfile().unwrap();
        let stat = fstat(&from).unwrap();
        let copied = OwnedFd::from(to.try_clone().unwrap());
        ways.copy(&OwnedFd::from(from), &copied, &stat).unwrap();
        to
    }

    fn every_way() -> [FileCopier; 3] {
        [(true, true), (false, true), (false, false)].map(|(reflink, in_kernel)| FileCopier {
            reflink,
            in_kernel,
            buffer: Vec::new(),
            interrupt: Interrupt::default(),
        })
    }

    #[test]
    fn every_method_copies_the_same_bytes() {
        let bytes: Vec<u8> = (0..700_001_u32).map(|n| (n % 251) as u8).collect();
        for mut way in every_way() {
            let mut from = tempfile::tempfile().unwrap();
            from.write_all(&bytes).unwrap();
            let mut to = copy(&mut way, from);
            let mut read = Vec::new();
            to.rewind().unwrap();
            to.read_to_end(&mut read).unwrap();
            assert!(read == bytes);
        }
    }

    #[test]
    fn every_method_keeps_holes() {
        const SIZE: u64 = 64 * 1024 * 1024;
        for mut way in every_way() {
            let from = tempfile::tempfile().unwrap();
            from.write_all_at(b"middle", SIZE / 2).unwrap();
            from.set_len(SIZE).unwrap();
            let to = copy(&mut way, from);
            let metadata = to.metadata().unwrap();
            assert_eq!(metadata.len(), SIZE);
            assert!(metadata.blocks() * 512 < 1024 * 1024);
            let mut middle = [0; 6];
            to.read_exact_at(&mut middle, SIZE / 2).unwrap();
            assert_eq!(&middle, b"middle");
        }
    }

    #[test]
    fn a_file_that_becomes_shorter_is_copied_up_to_its_end() {
        for mut way in every_way() {
            let mut from = tempfile::tempfile().unwrap();
            from.write_all(&[1; 100_000]).unwrap();
            let stat = fstat(&from).unwrap();
            from.set_len(10).unwrap();
            let to = tempfile::tempfile().unwrap();
            let copied = OwnedFd::from(to.try_clone().unwrap());
            way.copy(&OwnedFd::from(from), &copied, &stat).unwrap();
            assert!(to.metadata().unwrap().len() <= 100_000);
        }
    }
}
