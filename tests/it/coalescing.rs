//! A job that is requested again while it is built is one build: the second request joins it, needs no
//! slot, and is answered with its log and its info as soon as it ends, well or badly.

use serde_json::json;

use crate::support::{
    daemon::{TestDaemon, job, names, text},
    http::{Ask, Event},
};

const STREAM: &str = "text/event-stream";

/// Opens a stream for a job and reads its first event: the job is accepted, the client has joined.
async fn joined(daemon: &TestDaemon, project: &str) -> crate::support::http::Opened {
    let ask = Ask::post("/jobs", &job(project)).with("accept", STREAM);
    let mut stream = daemon.open(ask).await;
    assert_eq!(stream.event().await.unwrap().name, "state");
    stream
}

#[tokio::test]
async fn the_same_job_twice_at_once_is_one_container_and_both_have_all_of_it() {
    let daemon = TestDaemon::with(&["succeed"]).await;
    let engine = &daemon.home.engine;
    engine.hold("start");
    let first = daemon.asking(Ask::post("/jobs", &job("succeed")));
    engine.wait_for("start", 1).await;
    let second = daemon.asking(Ask::post("/jobs", &job("succeed")));
    let name = "mistry_builds_coalesced";
    daemon.until_metric(name, "succeed", 1.0).await;
    engine.release("start");
    let (first, second) = (first.await.unwrap(), second.await.unwrap());
    let (first, second) = (first.expect(201).json(), second.expect(201).json());
    assert_eq!(engine.containers().len(), 1);
    assert_eq!(engine.count("start"), 1);
    let coalesced = [&first["Coalesced"], &second["Coalesced"]];
    assert_eq!(coalesced, [&json!(false), &json!(true)]);
    for info in [&first, &second] {
        assert_eq!(info["ExitCode"], 0);
        assert_eq!(info["Cached"], false);
        assert_eq!(info["Outcome"], "succeeded");
        assert!(
            text(info, "ContainerStdouterr").ends_with("run 1\n"),
            "{info}"
        );
        assert!(info["Duration"].as_i64().unwrap() > 0);
    }
    for same in [
        "ID",
        "Duration",
        "StartedAt",
        "FinishedAt",
        "Image",
        "Path",
        "Attempt",
    ] {
        assert_eq!(first[same], second[same], "{same}");
    }
}

#[tokio::test]
async fn all_clients_that_joined_a_failed_build_get_the_same_answer() {
    let daemon = TestDaemon::with(&["exit-code", "image-build-failure"]).await;
    let engine = &daemon.home.engine;
    engine.hold("start");
    let asked: Vec<_> = (0..3)
        .map(|_| daemon.asking(Ask::post("/jobs", &job("exit-code"))))
        .collect();
    let name = "mistry_builds_coalesced";
    daemon.until_metric(name, "exit-code", 2.0).await;
    engine.release("start");
    for asked in asked {
        let info = asked.await.unwrap().expect(201).json();
        assert_eq!(info["ExitCode"], 3);
        assert_eq!(text(&info, "ContainerStderr"), "about to exit with 3\n");
    }
    assert_eq!(engine.containers().len(), 1);

    engine.hold("build");
    let asked: Vec<_> = (0..3)
        .map(|_| daemon.asking(Ask::post("/jobs", &job("image-build-failure"))))
        .collect();
    daemon.until_metric(name, "image-build-failure", 2.0).await;
    engine.release("build");
    for asked in asked {
        let answer = asked.await.unwrap().expect(500);
        assert!(text(&answer.json(), "error").contains("could not build docker image"));
        assert!(!answer.header("location").is_empty());
    }
    // One for each project.
    assert_eq!(engine.builds().len(), 2);
}

#[tokio::test]
async fn a_client_that_joins_a_build_needs_no_slot() {
    let daemon = TestDaemon::builder().await;
    let daemon = daemon
        .slots(1)
        .backlog(1)
        .fixture("succeed")
        .fixture("exit-code");
    let daemon = daemon.start().await;
    let engine = &daemon.home.engine;
    engine.hold("start");
    // One in the slot, one in the queue, and no place for a third job.
    let mut streams = vec![joined(&daemon, "succeed").await];
    engine.wait_for("start", 1).await;
    streams.push(joined(&daemon, "exit-code").await);
    daemon.home.script("third", "true");
    daemon.post("/jobs", &job("third")).await.expect(503);
    for _ in 0..5 {
        streams.push(joined(&daemon, "succeed").await);
        streams.push(joined(&daemon, "exit-code").await);
    }
    let status = daemon.get("/status").await.json();
    assert_eq!(
        (&status["Running"], &status["Queued"]),
        (&json!(1), &json!(1))
    );
    engine.release("start");
    for stream in streams {
        let events = stream.events().await;
        let result = events.last().unwrap();
        assert_eq!(result.name, "result");
        assert_eq!(result.json()["State"], "ready");
    }
    assert_eq!(engine.containers().len(), 2);
}

#[tokio::test]
async fn a_client_that_leaves_cancels_nothing() {
    let daemon = TestDaemon::with(&["succeed"]).await;
    let engine = &daemon.home.engine;
    engine.hold("start");
    let first = joined(&daemon, "succeed").await;
    let second = joined(&daemon, "succeed").await;
    engine.wait_for("start", 1).await;
    drop(first);
    drop(second);
    let waiting = daemon.asking(Ask::post("/jobs", &job("succeed")));
    waiting.abort();
    let mut third = joined(&daemon, "succeed").await;
    engine.release("start");
    let events = third.until(|event: &Event| event.name == "result").await;
    assert_eq!(events.last().unwrap().json()["Outcome"], "succeeded");
    let all = engine.containers();
    assert_eq!((all.len(), all[0].exit), (1, Some(0)));
}

#[tokio::test]
async fn a_job_that_cannot_be_written_is_an_error_for_all_its_clients_and_leaves_nothing() {
    let daemon = TestDaemon::with(&["succeed"]).await;
    let engine = &daemon.home.engine;
    // A file where the project's directory belongs, also in the way of root.
    let place = daemon.home.builds().join("succeed");
    std::fs::write(&place, "in the way").unwrap();
    engine.hold("version");
    let asked: Vec<_> = (0..3)
        .map(|_| daemon.asking(Ask::post("/jobs", &job("succeed"))))
        .collect();
    let name = "mistry_builds_coalesced";
    daemon.until_metric(name, "succeed", 2.0).await;
    engine.release("version");
    for asked in asked {
        let answer = asked.await.unwrap().expect(500);
        assert_eq!(
            text(&answer.json(), "error"),
            "could not write the job down"
        );
    }
    assert_eq!(names(&daemon.home.builds()), [".mistry", "succeed"]);
    assert_eq!(engine.containers().len(), 0);
    std::fs::remove_file(&place).unwrap();
    assert_eq!(daemon.build(job("succeed")).await["ExitCode"], 0);
}

#[tokio::test]
async fn without_an_engine_all_clients_get_an_error_and_nothing_is_left() {
    let daemon = TestDaemon::with(&["succeed"]).await;
    daemon.home.engine.stop().await;
    let asked: Vec<_> = (0..3)
        .map(|_| daemon.asking(Ask::post("/jobs", &job("succeed"))))
        .collect();
    for asked in asked {
        let answer = asked.await.unwrap().expect(503);
        assert!(!answer.header("retry-after").is_empty());
    }
    assert_eq!(names(&daemon.home.builds()), [".mistry"]);
    assert_eq!(daemon.get("/status").await.json()["Running"], 0);
}
