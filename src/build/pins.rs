//! Pins: builds that garbage collection keeps, whatever its rules are.
//!
//! A pin is an empty file under `.mistry/pins`, so it outlives the daemon and is visible to `ls`. The next
//! collection removes a pin whose build is gone.

use std::collections::HashSet;
use std::fs::File;
use std::io;

use super::disk::make_directories;
use super::error::{Error, disk_error};
use super::store::BuildStore;
use crate::job::{JobId, State};
use crate::project::ProjectName;

impl BuildStore {
    /// Pins an existing build, pending or finished; false when there is none. Pinning twice is no error. On
    /// return the pin is on stable storage.
    ///
    /// # Errors
    /// When a system call fails.
    pub fn pin(&self, project: &ProjectName, id: JobId) -> Result<bool, Error> {
        // Excludes the time between the last check of a collection and the removal.
        let _one_at_a_time = self.changing.lock();
        if self.find(project, id)?.is_none() {
            return Ok(false);
        }
        let path = self.layout.pin(project, id);
        let pin = disk_error("pin the build", &path);
        make_directories(&self.layout.pins()).map_err(&pin)?;
        File::options()
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(&pin)?;
        self.sync_pins().map_err(&pin)?;
        self.index.pin(project, id);
        Ok(true)
    }

    /// Unpins a build; true when it was pinned.
    ///
    /// # Errors
    /// When a system call fails.
    pub fn unpin(&self, project: &ProjectName, id: JobId) -> Result<bool, Error> {
        // The disk and the index change together.
        let _one_at_a_time = self.changing.lock();
        self.remove_pin(project, id)
    }

    /// The caller holds `changing`.
    fn remove_pin(&self, project: &ProjectName, id: JobId) -> Result<bool, Error> {
        let path = self.layout.pin(project, id);
        let unpin = disk_error("let go of the build", &path);
        match std::fs::remove_file(&path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(unpin(error)),
        }
        self.index.unpin(project, id);
        self.sync_pins().map_err(&unpin)?;
        Ok(true)
    }

    /// True when a build is pinned.
    pub fn is_pinned(&self, project: &ProjectName, id: JobId) -> bool {
        self.layout.pin(project, id).symlink_metadata().is_ok()
    }

    /// Enters all pins into the index.
    ///
    /// # Errors
    /// When they cannot be listed.
    pub(super) fn scan_pins(&self) -> Result<(), Error> {
        let _one_at_a_time = self.changing.lock();
        for (project, id) in self.pins()? {
            self.index.pin(&project, id);
        }
        Ok(())
    }

    /// Every pin; foreign names among them are skipped.
    pub(super) fn pins(&self) -> Result<HashSet<(ProjectName, JobId)>, Error> {
        let pins = self.layout.pins();
        let list = disk_error("list the pins", &pins);
        let entries = match std::fs::read_dir(&pins) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(HashSet::new()),
            Err(error) => return Err(list(error)),
        };
        let mut pins = HashSet::new();
        for entry in entries {
            let name = entry.map_err(&list)?.file_name();
            pins.extend(name.to_str().and_then(super::layout::named));
        }
        Ok(pins)
    }

    /// Removes the pins of builds that are gone.
    ///
    /// # Errors
    /// The first error.
    pub(super) fn forget_idle_pins(&self) -> Result<(), Error> {
        let _one_at_a_time = self.changing.lock();
        let mut is_changed = false;
        for (project, id) in self.pins()? {
            let places = [
                self.layout.builds(&project, State::Pending),
                self.layout.builds(&project, State::Ready),
                self.layout.all_failed(&project),
            ];
            let is_there = |place: &std::path::PathBuf| {
                // A build that cannot be checked may exist.
                !matches!(place.join(id.to_string()).symlink_metadata(),
                    Err(error) if error.kind() == io::ErrorKind::NotFound)
            };
            if !places.iter().any(is_there) {
                is_changed |= self.remove_pin(&project, id)?;
            }
        }
        if is_changed {
            self.sync_pins()
                .map_err(disk_error("forget old pins", &self.layout.pins()))?;
        }
        Ok(())
    }

    fn sync_pins(&self) -> io::Result<()> {
        File::open(self.layout.pins())?.sync_all()?;
        // The directory itself may have been created just now.
        File::open(self.layout.daemon_directory())?.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use super::super::RecordFile;
    use super::super::record;
    use super::super::replace::Durability;
    use super::*;
    use crate::filesystem::Filesystem;

    /// Enough to be seen nearly always.
    const ROUNDS: usize = 50;

    #[test]
    fn the_index_shows_a_build_as_pinned_exactly_if_it_is() {
        let home = tempfile::tempdir().unwrap();
        let store = BuildStore::open(home.path(), Filesystem::Plain).unwrap();
        let (project, id): (ProjectName, JobId) =
            ("p".parse().unwrap(), "1".repeat(64).parse().unwrap());
        let ready = store.layout.ready(&project, id);
        std::fs::create_dir_all(&ready).unwrap();
        let mut built = <RecordFile>::default();
        built.view.state = State::Ready;
        record::write(&ready, &built, Durability::OnReturn).unwrap();
        store.scan().unwrap();
        for round in 0..ROUNDS {
            std::thread::scope(|threads| {
                threads.spawn(|| store.pin(&project, id).unwrap());
                threads.spawn(|| store.scan_pins().unwrap());
                threads.spawn(|| store.unpin(&project, id).unwrap());
            });
            let known = store.index.find(&project, id).unwrap();
            assert_eq!(known.is_pinned, store.is_pinned(&project, id), "{round}");
        }
    }
}
