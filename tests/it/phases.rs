//! The phases of a build add up to its duration, however it ends.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{
    daemon::{TestDaemon, job, text},
    http::Ask,
};

const GATED: &str = "
    mkfifo \"$DATA/gate\"; echo waiting
    read -r code < \"$DATA/gate\" || :
    exit \"${code:-0}\"";

/// The names of the phases that happened, which must add up to the duration. Time in the queue belongs to it
/// only if the build had no other.
fn phases(info: &Value) -> Vec<&'static str> {
    let names = ["Waiting", "Snapshot", "Image", "Run", "Finish"];
    let of = |name: &str| info["Phases"][name].as_u64();
    let counted = match of("Snapshot") {
        Some(_) => &names[1..],
        None => &names[..],
    };
    let sum: u64 = counted.iter().filter_map(|name| of(name)).sum();
    let duration = info["Duration"].as_u64().unwrap() / 1_000_000;
    assert_eq!(sum, duration, "{info:#}");
    let happened = names.into_iter().filter(|name| of(name).is_some());
    happened.collect()
}

/// The info of a job that ends with an error.
async fn errored(daemon: &TestDaemon, project: &str) -> Value {
    let answer = daemon.post("/jobs", &job(project)).await.expect(500);
    let id = text(&answer.json(), "job").to_owned();
    daemon.info(project, &id).await
}

async fn cancel(daemon: &TestDaemon, project: &str, id: &str) -> Value {
    let path = format!("/job/{project}/{id}/cancel");
    daemon.post(path, &json!({})).await.expect(202);
    let info = daemon.wait(project, id).await;
    assert_eq!(info["Outcome"], "cancelled");
    info
}

const ALL: [&str; 5] = ["Waiting", "Snapshot", "Image", "Run", "Finish"];

#[tokio::test]
async fn the_phases_of_a_build_that_ran_add_up_to_its_duration() {
    let daemon = TestDaemon::with(&["succeed", "exit-code"]).await;
    for project in ["succeed", "exit-code"] {
        assert_eq!(phases(&daemon.build(job(project)).await), ALL, "{project}");
    }
}

#[tokio::test]
async fn the_time_of_an_image_build_that_failed_is_counted() {
    let daemon = TestDaemon::with(&["image-build-failure"]).await;
    let info = errored(&daemon, "image-build-failure").await;
    assert_eq!(phases(&info), ["Waiting", "Snapshot", "Image", "Finish"]);
}

#[tokio::test]
async fn the_phases_of_a_build_that_is_stopped_on_the_way_add_up_to_its_duration() {
    let builder = TestDaemon::builder().await.slots(1);
    let daemon = builder.script("gated", GATED).start().await;
    let engine = &daemon.home.engine;
    engine.hold("build");
    let imaging = daemon.submit(job("gated")).await;
    engine.wait_for("build", 1).await;
    let queued = json!({"project": "gated", "params": {"n": "2"}});
    let queued = daemon.submit(queued).await;
    let info = cancel(&daemon, "gated", &queued).await;
    assert_eq!(phases(&info), ["Waiting", "Finish"]);
    let info = cancel(&daemon, "gated", &imaging).await;
    assert_eq!(phases(&info), ["Waiting", "Snapshot", "Image", "Finish"]);
    engine.release("build");
}

#[tokio::test]
async fn the_phases_of_a_build_that_timed_out_add_up_to_its_duration() {
    let limit = Duration::from_millis(300);
    let builder = TestDaemon::builder().await.job_timeout(limit);
    let daemon = builder.script("gated", GATED).start().await;
    let info = daemon.build(job("gated")).await;
    assert_eq!(info["Outcome"], "timed-out");
    assert_eq!(phases(&info), ALL);
    assert!(info["Phases"]["Run"].as_u64().unwrap() >= 300, "{info:#}");
}

#[tokio::test]
async fn the_phases_of_a_build_add_up_over_a_restart_of_the_daemon() {
    let mut daemon = TestDaemon::builder().await.script("gated", GATED);
    daemon = daemon.slots(1);
    let mut daemon = daemon.start().await;
    let id = daemon.submit(job("gated")).await;
    let mut log = daemon.open(Ask::get(format!("/log/gated/{id}"))).await;
    log.until(|event| event.data == "waiting").await;
    drop(log);
    for is_over in [false, true] {
        daemon.stop().await;
        if is_over {
            let gate = daemon.home.build("gated", "pending", &id).join("data/gate");
            tokio::task::spawn_blocking(move || std::fs::write(gate, "3").unwrap())
                .await
                .unwrap();
            daemon.home.engine.ended(0).await;
        }
        daemon.start_again().await;
        assert!(is_over || daemon.info("gated", &id).await["Phases"]["Run"].is_null());
    }
    let info = daemon.wait("gated", &id).await;
    assert_eq!(info["ExitCode"], 3);
    assert_eq!(phases(&info), ALL);
}
