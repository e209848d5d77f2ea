//! Makes entries that their owner made inaccessible accessible for the duration of a walk.
//!
//! A build may remove its own user's permission to read a file or to search a directory. A daemon without
//! capabilities that runs as this user then cannot read them either, but it can change their modes. It adds
//! the owner's missing bits while a walk is there, and restores the original mode when the last walk has
//! left. Meanwhile [`original`] returns the mode that the build chose. After a crash the added bits stay.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, Stat, chmod, fstat, open, openat2};
use rustix::io::Errno;
use rustix::thread::{CapabilitySet, capabilities};

use parking_lot::Mutex;

use super::inode::InodeId;

/// Entries with added bits, with the number of walks that hold them. Locked for a few system calls on one
/// inode, never for a walk.
static OPENED: Mutex<BTreeMap<InodeId, Held>> = Mutex::new(BTreeMap::new());
/// The number of entries in `OPENED`, so that nearly every read of a mode takes no lock. It grows before a
/// mode is changed.
static OPENED_COUNT: AtomicUsize = AtomicUsize::new(0);
/// Incremented after each restored mode, before `OPENED_COUNT` shrinks.
static RESTORED_COUNT: AtomicU64 = AtomicU64::new(0);

struct Held {
    walks: usize,
    mode: Mode,
}

/// The bits that an owner needs to read and search a directory, or to read a file.
fn needed(stat: &Stat) -> Mode {
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => Mode::RUSR | Mode::XUSR,
        _ => Mode::RUSR,
    }
}

/// Whether this thread is the owner, lacks the bits, and has no capability that replaces them.
fn is_closed(stat: &Stat) -> bool {
    if Mode::from_raw_mode(stat.st_mode).contains(needed(stat))
        || stat.st_uid != rustix::process::geteuid().as_raw()
    {
        return false;
    }
    let enough = CapabilitySet::DAC_OVERRIDE | CapabilitySet::DAC_READ_SEARCH;
    // If capabilities cannot be queried, adding the bits does no harm.
    capabilities(None).map_or(true, |sets| !sets.effective.intersects(enough))
}

/// Reads the metadata of a handle's target (a bare `O_PATH` handle is enough), and adds bits for its owner if
/// it is inaccessible. If the second value is true, [`release`] must follow.
pub(super) fn hold(handle: BorrowedFd<'_>) -> Result<(Stat, bool), Errno> {
    let mut held = OPENED.lock();
    let mut stat = fstat(handle)?;
    let id = InodeId::of(&stat);
    if let Some(entry) = held.get_mut(&id) {
        entry.walks += 1;
        set_mode(&mut stat, entry.mode);
        return Ok((stat, true));
    }
    if !is_closed(&stat) {
        return Ok((stat, false));
    }
    let mode = Mode::from_raw_mode(stat.st_mode);
    held.insert(id, Held { walks: 1, mode });
    OPENED_COUNT.store(held.len(), Ordering::SeqCst);
    // A read-only filesystem or subvolume refuses this; then opening returns the error.
    let is_changed = change_mode(handle, mode | needed(&stat)).is_ok();
    if !is_changed {
        drop_entry(&mut held, id);
    }
    Ok((stat, is_changed))
}

/// Ends a [`hold`]: the last one restores the original mode. On a filesystem that no longer allows it (it has
/// become read-only) the added bits stay.
pub(super) fn release(handle: BorrowedFd<'_>, id: InodeId) {
    let mut held = OPENED.lock();
    if let Some(entry) = held.get_mut(&id) {
        entry.walks -= 1;
        if entry.walks == 0 {
            let _ = change_mode(handle, entry.mode);
            drop_entry(&mut held, id);
        }
    }
}

/// Ends a [`hold`] of an entry that can no longer be reached.
pub(super) fn forget(id: InodeId) {
    let mut held = OPENED.lock();
    if let Some(entry) = held.get_mut(&id) {
        entry.walks -= 1;
        if entry.walks == 0 {
            drop_entry(&mut held, id);
        }
    }
}

fn drop_entry(held: &mut BTreeMap<InodeId, Held>, id: InodeId) {
    held.remove(&id);
    RESTORED_COUNT.fetch_add(1, Ordering::SeqCst);
    OPENED_COUNT.store(held.len(), Ordering::SeqCst);
}

/// Reads an entry's metadata by `look`, with the mode that it has when no walk holds it.
pub(super) fn original(look: impl Fn() -> Result<Stat, Errno>) -> Result<Stat, Errno> {
    let before = RESTORED_COUNT.load(Ordering::SeqCst);
    if OPENED_COUNT.load(Ordering::SeqCst) == 0 {
        let stat = look()?;
        // No entry was held at any time during the read.
        if OPENED_COUNT.load(Ordering::SeqCst) == 0
            && RESTORED_COUNT.load(Ordering::SeqCst) == before
        {
            return Ok(stat);
        }
    }
    // No mode changes while this is locked.
    let held = OPENED.lock();
    let mut stat = look()?;
    if let Some(entry) = held.get(&InodeId::of(&stat)) {
        set_mode(&mut stat, entry.mode);
    }
    Ok(stat)
}

/// Opens the file `name` of `parent` for reading, even if its owner, this user, lacks permission; never
/// through a link, and never waiting for the writer of a FIFO.
pub(super) fn open_file(parent: BorrowedFd<'_>, name: &std::ffi::CStr) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    match rustix::fs::openat(parent, name, flags, Mode::empty()) {
        Err(Errno::ACCESS) => {}
        result => return result,
    }
    let resolve = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let handle = openat2(parent, name, flags, Mode::empty(), resolve)?;
    reopen(handle.as_fd())
}

/// Opens the regular file of a bare handle for reading, even if this user lacks permission.
pub(super) fn reopen(handle: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    let stat = fstat(handle)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(Errno::ACCESS);
    }
    let (stat, is_held) = hold(handle)?;
    let opened = open(
        path(handle),
        OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC,
        Mode::empty(),
    );
    if is_held {
        release(handle, InodeId::of(&stat));
    }
    opened
}

/// The only way to open or chmod the target of a bare handle without looking its name up again.
pub(super) fn path(handle: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", handle.as_raw_fd())
}

fn change_mode(handle: BorrowedFd<'_>, mode: Mode) -> Result<(), Errno> {
    chmod(path(handle), mode)
}

fn set_mode(stat: &mut Stat, mode: Mode) {
    let kind = FileType::from_raw_mode(stat.st_mode).as_raw_mode();
    stat.st_mode = kind | mode.as_raw_mode();
}
