//! Projects: directories under `projects_path` that hold a `Dockerfile`.
//!
//! A [`ProjectName`] is parsed once, at input; then it can be joined to a path. [`Projects`] opens projects,
//! and caches the digests of files whose stamp has not changed, so that reading a large project again costs a
//! walk over its files and no reading of them. Everything here blocks; callers choose the thread.
//!
//! A user who may write to `projects_path` is as good as root on the host (a project may ask for
//! mounts and a user), so the files of a project are trusted; its *name* is not.

mod archive;
mod build_params;
mod container_options;
mod context;
mod digest;
mod entry;
mod environment;
mod error;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod ignore;
mod image_options;
mod name;
mod param_schema;
mod path_text;
mod pattern;
mod projects;
mod recipe;
mod regex;
mod regex_class;
mod regex_parser;
mod settings;
mod similar;
mod units;
mod walk;

pub use build_params::BuildParam;
pub use container_options::{ExtraHosts, NameServers, ShmSize, Ulimit, Ulimits};
pub use context::Context;
pub use digest::Digest;
pub use environment::Environment;
#[cfg(test)]
pub(crate) use environment::OWN_VARIABLES;
pub use error::Error;
pub use image_options::{BuildArgs, TargetStage};
pub use name::{NameError, Project, ProjectName};
pub(crate) use name::{PARAM_NAME_RULE, is_param_name};
pub use param_schema::{ParamRule, ParamSchema, ParamsError, is_opaque_param};
pub use projects::Projects;
pub(crate) use recipe::{DOCKERFILE, IGNORE_FILE, SETTINGS};
pub use settings::{ArtifactsStart, Builder, Capability, Limits, Settings, SettingsError};
pub(crate) use settings::{LOG_LIMITS, LOG_LIMITS_WRITTEN, read_json, resolve_mounts};
pub(crate) use similar::did_you_mean;
pub(crate) use units::{duration, size};
pub use units::{parse_duration, parse_size};
