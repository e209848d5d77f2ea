//! The web view: the current builds, each build, its artifacts, projects, the host.
//!
//! The pages work without JavaScript, are better with it, and load nothing from other sites. All text from
//! clients or containers is escaped by the templates.

mod attempts;
mod changes;
mod commands;
pub(super) mod directory;
mod excerpt;
pub(super) mod file;
mod filters;
mod host;
mod job;
mod overview;
mod page;
mod plot;
mod project;
pub(super) mod refused;
mod row;
pub(super) mod signin;
mod start;
mod timeline;

pub(super) use host::host;
pub(super) use job::{JOB_BYTES, job};
pub(super) use overview::overview;
pub(super) use project::{project, projects};
pub(super) use row::row_of;
