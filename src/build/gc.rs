//! Garbage collection decisions: which builds are removed, why, and what that frees. No I/O happens here.
//!
//! A run does exactly what `--dry-run` prints. The rules are applied in this order, each starting with the
//! least recently used build:
//!
//! 1. Torn builds (without a valid record) that are older than a day are removed.
//! 2. `max_age`: builds unused for that long are removed.
//! 3. `max_bytes`: builds are removed until all together take no more than that.
//! 4. `min_free`: builds are removed until that much is free.
//!
//! These builds stay regardless of the rules: builds that a link names, that are pinned, that are pending,
//! that were used a moment ago ([`JUST_USED`], by a clock that was not set back meanwhile), and the
//! `keep_last` most recently used builds of each project.

use std::collections::HashMap;
use std::time::Duration;

use jiff::Timestamp;

use super::candidate::{Candidate, Category};
use super::space::{Base, CloneForest, Node};
use crate::policy::Policy;
use crate::project::ProjectName;

/// A client that was just answered must still be able to fetch the artifacts. The time of a use is written at
/// most once per [`super::last_used::WRITE_INTERVAL`], so a client has at least a minute.
pub const JUST_USED: Duration = Duration::from_secs(120);

/// A build without a record may still be starting; after a day it is not.
const TORN_AFTER: Duration = Duration::from_secs(24 * 3600);

/// Reason of a removal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RemovalReason {
    /// It has no valid record.
    Torn,
    /// It was not used for too long.
    MaxAge,
    /// All builds together take too much.
    MaxBytes,
    /// Too little is free.
    MinFree,
}

impl RemovalReason {
    /// The key of the rule in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            RemovalReason::Torn => "torn",
            RemovalReason::MaxAge => "max_age",
            RemovalReason::MaxBytes => "max_bytes",
            RemovalReason::MinFree => "min_free",
        }
    }
}

/// One removal.
#[derive(Clone, Debug)]
pub struct Removal {
    /// The build.
    pub build: Candidate,
    /// The rule.
    pub why: RemovalReason,
    /// Bytes that this frees, once the builds before it in the plan are removed.
    pub bytes: u64,
}

/// The plan of a collection.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// The removals, in this order.
    pub removals: Vec<Removal>,
    /// Bytes that all removals free.
    pub bytes: u64,
    /// Number of builds kept.
    pub kept: usize,
    /// Bytes that they take.
    pub kept_bytes: u64,
    /// Builds, among all, whose size was not measured: they count as 0 bytes.
    pub unmeasured: usize,
    /// Bytes that are free now.
    pub free: u64,
    /// Bytes past `max_bytes`, or short of `min_free`, that no further removal may free.
    pub short: u64,
    /// Until then no build is removed by age, since the clock was set forward.
    pub doubted_until: Option<Timestamp>,
}

impl Plan {
    /// Keeps only the removals at these places, which are in order: those that were done.
    pub fn leave_only(&mut self, done: &[usize]) {
        let all = std::mem::take(&mut self.removals);
        let planned = all.len();
        let mut done = done.iter().copied().peekable();
        for (at, removal) in all.into_iter().enumerate() {
            if done.next_if_eq(&at).is_some() {
                self.removals.push(removal);
            } else {
                self.kept_bytes = self.kept_bytes.saturating_add(removal.bytes);
            }
        }
        self.kept += planned - self.removals.len();
        self.bytes = self.removals.iter().map(|removal| removal.bytes).sum();
    }
}

