//! Decides whether the wall clock is reliable enough to judge how old builds are.
//!
//! The last use of a build is stored as wall clock time. If that clock was set forward, all builds look old
//! at once, and `max_age` would remove everything. So the store keeps a mark: the last wall clock reading,
//! with `CLOCK_BOOTTIME`, which is never set and counts during a suspend. The rules:
//!
//! - Within a boot, both clocks must have advanced equally, but for [`CLOCK_STEP_THRESHOLD`].
//! - Across a reboot the time that the host was off is unknown. The time from the last sign of activity (the
//!   mark, or the last use of a build) to the boot may be [`MAX_UNDOUBTED_DOWNTIME`]: builds look older than
//!   they are by no more.
//! - Otherwise the clock was set forward, and ages are doubted for [`DOUBT_PERIOD`] from then on: a wrong
//!   clock is noticed and corrected in that time, and a right one costs only a day's delay.
//! - A clock that was set back makes builds look younger, which removes nothing. The mark stays until the
//!   clock reaches it again, unless the mark was doubted itself.

use std::time::Duration;

use jiff::Timestamp;
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

use super::replace::{self, Durability};
use super::store::BuildStore;
use super::{Since, record};

/// How far the wall clock may advance ahead of the boot clock: adjustments never reach this.
const CLOCK_STEP_THRESHOLD: Duration = Duration::from_secs(3_600);

/// How long a host may be off before ages are doubted.
const MAX_UNDOUBTED_DOWNTIME: Duration = Duration::from_secs(7 * 24 * 3_600);

/// How long ages are doubted after a step.
const DOUBT_PERIOD: Duration = Duration::from_secs(24 * 3_600);

/// The largest size of a mark file.
const MAX_MARK_BYTES: u64 = 4_096;

/// Readings of both clocks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Mark {
    /// The kernel's id of the boot.
    boot: String,
    wall: Timestamp,
    /// Milliseconds of `CLOCK_BOOTTIME`.
    uptime: i64,
    /// The time until which ages are doubted.
    #[serde(default)]
    doubted_until: Option<Timestamp>,
}

impl Mark {
    fn now(boot: &str) -> Mark {
        let uptime = clock_gettime(ClockId::Boottime);
        Mark {
            boot: boot.to_owned(),
            wall: Since::now().wall(),
            uptime: uptime.tv_sec * 1_000 + uptime.tv_nsec / 1_000_000,
            doubted_until: None,
        }
    }

    /// The wall clock time of the boot, as the clock runs now.
    fn booted(&self) -> Timestamp {
        let uptime = Duration::from_millis(u64::try_from(self.uptime).unwrap_or(0));
        self.wall.checked_sub(uptime).unwrap_or(Timestamp::MIN)
    }

    /// This current mark as the successor of `before`; the last use of any build is a sign of activity.
    fn after(mut self, before: &Mark, last_use: Option<Timestamp>) -> Mark {
        let doubted = before.doubted_until;
        let (ahead, allowed) = match before.boot == self.boot {
            true => (
                self.booted().duration_since(before.booted()),
                CLOCK_STEP_THRESHOLD,
            ),
            false => {
                // A use after the boot was recorded by the clock that is in question.
                let last_use = last_use.filter(|used| *used <= self.booted());
                let alive = last_use.map_or(before.wall, |used| used.max(before.wall));
                (self.booted().duration_since(alive), MAX_UNDOUBTED_DOWNTIME)
            }
        };
        let is_ahead = Duration::try_from(ahead).is_ok_and(|ahead| ahead > allowed);
        let is_behind = self.wall < before.wall;
        if is_behind && doubted.is_none() {
            return before.clone();
        }
        self.doubted_until = match is_ahead {
            true => self.wall.checked_add(DOUBT_PERIOD).ok(),
            // A doubted clock that was set back has been corrected.
            false => doubted.filter(|until| !is_behind && *until > self.wall),
        };
        self
    }
}

