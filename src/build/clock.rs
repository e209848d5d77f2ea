//! Measures durations by a clock that is never set.
//!
//! The wall clock of a host may be set at any time: by a person, by NTP after a boot without a hardware
//! clock, after a suspend. Therefore:
//!
//! - Durations are measured by `CLOCK_MONOTONIC`, the time since the host booted without the time for which
//!   it was suspended. Containers do not run while it is suspended.
//! - All processes of a boot share that clock, so a record can store it for the next process. No container
//!   outlives a boot, so no measurement here has to.
//! - Wall clock times from others (the Engine reports when a container ended and when a line was printed) are
//!   trusted if both clocks have advanced equally since. If they have not, the wall clock was set, or the
//!   host was suspended: then that time is unknown, and is not held against a build that may be fine.

use std::time::Duration;

use jiff::Timestamp;
use rustix::time::{ClockId, clock_gettime};

/// How far both clocks may be apart: NTP adjusts by at most 0.05 percent of the time, and the report of a
/// killed container or a written line may arrive a moment later.
const TOLERANCE: Duration = Duration::from_secs(5);

/// The clocks of the host at one time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Clocks {
    wall: Timestamp,
    /// Milliseconds of `CLOCK_MONOTONIC`.
    uptime: i64,
}

impl Clocks {
    fn now() -> Clocks {
        let now = clock_gettime(ClockId::Monotonic);
        Clocks {
            wall: Timestamp::now(),
            uptime: now.tv_sec * 1_000 + now.tv_nsec / 1_000_000,
        }
    }
}

/// The time at which something started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Since {
    wall: Timestamp,
    /// `None` in records without it; then only the wall clock is used.
    uptime: Option<i64>,
}

impl Since {
    /// Right now.
    pub fn now() -> Since {
        let Clocks { wall, uptime } = Clocks::now();
        Since {
            wall,
            uptime: Some(uptime),
        }
    }

    /// From a record of this boot.
    pub(super) fn recorded(wall: Timestamp, uptime: Option<i64>) -> Since {
        Since { wall, uptime }
    }

    /// By the wall clock.
    pub(super) fn wall(&self) -> Timestamp {
        self.wall
    }

    /// Milliseconds of uptime, for a record.
    pub(super) fn uptime(&self) -> Option<i64> {
        self.uptime
    }

    /// The elapsed time; never negative.
    pub fn elapsed(&self) -> Duration {
        self.elapsed_at(Clocks::now())
    }

    fn elapsed_at(&self, now: Clocks) -> Duration {
        match self.uptime {
            Some(uptime) => milliseconds(now.uptime.saturating_sub(uptime)),
            None => between(self.wall, now.wall).unwrap_or_default(),
        }
    }

    /// The time elapsed at a given wall clock time; `None` where that clock is inconsistent, so that it is
    /// unknown.
    pub fn until(&self, moment: Timestamp) -> Option<Duration> {
        self.until_at(moment, Clocks::now())
    }

    fn until_at(&self, moment: Timestamp, now: Clocks) -> Option<Duration> {
        let by_wall_clock = between(self.wall, moment)?;
        let passed = between(self.wall, now.wall)?;
        let elapsed = self.elapsed_at(now);
        let tolerance = TOLERANCE + elapsed / 1_000;
        let is_steady = passed.abs_diff(elapsed) <= tolerance;
        (is_steady && by_wall_clock <= passed + tolerance).then(|| by_wall_clock.min(elapsed))
    }

    /// The time that is `by` later.
    #[must_use]
    pub fn later(&self, by: Duration) -> Since {
        let milliseconds = i64::try_from(by.as_millis()).unwrap_or(i64::MAX);
        Since {
            wall: self.wall.checked_add(by).unwrap_or(Timestamp::MAX),
            uptime: self.uptime.map(|at| at.saturating_add(milliseconds)),
        }
    }
}

/// `None` where the second is before the first.
fn between(first: Timestamp, second: Timestamp) -> Option<Duration> {
    second.duration_since(first).try_into().ok()
}

fn milliseconds(count: i64) -> Duration {
    Duration::from_millis(u64::try_from(count).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: i64 = 3_600;

    /// Both clocks, `uptime` seconds after the start; the wall clock was set by `set` since.
    fn after(uptime: i64, set: i64) -> Clocks {
        Clocks {
            wall: Timestamp::from_second(1_800_000_000 + uptime + set).unwrap(),
            uptime: (100 + uptime) * 1_000,
        }
    }

    fn begun(has_uptime: bool) -> Since {
        let Clocks { wall, uptime } = after(0, 0);
        Since::recorded(wall, has_uptime.then_some(uptime))
    }

    fn seconds(count: i64) -> Duration {
        milliseconds(count * 1_000)
    }

    #[test]
    fn elapsed_time_does_not_depend_on_the_wall_clock() {
        for set in [0, 10 * HOUR, -10 * HOUR, 400 * 24 * HOUR] {
            assert_eq!(begun(true).elapsed_at(after(60, set)), seconds(60), "{set}");
        }
        // If nothing else is known, the wall clock counts, but never backwards.
        assert_eq!(begun(false).elapsed_at(after(60, 0)), seconds(60));
        assert_eq!(begun(false).elapsed_at(after(60, -HOUR)), Duration::ZERO);
    }

    #[test]
    fn a_moment_is_trusted_if_both_clocks_agree() {
        let at = |uptime, set| after(uptime, set).wall;
        for (moment, now, expected) in [
            (at(30, 0), after(60, 0), Some(seconds(30))),
            (at(60, 2), after(60, 2), Some(seconds(60))),
            // A day in which NTP adjusted the clock.
            (at(10, 0), after(24 * HOUR, 40), Some(seconds(10))),
            // Set forward or back, before or after that time; or suspended.
            (at(30, 0), after(60, 10 * HOUR), None),
            (at(30, 10 * HOUR), after(60, 10 * HOUR), None),
            (at(30, 0), after(60, -HOUR), None),
            (at(30, -HOUR), after(60, -HOUR), None),
            // Reported by another host's clock, perhaps.
            (at(-30, 0), after(60, 0), None),
            (at(600, 0), after(60, 0), None),
        ] {
            assert_eq!(
                begun(true).until_at(moment, now),
                expected,
                "{moment} {now:?}"
            );
        }
        let now = after(60, 0);
        assert_eq!(begun(false).until_at(at(30, 0), now), Some(seconds(30)));
    }

    #[test]
    fn time_is_counted_from_the_later_of_two_moments() {
        let later = begun(true).later(seconds(20));
        assert_eq!(later.elapsed_at(after(60, HOUR)), seconds(40));
        assert!(Since::now().elapsed() < seconds(60));
        assert_eq!(Since::now().later(seconds(60)).elapsed(), Duration::ZERO);
    }
}
