//! While the queue is paused no build starts, also after a restart of the daemon; running builds go on,
//! cached ones are answered, and waiting ones start when it is resumed.

use std::path::PathBuf;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::{
    cli,
    daemon::{Builder, Home, TestDaemon, job, text},
    http::{Answer, Ask, At, within},
    manager::Manager,
    process::{Ended, Process, run},
};

fn numbered(n: usize) -> Value {
    json!({ "project": "succeed", "params": { "n": n.to_string() } })
}

fn mark(home: &Home) -> PathBuf {
    home.builds().join(".mistry/paused")
}

async fn builder() -> Builder {
    TestDaemon::builder().await.fixture("succeed")
}

/// `pause` or `resume`, to its answer.
async fn request(daemon: &TestDaemon, verb: &str) {
    let answer = daemon.post(format!("/queue/{verb}"), &json!({})).await;
    assert_eq!(answer.expect(204).body.len(), 0);
}

/// How many run and wait, and whether it is paused.
async fn queue_state(at: &At) -> (Value, Value, Value) {
    let status = at.ask(Ask::get("/status").json()).await.expect(200).json();
    let fact = |name: &str| status[name].clone();
    (fact("Running"), fact("Queued"), fact("Paused"))
}

fn state(running: usize, queued: usize, paused: bool) -> (Value, Value, Value) {
    (json!(running), json!(queued), json!(paused))
}

#[tokio::test]
async fn what_runs_goes_on_and_what_is_new_waits_until_it_is_resumed() {
    let daemon = builder().await.slots(2).start().await;
    let engine = &daemon.home.engine;
    engine.hold("start");
    let runs = daemon.submit(numbered(0)).await;
    engine.wait_for("start", 1).await;
    request(&daemon, "pause").await;
    request(&daemon, "pause").await;
    let first = daemon.submit(numbered(1)).await;
    let second = daemon.submit(numbered(2)).await;
    let waiting = daemon.asking(Ask::post("/jobs", &numbered(1)));
    engine.release("start");
    assert_eq!(daemon.wait("succeed", &runs).await["Outcome"], "succeeded");
    daemon.until_metric("mistry_builds_running", "", 0.0).await;
    // Two slots are free, and neither the longest waiting nor a new job gets one.
    let third = daemon.submit(numbered(3)).await;
    assert_eq!(queue_state(&daemon.at()).await, state(0, 3, true));
    for id in [&first, &second, &third] {
        assert_eq!(daemon.info("succeed", id).await["Phase"], "queued");
    }
    assert_eq!(engine.builds().len(), 1);
    // A cancelled job leaves the queue as usual.
    let path = format!("/job/succeed/{second}/cancel");
    daemon.post(path, &json!({})).await.expect(202);
    let cancelled = daemon.wait("succeed", &second).await;
    assert_eq!(cancelled["Outcome"], "cancelled");
    request(&daemon, "resume").await;
    request(&daemon, "resume").await;
    for id in [&first, &third] {
        assert_eq!(daemon.wait("succeed", id).await["Outcome"], "succeeded");
    }
    let joined = within("who waited", waiting).await.unwrap();
    assert_eq!(joined.expect(201).json()["Coalesced"], true);
    assert_eq!(daemon.build(numbered(4)).await["ExitCode"], 0);
    daemon.until_metric("mistry_builds_running", "", 0.0).await;
    assert_eq!(queue_state(&daemon.at()).await, state(0, 0, false));
}

#[tokio::test]
async fn the_longest_waiting_job_starts_first_and_no_more_run_than_the_slots() {
    let daemon = builder().await.slots(1).start().await;
    request(&daemon, "pause").await;
    let mut ids = Vec::new();
    for n in 0..4 {
        ids.push(daemon.submit(numbered(n)).await);
    }
    request(&daemon, "resume").await;
    let mut last_end = String::new();
    for id in &ids {
        let info = daemon.wait("succeed", id).await;
        assert!(text(&info, "StartedAt") >= last_end.as_str(), "{info}");
        last_end = text(&info, "FinishedAt").to_owned();
    }
}

#[tokio::test]
async fn cached_answers_do_not_wait() {
    let daemon = builder().await.start().await;
    daemon.build(numbered(0)).await;
    request(&daemon, "pause").await;
    assert_eq!(daemon.build(numbered(0)).await["Cached"], true);
    // An image is no job.
    let rebuilt = daemon.post("/project/succeed/rebuild", &json!({})).await;
    rebuilt.expect(200);
}

