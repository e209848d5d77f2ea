//! Trees on one filesystem: subvolumes and snapshots, or directories and copies.

use std::ffi::{CString, OsStr};
use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::str::FromStr;

use rustix::fs::{CWD, Mode, OFlags, Stat, fchmod, fstat, mkdirat, openat};
use rustix::io::Errno;

use super::dir_walker::{Directory, open_directory};
use super::error::{Error, Fault, into_io};
use super::interrupt::Interrupt;
use super::usage::{self, Usage};
use super::{btrfs, metadata, ownership, plain, remove};

/// The configurable kinds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kind {
    /// Btrfs if the path is on Btrfs, plain elsewhere.
    #[default]
    Auto,
    /// Btrfs, or an error.
    Btrfs,
    /// Plain directories, even on Btrfs.
    Plain,
}

/// How trees are created and cloned under one directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filesystem {
    /// A tree is a directory; a clone is a copy.
    Plain,
    /// A tree is a subvolume; a clone is a snapshot, whose cost does not depend on its contents.
    Btrfs,
}

impl Filesystem {
    /// Detects for `path`, which must exist.
    ///
    /// # Errors
    /// [`Error::NotBtrfs`] when `kind` requires Btrfs and `path` is on another filesystem; [`Error::Detect`]
    /// when the path cannot be queried.
    pub fn detect(kind: Kind, path: &Path) -> Result<Filesystem, Error> {
        if kind == Kind::Plain {
            return Ok(Filesystem::Plain);
        }
        let found = rustix::fs::statfs(path).map_err(|errno| Error::Detect {
            path: path.to_owned(),
            source: errno.into(),
        })?;
        if btrfs::is_btrfs(&found) {
            return Ok(Filesystem::Btrfs);
        }
        match kind {
            Kind::Btrfs => Err(Error::NotBtrfs {
                path: path.to_owned(),
                found: btrfs::magic_name(&found),
            }),
            Kind::Auto | Kind::Plain => Ok(Filesystem::Plain),
        }
    }

