//! Btrfs: subvolumes are created, cloned and destroyed by ioctl.
//!
//! Each function is one query or one request to the kernel, about a directory that the caller has opened and
//! an entry of it. No path is resolved, no child process is started, and nothing here decides how a kernel
//! error is handled, except that [`snapshot`] distinguishes "not by a snapshot" from "not at all".
//!
//! Besides `fiemap`, this is the only file of the crate with `unsafe` in it.

use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use linux_raw_sys::btrfs::{
    BTRFS_FIRST_FREE_OBJECTID, BTRFS_SUBVOL_RDONLY, btrfs_ioctl_get_subvol_rootref_args,
    btrfs_ioctl_get_subvol_rootref_args__bindgen_ty_1 as RootRef, btrfs_ioctl_vol_args,
    btrfs_ioctl_vol_args_v2, btrfs_ioctl_vol_args_v2__bindgen_ty_1 as Reserved,
    btrfs_ioctl_vol_args_v2__bindgen_ty_2 as Named,
};
use linux_raw_sys::ctypes::c_char;
use linux_raw_sys::ioctl::{
    BTRFS_IOC_GET_SUBVOL_ROOTREF, BTRFS_IOC_SNAP_CREATE_V2, BTRFS_IOC_SNAP_DESTROY,
    BTRFS_IOC_SUBVOL_CREATE_V2, BTRFS_IOC_SUBVOL_GETFLAGS, BTRFS_IOC_SUBVOL_SETFLAGS,
};
use rustix::fs::{Stat, StatFs, fstat, fstatfs};
use rustix::io::Errno;
use rustix::ioctl::{Getter, Opcode, Setter, Updater, ioctl};

/// The statfs magic number of Btrfs; linux/magic.h.
const BTRFS_SUPER_MAGIC: u64 = 0x9123_683e;

/// Other filesystems that are common under a build path; linux/magic.h.
const OTHER_MAGICS: &[(u64, &str)] = &[
    (0xef53, "ext4"),
    (0x0102_1994, "tmpfs"),
    (0x5846_5342, "xfs"),
    (0x794c_7630, "overlayfs"),
    (0x2fc1_2fc1, "zfs"),
    (0xca45_1a4e, "bcachefs"),
    (0xf2f5_2010, "f2fs"),
    (0x6969, "nfs"),
    (0x6573_5546, "fuse"),
    (0x0102_1997, "9p"),
    (0x9fa0, "proc"),
];

pub(super) fn is_btrfs(found: &StatFs) -> bool {
    magic(found) == BTRFS_SUPER_MAGIC
}

/// The name of a filesystem, for messages.
pub(super) fn magic_name(found: &StatFs) -> String {
    let magic = magic(found);
    if magic == BTRFS_SUPER_MAGIC {
        return "btrfs".to_owned();
    }
    match OTHER_MAGICS.iter().find(|(number, _)| *number == magic) {
        Some((_, name)) => (*name).to_owned(),
        None => format!("a filesystem of type {magic:#x}"),
    }
}

// The field is signed on some architectures and narrower on others; the number has 32 bits.
#[allow(clippy::unnecessary_cast)]
fn magic(found: &StatFs) -> u64 {
    found.f_type as u64 & 0xffff_ffff
}

/// Whether a directory may be the root of a subvolume. On Btrfs this is exact; elsewhere any inode may have
/// that number, and the requests below then fail without side effects.
pub(super) fn may_be_subvolume(stat: &Stat) -> bool {
    stat.st_ino == u64::from(BTRFS_FIRST_FREE_OBJECTID)
}

/// Creates a new empty subvolume.
pub(super) fn create(parent: BorrowedFd<'_>, name: &CStr) -> Result<(), Errno> {
    request::<{ BTRFS_IOC_SUBVOL_CREATE_V2 as Opcode }>(parent, 0, name)
}

/// Creates the entry `name` of `parent` as a writable snapshot of the subvolume `source`.
///
/// Returns `false` and creates nothing when a copy is needed instead: `source` is no subvolume, contains
/// other subvolumes (a snapshot would have unusable directories in their place), is on another filesystem, or
/// may not be snapshotted by this user.
pub(super) fn snapshot(
    source: BorrowedFd<'_>,
    parent: BorrowedFd<'_>,
    name: &CStr,
) -> Result<bool, Errno> {
    if !is_subvolume(source)? || holds_subvolumes(source) {
        return Ok(false);
    }
    let from = i64::from(source.as_raw_fd());
    match request::<{ BTRFS_IOC_SNAP_CREATE_V2 as Opcode }>(parent, from, name) {
        Ok(()) => Ok(true),
        // TXTBSY: a file in it is in use as swap space.
        Err(Errno::PERM | Errno::ACCESS | Errno::XDEV | Errno::TXTBSY) => Ok(false),
        Err(errno) => Err(errno),
    }
}

/// Given a plain directory, older kernels snapshot the surrounding subvolume, so this check must be certain.
fn is_subvolume(directory: BorrowedFd<'_>) -> Result<bool, Errno> {
    Ok(may_be_subvolume(&fstat(directory)?) && is_btrfs(&fstatfs(directory)?))
}