#[tokio::test]
async fn past_the_backlog_a_job_is_refused_though_slots_are_free() {
    let daemon = builder().await.slots(2).backlog(2).start().await;
    request(&daemon, "pause").await;
    let ids = [
        daemon.submit(numbered(0)).await,
        daemon.submit(numbered(1)).await,
    ];
    let refused = daemon.post("/jobs", &numbered(2)).await.expect(503);
    assert!(refused.header("retry-after").parse::<u32>().unwrap() > 0);
    let mut there = ids.to_vec();
    there.sort();
    assert_eq!(daemon.home.ids("succeed", "pending"), there);
    // A request that joins takes no place.
    let again = daemon.post("/jobs?async", &numbered(1)).await.expect(201);
    assert_eq!(text(&again.json(), "ID"), ids[1]);
    request(&daemon, "resume").await;
    for id in &ids {
        assert_eq!(daemon.wait("succeed", id).await["Outcome"], "succeeded");
    }
}

#[tokio::test]
async fn it_stays_paused_over_a_restart_and_resumed_over_the_next() {
    let mut daemon = builder().await.start().await;
    request(&daemon, "pause").await;
    let id = daemon.submit(numbered(0)).await;
    assert!(mark(&daemon.home).is_file());
    daemon.stop().await;
    daemon.start_again().await;
    assert_eq!(queue_state(&daemon.at()).await, state(0, 1, true));
    assert_eq!(daemon.info("succeed", &id).await["Phase"], "queued");
    assert!(daemon.home.engine.containers().is_empty());
    request(&daemon, "resume").await;
    assert_eq!(daemon.wait("succeed", &id).await["Outcome"], "succeeded");
    assert!(!mark(&daemon.home).exists());
    daemon.stop().await;
    daemon.start_again().await;
    assert_eq!(queue_state(&daemon.at()).await, state(0, 0, false));
    assert_eq!(daemon.build(numbered(1)).await["ExitCode"], 0);
}

async fn post(daemon: &Process, path: &str, body: &Value) -> Answer {
    daemon.at.ask(Ask::post(path, body)).await
}

