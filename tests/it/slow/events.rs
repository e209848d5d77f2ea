//! `GET /events`: a follower gets the present state, then each change; it misses no end of a job, also
//! when it was slow, disconnected, or the daemon was restarted.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use mistry::budget::Client;
use mistry::job::Outcome;
use mistry::scheduler::StreamEvent;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use crate::support::daemon::{TestDaemon, job, text};
use crate::support::http::{Ask, Event, Opened, within};

async fn follow(daemon: &TestDaemon, query: &str) -> Opened {
    let stream = daemon.open(Ask::get(format!("/events{query}"))).await;
    assert_eq!(stream.status, 200);
    stream
}

async fn reconnect(daemon: &TestDaemon, last: &Event) -> Opened {
    let ask = Ask::get("/events").with("last-event-id", last.mark.clone());
    daemon.open(ask).await
}

fn numbered(n: usize) -> Value {
    json!({"project": "succeed", "params": {"n": n.to_string()}})
}

/// Waits for the end of a job.
async fn end_of(stream: &mut Opened, id: &str) -> Value {
    last_of(stream, id).await.json()
}

async fn last_of(stream: &mut Opened, id: &str) -> Event {
    let is_end = |event: &Event| {
        event.name == "job" && event.json()["id"] == id && event.json()["state"] == "ready"
    };
    stream.until(is_end).await.pop().unwrap()
}

fn names(events: &[Event]) -> Vec<&str> {
    events.iter().map(|event| event.name.as_str()).collect()
}

async fn present(stream: &mut Opened) -> Vec<Event> {
    stream.until(|event| event.name == "present").await
}

#[tokio::test]
async fn the_present_state_is_sent_first_then_each_phase_and_the_end() {
    let daemon = TestDaemon::with(&["succeed"]).await;
    daemon.home.engine.hold("start");
    let early = daemon.submit(numbered(1)).await;
    daemon.home.engine.wait_for("start", 1).await;
    let mut stream = follow(&daemon, "").await;
    let events = present(&mut stream).await;
    assert_eq!(names(&events), ["host", "job", "present"]);
    assert_eq!(events[0].json()["Running"], 1);
    assert_eq!(events[1].json()["id"], early);
    assert_eq!(events[1].json()["buildInfo"]["Phase"], "running");
    daemon.home.engine.release("start");
    assert_eq!(
        end_of(&mut stream, &early).await["buildInfo"]["Outcome"],
        "succeeded"
    );

    let late = daemon.submit(numbered(2)).await;
    let mut steps = Vec::new();
    while steps.last() != Some(&Value::Null) {
        let event = stream.event().await.unwrap();
        if event.name == "job" {
            assert_eq!(event.json()["id"], late);
            steps.push(event.json()["buildInfo"]["Phase"].clone());
        }
    }
    // A short phase may be over before it is sent; none is sent after a later one.
    let order = ["queued", "preparing", "imaging", "running", "finishing"];
    let at = |step: &Value| order.iter().position(|name| step == name).unwrap_or(9);
    assert!(steps.iter().map(at).is_sorted(), "{steps:?}");
}

#[tokio::test]
async fn a_slow_reader_keeps_no_params_of_a_job_that_is_over() {
    let daemon = TestDaemon::with(&["succeed"]).await;
    daemon.home.engine.hold("start");
    let large = json!({"project": "succeed", "params": {"large": "x".repeat(1 << 20)}});
    let id = daemon.submit(large).await;
    daemon.home.engine.wait_for("start", 1).await;
    // It has begun, and is not read before the job is over.
    let reader = daemon.scheduler().reader(Client::Local);
    let mut updates = reader.events(None).await.unwrap();
    daemon.home.engine.release("start");
    daemon.wait("succeed", &id).await;
    let mut is_sent = false;
    while !is_sent {
        if let StreamEvent::Job(info) = updates.next().await.unwrap() {
            let value = info.params["large"].as_deref().unwrap();
            assert!(value.len() < 1_000, "{} bytes", value.len());
            is_sent = info.outcome() == Some(Outcome::Succeeded);
        }
    }
}

