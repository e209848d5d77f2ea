//! Copies the metadata of an entry: owner, mode, times, attributes.
//!
//! Owners are preserved as far as chown is permitted. Otherwise the copy belongs to this user, and then it
//! loses the set-user-id and set-group-id bits: they were not set for this user.

use std::ffi::CStr;
use std::os::fd::BorrowedFd;

use rustix::buffer::spare_capacity;
use rustix::fs::{
    AtFlags, FileType, Gid, Mode, Stat, Timespec, Timestamps, Uid, XattrFlags, chmodat, chownat,
    fchmod, fchown, fgetxattr, flistxattr, flistxattr_query, fsetxattr, fstat, futimens, mknodat,
    statat, utimensat,
};
use rustix::io::Errno;

/// The kernel's limit for the list of attributes of a file and for each value.
const ATTRIBUTE_BYTES: usize = 64 * 1024;

/// Gives the copy `target` the owner, mode and times of its original.
pub(super) fn copy(target: BorrowedFd<'_>, original: &Stat) -> Result<(), Errno> {
    copy_all(None, target, original)
}

/// The same, with the attributes that `from` has.
pub(super) fn copy_with_attributes(
    from: BorrowedFd<'_>,
    target: BorrowedFd<'_>,
    original: &Stat,
) -> Result<(), Errno> {
    copy_all(Some(from), target, original)
}

/// The order matters: a new owner clears capabilities and set-id bits, and a mode may forbid setting
/// attributes.
fn copy_all(
    from: Option<BorrowedFd<'_>>,
    target: BorrowedFd<'_>,
    original: &Stat,
) -> Result<(), Errno> {
    let give = |user, group| fchown(target, user, group);
    let kept = copy_owner(&fstat(target)?, original, give)?;
    if let Some(from) = from {
        copy_attributes(from, target, kept)?;
    }
    fchmod(target, mode(original, kept))?;
    futimens(target, &times(original))
}

