//! Garbage collection by rules and on request, never of a build that is needed: linked, pinned, being
//! read, running or used a moment ago. A dry run reports what a run does.

use std::fs::File;
use std::path::Path;
use std::time::{Duration, SystemTime};

use mistry::policy::Policy;
use mistry::web::{Scope, Token};
use serde_json::{Value, json};

use crate::support::{
    daemon::{Home, TestDaemon, job, names, text},
    http::{Ask, within},
};

const DAY: u64 = 24 * 3600;

/// A build of this long ago: its directory says when it was used last.
pub fn age(directory: &Path, days: u64) {
    let then = SystemTime::now() - Duration::from_secs(days * DAY);
    File::open(directory).unwrap().set_modified(then).unwrap();
}

/// Builds `n` of the fixture `succeed`, settled, used that many days ago.
pub async fn build(daemon: &TestDaemon, n: u64, days: u64) -> String {
    let info = daemon
        .build(json!({"project": "succeed", "params": {"n": n.to_string()}}))
        .await;
    let id = text(&info, "ID").to_owned();
    settled(&daemon.home, "succeed", &id).await;
    age(&daemon.home.build("succeed", "ready", &id), days);
    id
}

/// The daemon's bookkeeping of a build, once its size is measured: after the answer.
pub async fn settled(home: &Home, project: &str, id: &str) -> Value {
    let record = home.build(project, "ready", id).join("build_info.json");
    within("the measure of a build", async {
        loop {
            let text = std::fs::read(&record).unwrap_or_default();
            let found: Value = serde_json::from_slice(&text).unwrap_or_default();
            if found["Bookkeeping"]["Durable"] == true {
                return found["Bookkeeping"].clone();
            }
            tokio::task::yield_now().await;
        }
    })
    .await
}

fn delete(path: String) -> Ask {
    Ask::new("DELETE", path).with("content-type", "application/json")
}

fn put(path: String) -> Ask {
    Ask::new("PUT", path).with("content-type", "application/json")
}

/// The ids of removed builds, and why.
pub fn gone(answer: &Value) -> Vec<(&str, &str)> {
    let removed = answer["Removed"].as_array().unwrap();
    removed
        .iter()
        .map(|removed| (text(removed, "ID"), text(removed, "Why")))
        .collect()
}

async fn gc(daemon: &TestDaemon, rules: Value) -> Value {
    daemon.post("/gc", &rules).await.expect(200).json()
}

#[tokio::test]
async fn a_dry_run_reports_what_a_run_then_does() {
    let daemon = TestDaemon::with(&["succeed"]).await;
    let old = build(&daemon, 1, 9).await;
    let older = build(&daemon, 2, 10).await;
    let young = build(&daemon, 3, 1).await;
    let linked = build(&daemon, 4, 20).await;
    let rules = |dry| json!({"dry_run": dry, "max_age": "7d"});
    let dry = gc(&daemon, rules(true)).await;
    let expected = [(older.as_str(), "max_age"), (old.as_str(), "max_age")];
    assert_eq!(gone(&dry), expected);
    assert_eq!((&dry["DryRun"], &dry["Kept"]), (&json!(true), &json!(2)));
    assert!(dry["Bytes"].as_u64().unwrap() > 0, "{dry}");
    assert_eq!(daemon.home.ids("succeed", "ready").len(), 4);

    let done = gc(&daemon, rules(false)).await;
    assert_eq!(done["Removed"], dry["Removed"]);
    for key in ["Bytes", "Kept", "KeptBytes"] {
        assert_eq!(done[key], dry[key], "{key}");
    }
    let mut left = vec![young, linked.clone()];
    left.sort();
    assert_eq!(daemon.home.ids("succeed", "ready"), left);
    assert!(names(&daemon.home.builds().join(".mistry/trash")).is_empty());
    daemon.get(format!("/job/succeed/{old}")).await.expect(404);
    let index = daemon.get("/index/").await.json();
    assert_eq!(index.as_array().unwrap().len(), 2);
    assert_eq!(daemon.metric("mistry_builds_removed", "").await, 2.0);
    // Asked for again, it is built anew.
    let again = daemon
        .build(json!({"project": "succeed", "params": {"n": "1"}}))
        .await;
    assert_eq!(again["Cached"], false);
    // Now it is the latest, and the latest before may be removed.
    let done = gc(&daemon, rules(false)).await;
    assert_eq!(gone(&done), [(linked.as_str(), "max_age")]);
}

