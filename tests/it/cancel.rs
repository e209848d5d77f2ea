//! A user with the right to may cancel a build: it ends as cancelled, all waiters learn who cancelled it
//! and why, and nothing else is affected. A client that disconnects cancels nothing unless it asked for it.

use serde_json::{Value, json};

use crate::support::{
    daemon::{TestDaemon, job, text},
    http::{Answer, Ask, At, Opened},
};

const STREAM: &str = "text/event-stream";

/// Prints a line and waits at a gate; on SIGTERM it prints another and ends with status 0.
const GATED: &str = "
    trap 'echo told; exit 0' TERM
    mkfifo \"$DATA/gate\"; echo waiting
    { read -r code < \"$DATA/gate\" || :; } & wait $!
    exit 0";

/// A server with a project that waits.
async fn gated() -> TestDaemon {
    let builder = TestDaemon::builder().await;
    builder.script("gated", GATED).start().await
}

fn cancel(project: &str, id: &str, reason: &str) -> Ask {
    let path = format!("/job/{project}/{id}/cancel");
    Ask::post(path, &json!({ "reason": reason })).json()
}

const HELD_FOR_WAITERS: &str = "mistry_bodies_held_bytes";

async fn until_waiting(daemon: &TestDaemon, id: &str) {
    let mut log = daemon.open(Ask::get(format!("/log/gated/{id}"))).await;
    log.until(|event| event.data == "waiting").await;
}

/// Opens a stream for a job and reads its first event: the job is accepted, the client has joined.
async fn joined(daemon: &TestDaemon, job: &Value) -> (Opened, String) {
    let ask = Ask::post("/jobs", job).with("accept", STREAM);
    let mut stream = daemon.open(ask).await;
    let state = stream.event().await.unwrap();
    assert_eq!(state.name, "state");
    let id = text(&state.json(), "ID").to_owned();
    (stream, id)
}

fn is_cancelled(info: &Value, by: &str, reason: &str) {
    assert_eq!(info["Outcome"], "cancelled", "{info}");
    // A container that takes the signal well ends with 0, which would be taken for success.
    assert_eq!(info["ExitCode"], -999);
    assert_eq!(info["Cancelled"], json!({"By": by, "Reason": reason}));
    assert!(text(info, "Err").contains(reason), "{info}");
}

#[tokio::test]
async fn all_waiters_of_a_cancelled_build_learn_who_cancelled_it_and_why() {
    let daemon = gated().await;
    let first = daemon.asking(Ask::post("/jobs", &job("gated")));
    daemon.home.engine.wait_for("start", 1).await;
    let (stream, id) = joined(&daemon, &job("gated")).await;
    until_waiting(&daemon, &id).await;
    let cancelled = daemon
        .ask(cancel("gated", &id, "wrong branch"))
        .await
        .expect(202);
    assert_eq!(cancelled.json()["ID"], json!(id));
    let info = first.await.unwrap().expect(201).json();
    is_cancelled(&info, "127.0.0.1", "wrong branch");
    // The log has what it printed on SIGTERM, and then why it ended.
    let log = text(&info, "ContainerStdouterr");
    let last = "waiting\ntold\n\nmistry: the build was cancelled by 127.0.0.1: wrong branch\n";
    assert!(log.ends_with(last), "{log}");
    let events = stream.events().await;
    is_cancelled(&events.last().unwrap().json(), "127.0.0.1", "wrong branch");
    assert_eq!(daemon.home.engine.count("stop"), 1);
    let containers = daemon.home.engine.containers();
    assert!(containers.len() == 1 && !containers[0].running);
    // It is no result: a later request builds it.
    let again = daemon.submit(job("gated")).await;
    assert_eq!(again, id);
    until_waiting(&daemon, &id).await;
    daemon.ask(cancel("gated", &id, "")).await.expect(202);
    assert_eq!(
        daemon.wait("gated", &id).await["Err"],
        "the build was cancelled by 127.0.0.1"
    );
}

#[tokio::test]
async fn every_reader_learns_at_once_that_a_build_is_being_stopped() {
    let mut daemon = gated().await;
    let (mut stream, id) = joined(&daemon, &job("gated")).await;
    until_waiting(&daemon, &id).await;
    assert_eq!(daemon.info("gated", &id).await["Stopping"], false);
    // The container takes its time.
    daemon.home.engine.hold("stop");
    let answer = daemon.ask(cancel("gated", &id, "hangs")).await.expect(202);
    assert_eq!(answer.json()["Stopping"], true);
    let told = stream.until(|event| event.name == "state" && event.json()["Stopping"] == true);
    assert_eq!(told.await.last().unwrap().json()["Phase"], "running");
    for _ in 0..2 {
        assert_eq!(daemon.info("gated", &id).await["Stopping"], true);
        let list = daemon.get("/index/").await.json();
        assert_eq!(list[0]["buildInfo"]["Stopping"], true);
        // Also over a restart.
        daemon.stop().await;
        daemon.start_again().await;
    }
    daemon.home.engine.release("stop");
    let info = daemon.wait("gated", &id).await;
    is_cancelled(&info, "127.0.0.1", "hangs");
    assert_eq!(info["Stopping"], false);
}

#[tokio::test]
async fn a_queued_job_leaves_the_queue_and_the_slot_goes_to_the_next() {
    let builder = TestDaemon::builder().await.slots(1);
    let daemon = builder
        .script("gated", GATED)
        .fixture("succeed")
        .start()
        .await;
    let running = daemon.submit(job("gated")).await;
    until_waiting(&daemon, &running).await;
    let queued = |n: &str| json!({"project": "succeed", "params": {"n": n}});
    let (first, next) = (
        daemon.submit(queued("1")).await,
        daemon.submit(queued("2")).await,
    );
    daemon
        .ask(cancel("succeed", &first, "not needed"))
        .await
        .expect(202);
    let info = daemon.wait("succeed", &first).await;
    is_cancelled(&info, "127.0.0.1", "not needed");
    assert_eq!(daemon.home.engine.count("create"), 1);
    daemon.ask(cancel("gated", &running, "")).await.expect(202);
    assert_eq!(daemon.wait("succeed", &next).await["Outcome"], "succeeded");
    // Its slot is free, and it has no artifacts.
    let artifacts = daemon
        .ask(Ask::get(format!("/artifacts/succeed/{first}")))
        .await;
    assert_eq!(artifacts.status, 200, "{}", artifacts.text());
    assert_eq!(daemon.build(queued("1")).await["Outcome"], "succeeded");
}

#[tokio::test]
async fn a_build_can_be_cancelled_in_every_phase() {
    let daemon = TestDaemon::with(&["succeed"]).await;
    let engine = &daemon.home.engine;
    for (n, held) in ["images", "build", "create", "start"]
        .into_iter()
        .enumerate()
    {
        let asked = engine.count(held);
        engine.hold(held);
        engine.hold("start");
        let id = daemon
            .submit(json!({"project": "succeed", "params": {"n": n.to_string()}}))
            .await;
        engine.wait_for(held, asked + 1).await;
        let cancelling = daemon.asking(cancel("succeed", &id, held));
        if held == "create" {
            // A container that is being created is created first, so that it can be removed.
            engine.release(held);
        }
        cancelling.await.unwrap().expect(202);
        is_cancelled(&daemon.wait("succeed", &id).await, "127.0.0.1", held);
        engine.release(held);
        engine.release("start");
    }
    // Nothing that was under way is left.
    let mut daemon = daemon;
    daemon.stop().await;
    let containers = daemon.home.engine.containers();
    assert!(containers.iter().all(|one| one.removed), "{containers:?}");
}

/// The container that takes no signal is killed after the deadline; but the build was cancelled before.
#[tokio::test]
async fn a_cancelled_build_does_not_time_out() {
    let builder = TestDaemon::builder().await.script("gated", GATED);
    let hour = std::time::Duration::from_secs(3_600);
    let mut daemon = builder.job_timeout(hour).start().await;
    let id = daemon.submit(job("gated")).await;
    until_waiting(&daemon, &id).await;
    daemon.home.engine.hold("stop");
    daemon
        .ask(cancel("gated", &id, "in time"))
        .await
        .expect(202);
    daemon.stop().await;
    let record = daemon.home.build("gated", "pending", &id);
    let record = record.join("build_info.json");
    let mut value: Value = serde_json::from_slice(&std::fs::read(&record).unwrap()).unwrap();
    let now = jiff::Timestamp::now();
    value["Bookkeeping"]["Deadline"] = json!((now - hour).to_string());
    std::fs::write(record, value.to_string()).unwrap();
    daemon.home.engine.release("stop");
    daemon.start_again().await;
    is_cancelled(&daemon.wait("gated", &id).await, "127.0.0.1", "in time");
}

/// A decided cancellation does not need the project.
#[tokio::test]
async fn a_cancelled_job_stays_cancelled_when_its_project_is_gone_or_changed() {
    let builder = TestDaemon::builder().await.slots(1);
    let builder = builder.script("gated", GATED).fixture("succeed");
    let mut daemon = builder.start().await;
    let running = daemon.submit(job("gated")).await;
    until_waiting(&daemon, &running).await;
    let queued = daemon.submit(job("succeed")).await;
    daemon.stop().await;
    // The state of a daemon that dies between the 202 and the end of the build.
    let record = daemon.home.build("succeed", "pending", &queued);
    let record = record.join("build_info.json");
    let mut value: Value = serde_json::from_slice(&std::fs::read(&record).unwrap()).unwrap();
    let by = json!({"By": "uid 1", "Reason": "moved"});
    value["Cancelled"] = by.clone();
    value["Bookkeeping"]["Stopped"] =
        json!({"Outcome": "cancelled", "Sentence": "cancelled: moved", "Cancelled": by});
    std::fs::write(record, value.to_string()).unwrap();
    std::fs::remove_dir_all(daemon.home.projects().join("succeed")).unwrap();
    daemon.start_again().await;
    let info = daemon.wait("succeed", &queued).await;
    is_cancelled(&info, "uid 1", "moved");
    let log = text(&info, "ContainerStdouterr");
    assert!(!log.contains("made again"), "{log}");
    daemon.ask(cancel("gated", &running, "")).await.expect(202);
    daemon.wait("gated", &running).await;
}

#[tokio::test]
async fn the_base_of_a_group_stays_what_it_was() {
    let daemon = gated().await;
    let with = |n: &str| json!({"project": "gated", "group": "g", "params": {"n": n}});
    let base = daemon.submit(with("1")).await;
    until_waiting(&daemon, &base).await;
    let gate = daemon
        .home
        .build("gated", "pending", &base)
        .join("data/gate");
    tokio::task::spawn_blocking(move || std::fs::write(gate, "").unwrap())
        .await
        .unwrap();
    assert_eq!(daemon.wait("gated", &base).await["Outcome"], "succeeded");
    let next = daemon.submit(with("2")).await;
    let mut log = daemon.open(Ask::get(format!("/log/gated/{next}"))).await;
    log.until(|event| event.data.contains("waiting")).await;
    daemon.ask(cancel("gated", &next, "no")).await.expect(202);
    is_cancelled(&daemon.wait("gated", &next).await, "127.0.0.1", "no");
    let view = daemon.get("/project/gated").await.json();
    assert_eq!(view["Groups"]["g"], json!(base));
}

#[tokio::test]
async fn what_is_over_or_unknown_or_wrongly_asked_is_refused_with_a_sentence() {
    let daemon = TestDaemon::with(&["succeed"]).await;
    let built = daemon.build(job("succeed")).await;
    let id = text(&built, "ID");
    let refused = |answer: Answer, status, word: &str| {
        let said = answer.expect(status).text();
        assert!(said.contains(word), "{said}");
    };
    refused(daemon.ask(cancel("succeed", id, "")).await, 409, "is over");
    refused(
        daemon.ask(cancel("succeed", &"0".repeat(64), "")).await,
        404,
        "unknown job",
    );
    refused(daemon.ask(cancel("succeed", "x", "")).await, 422, "id");
    refused(
        daemon.ask(cancel("succeed", id, "a\nb")).await,
        422,
        "reason: expected one line",
    );
    refused(
        daemon.ask(cancel("succeed", id, &"x".repeat(1_001))).await,
        422,
        "1000 bytes",
    );
    let path = format!("/job/succeed/{id}/cancel");
    refused(daemon.post(&path, &json!([])).await, 400, "map");
    refused(daemon.post(&path, &json!({"why": "x"})).await, 400, "why");
    refused(daemon.ask(Ask::get(&path).json()).await, 405, "POST");
    let both = json!({"project": "succeed", "cancel_on_disconnect": true});
    refused(
        daemon.post("/jobs?async", &both).await,
        400,
        "cancel_on_disconnect",
    );
    assert_eq!(daemon.info("succeed", id).await["Outcome"], "succeeded");
}

/// Tokens of the scope `build` have equal rights.
#[tokio::test]
async fn a_token_cancels_its_own_jobs_and_an_administrator_all() {
    let line = |name: &str, scope: &str| {
        let hash = <sha2::Sha256 as sha2::Digest>::digest(name);
        let hex: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("{name} {scope} sha256:{hex}\n")
    };
    let tokens = [
        line("ann", "build"),
        line("ben", "build"),
        line("root", "admin"),
    ]
    .concat();
    let builder = TestDaemon::builder().await.tokens(tokens);
    let mut daemon = builder.script("gated", GATED).start().await;
    let as_ = |name: &str, ask: Ask| ask.with("authorization", format!("Bearer {name}"));
    let submit = async |daemon: &TestDaemon, n: &str| {
        let asked = json!({"project": "gated", "params": {"n": n}});
        let answer = daemon
            .ask(as_("ann", Ask::post("/jobs?async", &asked).json()))
            .await;
        text(&answer.expect(201).json(), "ID").to_owned()
    };
    let id = submit(&daemon, "1").await;
    let ask = || cancel("gated", &id, "mine");
    daemon.ask(ask()).await.expect(401);
    let said = daemon.ask(as_("ben", ask())).await.expect(403).text();
    assert!(said.contains("asked for by another user"), "{said}");
    // The next process of the daemon knows the client.
    until_waiting(&daemon, &id).await;
    daemon.stop().await;
    daemon.start_again().await;
    daemon.ask(as_("ben", ask())).await.expect(403);
    daemon.ask(as_("ann", ask())).await.expect(202);
    is_cancelled(&daemon.wait("gated", &id).await, "token ann", "mine");
    let id = submit(&daemon, "2").await;
    daemon
        .ask(as_("root", cancel("gated", &id, "all")))
        .await
        .expect(202);
    is_cancelled(&daemon.wait("gated", &id).await, "token root", "all");
    // The unix socket is protected by its mode.
    let id = submit(&daemon, "3").await;
    let socket = At::Unix(daemon.socket());
    socket.ask(cancel("gated", &id, "here")).await.expect(202);
    let user = format!("uid {}", rustix::process::geteuid().as_raw());
    is_cancelled(&daemon.wait("gated", &id).await, &user, "here");
}

#[tokio::test]
async fn a_client_that_disconnects_cancels_a_build_only_if_no_other_client_wants_it() {
    let daemon = gated().await;
    let with = |n: &str, cancels: bool| json!({"project": "gated", "params": {"n": n}, "cancel_on_disconnect": cancels});
    let reason = "all clients that wanted it have disconnected";
    // The only one.
    let (alone, id) = joined(&daemon, &with("1", true)).await;
    until_waiting(&daemon, &id).await;
    drop(alone);
    is_cancelled(&daemon.wait("gated", &id).await, "mistryd", reason);
    daemon.until_metric(HELD_FOR_WAITERS, "", 0.0).await;
    // The last of two.
    let (first, id) = joined(&daemon, &with("2", true)).await;
    let (second, _) = joined(&daemon, &with("2", true)).await;
    until_waiting(&daemon, &id).await;
    let of_streams = daemon.metric(HELD_FOR_WAITERS, "").await;
    let waiting = daemon.asking(Ask::get(format!("/job/gated/{id}?wait")).json());
    // Memory is counted for a client once it counts as a waiter.
    let of_all = of_streams + 1024.0;
    daemon.until_metric(HELD_FOR_WAITERS, "", of_all).await;
    drop(first);
    let third = joined(&daemon, &with("2", true)).await;
    drop(second);
    assert_eq!(daemon.info("gated", &id).await["State"], "pending");
    // A waiting client wants it, too; here until the end of the test.
    drop(third);
    assert_eq!(daemon.info("gated", &id).await["State"], "pending");
    waiting.abort();
    is_cancelled(&daemon.wait("gated", &id).await, "mistryd", reason);
    // A client wanted it for good, and has gone.
    let (gone, id) = joined(&daemon, &with("3", true)).await;
    let same = daemon.submit(with("3", false)).await;
    assert_eq!(id, same);
    drop(gone);
    until_waiting(&daemon, &id).await;
    let (stayed, _) = joined(&daemon, &with("3", true)).await;
    daemon.ask(cancel("gated", &id, "done")).await.expect(202);
    is_cancelled(
        &stayed.events().await.last().unwrap().json(),
        "127.0.0.1",
        "done",
    );
}

#[tokio::test]
async fn a_daemon_that_ends_disconnects_all_clients_and_cancels_no_build() {
    let mut daemon = gated().await;
    let asked = json!({"project": "gated", "cancel_on_disconnect": true});
    let (stream, id) = joined(&daemon, &asked).await;
    until_waiting(&daemon, &id).await;
    daemon.stop().await;
    drop(stream);
    daemon.start_again().await;
    assert_eq!(daemon.info("gated", &id).await["State"], "pending");
    daemon.ask(cancel("gated", &id, "end")).await.expect(202);
    is_cancelled(&daemon.wait("gated", &id).await, "127.0.0.1", "end");
}

/// The answer 202 is a promise, as acceptance is.
#[tokio::test]
async fn a_cancelled_build_stays_cancelled_when_daemon_and_engine_die_before_its_container_ends() {
    let mut daemon = gated().await;
    let id = daemon.submit(job("gated")).await;
    until_waiting(&daemon, &id).await;
    daemon.home.engine.hold("stop");
    daemon
        .ask(cancel("gated", &id, "for good"))
        .await
        .expect(202);
    daemon.stop().await;
    // The Engine goes, too, and takes the container with it: no attempt was lost by that.
    daemon.home.engine.stop().await;
    daemon.home.engine.take_down(false).await;
    daemon.home.engine.release("stop");
    daemon.home.engine.start_again();
    daemon.start_again().await;
    let info = daemon.wait("gated", &id).await;
    is_cancelled(&info, "127.0.0.1", "for good");
    assert_eq!(info["Attempt"], 1);
}

/// The build that is being stopped would not answer the new request.
#[tokio::test]
async fn a_request_while_a_build_is_being_stopped_gets_a_new_build() {
    let daemon = gated().await;
    let id = daemon.submit(job("gated")).await;
    until_waiting(&daemon, &id).await;
    daemon.home.engine.hold("stop");
    daemon.ask(cancel("gated", &id, "old")).await.expect(202);
    let again = daemon.asking(Ask::post("/jobs", &job("gated")));
    daemon.home.engine.wait_for("stop", 1).await;
    daemon.home.engine.release("stop");
    daemon.home.engine.wait_for("start", 2).await;
    until_waiting(&daemon, &id).await;
    let gate = daemon.home.build("gated", "pending", &id).join("data/gate");
    tokio::task::spawn_blocking(move || std::fs::write(gate, "").unwrap())
        .await
        .unwrap();
    assert_eq!(
        again.await.unwrap().expect(201).json()["Outcome"],
        "succeeded"
    );
}
