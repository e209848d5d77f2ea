//! A context as the tar that Docker gets: the same that Docker's own client would send.
//!
//! Names, kinds, modes, link targets, hard links and file capabilities are those of the walk, the owner is
//! root, and times are those of the files in whole seconds, within the range that tools accept. Each file is
//! hashed again while it is sent: a file that has changed since the walk fails the build instead of being
//! sent silently.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::SystemTime;

use super::DOCKERFILE;
use super::context::Context;
use super::digest::Hashing;
use super::entry::{Content, Entry, open};
use super::error::Error;
use crate::located::at;

/// 1980-01-01T00:00:00Z in seconds of Unix time: the earliest time that a ZIP archive can hold. Tools that
/// pack an older file fail.
const EARLIEST_SECOND: u64 = 315_532_800;
/// The last second that Docker sets as the time of a file; it treats a later one as the start of Unix time.
const LATEST_SECOND: u64 = i64::MAX as u64 / 1_000_000_000;
/// Bytes of a name or a link target that fit in a header.
const HEADER_NAME_BYTES: usize = 100;

/// The modification time of a file, as sent: whole seconds, from 1980 on.
fn sent_time(modified: SystemTime) -> u64 {
    let seconds = modified
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    if seconds > LATEST_SECOND {
        EARLIEST_SECOND
    } else {
        seconds.max(EARLIEST_SECOND)
    }
}

/// Bytes of a Dockerfile that are read for what it needs.
const MAX_DOCKERFILE: u64 = 1 << 20;

impl Context {
    /// The Dockerfile; only its first MiB. Blocks.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn dockerfile(&self) -> io::Result<Vec<u8>> {
        let mut text = Vec::new();
        let file = open(&self.project().path.join(DOCKERFILE))?;
        file.take(MAX_DOCKERFILE).read_to_end(&mut text)?;
        Ok(text)
    }

    /// Writes the context as a tar. In the Dockerfile, each of `patches` is in place of the bytes from its offset
    /// on. Files are streamed, never held whole.
    ///
    /// # Errors
    /// [`Error::Changed`] when a file no longer matches its digest; what was written so far is a truncated
    /// tar, which Docker rejects.
    pub fn write_tar(&self, to: impl Write, patches: &[(u64, Vec<u8>)]) -> Result<(), Error> {
        let name = &self.project().name;
        let failed = |error| Error::Read(name.clone(), error);
        let mut tar = tar::Builder::new(to);
        // The first name of each file that has several names.
        let mut first_names: HashMap<(u64, u64), &Entry> = HashMap::new();
        for entry in self.sent() {
            if let Some(inode) = entry.inode {
                let first = *first_names.entry(inode).or_insert(entry);
                if first.path != entry.path && first.is_same_file(entry) {
                    let kind = tar::EntryType::Link;
                    let target = first.path.as_os_str().as_bytes();
                    append(&mut tar, entry, kind, target, io::empty()).map_err(failed)?;
                    continue;
                }
            }
            let (kind, target) = match &entry.content {
                Content::File { .. } => {
                    let is_dockerfile = entry.path == Path::new(DOCKERFILE);
                    let patches = if is_dockerfile { patches } else { &[] };
                    self.append_file(&mut tar, entry, patches)?;
                    continue;
                }
                Content::Directory => (tar::EntryType::Directory, &b""[..]),
                Content::Link(target) => (tar::EntryType::Symlink, target.as_os_str().as_bytes()),
                Content::Fifo => (tar::EntryType::Fifo, &b""[..]),
                Content::Device { is_block, .. } if *is_block => (tar::EntryType::Block, &b""[..]),
                Content::Device { .. } => (tar::EntryType::Char, &b""[..]),
            };
            append(&mut tar, entry, kind, target, io::empty()).map_err(failed)?;
        }
        tar.into_inner()
            .and_then(|mut to| to.flush())
            .map_err(failed)
    }

    fn append_file(
        &self,
        tar: &mut tar::Builder<impl Write>,
        entry: &Entry,
        patches: &[(u64, Vec<u8>)],
    ) -> Result<(), Error> {
        let Content::File { size, digest } = &entry.content else {
            return Ok(());
        };
        let name = &self.project().name;
        let changed = || Error::Changed(name.clone());
        let failed = |error| Error::Read(name.clone(), error);
        let path = self.project().path.join(&entry.path);
        let file = match open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(changed()),
            Err(error) => return Err(failed(at(&path)(error))),
        };
        let mut sent = Hashing::new(file.take(*size));
        let content = Patched {
            from: &mut sent,
            at: 0,
            patches,
        };
        append(tar, entry, tar::EntryType::Regular, b"", content).map_err(failed)?;
        if sent.finish() != (*size, *digest) {
            return Err(changed());
        }
        Ok(())
    }
}

/// Reads a file of which some bytes are replaced.
struct Patched<'a, R> {
    from: R,
    at: u64,
    patches: &'a [(u64, Vec<u8>)],
}

impl<R: Read> Read for Patched<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.from.read(buffer)?;
        for (first, bytes) in self.patches {
            for (byte, at) in bytes.iter().zip(*first..) {
                let place = at
                    .checked_sub(self.at)
                    .and_then(|at| usize::try_from(at).ok());
                if let Some(place) = place.and_then(|at| buffer[..count].get_mut(at)) {
                    *place = *byte;
                }
            }
        }
        self.at += count as u64;
        Ok(count)
    }
}

/// Adds one entry. Names that do not fit in a header are written in front of it, as by Docker's client.
fn append(
    tar: &mut tar::Builder<impl Write>,
    entry: &Entry,
    kind: tar::EntryType,
    target: &[u8],
    content: impl Read,
) -> io::Result<()> {
    let mut path = entry.path.as_os_str().as_bytes().to_vec();
    if kind.is_dir() {
        path.push(b'/');
    }
    let mut extensions: Vec<(&str, &[u8])> = Vec::new();
    if path.len() > HEADER_NAME_BYTES {
        extensions.push(("path", &path));
    }
    if target.len() > HEADER_NAME_BYTES {
        extensions.push(("linkpath", target));
    }
    if let Some(capability) = &entry.capability {
        extensions.push(("SCHILY.xattr.security.capability", capability));
    }
    tar.append_pax_extensions(extensions)?;
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.as_old_mut().name[..path.len().min(HEADER_NAME_BYTES)]
        .copy_from_slice(&path[..path.len().min(HEADER_NAME_BYTES)]);
    header.set_link_name_literal(&target[..target.len().min(HEADER_NAME_BYTES)])?;
    header.set_mode(entry.mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(sent_time(entry.modified));
    header.set_size(match (kind, &entry.content) {
        (tar::EntryType::Regular, Content::File { size, .. }) => *size,
        _ => 0,
    });
    if let Content::Device { major, minor, .. } = entry.content {
        header.set_device_major(major)?;
        header.set_device_minor(minor)?;
    }
    header.set_cksum();
    tar.append(&header, content)
}
