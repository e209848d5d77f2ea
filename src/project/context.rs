//! The context: the bytes of a project that Docker is given, and their digest.
//!
//! The digest covers relative path, file type, whether a file is executable, and content of
//! everything that `.dockerignore` does not exclude; mtime, owner and host do not enter it,
//! so it is the same in every checkout. The tar that is sent is normalised in the same way,
//! so an image is a function of the digest, and each file is hashed again while it is sent:
//! what changed in between fails the build instead of passing for something else.
//!
//! A file's digest is remembered by device, inode, size, mtime and ctime, but not when the
//! file was changed less than two seconds before it was read: a second change within the
//! clock's grain would leave no trace in the stamp.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fmt;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use sha2::{Digest as _, Sha256};

use super::ignore::{IGNORE_FILE, Ignore};
use super::{DOCKERFILE, Project, SETTINGS};

/// How old a change must be before a stamp is trusted: the coarsest mtime still met is 2 s (FAT).
const SETTLED: Duration = Duration::from_secs(2);
/// Read size while hashing.
const CHUNK: usize = 64 << 10;

/// A SHA-256, written as 64 hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest([u8; 32]);

impl Digest {
    /// The digest of some bytes.
    pub fn of(bytes: &[u8]) -> Digest {
        Digest(Sha256::digest(bytes).into())
    }

    /// Wraps what a hasher returned.
    pub const fn from_bytes(bytes: [u8; 32]) -> Digest {
        Digest(bytes)
    }

    /// The 32 bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What tells that a file is the one that was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    fn of(found: &std::fs::Metadata) -> Stamp {
        Stamp {
            device: found.dev(),
            inode: found.ino(),
            size: found.size(),
            modified: (found.mtime(), found.mtime_nsec()),
            changed: (found.ctime(), found.ctime_nsec()),
        }
    }

    /// True when nothing touched the file shortly before `now`.
    fn settled(&self, now: SystemTime) -> bool {
        let before = |(seconds, nanos): (i64, i64)| {
            let (Ok(seconds), Ok(nanos)) = (u64::try_from(seconds), u32::try_from(nanos)) else {
                return true;
            };
            now.duration_since(SystemTime::UNIX_EPOCH + Duration::new(seconds, nanos))
                .is_ok_and(|age| age >= SETTLED)
        };
        before(self.modified) && before(self.changed)
    }
}

/// What an earlier walk learnt; valid for files whose stamp is the same.
#[derive(Debug, Default)]
pub(super) struct Memory {
    files: HashMap<PathBuf, (Stamp, Digest)>,
    ignore: Option<(Stamp, Arc<Ignore>)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Content {
    File {
        executable: bool,
        size: u64,
        digest: Digest,
    },
    Directory,
    Link(PathBuf),
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    path: PathBuf,
    /// When its content was changed, as the disk says.
    modified: SystemTime,
    content: Content,
}

/// A project's files as one walk found them.
#[derive(Clone, Debug)]
pub struct Context {
    /// Shared, like the rest: one walk serves many askers.
    project: Arc<Project>,
    /// Sorted by path bytes, parents before children.
    entries: Arc<[Entry]>,
    digest: Digest,
}

impl Context {
    /// Walks the project. The second value is what to remember, when it differs from `known`.
    pub(super) fn walk(
        project: &Project,
        known: Option<&Memory>,
    ) -> io::Result<(Context, Option<Memory>)> {
        let mut walk = Walk {
            root: &project.path,
            known,
            ignore: Arc::default(),
            now: SystemTime::now(),
            entries: Vec::new(),
            known_ignore: None,
            hits: 0,
            learnt: Vec::new(),
            news: false,
        };
        let top = std::fs::read_dir(&project.path)?.collect::<io::Result<Vec<_>>>()?;
        if top.iter().any(|found| found.file_name() == IGNORE_FILE) {
            walk.read_ignore()?;
        }
        // A stack of our own: a deep tree must not overflow the thread's.
        let mut pending = Vec::new();
        for found in top {
            walk.found(Path::new(""), &found, &mut pending)?;
        }
        while let Some(directory) = pending.pop() {
            for found in std::fs::read_dir(project.path.join(&directory))? {
                walk.found(&directory, &found?, &mut pending)?;
            }
        }
        walk.entries
            .sort_unstable_by(|a, b| a.path.as_os_str().cmp(b.path.as_os_str()));
        let has_forgotten = known.is_some_and(|k| k.files.len() != walk.hits);
        let memory = (walk.news || has_forgotten).then(|| walk.remember());
        let digest = digest(&walk.entries);
        let context = Context {
            project: Arc::new(project.clone()),
            entries: walk.entries.into(),
            digest,
        };
        Ok((context, memory))
    }

