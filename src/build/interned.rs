//! Equal values, stored once.

use std::collections::HashSet;
use std::hash::Hash;
use std::sync::Arc;

/// Values that are shared by all holders of an equal one.
#[derive(Debug)]
pub(super) struct Interned<T: ?Sized>(HashSet<Arc<T>>);

impl<T: ?Sized> Default for Interned<T> {
    fn default() -> Interned<T> {
        Interned(HashSet::new())
    }
}

impl<T: Eq + Hash + ?Sized> Interned<T> {
    /// The stored equal value, or this one, which is stored from now on.
    pub(super) fn intern(&mut self, value: Arc<T>) -> Arc<T> {
        match self.0.get(&value) {
            Some(known) => known.clone(),
            None => {
                self.0.insert(value.clone());
                value
            }
        }
    }

    /// Removes a value that only its holder and this table share.
    pub(super) fn forget_last(&mut self, value: &Arc<T>) {
        if Arc::strong_count(value) == 2 {
            self.0.remove(value);
        }
    }

    /// Every value, in no order.
    pub(super) fn values(&self) -> impl Iterator<Item = Arc<T>> {
        self.0.iter().cloned()
    }
}
