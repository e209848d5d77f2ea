//! `build_info.json`: what it holds, and how it is read and written, atomically.
//!
//! Records that the first mistry wrote are read, too: [`RecordFile::complete`] derives what they lack.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::sync::Arc;

use jiff::Timestamp;
use rustix::fs::AtFlags;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::info::BuildInfo;
use super::layout::RECORD;
use super::replace::{self, Durability};
use crate::api::BuildView;
use crate::job::{Cancelled, JobId, Outcome, Params, State};
use crate::project::ProjectName;

/// The time and log limits of a build, as they were when its container was created.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct BuildLimits {
    /// Most milliseconds that it may run.
    pub job_timeout: Option<u64>,
    /// Most milliseconds without output.
    pub silence_timeout: Option<u64>,
    /// Most bytes of its log; 0 in records without the field.
    pub log_limit: u64,
}

/// The decision to stop a build, recorded before its container is stopped: no later process decides
/// otherwise.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Stopped {
    /// The outcome.
    pub outcome: Outcome,
    /// The reason, in one sentence.
    pub sentence: String,
    /// The cancellation, where it was requested.
    pub cancelled: Option<Cancelled>,
}

/// The daemon's internal part of the record.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Bookkeeping {
    /// All files of the build are on stable storage.
    pub durable: bool,
    /// The boot in which it was written: a build that is not durable and of another boot is absent.
    pub boot: String,
    /// The latest end of its container.
    pub deadline: Option<Timestamp>,
    /// Limits of the build.
    #[serde(rename = "Bounds")]
    pub limits: BuildLimits,
    /// Set when the build is stopped before its end.
    pub stopped: Option<Stopped>,
    /// When its container was started.
    pub running_since: Option<Timestamp>,
    /// The host's uptime at that time, in milliseconds; see [`super::Since`].
    pub running_uptime: Option<i64>,
    /// The host's uptime when the build was started, in milliseconds.
    pub started_uptime: Option<i64>,
    /// The bytes of `out.log` that precede the container's own output.
    pub log_offset: u64,
    /// The container of the last try.
    pub container: Option<String>,
    /// The order of builds that can replace each other: a later one has a larger number; 0 in records without
    /// the field.
    pub number: u64,
    /// The `uid:gid` that owns its files; `None` in records without the field.
    pub user: Option<String>,
    /// Containers that were lost.
    pub lost: u32,
    /// A new image was requested.
    pub rebuild: bool,
    /// Values of opaque params; empty once the build is finished.
    pub opaque: BTreeMap<String, Arc<str>>,
    /// The opaque params whose values are masked in the log.
    pub masked: BTreeSet<String>,
    /// The inode of the file of each opaque param; empty once the build is finished.
    pub opaque_inodes: BTreeMap<String, u64>,
    /// Bytes of all blocks of `data` and the log, once they are on stable storage; `None` where they
    /// could not be counted.
    pub bytes: Option<u64>,
    /// Blocks among them that no other build shared at that time.
    pub own: Option<u64>,
    /// Digest of each file of the context, at most [`MAX_INPUT_FILES`].
    pub files: BTreeMap<String, String>,
    /// Digest of the target of each symbolic link of the context; `None` in records without the field.
    pub links: Option<BTreeMap<String, String>>,
    /// Both lists are stored in `inputs.json`, since they are too long.
    pub has_inputs: bool,
    /// No file that the build or its bases left is newer, as far as clocks tell, including files written
    /// while the clock was ahead. `None` in records without the field.
    pub built_until: Option<Timestamp>,
}

/// Most input files that a record lists, so that it stays small enough to open.
pub const MAX_INPUT_FILES: usize = 2_000;

/// The record of a build.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// The public part.
    pub info: BuildInfo,
    /// The rest.
    pub internal: Bookkeeping,
}

impl Record {
    /// The requested params, including opaque ones; `None` when the record of a previous process lacks them.
    pub fn params(&self) -> Option<Params> {
        let params = self.info.params.iter();
        let params = params.map(|(name, value)| {
            let value = value.as_ref().or_else(|| self.internal.opaque.get(name))?;
            Some((name.parse().ok()?, value.clone()))
        });
        params.collect()
    }

    /// As it is written to disk.
    pub(super) fn to_file(&self) -> RecordFile<&Bookkeeping> {
        RecordFile {
            view: self.info.view(),
            internal: &self.internal,
        }
    }
}

/// The content of `build_info.json`: what clients may see, and what the daemon keeps beside it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RecordFile<I = Bookkeeping> {
    /// The public part.
    #[serde(flatten)]
    pub view: BuildView,
    /// The rest.
    #[serde(rename = "Bookkeeping", default)]
    pub internal: I,
}

impl RecordFile {
    /// The record of the build at a place, which says its project, id, state and the `path` of its artifacts.
    pub(super) fn complete(
        mut self,
        project: &ProjectName,
        id: JobId,
        state: State,
        path: String,
    ) -> Record {
        // Earlier versions recorded it for themselves alone.
        if self.view.container.is_some() && self.internal.running_since.is_some() {
            let offset = self.internal.log_offset;
            self.view.log_runs_from.get_or_insert(offset);
        }
        Record {
            info: BuildInfo::of_view(self.view, project, id, state, path),
            internal: self.internal,
        }
    }
}

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
pub(super) fn read(directory: &Path) -> io::Result<Option<RecordFile>> {
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
/// complete; with [`Durability::OnReturn`] it is the new one.
pub(super) fn write(
    directory: &Path,
    record: &RecordFile<impl Serialize>,
    durability: Durability,
) -> io::Result<()> {
    // A pending record holds opaque values.
    let mode = match record.view.state {
        State::Pending => 0o600,
        State::Ready => 0o640,
    };
    let text = serde_json::to_vec_pretty(record)?;
    replace::replace(&directory.join(RECORD), &text, mode, durability)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_torn_or_foreign_record_counts_as_absent() {
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
    fn where_the_output_of_a_container_begins_is_known_of_earlier_versions_too() {
        let begins = |text: &str| {
            let record: RecordFile = serde_json::from_str(text).unwrap();
            let id = JobId::FIRST;
            let record = record.complete(&"p".parse().unwrap(), id, State::Ready, String::new());
            record.info.log_runs_from
        };
        let ran = r#""LogOffset":7,"RunningSince":"2026-01-02T03:04:05Z""#;
        for (record, expected) in [
            (
                format!(r#"{{"Container":"c","Bookkeeping":{{{ran}}}}}"#),
                Some(7),
            ),
            (
                r#"{"Container":"c","Bookkeeping":{"LogOffset":7}}"#.to_owned(),
                None,
            ),
            (format!(r#"{{"Bookkeeping":{{{ran}}}}}"#), None),
            (
                format!(r#"{{"Container":"c","LogRunsFrom":3,"Bookkeeping":{{{ran}}}}}"#),
                Some(3),
            ),
            ("{}".to_owned(), None),
        ] {
            assert_eq!(begins(&record), expected, "{record}");
        }
    }

    #[test]
    fn a_pending_record_is_readable_by_the_daemon_only() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("build_info.json.new"), "left over").unwrap();
        let record = RecordFile::default();
        write(dir.path(), &record, Durability::OnReturn).unwrap();
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
