//! The scheduler: which jobs are built, when, and who waits for them.
//!
//! [`Scheduler`] is a cheap handle with few methods. A submitted job is answered from a ready build, joins
//! one under way, or is recorded and built by a task of its own ([`pipeline`]); the client gets a
//! [`JobHandle`] and may disconnect at any time. Decisions under a lock are made by [`queue`], a plain value.
//!
//! It is independent of HTTP: interfaces call it and convert its [`Error`]s.

// The scheduler and what its parts share.
mod blocking;
mod config;
mod error;
mod host_proxies;
mod service;
mod shared;

// A request: looked up, admitted, queued.
mod active_job;
mod lookup;
mod lookups;
mod output;
mod pause;
mod queue;
mod recipe;
mod request;
mod submit;

// One build, from its slot to its end.
mod build_task;
mod container;
mod deadlines;
mod ending;
mod interruption;
mod pipeline;
mod stop;
mod supervision;

// What an earlier process left.
mod adoption;

// The Engine, its images, and containers without an owner.
mod build_secrets;
mod engine;
mod image_properties;
mod images;
mod rebuild;
mod registry_auth;
mod sweep;
mod sweep_state;
mod unused_images;

// What clients read.
mod artifacts;
mod attempts;
mod jobs;
mod logs;
mod machine;
mod readers;
mod reading;

// What happened and what is going on, for the journal, the metrics, pages and followers.
mod activity;
mod broadcast;
mod event;
mod event_stream;
mod history;
mod statistics;

// Garbage, and groups.
mod collection;
mod groups;

pub use active_job::{JobHandle, JobObserver};
pub use activity::{Activity, Last};
pub use broadcast::NewJobs;
pub use collection::Collection;
pub use config::SchedulerConfig;
pub use error::Error;
pub use event_stream::{EventStream, StreamEvent};
pub use history::Growth;
pub use host_proxies::HostProxies;
pub use machine::Machine;
pub use reading::{HostReport, ListEnd, LogTail, Newest, Reader};
pub use rebuild::ImageReport;
pub use registry_auth::registry_auth_warnings;
pub use request::{SubmitRequest, large};
pub use service::Scheduler;
pub use submit::Submission;
