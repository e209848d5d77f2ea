//! The inputs of a build: made once for each job, and shared by all users of them.

use std::sync::OnceLock;

use crate::job::{Job, JobId};
use crate::project::{self, Context, Settings};

/// The inputs of a build that starts from the beginning.
#[derive(Debug)]
pub(super) struct Recipe {
    pub(super) job: Job,
    pub(super) id: JobId,
    pub(super) context: Context,
    /// Read when they are first needed.
    settings: OnceLock<Settings>,
}

impl Recipe {
    /// The id must be that of the job.
    pub(super) fn new(job: Job, id: JobId, context: Context) -> Recipe {
        Recipe {
            job,
            id,
            context,
            settings: OnceLock::new(),
        }
    }

    /// The settings of the project.
    pub(super) fn settings(&self) -> Result<&Settings, project::Error> {
        if let Some(settings) = self.settings.get() {
            return Ok(settings);
        }
        let settings = self.context.settings()?;
        Ok(self.settings.get_or_init(|| settings))
    }
}
