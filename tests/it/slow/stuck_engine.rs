//! An Engine that answers pings and hangs in all other calls blocks no build: it can be cancelled, its
//! deadline holds, and a daemon that ends does not wait for the Engine.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{
    daemon::{Builder, TestDaemon, job, text},
    http::Ask,
};

/// Prints a line and waits for a signal.
const GATED: &str = "
    trap 'exit 0' TERM
    mkfifo \"$DATA/gate\"; echo waiting
    { read -r code < \"$DATA/gate\" || :; } & wait $!";

const MOMENT: Duration = Duration::from_millis(300);

/// What is asked of the Engine before a container runs, in this order.
const BEFORE_IT_RUNS: [&str; 8] = [
    "images",
    "build",
    "list",
    "inspect-image",
    "info",
    "create",
    "archive",
    "start",
];

async fn gated() -> Builder {
    TestDaemon::builder().await.script("gated", GATED)
}

/// A daemon with a build that hangs in this call; what another call needs is there.
async fn stuck_in(call: &str, builder: Builder) -> (TestDaemon, String) {
    let daemon = builder.start().await;
    daemon.home.engine.hold(call);
    let id = daemon.submit(job("gated")).await;
    daemon.home.engine.wait_for(call, 1).await;
    (daemon, id)
}

async fn cancel(daemon: &TestDaemon, id: &str) {
    let path = format!("/job/gated/{id}/cancel");
    let ask = Ask::post(path, &json!({"reason": "stuck"})).json();
    daemon.ask(ask).await.expect(202);
}

/// Its end, which may take longer than an ordinary answer.
async fn end(daemon: &TestDaemon, id: &str) -> Value {
    let (project, id) = ("gated".parse().unwrap(), id.parse().unwrap());
    if let Some(mut handle) = daemon.scheduler().handle(&project, id).await {
        let _ = handle.end().await;
    }
    daemon.info("gated", &id.to_string()).await
}

async fn until_waiting(daemon: &TestDaemon, id: &str) {
    let mut log = daemon.open(Ask::get(format!("/log/gated/{id}"))).await;
    log.until(|event| event.data == "waiting").await;
}

#[tokio::test]
async fn a_build_that_waits_for_any_engine_call_can_be_cancelled() {
    for call in BEFORE_IT_RUNS {
        let (daemon, id) = stuck_in(call, gated().await).await;
        cancel(&daemon, &id).await;
        let info = daemon.wait("gated", &id).await;
        assert_eq!(info["Outcome"], "cancelled", "{call}: {info}");
        daemon.home.engine.release(call);
    }
}

#[tokio::test]
async fn a_build_that_waits_for_any_engine_call_ends_at_its_deadline() {
    // Each build must come to its call before that, on a busy host as well.
    let limit = Duration::from_secs(3);
    for call in BEFORE_IT_RUNS {
        let (daemon, id) = stuck_in(call, gated().await.job_timeout(limit)).await;
        let info = daemon.wait("gated", &id).await;
        assert_eq!(info["Outcome"], "timed-out", "{call}: {info}");
        assert!(text(&info, "Err").contains("3s (job_timeout)"), "{info}");
        daemon.home.engine.release(call);
    }
}

#[tokio::test]
async fn a_daemon_ends_while_a_build_waits_for_any_engine_call() {
    for call in BEFORE_IT_RUNS {
        let (mut daemon, id) = stuck_in(call, gated().await).await;
        daemon.stop().await;
        daemon.home.engine.release(call);
        daemon.start_again().await;
        until_waiting(&daemon, &id).await;
        cancel(&daemon, &id).await;
        assert_eq!(daemon.wait("gated", &id).await["Outcome"], "cancelled");
    }
}

/// The Engine made it and did not say so in time: it does not stay.
#[tokio::test]
async fn a_container_whose_making_was_not_waited_for_is_removed() {
    let (daemon, id) = stuck_in("create", gated().await).await;
    cancel(&daemon, &id).await;
    assert_eq!(daemon.wait("gated", &id).await["Outcome"], "cancelled");
    daemon.home.engine.release("create");
    assert_eq!(daemon.home.engine.count("start"), 0);
    let again = daemon.submit(job("gated")).await;
    until_waiting(&daemon, &again).await;
    assert_eq!(daemon.home.engine.containers().len(), 1);
    cancel(&daemon, &again).await;
    daemon.wait("gated", &again).await;
}

#[tokio::test]
async fn a_deadline_holds_when_the_engine_does_not_answer_about_the_container() {
    let limit = 3 * MOMENT;
    let daemon = gated().await.job_timeout(limit).start().await;
    let id = daemon.submit(job("gated")).await;
    until_waiting(&daemon, &id).await;
    daemon.home.engine.hold("inspect");
    let info = end(&daemon, &id).await;
    assert_eq!(info["Outcome"], "timed-out", "{info}");
    daemon.home.engine.release("inspect");
}

/// Neither its end nor a signal to it.
#[tokio::test]
async fn a_cancelled_build_ends_where_the_engine_does_not_stop_its_container() {
    for call in ["stop", "wait"] {
        let daemon = gated().await.start().await;
        if call == "wait" {
            daemon.home.engine.hold(call);
        }
        let id = daemon.submit(job("gated")).await;
        until_waiting(&daemon, &id).await;
        daemon.home.engine.hold(call);
        cancel(&daemon, &id).await;
        let info = end(&daemon, &id).await;
        assert_eq!(info["Outcome"], "cancelled", "{call}: {info}");
        let containers = daemon.home.engine.containers();
        assert!(containers.iter().all(|found| !found.running), "{call}");
        daemon.home.engine.release(call);
    }
}

/// What may still write there is in no build.
#[tokio::test]
async fn a_cancelled_build_ends_where_the_engine_does_not_remove_its_container() {
    let daemon = gated().await.start().await;
    let id = daemon.submit(job("gated")).await;
    until_waiting(&daemon, &id).await;
    for call in ["stop", "remove"] {
        daemon.home.engine.hold(call);
    }
    cancel(&daemon, &id).await;
    let info = end(&daemon, &id).await;
    assert_eq!(info["Outcome"], "cancelled", "{info}");
    assert!(
        !daemon
            .home
            .build("gated", "ready", &id)
            .join("data/gate")
            .exists()
    );
    for call in ["stop", "remove"] {
        daemon.home.engine.release(call);
    }
    daemon.home.engine.wait_for("remove", 2).await;
}

#[tokio::test]
async fn a_daemon_ends_while_the_engine_removes_the_container_of_a_build_that_is_over() {
    let mut daemon = TestDaemon::with(&["succeed"]).await;
    daemon.home.engine.hold("remove");
    assert_eq!(daemon.build(job("succeed")).await["Outcome"], "succeeded");
    daemon.home.engine.wait_for("remove", 1).await;
    daemon.stop().await;
    daemon.home.engine.release("remove");
}
