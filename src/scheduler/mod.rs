//! The scheduler: which jobs are built, when, and who waits for them.
//!
//! [`Scheduler`] is a cheap handle with few methods. A submitted job is answered from a ready build, joins
//! one under way, or is recorded and built by a task of its own ([`pipeline`]); the client gets a
//! [`JobHandle`] and may disconnect at any time. Decisions under a lock are made by [`queue`], a plain value.
//!
//! It is independent of HTTP: interfaces call it and convert its [`Error`]s.

mod active_job;
mod activity;
mod adoption;
mod artifacts;
mod blocking;
mod broadcast;
mod build_task;
mod collection;
mod config;
mod container;
mod deadlines;
mod ending;
mod engine;
mod error;
mod event;
mod event_stream;
mod history;
mod image_properties;
mod images;
mod interruption;
mod jobs;
mod logs;
mod lookup;
mod lookups;
mod pause;
mod pipeline;
mod queue;
mod readers;
mod reading;
mod rebuild;
mod recipe;
mod request;
mod service;
mod shared;
mod statistics;
mod stop;
mod submit;
mod supervision;
mod sweep;
mod sweep_state;
mod unused_images;

pub use active_job::{JobHandle, JobObserver};
pub use activity::{Activity, Last};
pub use broadcast::NewJobs;
pub use collection::Collection;
pub use config::SchedulerConfig;
pub use error::Error;
pub use event_stream::{EventStream, StreamEvent};
pub use history::Growth;
pub use reading::{HostReport, ListEnd, Newest, Reader};
pub use rebuild::ImageReport;
pub use request::{SubmitRequest, large};
pub use service::Scheduler;
pub use submit::Submission;
