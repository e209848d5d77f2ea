//! The log of a build reaches all followers: from the first byte, while it is written, after a
//! disconnect without gap or repeat, to its end; and no slow reader delays a build.

use std::path::PathBuf;

use serde_json::{Value, json};

use crate::support::{
    daemon::{TestDaemon, job, text},
    http::{Ask, Event, Opened, header},
};

fn lines(events: &[Event]) -> Vec<&str> {
    let logs = events.iter().filter(|event| event.name == "log");
    logs.map(|event| event.data.as_str()).collect()
}

fn log(project: &str, id: &str) -> Ask {
    Ask::get(format!("/log/{project}/{id}")).with("accept", "text/event-stream")
}

/// Lets a build of the fixture `slow`, which is at its gate, go on to its end.
async fn open_gate(daemon: &TestDaemon, project: &str, id: &str) {
    let gate = daemon.home.build(project, "pending", id).join("data/gate");
    tokio::task::spawn_blocking(move || std::fs::write(gate, "").unwrap())
        .await
        .unwrap();
}

/// A `slow` build that waits at its gate, and a follower that has seen it do so.
async fn at_the_gate(daemon: &TestDaemon) -> (String, Opened, Vec<Event>) {
    let id = daemon.submit(job("slow")).await;
    let mut follower = daemon.open(log("slow", &id)).await;
    let seen = follower.until(|event| event.data == "waiting").await;
    (id, follower, seen)
}

#[tokio::test]
async fn a_follower_gets_all_from_the_first_byte_as_it_is_printed_and_then_the_end() {
    let daemon = TestDaemon::with(&["slow"]).await;
    let (id, follower, seen) = at_the_gate(&daemon).await;
    assert_eq!(follower.status, 200);
    assert!(header(&follower.headers, "content-type").starts_with("text/event-stream"));
    // It runs still, and what was printed is there already: the image's steps, too.
    assert_eq!(daemon.info("slow", &id).await["State"], "pending");
    assert!(seen[0].data.starts_with("Step 1/"), "{seen:?}");
    open_gate(&daemon, "slow", &id).await;
    let rest = follower.events().await;
    assert_eq!(lines(&rest), ["released"]);
    let end = rest.last().unwrap();
    assert_eq!(end.name, "end");
    assert_eq!(
        end.json(),
        json!({ "State": "ready", "Outcome": "succeeded", "ExitCode": 0 })
    );
    // A later follower gets the same.
    let later = daemon.open(log("slow", &id)).await.events().await;
    assert_eq!(later, [seen, rest].concat());
}

#[tokio::test]
async fn it_can_be_followed_while_it_is_queued() {
    let daemon = TestDaemon::builder().await.slots(1).backlog(1);
    let daemon = daemon.fixture("slow").fixture("succeed").start().await;
    let (slow, ..) = at_the_gate(&daemon).await;
    let id = daemon.submit(job("succeed")).await;
    assert_eq!(daemon.info("succeed", &id).await["Phase"], "queued");
    let follower = daemon.open(log("succeed", &id)).await;
    assert_eq!(follower.status, 200);
    let whole = Ask::get(format!("/log/succeed/{id}")).with("accept", "text/plain");
    assert_eq!(daemon.ask(whole).await.expect(200).text(), "");
    open_gate(&daemon, "slow", &slow).await;
    let events = follower.events().await;
    assert_eq!(*lines(&events).last().unwrap(), "run 1");
    assert_eq!(events.last().unwrap().name, "end");
}

#[tokio::test]
async fn a_follower_that_reconnects_continues_without_gap_or_repeat() {
    let daemon = TestDaemon::with(&["slow", "output"]).await;
    let (id, follower, seen) = at_the_gate(&daemon).await;
    drop(follower);
    let last = seen.last().unwrap().id.unwrap();
    let again = daemon
        .open(log("slow", &id).with("last-event-id", last.to_string()))
        .await;
    open_gate(&daemon, "slow", &id).await;
    let rest = again.events().await;
    assert_eq!(lines(&rest), ["released"]);
    // From each event of a finished log on.
    let id = text(&daemon.build(job("output")).await, "ID").to_owned();
    let all = daemon.open(log("output", &id)).await.events().await;
    let logs: Vec<_> = all.iter().filter(|event| event.name == "log").collect();
    for (at, event) in logs.iter().enumerate() {
        let after = log("output", &id).with("last-event-id", event.id.unwrap().to_string());
        let stream = daemon.open(after).await;
        if at + 1 == logs.len() {
            assert_eq!(stream.status, 204, "nothing comes any more");
        } else {
            assert_eq!(stream.events().await, all[at + 1..]);
        }
    }
    for wrong in ["x", "-1", "1.5", ""] {
        let ask = log("output", &id).with("last-event-id", wrong);
        assert_eq!(daemon.ask(ask).await.status, 400, "{wrong}");
    }
    let beyond = log("output", &id).with("last-event-id", "99999999");
    assert_eq!(daemon.ask(beyond).await.status, 204);
}

