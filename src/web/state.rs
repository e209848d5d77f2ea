//! The state that all handlers share.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;
use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use super::accept_control::AcceptControl;
use super::access::Access;
use super::connection_limits::ConnectionLimits;
use super::error::ApiError;
use crate::budget::{Budget, Client, Held};
use crate::build::Contents;
use crate::metrics::Metrics;
use crate::scheduler::Scheduler;

/// The state that every handler uses. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Web {
    pub(super) scheduler: Scheduler,
    pub(super) metrics: Metrics,
    /// A reload replaces it.
    pub(super) access: Arc<ArcSwap<Access>>,
    pub(super) accept_control: AcceptControl,
    pub(super) limits: ConnectionLimits,
    /// Cancelled when the daemon stops: streams end then.
    pub(super) stop: CancellationToken,
    /// Request ids: a random prefix and a counter.
    requests: Arc<AtomicU64>,
    /// When this process began to serve.
    pub(super) since: Timestamp,
    /// Bytes that are held for clients that read: responses, streams of logs and events, lists, trees. Memory
    /// for clients that build is counted by the scheduler.
    pub(super) held: Budget,
    /// Clients that receive a tree: each of them holds descriptors of it.
    trees: Budget,
}

/// Bytes that are held at once for clients that read: unread responses, streams of logs and events, lists,
/// trees. Together with the memory of thousands of connections, it is little of a host's memory.
const HELD_FOR_CLIENTS: u64 = 24 << 20;
/// Additional bytes for clients of this host alone: enough for one of the largest responses.
const HELD_FOR_LOCAL: u64 = 16 << 20;

/// Tars and manifests that are sent at once, where descriptors allow it: twice as many as may read at a
/// time.
const MAX_TREES: u64 = 256;
/// Tars and manifests that are sent at once in any case.
const MIN_TREES: u64 = 16;
/// Additional tars and manifests for clients of this host alone.
const TREES_FOR_LOCAL: u64 = 8;

/// The number of trees for which a quarter of the descriptors is enough.
fn max_trees() -> u64 {
    let files = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    let most = files.unwrap_or(u64::MAX) / 4 / Contents::DESCRIPTORS;
    most.clamp(MIN_TREES, MAX_TREES)
}

impl Web {
    /// Serves `scheduler` to the clients that `access` admits, until `stop`.
    pub fn new(
        scheduler: Scheduler,
        metrics: Metrics,
        access: Access,
        stop: CancellationToken,
    ) -> Web {
        // The ids only have to differ from those of other processes, so no source of randomness is needed.
        let first = crate::build::random_hex()
            .ok()
            .and_then(|hex| u64::from_str_radix(&hex[..16], 16).ok())
            .unwrap_or_default();
        Web {
            scheduler,
            metrics,
            access: Arc::new(ArcSwap::from_pointee(access)),
            accept_control: AcceptControl::new(),
            limits: ConnectionLimits::for_process(),
            stop,
            requests: Arc::new(AtomicU64::new(first)),
            since: Timestamp::now(),
            held: Budget::new(HELD_FOR_CLIENTS, HELD_FOR_LOCAL),
            trees: Budget::new(max_trees(), TREES_FOR_LOCAL),
        }
    }

    /// Controls the accept loops.
    pub fn accept_control(&self) -> AcceptControl {
        self.accept_control.clone()
    }

    /// Replaces the rules of access, from the next request on.
    pub fn change(&self, access: Access) {
        self.access.store(Arc::new(access));
    }

    pub(super) fn next_request(&self) -> String {
        format!("{:016x}", self.requests.fetch_add(1, Ordering::Relaxed))
    }

    /// Counts a client that receives a tree, until the value is dropped.
    ///
    /// # Errors
    /// 503 if as many trees are being sent as allowed.
    pub(super) fn hold_tree(&self, client: Client) -> Result<Held, ApiError> {
        self.trees.hold(client, 1).ok_or_else(|| {
            ApiError::busy(
                "the server sends artifacts to as many clients as it may; try again later",
            )
        })
    }
}
