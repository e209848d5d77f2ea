//! When a build was last used: the time of change of its directory.
//!
//! It is set when the build takes its place, and again when the build is answered from or its
//! artifacts are read. Not the time of access: a backup would keep everything. What is
//! written down is at most [`WRITE_INTERVAL`] behind, so that many who ask for one build cost one write.

use std::os::fd::BorrowedFd;
use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use rustix::fs::{AtFlags, CWD, Stat, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT};
use rustix::io::Errno;

/// How far the time on disk may be behind the last use.
pub(super) const WRITE_INTERVAL: Duration = Duration::from_secs(60);

const NOW: Timestamps = Timestamps {
    last_access: Timespec {
        tv_sec: 0,
        tv_nsec: UTIME_OMIT,
    },
    last_modification: Timespec {
        tv_sec: 0,
        tv_nsec: UTIME_NOW,
    },
};

/// When a build was used, as its directory tells.
// The fields differ in width and sign between architectures.
#[allow(clippy::unnecessary_cast)]
pub(super) fn time(directory: &Stat) -> Timestamp {
    let nanos = i32::try_from(directory.st_mtime_nsec).unwrap_or(0);
    Timestamp::new(directory.st_mtime as i64, nanos).unwrap_or(Timestamp::MIN)
}

/// Notes that the build in an open directory is used now. Where that cannot be written, it is as if
/// it had not been used: no reason to refuse it.
pub(super) fn note(directory: BorrowedFd<'_>) {
    let is_due = rustix::fs::fstat(directory).is_ok_and(|found| {
        let ago = Timestamp::now().duration_since(time(&found));
        !(0..WRITE_INTERVAL.as_secs() as i64).contains(&ago.as_secs())
    });
    if is_due {
        let _ = rustix::fs::futimens(directory, &NOW);
    }
}

/// The same for the build at `path`. False when there is none any more.
pub(super) fn note_at(path: &Path) -> bool {
    rustix::fs::utimensat(CWD, path, &NOW, AtFlags::SYMLINK_NOFOLLOW) != Err(Errno::NOENT)
}

/// When a use of a build was last written down, as far as this process remembers.
#[derive(Debug, Default)]
pub(super) struct Noted(AtomicU64);

impl Noted {
    /// True for the one caller that is to write it down now.
    pub(super) fn is_due(&self) -> bool {
        static BEGAN: OnceLock<Instant> = OnceLock::new();
        // From 1 on: 0 is never.
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
    fn a_use_is_written_down_once_in_a_while() {
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
    fn one_of_many_is_to_write_it_down() {
        let noted = Noted::default();
        assert!(noted.is_due());
        assert!(!noted.is_due());
    }
}
