//! When a build was last used: the modification time of its directory.
//!
//! It is set when the build is put in place, and again when the build answers a job or its artifacts are
//! read. The access time is not used: a backup would keep everything. The stored time is at most
//! [`WRITE_INTERVAL`] behind, so that many requests for one build cost one write.

use std::os::fd::BorrowedFd;
use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use rustix::fs::{AtFlags, CWD, Stat, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT};
use rustix::io::Errno;

/// How far the stored time may be behind the last use.
pub(super) const WRITE_INTERVAL: Duration = Duration::from_secs(60);

const MODIFIED_NOW: Timestamps = Timestamps {
    last_access: Timespec {
        tv_sec: 0,
        tv_nsec: UTIME_OMIT,
    },
    last_modification: Timespec {
        tv_sec: 0,
        tv_nsec: UTIME_NOW,
    },
};

/// The last use of a build, from its directory's metadata.
// The fields differ in width and sign between architectures.
#[allow(clippy::unnecessary_cast)]
pub(super) fn time(directory: &Stat) -> Timestamp {
    let nanos = i32::try_from(directory.st_mtime_nsec).unwrap_or(0);
    Timestamp::new(directory.st_mtime as i64, nanos).unwrap_or(Timestamp::MIN)
}

/// Records that the build in an open directory is used now. If that cannot be written, the build counts as
/// not used: no reason to refuse it.
pub(super) fn note(directory: BorrowedFd<'_>) {
    let is_due = rustix::fs::fstat(directory).is_ok_and(|found| {
        let ago = Timestamp::now().duration_since(time(&found));
        !(0..WRITE_INTERVAL.as_secs() as i64).contains(&ago.as_secs())
    });
    if is_due {
        let _ = rustix::fs::futimens(directory, &MODIFIED_NOW);
    }
}

/// The same for the build at `path`. False if it no longer exists.
pub(super) fn note_at(path: &Path) -> bool {
    rustix::fs::utimensat(CWD, path, &MODIFIED_NOW, AtFlags::SYMLINK_NOFOLLOW) != Err(Errno::NOENT)
}

/// When a use of a build was last written, as far as this process knows.
#[derive(Debug, Default)]
pub(super) struct Noted(AtomicU64);

impl Noted {
    /// True for the one caller that must write it now.
    pub(super) fn is_due(&self) -> bool {
        static BEGAN: OnceLock<Instant> = OnceLock::new();
        // Starts at 1: 0 means never.
        let now = BEGAN.get_or_init(Instant::now).elapsed().as_secs() + 1;
        let last = self.0.load(Ordering::Relaxed);
        let is_late = last == 0 || now.saturating_sub(last) >= WRITE_INTERVAL.as_secs();
        let swap = |last| {
            let (order, failed) = (Ordering::Relaxed, Ordering::Relaxed);
            self.0.compare_exchange(last, now, order, failed)
        };
        is_late && swap(last).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsFd;
    use std::time::SystemTime;

    use super::*;

    #[test]
    fn uses_are_recorded_at_a_limited_rate() {
        let home = tempfile::tempdir().unwrap();
        let directory = File::open(home.path()).unwrap();
        let set = |ago: u64| {
            let then = SystemTime::now() - Duration::from_secs(ago);
            directory.set_modified(then).unwrap();
            time(&rustix::fs::fstat(&directory).unwrap())
        };
        let now = || time(&rustix::fs::fstat(&directory).unwrap());
        let recent = set(10);
        note(directory.as_fd());
        assert_eq!(now(), recent);
        let old = set(3600);
        note(directory.as_fd());
        assert!(now() > old);
        let old = set(3600);
        assert!(note_at(home.path()));
        assert!(now() > old);
        assert!(!note_at(&home.path().join("none")));
    }

    #[test]
    fn one_of_many_concurrent_users_records_the_use() {
        let noted = Noted::default();
        assert!(noted.is_due());
        assert!(!noted.is_due());
    }
}
