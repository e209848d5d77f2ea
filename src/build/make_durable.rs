//! Finished builds brought to stable storage, measured, and marked as durable.
//!
//! A build is answered before its data is on stable storage; until it is marked it counts as
//! absent after a power cut. Where it could not be marked (a crash, a full disk), that is left to the
//! next process: [`BuildStore::scan`] finds it.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use super::store::BuildStore;
use super::{Record, State, layout, lease, record};
use crate::faults;
use crate::filesystem::Usage;

/// Directories that are held open for one sync of the filesystem.
const DIRECTORIES_PER_SYNC: usize = 64;

impl BuildStore {
    /// True when what the record says survived the last power cut, if there was one.
    pub(super) fn survived(&self, record: &Record) -> bool {
        self.lasts(&record.internal.boot, record.internal.durable)
    }

    /// The same of what a record says of it.
    pub(super) fn lasts(&self, boot: &str, durable: bool) -> bool {
        // The first mistry knew nothing of durability; what it left has been there long.
        boot.is_empty() || durable || boot == self.boot
    }

    /// True when a ready build waits for its mark.
    pub(super) fn is_unmarked(&self, record: &Record) -> bool {
        let internal = &record.internal;
        record.info.state == State::Ready && internal.boot == self.boot && !internal.durable
    }

    /// Brings the builds in these directories to stable storage, measures what they take, and marks
    /// them. One that is gone or replaced meanwhile is passed over.
    pub(super) fn make_durable(&self, directories: &[PathBuf]) -> io::Result<()> {
        for some in directories.chunks(DIRECTORIES_PER_SYNC) {
            let mut held = Vec::new();
            for directory in some {
                // Held open, so that what takes its name meanwhile is never touched.
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
                self.mark(&directory, usage)?;
            }
        }
        Ok(())
    }

    fn mark(&self, directory: &File, usage: Option<Usage>) -> io::Result<()> {
        // Two marks of one record would write beside each other.
        let _one_at_a_time = self.marking.lock();
        let path = through(directory);
        let record = record::read(&path)?.filter(|record| self.is_unmarked(record));
        let Some(mut record) = record else {
            return Ok(());
        };
        record.internal.durable = true;
        record.internal.bytes = usage.map(|usage| usage.bytes);
        record.internal.own = usage.map(|usage| usage.own);
        match record::write(&path, &record, true) {
            // Removed meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
            Ok(()) => {
                let names = (record.info.project.parse(), record.info.id.parse());
                if let (Ok(project), Ok(id), Some(own)) = (names.0, names.1, record.internal.own) {
                    self.index.weigh(&project, id, own);
                }
                Ok(())
            }
        }
    }

    /// What a build takes, its log included; `None` where that cannot be told, which is no
    /// failure.
    fn measure(&self, directory: &File, record: &Record) -> Option<Usage> {
        let cloned = record.info.base.as_ref();
        let cloned = cloned.map(|_| record.info.started_at.as_second());
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

/// The path of an open directory, whatever its name is now.
pub(super) fn through(directory: &File) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", directory.as_raw_fd()))
}
