//! Statistics of a project's builds: for plots, rates, and the estimate for the next build.
//!
//! Computed from the index, so it covers stored builds, and does no disk I/O.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::time::Duration;

use jiff::Timestamp;

use super::{Attempted, BuildStore, Filter, IndexEntry, Neighbours, Newest, Place};
use crate::job::{JobId, Outcome};
use crate::project::ProjectName;

/// Similar builds used to estimate the next duration: recent enough to follow a change, enough that one slow
/// disk does not decide.
pub const SIMILAR_BUILDS: usize = 15;
/// Most builds of the project that are searched for them.
const MAX_BUILDS_SEARCHED: usize = 500;

/// A finished build, as a plot shows it.
#[derive(Clone, Debug)]
pub struct Point {
    /// Its id.
    pub id: JobId,
    /// When it began.
    pub started: Timestamp,
    /// From start to end.
    pub took: Duration,
    /// It started as a clone of its group's latest.
    pub incremental: bool,
    /// How it ended.
    pub outcome: Outcome,
}

/// Statistics of a project's builds.
#[derive(Clone, Debug, Default)]
pub struct Trend {
    /// The latest finished builds, newest first.
    pub points: Vec<Point>,
    /// Stored builds, including pending ones.
    pub builds: u64,
    /// The number of finished builds.
    pub ended: u64,
    /// Those of them that succeeded.
    pub succeeded: u64,
    /// Unshared bytes on disk, as far as they were measured.
    pub own: u64,
}

impl BuildStore {
    /// The statistics of a project, with its latest `most` builds.
    pub fn trend(&self, project: &ProjectName, most: usize) -> Trend {
        let mut trend = Trend::default();
        self.index.walk(None, Some(project), |place, entry| {
            trend.builds += 1;
            trend.own += entry.own;
            if let (Some(outcome), Some(took)) = (entry.outcome(), entry.took) {
                trend.ended += 1;
                trend.succeeded += u64::from(outcome == Outcome::Succeeded);
                if trend.points.len() < most {
                    trend.points.push(Point {
                        id: place.id,
                        started: place.started,
                        took,
                        incremental: entry.incremental,
                        outcome,
                    });
                }
            }
            ControlFlow::Continue(())
        });
        trend
    }

    /// The number of builds of each project, and when the newest of them started, as far as the scan has
    /// progressed.
    pub fn counts(&self) -> BTreeMap<ProjectName, (u64, Option<Timestamp>)> {
        self.index.counts()
    }

    /// The newest build of each project that has one, as far as the scan has progressed.
    pub fn newest(&self) -> BTreeMap<ProjectName, Newest> {
        self.index.newest()
    }

    /// The builds around one, as far as the scan has progressed. Of very many builds of other groups between
    /// them, the nearest are searched.
    pub fn neighbours(&self, project: &ProjectName, build: Attempted) -> Neighbours {
        self.index.neighbours(project, build)
    }

    /// The end of a list of at most `limit` builds; `None` if there are no more.
    pub fn list_end(&self, filter: &Filter, limit: usize) -> Option<Place> {
        let page = self.index.page(filter, limit.saturating_add(1));
        let last = page.into_iter().skip(limit.saturating_sub(1));
        let mut last = last.map(|(place, _)| place);
        let end = last.next()?;
        last.next().map(|_| end)
    }

    /// The expected duration of a project's build: the median of the latest succeeded ones with the same kind
    /// of start. `None` without any.
    pub fn expected(&self, project: &ProjectName, incremental: bool) -> Option<Duration> {
        let mut like_it =
            self.index
                .like(project, incremental, SIMILAR_BUILDS, MAX_BUILDS_SEARCHED);
        like_it.sort_unstable();
        like_it.get(like_it.len() / 2).copied()
    }

    /// Unshared bytes on disk of the builds that started at `since` or later, as far as they are stored and
    /// were measured.
    pub fn grown(&self, since: Timestamp) -> u64 {
        let mut grown = 0;
        self.index.walk(None, None, |place, entry: &IndexEntry| {
            if place.started < since {
                return ControlFlow::Break(());
            }
            grown += entry.own;
            ControlFlow::Continue(())
        });
        grown
    }

    /// Builds that ended at `since` or later, ordered by their end; at most `limit`, the latest of them. True
    /// when there are more.
    pub fn ended(&self, since: Timestamp, limit: usize) -> (Vec<(ProjectName, JobId)>, bool) {
        let places = self.index.ended(since, limit.saturating_add(1));
        let surplus = places.len().saturating_sub(limit);
        let latest = places.into_iter().skip(surplus);
        let ended = latest.map(|place| (place.project, place.id)).collect();
        (ended, surplus > 0)
    }

    /// How many builds ended at `since` or later, and how many of them went wrong.
    pub fn count_ended(&self, since: Timestamp) -> (u64, u64) {
        self.index.count_ended(since)
    }

    /// The names of the groups of a project, or of all projects; at most `most`, and true if there are more.
    pub fn group_names(&self, project: Option<&ProjectName>, most: usize) -> (Vec<String>, bool) {
        self.index.groups(project, most)
    }

    /// The unshared bytes on disk of each project's builds, as far as they were measured.
    pub fn sizes(&self) -> BTreeMap<ProjectName, u64> {
        let mut sizes = BTreeMap::new();
        self.index.walk(None, None, |place, entry: &IndexEntry| {
            match sizes.get_mut(&place.project) {
                Some(size) => *size += entry.own,
                None => drop(sizes.insert(place.project.clone(), entry.own)),
            }
            ControlFlow::Continue(())
        });
        sizes
    }
}
