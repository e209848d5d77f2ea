//! Transport local: from this host's own disk, by the path that the server names, or over the bus as
//! the directory that it hands out.
//!
//! By the path it may use only what whoever runs the client may read. Files share their blocks with the
//! build where the file system can do that. Links in the build are never followed; pipes,
//! sockets and devices are left where they are.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};

use rustix::fs::OFlags;
use tokio_util::sync::CancellationToken;

use super::target::{Modified, Target};
use super::{Error, Fetched, Transport, blocking};
use crate::build::BuildInfo;
use crate::cli::progress::Progress;
use crate::client::{self, bus::Artifacts};

/// What becomes of the files that are found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum How {
    /// They stay where they are.
    Copy,
    /// They are ours and move.
    Take,
}

pub(super) async fn fetch(
    path: String,
    transport: &Transport,
    gone: CancellationToken,
) -> Result<Fetched, Error> {
    let transport = transport.clone();
    blocking(move || {
        if !path.starts_with('/') {
            let what = "the server names no absolute path of the artifacts";
            return Err(Error::Unusable(what.to_owned()));
        }
        let from = PathBuf::from(path);
        // A link in its place was put there by the build.
        let found = std::fs::symlink_metadata(&from).map_err(|error| unreadable(&from, error))?;
        if !found.is_dir() || from.components().any(|part| part == Component::ParentDir) {
            let what = "what the server names as the artifacts is no directory";
            return Err(Error::Unusable(what.to_owned()));
        }
        bring(&from, &transport, gone)
    })
    .await
}

/// The same from a directory that the server has opened.
pub(super) async fn fetch_opened(
    opened: Artifacts,
    info: &BuildInfo,
    transport: &Transport,
    gone: CancellationToken,
) -> Result<Fetched, Error> {
    let directory = match opened {
        Artifacts::Directory(directory) => directory,
        // Then the target is left as it is, too.
        Artifacts::None(_) if info.succeeded() => return Ok(Fetched { files: Some(0) }),
        Artifacts::None(no) => return Err(client::Error::Refused(no).into()),
    };
    let shown = PathBuf::from(&info.path);
    let transport = transport.clone();
    blocking(move || {
        // What is in there has no other name in our own view of the file system.
        let from = PathBuf::from(format!("/proc/self/fd/{}", directory.as_raw_fd()));
        bring(&from, &transport, gone).map_err(|error| match error {
            Error::Read(path, source) => {
                let inner = Path::new(&path).strip_prefix(&from).map(Path::to_owned);
                let path = inner.map_or(path, |inner| shown.join(inner).display().to_string());
                Error::Read(path, source)
            }
            other => other,
        })
    })
    .await
}

fn bring(from: &Path, transport: &Transport, gone: CancellationToken) -> Result<Fetched, Error> {
    // Before the target is touched.
    std::fs::read_dir(from).map_err(|error| unreadable(from, error))?;
    let progress = Progress::fetching();
    let mut target = transport.open_target(progress.clone(), gone)?;
    let walked = walk(from, &mut target, How::Copy);
    progress.done();
    walked?;
    Ok(Fetched {
        files: Some(target.files()),
    })
}

/// Brings everything below `root` into the target.
pub(super) fn walk(root: &Path, target: &mut Target, how: How) -> Result<(), Error> {
    // A stack of our own: a deep tree must not overflow the thread's.
    let mut open = vec![(
        PathBuf::new(),
        std::fs::read_dir(root).map_err(|error| unreadable(root, error))?,
    )];
    while let Some((directory, entries)) = open.last_mut() {
        let Some(entry) = entries.next() else {
            open.pop();
            continue;
        };
        let from = root.join(&*directory);
        let entry = entry.map_err(|error| unreadable(&from, error))?;
        let path = directory.join(entry.file_name());
        let from = entry.path();
        let fail = |error| unreadable(&from, error);
        let found = from.symlink_metadata().map_err(fail)?;
        if found.is_dir() {
            target.directory(&path, found.mode(), modified(&found))?;
            let inner = std::fs::read_dir(&from).map_err(fail)?;
            open.push((path, inner));
        } else if found.is_symlink() {
            let to = std::fs::read_link(&from).map_err(fail)?;
            target.symlink(&path, to.as_os_str(), modified(&found))?;
        } else if found.is_file() && how == How::Take {
            if found.mode() & 0o7000 != 0 {
                let plain = std::fs::Permissions::from_mode(found.mode() & 0o777);
                std::fs::set_permissions(&from, plain).map_err(fail)?;
            }
            target.take(&path, &from)?;
        } else if found.is_file() {
            copy(&from, &path, target)?;
        }
    }
    target.settle(None)
}

fn copy(from: &Path, path: &Path, target: &mut Target) -> Result<(), Error> {
    let fail = |error| unreadable(from, error);
    // It may have become a link or a pipe since it was looked at.
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let source = File::options()
        .read(true)
        .custom_flags(flags.bits().cast_signed())
        .open(from)
        .map_err(fail)?;
    let found = source.metadata().map_err(fail)?;
    if !found.is_file() {
        return Ok(());
    }
    let mut draft = target.begin(path, found.mode())?;
    draft
        .copy(&source)
        .map_err(|error| Error::Write(path.display().to_string(), error))?;
    target.keep(path, draft, modified(&found))
}

fn modified(found: &std::fs::Metadata) -> Modified {
    Modified {
        seconds: found.mtime(),
        nanos: u32::try_from(found.mtime_nsec()).unwrap_or(0),
    }
}

fn unreadable(path: &Path, error: io::Error) -> Error {
    Error::Read(path.display().to_string(), error)
}
