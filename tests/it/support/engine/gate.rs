//! Gates: a test waits for a call, holds it, releases it, makes it fail.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Mutex,
    time::Duration,
};

use tokio::sync::watch;

/// A test that waits longer for a call waits for ever.
const FOREVER: Duration = Duration::from_secs(30);

/// The gates of an engine, one for each kind of call, made when first named.
#[derive(Default)]
pub struct Gates(Mutex<BTreeMap<String, Gate>>);

#[derive(Clone)]
struct Gate {
    held: watch::Sender<bool>,
    arrived: watch::Sender<usize>,
    /// Statuses for the next calls.
    failures: std::sync::Arc<Mutex<VecDeque<u16>>>,
}

impl Gates {
    fn gate(&self, call: &str) -> Gate {
        let mut gates = self.0.lock().unwrap();
        let gate = gates.entry(call.to_owned()).or_insert_with(|| Gate {
            held: watch::Sender::new(false),
            arrived: watch::Sender::new(0),
            failures: Default::default(),
        });
        gate.clone()
    }

    /// A call arrives: counted, then held as long as the test wants. The status it must fail with.
    pub async fn pass(&self, call: &str) -> Option<u16> {
        let gate = self.gate(call);
        let failure = gate.failures.lock().unwrap().pop_front();
        let mut held = gate.held.subscribe();
        gate.arrived.send_modify(|count| *count += 1);
        held.wait_for(|held| !held).await.unwrap();
        failure
    }

    pub fn hold(&self, call: &str) {
        self.gate(call).held.send_replace(true);
    }

    pub fn release(&self, call: &str) {
        self.gate(call).held.send_replace(false);
    }

    pub fn fail_next(&self, call: &str, status: u16) {
        self.gate(call).failures.lock().unwrap().push_back(status);
    }

    pub fn count(&self, call: &str) -> usize {
        *self.gate(call).arrived.borrow()
    }

    pub async fn wait_for(&self, call: &str, count: usize) {
        let mut arrived = self.gate(call).arrived.subscribe();
        let enough = arrived.wait_for(|arrived| *arrived >= count);
        let waited = tokio::time::timeout(FOREVER, enough).await;
        let Ok(enough) = waited else {
            panic!(
                "'{call}' was called {} times, not {count}",
                self.count(call)
            )
        };
        enough.unwrap();
    }
}