    /// `plain` or `btrfs`, as [`Kind`] spells it.
    pub fn name(self) -> &'static str {
        match self {
            Filesystem::Plain => "plain",
            Filesystem::Btrfs => "btrfs",
        }
    }

    /// Creates a new empty tree of mode 0750, reduced by the umask.
    ///
    /// # Errors
    /// [`Error::Create`]; its kind is `AlreadyExists` when anything has that name.
    pub fn create(self, path: &Path) -> Result<(), Error> {
        let make = || {
            let place = Place::of(path)?;
            self.make_root(&place, Mode::from_raw_mode(0o750))
                .map_err(|errno| Fault::new("create", path, errno))
        };
        make().map_err(|source| Error::Create {
            path: path.to_owned(),
            source,
        })
    }

    /// Creates `to` as a writable clone of `from`: all of it except the entries of its root that are named in
    /// `without`.
    ///
    /// Preserved are contents, modes, times, hard links inside the tree, symlinks as text, holes, FIFOs, user
    /// attributes, and owners as far as the caller may chown. A copy omits sockets and device nodes, and
    /// turns subvolumes inside `from` into directories.
    ///
    /// # Errors
    /// [`Error::Clone`]; its kind is `AlreadyExists` when `to` exists, which is then unchanged.
    pub fn clone_tree(self, from: &Path, to: &Path, without: &[&OsStr]) -> Result<(), Error> {
        self.clone_until(from, to, without, &Interrupt::default())
    }

    /// The same, but it stops when it is interrupted: the partial clone stays then, since its removal may
    /// take as long as its creation.
    ///
    /// # Errors
    /// See [`Filesystem::clone_tree`]; also an error when it was interrupted.
    pub fn clone_until(
        self,
        from: &Path,
        to: &Path,
        without: &[&OsStr],
        interrupt: &Interrupt,
    ) -> Result<(), Error> {
        self.clone_inner(from, to, without, interrupt)
            .map_err(|source| Error::Clone {
                from: from.to_owned(),
                to: to.to_owned(),
                source,
            })
    }

    /// Removes whatever is at `path`, completely. A link is removed itself, never its target. Returns `false`
    /// when nothing was there. Both kinds can remove trees of both kinds, since a host's configuration may
    /// change.
    ///
    /// # Errors
    /// [`Error::Remove`] at the first entry that cannot be removed; entries before it are gone, and a later
    /// call continues from there.
    pub fn remove(self, path: &Path) -> Result<bool, Error> {
        let remove = || {
            let place = match Place::of(path) {
                Err(fault) if fault.source.kind() == io::ErrorKind::NotFound => return Ok(false),
                place => place?,
            };
            remove::entry(place.parent.as_fd(), &place.name)
        };
        remove().map_err(|source| Error::Remove {
            path: path.to_owned(),
            source,
        })
    }

    /// Changes the owner and group of all of the tree at `path`, without following a link. Entries that have
    /// them already are unchanged. Stops when it is interrupted.
    ///
    /// # Errors
    /// [`Error::Give`]; its kind is `PermissionDenied` if this process may not; an error when it was
    /// interrupted. A part of the tree may be changed then.
    pub fn chown_until(
        self,
        path: &Path,
        user: u32,
        group: u32,
        interrupt: &Interrupt,
    ) -> Result<(), Error> {
        let give = || {
            let (root, _) = Place::of(path)?.open(path)?;
            ownership::change(root, user, group, interrupt)
        };
        give().map_err(|source| Error::Give {
            path: path.to_owned(),
            source,
        })
    }

    /// Measures the tree at `path`. With `cloned`, the second of the epoch before it was cloned from another,
    /// also what it shares with others; call it when its data has been allocated, after a sync.
    ///
    /// # Errors
    /// [`Error::Measure`], also when there is no tree.
    pub fn usage(self, path: &Path, cloned: Option<i64>) -> Result<Usage, Error> {
        let measure = || {
            let (root, _) = Place::of(path)?.open(path)?;
            usage::of(root, cloned)
        };
        measure().map_err(|source| Error::Measure {
            path: path.to_owned(),
            source,
        })
    }

    fn clone_inner(
        self,
        from: &Path,
        to: &Path,
        without: &[&OsStr],
        interrupt: &Interrupt,
    ) -> Result<(), Fault> {
        let without = entry_names(without)?;
        let place = Place::of(to)?;
        let source = open_root(CWD, from).map_err(|errno| Fault::new("open", from, errno))?;

        let snapshot = match self {
            Filesystem::Btrfs => {
                btrfs::snapshot(source.0.as_fd(), place.parent.as_fd(), &place.name)
                    .map_err(|errno| Fault::new("make a snapshot of", from, errno))?
            }
            Filesystem::Plain => false,
        };
        if !snapshot {
            self.make_root(&place, Mode::RWXU)
                .map_err(|errno| Fault::new("create", to, errno))?;
        }
        let fill = || {
            let (target, _) = place.open(to)?;
            if snapshot {
                remove_from(target, source.1, &without)
            } else {
                plain::copy(source, target, &without, interrupt)
            }
        };
        fill().inspect_err(|_| {
            if interrupt.is_asked() {
                return;
            }
            // The first failure is the one to report; a partial clone that stays only costs disk space, and
            // its name is taken, which the next attempt will report.
            let _ = remove::entry(place.parent.as_fd(), &place.name);
        })
    }

    /// Creates an empty root of this kind, of `mode` reduced by the umask.
    fn make_root(self, place: &Place, mode: Mode) -> Result<(), Errno> {
        match self {
            Filesystem::Plain => mkdirat(&place.parent, &place.name, mode),
            Filesystem::Btrfs => {
                btrfs::create(place.parent.as_fd(), &place.name)?;
                // The kernel creates subvolumes with 0777 less the umask, and the umask cannot be read
                // without setting it for all threads; so the resulting mode shows it.
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let root = openat(&place.parent, &place.name, flags, Mode::empty())?;
                let made = Mode::from_raw_mode(fstat(&root)?.st_mode);
                fchmod(&root, made & mode)
            }
        }
    }
}

