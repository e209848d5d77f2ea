//! The client side of [`crate::api`]: requests to a server over TCP or a unix socket.
//!
//! Each request of a [`Client`] has a connection of its own, so a connection that breaks affects one
//! request only. Responses are read in bounded memory. Nothing here retries, prints or ends a program:
//! the caller decides what to do about an [`Error`]; [`Error::is_transient`] says whether the same
//! request may succeed later.

mod address;
mod backoff;
mod connection;
mod error;
mod events;
mod filter;
mod finished;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod http;
mod job_url;
mod params;
mod response;
#[cfg(test)]
pub(crate) mod scripted;

pub use address::{Address, AddressError, DEFAULT_HOST, DEFAULT_PORT, DEFAULT_SOCKET};
pub use backoff::Backoff;
pub use error::{Error, ErrorResponse};
pub use events::{Event, Events};
pub use filter::Filter;
pub use finished::Finished;
pub use http::{Client, Submitted};
pub use job_url::parse_job_url;
pub use params::{ParamsError, parse_params, with_params_last};
pub use response::Response;
