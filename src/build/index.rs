//! An index of the builds on disk, in memory: rebuilt from the tree at start. The disk is authoritative.
//!
//! It holds the [`IndexEntry`] that ordering, filtering and statistics need; a list reads the records of the
//! page to show. A list waits for the first scan to end; nothing else does.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashSet};
use std::ops::Bound::{Excluded, Unbounded};
use std::ops::ControlFlow;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::watch;

use parking_lot::{Mutex, MutexGuard};

use super::filter::{Filter, Place};
use super::index_entry::{Group, IndexEntry, Shown};
use super::interned::Interned;
use super::neighbours::{self, Attempted, Neighbours};
use crate::job::{JobId, JobIdPrefix, Outcome, State, Status};
use crate::project::ProjectName;

/// Builds that are visited before the lock is briefly released: less than a millisecond.
const BUILDS_PER_LOCK: usize = 2_048;

/// Newest first within a project; ties are broken by id, so that a page has one order.
type Key = (Reverse<Timestamp>, JobId);

/// A project's newest build: its id, its start time and its status.
pub type Newest = (JobId, Timestamp, Status);

/// The builds of one project.
#[derive(Debug, Default)]
struct Builds {
    order: BTreeMap<Key, IndexEntry>,
    /// The start time of each: it maps an id to its key.
    started: BTreeMap<JobId, Timestamp>,
    /// Their groups, each once.
    groups: Interned<Group>,
    /// The clients that requested them, each once.
    askers: Interned<str>,
    /// The pinned ones, also those that are not entered yet.
    pins: HashSet<JobId>,
    /// The longest time from a start to the recorded end, which is later than the container's end if the
    /// daemon was not running then: no build that started earlier than that can have ended later.
    longest: Duration,
}

/// The index. Queries are cheap, and no build waits for it.
#[derive(Debug)]
pub(super) struct Index {
    /// Locked for a lookup or for [`BUILDS_PER_LOCK`] builds; never across an await.
    projects: Mutex<BTreeMap<ProjectName, Builds>>,
    complete: watch::Sender<bool>,
}

impl Index {
    pub(super) fn new() -> Index {
        Index {
            projects: Mutex::default(),
            complete: watch::channel(false).0,
        }
    }

    /// Enters a build as a scan found it on disk, unless it was entered before: its state may be a newer one.
    pub(super) fn put_scanned(&self, place: Place, entry: IndexEntry) {
        let mut projects = self.lock();
        let builds = projects.entry(place.project.clone()).or_default();
        if !builds.started.contains_key(&place.id) {
            builds.put(place, entry);
        }
    }

    /// Enters a build, or its new state.
    pub(super) fn put(&self, place: Place, entry: IndexEntry) {
        let mut projects = self.lock();
        let builds = projects.entry(place.project.clone()).or_default();
        builds.put(place, entry);
    }

    /// Stores how many unshared bytes a build has on disk.
    pub(super) fn weigh(&self, project: &ProjectName, id: JobId, own: u64) {
        if let Some(builds) = self.lock().get_mut(project) {
            builds.change(id, |entry| entry.own = own);
        }
    }

    /// Stores that a build is pinned.
    pub(super) fn pin(&self, project: &ProjectName, id: JobId) {
        let mut projects = self.lock();
        let builds = projects.entry(project.clone()).or_default();
        builds.pins.insert(id);
        builds.change(id, |entry| entry.is_pinned = true);
    }

    /// Stores that a build is not pinned.
    pub(super) fn unpin(&self, project: &ProjectName, id: JobId) {
        if let Some(builds) = self.lock().get_mut(project) {
            builds.pins.remove(&id);
            builds.change(id, |entry| entry.is_pinned = false);
        }
    }

    /// Removes a build.
    pub(super) fn remove(&self, project: &ProjectName, id: JobId) {
        if let Some(builds) = self.lock().get_mut(project)
            && let Some(started) = builds.started.remove(&id)
        {
            builds.take(&(Reverse(started), id));
        }
    }

    /// The entry of a build.
    pub(super) fn find(&self, project: &ProjectName, id: JobId) -> Option<IndexEntry> {
        let projects = self.lock();
        let builds = projects.get(project)?;
        let started = *builds.started.get(&id)?;
        builds.order.get(&(Reverse(started), id)).cloned()
    }

