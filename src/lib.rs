//! mistry: a general-purpose build server.
//!
//! A *project* is a directory with a Dockerfile. A *job* requests it with params; a *build* is one attempt
//! at a job, in a container, and its directory on disk. A job that was built is answered from its build; a
//! job that is being built is waited for; builds of a *group* start as a clone of its latest build.
//! `docs/ARCHITECTURE.md` has the terms, the dependency rules and the invariants; a test checks the code
//! against its tables.
//!
//! # The modules, in reading order
//!
//! - Data types: [`project`] (the recipe and its context), [`job`] (the request, its id, and how a
//!   build ends), [`policy`] (which builds may go), [`config`], [`api`] (the JSON of the HTTP interface).
//! - Modules for one external system each: [`filesystem`] (trees), [`build`] (the disk under the build path),
//!   [`docker`] (the Engine); and [`systemd`], [`journal`], [`metrics`], [`pipe`], [`budget`] and
//!   [`read_limiter`], which depend on no modules but each other.
//! - The core: [`scheduler`]. It decides which job is built when, and notifies its waiters. Its `pipeline`
//!   runs one build from start to end.
//! - The interfaces: [`web`] and [`dbus`]. Their client side: [`client`].
//! - The programs: [`daemon`] (`mistryd`) and [`cli`] (`mistry`).
//!
//! # Limitations
//!
//! Images are made by Docker's classic builder.
//!
//! # To run it once by hand
//!
//! `make demo`, or with a Docker Engine at hand:
//!
//! ```text
//! mkdir -p try/projects try/builds && cp -r examples/projects/hello try/projects/
//! cp /bin/busybox try/projects/hello/            # a static one
//! echo '{"projects_path":"projects","build_path":"builds"}' > try/config.json
//! cargo run --bin mistryd -- --config try/config.json &
//! cargo run --bin mistry -- build --project hello --target try/out -- --name=world
//! ```

// Data types. A directory with a Dockerfile, and the digest of its files.
pub mod project;

// The build request, and its id.
pub mod job;

// The rules of garbage collection.
pub mod policy;

// The configuration file, and the validated configuration.
pub mod config;

// The JSON that web and client share.
pub mod api;

// One external system each. Trees of files: created, cloned, removed.
pub mod filesystem;

// Builds on disk: record, log, artifacts.
pub mod build;

// Images and containers of one Engine.
pub mod docker;

// Where the daemon sends its log records.
pub mod journal;

// Sockets and notifications of systemd.
pub mod systemd;

// Prometheus metrics.
pub mod metrics;

// Fault injection for tests; empty in a release build.
pub mod faults;

// Disk errors with the path they are about.
pub mod located;

// Turns a blocking writer into a stream.
pub mod pipe;

// Bounds what is held for clients.
pub mod budget;

// Bounds the threads that read for clients.
pub mod read_limiter;

// Prints untrusted text on a terminal.
mod screen;

// A command that requests a build, for a shell.
mod build_command;

// The core: decides which job is built when, and notifies its waiters.
pub mod scheduler;

// HTTP interface.
pub mod web;

// The D-Bus interface.
pub mod dbus;

// The client side of both.
pub mod client;

// The programs. `mistryd`.
pub mod daemon;

// `mistry`.
pub mod cli;