/// Destroys the subvolume `name` of `parent` in one call. It fails without effect when the entry is no
/// subvolume, contains subvolumes, or belongs to other users; without root also when the filesystem is not
/// mounted with `user_subvol_rm_allowed`.
#[allow(unsafe_code)]
pub(super) fn destroy(parent: BorrowedFd<'_>, name: &CStr) -> Result<(), Errno> {
    let arguments = btrfs_ioctl_vol_args {
        fd: 0,
        name: name_field(name)?,
    };
    // SAFETY: SNAP_DESTROY reads a `btrfs_ioctl_vol_args` and writes nothing; its name ends with a zero
    // inside the field. On a descriptor of another filesystem the kernel rejects the number, which no other
    // filesystem uses.
    unsafe {
        ioctl(
            parent,
            Setter::<{ BTRFS_IOC_SNAP_DESTROY as Opcode }, _>::new(arguments),
        )
    }
}

/// Makes a read-only subvolume writable again, which its owner may request. Has no effect on others.
#[allow(unsafe_code)]
pub(super) fn make_writable(subvolume: BorrowedFd<'_>) -> Result<(), Errno> {
    // SAFETY: SUBVOL_GETFLAGS writes one u64, the size of the getter's buffer.
    let flags: u64 = unsafe {
        ioctl(
            subvolume,
            Getter::<{ BTRFS_IOC_SUBVOL_GETFLAGS as Opcode }, u64>::new(),
        )?
    };
    let read_only = u64::from(BTRFS_SUBVOL_RDONLY);
    if flags & read_only == 0 {
        return Ok(());
    }
    // SAFETY: SUBVOL_SETFLAGS reads one u64 and writes nothing.
    unsafe {
        ioctl(
            subvolume,
            Setter::<{ BTRFS_IOC_SUBVOL_SETFLAGS as Opcode }, u64>::new(flags & !read_only),
        )
    }
}

/// Whether a subvolume contains subvolumes at any depth. A kernel before 4.18 cannot tell, which counts as
/// no.
#[allow(unsafe_code)]
fn holds_subvolumes(subvolume: BorrowedFd<'_>) -> bool {
    let mut found = btrfs_ioctl_get_subvol_rootref_args {
        min_treeid: 0,
        rootref: [RootRef {
            treeid: 0,
            dirid: 0,
        }; 255],
        num_items: 0,
        align: [0; 7],
    };
    // SAFETY: GET_SUBVOL_ROOTREF reads and writes a `btrfs_ioctl_get_subvol_rootref_args`, of which any
    // bit pattern is valid.
    let asked = unsafe {
        ioctl(
            subvolume,
            Updater::<{ BTRFS_IOC_GET_SUBVOL_ROOTREF as Opcode }, _>::new(&mut found),
        )
    };
    // OVERFLOW: there are more entries than the answer can hold.
    found.num_items > 0 || asked == Err(Errno::OVERFLOW)
}

/// Sends one of the two requests that create a subvolume.
#[allow(unsafe_code)]
fn request<const OPCODE: Opcode>(
    parent: BorrowedFd<'_>,
    source: i64,
    name: &CStr,
) -> Result<(), Errno> {
    let arguments = btrfs_ioctl_vol_args_v2 {
        fd: source,
        transid: 0,
        flags: 0,
        __bindgen_anon_1: Reserved { unused: [0; 4] },
        __bindgen_anon_2: Named {
            name: name_field(name)?,
        },
    };
    // SAFETY: SUBVOL_CREATE_V2 and SNAP_CREATE_V2, the only callers, read a `btrfs_ioctl_vol_args_v2`
    // and, without the flag for asynchronous creation, write nothing. All of it is initialised, its
    // name ends with a zero inside the field, and no flag makes the kernel follow a pointer in it.
    unsafe { ioctl(parent.as_fd(), Setter::<OPCODE, _>::new(arguments)) }
}

/// A name in the layout of the kernel's structs, with its terminating zero.
fn name_field<const SIZE: usize>(name: &CStr) -> Result<[c_char; SIZE], Errno> {
    let mut field = [0; SIZE];
    let bytes = name.to_bytes_with_nul();
    let room = field.get_mut(..bytes.len()).ok_or(Errno::NAMETOOLONG)?;
    for (to, from) in room.iter_mut().zip(bytes) {
        *to = *from as c_char;
    }
    Ok(field)
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;

    use super::*;

    fn root() -> OwnedFd {
        std::fs::File::open("/proc").unwrap().into()
    }

    #[test]
    fn other_filesystems_refuse_the_btrfs_requests() {
        let home = tempfile::tempdir_in("/dev/shm").unwrap();
        let directory = OwnedFd::from(std::fs::File::open(home.path()).unwrap());
        assert_eq!(create(directory.as_fd(), c"x").unwrap_err(), Errno::NOTTY);
        assert_eq!(destroy(directory.as_fd(), c"x").unwrap_err(), Errno::NOTTY);
        assert!(make_writable(directory.as_fd()).is_err());
        assert!(!holds_subvolumes(directory.as_fd()));
        assert!(!snapshot(root().as_fd(), directory.as_fd(), c"x").unwrap());
    }

    #[test]
    fn a_name_must_fit_with_its_terminating_zero() {
        assert_eq!(name_field::<4>(c"abc").unwrap()[3], 0);
        assert_eq!(name_field::<4>(c"abcd").unwrap_err(), Errno::NAMETOOLONG);
    }

    #[test]
    fn filesystems_without_a_name_are_shown_by_number() {
        let found = rustix::fs::statfs("/sys").unwrap();
        assert_eq!(magic_name(&found), "a filesystem of type 0x62656572");
    }
}
