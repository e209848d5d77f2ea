//! The names of the files of a project that Docker and mistry read.

/// The recipe of a project's image.
pub(crate) const DOCKERFILE: &str = "Dockerfile";
/// The project's own settings, beside the Dockerfile.
pub(crate) const SETTINGS: &str = "mistry.json";
/// The exclusion list.
pub(crate) const IGNORE_FILE: &str = ".dockerignore";
