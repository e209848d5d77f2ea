//! Statistics of builds and answers: estimates for the next build, figures for the pages of a project or the
//! host.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::{Timestamp, ToSpan};

use super::error::Error;
use super::reading::Reader;
use super::service::Scheduler;
use crate::build::{AnswerStats, Attempted, Comparison, Neighbours, Secret, Trend};
use crate::job::JobId;
use crate::project::ProjectName;

/// A week has working days and the others.
const GROWTH_DAYS: i32 = 7;

/// The disk usage of builds, and its growth.
#[derive(Clone, Copy, Debug)]
pub struct Growth {
    /// Bytes per day that the builds of the last days take exclusively.
    pub per_day: u64,
    /// The number of days.
    pub days: i32,
}

impl Scheduler {
    /// The expected duration of a build, from earlier ones. `None` without any.
    pub fn expected(&self, project: &ProjectName, incremental: bool) -> Option<Duration> {
        self.0.store.expected(project, incremental)
    }

    /// A secret of the daemons of this build path, for signatures that must stay valid over a restart.
    pub fn secret(&self) -> &Secret {
        self.0.store.secret()
    }

    /// How requests for a project's jobs were answered.
    pub fn answer_stats(&self, project: &ProjectName) -> AnswerStats {
        self.0.store.answer_stats(project)
    }

    /// True when garbage is collected automatically.
    pub fn collects(&self) -> bool {
        self.0.config.load().gc.is_some()
    }
}

impl Reader {
    /// The history of a project's builds, with the latest `most` of them.
    ///
    /// # Errors
    /// [`Error::Lost`].
    pub async fn trend(&self, project: &ProjectName, most: usize) -> Result<Trend, Error> {
        self.scheduler.0.store.indexed().await;
        let (shared, project) = (self.scheduler.0.clone(), project.clone());
        self.walk(move || shared.store.trend(&project, most)).await
    }

    /// The bytes on disk that the builds of each project use exclusively.
    ///
    /// # Errors
    /// [`Error::Lost`].
    pub async fn sizes(&self) -> Result<BTreeMap<ProjectName, u64>, Error> {
        self.scheduler.0.store.indexed().await;
        let shared = self.scheduler.0.clone();
        self.walk(move || shared.store.sizes()).await
    }

    /// How many builds ended in the last 24 hours, and how many of them went wrong.
    ///
    /// # Errors
    /// [`Error::Lost`].
    pub async fn last_day(&self) -> Result<(u64, u64), Error> {
        self.scheduler.0.store.indexed().await;
        let since = Timestamp::now() - 24.hours();
        let shared = self.scheduler.0.clone();
        self.walk(move || shared.store.count_ended(since)).await
    }

    /// The names of the groups of a project, or of all projects, sorted; at most `most`, and true if there are
    /// more.
    ///
    /// # Errors
    /// [`Error::Lost`].
    pub async fn group_names(
        &self,
        project: Option<ProjectName>,
        most: usize,
    ) -> Result<(Vec<String>, bool), Error> {
        self.scheduler.0.store.indexed().await;
        let shared = self.scheduler.0.clone();
        self.walk(move || shared.store.group_names(project.as_ref(), most))
            .await
    }

    /// How fast the disk usage of builds grows.
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

    /// The builds before and after an attempt in its group, and how it differs from the last one before it that
    /// succeeded. That is read only `with_changes`, and missing where a record cannot be read.
    ///
    /// # Errors
    /// [`Error::Lost`].
    pub async fn surroundings(
        &self,
        project: &ProjectName,
        build: Attempted,
        with_changes: bool,
    ) -> Result<(Neighbours, Option<Comparison>), Error> {
        self.scheduler.0.store.indexed().await;
        let (shared, project) = (self.scheduler.0.clone(), project.clone());
        let reading = self.run_limited(&self.scheduler.0.readers.records, move |_permit| {
            let around = shared.store.neighbours(&project, build);
            let green = around.last_succeeded.filter(|_| with_changes);
            let changes = green.and_then(|green| shared.store.compare(&project, green, build).ok());
            (around, changes.flatten())
        });
        reading.await
    }

    /// Builds that ended at `since` or later, in the order of their ends; at most `limit`, the latest of
    /// them. True when there are more.
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