    /// The builds, of one project or of all, whose ids begin with `prefix`; at most `limit`.
    pub(super) fn with_prefix(
        &self,
        project: Option<&ProjectName>,
        prefix: &JobIdPrefix,
        limit: usize,
    ) -> Vec<(ProjectName, JobId)> {
        let projects = self.lock();
        let searched = projects
            .iter()
            .filter(|(name, _)| project.is_none_or(|wanted| wanted == *name));
        let found = searched.flat_map(|(name, builds)| {
            let ids = builds.started.range(prefix.range());
            ids.map(|(id, _)| (name.clone(), *id))
        });
        found.take(limit).collect()
    }

    /// Marks the first scan as finished.
    pub(super) fn completed(&self) {
        for builds in self.lock().values_mut() {
            // Filled one by one in no order, it has half as much capacity again, which is rarely used.
            builds.order = std::mem::take(&mut builds.order).into_iter().collect();
            builds.started = std::mem::take(&mut builds.started).into_iter().collect();
        }
        self.complete.send_replace(true);
    }

    /// Waits for the first scan.
    pub(super) async fn complete(&self) {
        // The sender lives as long as `self`, so this ends only with the value.
        let _ = self
            .complete
            .subscribe()
            .wait_for(|complete| *complete)
            .await;
    }

    /// At most `limit` builds, newest first.
    pub(super) fn page(&self, filter: &Filter, limit: usize) -> Vec<(Place, State)> {
        let mut page = Vec::new();
        if limit == 0 {
            return page;
        }
        let from = filter.before.clone();
        self.walk(from, filter.project.as_ref(), |place, entry| {
            if filter.takes(&place.project, place.id, entry) {
                page.push((place.clone(), entry.state()));
            }
            match page.len() == limit {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            }
        });
        page
    }

    /// The longest time from the start of a build to its recorded end.
    pub(super) fn longest(&self) -> Duration {
        let projects = self.lock();
        let longest = projects.values().map(|builds| builds.longest);
        longest.max().unwrap_or_default()
    }

    /// Visits the builds after a place, newest first, of one project or of all, until `each` breaks. Builds
    /// that are added or removed meanwhile may be visited or not; none is visited twice.
    pub(super) fn walk(
        &self,
        mut from: Option<Place>,
        project: Option<&ProjectName>,
        mut each: impl FnMut(&Place, &IndexEntry) -> ControlFlow<()>,
    ) {
        loop {
            let projects = self.lock();
            let mut next = BinaryHeap::new();
            let after = from.take();
            let mut rest: Vec<_> = match project {
                Some(project) => projects.get_key_value(project).into_iter().collect(),
                None => projects.iter().collect::<Vec<_>>(),
            }
            .into_iter()
            .map(|(name, builds)| (name, builds.after(after.as_ref(), name)))
            .collect();
            for (at, (name, builds)) in rest.iter_mut().enumerate() {
                if let Some((key, entry)) = builds.next() {
                    next.push(Reverse((key.0, *name, key.1, at, Shown(entry))));
                }
            }
            let mut last = None::<Place>;
            for _ in 0..BUILDS_PER_LOCK {
                let Some(Reverse((started, name, id, at, Shown(entry)))) = next.pop() else {
                    return;
                };
                let place = Place {
                    started: started.0,
                    project: name.clone(),
                    id,
                };
                if each(&place, entry).is_break() {
                    return;
                }
                last = Some(place);
                if let Some((key, entry)) = rest.get_mut(at).and_then(|(_, builds)| builds.next()) {
                    next.push(Reverse((key.0, name, key.1, at, Shown(entry))));
                }
            }
            from = last;
            drop(rest);
            drop(projects);
            // Other threads cannot take a lock that is released and taken again at once.
            std::thread::yield_now();
        }
    }

    /// The durations of the latest succeeded builds of a project with the same kind of start: at most `most`,
    /// among the latest `among`.
    pub(super) fn like(
        &self,
        project: &ProjectName,
        incremental: bool,
        most: usize,
        among: usize,
    ) -> Vec<Duration> {
        let projects = self.lock();
        let Some(builds) = projects.get(project) else {
            return Vec::new();
        };
        let latest = builds.order.values().take(among);
        let alike = latest.filter(|entry| {
            entry.outcome() == Some(Outcome::Succeeded) && entry.incremental == incremental
        });
        alike.filter_map(|entry| entry.took).take(most).collect()
    }

