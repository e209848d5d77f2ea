//! The answers to `POST /jobs`: the result, the address of an async job, or a stream of events.

use serde_json::{Value, json};

use crate::support::{
    daemon::{TestDaemon, job, text},
    http::{Ask, header},
};

#[tokio::test]
async fn a_job_that_is_waited_for_is_answered_with_its_build_info() {
    let daemon = TestDaemon::with(&["succeed"]).await;
    let asked = json!({ "project": "succeed", "params": { "a": "b" }, "group": "g" });
    let answer = daemon.post("/jobs", &asked).await.expect(201);
    assert_eq!(answer.header("content-type"), "application/json");
    let info = answer.json();
    let id = text(&info, "ID");
    assert!(
        id.len() == 64
            && id
                .bytes()
                .all(|b| b.is_ascii_hexdigit() && !b.is_ascii_uppercase())
    );
    let path = daemon
        .home
        .build("succeed", "ready", id)
        .join("data/artifacts");
    for (field, value) in [
        ("Params", json!({ "a": "b" })),
        ("Group", json!("g")),
        ("Path", json!(path)),
        ("Cached", json!(false)),
        ("Coalesced", json!(false)),
        ("Incremental", json!(false)),
        ("ExitCode", json!(0)),
        ("Err", Value::Null),
        ("ErrBuild", json!("")),
        ("TransportMethod", json!("rsync")),
        ("URL", json!(format!("job/succeed/{id}"))),
        ("Project", json!("succeed")),
        ("State", json!("ready")),
        ("Phase", Value::Null),
        ("Outcome", json!("succeeded")),
        ("Attempt", json!(1)),
        ("Cancelled", Value::Null),
    ] {
        assert_eq!(info[field], value, "{field}");
    }
    for moment in ["StartedAt", "QueuedAt", "FinishedAt"] {
        let moment = text(&info, moment);
        assert!(moment.ends_with('Z') && moment.contains('.'), "{moment}");
        moment.parse::<jiff::Timestamp>().unwrap();
    }
    assert!(info["Duration"].as_i64().unwrap() > 0);
    for phase in ["Waiting", "Snapshot", "Image", "Run", "Finish"] {
        assert!(info["Phases"][phase].is_u64(), "{phase}");
    }
    assert!(text(&info["Inputs"], "Context").len() == 64);
    assert!(text(&info, "ContainerStdouterr").ends_with("run 1\n"));
    assert!(info.get("ContainerStderr").is_none());
    let short = daemon
        .post("/jobs?log=none", &asked)
        .await
        .expect(201)
        .json();
    assert!(short.get("ContainerStdouterr").is_none());
}

#[tokio::test]
async fn an_async_job_is_answered_at_once_with_where_it_is() {
    let daemon = TestDaemon::with(&["succeed"]).await;
    daemon.home.engine.hold("start");
    let answer = daemon
        .post("/jobs?async", &job("succeed"))
        .await
        .expect(201);
    let state = answer.json();
    let id = text(&state, "ID");
    assert_eq!(answer.header("location"), format!("/job/succeed/{id}"));
    assert_eq!(state["Project"], "succeed");
    assert_eq!(state["State"], "pending");
    assert_eq!(state["URL"], format!("job/succeed/{id}"));
    // An accepted job is on disk.
    let record = daemon
        .home
        .build("succeed", "pending", id)
        .join("build_info.json");
    let record: Value = serde_json::from_slice(&std::fs::read(record).unwrap()).unwrap();
    assert_eq!(
        (&record["ID"], &record["ExitCode"]),
        (&state["ID"], &json!(-999))
    );
    let pending = daemon.info("succeed", id).await;
    for (field, value) in [
        ("State", json!("pending")),
        ("ExitCode", json!(-999)),
        ("Duration", json!(-1_000_000_000)),
        ("Outcome", Value::Null),
    ] {
        assert_eq!(pending[field], value, "{field}");
    }
    assert!(pending["Phase"].is_string());
    // `?async=whatever`, too, and once more joins.
    let again = daemon
        .post("/jobs?async=1", &job("succeed"))
        .await
        .expect(201);
    assert_eq!(again.json()["ID"], state["ID"]);
    let waiting = daemon.asking(Ask::get(format!("/job/succeed/{id}?wait")).json());
    daemon.home.engine.wait_for("start", 1).await;
    daemon.home.engine.release("start");
    let view = waiting.await.unwrap().expect(200).json();
    assert_eq!(
        (&view["State"], &view["BuildInfo"]["ExitCode"]),
        (&json!("ready"), &json!(0))
    );
    assert_eq!(daemon.home.engine.containers().len(), 1);
}