#[tokio::test]
async fn sizes_are_measured_and_the_oldest_builds_are_removed_to_free_bytes() {
    let daemon = TestDaemon::builder()
        .await
        .script("big", "head -c 1000000 /dev/zero > $D/artifacts/zeros")
        .start()
        .await;
    let mut ids = Vec::new();
    for n in 0..3 {
        let params = json!({"n": n.to_string()});
        let info = daemon
            .build(json!({"project": "big", "params": params}))
            .await;
        let id = text(&info, "ID").to_owned();
        let keep = settled(&daemon.home, "big", &id).await;
        let bytes = keep["Bytes"].as_u64().unwrap();
        assert!((1_000_000..1_200_000).contains(&bytes), "{keep}");
        assert_eq!(
            (&keep["Own"], &info["Base"]),
            (&keep["Bytes"], &Value::Null)
        );
        age(&daemon.home.build("big", "ready", &id), 30 - n);
        ids.push(id);
    }
    let all = gc(&daemon, json!({"max_bytes": "2500000", "dry_run": true})).await;
    assert_eq!(gone(&all), [(ids[0].as_str(), "max_bytes")]);
    // The last one is linked, and the answer says how much is missing.
    let all = gc(
        &daemon,
        json!({"max_bytes": 0, "keep_last": 0, "dry_run": true}),
    )
    .await;
    assert_eq!(all["Removed"].as_array().unwrap().len(), 2);
    assert_eq!(all["Short"], all["KeptBytes"]);
    let all = gc(&daemon, json!({"max_bytes": 0, "keep_last": 2})).await;
    assert_eq!(gone(&all), [(ids[0].as_str(), "max_bytes")]);
    let all = gc(&daemon, json!({"min_free": "9000T", "dry_run": true})).await;
    assert_eq!(gone(&all), [(ids[1].as_str(), "min_free")]);
    assert!(all["Short"].as_u64().unwrap() > 1 << 40);
}

#[tokio::test]
async fn what_is_pinned_stays_and_may_be_let_go() {
    let mut daemon = TestDaemon::with(&["succeed"]).await;
    let id = build(&daemon, 1, 9).await;
    build(&daemon, 2, 0).await;
    let pin = format!("/job/succeed/{id}/pin");
    for _ in 0..2 {
        daemon.ask(put(pin.clone())).await.expect(204);
    }
    let shown = daemon.get(format!("/job/succeed/{id}")).await.json();
    assert_eq!(shown["Pinned"], true);
    assert_eq!(gone(&gc(&daemon, json!({"max_age": "1d"})).await), []);
    daemon
        .ask(delete(format!("/job/succeed/{id}")).json())
        .await
        .expect(409);
    // The pin outlives the daemon.
    daemon.stop().await;
    daemon.start_again().await;
    assert_eq!(gone(&gc(&daemon, json!({"max_age": "1d"})).await), []);
    for _ in 0..2 {
        daemon.ask(delete(pin.clone())).await.expect(204);
    }
    let shown = daemon.get(format!("/job/succeed/{id}")).await.json();
    assert_eq!(shown["Pinned"], false);
    let done = gc(&daemon, json!({"max_age": "1d"})).await;
    assert_eq!(gone(&done), [(id.as_str(), "max_age")], "{done}");
    // Unknown and removed builds cannot be pinned.
    daemon.ask(put(pin.clone())).await.expect(404);
    daemon.ask(delete(pin)).await.expect(404);
    let pins = daemon.home.builds().join(".mistry/pins");
    std::fs::write(pins.join(format!("succeed-{id}")), "").unwrap();
    std::fs::write(pins.join("foreign"), "").unwrap();
    gc(&daemon, json!({"max_age": "1d"})).await;
    assert_eq!(names(&pins), ["foreign"]);
}

