//! Finished builds are synced to stable storage, measured, and marked as durable.
//!
//! A build is answered before its data is on stable storage; until it is marked it counts as absent after a
//! power cut. If marking failed (a crash, a full disk), the next process does it: [`BuildStore::scan`] finds
//! the build.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::FileType;

use super::replace::Durability;
use super::store::BuildStore;
use super::{Bookkeeping, RecordFile, layout, lease, record};
use crate::api::ArtifactTotals;
use crate::faults;
use crate::filesystem::{self, Links, Usage, Walk};
use crate::job::State;

/// Directories that are held open for one sync of the filesystem.
const DIRECTORIES_PER_SYNC: usize = 64;

impl BuildStore {
    /// True when the build of this record survived the last power cut, if there was one.
    pub(super) fn survived(&self, record: &Bookkeeping) -> bool {
        self.lasts(&record.boot, record.durable)
    }

    /// The same for these fields of a record.
    pub(super) fn lasts(&self, boot: &str, durable: bool) -> bool {
        // The first mistry did not record durability; its builds were written long ago.
        boot.is_empty() || durable || boot == self.boot
    }

    /// True when a ready build is not marked yet.
    pub(super) fn is_unmarked(&self, record: &RecordFile) -> bool {
        let internal = &record.internal;
        record.view.state == State::Ready && internal.boot == self.boot && !internal.durable
    }

    /// Syncs the builds in these directories to stable storage, measures their disk usage, and marks them. A
    /// build that is removed or replaced meanwhile is skipped.
    pub(super) fn make_durable(&self, directories: &[PathBuf]) -> io::Result<()> {
        for some in directories.chunks(DIRECTORIES_PER_SYNC) {
            let mut held = Vec::new();
            for directory in some {
                // Held open, so that a build that takes its name meanwhile is never changed.
                if let Some(directory) = lease::open(directory)?
                    && let Some(record) = record::read(&through(&directory))?
                    && self.is_unmarked(&record)
                {
                    held.push((directory, record));
                }
            }
            if let Some((directory, _)) = held.first() {
                rustix::fs::syncfs(directory)?;
                faults::point("synced");
            }
            for (directory, record) in held {
                let usage = self.measure(&directory, &record);
                self.mark(&directory, usage, count_artifacts(&directory).ok())?;
            }
        }
        Ok(())
    }

    fn mark(
        &self,
        directory: &File,
        usage: Option<Usage>,
        artifacts: Option<ArtifactTotals>,
    ) -> io::Result<()> {
        // Two concurrent marks of one record would conflict.
        let _one_at_a_time = self.marking.lock();
        let path = through(directory);
        let record = record::read(&path)?.filter(|record| self.is_unmarked(record));
        let Some(mut record) = record else {
            return Ok(());
        };
        record.internal.durable = true;
        record.internal.bytes = usage.map(|usage| usage.bytes);
        record.internal.own = usage.map(|usage| usage.own);
        record.view.artifacts = artifacts;
        match record::write(&path, &record, Durability::OnReturn) {
            // Removed meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
            Ok(()) => {
                let names = (record.view.project.parse(), record.view.id.parse());
                if let (Ok(project), Ok(id), Some(own)) = (names.0, names.1, record.internal.own) {
                    self.index.weigh(&project, id, own);
                }
                Ok(())
            }
        }
    }

    /// The disk usage of a build, with its log; `None` if it cannot be measured, which is no failure.
    fn measure(&self, directory: &File, record: &RecordFile) -> Option<Usage> {
        let cloned = record.view.base.as_ref();
        let cloned = cloned.map(|_| record.view.started_at.as_second());
        let path = through(directory);
        let mut usage = match self.filesystem.usage(&path.join(layout::DATA), cloned) {
            Ok(usage) => usage,
            // It was discarded because the disk was full.
            Err(error) if error.io()?.kind() == io::ErrorKind::NotFound => Usage::default(),
            Err(_) => return None,
        };
        if let Ok(log) = path.join(layout::LOG).symlink_metadata() {
            usage.bytes += log.blocks() * 512;
            usage.own += log.blocks() * 512;
        }
        Some(usage)
    }
}

/// Counts what clients can fetch of the build in an open directory.
fn count_artifacts(directory: &File) -> io::Result<ArtifactTotals> {
    let path = Path::new(layout::DATA).join(layout::ARTIFACTS);
    let mut totals = ArtifactTotals::default();
    let Some(root) = filesystem::locate(directory, &path, Links::Refused)? else {
        return Ok(totals);
    };
    let mut walk = Walk::new(root)?;
    while let Some(found) = walk.next_entry()? {
        match found.kind() {
            FileType::RegularFile => {
                totals.files += 1;
                let bytes = u64::try_from(found.stat.st_size).unwrap_or(0);
                totals.bytes = totals.bytes.saturating_add(bytes);
            }
            FileType::Symlink => totals.files += 1,
            _ => {}
        }
    }
    Ok(totals)
}

/// The path of an open directory, whatever its name is now.
pub(super) fn through(directory: &File) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", directory.as_raw_fd()))
}