    /// The names of the groups of a project, or of all projects, sorted; at most `most`, and true if there are
    /// more.
    pub(super) fn groups(&self, project: Option<&ProjectName>, most: usize) -> (Vec<String>, bool) {
        let projects = self.lock();
        let of = projects
            .iter()
            .filter(|(name, _)| project.is_none_or(|wanted| wanted == *name));
        let mut names = BTreeSet::new();
        for group in of.flat_map(|(_, builds)| builds.groups.values()) {
            if !group.name.is_empty() && names.insert(group.name.to_string()) && names.len() > most
            {
                return (names.into_iter().take(most).collect(), true);
            }
        }
        (names.into_iter().collect(), false)
    }

    /// The number of builds of each project, and when the newest of them started.
    pub(super) fn counts(&self) -> BTreeMap<ProjectName, (u64, Option<Timestamp>)> {
        let projects = self.lock();
        let counts = projects.iter().map(|(project, builds)| {
            let newest = builds.order.keys().next();
            let newest = newest.map(|(Reverse(started), _)| *started);
            (project.clone(), (builds.order.len() as u64, newest))
        });
        counts.collect()
    }

    /// The newest build of each project that has one.
    pub(super) fn newest(&self) -> BTreeMap<ProjectName, Newest> {
        let projects = self.lock();
        let newest = projects.iter().filter_map(|(project, builds)| {
            let ((Reverse(started), id), entry) = builds.order.first_key_value()?;
            Some((project.clone(), (*id, *started, entry.status)))
        });
        newest.collect()
    }

    /// The builds around one: of its group, or of its project if it has no group.
    pub(super) fn neighbours(&self, project: &ProjectName, build: Attempted) -> Neighbours {
        let projects = self.lock();
        let found = projects
            .get(project)
            .and_then(|builds| builds.around(build));
        found.unwrap_or_default()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<ProjectName, Builds>> {
        self.projects.lock()
    }
}

impl Builds {
    fn change(&mut self, id: JobId, change: impl FnOnce(&mut IndexEntry)) {
        let started = self.started.get(&id);
        let key = started.map(|started| (Reverse(*started), id));
        if let Some(entry) = key.and_then(|key| self.order.get_mut(&key)) {
            change(entry);
        }
    }

    fn put(&mut self, place: Place, mut entry: IndexEntry) {
        if let Some(&started) = self.started.get(&place.id) {
            let before = self.take(&(Reverse(started), place.id));
            // Until it is measured again.
            entry.own = entry.own.max(before.map_or(0, |entry| entry.own));
        }
        entry.group = self.groups.intern(entry.group);
        entry.asked_by = entry.asked_by.map(|asker| self.askers.intern(asker));
        entry.is_pinned = self.pins.contains(&place.id);
        if let Some(finished) = entry.finished {
            let took = finished.duration_since(place.started);
            let took = Duration::try_from(took).unwrap_or_default();
            self.longest = self.longest.max(took);
        }
        self.started.insert(place.id, place.started);
        self.order.insert((Reverse(place.started), place.id), entry);
    }

    /// Removes an entry, and its group and its asker when no other build has them.
    fn take(&mut self, key: &Key) -> Option<IndexEntry> {
        let entry = self.order.remove(key)?;
        // The other reference is the table's.
        self.groups.forget_last(&entry.group);
        if let Some(asker) = &entry.asked_by {
            self.askers.forget_last(asker);
        }
        Some(entry)
    }

