//! How many clients may be connected at once, and the memory for the heads of their requests.

use rustix::process::{Resource, getrlimit};

use crate::budget::Budget;

/// The maximum of remote connections, where descriptors allow it. Each waiting client holds one. hyper has
/// two buffers of 8 KiB for each, so that all of them use 32 MiB.
const MAX_REMOTE_CONNECTIONS: u64 = 2_048;
/// File descriptors that are reserved for builds.
const RESERVED_FILES: u64 = 512;
/// Descriptors that one connection may take: its own, a lease, a file or two that are read for it.
const FILES_PER_CONNECTION: u64 = 4;
/// One in this many connections is reserved for clients of this host, and at most [`MAX_LOCAL_CONNECTIONS`].
const LOCAL_DIVISOR: u64 = 16;
const MAX_LOCAL_CONNECTIONS: u64 = 128;
/// Connections that are refused at one time with a response: one for this many places.
const REFUSED_DIVISOR: u64 = 4;
/// Bytes of large heads of requests: enough for hundreds of clients that send many times as much as browsers.
const MAX_HEAD_BYTES: u64 = 16 << 20;
/// Bytes on top for clients of this host alone.
const LOCAL_HEAD_BYTES: u64 = 4 << 20;

/// The message of the 503 to a client for which there is no place.
pub(super) const TOO_MANY_CONNECTIONS: &str = "too many connections at once; try again later";

/// The limits of one server. Clones share them.
#[derive(Clone, Debug)]
pub(super) struct ConnectionLimits {
    /// Connections.
    pub(super) connections: Budget,
    /// Requests that trusted proxies forward. Each is counted for the client that the proxy names, and its
    /// connection for the proxy, so there are as many of them as connections.
    pub(super) requests: Budget,
    /// Bytes of large heads.
    pub(super) heads: Budget,
    /// Connections that are refused with a response to their request. When there are too many of them, a
    /// connection is closed at once.
    pub(super) refusals: Budget,
}

impl ConnectionLimits {
    /// The limits for which this process may have descriptors.
    pub(super) fn for_process() -> ConnectionLimits {
        let files = getrlimit(Resource::Nofile).current;
        ConnectionLimits::of(files.unwrap_or(u64::MAX))
    }

    /// The limits for which `files` descriptors are enough. Builds need [`RESERVED_FILES`] of them, or half
    /// where there are few.
    fn of(files: u64) -> ConnectionLimits {
        let files = files.saturating_sub(RESERVED_FILES).max(files / 2);
        let all =
            (files / FILES_PER_CONNECTION).clamp(2, MAX_REMOTE_CONNECTIONS + MAX_LOCAL_CONNECTIONS);
        let local = (all / LOCAL_DIVISOR).clamp(1, MAX_LOCAL_CONNECTIONS);
        ConnectionLimits {
            connections: Budget::new(all - local, local),
            requests: Budget::new(all - local, 0),
            heads: Budget::new(MAX_HEAD_BYTES, LOCAL_HEAD_BYTES),
            refusals: Budget::new((all / REFUSED_DIVISOR).max(1), local),
        }
    }

    /// So many for remote clients, and one for this host.
    #[cfg(test)]
    pub(super) fn of_connections(connections: u64) -> ConnectionLimits {
        ConnectionLimits {
            connections: Budget::new(connections, 1),
            requests: Budget::new(connections, 0),
            heads: Budget::new(MAX_HEAD_BYTES, LOCAL_HEAD_BYTES),
            refusals: Budget::new(16, 1),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::budget::{Client, Held};

    fn taken(budget: &Budget, client: Client) -> Vec<Held> {
        std::iter::from_fn(|| budget.hold(client, 1)).collect()
    }

    #[test]
    fn remote_clients_cannot_take_places_of_this_host_or_descriptors_of_builds() {
        for (files, remote, local) in [
            (u64::MAX, 2_048, 128),
            (65_536, 2_048, 128),
            (4_096, 840, 56),
            (1_024, 120, 8),
            (64, 7, 1),
            (0, 1, 1),
        ] {
            let limits = ConnectionLimits::of(files);
            let held = taken(&limits.connections, Client::Proxy);
            assert_eq!(held.len(), remote, "{files}");
            let held = taken(&limits.connections, Client::Local);
            assert_eq!(held.len(), local, "{files}");
        }
    }
}
