//! A walk over a project: it finds the files of the context and reads them.

use std::collections::HashMap;
use std::fs::{FileType, Metadata};
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::digest::{Digest, Hashing};
use super::entry::{Content, Entry, open};
use super::error::Error;
use super::ignore::{Ignore, InvalidLine, Matched};
use super::name::Project;
use super::recipe::{DOCKERFILE, IGNORE_FILE, SETTINGS};
use crate::located::at;

/// The minimum age of a change for a stamp to be trusted: the coarsest mtime in use is 2 s (FAT).
const STAMP_MIN_AGE: Duration = Duration::from_secs(2);
/// Read size while hashing.
const CHUNK_BYTES: usize = 64 << 10;
/// Bytes of the largest `mistry.json`: it stays in memory as long as its job.
pub(super) const MAX_SETTINGS_BYTES: usize = 1 << 20;
/// Bytes of the largest `.dockerignore`: its patterns are held in memory.
const MAX_IGNORE_FILE_BYTES: usize = 16 << 20;
/// Permissions that differ between the umasks 002 and 022; ids must not depend on them.
const WRITABLE_BY_OTHERS: u32 = 0o022;
/// The bit that directories inherit in a tree with a shared group.
const SET_GID: u32 = 0o2000;
/// The name of the extended attribute that Docker sends.
const CAPABILITY_ATTRIBUTE: &str = "security.capability";

/// Identifies the version of a file that was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    fn of(found: &Metadata) -> Stamp {
        Stamp {
            device: found.dev(),
            inode: found.ino(),
            size: found.size(),
            modified: (found.mtime(), found.mtime_nsec()),
            changed: (found.ctime(), found.ctime_nsec()),
        }
    }

    /// True when the file was not changed shortly before `now`.
    fn is_reliable(&self, now: SystemTime) -> bool {
        let before = |(seconds, nanos): (i64, i64)| {
            let (Ok(seconds), Ok(nanos)) = (u64::try_from(seconds), u32::try_from(nanos)) else {
                return true;
            };
            let at = SystemTime::UNIX_EPOCH.checked_add(Duration::new(seconds, nanos));
            at.and_then(|at| now.duration_since(at).ok())
                .is_some_and(|age| age >= STAMP_MIN_AGE)
        };
        before(self.modified) && before(self.changed)
    }
}

/// The digests from an earlier walk; valid for files whose stamp is the same.
#[derive(Debug, Default)]
pub(super) struct DigestCache {
    files: HashMap<PathBuf, (Stamp, Digest)>,
    ignore: Option<(Digest, Arc<Ignore>)>,
}

/// The result of a walk.
pub(super) struct Found {
    /// Sorted by path bytes, parents before children.
    pub(super) entries: Vec<Entry>,
    /// The content of `mistry.json`.
    pub(super) settings: Option<Vec<u8>>,
    /// The digest of the text of `.dockerignore`.
    pub(super) ignore: Option<Digest>,
    /// The digests to remember, when they differ from the known ones.
    pub(super) memory: Option<DigestCache>,
}

/// Walks the project.
pub(super) fn walk(project: &Project, known: Option<&DigestCache>) -> Result<Found, Error> {
    let mut walk = Walk {
        project,
        known,
        ignore: Arc::default(),
        now: SystemTime::now(),
        entries: Vec::new(),
        settings: None,
        hits: 0,
        new_digests: Vec::new(),
        is_changed: false,
    };
    let ignore = walk.read_ignore()?;
    // An explicit stack: a deep tree must not overflow the thread's stack.
    let mut pending = vec![(PathBuf::new(), Matched::default())];
    while let Some((directory, above)) = pending.pop() {
        let names = std::fs::read_dir(project.path.join(&directory));
        let unread = |walk: &Walk<'_>, error| walk.unread(&directory, error);
        for found in names.map_err(|error| unread(&walk, error))? {
            let found = found.map_err(|error| unread(&walk, error))?;
            walk.found(&directory, &above, &found, &mut pending)?;
        }
    }
    walk.entries
        .sort_unstable_by(|a, b| a.path.as_os_str().cmp(b.path.as_os_str()));
    let has_forgotten = known.is_some_and(|known| known.files.len() != walk.hits);
    let memory = (walk.is_changed || has_forgotten).then(|| walk.remember(ignore));
    Ok(Found {
        entries: walk.entries,
        settings: walk.settings,
        ignore,
        memory,
    })
}

/// One walk over a project.
struct Walk<'a> {
    project: &'a Project,
    known: Option<&'a DigestCache>,
    ignore: Arc<Ignore>,
    now: SystemTime,
    entries: Vec<Entry>,
    settings: Option<Vec<u8>>,
    /// Files whose digest was known.
    hits: usize,
    /// Files to remember whose digest was not known.
    new_digests: Vec<(PathBuf, (Stamp, Digest))>,
    is_changed: bool,
}