#[tokio::test]
async fn a_stream_sends_states_lines_and_the_result_in_this_order() {
    let daemon = TestDaemon::with(&["succeed"]).await;
    let ask = Ask::post("/jobs", &job("succeed")).with("accept", "text/event-stream");
    let stream = daemon.open(ask).await;
    assert_eq!(stream.status, 200);
    let media = header(&stream.headers, "content-type").to_owned();
    assert!(media.starts_with("text/event-stream"), "{media}");
    assert_eq!(header(&stream.headers, "access-control-allow-origin"), "");
    let events = stream.events().await;
    let first = events.first().unwrap();
    assert_eq!(first.name, "state");
    let state = first.json();
    for field in ["ID", "Project", "State", "Phase", "URL"] {
        assert!(state[field].is_string(), "{field}");
    }
    let last = events.last().unwrap();
    assert_eq!(last.name, "result");
    let result = last.json();
    assert_eq!(
        (&result["ID"], &result["ExitCode"]),
        (&state["ID"], &json!(0))
    );
    let names: std::collections::BTreeSet<_> = events.iter().map(|e| e.name.as_str()).collect();
    assert_eq!(names, ["log", "result", "state"].into());
    // The last state is the one of the result; the log is all of it, by its offsets.
    let states: Vec<_> = events.iter().filter(|e| e.name == "state").collect();
    assert_eq!(states.last().unwrap().json()["State"], "ready");
    let lines: Vec<_> = events.iter().filter(|e| e.name == "log").collect();
    let log = daemon
        .home
        .build("succeed", "ready", text(&result, "ID"))
        .join("out.log");
    let log = std::fs::read_to_string(log).unwrap();
    let joined: String = lines.iter().map(|e| format!("{}\n", e.data)).collect();
    assert_eq!(joined, log);
    assert_eq!(lines.last().unwrap().id, Some(log.len() as u64));
}

#[tokio::test]
async fn the_stream_of_a_failed_or_broken_build_ends_with_its_result_too() {
    let daemon = TestDaemon::with(&["exit-code", "bad-dockerfile"]).await;
    for (project, outcome, code) in [
        ("exit-code", "failed", 3),
        ("bad-dockerfile", "errored", -999),
    ] {
        let ask = Ask::post("/jobs", &job(project)).with("accept", "text/event-stream");
        let events = daemon.open(ask).await.events().await;
        let result = events.last().unwrap();
        assert_eq!(result.name, "result");
        assert_eq!(result.json()["Outcome"], outcome);
        assert_eq!(result.json()["ExitCode"], code);
    }
}

/// What `curl -f` takes for an error.
#[tokio::test]
async fn a_request_with_fail_gets_a_build_that_failed_as_an_error_with_the_same_info() {
    let builder = TestDaemon::builder().await.fixture("succeed");
    let daemon = builder.script("fail", "exit 7").start().await;
    let failed = daemon.post("/jobs?fail", &job("fail")).await.expect(422);
    let info = failed.json();
    assert_eq!(
        (&info["Outcome"], &info["ExitCode"]),
        (&json!("failed"), &json!(7))
    );
    daemon.post("/jobs?fail=0", &job("fail")).await.expect(201);
    let address = format!("/{}", text(&info, "URL"));
    let read = daemon.get(format!("{address}?fail")).await.expect(422);
    assert_eq!(read.json()["BuildInfo"]["Outcome"], "failed");
    daemon.get(format!("{address}?wait&fail")).await.expect(422);
    daemon.get(address).await.expect(200);
    for _ in 0..2 {
        // Built, then cached.
        let succeeded = daemon.post("/jobs?fail", &job("succeed")).await.expect(201);
        assert_eq!(succeeded.json()["Outcome"], "succeeded");
    }
    daemon
        .post("/jobs?fail&async", &job("fail"))
        .await
        .expect(400);
    let events = Ask::post("/jobs?fail", &job("fail")).with("accept", "text/event-stream");
    daemon.ask(events).await.expect(400);
}
