//! The HTTP interface: JSON API, log streams, artifacts, metrics and the web view.
//!
//! [`routes`] is the table of all addresses. A handler parses the request, calls the scheduler and writes the
//! response. Before that, [`access`] decides whether the client may send the request at all; [`error`] maps
//! errors to statuses. Nothing here depends on Docker or the disk.

mod accept;
mod accept_control;
mod access;
mod artifacts;
mod attempts;
mod authority;
mod body;
mod caller;
mod client_budget;
mod collection;
mod compressed;
mod conditions;
mod connection;
mod connection_limits;
mod cookie;
mod dispatch;
mod embedded;
mod error;
mod events;
mod filter;
mod format;
mod forwarded;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod groups;
mod head;
mod host;
mod jobs;
mod list;
mod logs;
mod manifest;
mod media;
mod news;
#[cfg(test)]
mod openapi;
mod pace;
mod paced;
mod pages;
mod projects;
mod query;
mod queue;
mod ranges;
mod request;
mod response;
mod routes;
mod serve;
mod serving;
mod session;
mod short_id;
mod state;
mod tokens;

pub use accept_control::AcceptControl;
pub use access::{Access, Public};
pub use collection::gc_view;
pub use forwarded::Proxies;
pub use projects::image_view;
pub use serve::{Listener, refuse_all, serve};
pub use state::Web;
pub use tokens::{Scope, Token, TokensError, TokensFile};