    /// The digest of everything in it.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// True when there is a recipe, and it is a regular file.
    pub(super) fn has_dockerfile(&self) -> bool {
        let path = Path::new(DOCKERFILE);
        let at = self
            .entries
            .binary_search_by(|entry| entry.path.as_os_str().cmp(path.as_os_str()));
        at.is_ok_and(|at| matches!(self.entries[at].content, Content::File { .. }))
    }

    /// The project it was read from.
    pub fn project(&self) -> &Project {
        &self.project
    }

    /// Relative path and digest of each file, for the record: it lets a later job say what differs.
    pub fn files(&self) -> impl Iterator<Item = (&Path, Digest)> {
        self.entries.iter().filter_map(|entry| match entry.content {
            Content::File { digest, .. } => Some((entry.path.as_path(), digest)),
            _ => None,
        })
    }

    /// Relative path and modification time of each regular file and symbolic link, as the
    /// file system has it: not cut to whole seconds, and possibly before 1980 or in the future.
    pub fn modified(&self) -> impl Iterator<Item = (&Path, SystemTime)> {
        self.entries.iter().filter_map(|entry| match entry.content {
            Content::File { .. } | Content::Link(_) => Some((entry.path.as_path(), entry.modified)),
            Content::Directory => None,
        })
    }

    /// Writes the context as a tar: owner 0, mode by the executable bit, mtime 0.
    ///
    /// Files are read as they are sent, never held whole.
    ///
    /// # Errors
    /// [`super::Error::Changed`] when a file is no longer what the digest says; what was
    /// written until then is a torn tar, which Docker refuses.
    pub fn write_tar(&self, to: impl Write) -> Result<(), super::Error> {
        let name = &self.project.name;
        let failed = |error: io::Error| super::Error::Read(name.clone(), error);
        let mut tar = tar::Builder::new(to);
        for entry in self.entries.iter() {
            let mut header = tar::Header::new_gnu();
            header.set_uid(0);
            header.set_gid(0);
            header.set_mtime(0);
            match &entry.content {
                Content::Directory => {
                    header.set_entry_type(tar::EntryType::Directory);
                    header.set_mode(0o755);
                    header.set_size(0);
                    tar.append_data(&mut header, &entry.path, io::empty())
                        .map_err(failed)?;
                }
                Content::Link(target) => {
                    header.set_entry_type(tar::EntryType::Symlink);
                    header.set_mode(0o777);
                    header.set_size(0);
                    tar.append_link(&mut header, &entry.path, target)
                        .map_err(failed)?;
                }
                Content::File {
                    executable,
                    size,
                    digest,
                } => {
                    header.set_entry_type(tar::EntryType::Regular);
                    header.set_mode(if *executable { 0o755 } else { 0o644 });
                    header.set_size(*size);
                    let changed = || super::Error::Changed(name.clone());
                    let file = match open(&self.project.path.join(&entry.path)) {
                        Ok(file) => file,
                        Err(error) if error.kind() == io::ErrorKind::NotFound => {
                            return Err(changed());
                        }
                        Err(error) => return Err(failed(error)),
                    };
                    let mut sent = Hashing {
                        from: file.take(*size),
                        hasher: Sha256::new(),
                        bytes: 0,
                    };
                    tar.append_data(&mut header, &entry.path, &mut sent)
                        .map_err(failed)?;
                    if sent.bytes != *size || sent.digest() != *digest {
                        return Err(changed());
                    }
                }
            }
        }
        tar.into_inner()
            .and_then(|mut to| to.flush())
            .map_err(failed)
    }
}

/// One walk over a project.
struct Walk<'a> {
    root: &'a Path,
    known: Option<&'a Memory>,
    ignore: Arc<Ignore>,
    now: SystemTime,
    entries: Vec<Entry>,
    /// The ignore file as it is to be remembered.
    known_ignore: Option<(Stamp, Arc<Ignore>)>,
    /// Files whose digest was known.
    hits: usize,
    /// Files to be remembered that were not.
    learnt: Vec<(PathBuf, (Stamp, Digest))>,
    news: bool,
}

