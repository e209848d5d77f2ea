//! How the builds of a project went: for plots, rates, and what to expect of the next one.
//!
//! Reckoned from the index, so it is about builds that are kept, and asks the disk nothing.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::time::Duration;

use jiff::Timestamp;

use super::{BuildInfo, BuildStore, Filter, IndexEntry, Newest, Outcome, Place};
use crate::job::JobId;
use crate::project::ProjectName;

/// Builds like it that say how long the next one may take: recent enough to follow a change, enough
/// that one slow disk does not decide.
const SIMILAR_BUILDS: usize = 15;
/// Among so many builds of the project those are looked for.
const MAX_BUILDS_SEARCHED: usize = 500;

/// A build that is over, as a plot shows it.
#[derive(Clone, Debug)]
pub struct Point {
    /// Its id.
    pub id: JobId,
    /// When it began.
    pub started: Timestamp,
    /// From beginning to end.
    pub took: Duration,
    /// It began as a clone of its group's latest.
    pub incremental: bool,
    /// How it ended.
    pub outcome: Outcome,
}

/// How the builds of a project went.
#[derive(Clone, Debug, Default)]
pub struct Trend {
    /// The latest that are over, newest first.
    pub points: Vec<Point>,
    /// Builds that are kept, pending ones included.
    pub builds: u64,
    /// Of those that are over: all, and the succeeded ones.
    pub ended: u64,
    /// Those of them that succeeded.
    pub succeeded: u64,
    /// Bytes of the disk that are theirs alone, as far as they were measured.
    pub own: u64,
}

impl BuildStore {
    /// How the builds of a project went, with the latest `most` of them.
    pub fn trend(&self, project: &ProjectName, most: usize) -> Trend {
        let mut trend = Trend::default();
        self.index.walk(None, Some(project), |place, entry| {
            trend.builds += 1;
            trend.own += entry.own;
            if let (Some(outcome), Some(took)) = (entry.outcome, entry.took) {
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

    /// How many builds of each project there are, and when the newest of them began, as far as the scan
    /// has come.
    pub fn counts(&self) -> BTreeMap<ProjectName, (u64, Option<Timestamp>)> {
        self.index.counts()
    }

    /// The newest build of each project that has one, as far as the scan has come.
    pub fn newest(&self) -> BTreeMap<ProjectName, Newest> {
        self.index.newest()
    }

    /// Where a list of at most `limit` builds ends; `None` where there are no more.
    pub fn list_end(&self, filter: &Filter, limit: usize) -> Option<Place> {
        let page = self.index.page(filter, limit.saturating_add(1));
        let last = page.into_iter().skip(limit.saturating_sub(1));
        let mut last = last.map(|(place, _)| place);
        let end = last.next()?;
        last.next().map(|_| end)
    }

    /// How long a build of a project may take: the middle of the latest succeeded ones that began
    /// alike. `None` without any.
    pub fn expected(&self, project: &ProjectName, incremental: bool) -> Option<Duration> {
        let mut like_it =
            self.index
                .like(project, incremental, SIMILAR_BUILDS, MAX_BUILDS_SEARCHED);
        like_it.sort_unstable();
        like_it.get(like_it.len() / 2).copied()
    }

    /// Bytes of the disk that builds which began at `since` or later took for themselves, as far as
    /// they are kept and were measured.
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

    /// The last rebuild of a job that did not succeed and lies beside the build that did; `None` also
    /// where it cannot be read.
    pub fn failed_rebuild(&self, project: &ProjectName, id: JobId) -> Option<BuildInfo> {
        let record = super::record::read(&self.layout.failed(project, id)).ok()??;
        self.survived(&record).then_some(record.info)
    }

    /// Builds that ended at `since` or later, in the order in which they did; at most `limit`, the
    /// latest of them. True when there are more.
    pub fn ended(&self, since: Timestamp, limit: usize) -> (Vec<(ProjectName, JobId)>, bool) {
        let places = self.index.ended(since, limit.saturating_add(1));
        let surplus = places.len().saturating_sub(limit);
        let latest = places.into_iter().skip(surplus);
        let ended = latest.map(|place| (place.project, place.id)).collect();
        (ended, surplus > 0)
    }

    /// How many bytes of the disk the builds of each project have to themselves, as far as they were
    /// measured.
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
