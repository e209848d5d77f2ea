//! A build's artifacts: the tar of all, and single files.
//!
//! What a container wrote is hostile. Every name is opened beneath the artifacts directory by
//! the kernel's own rule (`openat2`), nothing but regular files is read, setuid bits are not
//! passed on, and FIFOs, sockets and devices are left out. Links are passed on as links in
//! the tar; for a single file they are followed only inside the artifacts.
//!
//! A shared lock on the build's directory keeps it from being removed while it is read. What is
//! handed out has no such lock: it is a stranger's, who may hold it forever.

use std::collections::HashMap;
use std::ffi::{CString, OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags};

use super::directory::{self, Entries, Entry};
use super::layout;
use super::lease::Lease;
use crate::filesystem;

/// A build's artifacts, held open.
#[derive(Debug)]
pub struct Artifacts {
    /// `None`: the build left none, or put something else in their place.
    root: Option<OwnedFd>,
    _lease: Lease,
}

/// What a path among the artifacts is.
#[derive(Debug)]
pub enum Found {
    /// A regular file and its metadata.
    File(File, std::fs::Metadata),
    /// A directory and what is in it.
    Directory(Entries),
}

impl Artifacts {
    /// Opens the artifacts of the build in `lease`.
    pub(super) fn open(lease: Lease) -> io::Result<Artifacts> {
        let path = Path::new(layout::DATA).join(layout::ARTIFACTS);
        let root = match rustix::fs::openat2(
            lease.directory(),
            &path,
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
            ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS,
        ) {
            Ok(root) => Some(root),
            Err(error) if is_absent(error) => None,
            Err(error) => return Err(error.into()),
        };
        Ok(Artifacts {
            root,
            _lease: lease,
        })
    }

    /// Finds one file or directory; links are followed inside the artifacts only. `None` is
    /// anything else: absent, outside, or neither file nor directory.
    ///
    /// # Errors
    /// When the host's disk or a permission is in the way.
    pub fn find(&self, path: &Path) -> io::Result<Option<Found>> {
        let Some(root) = &self.root else {
            return Ok(path
                .as_os_str()
                .is_empty()
                .then(|| Found::Directory(Entries::default())));
        };
        let path = if path.as_os_str().is_empty() {
            Path::new(".")
        } else {
            path
        };
        // First a handle that opens nothing: a FIFO or device must not be opened to be known.
        let handle = match rustix::fs::openat2(
            root,
            path,
            OFlags::PATH | OFlags::CLOEXEC,
            Mode::empty(),
            ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS,
        ) {
            Ok(handle) => handle,
            Err(error) if is_absent(error) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        match FileType::from_raw_mode(rustix::fs::fstat(&handle)?.st_mode) {
            FileType::RegularFile => {
                let file = reopen(&handle, OFlags::RDONLY)?;
                let metadata = file.metadata()?;
                Ok(Some(Found::File(file, metadata)))
            }
            FileType::Directory => {
                let directory = reopen(&handle, OFlags::RDONLY | OFlags::DIRECTORY)?;
                directory::list(directory.as_fd()).map(|listing| Some(Found::Directory(listing)))
            }
            _ => Ok(None),
        }
    }

    /// A descriptor for strangers that leads to the artifacts and nowhere else, made by a child that
    /// runs `program`; `None` where there are none. `path` is for messages.
    pub(super) fn hand_out(
        &self,
        program: &Path,
        path: &Path,
    ) -> Result<Option<OwnedFd>, filesystem::Error> {
        let root = self.root.as_ref().map(AsFd::as_fd);
        root.map(|root| filesystem::hand_out(program, root, path))
            .transpose()
    }

    /// Writes all artifacts as a tar, names relative to the artifacts directory.
    ///
    /// # Errors
    /// When a file cannot be read, or changed its size meanwhile; the tar is torn then.
    pub fn write_tar(&self, to: impl Write) -> io::Result<()> {
        let mut tar = tar::Builder::new(to);
        // Hard links by device and inode; only files that have more than one name are kept.
        let mut seen: HashMap<(u64, u64), PathBuf> = HashMap::new();
        let mut pending: Vec<PathBuf> = Vec::new();
        if self.root.is_some() {
            pending.push(PathBuf::new());
        }
        while let Some(path) = pending.pop() {
            let Some(directory) = self.directory(&path)? else {
                continue;
            };
            for (name, is_directory) in names(directory.as_fd())? {
                let path = path.join(&name);
                if is_directory {
                    let found = File::from(rustix::fs::openat(
                        &directory,
                        name.as_os_str(),
                        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
                        Mode::empty(),
                    )?)
                    .metadata()?;
                    let mut header = header(tar::EntryType::Directory, &found);
                    tar.append_data(&mut header, &path, io::empty())?;
                    pending.push(path);
                } else {
                    append(&mut tar, &directory, &name, path, &mut seen)?;
                }
            }
        }
        tar.into_inner()?.flush()
    }

    /// Tells `each` of all artifacts, in the order of the tar: a path below the artifacts, and what is
    /// there. Special files are among them, although nobody is given any.
    ///
    /// # Errors
    /// When a directory cannot be read, and what `each` returns.
    pub fn walk(&self, mut each: impl FnMut(&Path, &Entry) -> io::Result<()>) -> io::Result<()> {
        let mut pending = vec![PathBuf::new()];
        while let Some(path) = pending.pop() {
            let Some(directory) = self.directory(&path)? else {
                continue;
            };
            for (name, is_directory) in names(directory.as_fd())? {
                let path = path.join(&name);
                if let Some(entry) = directory::item(directory.as_fd(), name)? {
                    each(&path, &entry)?;
                }
                if is_directory {
                    pending.push(path);
                }
            }
        }
        Ok(())
    }

    /// Opens a directory for listing without following any link on the way.
    fn directory(&self, path: &Path) -> io::Result<Option<File>> {
        let Some(root) = &self.root else {
            return Ok(None);
        };
        let path = if path.as_os_str().is_empty() {
            Path::new(".")
        } else {
            path
        };
        let directory = rustix::fs::openat2(
            root,
            path,
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
            ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS,
        )?;
        Ok(Some(File::from(directory)))
    }
}

/// Appends what is no directory, if it is a regular file or a link.
fn append<W: Write>(
    tar: &mut tar::Builder<W>,
    directory: &File,
    name: &OsStr,
    path: PathBuf,
    seen: &mut HashMap<(u64, u64), PathBuf>,
) -> io::Result<()> {
    let found = rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)?;
    match FileType::from_raw_mode(found.st_mode) {
        FileType::Symlink => {
            let target: CString = rustix::fs::readlinkat(directory, name, Vec::new())?;
            let target = OsString::from_vec(target.into_bytes());
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(tar::EntryType::Symlink);
            header.set_size(0);
            header.set_mode(0o777);
            header.set_mtime(u64::try_from(found.st_mtime).unwrap_or(0));
            tar.append_link(&mut header, &path, &target)
        }
        FileType::RegularFile => {
            let file = File::from(rustix::fs::openat(
                directory,
                name,
                OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC,
                Mode::empty(),
            )?);
            let found = file.metadata()?;
            if !found.is_file() {
                return Ok(());
            }
            if found.nlink() > 1 {
                let first = seen.entry((found.dev(), found.ino()));
                if let std::collections::hash_map::Entry::Occupied(first) = first {
                    let mut header = header(tar::EntryType::Link, &found);
                    header.set_size(0);
                    return tar.append_link(&mut header, &path, first.get());
                }
                first.or_insert_with(|| path.clone());
            }
            let mut header = header(tar::EntryType::Regular, &found);
            header.set_size(found.len());
            let mut content = file.take(found.len());
            tar.append_data(&mut header, &path, &mut content)?;
            if content.limit() > 0 {
                return Err(io::Error::other(
                    "an artifact became shorter while it was read",
                ));
            }
            Ok(())
        }
        // FIFOs, sockets and devices are no artifacts.
        _ => Ok(()),
    }
}