impl Walk<'_> {
    fn read_ignore(&mut self) -> io::Result<()> {
        let path = self.root.join(IGNORE_FILE);
        let stamp = match std::fs::metadata(&path) {
            Ok(found) => Stamp::of(&found),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        let known = self.known.and_then(|k| k.ignore.as_ref());
        self.ignore = match known.filter(|(at, _)| *at == stamp) {
            Some((_, ignore)) => ignore.clone(),
            None => {
                self.news = true;
                Arc::new(Ignore::parse(&std::fs::read_to_string(&path)?))
            }
        };
        if stamp.settled(self.now) {
            self.known_ignore = Some((stamp, self.ignore.clone()));
        }
        Ok(())
    }

    fn found(
        &mut self,
        directory: &Path,
        found: &std::fs::DirEntry,
        pending: &mut Vec<PathBuf>,
    ) -> io::Result<()> {
        let path = directory.join(found.file_name());
        let excluded = !always_counts(path.as_os_str()) && self.ignore.excludes(&path);
        let kind = found.file_type()?;
        if kind.is_dir() {
            if !excluded {
                self.keep(path.clone(), &found.metadata()?, Content::Directory)?;
                pending.push(path);
            } else if self.ignore.has_exceptions() {
                // A `!` line may bring something below it back.
                pending.push(path);
            }
        } else if excluded {
        } else if kind.is_symlink() {
            let target = std::fs::read_link(found.path())?;
            self.keep(path, &found.metadata()?, Content::Link(target))?;
        } else if kind.is_file() {
            let metadata = found.metadata()?;
            let content = self.file(&path, &metadata)?;
            self.keep(path, &metadata, content)?;
        }
        // Sockets, FIFOs and devices are no input of a build; Docker leaves them out, too.
        Ok(())
    }

    fn keep(
        &mut self,
        path: PathBuf,
        metadata: &std::fs::Metadata,
        content: Content,
    ) -> io::Result<()> {
        self.entries.push(Entry {
            path,
            modified: metadata.modified()?,
            content,
        });
        Ok(())
    }

    fn file(&mut self, path: &Path, found: &std::fs::Metadata) -> io::Result<Content> {
        let mut stamp = Stamp::of(found);
        let known = self.known.and_then(|k| k.files.get(path));
        let digest = match known.filter(|(at, _)| *at == stamp) {
            Some((_, digest)) => {
                self.hits += 1;
                *digest
            }
            None => {
                self.news = true;
                let file = open(&self.root.join(path))?;
                // The stamp of what is read: the name may lead to another file by now.
                stamp = Stamp::of(&file.metadata()?);
                let mut all = Hashing {
                    from: file.take(stamp.size),
                    hasher: Sha256::new(),
                    bytes: 0,
                };
                let mut chunk = vec![0; CHUNK];
                while all.read(&mut chunk)? > 0 {}
                let digest = all.digest();
                if stamp.settled(self.now) {
                    self.learnt.push((path.to_owned(), (stamp, digest)));
                }
                digest
            }
        };
        Ok(Content::File {
            executable: found.mode() & 0o111 != 0,
            size: stamp.size,
            digest,
        })
    }
}

