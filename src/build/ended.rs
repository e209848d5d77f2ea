//! The builds that ended in a span of time, from the index.

use std::ops::ControlFlow;

use jiff::Timestamp;

use super::filter::Place;
use super::index::Index;
use crate::job::Outcome;

impl Index {
    /// A build that started before this had ended before `since`.
    fn horizon(&self, since: Timestamp) -> Timestamp {
        since.checked_sub(self.longest()).unwrap_or(Timestamp::MIN)
    }

    /// How many builds ended at `since` or later, and how many of them went wrong.
    pub(super) fn count_ended(&self, since: Timestamp) -> (u64, u64) {
        let horizon = self.horizon(since);
        let (mut ended, mut failed) = (0, 0);
        self.walk(None, None, |place, entry| {
            if entry.finished.is_some_and(|finished| finished >= since)
                && let Some(outcome) = entry.outcome()
            {
                ended += 1;
                failed += u64::from(!matches!(outcome, Outcome::Succeeded | Outcome::Cancelled));
            }
            match place.started < horizon {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            }
        });
        (ended, failed)
    }

    /// Builds that ended at `since` or later, ordered by their end; at most `limit`, the latest of them.
    pub(super) fn ended(&self, since: Timestamp, limit: usize) -> Vec<Place> {
        let horizon = self.horizon(since);
        let mut ended = Vec::new();
        self.walk(None, None, |place, entry| {
            if let Some(finished) = entry.finished
                && finished >= since
            {
                ended.push((finished, place.clone()));
                // Hold at most a few times as many as requested.
                if ended.len() > limit.saturating_mul(4) {
                    ended.sort_by_key(|(finished, _)| *finished);
                    ended.drain(..ended.len() - limit);
                }
            }
            match place.started < horizon {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            }
        });
        ended.sort_by_key(|(finished, _)| *finished);
        let surplus = ended.len().saturating_sub(limit);
        let latest = ended.into_iter().skip(surplus);
        latest.map(|(_, place)| place).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::build::{BuildInfo, IndexEntry};
    use crate::job::Status;

    fn place(second: i64, project: &str, digit: &str) -> Place {
        Place {
            started: Timestamp::from_second(second).unwrap(),
            project: project.parse().unwrap(),
            id: digit.repeat(64).parse().unwrap(),
        }
    }

    #[test]
    fn builds_that_ended_since_an_event_are_listed_in_the_order_of_their_ends() {
        let index = Index::new();
        // The long build started before the horizon that the short ones alone would give.
        for (began, ended, digit) in [(10, 1_000, "a"), (900, 950, "b"), (980, 990, "c")] {
            let at = |second| Timestamp::from_second(second).unwrap();
            let info = BuildInfo {
                started_at: at(began),
                finished_at: Some(at(ended)),
                duration: Some(Duration::from_secs(ended as u64 - began as u64)),
                ..BuildInfo::example()
            };
            index.put(place(began, "p", digit), IndexEntry::of(&info, None));
        }
        let since = |second, limit| -> Vec<String> {
            let since = Timestamp::from_second(second).unwrap();
            let ended = index.ended(since, limit).into_iter();
            ended
                .map(|place| place.id.to_string()[..7].to_owned())
                .collect()
        };
        let ids = |digits: &[&str]| -> Vec<String> {
            digits.iter().map(|digit| digit.repeat(7)).collect()
        };
        assert_eq!(since(950, 9), ids(&["b", "c", "a"]));
        assert_eq!(since(951, 9), ids(&["c", "a"]));
        assert_eq!(since(0, 1), ids(&["a"]));
        assert_eq!(since(1_001, 9), ids(&[]));
    }

    #[test]
    fn builds_that_ended_since_a_time_are_counted_with_those_that_went_wrong() {
        let index = Index::new();
        for (ended, digit, outcome) in [
            (1_000, "1", Outcome::Failed),
            (2_000, "2", Outcome::Succeeded),
            (3_000, "3", Outcome::TimedOut),
            (4_000, "4", Outcome::Cancelled),
        ] {
            let at = |second| Timestamp::from_second(second).unwrap();
            let info = BuildInfo {
                status: Status::Ready(outcome),
                started_at: at(ended - 500),
                finished_at: Some(at(ended)),
                ..BuildInfo::example()
            };
            index.put(place(ended - 500, "p", digit), IndexEntry::of(&info, None));
        }
        let since = |second| index.count_ended(Timestamp::from_second(second).unwrap());
        assert_eq!(since(0), (4, 2));
        assert_eq!(since(1_001), (3, 1));
        assert_eq!(since(4_001), (0, 0));
    }
}