impl Walk<'_> {
    /// `path` is relative to the project.
    fn unread(&self, path: &Path, error: io::Error) -> Error {
        let path = self.project.path.join(path);
        Error::Read(self.project.name.clone(), at(&path)(error))
    }

    fn unbuildable(&self, why: String) -> Error {
        Error::Unbuildable(self.project.name.clone(), why)
    }

    fn invalid_line(&self, line: &InvalidLine) -> Error {
        self.unbuildable(format!("its {IGNORE_FILE} is wrong: {line}"))
    }

    /// Reads `.dockerignore`, even if it is a symbolic link to a file of the project.
    ///
    /// Docker follows a link to anywhere; the contents of an image would then depend on files outside the
    /// project.
    fn read_ignore(&mut self) -> Result<Option<Digest>, Error> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        let root = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::openat(CWD, &self.project.path, root, Mode::empty())
            .map_err(|error| self.unread(IGNORE_FILE.as_ref(), error.into()))?;
        let opened = rustix::fs::openat2(root.as_fd(), IGNORE_FILE, flags, Mode::empty(), beneath);
        let is = |what: &str| self.unbuildable(format!("its {IGNORE_FILE} is {what}"));
        let file = match opened {
            Ok(file) => std::fs::File::from(file),
            // As in Docker, a dangling link counts as no file.
            Err(Errno::NOENT) => return Ok(None),
            Err(Errno::XDEV) => return Err(is("a symbolic link that leads out of the project")),
            Err(Errno::LOOP) => return Err(is("a symbolic link that leads to itself")),
            // The error of opening a socket.
            Err(Errno::NXIO) => return Err(is(&not_a_file("a socket"))),
            Err(error) => return Err(self.unread(IGNORE_FILE.as_ref(), error.into())),
        };
        let found = file
            .metadata()
            .map_err(|error| self.unread(IGNORE_FILE.as_ref(), error))?;
        if !found.is_file() {
            return Err(is(&not_a_file(kind_of(found.file_type()))));
        }
        let text = self.read(file, IGNORE_FILE, MAX_IGNORE_FILE_BYTES)?;
        let digest = Digest::of(&text);
        let known = self.known.and_then(|known| known.ignore.as_ref());
        self.ignore = match known.filter(|(of, _)| *of == digest) {
            Some((_, ignore)) => ignore.clone(),
            None => {
                self.is_changed = true;
                let ignore = Ignore::parse(&text).map_err(|line| self.invalid_line(&line))?;
                Arc::new(ignore)
            }
        };
        Ok(Some(digest))
    }

    /// Reads a project file of bounded size.
    fn read(&self, file: impl Read, name: &str, largest: usize) -> Result<Vec<u8>, Error> {
        let mut text = Vec::new();
        file.take(largest as u64 + 1)
            .read_to_end(&mut text)
            .map_err(|error| self.unread(name.as_ref(), error))?;
        if text.len() > largest {
            return Err(self.unbuildable(format!(
                "its {name} is too large, at most {largest} bytes were expected"
            )));
        }
        Ok(text)
    }

    fn found(
        &mut self,
        directory: &Path,
        above: &Matched,
        found: &std::fs::DirEntry,
        pending: &mut Vec<(PathBuf, Matched)>,
    ) -> Result<(), Error> {
        let path = directory.join(found.file_name());
        let bytes = path.as_os_str().as_bytes();
        let kind = found
            .file_type()
            .map_err(|error| self.unread(&path, error))?;
        let (is_excluded, matched) = self
            .ignore
            .excludes(bytes, above)
            .map_err(|line| self.invalid_line(&line))?;
        let is_settings = bytes == SETTINGS.as_bytes();
        // Docker needs these two. It removes them from the context itself where they are excluded.
        let is_sent =
            !is_excluded || bytes == DOCKERFILE.as_bytes() || bytes == IGNORE_FILE.as_bytes();
        if is_settings && !kind.is_file() {
            let what = not_a_file(kind_of(kind));
            return Err(self.unbuildable(format!("its {SETTINGS} is {what}")));
        }
        if kind.is_dir() && (is_sent || self.ignore.may_except_below(bytes)) {
            pending.push((path.clone(), matched));
        }
        // A tar cannot hold a socket.
        if kind.is_socket() || !(is_sent || is_settings) {
            return Ok(());
        }
        let entry = if is_settings {
            self.settings(path, is_sent)
        } else {
            self.entry(path, found)
        };
        let entry = entry?;
        self.entries.push(entry);
        Ok(())
    }

    /// Reads `mistry.json`, which counts even if it is excluded.
    fn settings(&mut self, path: PathBuf, is_sent: bool) -> Result<Entry, Error> {
        let unread = |error| self.unread(SETTINGS.as_ref(), error);
        let file = open(&self.project.path.join(&path)).map_err(unread)?;
        let found = file.metadata().map_err(unread)?;
        if !found.is_file() {
            return Err(Error::Changed(self.project.name.clone()));
        }
        let text = self.read(file, SETTINGS, MAX_SETTINGS_BYTES)?;
        let content = Content::File {
            size: text.len() as u64,
            digest: Digest::of(&text),
        };
        self.settings = Some(text);
        let entry = self.entry_of(path, &found, content);
        let entry = entry.map_err(|error| self.unread(SETTINGS.as_ref(), error))?;
        Ok(Entry { is_sent, ..entry })
    }

    fn entry(&mut self, path: PathBuf, found: &std::fs::DirEntry) -> Result<Entry, Error> {
        let entry = found.metadata().and_then(|metadata| {
            let kind = metadata.file_type();
            if kind.is_file() {
                return self.file(path, metadata);
            }
            let content = if kind.is_dir() {
                Content::Directory
            } else if kind.is_symlink() {
                Content::Link(std::fs::read_link(found.path())?)
            } else if kind.is_fifo() {
                Content::Fifo
            } else {
                Content::Device {
                    is_block: kind.is_block_device(),
                    major: rustix::fs::major(metadata.rdev()),
                    minor: rustix::fs::minor(metadata.rdev()),
                }
            };
            self.entry_of(path, &metadata, content)
        });
        entry.map_err(|error| self.unread(&found.path(), error))
    }

    fn file(&mut self, path: PathBuf, mut found: Metadata) -> io::Result<Entry> {
        let mut stamp = Stamp::of(&found);
        let known = self.known.and_then(|known| known.files.get(&path));
        let digest = match known.filter(|(at, _)| *at == stamp) {
            Some((_, digest)) => {
                self.hits += 1;
                *digest
            }
            None => {
                self.is_changed = true;
                let file = open(&self.project.path.join(&path))?;
                // The stamp of the opened file: the name may refer to another file by now.
                found = file.metadata()?;
                stamp = Stamp::of(&found);
                let mut all = Hashing::new(file.take(stamp.size));
                let mut chunk = vec![0; CHUNK_BYTES];
                while all.read(&mut chunk)? > 0 {}
                let (_, digest) = all.finish();
                if stamp.is_reliable(self.now) {
                    self.new_digests.push((path.clone(), (stamp, digest)));
                }
                digest
            }
        };
        let size = stamp.size;
        self.entry_of(path, &found, Content::File { size, digest })
    }

    fn entry_of(&self, path: PathBuf, found: &Metadata, content: Content) -> io::Result<Entry> {
        let permissions = found.mode() & 0o7777;
        let mode = match content {
            Content::Link(_) => 0o777,
            Content::Directory => permissions & !WRITABLE_BY_OTHERS & !SET_GID,
            _ => permissions & !WRITABLE_BY_OTHERS,
        };
        let has_names = found.nlink() > 1 && !matches!(content, Content::Directory);
        Ok(Entry {
            mode,
            modified: found.modified()?,
            inode: has_names.then(|| (found.dev(), found.ino())),
            capability: capability(&self.project.path.join(&path)),
            path,
            content,
            is_sent: true,
        })
    }

    /// The known digests of files that still exist, and the new ones.
    fn remember(&mut self, ignore: Option<Digest>) -> DigestCache {
        let known = self.known.map(|known| &known.files);
        let mut files: HashMap<PathBuf, (Stamp, Digest)> = self
            .entries
            .iter()
            .filter_map(|entry| {
                let (path, known) = known?.get_key_value(&entry.path)?;
                Some((path.clone(), *known))
            })
            .collect();
        files.extend(self.new_digests.drain(..));
        DigestCache {
            files,
            ignore: ignore.map(|digest| (digest, self.ignore.clone())),
        }
    }
}

