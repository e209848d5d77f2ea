//! What its owner has closed, opened for as long as a walk needs it.
//!
//! A build may take from its own user the right to read a file or to search a directory. A daemon
//! without capabilities that runs as this user may then not read them either, but it may change their
//! modes. It adds the owner's missing bits while a walk is there, and puts the original mode back when
//! the last walk has left. Meanwhile [`original`] gives the mode that the build chose. After a crash
//! the added bits stay.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, Stat, chmod, fstat, open, openat2};
use rustix::io::Errno;
use rustix::thread::{CapabilitySet, capabilities};

use parking_lot::Mutex;

use super::inode::InodeId;

/// What is open at the moment, with the number of walks that hold it. Locked over a few system calls
/// on one inode, never over a walk.
static OPENED: Mutex<BTreeMap<InodeId, Held>> = Mutex::new(BTreeMap::new());
/// How many entries `OPENED` has, so that nearly every look at a mode takes no lock. It grows before a
/// mode is changed.
static OPENED_COUNT: AtomicUsize = AtomicUsize::new(0);
/// Grows after each mode that was given back, before `OPENED_COUNT` shrinks.
static RESTORED_COUNT: AtomicU64 = AtomicU64::new(0);

struct Held {
    walks: usize,
    mode: Mode,
}

/// What the owner of a directory needs to read and search it, or the owner of a file to read it.
fn needed(stat: &Stat) -> Mode {
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => Mode::RUSR | Mode::XUSR,
        _ => Mode::RUSR,
    }
}

/// Whether this thread is the owner, lacks the bits, and has no capability that makes up for them.
fn is_closed(stat: &Stat) -> bool {
    if Mode::from_raw_mode(stat.st_mode).contains(needed(stat))
        || stat.st_uid != rustix::process::geteuid().as_raw()
    {
        return false;
    }
    let enough = CapabilitySet::DAC_OVERRIDE | CapabilitySet::DAC_READ_SEARCH;
    // Where they cannot be asked for, adding the bits does no harm.
    capabilities(None).map_or(true, |sets| !sets.effective.intersects(enough))
}

/// Looks at what `handle` leads to, of which a bare handle (`O_PATH`) is enough, and opens it to its
/// owner if it is closed. Where the second value is true, [`release`] has to follow.
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
    // Refused by a filesystem or subvolume that is read-only; then opening gives the error.
    let is_changed = change_mode(handle, mode | needed(&stat)).is_ok();
    if !is_changed {
        drop_entry(&mut held, id);
    }
    Ok((stat, is_changed))
}

/// Ends a [`hold`]: the last one gives the original mode back. A filesystem that does not let us do it
/// any more (it has become read-only) keeps the added bits.
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

/// Ends a [`hold`] of what cannot be reached any more.
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

/// Looks at an entry by `look`; gives the mode that it has when no walk holds it open.
pub(super) fn original(look: impl Fn() -> Result<Stat, Errno>) -> Result<Stat, Errno> {
    let before = RESTORED_COUNT.load(Ordering::SeqCst);
    if OPENED_COUNT.load(Ordering::SeqCst) == 0 {
        let stat = look()?;
        // Nothing was held at any moment of the look.
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

/// Opens the file `name` of `parent` for reading, also one that is closed to us, its owner; never
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

/// Opens the regular file that a bare handle leads to for reading, also one that is closed to us.
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

/// The only way to open or to change the mode of what a bare handle leads to without looking its name
/// up again.
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