impl Walk<'_> {
    /// What was known of files that are still there, and what was learnt.
    fn remember(&mut self) -> Memory {
        let known = self.known.map(|known| &known.files);
        let mut files: HashMap<PathBuf, (Stamp, Digest)> = self
            .entries
            .iter()
            .filter_map(|entry| {
                let (path, known) = known?.get_key_value(&entry.path)?;
                Some((path.clone(), *known))
            })
            .collect();
        files.extend(self.learnt.drain(..));
        Memory {
            files,
            ignore: self.known_ignore.take(),
        }
    }
}

/// Dockerfile, `.dockerignore` and `mistry.json` are never excluded.
fn always_counts(path: &OsStr) -> bool {
    path == DOCKERFILE || path == IGNORE_FILE || path == SETTINGS
}

/// Opens without following a link and without waiting for the other end of a FIFO.
fn open(path: &Path) -> io::Result<File> {
    let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
    File::options()
        .read(true)
        .custom_flags(flags.bits().cast_signed())
        .open(path)
}

/// A reader that hashes what passes through.
struct Hashing<R> {
    from: R,
    hasher: Sha256,
    bytes: u64,
}

impl<R> Hashing<R> {
    fn digest(self) -> Digest {
        Digest(self.hasher.finalize().into())
    }
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let count = self.from.read(into)?;
        self.hasher.update(&into[..count]);
        self.bytes += count as u64;
        Ok(count)
    }
}