#[tokio::test]
async fn what_is_read_or_was_just_used_stays() {
    let daemon = TestDaemon::builder()
        .await
        // More than a connection and its buffers hold.
        .script("big", "head -c 30000000 /dev/zero > $D/artifacts/zeros")
        .fixture("succeed")
        .start()
        .await;
    let info = daemon.build(json!({"project": "big"})).await;
    let id = text(&info, "ID").to_owned();
    settled(&daemon.home, "big", &id).await;
    daemon
        .build(json!({"project": "big", "params": {"n": "1"}}))
        .await;
    let place = daemon.home.build("big", "ready", &id);
    let reading = daemon.open(Ask::get(format!("/artifacts/big/{id}"))).await;
    age(&place, 9);
    let passed = gc(&daemon, json!({"max_age": "1d"})).await;
    assert_eq!((gone(&passed), &passed["Passed"]), (vec![], &json!(1)));
    daemon
        .ask(delete(format!("/job/big/{id}")))
        .await
        .expect(409);
    // It is read to its end: no byte of it was removed.
    let tar = reading.whole().await;
    assert!(tar.body.len() > 30_000_000);
    within("the end of the lease", async {
        while gone(&gc(&daemon, json!({"max_age": "1d"})).await).is_empty() {
            tokio::task::yield_now().await;
        }
    })
    .await;

    // A cached answer and a look at the artifacts are uses.
    let id = build(&daemon, 1, 9).await;
    build(&daemon, 2, 0).await;
    let cached = daemon
        .build(json!({"project": "succeed", "params": {"n": "1"}}))
        .await;
    assert_eq!(cached["Cached"], true);
    assert_eq!(gone(&gc(&daemon, json!({"max_age": "1d"})).await), []);
    age(&daemon.home.build("succeed", "ready", &id), 9);
    daemon
        .get(format!("/artifacts/succeed/{id}/"))
        .await
        .expect(200);
    assert_eq!(gone(&gc(&daemon, json!({"max_age": "1d"})).await), []);
    // No rule removes a build that was used a moment ago.
    assert_eq!(gone(&gc(&daemon, json!({"max_age": "1ms"})).await), []);
}

/// The request with an admin token.
fn known(ask: Ask) -> Ask {
    ask.with("authorization", "Bearer root-secret")
}

#[tokio::test]
async fn readers_without_a_token_keep_no_build_when_space_is_low() {
    let token = Token::of("root", vec![Scope::Admin], "root-secret");
    let builder = TestDaemon::builder().await.tokens(format!("{token}\n"));
    let daemon = builder.fixture("succeed").start().await;
    let mut ids = Vec::new();
    for n in 1..=4 {
        let job = json!({"project": "succeed", "params": {"n": n.to_string()}});
        let info = daemon.ask(known(Ask::post("/jobs", &job))).await;
        let id = text(&info.expect(201).json(), "ID").to_owned();
        settled(&daemon.home, "succeed", &id).await;
        age(&daemon.home.build("succeed", "ready", &id), 1);
        ids.push(id);
    }
    for id in &ids {
        let at = format!("/artifacts/succeed/{id}");
        for ask in [
            Ask::get(at.clone()),
            Ask::get(format!("{at}?manifest")),
            Ask::get(format!("{at}/")),
            Ask::get(format!("{at}/n")),
        ] {
            daemon.ask(ask).await.expect(200);
        }
    }
    // Known clients do, in each of these ways.
    let at = format!("/artifacts/succeed/{}/n", ids[1]);
    daemon.ask(known(Ask::get(at))).await.expect(200);
    // More than any disk has, so that every removable build is removed.
    let rules = Ask::post("/gc", &json!({"min_free": "1024T"}));
    let done = daemon.ask(known(rules)).await.expect(200).json();
    let expected = [&ids[0], &ids[2]].map(|id| (id.as_str(), "min_free"));
    assert_eq!(gone(&done), expected);
}

#[tokio::test]
async fn answers_without_a_body_do_not_count_as_use() {
    let daemon = TestDaemon::with(&["succeed"]).await;
    let id = build(&daemon, 1, 9).await;
    build(&daemon, 2, 0).await;
    let at = format!("/artifacts/succeed/{id}/n");
    let etag = daemon.get(at.clone()).await.expect(200);
    let etag = etag.header("etag").to_owned();
    age(&daemon.home.build("succeed", "ready", &id), 9);
    for (ask, status) in [
        (Ask::new("HEAD", at.clone()), 200),
        (Ask::get(format!("{at}/nothing")), 404),
        (
            Ask::get(format!("/artifacts/succeed/{id}?sparse=maybe")),
            400,
        ),
        (Ask::get(at.clone()).with("if-none-match", etag), 304),
        (Ask::get(at.clone()).with("if-match", "\"other\""), 412),
        (Ask::get(at.clone()).with("range", "bytes=100000-"), 416),
    ] {
        daemon.ask(ask).await.expect(status);
    }
    let dry = json!({"dry_run": true, "max_age": "1d"});
    let expected = [(id.as_str(), "max_age")];
    assert_eq!(gone(&gc(&daemon, dry.clone()).await), expected);
    daemon
        .ask(Ask::get(at).with("range", "bytes=0-0"))
        .await
        .expect(206);
    assert_eq!(gone(&gc(&daemon, dry).await), []);
}

