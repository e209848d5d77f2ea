//! Opaque params on disk, and how they are removed at the end of their build.
//!
//! A build may move or link the file of a secret to anywhere in its data. The process that wrote the files
//! holds the first of them open and empties them by their descriptors. If another process wrote them, or
//! there are more, the data is searched: for a file that has the recorded inode and whose content is the
//! value. The inode alone is not enough, since filesystems reuse it.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Mode, OFlags};

use super::layout;
use super::pending::PendingBuild;
use crate::filesystem::{self, Walk, open_writable};

impl PendingBuild {
    /// Empties the files of opaque params that this process wrote, even if the data that holds them is about
    /// to leave the build: they may have other names by now, and belong to another user.
    ///
    /// # Errors
    /// The first disk error; the other files are emptied all the same.
    pub(super) fn empty_opaque(&mut self) -> io::Result<()> {
        let files = std::mem::take(&mut self.opaque_files);
        if files.is_empty() {
            return Ok(());
        }
        // Opened first: a subvolume that the build made read-only is writable again.
        let _writable = open_writable(rustix::fs::CWD, &self.data());
        let emptied: Vec<_> = files.iter().map(|file| file.set_len(0)).collect();
        emptied.into_iter().collect()
    }

    /// Removes the opaque params from the build's data, wherever their files are by now.
    ///
    /// # Errors
    /// Of the disk.
    pub(super) fn forget_opaque(&mut self) -> io::Result<()> {
        if self.record.internal.opaque.is_empty() {
            return Ok(());
        }
        let are_all_held = self.opaque_files.len() >= self.record.internal.opaque.len();
        self.empty_opaque()?;
        let Some(data) = open_writable(rustix::fs::CWD, &self.data())? else {
            return Ok(());
        };
        // Renamed files are found by inode.
        let mut elsewhere = BTreeMap::new();
        // The container may have replaced its params with anything.
        let params = open_writable(data.as_fd(), Path::new(layout::PARAMS))?;
        for (name, value) in &self.record.internal.opaque {
            let inode = self.record.internal.opaque_inodes.get(name);
            let found = params.as_ref().and_then(|params| {
                rustix::fs::statat(params, name.as_str(), AtFlags::SYMLINK_NOFOLLOW).ok()
            });
            let is_in_place =
                found.is_some_and(|found| Some(&found.st_ino) == inode && found.st_nlink == 1);
            if let Some(inode) = inode
                && !is_in_place
            {
                elsewhere.insert(*inode, value.as_bytes());
            }
            if let Some(params) = &params {
                // A directory that the container made in its place may hold copies of the value.
                filesystem::remove_in(params, name.as_ref())?;
            }
        }
        if are_all_held || elsewhere.is_empty() {
            return Ok(());
        }
        let mut walk = Walk::new(&data)?;
        while let Some(found) = walk.next_entry()? {
            if let Some(value) = elsewhere.get(&found.stat.st_ino)
                && found.kind() == FileType::RegularFile
            {
                empty(&found, value)?;
            }
        }
        Ok(())
    }
}

/// Empties a file whose content is `value`.
fn empty(found: &filesystem::Found<'_>, value: &[u8]) -> io::Result<()> {
    if u64::try_from(found.stat.st_size) != Ok(value.len() as u64) {
        return Ok(());
    }
    let file = found.open()?;
    let mut content = Vec::with_capacity(value.len());
    (&file)
        .take(value.len() as u64 + 1)
        .read_to_end(&mut content)?;
    if content != value {
        return Ok(());
    }
    // The build may have removed write permission.
    rustix::fs::fchmod(&file, Mode::RUSR | Mode::WUSR)?;
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    let flags = OFlags::WRONLY | OFlags::CLOEXEC;
    let writable = rustix::fs::open(path, flags, Mode::empty())?;
    rustix::fs::ftruncate(writable, 0)?;
    Ok(())
}
