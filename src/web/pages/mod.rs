//! The web view: builds as they happen, each of them, their artifacts, projects, the host.
//!
//! Works without JavaScript, is better with it, and loads nothing from elsewhere. Everything that a client or a
//! container wrote goes through the templates' escaping.

pub(super) mod directory;
pub(super) mod file;
mod host;
mod job;
mod overview;
mod page;
mod plot;
mod project;
pub(super) mod refused;
mod row;
pub(super) mod signin;
mod timeline;

pub(super) use host::host;
pub(super) use job::{JOB_BYTES, job};
pub(super) use overview::overview;
pub(super) use project::{project, projects};
pub(super) use row::row_of;
