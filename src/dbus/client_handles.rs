//! Clients that leave the bus, and builds that are cancelled then.

use std::collections::HashMap;

use parking_lot::{Mutex, MutexGuard};

use crate::scheduler::JobHandle;

/// Handles by the unique name of the client that owns them: one for each such request for an active job,
/// which is no more than the number of calls while it was active.
#[derive(Debug, Default)]
pub(super) struct ClientHandles {
    /// Locked for a push or a take. Handles are dropped after it is unlocked.
    held: Mutex<HashMap<String, Vec<JobHandle>>>,
}

impl ClientHandles {
    /// Stores a handle until its job is over or its client has disconnected.
    pub(super) fn hold(&self, client: &str, handle: JobHandle) {
        let mut held = self.held();
        held.entry(client.to_owned()).or_default().push(handle);
    }

    /// A job is over: its handles are dropped.
    pub(super) fn drop_ended(&self) {
        let mut over = Vec::new();
        self.held().retain(|_, handles| {
            let (ended, live) = std::mem::take(handles)
                .into_iter()
                .partition(|handle| handle.is_over());
            *handles = live;
            let mut ended: Vec<JobHandle> = ended;
            over.append(&mut ended);
            !handles.is_empty()
        });
        drop(over);
    }

    /// A client disconnected.
    pub(super) fn client_left(&self, client: &str) {
        let gone = self.held().remove(client);
        drop(gone);
    }

    /// The bus is gone, and so all its clients have disconnected.
    pub(super) fn bus_lost(&self) {
        let gone = std::mem::take(&mut *self.held());
        drop(gone);
    }

    fn held(&self) -> MutexGuard<'_, HashMap<String, Vec<JobHandle>>> {
        self.held.lock()
    }
}