/// The file capabilities of a file, as Docker's client sends them: without the user namespace that they may
/// be bound to. As in Docker, unreadable capabilities count as none.
fn capability(path: &Path) -> Option<Box<[u8]>> {
    /// The size of `struct vfs_cap_data`, revision 2, and of revision 3 with its owner.
    const REVISION_2: usize = 20;
    const REVISION_3: usize = 24;
    /// The offset of the revision, in little endian order.
    const REVISION: usize = 3;
    let mut bytes = [0; REVISION_3];
    let length = rustix::fs::lgetxattr(path, CAPABILITY_ATTRIBUTE, &mut bytes).ok()?;
    let capability = &mut bytes[..length];
    match capability.get_mut(REVISION) {
        Some(revision) if *revision == 3 => {
            *revision = 2;
            capability.get(..REVISION_2).map(Box::from)
        }
        Some(_) => Some(Box::from(&*capability)),
        None => None,
    }
}

/// The kind found where a file was expected.
pub(super) fn not_a_file(kind: &str) -> String {
    format!("{kind}, a regular file was expected")
}

/// A kind of file, in words.
pub(super) fn kind_of(kind: FileType) -> &'static str {
    if kind.is_symlink() {
        "a symbolic link"
    } else if kind.is_dir() {
        "a directory"
    } else if kind.is_fifo() {
        "a FIFO"
    } else if kind.is_socket() {
        "a socket"
    } else if kind.is_file() {
        "a file"
    } else {
        "a device"
    }
}
