//! mistry: a general-purpose build server.
//!
//! A *project* is a directory with a Dockerfile. A *job* asks for it with params; a *build* is
//! one execution of a job, in a container, and its directory on disk. A job that was built is
//! answered from its build; one that is being built is waited for; builds of a *group* begin as
//! a clone of its latest. `docs/ARCHITECTURE.md` has the words, the walls and the invariants;
//! a test holds the code to its tables.
//!
//! # The house, in reading order
//!
//! - The nouns: [`project`] (the recipe and its context), [`job`] (what is asked, and its id),
//!   [`config`], [`api`] (the JSON on the line).
//! - The rooms that touch one world each: [`filesystem`] (trees), [`build`] (the disk under the
//!   build path), [`docker`] (the Engine); and [`systemd`], [`journal`], [`metrics`],
//!   [`pipe`], [`budget`] and [`turns`], which know nothing of the rest.
//! - The heart: [`scheduler`]. Who builds what, when, and who waits for it. Its `pipeline` is
//!   the story of one build.
//! - The interfaces: [`web`] and [`dbus`]. The other end of them: [`client`].
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

// The nouns. A directory with a Dockerfile, and the digest of its files.
pub mod project;

// What is asked, and its id.
pub mod job;

// What the file may say, and what the daemon may rely on.
pub mod config;

// The JSON that web and client share.
pub mod api;

// One world each. Trees of files: created, cloned, removed.
pub mod filesystem;

// Builds on disk: record, log, artifacts.
pub mod build;

// Images and containers of one Engine.
pub mod docker;

// Where the daemon's records go.
pub mod journal;

// What systemd gives and is told.
pub mod systemd;

// What is counted.
pub mod metrics;

// Where tests let the daemon fail; nothing in a release build.
pub mod faults;

// Errors of the disk say what they were about.
pub mod located;

// A blocking writer becomes a stream.
pub mod pipe;

// What is held for clients has a bound.
pub mod budget;

// And how many threads read for them.
pub mod turns;

// Text of strangers on a terminal.
mod screen;

// The heart: who builds what, when, and who waits for it.
pub mod scheduler;

// A face: HTTP.
pub mod web;

// Another: the bus.
pub mod dbus;

// The other end of them.
pub mod client;

// The programs. `mistryd`.
pub mod daemon;

// `mistry`.
pub mod cli;
