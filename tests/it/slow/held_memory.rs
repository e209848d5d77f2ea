//! The memory that is held for clients is bounded, whether they read or not: over the limit new requests
//! are asked to retry, and running ones complete.

use std::path::Path;

use serde_json::{Value, json};

use crate::support::{
    daemon::{Home, TestDaemon, job, text},
    http::{Ask, At, Opened},
    process::Process,
};

const STREAM: &str = "text/event-stream";
const HELD: &str = "mistry_held_bytes";
const BODIES: &str = "mistry_bodies_held_bytes";

/// Resident memory of a process, in bytes.
fn resident(process: &Process) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.pid())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let mut words = line.unwrap().split_whitespace();
    words.nth(1).unwrap().parse::<u64>().unwrap() << 10
}

/// Builds that are over, with 10 KiB of params each.
fn many_builds(root: &Path, count: usize) {
    let params = (0..40).map(|n| (format!("p{n:02}"), "x".repeat(250).into()));
    let params: serde_json::Map<String, Value> = params.collect();
    for n in 0..count {
        let id = format!("{n:064x}");
        let directory = root.join("succeed/ready").join(&id);
        std::fs::create_dir_all(directory.join("data/artifacts")).unwrap();
        let record = json!({
            "Params": params, "Group": "", "Path": "", "ExitCode": 0, "ErrBuild": "",
            "StartedAt": format!("2021-03-04T01:{:02}:{:02}Z", n / 60, n % 60),
            "Duration": 1, "URL": format!("job/succeed/{id}"),
        });
        std::fs::write(directory.join("build_info.json"), record.to_string()).unwrap();
    }
}

#[tokio::test]
async fn readers_that_do_not_read_a_large_list_cost_little() {
    let home = Home::new().await;
    home.fixture("succeed");
    many_builds(&home.builds(), 1_000);
    home.configure(&json!({}));
    let daemon = home.spawn().await;
    // Read once, so that the server's index of the builds is in memory.
    let list = daemon.at.ask(Ask::get("/index/").json()).await.expect(200);
    assert!(list.body.len() > 10 << 20, "{} bytes", list.body.len());
    let ids: Vec<String> = list
        .json()
        .as_array()
        .unwrap()
        .iter()
        .map(|item| text(item, "id").to_owned())
        .collect();
    let expected: Vec<String> = (0..1_000).rev().map(|n| format!("{n:064x}")).collect();
    assert_eq!(ids, expected);
    let before = resident(&daemon);
    let mut readers: Vec<Opened> = Vec::new();
    for _ in 0..30 {
        let reader = daemon.at.open(Ask::get("/index/").json()).await;
        assert_eq!(reader.status, 200);
        readers.push(reader);
    }
    // Others are answered meanwhile.
    daemon.at.ask(Ask::get("/status")).await.expect(200);
    let grown = resident(&daemon).saturating_sub(before);
    assert!(grown < 10 << 20, "{grown} bytes");
    // A reader that continues gets all of it.
    let late = readers.pop().unwrap().whole().await;
    assert_eq!(late.body, list.body);
}

#[tokio::test]
async fn pages_of_a_list_follow_each_other_without_gap_or_repeat() {
    let daemon = TestDaemon::builder().await.fixture("succeed");
    many_builds(&daemon.home.builds(), 100);
    let daemon = daemon.start().await;
    let mut next = Some("/index/?limit=33".to_owned());
    let mut ids = Vec::new();
    while let Some(page) = next.take() {
        let page = daemon.ask(Ask::get(page).json()).await.expect(200);
        let items = page.json();
        let items = items.as_array().unwrap();
        assert!(items.len() <= 33);
        ids.extend(items.iter().map(|item| text(item, "id").to_owned()));
        let link = page.header("link");
        let link = link.strip_prefix('<').and_then(|link| link.split_once('>'));
        next = link.map(|(address, _)| address.to_owned());
    }
    let expected: Vec<String> = (0..100).rev().map(|n| format!("{n:064x}")).collect();
    assert_eq!(ids, expected);
}

/// A job with one large param.
fn large(value: &str) -> Value {
    json!({ "project": "succeed", "params": { "lock": value } })
}

#[tokio::test]
async fn clients_that_join_a_build_keep_no_params_and_share_its_answer() {
    const ASKERS: usize = 20;
    let home = Home::new().await;
    home.fixture("succeed");
    home.configure(&json!({}));
    let daemon = home.spawn().await;
    home.engine.hold("start");
    let value = "line\n".repeat((1 << 20) / 5);
    let body = large(&value);
    let ask = |at: &At| {
        let (at, ask) = (at.clone(), Ask::post("/jobs", &body));
        tokio::spawn(async move { at.open(ask).await })
    };
    let first = ask(&daemon.at);
    home.engine.wait_for("start", 1).await;
    let before = resident(&daemon);
    let mut askers = Vec::new();
    for joined in 1..=ASKERS {
        askers.push(ask(&daemon.at));
        // In turn: each has joined before the next one comes.
        crate::support::http::within("a job that joins", async {
            loop {
                let metrics = daemon.at.ask(Ask::get("/metrics")).await.text();
                let line = format!("mistry_builds_coalesced{{project=\"succeed\"}} {joined}\n");
                if metrics.contains(&line) {
                    break;
                }
            }
        })
        .await;
    }
    home.engine.release("start");
    // None of them reads more than the head of the answer.
    let mut answers = vec![first.await.unwrap()];
    for asker in askers {
        answers.push(asker.await.unwrap());
    }
    assert!(answers.iter().all(|answer| answer.status == 201));
    let grown = resident(&daemon).saturating_sub(before);
    // The request and the answer once, and their buffers.
    assert!(grown < 20 << 20, "{grown} bytes");
    for (at, answer) in answers.into_iter().enumerate() {
        let info = answer.whole().await.json();
        assert_eq!(text(&info["Params"], "lock"), value);
        assert_eq!(info["Coalesced"], at > 0);
        assert!(text(&info, "ContainerStdouterr").ends_with("run 1\n"));
    }
}

