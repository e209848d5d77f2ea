//! Files that are written under a temporary name.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;

use rustix::fs::{AtFlags, SeekFrom};
use rustix::io::Errno;
use tokio_util::sync::CancellationToken;

use crate::cli::progress::Progress;

/// Blocks of zeros are not written; this is the block size of nearly every filesystem.
const ZEROS: [u8; 4096] = [0; 4096];

/// A file or link under a temporary name, removed when dropped unless it was renamed.
#[derive(Debug)]
pub(super) struct Temporary {
    pub(super) parent: OwnedFd,
    pub(super) name: OsString,
    pub(super) renamed: bool,
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.renamed {
            let _ = rustix::fs::unlinkat(&self.parent, &self.name, AtFlags::empty());
        }
    }
}

/// A file that is being written under a temporary name.
#[derive(Debug)]
#[must_use]
pub(super) struct Draft {
    pub(super) file: File,
    /// The offset of the next bytes.
    pub(super) position: u64,
    /// The length of the file so far: less than `position` after a hole.
    pub(super) length: u64,
    pub(super) name: OsString,
    pub(super) temporary: Temporary,
    pub(super) progress: Progress,
    pub(super) cancelled: CancellationToken,
}

impl Draft {
    /// Adds bytes. Blocks of zeros become holes.
    pub(super) fn write(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        self.check_cancelled()?;
        self.progress.add_bytes(bytes.len() as u64);
        while !bytes.is_empty() {
            let (piece, rest) = bytes.split_at(leading_data(bytes, self.position));
            self.file.write_all_at(piece, self.position)?;
            self.position += piece.len() as u64;
            if !piece.is_empty() {
                self.length = self.position;
            }
            let zeros = leading_zeros(rest, self.position);
            self.position += zeros as u64;
            bytes = rest.split_at(zeros).1;
        }
        Ok(())
    }

    /// Continues at `position`; the part that was not written becomes a hole.
    pub(super) fn skip_to(&mut self, position: u64) {
        self.position = position;
    }

    /// Copies the content of another file: shares its blocks where the filesystem can, and keeps holes.
    pub(super) fn copy(&mut self, from: &File) -> io::Result<()> {
        if rustix::fs::ioctl_ficlone(&self.file, from).is_ok() {
            return Ok(());
        }
        let size = from.metadata()?.len();
        while self.position < size {
            let start = match rustix::fs::seek(from, SeekFrom::Data(self.position)) {
                Ok(start) => start.min(size),
                // The rest is a hole.
                Err(Errno::NXIO) => size,
                // The filesystem does not report holes.
                Err(Errno::INVAL) => self.position,
                Err(error) => return Err(error.into()),
            };
            let end = match rustix::fs::seek(from, SeekFrom::Hole(start)) {
                Ok(end) if end > start => end.min(size),
                _ => size,
            };
            self.copy_data(from, start, end)?;
        }
        Ok(())
    }

    fn copy_data(&mut self, mut from: &File, start: u64, end: u64) -> io::Result<()> {
        /// Between checks for cancellation: a quarter of a second on a slow disk.
        const MAX_COPY: u64 = 16 << 20;
        from.seek(io::SeekFrom::Start(start))?;
        self.file.seek(io::SeekFrom::Start(start))?;
        self.position = start;
        while self.position < end {
            self.check_cancelled()?;
            let wanted = (end - self.position).min(MAX_COPY);
            let count = io::copy(&mut from.take(wanted), &mut self.file)?;
            if count == 0 {
                return Err(io::Error::other("it became shorter while it was read"));
            }
            self.progress.add_bytes(count);
            self.position += count;
            self.length = self.position;
        }
        Ok(())
    }

    fn check_cancelled(&self) -> io::Result<()> {
        if self.cancelled.is_cancelled() {
            Err(io::Error::other("the transfer was given up"))
        } else {
            Ok(())
        }
    }
}

/// How many of the first bytes are in blocks of the file that hold zeros only.
fn leading_zeros(bytes: &[u8], position: u64) -> usize {
    leading_blocks(bytes, position, |block| block == &ZEROS[..block.len()])
}

/// How many of the first bytes are in blocks of the file that hold data.
fn leading_data(bytes: &[u8], position: u64) -> usize {
    leading_blocks(bytes, position, |block| block != &ZEROS[..block.len()])
}

/// How many of the first bytes are in blocks of the file that match.
fn leading_blocks(bytes: &[u8], position: u64, matches: impl Fn(&[u8]) -> bool) -> usize {
    let block = ZEROS.len();
    // The end of the block that the first byte is in.
    let mut end = block - usize::try_from(position % block as u64).unwrap_or(0);
    let mut start = 0;
    while start < bytes.len() {
        let piece = &bytes[start..end.min(bytes.len())];
        if !matches(piece) {
            break;
        }
        (start, end) = (end, end + block);
    }
    start.min(bytes.len())
}