#[tokio::test]
async fn a_log_keeps_its_name_to_its_end_and_another_is_not_taken_for_it() {
    let daemon = TestDaemon::with(&["slow"]).await;
    let (id, follower, _) = at_the_gate(&daemon).await;
    let path = format!("/log/slow/{id}");
    let live = daemon.ask(Ask::get(format!("{path}?lines"))).await;
    let name = live.expect(200).header("mistry-log").to_owned();
    open_gate(&daemon, "slow", &id).await;
    follower.events().await;
    for query in ["lines", "times", "find=released", "text", "text&follow"] {
        let ask = || Ask::get(format!("{path}?{query}"));
        let same = daemon.ask(ask().with("mistry-log", &name)).await;
        assert_eq!(same.expect(200).header("mistry-log"), name, "{query}");
        daemon
            .ask(ask().with("mistry-log", "another"))
            .await
            .expect(412);
    }
    let part = Ask::get(format!("{path}?text")).with("range", "bytes=0-3");
    let part = daemon.ask(part.with("mistry-log", &name)).await;
    assert_eq!(part.expect(206).header("mistry-log"), name);
    // A client gets no error about a part of a log that it did not ask for.
    let beyond = Ask::get(format!("{path}?text")).with("range", "bytes=99999-");
    daemon
        .ask(beyond.with("mistry-log", "another"))
        .await
        .expect(412);
}

#[tokio::test]
async fn text_is_byte_for_byte_with_ranges() {
    let daemon = TestDaemon::with(&["output"]).await;
    let id = text(&daemon.build(job("output")).await, "ID").to_owned();
    let file = daemon.home.build("output", "ready", &id).join("out.log");
    let bytes = std::fs::read(file).unwrap();
    let path = format!("/log/output/{id}");
    let plain = || Ask::get(&path).with("accept", "text/plain");
    let whole = daemon.ask(plain()).await.expect(200);
    assert!(whole.body == bytes);
    assert!(whole.header("content-type").starts_with("text/plain"));
    assert_eq!(whole.header("content-length"), bytes.len().to_string());
    assert!(
        daemon
            .ask(Ask::get(format!("{path}?text")))
            .await
            .expect(200)
            .body
            == bytes
    );
    let end = bytes.len();
    for (range, from, to) in [
        ("bytes=0-9".to_owned(), 0, 10),
        ("bytes=5-".to_owned(), 5, end),
        ("bytes=-7".to_owned(), end - 7, end),
        (format!("bytes=3-{}", end + 1000), 3, end),
    ] {
        let part = daemon.ask(plain().with("range", &range)).await.expect(206);
        assert!(part.body == bytes[from..to], "{range}");
        assert_eq!(
            part.header("content-range"),
            format!("bytes {from}-{}/{end}", to - 1)
        );
    }
    let beyond = daemon
        .ask(plain().with("range", format!("bytes={end}-")))
        .await
        .expect(416);
    assert_eq!(beyond.header("content-range"), format!("bytes */{end}"));
    for nonsense in [
        "bytes=x-y",
        "lines=1-2",
        "bytes=",
        "bytes=0-1,4-5",
        "0-1",
        "bytes=1",
    ] {
        let answer = daemon.ask(plain().with("range", nonsense)).await;
        assert!(
            matches!(answer.status, 200 | 416),
            "{nonsense}: {}",
            answer.status
        );
    }
}

#[tokio::test]
async fn text_is_followed_to_the_end_where_that_is_asked() {
    let daemon = TestDaemon::with(&["slow"]).await;
    let (id, ..) = at_the_gate(&daemon).await;
    let path = format!("/log/slow/{id}");
    let so_far = daemon
        .ask(Ask::get(&path).with("accept", "text/plain"))
        .await
        .expect(200);
    assert!(so_far.text().ends_with("waiting\n"));
    let mut follower = daemon
        .open(Ask::get(format!("{path}?follow")).with("accept", "text/plain"))
        .await;
    let mut seen = Vec::new();
    while !seen.ends_with(b"waiting\n") {
        seen.extend_from_slice(&follower.piece().await.unwrap());
    }
    assert!(seen == so_far.body);
    open_gate(&daemon, "slow", &id).await;
    assert_eq!(follower.whole().await.text(), "released\n");
}