#[tokio::test]
async fn over_the_limit_new_streams_are_refused_and_running_ones_complete() {
    let daemon = TestDaemon::with(&["succeed"]).await;
    let value = "x".repeat(8 << 20);
    let built = daemon.ask(Ask::post("/jobs", &large(&value)).json()).await;
    let built = built.expect(201).json();
    let address = format!("/job/succeed/{}?log=none", text(&built, "ID"));
    let engine = &daemon.home.engine;
    engine.hold("start");
    let ask = Ask::post("/jobs", &job("succeed")).with("accept", STREAM);
    let mut stream = daemon.open(ask.clone()).await;
    assert_eq!(stream.event().await.unwrap().name, "state");
    engine.wait_for("start", 2).await;
    let mut readers = Vec::new();
    let refused = loop {
        let reader = daemon.open(Ask::get(&address).json()).await;
        if reader.status != 200 {
            break reader;
        }
        readers.push(reader);
    };
    assert_eq!(readers.len(), 2);
    assert_eq!(refused.status, 503);
    assert_eq!(refused.headers["retry-after"], "5");
    assert!(text(&refused.whole().await.json(), "error").contains("holds too much"));
    // Clients of this host have a limit of their own.
    let local = At::Unix(daemon.socket());
    local.ask(Ask::get(&address).json()).await.expect(200);
    daemon.ask(Ask::get("/healthz")).await.expect(200);
    engine.release("start");
    let events = stream.events().await;
    let last = events.last().unwrap();
    assert_eq!(last.name, "result");
    assert_eq!(last.json()["Outcome"], "succeeded");
    assert!(events.iter().any(|event| event.name == "log"));
    // A reader that continues gets a complete answer.
    let whole = readers.pop().unwrap().whole().await.json();
    assert_eq!(text(&whole["BuildInfo"]["Params"], "lock"), value);
    drop(readers);
    daemon.until_metric(HELD, "", 0.0).await;
    daemon.until_metric(BODIES, "", 0.0).await;
}

#[tokio::test]
async fn params_of_jobs_are_counted_until_the_jobs_are_over() {
    let daemon = TestDaemon::with(&["succeed"]).await;
    let engine = &daemon.home.engine;
    engine.hold("start");
    let ask = |n: usize| {
        Ask::post(
            "/jobs?async",
            &large(&format!("{n}{}", "x".repeat(10 << 20))),
        )
    };
    let mut accepted = 0;
    let refused = loop {
        let answer = daemon.ask(ask(accepted)).await;
        if answer.status != 201 {
            break answer;
        }
        accepted += 1;
    };
    assert_eq!(accepted, 2);
    let refused = refused.expect(503);
    assert_eq!(refused.header("retry-after"), "5");
    assert!(text(&refused.json(), "error").contains("large params"));
    // Small ones are built all the same.
    let small = daemon.ask(Ask::post("/jobs?async", &job("succeed"))).await;
    small.expect(201);
    engine.release("start");
    daemon.until_metric(BODIES, "", 0.0).await;
    daemon.ask(ask(accepted)).await.expect(201);
}

#[tokio::test]
async fn many_streams_of_one_build_are_cheap_and_all_complete() {
    const STREAMS: usize = 300;
    let home = Home::new().await;
    home.fixture("succeed");
    home.configure(&json!({}));
    let daemon = home.spawn().await;
    home.engine.hold("start");
    let ask = Ask::post("/jobs", &job("succeed")).with("accept", STREAM);
    let mut streams = Vec::new();
    for _ in 0..STREAMS {
        let mut stream = daemon.at.open(ask.clone()).await;
        assert_eq!(stream.event().await.unwrap().name, "state");
        streams.push(stream);
    }
    home.engine.wait_for("start", 1).await;
    let metrics = daemon.at.ask(Ask::get("/metrics")).await.text();
    let line = metrics
        .lines()
        .find_map(|line| line.strip_prefix(BODIES)?.strip_prefix(' '));
    let held: u64 = line.unwrap().parse().unwrap();
    // The memory of each, whatever its request; five thousand of them fit into 48 MiB.
    assert!(held >= STREAMS as u64 * (9 << 10), "{held} bytes");
    assert!(held <= STREAMS as u64 * (48 << 20) / 5_000, "{held} bytes");
    home.engine.release("start");
    for (at, stream) in streams.into_iter().enumerate() {
        let events = stream.events().await;
        let result = events.last().unwrap();
        assert_eq!(result.name, "result");
        assert_eq!(result.json()["Coalesced"], at > 0);
        assert!(events.iter().any(|event| event.name == "log"));
    }
}
