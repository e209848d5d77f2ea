//! The inputs of a build: made once for each job, and shared by all users of them.

use std::collections::BTreeSet;
use std::sync::{Arc, OnceLock};

use crate::job::{Job, JobId, Params};
use crate::project::{self, Context, ParamSchema, Settings};

/// The inputs of a build that starts from the beginning.
#[derive(Debug)]
pub(super) struct Recipe {
    pub(super) job: Job,
    pub(super) id: JobId,
    pub(super) context: Context,
    /// Read when they are first needed.
    settings: OnceLock<Arc<Settings>>,
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

    /// The same, with the settings of the project.
    pub(super) fn with_settings(
        job: Job,
        id: JobId,
        context: Context,
        settings: Arc<Settings>,
    ) -> Recipe {
        Recipe {
            settings: settings.into(),
            ..Recipe::new(job, id, context)
        }
    }

    /// The params that the build gets: those of the request, and the project's defaults for the others.
    pub(super) fn params(&self, settings: &Settings) -> Params {
        let mut params = self.job.params.clone();
        for (name, rule) in settings.params.iter().flat_map(ParamSchema::iter) {
            if let (Ok(name), Some(default)) = (name.parse(), &rule.default) {
                let value = || Arc::from(default.as_str());
                params.entry(name).or_insert_with(value);
            }
        }
        params
    }

    /// The names of the params whose values are masked in the log.
    pub(super) fn secrets(&self, settings: &Settings) -> BTreeSet<String> {
        let schema = settings.params.as_ref();
        let names = self.job.params.keys().filter(|name| {
            let is_secret = schema.is_none_or(|schema| schema.is_secret(name.as_str()));
            name.is_opaque() && is_secret
        });
        names.map(ToString::to_string).collect()
    }

    /// The settings of the project.
    pub(super) fn settings(&self) -> Result<&Settings, project::Error> {
        if let Some(settings) = self.settings.get() {
            return Ok(settings);
        }
        let settings = Arc::new(self.context.settings()?);
        Ok(self.settings.get_or_init(|| settings))
    }
}