#[tokio::test]
async fn what_is_no_text_is_replaced_in_events_and_nothing_can_forge_one() {
    let daemon = TestDaemon::with(&["output"]).await;
    let info = daemon.build(job("output")).await;
    let events = daemon
        .open(log("output", text(&info, "ID")))
        .await
        .events()
        .await;
    let lines = lines(&events);
    for line in [
        "to standard output",
        "to standard error",
        "not utf-8: \u{fffd}\u{fffd} end",
        "progress 10%\nprogress 100%",
        "umlaut: ä",
        "",
        "data: an event of my own",
        "\u{1b}[31mred\u{1b}[0m",
        "the last line has no newline",
    ] {
        // The two streams meet in an order of their own, even within a line.
        let there = lines.iter().any(|there| there.contains(line));
        assert!(there, "{line:?}: {lines:?}");
    }
    assert_eq!(events.iter().filter(|event| event.name == "end").count(), 1);
    assert!(text(&info, "ContainerStdouterr").contains("not utf-8: \u{fffd}\u{fffd} end\n"));
    // As printed, without a space before it.
    assert!(text(&info, "ContainerStdouterr").contains("\nto standard output\n"));
}

#[tokio::test]
async fn a_line_of_megabytes_is_sent_complete_and_in_bounded_pieces() {
    let daemon = TestDaemon::with(&["big-line"]).await;
    let size = 5_000_000;
    let asked = json!({ "project": "big-line", "params": { "size": size.to_string() } });
    let info = daemon.build(asked).await;
    // An answer holds the end of the log only.
    assert!(text(&info, "ContainerStdouterr").len() <= 64 << 10);
    assert!(text(&info, "ContainerStdouterr").ends_with("x\nafter\n"));
    let events = daemon
        .open(log("big-line", text(&info, "ID")))
        .await
        .events()
        .await;
    let lines = lines(&events);
    assert!(lines.iter().all(|line| line.len() <= 64 << 10));
    let long: usize = lines
        .iter()
        .filter(|line| line.starts_with('x'))
        .map(|line| line.len())
        .sum();
    assert_eq!(long, size);
    assert_eq!(*lines.last().unwrap(), "after");
    assert_eq!(events.last().unwrap().name, "end");
}

#[tokio::test]
async fn a_follower_that_does_not_read_blocks_nothing() {
    let daemon = TestDaemon::with(&["big-line", "succeed"]).await;
    daemon.home.engine.hold("start");
    let asked = json!({ "project": "big-line", "params": { "size": "20000000" } });
    let id = daemon.submit(asked).await;
    // These never read a byte of their streams.
    let idle = [
        daemon.open(log("big-line", &id)).await,
        daemon.open(log("big-line", &id)).await,
        daemon
            .open(Ask::get(format!("/log/big-line/{id}?follow&text")))
            .await,
    ];
    daemon.home.engine.wait_for("start", 1).await;
    daemon.home.engine.release("start");
    let info = daemon.wait("big-line", &id).await;
    assert_eq!(info["Outcome"], "succeeded");
    assert_eq!(daemon.build(job("succeed")).await["ExitCode"], 0);
    let [one, ..] = idle;
    let whole = one.whole().await.body;
    let end = String::from_utf8_lossy(&whole[whole.len() - 200..]).into_owned();
    assert!(end.contains("event: end\n"), "{end}");
}

#[tokio::test]
async fn many_followers_of_one_build_each_get_all_of_it() {
    let daemon = TestDaemon::with(&["slow"]).await;
    let (id, first, seen) = at_the_gate(&daemon).await;
    let mut followers = vec![];
    for _ in 0..8 {
        followers.push(daemon.open(log("slow", &id)).await);
    }
    // One leaves in the middle.
    drop(followers.pop());
    open_gate(&daemon, "slow", &id).await;
    let all = [seen, first.events().await].concat();
    for follower in followers {
        assert_eq!(follower.events().await, all);
    }
}

#[tokio::test]
async fn the_log_of_a_failed_and_of_a_broken_build_ends_with_the_reason() {
    let daemon = TestDaemon::with(&["exit-code", "bad-dockerfile"]).await;
    let failed = text(&daemon.build(job("exit-code")).await, "ID").to_owned();
    let answer = daemon
        .post("/jobs", &job("bad-dockerfile"))
        .await
        .expect(500);
    let broken = text(&answer.json(), "job").to_owned();
    for (project, id, outcome, code) in [
        ("exit-code", failed, "failed", 3),
        ("bad-dockerfile", broken, "errored", -999),
    ] {
        let events = daemon.open(log(project, &id)).await.events().await;
        let end: Value = events.last().unwrap().json();
        assert_eq!(
            end,
            json!({ "State": "ready", "Outcome": outcome, "ExitCode": code })
        );
    }
}