/// Decides the removals. `free` is how many bytes are free now.
pub fn decide(candidates: Vec<Candidate>, policy: &Policy, now: Timestamp, free: u64) -> Plan {
    let mut oldest_first: Vec<usize> = (0..candidates.len()).collect();
    oldest_first.sort_by_key(|at| {
        let build = &candidates[*at];
        (build.last_used, build.project.clone(), build.id)
    });
    let stays = among_the_last(&candidates, &oldest_first, policy.keep_last);
    oldest_first.retain(|at| may_go(&candidates[*at], now));
    let mut left = oldest_first;
    let mut selection = Selection::new(&candidates);
    selection.take_all(&mut left, RemovalReason::Torn, |at| candidates[at].is_torn);
    left.retain(|at| !stays[*at]);
    if let Some(max_age) = policy.max_age {
        let limit = before(now, max_age);
        selection.take_all(&mut left, RemovalReason::MaxAge, |at| {
            candidates[at].last_used < limit
        });
    }
    let mut left = left.into_iter();
    let mut short = 0;
    if let Some(max) = policy.max_bytes {
        while selection.forest.total() > max
            && let Some(at) = left.next()
        {
            selection.take(at, RemovalReason::MaxBytes);
        }
        short = selection.forest.total().saturating_sub(max);
    }
    if let Some(min) = policy.min_free {
        while free.saturating_add(selection.freed) < min
            && let Some(at) = left.next()
        {
            selection.take(at, RemovalReason::MinFree);
        }
        short = short.max(min.saturating_sub(free.saturating_add(selection.freed)));
    }
    Plan {
        free,
        short,
        ..selection.into_plan(candidates)
    }
}

/// The builds to remove, in order.
struct Selection {
    forest: CloneForest,
    /// Places among the candidates, each with the rule and the bytes that it frees.
    taken: Vec<(usize, RemovalReason, u64)>,
    /// Bytes that all of them free.
    freed: u64,
}

impl Selection {
    fn new(candidates: &[Candidate]) -> Selection {
        Selection {
            forest: CloneForest::new(&nodes(candidates)),
            taken: Vec::new(),
            freed: 0,
        }
    }

    fn take(&mut self, at: usize, why: RemovalReason) {
        let bytes = self.forest.remove(at);
        self.freed += bytes;
        self.taken.push((at, why, bytes));
    }

    /// Moves builds for which `is_removed` is true from `left` to this one.
    fn take_all(
        &mut self,
        left: &mut Vec<usize>,
        why: RemovalReason,
        is_removed: impl Fn(usize) -> bool,
    ) {
        left.retain(|at| {
            let is_removed = is_removed(*at);
            if is_removed {
                self.take(*at, why);
            }
            !is_removed
        });
    }

    fn into_plan(self, candidates: Vec<Candidate>) -> Plan {
        let unmeasured = candidates.iter().filter(|build| build.bytes.is_none());
        let unmeasured = unmeasured.count();
        let kept = candidates.len() - self.taken.len();
        let mut builds: Vec<Option<Candidate>> = candidates.into_iter().map(Some).collect();
        let removals = self.taken.into_iter().filter_map(|(at, why, bytes)| {
            let build = builds[at].take()?;
            Some(Removal { build, why, bytes })
        });
        Plan {
            removals: removals.collect(),
            bytes: self.freed,
            kept,
            kept_bytes: self.forest.total(),
            unmeasured,
            ..Plan::default()
        }
    }
}

/// The time `ago` before `now`.
fn before(now: Timestamp, ago: Duration) -> Timestamp {
    now.checked_sub(ago).unwrap_or(Timestamp::MIN)
}

/// False for a build that stays regardless of the rules.
fn may_go(build: &Candidate, now: Timestamp) -> bool {
    let is_held = build.is_linked || build.is_pinned || build.is_busy;
    // A use in the future was noted before the clock was set back: it was not a moment ago.
    let soon = now.checked_add(JUST_USED).unwrap_or(Timestamp::MAX);
    let is_just_used = build.last_used >= before(now, JUST_USED) && build.last_used <= soon;
    let is_new_and_torn = build.is_torn && build.last_used >= before(now, TORN_AFTER);
    !(is_held || is_just_used || is_new_and_torn)
}

/// Which builds are among the last of their project.
fn among_the_last(
    candidates: &[Candidate],
    oldest_first: &[usize],
    keep_last: Option<u64>,
) -> Vec<bool> {
    let mut stays = vec![false; candidates.len()];
    let mut seen: HashMap<&ProjectName, u64> = HashMap::new();
    for &at in oldest_first.iter().rev() {
        let build = &candidates[at];
        if build.category == Category::Ready && !build.is_torn {
            let count = seen.entry(&build.project).or_default();
            stays[at] = *count < keep_last.unwrap_or(0);
            *count += 1;
        }
    }
    stays
}

