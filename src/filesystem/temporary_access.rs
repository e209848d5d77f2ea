//! Makes entries that their owner made inaccessible accessible for the duration of a walk.
//!
//! A build may remove its own user's permission to read a file or to search a directory. A daemon without
//! capabilities that runs as this user then cannot read them either, but it can change their modes. It adds
//! the owner's missing bits while a walk is there, and restores the original mode when the last walk has
//! left. Meanwhile [`with_original_mode`] returns the mode that the build chose. After a crash the added bits
//! stay.

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
static GRANTS: Mutex<BTreeMap<InodeId, Grant>> = Mutex::new(BTreeMap::new());
/// The number of entries in `GRANTS`, so that nearly every read of a mode takes no lock. It grows before a
/// mode is changed.
static GRANT_COUNT: AtomicUsize = AtomicUsize::new(0);
/// Incremented after each restored mode, before `GRANT_COUNT` shrinks.
static REVOKED_COUNT: AtomicU64 = AtomicU64::new(0);

struct Grant {
    walks: usize,
    original_mode: Mode,
}

/// The bits that an owner needs to read and search a directory, or to read a file.
fn needed_bits(stat: &Stat) -> Mode {
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => Mode::RUSR | Mode::XUSR,
        _ => Mode::RUSR,
    }
}

/// Whether this thread is the owner, lacks the bits, and has no capability that replaces them.
fn is_inaccessible(stat: &Stat) -> bool {
    if Mode::from_raw_mode(stat.st_mode).contains(needed_bits(stat))
        || stat.st_uid != rustix::process::geteuid().as_raw()
    {
        return false;
    }
    let enough = CapabilitySet::DAC_OVERRIDE | CapabilitySet::DAC_READ_SEARCH;
    // If capabilities cannot be queried, adding the bits does no harm.
    capabilities(None).map_or(true, |sets| !sets.effective.intersects(enough))
}

/// Reads the metadata of a handle's target (a bare `O_PATH` handle is enough), and adds bits for its owner if
/// it is inaccessible. If the second value is true, [`revoke`] must follow.
pub(super) fn grant(handle: BorrowedFd<'_>) -> Result<(Stat, bool), Errno> {
    let mut grants = GRANTS.lock();
    let mut stat = fstat(handle)?;
    let id = InodeId::of(&stat);
    if let Some(grant) = grants.get_mut(&id) {
        grant.walks += 1;
        set_mode(&mut stat, grant.original_mode);
        return Ok((stat, true));
    }
    if !is_inaccessible(&stat) {
        return Ok((stat, false));
    }
    let original_mode = Mode::from_raw_mode(stat.st_mode);
    grants.insert(
        id,
        Grant {
            walks: 1,
            original_mode,
        },
    );
    GRANT_COUNT.store(grants.len(), Ordering::SeqCst);
    // A read-only filesystem or subvolume refuses this; then opening returns the error.
    let is_changed = change_mode(handle, original_mode | needed_bits(&stat)).is_ok();
    if !is_changed {
        remove_grant(&mut grants, id);
    }
    Ok((stat, is_changed))
}

/// Ends a [`grant`]: the last one restores the original mode. On a filesystem that no longer allows it (it
/// has become read-only) the added bits stay.
pub(super) fn revoke(handle: BorrowedFd<'_>, id: InodeId) {
    let mut grants = GRANTS.lock();
    if let Some(grant) = grants.get_mut(&id) {
        grant.walks -= 1;
        if grant.walks == 0 {
            let _ = change_mode(handle, grant.original_mode);
            remove_grant(&mut grants, id);
        }
    }
}

/// Ends a [`grant`] of an entry that can no longer be reached.
pub(super) fn revoke_unreachable(id: InodeId) {
    let mut grants = GRANTS.lock();
    if let Some(grant) = grants.get_mut(&id) {
        grant.walks -= 1;
        if grant.walks == 0 {
            remove_grant(&mut grants, id);
        }
    }
}

fn remove_grant(grants: &mut BTreeMap<InodeId, Grant>, id: InodeId) {
    grants.remove(&id);
    REVOKED_COUNT.fetch_add(1, Ordering::SeqCst);
    GRANT_COUNT.store(grants.len(), Ordering::SeqCst);
}

/// Reads an entry's metadata by `read`, with the mode that it has when no walk has been granted access.
pub(super) fn with_original_mode(read: impl Fn() -> Result<Stat, Errno>) -> Result<Stat, Errno> {
    let before = REVOKED_COUNT.load(Ordering::SeqCst);
    if GRANT_COUNT.load(Ordering::SeqCst) == 0 {
        let stat = read()?;
        // No entry was granted access at any time during the read.
        if GRANT_COUNT.load(Ordering::SeqCst) == 0 && REVOKED_COUNT.load(Ordering::SeqCst) == before
        {
            return Ok(stat);
        }
    }
    // No mode changes while this is locked.
    let grants = GRANTS.lock();
    let mut stat = read()?;
    if let Some(grant) = grants.get(&InodeId::of(&stat)) {
        set_mode(&mut stat, grant.original_mode);
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
    let (stat, is_granted) = grant(handle)?;
    let opened = open(
        path(handle),
        OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC,
        Mode::empty(),
    );
    if is_granted {
        revoke(handle, InodeId::of(&stat));
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