/// Length-prefixed, so that no two trees share an encoding.
fn digest(entries: &[Entry]) -> Digest {
    fn field(hasher: &mut Sha256, bytes: &[u8]) {
        hasher.update((bytes.len() as u64).to_be_bytes());
        hasher.update(bytes);
    }
    let mut hasher = Sha256::new();
    hasher.update(b"mistry-context-v1\0");
    for entry in entries {
        field(&mut hasher, entry.path.as_os_str().as_bytes());
        match &entry.content {
            Content::Directory => hasher.update(b"d"),
            Content::Link(target) => {
                hasher.update(b"l");
                field(&mut hasher, target.as_os_str().as_bytes());
            }
            Content::File {
                executable, digest, ..
            } => {
                hasher.update(if *executable { b"x" } else { b"f" });
                hasher.update(digest.0);
            }
        }
    }
    Digest(hasher.finalize().into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::project::Projects;
    use std::os::unix::fs::{PermissionsExt, symlink};

    struct Place {
        dir: tempfile::TempDir,
    }

    impl Place {
        fn new() -> Place {
            let dir = tempfile::tempdir().unwrap();
            let place = Place { dir };
            place.write("Dockerfile", "FROM scratch\n");
            place
        }

        fn path(&self, name: &str) -> PathBuf {
            self.dir.path().join("p").join(name)
        }

        fn write(&self, name: &str, text: &str) {
            let path = self.path(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }

        fn context(&self) -> Context {
            Projects::new(self.dir.path())
                .context(&"p".parse().unwrap())
                .unwrap()
        }

        fn digest(&self) -> Digest {
            self.context().digest()
        }
    }

    #[test]
    fn the_digest_is_the_same_in_every_checkout() {
        let (a, b) = (Place::new(), Place::new());
        for place in [&a, &b] {
            place.write("src/x", "1");
        }
        File::options()
            .write(true)
            .open(b.path("src/x"))
            .unwrap()
            .set_modified(SystemTime::UNIX_EPOCH)
            .unwrap();
        std::fs::set_permissions(b.path("src/x"), PermissionsExt::from_mode(0o600)).unwrap();
        assert_eq!(a.digest(), b.digest());
    }

    #[test]
    fn content_name_mode_links_and_empty_directories_count() {
        let place = Place::new();
        let mut seen = vec![place.digest()];
        let mut changed = |what: &str| {
            let digest = place.digest();
            assert!(!seen.contains(&digest), "{what} did not count");
            seen.push(digest);
        };
        place.write("a", "1");
        changed("a file");
        place.write("a", "2");
        changed("its content");
        std::fs::set_permissions(place.path("a"), PermissionsExt::from_mode(0o755)).unwrap();
        changed("its executable bit");
        std::fs::rename(place.path("a"), place.path("b")).unwrap();
        changed("its name");
        std::fs::create_dir(place.path("empty")).unwrap();
        changed("an empty directory");
        symlink("b", place.path("l")).unwrap();
        changed("a link");
        std::fs::remove_file(place.path("l")).unwrap();
        symlink("c", place.path("l")).unwrap();
        changed("its target");
    }

    #[test]
    fn what_is_ignored_does_not_count_but_the_three_files_always_do() {
        let place = Place::new();
        place.write(".dockerignore", "*\n!kept\n");
        place.write("kept", "1");
        let before = place.digest();
        place.write("other", "x");
        place.write("dir/other", "x");
        assert_eq!(place.digest(), before);
        place.write("kept", "2");
        let after = place.digest();
        assert_ne!(after, before);
        place.write("mistry.json", "{}");
        assert_ne!(place.digest(), after);
        let names: Vec<_> = place.context().files().map(|(p, _)| p.to_owned()).collect();
        assert_eq!(
            names,
            [".dockerignore", "Dockerfile", "kept", "mistry.json"].map(PathBuf::from)
        );
    }

    #[test]
    fn the_tar_is_normalised_and_holds_links_and_empty_directories() {
        let place = Place::new();
        place.write("run.sh", "#!/bin/sh\n");
        std::fs::set_permissions(place.path("run.sh"), PermissionsExt::from_mode(0o700)).unwrap();
        std::fs::create_dir(place.path("empty")).unwrap();
        symlink("run.sh", place.path("l")).unwrap();
        let mut bytes = Vec::new();
        place.context().write_tar(&mut bytes).unwrap();
        let mut seen = Vec::new();
        for entry in tar::Archive::new(&bytes[..]).entries().unwrap() {
            let entry = entry.unwrap();
            let header = entry.header();
            assert_eq!((header.uid().unwrap(), header.mtime().unwrap()), (0, 0));
            seen.push((
                entry.path().unwrap().to_string_lossy().into_owned(),
                header.entry_type(),
                header.mode().unwrap(),
            ));
        }
        assert_eq!(
            seen,
            [
                ("Dockerfile".to_owned(), tar::EntryType::Regular, 0o644),
                ("empty".to_owned(), tar::EntryType::Directory, 0o755),
                ("l".to_owned(), tar::EntryType::Symlink, 0o777),
                ("run.sh".to_owned(), tar::EntryType::Regular, 0o755),
            ]
        );
    }

    #[test]
    fn times_are_told_as_the_disk_has_them() {
        let place = Place::new();
        symlink("a", place.path("l")).unwrap();
        place.write("a", "1");
        let long_ago = SystemTime::UNIX_EPOCH - Duration::new(86_400, 5);
        File::options()
            .write(true)
            .open(place.path("a"))
            .unwrap()
            .set_modified(long_ago)
            .unwrap();
        let context = place.context();
        let times: HashMap<_, _> = context.modified().collect();
        assert_eq!(times[Path::new("a")], long_ago);
        let link = place.path("l").symlink_metadata().unwrap();
        assert_eq!(times[Path::new("l")], link.modified().unwrap());
    }

    #[test]
    fn a_file_that_changes_before_it_is_sent_fails_the_tar() {
        let place = Place::new();
        place.write("a", "12345");
        let context = place.context();
        for text in ["54321", "1"] {
            place.write("a", text);
            let result = context.write_tar(io::sink());
            assert!(
                matches!(result, Err(crate::project::Error::Changed(_))),
                "{text}"
            );
        }
        std::fs::remove_file(place.path("a")).unwrap();
        assert!(matches!(
            context.write_tar(io::sink()),
            Err(crate::project::Error::Changed(_))
        ));
    }

    #[test]
    fn a_fresh_change_is_never_trusted_to_its_stamp() {
        let place = Place::new();
        place.write("a", "1");
        let projects = Projects::new(place.dir.path());
        let name = "p".parse().unwrap();
        let first = projects.context(&name).unwrap().digest();
        // Same size, and likely within the clock's grain of the first.
        place.write("a", "2");
        assert_ne!(projects.context(&name).unwrap().digest(), first);
    }
}
