//! The HTTP interface: JSON API, log streams, artifacts, metrics and the web view.
//!
//! [`routes`] is the index of what is answered. A handler parses, calls the scheduler, maps and
//! answers; who may ask at all is decided before, in [`access`], and which status an error has
//! in [`error`]. Nothing here knows Docker or the disk.

mod accept;
mod access;
mod answer;
mod artifacts;
mod authority;
mod collection;
mod compressed;
mod conditions;
mod connection;
mod door;
mod embedded;
mod error;
mod events;
mod filter;
mod forwarded;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod head;
mod host;
mod jobs;
mod list;
mod logs;
mod manifest;
mod media;
mod news;
mod pace;
mod paced;
mod pages;
mod places;
mod projects;
mod query;
mod queue;
mod ranges;
mod routes;
mod serve;
mod serving;
mod session;
mod tokens;
mod words;

pub use access::{Access, Public};
pub use collection::gc_view;
pub use door::Door;
pub use forwarded::Proxies;
pub use projects::image_view;
pub use serve::{Listener, serve, turn_away};
pub use tokens::{Scope, Token, TokensError, TokensFile};

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;
use tokio_util::sync::CancellationToken;

use self::places::Places;
use crate::budget::Budget;
use crate::build::Contents;
use crate::metrics::Metrics;
use crate::scheduler::Scheduler;

/// What every handler has at hand. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Web {
    scheduler: Scheduler,
    metrics: Metrics,
    /// A reload swaps it.
    access: Arc<ArcSwap<Access>>,
    door: Door,
    places: Places,
    /// The daemon ends: streams say goodbye.
    stop: CancellationToken,
    /// Request ids: a random beginning, then counted.
    requests: Arc<AtomicU64>,
    /// Bytes that are held for clients that read: answers, streams of logs and events, lists, trees. What
    /// is held for clients that build is counted by the scheduler.
    held: Budget,
    /// Places for those who are sent a tree: each holds descriptors of it.
    trees: Budget,
}

/// Bytes that are held at once for clients that read: answers that they have not read, streams of logs and
/// events, lists, trees. With what thousands of connections take, little of a host's memory.
const HELD_FOR_CLIENTS: u64 = 24 << 20;
/// As much more is there for clients of this host alone: room for one of the largest answers.
const HELD_FOR_LOCAL: u64 = 16 << 20;

/// Tars and manifests that are sent at once, where descriptors allow it: twice as many as may read at a
/// time.
const MAX_TREES: u64 = 256;
/// … and at least.
const FEWEST_TREES: u64 = 16;
/// As many more are there for clients of this host alone.
const TREES_FOR_LOCAL: u64 = 8;

/// As many trees as a quarter of the descriptors is enough for.
fn max_trees() -> u64 {
    let files = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    let most = files.unwrap_or(u64::MAX) / 4 / Contents::DESCRIPTORS;
    most.clamp(FEWEST_TREES, MAX_TREES)
}

impl Web {
    /// Serves `scheduler` to those whom `access` lets in, until `stop`.
    pub fn new(
        scheduler: Scheduler,
        metrics: Metrics,
        access: Access,
        stop: CancellationToken,
    ) -> Web {
        // The ids only have to differ from those of other processes; a failing source is no matter.
        let first = crate::build::random_hex()
            .ok()
            .and_then(|hex| u64::from_str_radix(&hex[..16], 16).ok())
            .unwrap_or_default();
        Web {
            scheduler,
            metrics,
            access: Arc::new(ArcSwap::from_pointee(access)),
            door: Door::new(),
            places: Places::of_process(),
            stop,
            requests: Arc::new(AtomicU64::new(first)),
            held: Budget::new(HELD_FOR_CLIENTS, HELD_FOR_LOCAL),
            trees: Budget::new(max_trees(), TREES_FOR_LOCAL),
        }
    }

    /// The accept loops that serve it.
    pub fn door(&self) -> Door {
        self.door.clone()
    }

    /// Other rules about who may ask, from the next request on.
    pub fn change(&self, access: Access) {
        self.access.store(Arc::new(access));
    }

    fn next_request(&self) -> String {
        format!("{:016x}", self.requests.fetch_add(1, Ordering::Relaxed))
    }
}
