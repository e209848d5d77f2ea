//! A daemon on a bus of its own, with a client and two projects.

use std::collections::HashMap;

use futures_util::StreamExt;
use serde_json::{Value, json};
use zbus::Connection;

use super::{
    bus::{TestBus, manager},
    daemon::Home,
    http::within,
    process::Process,
    proxy::JobRemovedStream,
};

/// A daemon on a bus, with a project that succeeds and one that prints.
pub struct Harness {
    pub bus: TestBus,
    pub home: Home,
    pub daemon: Process,
    pub here: Connection,
}

impl Harness {
    pub async fn new() -> Harness {
        Harness::with(&json!({})).await
    }

    pub async fn with(config: &Value) -> Harness {
        let (bus, home) = (TestBus::start(), Home::new().await);
        home.configure(config);
        home.fixture("succeed");
        home.script("loud", "echo one; echo two; echo three >&2");
        let daemon = bus.spawn(&home).await;
        let here = bus.connect().await;
        Harness {
            bus,
            home,
            daemon,
            here,
        }
    }

    /// Submits a job without options; id, path, disposition.
    pub async fn submit(&self, project: &str, params: &[(&str, &str)]) -> (String, String, String) {
        let params: HashMap<&str, &str> = params.iter().copied().collect();
        let manager = manager(&self.here).await;
        let none = HashMap::new();
        let submitting = manager.submit_job(project, "", &params, &none);
        let (id, path, disposition) = within("an answer", submitting).await.unwrap();
        (id, path.to_string(), disposition)
    }

    /// Submits a job and waits for its end.
    pub async fn build(&self, project: &str, params: &[(&str, &str)]) -> (String, String) {
        let manager = manager(&self.here).await;
        let mut ends = manager.receive_job_removed().await.unwrap();
        let (id, ..) = self.submit(project, params).await;
        let outcome = end_of(&mut ends, &id).await;
        (id, outcome)
    }

    pub async fn describe(&self, id: &str) -> Value {
        let manager = manager(&self.here).await;
        serde_json::from_str(&manager.describe_build(id).await.unwrap()).unwrap()
    }
}

/// How a job ends.
pub async fn end_of(ends: &mut JobRemovedStream, id: &str) -> String {
    within("the end", async {
        loop {
            let end = ends.next().await.unwrap();
            let end = end.args().unwrap();
            if end.id == id {
                return end.outcome.clone();
            }
        }
    })
    .await
}