#[tokio::test]
async fn bases_of_groups_and_what_is_under_way_stay() {
    let daemon = TestDaemon::with(&["succeed", "exit-code"]).await;
    let of = |group: &str, n: u64| json!({"project": "succeed", "group": group, "params": {"n": n.to_string()}});
    let mut ids = Vec::new();
    for n in 0..2 {
        let info = daemon.build(of("g/1", n)).await;
        let id = text(&info, "ID").to_owned();
        let keep = settled(&daemon.home, "succeed", &id).await;
        let base = ids.last().cloned().map_or(Value::Null, Value::String);
        assert!(keep["Own"].is_u64());
        assert_eq!(info["Base"], base);
        age(&daemon.home.build("succeed", "ready", &id), 9);
        ids.push(id);
    }
    // A link of the first mistry is absolute.
    let links = daemon.home.builds().join("succeed/groups");
    let other = text(&daemon.build(of("", 5)).await, "ID").to_owned();
    build(&daemon, 6, 0).await;
    age(&daemon.home.build("succeed", "ready", &other), 9);
    let target = daemon.home.build("succeed", "ready", &other);
    std::os::unix::fs::symlink(target, links.join("old")).unwrap();

    let failed = text(&daemon.build(job("exit-code")).await, "ID").to_owned();
    settled(&daemon.home, "exit-code", &failed).await;
    age(&daemon.home.build("exit-code", "ready", &failed), 9);
    daemon.home.engine.hold("wait");
    let before = daemon.home.engine.count("wait");
    let again = daemon.submit(job("exit-code")).await;
    assert_eq!(again, failed);
    daemon.home.engine.wait_for("wait", before + 1).await;

    let done = gc(&daemon, json!({"max_age": "1d"})).await;
    assert_eq!(gone(&done), [(ids[0].as_str(), "max_age")]);
    for (project, id, word) in [
        ("exit-code", &failed, "not over"),
        ("succeed", &ids[1], "it is the base of group"),
        ("succeed", &other, "without a group"),
    ] {
        let refused = daemon.ask(delete(format!("/job/{project}/{id}"))).await;
        let refused = refused.expect(409).text();
        assert!(refused.contains(word), "{refused}");
    }
    daemon.home.engine.release("wait");
    daemon.wait("exit-code", &failed).await;
}

#[tokio::test]
async fn a_build_may_be_removed_by_its_id() {
    let daemon = TestDaemon::with(&["succeed", "exit-code"]).await;
    let id = build(&daemon, 1, 0).await;
    build(&daemon, 2, 0).await;
    let path = format!("/job/succeed/{id}");
    daemon
        .ask(delete(path.clone()).without("content-type"))
        .await
        .expect(415);
    daemon.ask(delete(path.clone())).await.expect(204);
    daemon.ask(delete(path.clone())).await.expect(404);
    daemon.get(path).await.expect(404);
    assert!(!daemon.home.build("succeed", "ready", &id).exists());
    let failed = text(&daemon.build(job("exit-code")).await, "ID").to_owned();
    daemon
        .ask(delete(format!("/job/exit-code/{failed}")))
        .await
        .expect(204);
    assert!(daemon.home.ids("exit-code", "ready").is_empty());
    let put = Ask::new("PUT", "/job/exit-code/x").with("content-type", "application/json");
    let refused = daemon.ask(put).await.expect(405);
    assert_eq!(refused.header("allow"), "GET, HEAD, DELETE, OPTIONS");
}

#[tokio::test]
async fn torn_builds_and_failed_rebuilds_go_and_foreign_things_stay() {
    let daemon = TestDaemon::with(&["succeed"]).await;
    let kept = build(&daemon, 1, 0).await;
    let ready = daemon.home.builds().join("succeed/ready");
    let (torn, young) = ("a".repeat(64), "b".repeat(64));
    for (id, days) in [(&torn, 2), (&young, 0)] {
        std::fs::create_dir_all(ready.join(id).join("data")).unwrap();
        std::fs::write(ready.join(id).join("build_info.json"), "{").unwrap();
        age(&ready.join(id), days);
    }
    std::fs::create_dir(ready.join("mine")).unwrap();
    std::os::unix::fs::symlink("/", ready.join("c".repeat(64))).unwrap();
    let failed = daemon.home.build("succeed", "failed", &kept);
    std::fs::create_dir_all(&failed).unwrap();
    std::fs::copy(
        ready.join(&kept).join("build_info.json"),
        failed.join("build_info.json"),
    )
    .unwrap();
    age(&failed, 9);
    // A link in the place of one of our directories is not followed.
    let data = ready.join(&torn).join("data");
    std::fs::remove_dir(&data).unwrap();
    let precious = daemon.home.path("precious");
    std::fs::create_dir(&precious).unwrap();
    std::fs::write(precious.join("file"), "").unwrap();
    std::os::unix::fs::symlink(&precious, &data).unwrap();
    age(&ready.join(&torn), 2);

    let done = gc(&daemon, json!({"max_age": "7d", "min_free": "1"})).await;
    let expected = [(torn.as_str(), "torn"), (kept.as_str(), "max_age")];
    assert_eq!(gone(&done), expected);
    assert_eq!(done["Removed"][1]["Place"], "failed");
    let left = names(&ready);
    assert_eq!(left.len(), 4, "{left:?}");
    assert!(left.contains(&kept) && left.contains(&young), "{left:?}");
    assert_eq!(names(&precious), ["file"]);
}