impl fmt::Display for Filesystem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Auto => "auto",
            Kind::Btrfs => "btrfs",
            Kind::Plain => "plain",
        })
    }
}

impl FromStr for Kind {
    type Err = Error;

    fn from_str(text: &str) -> Result<Kind, Error> {
        match text {
            "auto" => Ok(Kind::Auto),
            "btrfs" => Ok(Kind::Btrfs),
            "plain" => Ok(Kind::Plain),
            other => Err(Error::UnknownKind(other.to_owned())),
        }
    }
}

/// The location of a tree: its parent, opened, and its name in there.
#[derive(Debug)]
struct Place {
    parent: OwnedFd,
    name: CString,
}

impl Place {
    fn of(path: &Path) -> Result<Place, Fault> {
        let nameless = || Fault::new("find the name in", path, Errno::INVAL);
        let name = path.file_name().ok_or_else(nameless)?;
        let parent = match path.parent() {
            Some(parent) if parent != Path::new("") => parent,
            _ => Path::new("."),
        };
        Ok(Place {
            name: CString::new(name.as_bytes()).map_err(|_| nameless())?,
            parent: openat(
                CWD,
                parent,
                OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
                Mode::empty(),
            )
            .map_err(|errno| Fault::new("open", parent, errno))?,
        })
    }

    fn open(&self, shown: &Path) -> Result<(Directory, Stat), Fault> {
        open_directory(self.parent.as_fd(), &self.name)
            .map_err(|errno| Fault::new("open", shown, errno))
    }
}

/// Opens the root of a tree, even if its owner, this user, lacks permission; never through a link in the last
/// name of its path.
fn open_root(at: BorrowedFd<'_>, path: &Path) -> Result<(Directory, Stat), Errno> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let handle = openat(at, path, flags | OFlags::PATH, Mode::empty())?;
    Directory::reopen(handle.as_fd())
}

/// Opens a directory for writing into it, never through a link in the last name of `path`; `None` if there is
/// none. Protections that a build may have set against its owner are removed permanently: a subvolume is
/// writable again, and the owner may read, write and search.
///
/// # Errors
/// When it cannot be opened. If it cannot be made writable, it is opened all the same, and writing will fail.
pub fn open_writable(at: impl AsFd, path: &Path) -> io::Result<Option<OwnedFd>> {
    let (directory, stat) = match open_root(at.as_fd(), path) {
        Ok(opened) => opened,
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(None),
        Err(errno) => return Err(errno.into()),
    };
    if btrfs::may_be_subvolume(&stat) {
        let _ = btrfs::make_writable(directory.as_fd());
    }
    let opened = directory.as_fd().try_clone_to_owned()?;
    // First its original mode is restored.
    drop(directory);
    let mode = Mode::from_raw_mode(stat.st_mode);
    if !mode.contains(Mode::RWXU) {
        let _ = fchmod(&opened, mode | Mode::RWXU);
    }
    Ok(Some(opened))
}

/// Removes the entry `name` of an open directory, completely and whatever its modes; `false` if there is
/// none.
///
/// # Errors
/// At the first entry that cannot be removed; entries before it are gone.
pub fn remove_in(directory: impl AsFd, name: &OsStr) -> io::Result<bool> {
    let names = entry_names(&[name]).map_err(into_io)?;
    let mut is_removed = false;
    for name in &names {
        is_removed |= remove::entry(directory.as_fd(), name).map_err(into_io)?;
    }
    Ok(is_removed)
}

/// Removes entries from a root, and restores the root's mode and times from `stat`.
fn remove_from(root: Directory, stat: Stat, names: &[CString]) -> Result<(), Fault> {
    let fault = |errno| Fault::new("set mode and times of", Path::new("."), errno);
    let mode = Mode::from_raw_mode(stat.st_mode);
    if !mode.contains(Mode::RWXU) {
        fchmod(&root, mode | Mode::RWXU).map_err(fault)?;
    }
    for name in names {
        remove::entry(root.as_fd(), name)?;
    }
    let opened = root.as_fd().try_clone_to_owned();
    let opened = opened.map_err(|error| Fault::new("open", Path::new("."), error))?;
    drop(root);
    metadata::copy(opened.as_fd(), &stat).map_err(fault)
}

