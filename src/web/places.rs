//! How many may be connected at once, and how much each of them may take before it is known what it wants.

use rustix::process::{Resource, getrlimit};

use crate::budget::Budget;

/// Connections of strangers at once, where descriptors allow it. Each waiting client holds one. hyper has
/// two buffers of 8 KiB for each, so that all of them take 32 MiB.
const MOST: u64 = 2_048;
/// File descriptors that connections leave to the builds.
const RESERVED_FILES: u64 = 512;
/// Descriptors that one connection may take: its own, a lease, a file or two that are read for it.
const FILES_EACH: u64 = 4;
/// One of so many places is for clients of this host alone, or so many beyond those of strangers.
const LOCAL_SHARE: u64 = 16;
const MOST_LOCAL: u64 = 128;
/// Refused at once, with time to ask and to read the answer: one for so many places.
const REFUSED_SHARE: u64 = 4;
/// Bytes of large heads of requests: many times what browsers send, of hundreds of clients.
const HEADS: u64 = 16 << 20;
/// As much more is there for clients of this host alone.
const LOCAL_HEADS: u64 = 4 << 20;

/// The message of the 503 to a client for which there is no place.
pub(super) const NO_PLACE: &str = "too many connections at once; try again later";

/// The places of one server. Clones share them.
#[derive(Clone, Debug)]
pub(super) struct Places {
    /// Connections.
    pub(super) connections: Budget,
    /// Requests that trusted proxies pass on, each counted for the client that it names: as many as there
    /// are connections, which are counted for the proxy.
    pub(super) requests: Budget,
    /// Bytes of large heads.
    pub(super) heads: Budget,
    /// Connections that are refused and have time to ask and to read the answer. Past it a connection is
    /// closed with the answer.
    pub(super) refusals: Budget,
}

impl Places {
    /// As many as this process may have descriptors for.
    pub(super) fn of_process() -> Places {
        let files = getrlimit(Resource::Nofile).current;
        Places::of(files.unwrap_or(u64::MAX))
    }

    /// As many as `files` descriptors are enough for, less what builds need; half of few.
    fn of(files: u64) -> Places {
        let files = files.saturating_sub(RESERVED_FILES).max(files / 2);
        let all = (files / FILES_EACH).clamp(2, MOST + MOST_LOCAL);
        let local = (all / LOCAL_SHARE).clamp(1, MOST_LOCAL);
        Places {
            connections: Budget::new(all - local, local),
            requests: Budget::new(all - local, 0),
            heads: Budget::new(HEADS, LOCAL_HEADS),
            refusals: Budget::new((all / REFUSED_SHARE).max(1), local),
        }
    }

    /// So many for strangers, and one for this host.
    #[cfg(test)]
    pub(super) fn few(connections: u64) -> Places {
        Places {
            connections: Budget::new(connections, 1),
            requests: Budget::new(connections, 0),
            heads: Budget::new(HEADS, LOCAL_HEADS),
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
    fn strangers_leave_places_to_this_host_and_descriptors_to_builds() {
        for (files, strangers, local) in [
            (u64::MAX, 2_048, 128),
            (65_536, 2_048, 128),
            (4_096, 840, 56),
            (1_024, 120, 8),
            (64, 7, 1),
            (0, 1, 1),
        ] {
            let places = Places::of(files);
            let held = taken(&places.connections, Client::Proxy);
            assert_eq!(held.len(), strangers, "{files}");
            let held = taken(&places.connections, Client::Local);
            assert_eq!(held.len(), local, "{files}");
        }
    }
}
