//! The inputs of a build: made once for each job, and shared by all users of them.

use std::collections::BTreeSet;
use std::sync::{Arc, OnceLock};

use crate::job::{Job, JobId, Params};
use crate::project::{self, Context, ParamSchema, ParamsError, Settings};

/// The variables of the settings of a project, as `NAME=value`, for a build with these params.
pub(super) fn environment(
    params: &Params,
    settings: &Settings,
) -> Result<Vec<String>, ParamsError> {
    settings.env.expand(|name| {
        let sent = params.iter().find(|(sent, _)| sent.as_str() == name);
        let default = || settings.params.as_ref()?.find(name)?.default.as_deref();
        sent.map(|(_, value)| &**value).or_else(default)
    })
}

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

    /// The variables of the container from the project's settings, as `NAME=value`.
    pub(super) fn environment(&self, settings: &Settings) -> Result<Vec<String>, project::Error> {
        environment(&self.job.params, settings)
            .map_err(|error| project::Error::Params(self.job.project.clone(), error))
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
