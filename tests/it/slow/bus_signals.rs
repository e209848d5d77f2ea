//! The signals about many builds at once reach all who subscribed, in order.

use std::collections::HashMap;

use futures_util::StreamExt;
use serde_json::json;

use crate::support::{bus::manager, bus_harness::Harness, http::within};

/// A client that subscribes, submits and waits gets JobNew, the answer and JobRemoved, in this order, however
/// short the build.
#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_each_of_a_thousand_instant_builds_is_signalled() {
    /// Clients at once, each with a connection and a subscription of its own.
    const CLIENTS: usize = 20;
    const EACH: usize = 50;
    let harness = Harness::with(&json!({"job_concurrency": 4, "job_backlog": 1000})).await;
    let mut clients = tokio::task::JoinSet::new();
    for client in 0..CLIENTS {
        let here = harness.bus.connect().await;
        clients.spawn(async move {
            let manager = manager(&here).await;
            let mut signals = zbus::MessageStream::for_match_rule(
                zbus::MatchRule::builder()
                    .msg_type(zbus::message::Type::Signal)
                    .interface("org.mistry.Mistry1.Manager")
                    .build()
                    .unwrap(),
                &here,
                // Every signal before it is read: none may be dropped here.
                Some(std::num::NonZeroUsize::new(4 * CLIENTS * EACH).unwrap()),
            )
            .await
            .unwrap();
            let mut submitted = Vec::new();
            for n in 0..EACH {
                let value = format!("{client}-{n}");
                let params = HashMap::from([("n", value.as_str())]);
                let none = HashMap::new();
                let answer = manager.submit_job("succeed", "", &params, &none);
                let (id, _, disposition) = within("an answer", answer).await.unwrap();
                assert_eq!(disposition, "queued");
                submitted.push(id);
            }
            let mut seen: HashMap<String, Vec<String>> = HashMap::new();
            let mut over = 0;
            while over < EACH {
                let signal = within("a signal", signals.next()).await.unwrap().unwrap();
                let member = signal.header().member().unwrap().to_string();
                let id = match member.as_str() {
                    "JobNew" => {
                        let (id, _): (String, zbus::OwnedObjectPath) =
                            signal.body().deserialize().unwrap();
                        id
                    }
                    _ => {
                        let (id, _, outcome): (String, zbus::OwnedObjectPath, String) =
                            signal.body().deserialize().unwrap();
                        assert_eq!(outcome, "succeeded");
                        over += usize::from(submitted.contains(&id));
                        id
                    }
                };
                seen.entry(id).or_default().push(member);
            }
            for id in submitted {
                assert_eq!(seen[&id], ["JobNew", "JobRemoved"], "{id}");
            }
        });
    }
    while let Some(client) = clients.join_next().await {
        client.unwrap();
    }
    assert!(
        manager(&harness.here)
            .await
            .list_jobs()
            .await
            .unwrap()
            .is_empty()
    );
}
