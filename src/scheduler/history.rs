//! How builds went and jobs were answered: what to expect of the next, what a page about a project
//! or the host shows.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::{Timestamp, ToSpan};

use super::error::Error;
use super::reading::Reader;
use super::service::Scheduler;
use crate::build::{AnswerStats, Secret, Trend};
use crate::job::JobId;
use crate::project::ProjectName;

/// A week shows work days and the others.
const GROWTH_DAYS: i32 = 7;

/// What builds take of the disk, and where that leads.
#[derive(Clone, Copy, Debug)]
pub struct Growth {
    /// Bytes that the builds of the last days took for themselves, per day.
    pub per_day: u64,
    /// Over how many days.
    pub days: i32,
}

impl Scheduler {
    /// How long a build of a project may take, from those before it. `None` without any.
    pub fn expected(&self, project: &ProjectName, incremental: bool) -> Option<Duration> {
        self.0.store.expected(project, incremental)
    }

    /// What only the daemons of this build path know: for what is signed and must hold over a restart.
    pub fn secret(&self) -> &Secret {
        self.0.store.secret()
    }

    /// How jobs of a project were answered.
    pub fn answer_stats(&self, project: &ProjectName) -> AnswerStats {
        self.0.store.answer_stats(project)
    }

    /// True when garbage is collected by itself.
    pub fn collects(&self) -> bool {
        self.0.config.load().gc.is_some()
    }
}

impl Reader {
    /// How the builds of a project went, with the latest `most` of them.
    ///
    /// # Errors
    /// [`Error::Lost`].
    pub async fn trend(&self, project: &ProjectName, most: usize) -> Result<Trend, Error> {
        self.scheduler.0.store.indexed().await;
        let (shared, project) = (self.scheduler.0.clone(), project.clone());
        self.walk(move || shared.store.trend(&project, most)).await
    }

    /// How many bytes of the disk the builds of each project have to themselves.
    ///
    /// # Errors
    /// [`Error::Lost`].
    pub async fn sizes(&self) -> Result<BTreeMap<ProjectName, u64>, Error> {
        self.scheduler.0.store.indexed().await;
        let shared = self.scheduler.0.clone();
        self.walk(move || shared.store.sizes()).await
    }

    /// How fast builds take up the disk.
    ///
    /// # Errors
    /// [`Error::Lost`].
    pub async fn growth(&self) -> Result<Growth, Error> {
        self.scheduler.0.store.indexed().await;
        let since = Timestamp::now() - (i64::from(GROWTH_DAYS) * 24).hours();
        let shared = self.scheduler.0.clone();
        let grown = self.walk(move || shared.store.grown(since)).await?;
        Ok(Growth {
            per_day: grown / u64::from(GROWTH_DAYS.unsigned_abs()),
            days: GROWTH_DAYS,
        })
    }

    /// Builds that ended at `since` or later, in the order in which they did; at most `limit`, the
    /// latest of them. True when there are more.
    ///
    /// # Errors
    /// [`Error::Lost`].
    pub async fn ended(
        &self,
        since: Timestamp,
        limit: usize,
    ) -> Result<(Vec<(ProjectName, JobId)>, bool), Error> {
        self.scheduler.0.store.indexed().await;
        let shared = self.scheduler.0.clone();
        self.walk(move || shared.store.ended(since, limit)).await
    }
}
