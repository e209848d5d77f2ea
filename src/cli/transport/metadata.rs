//! Identity, times and modes of files.

use std::os::fd::BorrowedFd;

use rustix::fs::{Mode, Stat, Timespec, Timestamps, UTIME_OMIT};
use rustix::io::Errno;

/// Permission bits that artifacts keep; set-id and sticky bits have no use for another owner.
pub(super) const KEPT_MODE: u32 = 0o777;

/// A modification time, as exact as its source; a filesystem rounds it to what it can store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Modified {
    /// Since 1970; negative before.
    pub seconds: i64,
    /// Added to the seconds; less than a second.
    pub nanos: u32,
}

impl Modified {
    /// The time of an existing file or directory.
    // The fields differ in width and sign between architectures.
    #[allow(clippy::unnecessary_cast)]
    pub(super) fn of(stat: &Stat) -> Modified {
        Modified {
            seconds: stat.st_mtime as i64,
            nanos: stat.st_mtime_nsec as u32,
        }
    }

    /// The times to set: the access time stays.
    pub(super) fn timestamps(self) -> Timestamps {
        Timestamps {
            last_access: Timespec {
                tv_sec: 0,
                tv_nsec: UTIME_OMIT,
            },
            last_modification: Timespec {
                tv_sec: self.seconds,
                tv_nsec: i64::from(self.nanos.min(999_999_999)),
            },
        }
    }
}

/// Sets exactly this mode, independent of the umask and inherited ACLs.
pub(super) fn set_mode(of: BorrowedFd<'_>, mode: u32) -> Result<(), Errno> {
    let stat = rustix::fs::fstat(of)?;
    if stat.st_mode & 0o7777 == mode {
        return Ok(());
    }
    match rustix::fs::fchmod(of, Mode::from_raw_mode(mode)) {
        // A filesystem without modes, such as FAT, refuses this to the owner, too.
        Err(Errno::PERM | Errno::OPNOTSUPP)
            if stat.st_uid == rustix::process::geteuid().as_raw() =>
        {
            Ok(())
        }
        set => set,
    }
}
