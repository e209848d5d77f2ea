//! The bytes of all attempts: counted job by job at the start, while attempts come and go.
//!
//! A change of a job that is still to be counted is counted with the job; any other change is counted at once.
//! So the sum is exact as soon as all jobs are counted.

use std::collections::HashSet;

use crate::job::JobId;
use crate::project::ProjectName;

/// The bytes of the attempts of all jobs that are counted, and which jobs are not.
#[derive(Debug, Default)]
pub(super) struct AttemptCount {
    bytes: u64,
    /// Before that, no job is counted.
    has_begun: bool,
    /// The projects whose jobs are still to be counted.
    projects: HashSet<ProjectName>,
    /// The project that is being counted, and its jobs that are still to be counted.
    current: Option<(ProjectName, HashSet<JobId>)>,
}

impl AttemptCount {
    /// The bytes of all jobs that are counted.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Begins to count; `projects` are all that have attempts now.
    pub(super) fn begin(&mut self, projects: &[ProjectName]) {
        *self = AttemptCount {
            has_begun: true,
            projects: projects.iter().cloned().collect(),
            ..AttemptCount::default()
        };
    }

    /// Begins to count a project; `jobs` are all of its jobs that have attempts now.
    pub(super) fn begin_project(&mut self, project: &ProjectName, jobs: &[JobId]) {
        self.projects.remove(project);
        self.current = Some((project.clone(), jobs.iter().copied().collect()));
    }

    /// Counts a job, all of whose attempts take `bytes` now.
    pub(super) fn count_job(&mut self, project: &ProjectName, id: JobId, bytes: u64) {
        if let Some((current, jobs)) = &mut self.current
            && current == project
            && jobs.remove(&id)
        {
            self.bytes = self.bytes.saturating_add(bytes);
        }
    }

    /// Ends the count. What could not be counted is left out.
    pub(super) fn end(&mut self) {
        (self.projects, self.current) = (HashSet::new(), None);
    }

    /// An attempt of a job was put in place.
    pub(super) fn add(&mut self, project: &ProjectName, id: JobId, bytes: u64) {
        if self.is_counted(project, id) {
            self.bytes = self.bytes.saturating_add(bytes);
        }
    }

    /// Attempts of a job were removed.
    pub(super) fn subtract(&mut self, project: &ProjectName, id: JobId, bytes: u64) {
        if self.is_counted(project, id) {
            self.bytes = self.bytes.saturating_sub(bytes);
        }
    }

    fn is_counted(&self, project: &ProjectName, id: JobId) -> bool {
        let is_to_be = |(current, jobs): &(ProjectName, HashSet<JobId>)| {
            current == project && jobs.contains(&id)
        };
        let is_later =
            self.projects.contains(project) || self.current.as_ref().is_some_and(is_to_be);
        self.has_begun && !is_later
    }
}
