//! The limits of slots and backlog are exact. A job that finds neither is refused at once, with the
//! message that the first mistry's client prints, and leaves nothing behind.

use serde_json::{Value, json};

use crate::support::{
    daemon::{TestDaemon, text},
    http::Ask,
};

fn job(n: usize) -> Value {
    json!({ "project": "succeed", "params": { "n": n.to_string() } })
}

#[tokio::test]
async fn past_slots_and_backlog_a_job_is_refused_and_leaves_nothing() {
    let daemon = TestDaemon::builder().await.slots(2).backlog(3);
    let daemon = daemon.fixture("succeed").start().await;
    let engine = &daemon.home.engine;
    engine.hold("start");
    let mut ids = Vec::new();
    for n in 0..5 {
        ids.push(daemon.submit(job(n)).await);
    }
    engine.wait_for("start", 2).await;
    for path in ["/jobs", "/jobs?async"] {
        let refused = daemon.post(path, &job(5)).await.expect(503);
        assert_eq!(
            text(&refused.json(), "error"),
            "Server is overloaded; try again later"
        );
        assert!(refused.header("retry-after").parse::<u32>().unwrap() > 0);
        assert_eq!(refused.header("location"), "");
    }
    let stream = Ask::post("/jobs", &job(5)).with("accept", "text/event-stream");
    assert_eq!(daemon.ask(stream).await.status, 503);
    let status = daemon.get("/status").await.json();
    assert_eq!(
        (&status["Running"], &status["Queued"]),
        (&json!(2), &json!(3))
    );
    assert_eq!(
        (&status["Slots"], &status["Backlog"]),
        (&json!(2), &json!(3))
    );
    let mut there = ids.clone();
    there.sort();
    assert_eq!(daemon.home.ids("succeed", "pending"), there);
    assert_eq!(
        daemon.get("/index/").await.json().as_array().unwrap().len(),
        5
    );
    assert_eq!(engine.containers().len(), 2);
    engine.release("start");
    for id in &ids {
        assert_eq!(daemon.wait("succeed", id).await["Outcome"], "succeeded");
    }
    // There is a place again for the one that was refused.
    assert_eq!(daemon.build(job(5)).await["ExitCode"], 0);
    let status = daemon.get("/status").await.json();
    assert_eq!(
        (&status["Running"], &status["Queued"]),
        (&json!(0), &json!(0))
    );
}

#[tokio::test]
async fn never_more_than_the_slots_run_and_the_job_that_waits_longest_is_next() {
    let daemon = TestDaemon::builder().await.slots(1).backlog(8);
    let daemon = daemon.fixture("succeed").start().await;
    let engine = &daemon.home.engine;
    engine.hold("start");
    let mut ids = vec![daemon.submit(job(0)).await];
    engine.wait_for("start", 1).await;
    for n in 1..6 {
        ids.push(daemon.submit(job(n)).await);
    }
    engine.release("start");
    let mut begun = Vec::new();
    let mut last_end = String::new();
    for id in &ids {
        let info = daemon.wait("succeed", id).await;
        // One after the other: none started before the previous one was over.
        assert!(text(&info, "StartedAt") >= last_end.as_str(), "{info}");
        last_end = text(&info, "FinishedAt").to_owned();
        begun.push(text(&info, "StartedAt").to_owned());
    }
    assert!(begun.is_sorted(), "{begun:?}");
}

#[tokio::test]
async fn a_build_that_fails_or_errors_gives_its_slot_back() {
    let daemon = TestDaemon::builder().await.slots(1).backlog(1);
    let daemon = daemon
        .fixture("succeed")
        .fixture("exit-code")
        .fixture("bad-dockerfile");
    let daemon = daemon.start().await;
    for n in 0..3 {
        daemon
            .post("/jobs", &json!({ "project": "exit-code" }))
            .await
            .expect(201);
        daemon
            .post("/jobs", &json!({ "project": "bad-dockerfile" }))
            .await
            .expect(500);
        for call in ["create", "start", "logs", "wait"] {
            daemon.home.engine.fail_next(call, 500);
            let asked = json!({ "project": "succeed", "params": { call: n.to_string() } });
            daemon.post("/jobs", &asked).await.expect(500);
        }
        assert_eq!(daemon.build(job(n)).await["ExitCode"], 0);
    }
    assert_eq!(daemon.get("/status").await.json()["Running"], 0);
    let left: Vec<_> = daemon.home.engine.containers();
    // A container that could not be removed yet belongs to no build any more.
    let running: Vec<_> = left.iter().filter(|one| one.running).collect();
    assert!(running.is_empty(), "{running:?}");
}

#[tokio::test]
async fn a_job_that_waits_is_told_how_many_wait_in_front_of_it() {
    let daemon = TestDaemon::builder().await.slots(1).backlog(8);
    let daemon = daemon.fixture("succeed").start().await;
    let engine = &daemon.home.engine;
    engine.hold("start");
    let mut told = Vec::new();
    for n in 0..3 {
        let answer = daemon.post("/jobs?async", &job(n)).await.expect(201);
        told.push(answer.json()["Ahead"].clone());
    }
    assert_eq!(told, [Value::Null, json!(0), json!(1)]);
    let ask = Ask::post("/jobs", &job(3)).with("accept", "text/event-stream");
    let mut stream = daemon.open(ask).await;
    assert_eq!(stream.event().await.unwrap().json()["Ahead"], 2);
    engine.release("start");
    let states = stream.events().await.into_iter();
    let mut running =
        states.filter(|event| event.name == "state" && event.json()["Phase"] == "running");
    assert_eq!(running.next().unwrap().json()["Ahead"], Value::Null);
}