/// Creates a FIFO, a socket or a device like the original; returns whether that was permitted. Only this user
/// can access the directory, so the name means the same throughout.
pub(super) fn make_special(
    at: BorrowedFd<'_>,
    name: &CStr,
    original: &Stat,
) -> Result<bool, Errno> {
    let kind = FileType::from_raw_mode(original.st_mode);
    match mknodat(at, name, kind, Mode::RUSR | Mode::WUSR, original.st_rdev) {
        // Devices require a capability.
        Err(Errno::PERM) if kind.is_char_device() || kind.is_block_device() => return Ok(false),
        made => made?,
    }
    let kept = copy_owner_of_entry(at, name, original)?;
    chmodat(at, name, mode(original, kept), AtFlags::empty())?;
    utimensat(at, name, &times(original), AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(true)
}

/// Sets the owner of an entry that cannot be opened; returns whether that worked.
pub(super) fn copy_owner_of_entry(
    at: BorrowedFd<'_>,
    name: &CStr,
    original: &Stat,
) -> Result<bool, Errno> {
    let made = statat(at, name, AtFlags::SYMLINK_NOFOLLOW)?;
    let give = |user, group| chownat(at, name, user, group, AtFlags::SYMLINK_NOFOLLOW);
    copy_owner(&made, original, give)
}

fn copy_owner(
    made: &Stat,
    original: &Stat,
    give: impl Fn(Option<Uid>, Option<Gid>) -> Result<(), Errno>,
) -> Result<bool, Errno> {
    let user = (made.st_uid != original.st_uid).then(|| Uid::from_raw(original.st_uid));
    let group = (made.st_gid != original.st_gid).then(|| Gid::from_raw(original.st_gid));
    if user.is_none() && group.is_none() {
        return Ok(true);
    }
    // INVAL: an owner that is not mapped in this user namespace.
    match give(user, group) {
        Ok(()) => Ok(true),
        Err(Errno::PERM | Errno::INVAL) => {
            // A group of this user may be set even where the owner may not.
            if user.is_some() && group.is_some() {
                match give(None, group) {
                    Ok(()) | Err(Errno::PERM | Errno::INVAL) => {}
                    Err(errno) => return Err(errno),
                }
            }
            Ok(false)
        }
        Err(errno) => Err(errno),
    }
}

fn mode(original: &Stat, is_owner_copied: bool) -> Mode {
    let mode = Mode::from_raw_mode(original.st_mode);
    if is_owner_copied {
        mode
    } else {
        mode - (Mode::SUID | Mode::SGID)
    }
}

/// The times of access and change.
// The fields differ in width and sign between architectures.
#[allow(clippy::unnecessary_cast)]
pub(super) fn times(original: &Stat) -> Timestamps {
    Timestamps {
        last_access: Timespec {
            tv_sec: original.st_atime as _,
            tv_nsec: original.st_atime_nsec as _,
        },
        last_modification: Timespec {
            tv_sec: original.st_mtime as _,
            tv_nsec: original.st_mtime_nsec as _,
        },
    }
}

/// Copies the attributes that `cp -a` copies and a build can have: user attributes, access control lists, and
/// if the owner is preserved the capabilities of programs; as far as the filesystem of the copy and this
/// user's rights allow. Labels of security modules belong to the host.
fn copy_attributes(
    from: BorrowedFd<'_>,
    to: BorrowedFd<'_>,
    is_owner_copied: bool,
) -> Result<(), Errno> {
    // Hardly any file has attributes, and this query needs no buffer.
    match flistxattr_query(from) {
        Ok(0) | Err(Errno::OPNOTSUPP) => return Ok(()),
        Ok(_) => {}
        Err(errno) => return Err(errno),
    }
    let mut names = Vec::with_capacity(ATTRIBUTE_BYTES);
    flistxattr(from, spare_capacity(&mut names))?;
    let mut value = Vec::with_capacity(ATTRIBUTE_BYTES);
    for name in names.split_inclusive(|byte| *byte == 0) {
        let Ok(name) = CStr::from_bytes_with_nul(name) else {
            continue;
        };
        let is_copied = match name.to_bytes() {
            b"security.capability" => is_owner_copied,
            b"system.posix_acl_access" | b"system.posix_acl_default" => true,
            other => other.starts_with(b"user."),
        };
        if !is_copied {
            continue;
        }
        value.clear();
        match fgetxattr(from, name, spare_capacity(&mut value)) {
            Ok(_) => {}
            Err(Errno::NODATA) => continue,
            Err(errno) => return Err(errno),
        }
        match fsetxattr(to, name, &value, XattrFlags::empty()) {
            // Filesystems limit attributes differently, down to none; and capabilities require a capability.
            // capabilities take a capability.
            Ok(())
            | Err(Errno::OPNOTSUPP | Errno::NOSPC | Errno::TOOBIG | Errno::RANGE | Errno::PERM) => {
            }
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn a_copy_whose_owner_could_not_be_set_is_not_set_user_id() {
        let file = tempfile::tempfile().unwrap();
        fchmod(&file, Mode::from_raw_mode(0o6755)).unwrap();
        let original = fstat(&file).unwrap();
        assert_eq!(mode(&original, true).bits(), 0o6755);
        assert_eq!(mode(&original, false).bits(), 0o755);
    }

    #[test]
    fn an_owner_that_cannot_be_set_is_skipped_and_the_group_is_tried() {
        let made = fstat(tempfile::tempfile().unwrap()).unwrap();
        let mut original = made;
        original.st_uid += 1;
        original.st_gid += 1;
        let calls = std::cell::RefCell::new(Vec::new());
        let kept = copy_owner(&made, &original, |user, group| {
            calls.borrow_mut().push((user.is_some(), group.is_some()));
            Err(Errno::PERM)
        });
        assert!(!kept.unwrap());
        assert_eq!(*calls.borrow(), [(true, true), (false, true)]);
        let full = copy_owner(&made, &original, |_, _| Err(Errno::NOSPC));
        assert_eq!(full.unwrap_err(), Errno::NOSPC);
    }

    #[test]
    fn times_are_kept_to_the_nanosecond_and_before_1970() {
        let file = tempfile::tempfile().unwrap();
        let mut original = fstat(&file).unwrap();
        (original.st_mtime, original.st_mtime_nsec) = (-5, 123_456_789);
        (original.st_atime, original.st_atime_nsec) = (1_000_000_000, 987_654_321);
        copy(file.as_fd(), &original).unwrap();
        let kept = fstat(&file).unwrap();
        assert_eq!((kept.st_mtime, kept.st_mtime_nsec), (-5, 123_456_789));
        assert_eq!(
            (kept.st_atime, kept.st_atime_nsec),
            (1_000_000_000, 987_654_321)
        );
    }

    #[test]
    fn a_file_without_attributes_is_no_error() {
        let from = File::open("/proc/self/status").unwrap();
        let to = tempfile::tempfile().unwrap();
        copy_attributes(from.as_fd(), to.as_fd(), true).unwrap();
    }
}