/// Owner 0 and no setuid, setgid or sticky bit: neither means anything at the other end.
fn header(kind: tar::EntryType, found: &std::fs::Metadata) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_size(0);
    header.set_mode(found.mode() & 0o777);
    header.set_mtime(u64::try_from(found.mtime()).unwrap_or(0));
    header
}

/// Every name in `directory` in the order of their bytes, and whether it is a directory.
fn names(directory: BorrowedFd<'_>) -> io::Result<Vec<(OsString, bool)>> {
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::read_from(directory)? {
        let entry = entry?;
        let name = OsStr::from_bytes(entry.file_name().to_bytes());
        if name == "." || name == ".." {
            continue;
        }
        let found = match rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(found) => found,
            Err(rustix::io::Errno::NOENT) => continue,
            Err(error) => return Err(error.into()),
        };
        let kind = FileType::from_raw_mode(found.st_mode);
        names.push((name.to_owned(), kind == FileType::Directory));
    }
    names.sort_unstable();
    Ok(names)
}

/// Turns a handle into a file that can be read, without looking its name up again.
fn reopen(handle: &OwnedFd, flags: OFlags) -> io::Result<File> {
    use std::os::fd::AsRawFd;
    let path = format!("/proc/self/fd/{}", handle.as_raw_fd());
    Ok(File::from(rustix::fs::open(
        path,
        flags | OFlags::CLOEXEC,
        Mode::empty(),
    )?))
}

/// Not there, not below here, not what it was taken for: all the same to a stranger.
fn is_absent(error: rustix::io::Errno) -> bool {
    use rustix::io::Errno;
    matches!(
        error,
        Errno::NOENT
            | Errno::NOTDIR
            | Errno::XDEV
            | Errno::LOOP
            | Errno::NAMETOOLONG
            | Errno::INVAL
            // A path of openat2 that raced with a rename; nothing in a ready build is renamed.
            | Errno::AGAIN
    )
}