impl BuildStore {
    /// Checks the clock: the time until which ages are doubted, if they are. A disk that cannot store a mark
    /// is no reason to doubt.
    pub(super) fn doubt_ages(&self, last_use: Option<Timestamp>) -> Option<Timestamp> {
        let now = Mark::now(&self.boot);
        let before = self.read_mark();
        let mark = match &before {
            Some(before) => now.after(before, last_use),
            None => now,
        };
        self.write_mark(&mark);
        mark.doubted_until
    }

    /// Checks the clock when the store is opened. After a reboot this is left to the caller that knows the
    /// last uses of builds.
    pub(super) fn mark_clock(&self) {
        if self.read_mark().is_none_or(|mark| mark.boot == self.boot) {
            self.doubt_ages(None);
        }
    }

    fn read_mark(&self) -> Option<Mark> {
        let file = record::open_regular(&self.layout.clock()).ok()??;
        let mut text = Vec::new();
        std::io::Read::read_to_end(&mut std::io::Read::take(file, MAX_MARK_BYTES), &mut text)
            .ok()?;
        serde_json::from_slice(&text).ok()
    }

    fn write_mark(&self, mark: &Mark) {
        if let Ok(text) = serde_json::to_vec(mark) {
            // If this fails, the next check compares with the previous mark.
            let _ = replace::replace(&self.layout.clock(), &text, 0o640, Durability::Whole);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: i64 = 3_600;
    const DAY: i64 = 24 * HOUR;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    fn mark(boot: &str, wall: i64, uptime: i64) -> Mark {
        Mark {
            boot: boot.to_owned(),
            wall: at(wall),
            uptime: uptime * 1_000,
            doubted_until: None,
        }
    }

    fn doubted(mark: Mark, until: i64) -> Mark {
        Mark {
            doubted_until: Some(at(until)),
            ..mark
        }
    }

    #[test]
    fn a_clock_that_advances_normally_is_trusted() {
        let before = mark("a", 0, 100);
        for passed in [1, DAY, 400 * DAY] {
            let now = mark("a", passed + 30, 100 + passed);
            assert_eq!(now.clone().after(&before, None), now);
        }
        // Off for some days; or for longer, with builds used since then.
        let now = mark("b", 6 * DAY, 100);
        assert_eq!(now.clone().after(&before, None), now);
        let now = mark("b", 400 * DAY, 100);
        assert_eq!(now.clone().after(&before, Some(at(395 * DAY))), now);
    }

    #[test]
    fn a_clock_that_was_set_forward_is_not_trusted_for_a_day() {
        let before = mark("a", 0, 100);
        let step = mark("a", 10 * HOUR, 160);
        let first = step.clone().after(&before, None);
        assert_eq!(first, doubted(step, 34 * HOUR));
        // It runs correctly: then it is trusted.
        let soon = mark("a", 33 * HOUR, 160 + 23 * HOUR);
        let still = soon.clone().after(&first, None);
        assert_eq!(still, doubted(soon, 34 * HOUR));
        let later = mark("a", 35 * HOUR, 160 + 25 * HOUR);
        assert_eq!(later.clone().after(&still, None), later);
        // Or it is corrected.
        let right = mark("a", HOUR, 160 + HOUR);
        assert_eq!(right.clone().after(&first, None), right);
        // After a reboot, uses recorded by the clock in question prove nothing.
        let now = mark("b", 400 * DAY, 100);
        let doubt = now.clone().after(&before, Some(at(400 * DAY - 1)));
        assert_eq!(doubt, doubted(now, 401 * DAY));
    }

    #[test]
    fn a_clock_that_is_set_back_and_corrected_is_trusted() {
        let before = mark("a", 0, 100);
        let back = mark("b", -20_000 * DAY, 10).after(&before, None);
        assert_eq!(back, before);
        let again = mark("b", DAY, 70);
        assert_eq!(again.clone().after(&back, None), again);
    }
}