/// The names of `without` as C strings. A path among them would lead out of the tree.
fn entry_names(names: &[&OsStr]) -> Result<Vec<CString>, Fault> {
    let mut entries = Vec::with_capacity(names.len());
    for name in names {
        let bytes = name.as_bytes();
        let single = !matches!(bytes, b"" | b"." | b"..") && !bytes.contains(&b'/');
        match CString::new(bytes) {
            Ok(entry) if single => entries.push(entry),
            _ => {
                return Err(Fault::new(
                    "take as the name of an entry",
                    Path::new(name),
                    Errno::INVAL,
                ));
            }
        }
    }
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_survive_a_round_trip_through_text() {
        for kind in [Kind::Auto, Kind::Btrfs, Kind::Plain] {
            assert_eq!(kind.to_string().parse::<Kind>().unwrap(), kind);
        }
        let error = "ZFS".parse::<Kind>().unwrap_err();
        assert!(error.to_string().starts_with("'ZFS' is no kind"));
    }

    #[test]
    fn a_missing_btrfs_is_an_error_that_names_the_actual_filesystem() {
        let error = Filesystem::detect(Kind::Btrfs, Path::new("/proc")).unwrap_err();
        assert_eq!(error.to_string(), "'/proc' is not on btrfs but on proc");
        let auto = Filesystem::detect(Kind::Auto, Path::new("/proc")).unwrap();
        assert_eq!(auto, Filesystem::Plain);
        assert!(Filesystem::detect(Kind::Auto, Path::new("/nowhere/at/all")).is_err());
    }

    #[test]
    fn an_excluded_entry_is_a_single_name() {
        let home = tempfile::tempdir().unwrap();
        let (from, to) = (home.path().join("from"), home.path().join("to"));
        Filesystem::Plain.create(&from).unwrap();
        for name in ["", ".", "..", "a/b", "/etc", "a\0b"] {
            let error = Filesystem::Plain
                .clone_tree(&from, &to, &[OsStr::new(name)])
                .unwrap_err();
            let kind = error.io().unwrap().kind();
            assert_eq!(kind, io::ErrorKind::InvalidInput, "{name:?}");
            assert!(!to.exists());
        }
    }

    #[test]
    fn an_interrupted_operation_is_an_error_and_leaves_the_clone() {
        let home = tempfile::tempdir().unwrap();
        let (from, to) = (home.path().join("from"), home.path().join("to"));
        Filesystem::Plain.create(&from).unwrap();
        std::fs::write(from.join("file"), "x").unwrap();
        let interrupt = Interrupt::default();
        interrupt.clone().ask();
        let clone = Filesystem::Plain.clone_until(&from, &to, &[], &interrupt);
        let error = clone.unwrap_err().io().unwrap().raw_os_error();
        assert_eq!(error, Some(Errno::CANCELED.raw_os_error()));
        assert!(to.exists() && !to.join("file").exists());
        // A tree that changes its owner is a tree of many entries as well.
        let (user, group) = (u32::MAX - 2, u32::MAX - 2);
        let given = Filesystem::Plain.chown_until(&from, user, group, &interrupt);
        let error = given.unwrap_err().io().unwrap().raw_os_error();
        assert_eq!(error, Some(Errno::CANCELED.raw_os_error()));
    }

    #[test]
    fn a_path_without_a_name_is_refused() {
        for path in ["/", "..", "", "/tmp/.."] {
            assert!(Filesystem::Plain.create(Path::new(path)).is_err());
            assert!(Filesystem::Plain.remove(Path::new(path)).is_err(), "{path}");
        }
    }

    #[test]
    fn a_removal_without_a_parent_directory_removes_nothing() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("no/such");
        assert!(!Filesystem::Plain.remove(&path).unwrap());
    }
}