#[tokio::test]
async fn a_log_that_was_removed_is_404_and_the_build_is_still_served() {
    let daemon = TestDaemon::with(&["succeed"]).await;
    let info = daemon.build(job("succeed")).await;
    let id = text(&info, "ID");
    let file: PathBuf = daemon.home.build("succeed", "ready", id).join("out.log");
    std::fs::remove_file(file).unwrap();
    assert_eq!(daemon.ask(log("succeed", id)).await.status, 404);
    let cached = daemon.build(job("succeed")).await;
    assert_eq!(
        (&cached["Cached"], text(&cached, "ContainerStdouterr")),
        (&json!(true), "")
    );
    daemon.get(format!("/job/succeed/{id}")).await.expect(200);
}

#[tokio::test]
async fn the_offsets_of_lines_are_known_for_finished_and_growing_logs() {
    let daemon = TestDaemon::with(&["slow", "big-line"]).await;
    let asked = json!({ "project": "big-line", "params": { "size": "300000" } });
    let id = text(&daemon.build(asked).await, "ID").to_owned();
    let file = daemon.home.build("big-line", "ready", &id).join("out.log");
    let bytes = std::fs::read(file).unwrap();
    let answer = daemon
        .get(format!("/log/big-line/{id}?lines"))
        .await
        .expect(200)
        .json();
    assert_eq!(answer["Length"], bytes.len());
    let breaks = bytes.iter().filter(|byte| **byte == b'\n').count();
    assert_eq!(answer["Lines"], breaks);
    // The long line is a block of its own.
    let long = bytes.windows(3).position(|three| three == b"xxx").unwrap();
    assert_eq!(answer["Offsets"], json!([0, long, long + 300_001]));
    assert_eq!(answer["Firsts"], json!([0, breaks - 2, breaks - 1]));
    assert_eq!(answer["Colours"], json!(["", "", ""]));
    // A growing log: all that its followers have.
    let (id, follower, _) = at_the_gate(&daemon).await;
    let path = format!("/log/slow/{id}?lines");
    let before = daemon.get(&path).await.expect(200).json();
    open_gate(&daemon, "slow", &id).await;
    follower.events().await;
    let after = daemon.get(&path).await.expect(200).json();
    let count = |answer: &Value, name: &str| answer[name].as_u64().unwrap();
    assert_eq!(count(&after, "Length"), count(&before, "Length") + 9);
    assert_eq!(count(&after, "Lines"), count(&before, "Lines") + 1);
    let unknown = format!("/log/slow/{}?lines", "0".repeat(64));
    daemon.get(unknown).await.expect(404);
}

#[tokio::test]
async fn a_text_is_found_in_the_lines_that_a_reader_sees() {
    let daemon = TestDaemon::with(&["output"]).await;
    let id = text(&daemon.build(job("output")).await, "ID").to_owned();
    let file = daemon.home.build("output", "ready", &id).join("out.log");
    let bytes = std::fs::read(file).unwrap();
    let path = format!("/log/output/{id}?find=");
    let find = async |text: &str| daemon.get(format!("{path}{text}")).await.expect(200).json();
    let red = find("RED").await;
    let count = usize::try_from(red["Count"].as_u64().unwrap()).unwrap();
    assert!(count >= 1, "{red}");
    assert_eq!(red["Length"], bytes.len());
    let matches = red["Matches"].as_array().unwrap();
    assert_eq!(matches.len(), count);
    for found in matches {
        let number = |name: &str| usize::try_from(found[name].as_u64().unwrap()).unwrap();
        let before = &bytes[..number("Offset")];
        let breaks = before.iter().filter(|byte| **byte == b'\n').count();
        assert_eq!(number("Line"), breaks);
        let line = bytes[number("Offset")..]
            .split(|byte| *byte == b'\n')
            .next();
        let line = String::from_utf8_lossy(line.unwrap()).to_lowercase();
        assert!(line.contains("red"), "{line:?}");
    }
    // Without colours and overwritten text.
    for unseen in ["31mred", "progress%2010%25"] {
        assert_eq!(find(unseen).await["Count"], 0, "{unseen}");
    }
    assert_eq!(find("progress%20100%25").await["Count"], 1);
    for wrong in [String::new(), "a%0Ab".to_owned(), "x".repeat(201)] {
        let refused = daemon.get(format!("{path}{wrong}")).await.expect(400);
        assert!(refused.text().contains("find: expected a text"), "{wrong}");
    }
}
