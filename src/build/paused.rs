//! The mark that the queue is paused: an empty file, `.mistry/paused`.
//!
//! It outlives the daemon, is visible to `ls`, and is on stable storage before it takes effect. The scheduler
//! defines what pausing means, and makes sure that only one task creates or removes the mark at a time.

use std::fs::File;
use std::io;

use super::error::{Error, disk_error};
use super::store::BuildStore;

impl BuildStore {
    /// True when the queue is marked as paused. An error counts as yes: a paused queue is noticed and
    /// resumed, a queue that runs in the middle of maintenance is not.
    pub fn is_marked_paused(&self) -> bool {
        !matches!(self.layout.paused().symlink_metadata(),
            Err(error) if error.kind() == io::ErrorKind::NotFound)
    }

    /// Marks the queue as paused; on return the mark is on stable storage. Repeating it is no error.
    ///
    /// # Errors
    /// When it cannot be written; the mark is then as it was before.
    pub fn mark_paused(&self) -> Result<(), Error> {
        let path = self.layout.paused();
        let mark = disk_error("write down that the queue is paused", &path);
        let made = match File::options().write(true).create_new(true).open(&path) {
            Ok(file) => Some(file),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => None,
            Err(error) => return Err(mark(error)),
        };
        let synced = made.as_ref().map_or(Ok(()), File::sync_all);
        let synced = synced.and_then(|()| self.sync_daemon_directory());
        if synced.is_err() && made.is_some() {
            // A later process must not find a mark that was not confirmed. If the disk refuses even this, the
            // next request reports it.
            let _ = std::fs::remove_file(&path);
        }
        synced.map_err(mark)
    }

    /// Removes the mark; on return that is on stable storage. A missing mark is no error, and a removal by an
    /// earlier attempt is made durable.
    ///
    /// # Errors
    /// When a system call fails.
    pub fn unmark_paused(&self) -> Result<(), Error> {
        let path = self.layout.paused();
        let unmark = disk_error("write down that the queue is not paused any more", &path);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(unmark(error)),
            _ => self.sync_daemon_directory().map_err(unmark),
        }
    }

    fn sync_daemon_directory(&self) -> io::Result<()> {
        File::open(self.layout.daemon_directory())?.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::filesystem::Filesystem;

    #[test]
    fn the_mark_stays_over_restarts_until_it_is_removed() {
        let home = tempfile::tempdir().unwrap();
        let open = || BuildStore::open(home.path(), Filesystem::Plain).unwrap();
        let store = open();
        assert!(!store.is_marked_paused());
        store.unmark_paused().unwrap();
        store.mark_paused().unwrap();
        store.mark_paused().unwrap();
        drop(store);
        let store = open();
        assert!(store.is_marked_paused());
        store.unmark_paused().unwrap();
        assert!(!store.is_marked_paused());
        drop(store);
        assert!(!open().is_marked_paused());
    }

    #[test]
    fn a_mark_that_cannot_be_written_is_an_error_and_leaves_no_file() {
        let home = tempfile::tempdir().unwrap();
        let store = BuildStore::open(home.path(), Filesystem::Plain).unwrap();
        let (own, away) = (store.layout.daemon_directory(), home.path().join("away"));
        std::fs::rename(&own, &away).unwrap();
        let error = store.mark_paused().unwrap_err();
        assert_eq!(
            error.to_string(),
            "could not write down that the queue is paused"
        );
        assert!(store.unmark_paused().is_err());
        std::fs::rename(&away, &own).unwrap();
        assert!(!store.is_marked_paused());
    }
}