#[tokio::test]
async fn what_cannot_be_read_is_named() {
    let daemon = TestDaemon::with(&[]).await;
    for (body, status, word) in [
        (json!({"colour": 1}), 400, "colour"),
        (json!({"max_age": 7}), 400, "max_age: "),
        (json!({"max_age": "7"}), 400, "max_age: "),
        (json!({"MAX_BYTES": "much"}), 400, "max_bytes: "),
        (json!({"min_free": -1}), 400, "min_free: "),
        (json!({"keep_last": "x"}), 400, "keep_last: "),
        (json!([1]), 400, "object"),
        (json!({}), 422, "max_age, max_bytes or min_free"),
        (json!({"keep_last": 3, "dry_run": true}), 422, "max_age"),
    ] {
        let answer = daemon.post("/gc", &body).await.expect(status).text();
        assert!(answer.contains(word), "{body}: {answer}");
    }
    let id = "0".repeat(64);
    for path in [format!("/job/p/{id}"), format!("/job/p/{id}/pin")] {
        daemon.ask(delete(path)).await.expect(404);
    }
    daemon.ask(put("/job/p/X/pin".to_owned())).await.expect(422);
    let refused = daemon.get("/gc").await.expect(405);
    assert_eq!(refused.header("allow"), "POST, OPTIONS");
}

#[tokio::test]
async fn only_an_admin_removes_anything() {
    let daemon = TestDaemon::builder()
        .await
        .tokens("")
        .fixture("succeed")
        .start()
        .await;
    let id = "0".repeat(64);
    for ask in [
        Ask::post("/gc", &json!({"max_age": "1d"})),
        delete(format!("/job/succeed/{id}")),
        put(format!("/job/succeed/{id}/pin")),
    ] {
        daemon.ask(ask).await.expect(401);
    }
}

#[tokio::test]
async fn before_a_build_space_is_freed_by_the_configured_rules() {
    let policy = Policy {
        // More than any disk has, so that every removable build is removed.
        min_free: Some(u64::MAX),
        keep_last: Some(1),
        ..Policy::default()
    };
    let daemon = TestDaemon::builder()
        .await
        .fixture("succeed")
        .gc(policy)
        .start()
        .await;
    let first = build(&daemon, 1, 9).await;
    let second = build(&daemon, 2, 8).await;
    let third = build(&daemon, 3, 7).await;
    let there = daemon.home.ids("succeed", "ready");
    // After a collection that frees nothing, the next is not tried at once.
    assert_eq!(there.len(), 3, "{there:?}");
    // The configured rules are those of a request that gives none.
    let done = gc(&daemon, json!({})).await;
    let expected = [(first.as_str(), "min_free"), (second.as_str(), "min_free")];
    assert_eq!(gone(&done), expected);
    assert_eq!(daemon.home.ids("succeed", "ready"), [third]);
}

#[tokio::test]
async fn a_build_that_finds_too_little_space_frees_it() {
    let builder = TestDaemon::builder().await.fixture("succeed");
    let mut daemon = builder.start().await;
    let first = build(&daemon, 1, 9).await;
    let second = build(&daemon, 2, 8).await;
    daemon.stop().await;
    daemon.collect_by(Policy {
        min_free: Some(u64::MAX),
        ..Policy::default()
    });
    daemon.start_again().await;
    let third = build(&daemon, 3, 0).await;
    let mut left = vec![second, third];
    left.sort();
    // Every removable build is removed, and the new one is built.
    assert_eq!(daemon.home.ids("succeed", "ready"), left);
    assert!(!daemon.home.build("succeed", "ready", &first).exists());
}