#[tokio::test]
async fn a_client_that_does_not_read_keeps_no_params_of_jobs_that_are_over() {
    let daemon = TestDaemon::builder()
        .await
        .fixture("succeed")
        .slots(25)
        .start()
        .await;
    daemon.home.engine.hold("start");
    let (jobs, mut ids) = (25, Vec::new());
    for n in 0..jobs {
        // What is listed of each is 16 KiB; all of them are more than a socket takes.
        let mut params: BTreeMap<_, _> = (0..80)
            .map(|at| (format!("listed{at}"), "x".repeat(250)))
            .collect();
        params.insert("large".to_owned(), format!("{n}").repeat(1 << 10));
        let job = json!({"project": "succeed", "params": params});
        ids.push(daemon.submit(job).await);
    }
    let reader = daemon.scheduler().reader(Client::Local);
    let mut updates = reader.events(None).await.unwrap();
    let mut params = BTreeMap::new();
    while params.len() < jobs {
        if let StreamEvent::Job(info) = updates.next().await.unwrap() {
            let value = info.params["large"].as_ref().unwrap();
            params.insert(info.id, Arc::downgrade(value));
        }
    }
    drop(updates);
    let mut silent = UnixStream::connect(daemon.socket()).await.unwrap();
    let request = b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n";
    silent.write_all(request).await.unwrap();
    silent.readable().await.unwrap();
    daemon.home.engine.release("start");
    for id in &ids {
        daemon.wait("succeed", id).await;
    }
    within("the params to be let go", async {
        while params.values().any(|kept| kept.strong_count() > 0) {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let mut bytes = vec![0; 64 << 10];
    silent.read_exact(&mut bytes).await.unwrap();
}

#[tokio::test]
async fn a_client_that_reconnects_gets_every_end_that_it_missed_over_a_restart() {
    let mut daemon = TestDaemon::with(&["succeed"]).await;
    let mut stream = follow(&daemon, "").await;
    let seen = text(&daemon.build(numbered(0)).await, "ID").to_owned();
    let last = last_of(&mut stream, &seen).await;
    drop(stream);
    let mut missed = Vec::new();
    for n in 1..4 {
        missed.push(text(&daemon.build(numbered(n)).await, "ID").to_owned());
    }
    daemon.home.engine.hold("start");
    let runs = daemon.submit(numbered(9)).await;
    daemon.home.engine.wait_for("start", 5).await;
    daemon.stop().await;
    daemon.start_again().await;
    let mut stream = reconnect(&daemon, &last).await;
    let events = present(&mut stream).await;
    let jobs: Vec<Value> = events
        .iter()
        .filter(|event| event.name == "job")
        .map(Event::json)
        .collect();
    let ids: Vec<&str> = jobs.iter().map(|job| text(job, "id")).collect();
    let at = |id: &String| ids.iter().position(|other| other == id);
    let places: Vec<_> = missed.iter().map(at).collect();
    assert!(
        places.iter().all(Option::is_some) && places.is_sorted(),
        "{ids:?}"
    );
    daemon.home.engine.release("start");
    end_of(&mut stream, &runs).await;
}

#[tokio::test]
async fn a_slow_reader_misses_no_end_of_a_job() {
    let builder = TestDaemon::builder().await.slots(8).backlog(1_000);
    let daemon = builder.fixture("succeed").start().await;
    let mut stream = follow(&daemon, "").await;
    present(&mut stream).await;
    let mut asked = BTreeSet::new();
    let mut ended = BTreeMap::new();
    for n in 0..120 {
        asked.insert(daemon.submit(numbered(n)).await);
    }
    // Only now does the reader begin to read.
    while ended.len() < asked.len() {
        let event = stream.event().await.unwrap();
        if event.name == "job" && event.json()["state"] == "ready" {
            *ended
                .entry(text(&event.json(), "id").to_owned())
                .or_insert(0) += 1;
        }
    }
    assert!(ended.keys().eq(asked.iter()));
    // Sent twice only where a client has reconnected.
    assert!(ended.values().all(|times| *times == 1), "{ended:?}");
}

#[tokio::test]
async fn a_filter_holds_for_the_stream_as_for_a_list() {
    let daemon = TestDaemon::with(&["succeed", "exit-code"]).await;
    let mut of_project = follow(&daemon, "?project=exit-code").await;
    let mut failed = follow(&daemon, "?outcome=failed").await;
    let mut text_of = follow(&daemon, "?text=N%3D7").await;
    for stream in [&mut of_project, &mut failed, &mut text_of] {
        present(stream).await;
    }
    let good = text(&daemon.build(numbered(7)).await, "ID").to_owned();
    let bad = text(&daemon.build(job("exit-code")).await, "ID").to_owned();
    assert_eq!(end_of(&mut text_of, &good).await["project"], "succeed");
    let events = of_project.until(|event| event.name == "job").await;
    assert_eq!(events.last().unwrap().json()["id"], bad);
    // A build that leaves the list of failed ones is sent as gone; one that enters it is sent.
    let gone = failed.until(|event| event.name == "gone").await;
    assert!(
        names(&gone)
            .iter()
            .all(|name| ["host", "gone"].contains(name))
    );
    assert_eq!(
        gone.last().unwrap().json(),
        json!({"Project": "succeed", "ID": good})
    );
    end_of(&mut failed, &bad).await;
}

#[tokio::test]
async fn removals_pauses_and_joins_are_events() {
    let daemon = TestDaemon::with(&["succeed"]).await;
    let old = text(&daemon.build(numbered(1)).await, "ID").to_owned();
    daemon.build(numbered(2)).await;
    let mut stream = follow(&daemon, "").await;
    present(&mut stream).await;
    let remove =
        Ask::new("DELETE", format!("/job/succeed/{old}")).with("content-type", "application/json");
    daemon.ask(remove).await.expect(204);
    let gone = stream
        .until(|event| event.name == "gone")
        .await
        .pop()
        .unwrap();
    assert_eq!(gone.json(), json!({"Project": "succeed", "ID": old}));

    daemon.post("/queue/pause", &json!({})).await.expect(204);
    let is_paused = |event: &Event| event.name == "host" && event.json()["Paused"] == true;
    stream.until(is_paused).await;
    let waits = daemon.submit(numbered(3)).await;
    assert_eq!(daemon.submit(numbered(3)).await, waits);
    let joined = |event: &Event| event.name == "job" && event.json()["buildInfo"]["Joined"] == 1;
    stream.until(joined).await;
    daemon.post("/queue/resume", &json!({})).await.expect(204);
    let end = end_of(&mut stream, &waits).await;
    // It is on disk, too, and so is the client.
    assert_eq!(end["buildInfo"]["Joined"], 1);
    assert_eq!(end["buildInfo"]["AskedBy"], "127.0.0.1");
    let kept = daemon.get(format!("/job/succeed/{waits}")).await.json();
    assert_eq!(kept["BuildInfo"]["Joined"], 1);
}

#[tokio::test]
async fn a_failed_rebuild_is_an_event_before_that_of_the_build_that_stays() {
    let builder = TestDaemon::builder().await;
    let mark = builder.home.path("fail");
    let script = format!("[ ! -e {} ] || {{ echo no >&2; exit 7; }}", mark.display());
    let daemon = builder.script("flip", &script).start().await;
    let good = daemon.build(job("flip")).await;
    let id = text(&good, "ID").to_owned();
    std::fs::write(&mark, "").unwrap();
    let mut stream = follow(&daemon, "").await;
    let mut succeeded = follow(&daemon, "?outcome=succeeded").await;
    present(&mut stream).await;
    present(&mut succeeded).await;
    let bad = json!({"project": "flip", "rebuild": true});
    assert_eq!(daemon.build(bad).await["ExitCode"], 7);
    let outcome = |event: &Value| event["buildInfo"]["Outcome"].clone();
    assert_eq!(outcome(&end_of(&mut stream, &id).await), "failed");
    assert_eq!(outcome(&end_of(&mut stream, &id).await), "succeeded");
    // In a list without failed builds the good one returns after the failed one is gone.
    succeeded.until(|event| event.name == "gone").await;
    assert_eq!(outcome(&end_of(&mut succeeded, &id).await), "succeeded");
    // Its page says both.
    let page = Ask::get(format!("/job/flip/{id}")).with("accept", "text/html");
    let page = daemon.ask(page).await.expect(200).text();
    assert!(
        page.contains("A later attempt failed with exit code 7"),
        "{page}"
    );
    let rebuild = format!("/job/flip/{id}?attempt=2");
    assert!(page.contains(&rebuild), "{page}");
    let page = daemon.ask(Ask::get(rebuild).with("accept", "text/html"));
    let page = page.await.expect(200).text();
    assert!(page.contains("no\n"), "{page}");
}

#[tokio::test]
async fn a_stream_that_breaks_off_can_be_resumed() {
    let daemon = TestDaemon::with(&["succeed"]).await;
    let mut stream = follow(&daemon, "").await;
    let first = stream.event().await.unwrap();
    for n in 0..3 {
        daemon.build(numbered(n)).await;
    }
    drop(stream);
    let mut again = reconnect(&daemon, &first).await;
    // The stream breaks with the first event, before the ends.
    let host = again.event().await.unwrap();
    assert_eq!(host.name, "host");
    assert!(host.mark <= first.mark, "{} {}", host.mark, first.mark);
    let events = present(&mut reconnect(&daemon, &host).await).await;
    let ends = events.iter().filter(|event| event.name == "job").count();
    assert_eq!(ends, 3);
}

#[tokio::test]
async fn rows_of_the_view_escape_the_markup_of_clients() {
    let daemon = TestDaemon::with(&["succeed"]).await;
    let mut stream = follow(&daemon, "?rows").await;
    let asked = json!({"project": "succeed", "group": "<img src=x>", "params": {"x": "</td><script>\u{202e}"}});
    let id = text(&daemon.build(asked).await, "ID").to_owned();
    let is_over = |event: &Event| event.name == "row" && event.json()["State"] == "ready";
    let row = stream.until(is_over).await.pop().unwrap().json();
    assert_eq!(
        (text(&row, "Project"), text(&row, "ID")),
        ("succeed", id.as_str())
    );
    let html = text(&row, "Row");
    assert!(
        html.starts_with("<tr ") && html.contains("succeeded"),
        "{html}"
    );
    assert!(
        !html.contains("<img") && !html.contains("<script"),
        "{html}"
    );
    assert_eq!(html.matches("</td>").count(), 7);
    assert!(html.contains("&#60;U+202E&#62;"), "{html}");
}
