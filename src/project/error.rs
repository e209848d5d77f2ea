//! Errors of projects.

use std::io;

use super::name::ProjectName;
use super::param_schema::ParamsError;
use super::settings::SettingsError;
use super::similar;

/// An error of a project.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No directory of that name; the project that was probably meant.
    #[error("unknown project '{0}'{meant}", meant = meant(.1.as_ref()))]
    Unknown(ProjectName, Option<ProjectName>),
    /// The directory is there, without a recipe.
    #[error("project '{0}' has no Dockerfile")]
    NoDockerfile(ProjectName),
    /// The directory is there, but cannot be built as it is.
    #[error("project '{0}' cannot be built: {1}")]
    Unbuildable(ProjectName, String),
    /// Its `mistry.json` holds an invalid value.
    #[error("project '{0}' cannot be built: its mistry.json is wrong: {1}")]
    Settings(ProjectName, SettingsError),
    /// Its `mistry.json` does not allow the params of a request.
    #[error("wrong params of project '{0}': {1}; 'mistry projects {0}' lists its params")]
    Params(ProjectName, ParamsError),
    /// A file changed between the moment it was read for the digest and the moment it was sent.
    #[error("project '{0}' changed while it was being read; ask again")]
    Changed(ProjectName),
    /// A system call failed.
    #[error("could not read project '{0}'")]
    Read(ProjectName, #[source] io::Error),
    /// `projects_path` itself cannot be read.
    #[error("could not list the projects")]
    List(#[source] io::Error),
}

/// The part of a sentence that names the project that was probably meant.
fn meant(project: Option<&ProjectName>) -> String {
    project.map_or_else(String::new, |name| {
        format!("; {}", similar::question(name.as_str()))
    })
}