    /// The builds around one, among the [`BUILDS_PER_LOCK`] before and after it. Around an attempt that was
    /// replaced, the build that took its place is one of them.
    fn around(&self, build: Attempted) -> Option<Neighbours> {
        fn of<'a>((key, entry): (&Key, &'a IndexEntry)) -> (JobId, &'a IndexEntry) {
            (key.1, entry)
        }
        let key = (Reverse(*self.started.get(&build.id)?), build.id);
        let current = self.order.get(&key)?;
        let group = &current.group.name;
        let key = match current.number == build.number {
            true => key,
            false => (Reverse(build.started_at), build.id),
        };
        let older = self.order.range((Excluded(key), Unbounded)).map(of);
        let newer = self.order.range((Unbounded, Excluded(key))).rev().map(of);
        let (older, newer) = (older.take(BUILDS_PER_LOCK), newer.take(BUILDS_PER_LOCK));
        Some(neighbours::nearest(group, older, newer))
    }

    /// The builds after a place in the overall order, where `name` is this project.
    fn after(
        &self,
        place: Option<&Place>,
        name: &ProjectName,
    ) -> impl Iterator<Item = (&Key, &IndexEntry)> {
        // Among builds that started at the same moment, projects sorted after the place's follow it.
        let equal = place.filter(|place| *name > place.project);
        let from = match place {
            None => Unbounded,
            Some(place) if *name == place.project => Excluded((Reverse(place.started), place.id)),
            Some(place) => Excluded((Reverse(place.started), JobId::LAST)),
        };
        let equal = equal.map(|place| {
            let key = |id| (Reverse(place.started), id);
            self.order.range(key(JobId::FIRST)..=key(JobId::LAST))
        });
        equal
            .into_iter()
            .flatten()
            .chain(self.order.range((from, Unbounded)))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::build::{BuildGroup, BuildInfo};
    use crate::job::Phase;

    fn place(second: i64, project: &str, digit: &str) -> Place {
        Place {
            started: Timestamp::from_second(second).unwrap(),
            project: project.parse().unwrap(),
            id: digit.repeat(64).parse().unwrap(),
        }
    }

    fn entry(state: State) -> IndexEntry {
        let status = match state {
            State::Pending => Status::Pending(Phase::Running),
            State::Ready => Status::Ready(Outcome::Succeeded),
        };
        let info = BuildInfo {
            status,
            ..BuildInfo::example()
        };
        IndexEntry::of(&info, None)
    }

    #[test]
    fn pages_follow_each_other_without_gap_or_repeat() {
        let index = Index::new();
        let order = [
            place(3, "q", "d"),
            place(2, "p", "b"),
            place(2, "p", "c"),
            place(2, "q", "a"),
            place(2, "r", "b"),
            place(1, "p", "a"),
        ];
        for at in [4, 1, 0, 5, 3, 2] {
            let place: &Place = &order[at];
            index.put(place.clone(), entry(State::Ready));
        }
        for limit in 1..7 {
            let mut seen = Vec::new();
            let mut filter = Filter::default();
            loop {
                let page = index.page(&filter, limit);
                let Some((last, _)) = page.last() else { break };
                filter.before = Some(last.clone());
                seen.extend(page.into_iter().map(|(place, _)| place));
            }
            assert_eq!(seen, order, "{limit} at a time");
        }
        let of_p = Filter {
            project: Some("p".parse().unwrap()),
            ..Filter::default()
        };
        let page = index.page(&of_p, 9).into_iter().map(|(place, _)| place);
        let expected = [&order[1], &order[2], &order[5]].map(Place::clone);
        assert_eq!(page.collect::<Vec<_>>(), expected);
    }

    #[test]
    fn a_long_walk_releases_the_lock_between_steps_and_misses_no_build() {
        let index = Index::new();
        let many = 3 * BUILDS_PER_LOCK + 7;
        for n in 0..many {
            let place = Place {
                started: Timestamp::from_second((n / 3) as i64).unwrap(),
                project: format!("p{}", n % 5).parse().unwrap(),
                id: format!("{n:064x}").parse().unwrap(),
            };
            index.put(place, entry(State::Ready));
        }
        let page = index.page(&Filter::default(), usize::MAX);
        assert_eq!(page.len(), many);
        let order = |place: &Place| (Reverse(place.started), place.project.clone(), place.id);
        assert!(page.is_sorted_by_key(|(place, _)| order(place)));
    }

    #[test]
    fn a_scan_does_not_overwrite_entries_of_active_builds() {
        let index = Index::new();
        index.put(place(5, "p", "a"), entry(State::Ready));
        index.put_scanned(place(1, "p", "a"), entry(State::Pending));
        let page = index.page(&Filter::default(), 9);
        assert_eq!(page, [(place(5, "p", "a"), State::Ready)]);
        index.remove(&"p".parse().unwrap(), place(5, "p", "a").id);
        assert!(index.page(&Filter::default(), 9).is_empty());
        assert!(index.counts().values().all(|(count, _)| *count == 0));
    }

    #[test]
    fn a_group_is_listed_once_and_as_long_as_it_has_builds() {
        let index = Index::new();
        for (second, group, digit) in [(1, "a", "1"), (2, "a", "2"), (3, "b", "3"), (4, "b", "3")] {
            let info = BuildInfo {
                group: BuildGroup::Named(group.parse().unwrap()),
                ..BuildInfo::example()
            };
            index.put(place(second, "p", digit), IndexEntry::of(&info, None));
        }
        let groups = || {
            let projects = index.lock();
            let mut groups: Vec<_> = projects
                .values()
                .flat_map(|of| of.groups.values())
                .collect();
            groups.sort_by(|one, other| one.name.cmp(&other.name));
            let names = groups.iter().map(|group| group.name.to_string());
            let shared = groups.iter().map(|group| Arc::strong_count(group) - 2);
            names.zip(shared).collect::<Vec<_>>()
        };
        assert_eq!(groups(), [("a".to_owned(), 2), ("b".to_owned(), 1)]);
        for digit in ["1", "3"] {
            let place = place(0, "p", digit);
            index.remove(&place.project, place.id);
        }
        assert_eq!(groups(), [("a".to_owned(), 1)]);
    }

    #[test]
    fn the_newest_build_of_each_project_is_known_with_its_status() {
        let index = Index::new();
        let mut ended = entry(State::Ready);
        ended.status = Status::Ready(Outcome::Failed);
        index.put(place(5, "p", "b"), ended);
        index.put(place(1, "p", "a"), entry(State::Ready));
        index.put(place(2, "q", "c"), entry(State::Pending));
        let newest: Vec<_> = index.newest().into_values().collect();
        let at = |second| Timestamp::from_second(second).unwrap();
        let of = |digit| place(0, "p", digit).id;
        assert_eq!(
            newest,
            [
                (of("b"), at(5), Status::Ready(Outcome::Failed)),
                (of("c"), at(2), Status::Pending(Phase::Running))
            ]
        );
    }

    #[test]
    fn the_builds_around_one_are_those_of_its_group() {
        let index = Index::new();
        for (second, group, digit, outcome) in [
            (1, "a", "1", Outcome::Succeeded),
            (2, "b", "2", Outcome::Succeeded),
            (3, "a", "3", Outcome::Failed),
            (4, "a", "4", Outcome::Failed),
            (5, "", "5", Outcome::Errored),
        ] {
            let group: Option<crate::job::GroupName> = group.parse().ok();
            let info = BuildInfo {
                group: group.into(),
                status: Status::Ready(outcome),
                ..BuildInfo::example()
            };
            index.put(place(second, "p", digit), IndexEntry::of(&info, None));
        }
        let attempt = |digit, number, second| {
            let place = place(0, "p", digit);
            let attempted = Attempted {
                id: place.id,
                number,
                started_at: Timestamp::from_second(second).unwrap(),
            };
            let found = index.neighbours(&place.project, attempted);
            let id = |id: JobId| id.to_string()[..1].to_owned();
            (
                found.older.map(|build| id(build.id)),
                found.newer.map(|build| id(build.id)),
                found.last_succeeded.map(id),
            )
        };
        let around = |digit| attempt(digit, 1, 0);
        let some = |digit: &str| Some(digit.to_owned());
        assert_eq!(around("4"), (some("3"), None, some("1")));
        assert_eq!(around("3"), (some("1"), some("4"), some("1")));
        assert_eq!(around("1"), (None, some("3"), None));
        // Without a group: the builds of the project.
        assert_eq!(around("5"), (some("4"), None, some("2")));
        assert_eq!(around("9"), (None, None, None));
        // An attempt that was replaced has those around its own start; the build in its place is one of them.
        assert_eq!(attempt("4", 2, 0), (None, some("1"), None));
        assert_eq!(attempt("1", 2, 9), (some("4"), None, some("1")));
    }
}