/// The builds as nodes of a [`CloneForest`].
fn nodes(candidates: &[Candidate]) -> Vec<Node> {
    let mut ready = HashMap::new();
    for (at, build) in candidates.iter().enumerate() {
        if build.category == Category::Ready {
            ready.insert((&build.project, &build.id), at);
        }
    }
    let mut gone = HashMap::new();
    let mut nodes = Vec::with_capacity(candidates.len());
    for build in candidates {
        let bytes = build.bytes.unwrap_or(0);
        let base = build.base.as_ref().map_or(Base::None, |base| {
            let name = (&build.project, base);
            // A build made later under the base's id is a different build.
            let is_it = |at: &usize| match (candidates[*at].ran, build.ran) {
                (Some((_, ended)), Some((began, _))) => ended <= began,
                _ => true,
            };
            match ready.get(&name).copied().filter(is_it) {
                Some(at) => Base::At(at),
                None => {
                    let next = gone.len();
                    Base::Gone(*gone.entry(name).or_insert(next))
                }
            }
        });
        nodes.push(Node {
            bytes,
            own: build.own.unwrap_or(bytes),
            base,
        });
    }
    nodes
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::RemovalReason::{MaxAge, MaxBytes, MinFree, Torn};
    use super::*;
    use crate::job::JobId;

    const DAY: i64 = 24 * 3600;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn id(n: usize) -> JobId {
        format!("{n:064x}").parse().unwrap()
    }

    /// A build of 10 bytes, used this long before `now` = 100 days.
    fn build(n: usize, days: i64) -> Candidate {
        Candidate {
            project: "p".parse().unwrap(),
            id: id(n),
            category: Category::Ready,
            group: "".into(),
            last_used: at((100 - days) * DAY),
            ran: None,
            bytes: Some(10),
            own: Some(10),
            base: None,
            is_linked: false,
            is_pinned: false,
            is_busy: false,
            is_torn: false,
        }
    }

    fn days(days: u64) -> Option<Duration> {
        Some(Duration::from_secs(days * 24 * 3600))
    }

    fn plan(builds: &[Candidate], policy: Policy, free: u64) -> Plan {
        decide(builds.to_vec(), &policy, at(100 * DAY), free)
    }

    fn gone(plan: &Plan) -> Vec<(usize, RemovalReason, u64)> {
        let number = |id: JobId| usize::from_str_radix(&id.to_string(), 16).unwrap();
        let one = |r: &Removal| (number(r.build.id), r.why, r.bytes);
        plan.removals.iter().map(one).collect()
    }

    #[test]
    fn without_a_rule_only_torn_builds_are_removed() {
        let torn = |n, days| Candidate {
            is_torn: true,
            bytes: None,
            own: None,
            ..build(n, days)
        };
        let young = Candidate {
            last_used: at(100 * DAY - 3600),
            ..torn(3, 0)
        };
        let builds = [build(1, 90), torn(2, 2), young];
        let policy = Policy {
            keep_last: Some(9),
            ..Policy::default()
        };
        assert!(!policy.has_rule());
        let plan = plan(&builds, policy, 0);
        assert_eq!(gone(&plan), [(2, Torn, 0)]);
        assert_eq!((plan.kept, plan.kept_bytes, plan.unmeasured), (2, 10, 2));
    }

    #[test]
    fn after_the_clock_was_set_back_space_is_freed_and_no_build_is_too_old() {
        let later = |n, days: i64| Candidate {
            last_used: at((100 + days) * DAY),
            ..build(n, 0)
        };
        let builds = [later(1, 3), later(2, 2), build(3, 0)];
        let by_age = Policy {
            max_age: days(1),
            ..Policy::default()
        };
        assert_eq!(gone(&plan(&builds, by_age, 0)), []);
        let by_room = Policy {
            min_free: Some(15),
            ..Policy::default()
        };
        // The least recently used build is removed first; one that was used just now stays.
        let expected = [(2, MinFree, 10), (1, MinFree, 10)];
        assert_eq!(gone(&plan(&builds, by_room, 0)), expected);
    }

    #[test]
    fn builds_unused_for_longer_than_max_age_are_removed_oldest_first() {
        let builds = [build(1, 3), build(2, 9), build(3, 8), build(4, 7)];
        let policy = Policy {
            max_age: days(7),
            ..Policy::default()
        };
        let plan = plan(&builds, policy, 0);
        let expected = [(2, MaxAge, 10), (3, MaxAge, 10)];
        assert_eq!(gone(&plan), expected);
        assert_eq!((plan.bytes, plan.kept), (20, 2));
    }

    #[test]
    fn max_bytes_and_min_free_remove_the_oldest_builds() {
        let builds = [build(1, 1), build(2, 2), build(3, 3), build(4, 4)];
        let policy = Policy {
            max_bytes: Some(30),
            min_free: Some(35),
            ..Policy::default()
        };
        let all = plan(&builds, policy, 20);
        let expected = [(4, MaxBytes, 10), (3, MinFree, 10)];
        assert_eq!(gone(&all), expected);
        assert_eq!((all.bytes, all.kept_bytes, all.short), (20, 20, 0));
        // Space that cannot be freed is reported.
        let policy = Policy {
            min_free: Some(100),
            keep_last: Some(3),
            ..Policy::default()
        };
        let all = plan(&builds, policy, 20);
        assert_eq!(gone(&all), [(4, MinFree, 10)]);
        assert_eq!(all.short, 70);
    }

    #[test]
    fn a_held_build_is_kept_whatever_the_rules_are() {
        let now = at(100 * DAY);
        let mut builds = vec![build(0, 50); 6];
        for (n, build) in builds.iter_mut().enumerate() {
            build.id = id(n);
        }
        builds[0].is_linked = true;
        builds[1].is_pinned = true;
        builds[2].is_busy = true;
        builds[3].last_used = now - JUST_USED + Duration::from_secs(1);
        builds[4].last_used = now + Duration::from_secs(60);
        let policy = Policy {
            max_age: Some(Duration::from_millis(1)),
            max_bytes: Some(0),
            min_free: Some(u64::MAX),
            keep_last: None,
        };
        let plan = plan(&builds, policy, 0);
        assert_eq!(gone(&plan), [(5, MaxAge, 10)]);
        assert_eq!(plan.short, u64::MAX - 10);
    }

    #[test]
    fn keep_last_keeps_that_many_builds_of_each_project_without_failed_rebuilds() {
        let mut builds = vec![build(1, 9), build(2, 8), build(3, 7), build(4, 30)];
        builds[3].project = "q".parse().unwrap();
        let failed = Candidate {
            category: Category::Failed,
            ..build(1, 6)
        };
        builds.push(failed);
        let policy = Policy {
            max_age: days(1),
            keep_last: Some(2),
            ..Policy::default()
        };
        let plan = plan(&builds, policy, 0);
        let expected = [(1, MaxAge, 10), (1, MaxAge, 10)];
        assert_eq!(gone(&plan), expected);
        let categories: Vec<_> = plan.removals.iter().map(|r| r.build.category).collect();
        assert_eq!(categories, [Category::Ready, Category::Failed]);
    }

    #[test]
    fn clones_count_only_blocks_that_they_do_not_share() {
        let ran = |began, ended| Some((at(began), at(ended)));
        let clone = |n, days, base| Candidate {
            base: Some(id(base)),
            bytes: Some(11),
            own: Some(1),
            ..build(n, days)
        };
        let mut builds = [build(1, 9), clone(2, 8, 1), clone(3, 7, 2)];
        let policy = Policy {
            max_bytes: Some(11),
            ..Policy::default()
        };
        // All three take 12; without the first it is 12 still, without the second 11.
        let all = plan(&builds, policy, 0);
        let expected = [(1, MaxBytes, 0), (2, MaxBytes, 1)];
        assert_eq!(gone(&all), expected);
        assert_eq!(all.kept_bytes, 11);
        // A build that was made later under the base's id is not the one it was cloned from.
        builds[0].ran = ran(50, 60);
        builds[1].ran = ran(10, 20);
        builds[2].ran = ran(30, 40);
        let all = plan(&builds, Policy::default(), 0);
        assert_eq!(all.kept_bytes, 10 + 12);
    }

    #[test]
    fn requested_rules_override_configured_ones() {
        let configured = Policy {
            max_age: days(7),
            keep_last: Some(3),
            ..Policy::default()
        };
        let given = Policy {
            max_age: days(1),
            max_bytes: Some(5),
            ..Policy::default()
        };
        let both = configured.overridden_by(given);
        assert_eq!((both.max_age, both.keep_last), (days(1), Some(3)));
        assert_eq!(configured.overridden_by(Policy::default()), configured);
    }

    fn candidates() -> impl Strategy<Value = Vec<Candidate>> {
        let one = (
            (
                0_i64..6,
                0_i64..200_000,
                any::<bool>(),
                0_u64..50,
                0_u64..60,
            ),
            (proptest::option::of(0_usize..12), 0_u8..10),
            (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>()),
        );
        let one = one.prop_map(|((days, seconds, other, bytes, own), (base, odd), bits)| {
            let mut build = build(0, days);
            build.last_used -= Duration::from_secs(seconds as u64);
            if other {
                build.project = "q".parse().unwrap();
            }
            (build.bytes, build.own) = (Some(bytes), Some(own));
            build.base = base.map(id);
            // Most may be removed.
            build.is_linked = odd == 0;
            build.is_pinned = odd == 1;
            build.is_busy = odd == 2;
            build.is_torn = odd == 3 && bits.0;
            if odd == 4 {
                build.last_used = at(100 * DAY);
            }
            build
        });
        proptest::collection::vec(one, 0..12).prop_map(|mut builds| {
            for (n, build) in builds.iter_mut().enumerate() {
                build.id = id(n);
            }
            builds
        })
    }

    fn policies() -> impl Strategy<Value = Policy> {
        let option = proptest::option::of::<std::ops::Range<u64>>;
        (option(0..6), option(0..200), option(0..200), option(0..4)).prop_map(
            |(age, max_bytes, min_free, keep_last)| Policy {
                max_age: age.map(|days| Duration::from_secs(days * 24 * 3600)),
                max_bytes,
                min_free,
                keep_last,
            },
        )
    }

    proptest! {
        #[test]
        fn a_plan_keeps_held_builds_and_reaches_its_goal_or_removes_all_others(
            builds in candidates(), policy in policies(), free in 0_u64..100,
        ) {
            let now = at(100 * DAY);
            let plan = plan(&builds, policy, free);
            let is_gone = |build: &Candidate| {
                plan.removals.iter().any(|r| r.build.id == build.id)
            };
            for removal in &plan.removals {
                let build = &removal.build;
                prop_assert!(!build.is_linked && !build.is_pinned && !build.is_busy);
                prop_assert!(build.last_used < now - JUST_USED);
            }
            prop_assert_eq!(plan.kept + plan.removals.len(), builds.len());
            let sum: u64 = plan.removals.iter().map(|r| r.bytes).sum();
            prop_assert_eq!(sum, plan.bytes);
            prop_assert_eq!(
                plan.kept_bytes + plan.bytes,
                CloneForest::new(&nodes(&builds)).total()
            );
            // Each build that could still be removed to free space is among the last of its project.
            let mut last: HashMap<ProjectName, u64> = HashMap::new();
            let mut newest_first: Vec<&Candidate> = builds.iter().collect();
            newest_first.sort_by_key(|b| (b.last_used, b.project.clone(), b.id));
            let mut could_go = 0;
            for build in newest_first.into_iter().rev().filter(|b| !b.is_torn) {
                let place = last.entry(build.project.clone()).or_default();
                let is_last = *place < policy.keep_last.unwrap_or(0);
                *place += 1;
                if is_last {
                    prop_assert!(!is_gone(build));
                }
                let is_held = build.is_linked || build.is_pinned || build.is_busy;
                if !is_last && !is_held && build.last_used < now - JUST_USED && !is_gone(build) {
                    could_go += 1;
                }
            }
            let over = policy.max_bytes.is_some_and(|most| plan.kept_bytes > most);
            let under = policy.min_free.is_some_and(|least| free + plan.bytes < least);
            prop_assert!(!(over || under) || could_go == 0);
            prop_assert_eq!(plan.short > 0, over || under);
        }
    }
}
