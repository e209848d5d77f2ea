//! Finished builds brought to stable storage, and marked as durable.
//!
//! A build is answered before its data is on stable storage; until it is marked it counts as
//! absent after a power cut. Whoever could not mark it (a crash, a full disk) leaves that to the
//! next life: [`BuildStore::scan`] finds it.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::sync::PoisonError;

use super::store::BuildStore;
use super::{Record, State, lease, record};
use crate::faults;

/// Directories that are held open for one sync of the filesystem.
const AT_ONCE: usize = 64;

impl BuildStore {
    /// True when what the record says survived the last power cut, if there was one.
    pub(super) fn survived(&self, record: &Record) -> bool {
        // The first mistry knew nothing of durability; what it left has been there long.
        let boot = &record.keep.boot;
        boot.is_empty() || record.keep.durable || *boot == self.boot
    }

    /// True when a ready build waits for its mark.
    pub(super) fn is_unmarked(&self, record: &Record) -> bool {
        let keep = &record.keep;
        record.info.state == State::Ready && keep.boot == self.boot && !keep.durable
    }

    /// Brings the builds in these directories to stable storage and marks them. One that is gone
    /// or replaced meanwhile is passed over.
    pub(super) fn settle(&self, directories: &[PathBuf]) -> io::Result<()> {
        // Two marks of one record would write beside each other.
        let _one_at_a_time = self.settling.lock().unwrap_or_else(PoisonError::into_inner);
        for some in directories.chunks(AT_ONCE) {
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
            for (directory, mut record) in held {
                record.keep.durable = true;
                match record::write(&through(&directory), &record, true) {
                    // Removed meanwhile.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    other => other?,
                }
            }
        }
        Ok(())
    }
}

/// The path of an open directory, whatever its name is now.
fn through(directory: &File) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", directory.as_raw_fd()))
}
