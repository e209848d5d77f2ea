//! Reads and writes `build_info.json`: atomically.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::BorrowedFd;
use std::path::Path;

use rustix::fs::AtFlags;
use serde::de::DeserializeOwned;

use super::Record;
use super::layout::RECORD;
use super::replace::{self, Durability};
use crate::job::State;

/// A larger record was not written by mistry: params are bounded by the size of a request (16 MiB), which
/// JSON escapes at most sixfold.
const MAX_RECORD_BYTES: u64 = 128 << 20;

/// Distinguishes a record from another that replaced it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Stamp {
    device: u64,
    inode: u64,
    pub(super) size: u64,
    changed: (i64, i64),
}

/// The stamp of the record in the directory at `path` beneath `at`; `None` when there is none.
pub(super) fn stamp(at: BorrowedFd<'_>, path: &Path) -> io::Result<Option<Stamp>> {
    use rustix::io::Errno;
    match rustix::fs::statat(at, path.join(RECORD), AtFlags::SYMLINK_NOFOLLOW) {
        Ok(found) => Ok(Some(Stamp {
            device: found.st_dev,
            inode: found.st_ino,
            size: u64::try_from(found.st_size).unwrap_or(0),
            changed: (
                found.st_ctime,
                i64::try_from(found.st_ctime_nsec).unwrap_or(0),
            ),
        })),
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Reads the record in `directory`; `None` when there is none that can be parsed.
pub(super) fn read(directory: &Path) -> io::Result<Option<Record>> {
    read_as(directory)
}

/// Reads the fields of `T` from the record in `directory`; `None` when there is none that can be parsed.
pub(super) fn read_as<T: DeserializeOwned>(directory: &Path) -> io::Result<Option<T>> {
    let Some(file) = open_regular(&directory.join(RECORD))? else {
        return Ok(None);
    };
    let mut text = Vec::new();
    file.take(MAX_RECORD_BYTES).read_to_end(&mut text)?;
    // Incomplete, foreign or too large: it counts as absent, and never blocks other builds.
    Ok(serde_json::from_slice(&text).ok())
}

/// Opens a regular file; `None` where there is none, or a link, directory or the like.
pub(super) fn open_regular(path: &Path) -> io::Result<Option<File>> {
    use rustix::fs::{Mode, OFlags};
    use rustix::io::Errno;
    // Non-blocking, because opening a FIFO that was left here would block forever.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(file) => File::from(file),
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::NXIO) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    Ok(file.metadata()?.is_file().then_some(file))
}

/// Replaces the record in `directory`. After a power cut either the old record or the new one exists,
/// complete. With `sync` it is the new one: it is on stable storage on return.
pub(super) fn write(directory: &Path, record: &Record, sync: bool) -> io::Result<()> {
    // A pending record holds opaque values.
    let mode = match record.info.state {
        State::Pending => 0o600,
        State::Ready => 0o640,
    };
    let text = serde_json::to_vec_pretty(record)?;
    let durability = match sync {
        true => Durability::OnReturn,
        false => Durability::Whole,
    };
    replace::replace(&directory.join(RECORD), &text, mode, durability)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_torn_or_foreign_record_is_as_good_as_absent() {
        let dir = tempfile::tempdir().unwrap();
        assert!(read(dir.path()).unwrap().is_none());
        for text in ["", "{", "[]", "{\"ExitCode\":\"x\"}", "\0\0"] {
            std::fs::write(dir.path().join(RECORD), text).unwrap();
            assert!(read(dir.path()).unwrap().is_none(), "{text}");
        }
        std::fs::remove_file(dir.path().join(RECORD)).unwrap();
        std::fs::create_dir(dir.path().join(RECORD)).unwrap();
        assert!(read(dir.path()).unwrap().is_none());
        std::fs::remove_dir(dir.path().join(RECORD)).unwrap();
        std::os::unix::fs::symlink(RECORD, dir.path().join(RECORD)).unwrap();
        assert!(read(dir.path()).unwrap().is_none());
    }

    #[test]
    fn a_pending_record_is_for_the_daemon_alone() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("build_info.json.new"), "left over").unwrap();
        let record = Record::default();
        write(dir.path(), &record, true).unwrap();
        assert_eq!(read(dir.path()).unwrap().unwrap(), record);
        let mode = dir
            .path()
            .join(RECORD)
            .metadata()
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}
