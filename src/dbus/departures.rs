//! Clients that leave the bus, and the builds that they wanted only while they were there.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::scheduler::Ticket;

/// Tickets by the unique name of the client that holds them: one for each time that a live job was asked for
/// so, which is no more than the calls that there were while it was live.
#[derive(Debug, Default)]
pub(super) struct Departures {
    /// Std, held for a push or a take. What is dropped is dropped outside of it.
    held: Mutex<HashMap<String, Vec<Ticket>>>,
}

impl Departures {
    /// Holds a ticket until its job is over or its client has left.
    pub(super) fn hold(&self, client: &str, ticket: Ticket) {
        let mut held = self.held();
        held.entry(client.to_owned()).or_default().push(ticket);
    }

    /// Some job is over: no client holds it any more.
    pub(super) fn over(&self) {
        let mut over = Vec::new();
        self.held().retain(|_, tickets| {
            let (ended, live) = std::mem::take(tickets)
                .into_iter()
                .partition(|ticket| ticket.is_over());
            *tickets = live;
            let mut ended: Vec<Ticket> = ended;
            over.append(&mut ended);
            !tickets.is_empty()
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

    fn held(&self) -> MutexGuard<'_, HashMap<String, Vec<Ticket>>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
