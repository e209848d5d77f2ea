//! Clients that leave the bus, and the builds that they wanted only while they were there.

use std::collections::HashMap;

use parking_lot::{Mutex, MutexGuard};

use crate::scheduler::JobHandle;

/// Handles by the unique name of the client that holds them: one for each time that a live job was asked for
/// so, which is no more than the calls that there were while it was live.
#[derive(Debug, Default)]
pub(super) struct Departures {
    /// Held for a push or a take. What is dropped is dropped outside of it.
    held: Mutex<HashMap<String, Vec<JobHandle>>>,
}

impl Departures {
    /// Holds a handle until its job is over or its client has left.
    pub(super) fn hold(&self, client: &str, handle: JobHandle) {
        let mut held = self.held();
        held.entry(client.to_owned()).or_default().push(handle);
    }

    /// Some job is over: no client holds it any more.
    pub(super) fn over(&self) {
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

    /// A client has left.
    pub(super) fn left(&self, client: &str) {
        let gone = self.held().remove(client);
        drop(gone);
    }

    /// The bus is gone, and with it all clients on it.
    pub(super) fn all_left(&self) {
        let gone = std::mem::take(&mut *self.held());
        drop(gone);
    }

    fn held(&self) -> MutexGuard<'_, HashMap<String, Vec<JobHandle>>> {
        self.held.lock()
    }
}
