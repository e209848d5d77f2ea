//! What is on disk, in memory: rebuilt from the tree at start, never the truth.
//!
//! It holds what ordering and filtering need and nothing else; whoever lists reads the
//! records of the page that is shown. A list waits for the first scan to end; nothing else does.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Mutex, PoisonError};

use jiff::Timestamp;
use tokio::sync::watch;

use super::State;
use crate::job::JobId;
use crate::project::ProjectName;

/// Newest first; ties are broken by project and id, so that a page has one order.
type Key = (Reverse<Timestamp>, ProjectName, JobId);

/// Which builds a list is about.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Only of this project.
    pub project: Option<ProjectName>,
    /// Only of this group; `Some("")` is those without one.
    pub group: Option<String>,
    /// Only in this state.
    pub state: Option<State>,
    /// Only what began before: the place where the page before ended.
    pub before: Option<Place>,
}

/// A place in the order of the list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// When the build there began.
    pub started: Timestamp,
    /// Its project.
    pub project: ProjectName,
    /// Its id.
    pub id: JobId,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{},{},{}", self.started, self.project, self.id)
    }
}

impl Place {
    /// Reads what [`Place`] writes.
    pub fn parse(text: &str) -> Option<Place> {
        let mut parts = text.split(',');
        let place = Place {
            started: parts.next()?.parse().ok()?,
            project: parts.next()?.parse().ok()?,
            id: parts.next()?.parse().ok()?,
        };
        parts.next().is_none().then_some(place)
    }
}

#[derive(Debug, Default)]
struct Builds {
    order: BTreeMap<Key, (State, String)>,
    /// When each build began: the way from its name to its key.
    started: HashMap<(ProjectName, JobId), Timestamp>,
    counts: BTreeMap<ProjectName, u64>,
}

/// The index. Cheap to ask, never waited for by a build.
#[derive(Debug)]
pub(super) struct Index {
    /// Std, held for a lookup or one page; never over an await.
    builds: Mutex<Builds>,
    complete: watch::Sender<bool>,
}

impl Index {
    pub(super) fn new() -> Index {
        Index {
            builds: Mutex::default(),
            complete: watch::channel(false).0,
        }
    }

    /// Enters a build or what became of it. A scan (`news` false) never overwrites what a live
    /// build said.
    pub(super) fn put(&self, place: Place, state: State, group: &str, news: bool) {
        let mut builds = self.lock();
        let name = (place.project.clone(), place.id);
        if let Some(&started) = builds.started.get(&name) {
            if !news {
                return;
            }
            let old = (Reverse(started), place.project.clone(), place.id);
            builds.order.remove(&old);
        } else {
            *builds.counts.entry(place.project.clone()).or_default() += 1;
        }
        builds.started.insert(name, place.started);
        let key = (Reverse(place.started), place.project, place.id);
        builds.order.insert(key, (state, group.to_owned()));
    }

    /// Forgets a build.
    pub(super) fn remove(&self, project: &ProjectName, id: JobId) {
        let mut builds = self.lock();
        if let Some(started) = builds.started.remove(&(project.clone(), id)) {
            builds
                .order
                .remove(&(Reverse(started), project.clone(), id));
            if let Some(count) = builds.counts.get_mut(project) {
                *count = count.saturating_sub(1);
            }
        }
    }

    /// The project of a build; the first of them, should a copied tree have several.
    pub(super) fn project_of(&self, id: JobId) -> Option<ProjectName> {
        let builds = self.lock();
        let is_there =
            |project: &&ProjectName| builds.started.contains_key(&((*project).clone(), id));
        builds.counts.keys().find(is_there).cloned()
    }

    /// Says that the first scan is over.
    pub(super) fn completed(&self) {
        self.complete.send_replace(true);
    }

    /// Waits for the first scan.
    pub(super) async fn complete(&self) {
        // The sender lives as long as we do, so this only ends with the value.
        let _ = self
            .complete
            .subscribe()
            .wait_for(|complete| *complete)
            .await;
    }

    /// At most `limit` builds, newest first.
    pub(super) fn page(&self, filter: &Filter, limit: usize) -> Vec<(Place, State)> {
        use std::ops::Bound::{Excluded, Unbounded};
        let builds = self.lock();
        let from = filter
            .before
            .as_ref()
            .map(|place| (Reverse(place.started), place.project.clone(), place.id));
        builds
            .order
            .range((from.map_or(Unbounded, Excluded), Unbounded))
            .filter(|((_, project, _), (state, group))| {
                filter
                    .project
                    .as_ref()
                    .is_none_or(|wanted| wanted == project)
                    && filter.state.is_none_or(|wanted| wanted == *state)
                    && filter.group.as_ref().is_none_or(|wanted| wanted == group)
            })
            .take(limit)
            .map(|((Reverse(started), project, id), (state, _))| {
                let place = Place {
                    started: *started,
                    project: project.clone(),
                    id: *id,
                };
                (place, *state)
            })
            .collect()
    }

    /// How many builds of each project there are.
    pub(super) fn counts(&self) -> BTreeMap<ProjectName, u64> {
        self.lock().counts.clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Builds> {
        self.builds.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(second: i64, digit: &str) -> Place {
        Place {
            started: Timestamp::from_second(second).unwrap(),
            project: "p".parse().unwrap(),
            id: digit.repeat(64).parse().unwrap(),
        }
    }

    #[test]
    fn pages_follow_each_other_without_gap_or_repeat() {
        let index = Index::new();
        for (second, digit) in [(1, "a"), (2, "b"), (2, "c"), (3, "d")] {
            index.put(place(second, digit), State::Ready, "", false);
        }
        let mut seen = Vec::new();
        let mut filter = Filter::default();
        loop {
            let page = index.page(&filter, 1);
            let Some((last, _)) = page.first() else { break };
            seen.push(last.clone());
            filter.before = Some(last.clone());
        }
        assert_eq!(
            seen,
            [place(3, "d"), place(2, "b"), place(2, "c"), place(1, "a")]
        );
    }

    #[test]
    fn a_scan_does_not_overwrite_what_a_live_build_said() {
        let index = Index::new();
        index.put(place(5, "a"), State::Ready, "g", true);
        index.put(place(1, "a"), State::Pending, "", false);
        let page = index.page(&Filter::default(), 9);
        assert_eq!(page, [(place(5, "a"), State::Ready)]);
        index.remove(&"p".parse().unwrap(), place(5, "a").id);
        assert!(index.page(&Filter::default(), 9).is_empty());
        assert_eq!(index.counts().values().sum::<u64>(), 0);
    }
}
