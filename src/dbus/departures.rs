//! Clients that leave the bus, and the builds that they wanted only while they were there.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::scheduler::Ticket;

/// Tickets by the unique name of whoever holds them. As many as there are live jobs asked for so.
#[derive(Debug, Default)]
pub(super) struct Departures {
    /// Std, held for a push or a take. What is dropped is dropped outside of it.
    held: Mutex<HashMap<String, Vec<Ticket>>>,
}

impl Departures {
    /// Holds a ticket until its job is over or its client has left.
    pub(super) fn hold(&self, client: &str, ticket: Ticket) {
        let mut over = Vec::new();
        let mut held = self.held();
        let own = held.entry(client.to_owned()).or_default();
        let (ended, live) = std::mem::take(own).into_iter().partition(|t| t.is_over());
        over = std::mem::replace(&mut over, ended);
        *own = live;
        own.push(ticket);
        drop(held);
        drop(over);
    }

    /// A client has left.
    pub(super) fn left(&self, client: &str) {
        let gone = self.held().remove(client);
        drop(gone);
    }

    /// The bus is gone, and with it everybody on it.
    pub(super) fn all_left(&self) {
        let gone = std::mem::take(&mut *self.held());
        drop(gone);
    }

    fn held(&self) -> MutexGuard<'_, HashMap<String, Vec<Ticket>>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