/// Waits for a record: it is written in parallel with the answer, and may come later.
async fn wait_for_record(daemon: &Process, words: &str) {
    within(words, async {
        while !daemon.log().contains(words) {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn it_stays_paused_over_a_kill_and_what_ran_is_followed_to_its_end() {
    let home = Home::new().await;
    for name in ["slow", "succeed"] {
        home.fixture(name);
    }
    home.configure(&json!({}));
    let daemon = home.spawn().await;
    let accepted = post(&daemon, "/jobs?async", &job("slow")).await;
    let runs = text(&accepted.expect(201).json(), "ID").to_owned();
    let mut log = daemon.at.open(Ask::get(format!("/log/slow/{runs}"))).await;
    log.until(|event| event.data == "waiting").await;
    post(&daemon, "/queue/pause", &json!({})).await.expect(204);
    let accepted = post(&daemon, "/jobs?async", &job("succeed")).await;
    let waits = text(&accepted.expect(201).json(), "ID").to_owned();
    wait_for_record(&daemon, "the queue is paused by 127.0.0.1").await;
    assert_eq!(daemon.end(Signal::KILL).await, -9);

    let daemon = home.spawn().await;
    // A request for a job is answered when all jobs on disk are taken over.
    let path = format!("/job/succeed/{waits}");
    let info = daemon.at.ask(Ask::get(path).json()).await.expect(200);
    assert_eq!(info.json()["BuildInfo"]["Phase"], "queued");
    assert_eq!(queue_state(&daemon.at).await, state(1, 1, true));
    wait_for_record(&daemon, "the queue is still paused").await;
    let gate = home.build("slow", "pending", &runs).join("data/gate");
    tokio::task::spawn_blocking(move || std::fs::write(gate, "").unwrap())
        .await
        .unwrap();
    let wait = |project: &str, id: &str| Ask::get(format!("/job/{project}/{id}?wait")).json();
    let info = daemon.at.ask(wait("slow", &runs)).await.expect(200).json();
    let (outcome, attempt) = (&info["BuildInfo"]["Outcome"], &info["BuildInfo"]["Attempt"]);
    assert_eq!((outcome, attempt), (&json!("succeeded"), &json!(1)));
    assert_eq!(queue_state(&daemon.at).await.2, json!(true));
    post(&daemon, "/queue/resume", &json!({})).await.expect(204);
    let info = daemon.at.ask(wait("succeed", &waits)).await.expect(200);
    assert_eq!(info.json()["BuildInfo"]["Outcome"], "succeeded");
    wait_for_record(&daemon, "the queue is resumed by 127.0.0.1").await;
    assert_eq!(daemon.end(Signal::KILL).await, -9);

    let daemon = home.spawn().await;
    assert_eq!(queue_state(&daemon.at).await, state(0, 0, false));
}

#[tokio::test]
async fn status_metrics_and_the_web_view_say_so() {
    let daemon = builder().await.start().await;
    let page = || async { daemon.ask(Ask::get("/")).await.expect(200).text() };
    assert_eq!(daemon.metric("mistry_queue_paused", "").await, 0.0);
    assert!(!page().await.contains("paused"));
    request(&daemon, "pause").await;
    daemon.submit(numbered(0)).await;
    assert_eq!(daemon.metric("mistry_queue_paused", "").await, 1.0);
    assert_eq!(daemon.metric("mistry_queue_length", "").await, 1.0);
    assert!(page().await.contains("The queue is paused."));
    assert_eq!(queue_state(&daemon.at()).await, state(0, 1, true));
    request(&daemon, "resume").await;
    assert_eq!(daemon.metric("mistry_queue_paused", "").await, 0.0);
    assert!(!page().await.contains("paused"));
}

#[tokio::test]
async fn systemd_is_notified_and_a_paused_daemon_without_work_may_end() {
    let home = Home::new().await;
    home.configure(&json!({"idle_exit": "50ms"}));
    let manager = Manager::new(&home);
    let at = manager.over_unix();
    let service = manager.start(&home);
    let pause = Ask::post("/queue/pause", &json!({}));
    at.ask(pause).await.expect(204);
    manager
        .notified("STATUS=idle, paused: no new build starts")
        .await;
    manager.notified("STOPPING=1").await;
    assert_eq!(service.ended().await, 0);
    let service = manager.start(&home);
    assert_eq!(queue_state(&at).await, state(0, 0, true));
    manager
        .notified("STATUS=idle, paused: no new build starts")
        .await;
    service.signal(Signal::TERM);
    assert_eq!(service.ended().await, 0);
}

#[tokio::test]
async fn only_an_admin_pauses_and_resumes() {
    use mistry::web::{Scope, Token};
    let line = |scope| Token::of("some", vec![scope], "some-secret").to_string();
    for (scope, status) in [(Scope::Read, 403), (Scope::Build, 403), (Scope::Admin, 204)] {
        let daemon = builder().await.tokens(line(scope)).start().await;
        for verb in ["pause", "resume"] {
            let ask = || Ask::post(format!("/queue/{verb}"), &json!({}));
            daemon.ask(ask()).await.expect(401);
            let bearer = ask().with("authorization", "Bearer some-secret");
            daemon.ask(bearer.clone()).await.expect(status);
            // A missing right is reported first.
            let untyped = if status == 403 { 403 } else { 415 };
            daemon
                .ask(bearer.clone().without("content-type"))
                .await
                .expect(untyped);
            let foreign = bearer.with("sec-fetch-site", "cross-site");
            daemon.ask(foreign).await.expect(403);
            // Clients of the socket need no token.
            At::Unix(daemon.socket()).ask(ask()).await.expect(204);
        }
        let refused = daemon.get("/queue/pause").await.expect(405);
        assert_eq!(refused.header("allow"), "POST, OPTIONS");
        daemon.post("/queue", &json!({})).await.expect(401);
        assert_eq!(queue_state(&daemon.at()).await, state(0, 0, false));
    }
}

#[tokio::test]
async fn a_pause_that_cannot_be_written_changes_nothing() {
    let daemon = builder().await.start().await;
    let (own, away) = (
        daemon.home.builds().join(".mistry"),
        daemon.home.path("away"),
    );
    let refused = async |verb: &str| {
        std::fs::rename(&own, &away).unwrap();
        let answer = daemon.post(format!("/queue/{verb}"), &json!({})).await;
        std::fs::rename(&away, &own).unwrap();
        text(&answer.expect(500).json(), "error").to_owned()
    };
    let said = refused("pause").await;
    assert_eq!(said, "could not write down that the queue is paused");
    assert_eq!(queue_state(&daemon.at()).await.2, json!(false));
    assert_eq!(daemon.build(numbered(0)).await["ExitCode"], 0);
    request(&daemon, "pause").await;
    let said = refused("resume").await;
    assert!(said.contains("not paused any more"), "{said}");
    assert_eq!(queue_state(&daemon.at()).await.2, json!(true));
    assert!(mark(&daemon.home).exists());
    // A mark that was removed by hand is made again by the next request.
    std::fs::remove_file(mark(&daemon.home)).unwrap();
    request(&daemon, "pause").await;
    assert!(mark(&daemon.home).exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn after_concurrent_pauses_and_resumes_mark_and_queue_agree() {
    let daemon = builder().await.backlog(20).start().await;
    for round in 0..20 {
        let verbs = ["pause", "resume", "resume", "pause", "resume", "pause"];
        let asked = verbs.map(|verb| {
            let ask = Ask::post(format!("/queue/{verb}"), &json!({}));
            daemon.asking(ask)
        });
        daemon.submit(numbered(round)).await;
        for answer in asked {
            within("an answer", answer).await.unwrap().expect(204);
        }
        let (.., paused) = queue_state(&daemon.at()).await;
        assert_eq!(paused, json!(mark(&daemon.home).exists()), "{round}");
        request(&daemon, "resume").await;
    }
    daemon.until_metric("mistry_queue_length", "", 0.0).await;
    daemon.until_metric("mistry_builds_running", "", 0.0).await;
    assert_eq!(daemon.home.ids("succeed", "ready").len(), 20);
}

#[tokio::test]
async fn the_command_line_pauses_and_resumes() {
    let daemon = builder().await.start().await;
    let port = daemon.port().to_string();
    let mistry = async |verb: &str| -> Ended { run(cli::mistry(&[verb, "--port", &port])).await };
    for _ in 0..2 {
        let ended = mistry("pause").await;
        assert_eq!(ended.status, 0, "{ended:?}");
        assert!(ended.stdout.starts_with("Paused: "), "{ended:?}");
    }
    let status = mistry("status").await.stdout;
    let warning = "the queue is paused: no build is started until 'mistry resume'";
    assert!(
        status
            .lines()
            .next()
            .is_some_and(|line| line.ends_with(warning)),
        "{status}"
    );
    let ended = mistry("resume").await;
    assert_eq!(ended.status, 0, "{ended:?}");
    assert!(ended.stdout.starts_with("Resumed: "), "{ended:?}");
    assert_eq!(queue_state(&daemon.at()).await.2, json!(false));

    let guarded = builder().await.tokens("").start().await;
    let port = guarded.port().to_string();
    let ended = run(cli::mistry(&["pause", "--port", &port])).await;
    assert_eq!(ended.status, 3, "{ended:?}");
}

#[tokio::test]
async fn a_job_that_waited_runs_with_the_settings_that_its_id_was_made_of() {
    let daemon = builder().await.start().await;
    let engine = &daemon.home.engine;
    let settings = daemon.home.projects().join("succeed/mistry.json");
    let set = |network: &str| {
        let text = json!({ "network": network }).to_string();
        std::fs::write(&settings, text).unwrap();
    };
    // The network that each container of an id was given.
    let networks = |id: &str| -> Vec<Value> {
        let containers = engine.containers();
        let of_id = containers
            .iter()
            .filter(|container| container.labels["mistry.job"] == id);
        of_id
            .map(|container| container.spec["HostConfig"]["NetworkMode"].clone())
            .collect()
    };
    set("none");
    // Without a known image, the project would have to be sent as it was, and it has changed.
    request(&daemon, "pause").await;
    let unsent = daemon.submit(numbered(1)).await;
    set("bridge");
    request(&daemon, "resume").await;
    let ended = daemon.wait("succeed", &unsent).await;
    assert_eq!(ended["Outcome"], "errored");
    assert!(text(&ended, "Err").contains("changed"), "{ended}");
    assert_eq!(networks(&unsent).len(), 0);
    set("none");
    let again = daemon.build(numbered(1)).await;
    assert_eq!(
        (text(&again, "ID"), &again["Cached"]),
        (&unsent[..], &json!(false))
    );
    assert_eq!(networks(&unsent), ["none"]);
    // With one, nothing is sent, and the settings are still those of the id.
    request(&daemon, "pause").await;
    let waits = daemon.submit(numbered(2)).await;
    set("bridge");
    request(&daemon, "resume").await;
    assert_eq!(daemon.wait("succeed", &waits).await["Outcome"], "succeeded");
    set("none");
    let cached = daemon.build(numbered(2)).await;
    assert_eq!(
        (text(&cached, "ID"), &cached["Cached"]),
        (&waits[..], &json!(true))
    );
    assert_eq!(networks(&waits), ["none"]);
    set("bridge");
    let other = daemon.build(numbered(2)).await;
    assert_ne!(text(&other, "ID"), waits);
    assert_eq!(networks(text(&other, "ID")), ["bridge"]);
}
