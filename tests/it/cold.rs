//! A cold build starts empty although its group has a base, is not answered from the cache, and becomes
//! the base when it succeeds: the way out of a group whose cache is bad.

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::attempts::faulty;
use crate::support::{
    daemon::{Home, TestDaemon, job, names, text},
    http::Ask,
};

/// With `v=1` it leaves a cache with which no later build succeeds.
const POISON: &str = "[ ! -e $D/cache/bad ] || { echo corrupt cache >&2; exit 1; }
    [ \"$(cat $D/params/v)\" != 1 ] || touch $D/cache/bad
    cp $D/params/v $D/artifacts/v";
const HEAD: &str = "mistry: a cold build was requested; starting empty\n";

fn poisoned(v: usize) -> Value {
    json!({ "project": "poison", "group": "main", "params": { "v": v.to_string() } })
}

fn counted(n: usize) -> Value {
    json!({ "project": "succeed", "group": "g", "params": { "n": n.to_string() } })
}

/// The same job with more keys.
fn with(mut job: Value, keys: &[&str]) -> Value {
    for key in keys {
        job[*key] = json!(true);
    }
    job
}

#[tokio::test]
async fn a_cold_build_heals_a_group_whose_cache_is_bad() {
    let daemon = TestDaemon::builder().await.script("poison", POISON);
    let daemon = daemon.start().await;
    assert_eq!(daemon.build(poisoned(1)).await["ExitCode"], 0);
    for job in [poisoned(2), with(poisoned(1), &["rebuild"]), poisoned(3)] {
        assert_eq!(daemon.build(job).await["ExitCode"], 1);
    }
    let builds = daemon.home.engine.builds().len();
    let cold = daemon.build(with(poisoned(2), &["cold"])).await;
    assert_eq!(cold["Outcome"], "succeeded", "{cold}");
    assert_eq!(
        (&cold["Cold"], &cold["Incremental"], &cold["Base"]),
        (&json!(true), &json!(false), &Value::Null)
    );
    assert!(
        text(&cold, "ContainerStdouterr").starts_with(HEAD),
        "{cold}"
    );
    assert_eq!(
        daemon.home.engine.builds().len(),
        builds,
        "the image is kept"
    );
    let next = daemon.build(poisoned(3)).await;
    assert_eq!(
        (&next["Outcome"], &next["Base"], &next["Cold"]),
        (&json!("succeeded"), &cold["ID"], &json!(false))
    );
}

#[tokio::test]
async fn a_cold_build_is_made_although_a_result_is_cached_and_replaces_it() {
    let daemon = TestDaemon::with(&["succeed"]).await;
    for n in [1, 2] {
        daemon.build(counted(n)).await;
    }
    let cold = daemon.build(with(counted(2), &["cold"])).await;
    assert_eq!(cold["Cached"], false);
    assert_eq!(daemon.artifact(&cold, ".count").await.text(), "1\n");
    let cached = daemon.build(counted(2)).await;
    assert_eq!(
        (&cached["Cached"], &cached["StartedAt"], &cached["Cold"]),
        (&json!(true), &cold["StartedAt"], &json!(true))
    );
    let next = daemon.build(counted(3)).await;
    assert_eq!(next["Base"], cold["ID"]);
    assert_eq!(daemon.artifact(&next, ".count").await.text(), "2\n");
}

#[tokio::test]
async fn a_cold_build_that_fails_leaves_the_result_and_the_base() {
    let builder = TestDaemon::builder().await;
    let flag = builder.home.path("fail");
    let lines = format!(
        "[ ! -e '{}' ] || exit 9\necho x > $D/artifacts/x",
        flag.display()
    );
    let daemon = builder.script("p", &lines).start().await;
    let job = json!({ "project": "p", "group": "g" });
    let good = daemon.build(job.clone()).await;
    std::fs::write(&flag, "").unwrap();
    let bad = daemon.build(with(job.clone(), &["cold"])).await;
    assert_eq!((&bad["ExitCode"], &bad["Cold"]), (&json!(9), &json!(true)));
    let cached = daemon.build(job).await;
    assert_eq!(
        (&cached["Cached"], &cached["StartedAt"], &cached["Cold"]),
        (&json!(true), &good["StartedAt"], &json!(false))
    );
    let groups = daemon.get("/project/p").await.json()["Groups"].clone();
    assert_eq!(groups, json!({ "g": good["ID"] }));
}

#[tokio::test]
async fn cold_and_rebuild_together_are_both() {
    let daemon = TestDaemon::with(&["succeed"]).await;
    daemon.build(counted(1)).await;
    let both = daemon.build(with(counted(2), &["cold", "rebuild"])).await;
    assert_eq!(
        (&both["Cold"], &both["Incremental"]),
        (&json!(true), &json!(false))
    );
    let builds = daemon.home.engine.builds();
    assert!(builds.len() == 2 && builds[1].nocache && builds[1].pull);
}

#[tokio::test]
async fn a_cold_request_joins_a_cold_build_only() {
    let daemon = TestDaemon::with(&["succeed"]).await;
    let engine = &daemon.home.engine;
    daemon.build(counted(1)).await;
    engine.hold("start");
    let first = daemon.asking(Ask::post("/jobs", &counted(2)));
    engine.wait_for("start", 2).await;
    let cold = with(counted(2), &["cold"]);
    let colds: Vec<_> = (0..2)
        .map(|_| daemon.asking(Ask::post("/jobs", &cold)))
        .collect();
    // Requests are looked up in the order in which they come, so those two have been.
    for _ in 0..3 {
        daemon.submit(counted(2)).await;
    }
    assert_eq!(engine.containers().len(), 2, "they wait");
    engine.release("start");
    let first = first.await.unwrap().expect(201).json();
    assert_eq!(
        (&first["Cold"], &first["Incremental"]),
        (&json!(false), &json!(true))
    );
    let mut started = Vec::new();
    for asked in colds {
        let info = asked.await.unwrap().expect(201).json();
        assert_eq!(
            (&info["ID"], &info["Cold"], &info["Cached"]),
            (&first["ID"], &json!(true), &json!(false))
        );
        assert_eq!(daemon.artifact(&info, ".count").await.text(), "1\n");
        started.push(info["StartedAt"].clone());
    }
    assert_ne!(started[0], first["StartedAt"]);
}

#[tokio::test]
async fn an_ordinary_request_joins_a_cold_build_unless_a_result_is_cached() {
    let daemon = TestDaemon::with(&["succeed"]).await;
    let engine = &daemon.home.engine;
    let old = daemon.build(counted(1)).await;
    engine.hold("start");
    let cold: Vec<_> = [1, 2]
        .map(|n| daemon.asking(Ask::post("/jobs", &with(counted(n), &["cold"]))))
        .into();
    engine.wait_for("start", 3).await;
    let cached = daemon.build(counted(1)).await;
    assert_eq!(
        (&cached["Cached"], &cached["StartedAt"]),
        (&json!(true), &old["StartedAt"])
    );
    let joining = daemon.asking(Ask::post("/jobs", &counted(2)));
    daemon
        .until_metric("mistry_builds_coalesced", "succeed", 1.0)
        .await;
    engine.release("start");
    let joined = joining.await.unwrap().expect(201).json();
    assert_eq!(
        (&joined["Coalesced"], &joined["Cold"]),
        (&json!(true), &json!(true))
    );
    for asked in cold {
        asked.await.unwrap().expect(201);
    }
}

#[tokio::test]
async fn a_cold_build_that_waits_over_a_restart_is_still_cold() {
    let mut daemon = TestDaemon::with(&["succeed"]).await;
    let first = daemon.build(counted(1)).await;
    daemon.post("/queue/pause", &json!({})).await.expect(204);
    let id = daemon.submit(with(counted(1), &["cold"])).await;
    let new = daemon.submit(with(counted(2), &["cold"])).await;
    daemon.stop().await;
    daemon.start_again().await;
    daemon.post("/queue/resume", &json!({})).await.expect(204);
    for id in [id, new] {
        let info = daemon.wait("succeed", &id).await;
        assert_eq!(
            (&info["Cold"], &info["Incremental"], &info["Outcome"]),
            (&json!(true), &json!(false), &json!("succeeded"))
        );
        assert_ne!(info["StartedAt"], first["StartedAt"]);
        assert_eq!(daemon.artifact(&info, ".count").await.text(), "1\n");
    }
}

#[tokio::test]
async fn a_cold_build_that_runs_over_a_restart_becomes_the_base() {
    let script = "mkfifo $D/gate\n[ -e $D/cache/x ] && exit 5\necho waiting\nread -r code < $D/gate\n\
        touch $D/artifacts/x $D/cache/x";
    let daemon = TestDaemon::builder().await.script("gated", script);
    let mut daemon = daemon.start().await;
    let job = |n: &str| json!({ "project": "gated", "group": "g", "params": { "n": n } });
    let mut last = String::new();
    for (n, is_cold) in [("1", false), ("2", true)] {
        let job = if is_cold {
            with(job(n), &["cold"])
        } else {
            job(n)
        };
        last = daemon.submit(job).await;
        let mut log = daemon.open(Ask::get(format!("/log/gated/{last}"))).await;
        log.until(|event| event.data == "waiting").await;
        if is_cold {
            daemon.stop().await;
            daemon.start_again().await;
        }
        let gate = daemon
            .home
            .build("gated", "pending", &last)
            .join("data/gate");
        let opening = tokio::task::spawn_blocking(move || std::fs::write(gate, "0\n").unwrap());
        opening.await.unwrap();
        let info = daemon.wait("gated", &last).await;
        assert_eq!(
            (&info["Outcome"], &info["Cold"]),
            (&json!("succeeded"), &json!(is_cold))
        );
    }
    let groups = daemon.get("/project/gated").await.json()["Groups"].clone();
    assert_eq!(groups, json!({ "g": last }));
}

#[tokio::test]
async fn a_cold_build_without_a_group_is_a_new_build() {
    let daemon = TestDaemon::with(&["succeed"]).await;
    let first = daemon.build(job("succeed")).await;
    let cold = daemon.build(with(job("succeed"), &["cold"])).await;
    assert_eq!(
        (&cold["Cached"], &cold["ID"]),
        (&json!(false), &first["ID"])
    );
    assert!(text(&cold, "ContainerStdouterr").starts_with(HEAD));
    let latest = daemon.get("/project/succeed").await.json()["Latest"].clone();
    assert_eq!(latest, cold["ID"]);
}

/// Project `p`, whose builds with a param `wait` wait for [`open_gate`].
const GATED: &str = "if [ -e $D/params/wait ]; then
        mkfifo $D/gate; echo waiting; read -r _ < $D/gate; rm $D/gate
    fi
    echo x > $D/artifacts/made";

fn gated(params: Value) -> Value {
    json!({ "project": "p", "group": "g", "params": params })
}

/// A daemon whose group has a base, and the id of a build that began from it and waits.
async fn with_waiting_build() -> (TestDaemon, String) {
    let builder = TestDaemon::builder().await.script("p", GATED);
    let daemon = builder.start().await;
    daemon.build(gated(json!({ "n": "1" }))).await;
    let slow = daemon.submit(gated(json!({ "wait": "1" }))).await;
    let mut log = daemon.open(Ask::get(format!("/log/p/{slow}"))).await;
    log.until(|event| event.data == "waiting").await;
    (daemon, slow)
}

/// Lets the build that waits succeed.
async fn open_gate(daemon: &TestDaemon, slow: &str) {
    let gate = daemon.home.build("p", "pending", slow).join("data/gate");
    std::fs::write(gate, "\n").unwrap();
    let slow = daemon.wait("p", slow).await;
    assert_eq!(slow["Outcome"], "succeeded", "{slow}");
}

/// What it was cloned from may be what the cold build was to leave behind.
#[tokio::test]
async fn a_build_that_began_before_a_cold_build_was_there_does_not_take_its_place() {
    let (daemon, slow) = with_waiting_build().await;
    let cold = daemon
        .build(with(gated(json!({ "n": "2" })), &["cold"]))
        .await;
    open_gate(&daemon, &slow).await;
    let next = daemon.build(gated(json!({ "n": "3" }))).await;
    assert_eq!(next["Base"], cold["ID"]);
    // One that begins after it does.
    assert_eq!(
        daemon.build(gated(json!({ "n": "4" }))).await["Base"],
        next["ID"]
    );
}

#[tokio::test]
async fn a_build_that_began_before_a_cold_build_does_not_replace_a_later_base_either() {
    let (daemon, slow) = with_waiting_build().await;
    daemon
        .build(with(gated(json!({ "n": "2" })), &["cold"]))
        .await;
    let later = daemon.build(gated(json!({ "n": "3" }))).await;
    open_gate(&daemon, &slow).await;
    let next = daemon.build(gated(json!({ "n": "4" }))).await;
    assert_eq!(next["Base"], later["ID"]);
}

#[tokio::test]
async fn a_build_that_began_before_a_cold_build_is_no_base_when_the_cold_build_is_removed() {
    let (daemon, slow) = with_waiting_build().await;
    let cold = daemon
        .build(with(gated(json!({ "n": "2" })), &["cold"]))
        .await;
    let remove = Ask::new("DELETE", format!("/job/p/{}?base", text(&cold, "ID")));
    let remove = remove.with("content-type", "application/json");
    daemon.ask(remove).await.expect(200);
    open_gate(&daemon, &slow).await;
    let next = daemon.build(gated(json!({ "n": "3" }))).await;
    assert_eq!(next["Base"], Value::Null);
}

#[tokio::test]
async fn a_build_that_began_before_a_reset_does_not_replace_a_base_from_after_it() {
    let (daemon, slow) = with_waiting_build().await;
    let reset = json!({ "group": "g" });
    daemon
        .post("/project/p/groups/reset", &reset)
        .await
        .expect(204);
    let later = daemon.build(gated(json!({ "n": "2" }))).await;
    assert_eq!(later["Base"], Value::Null);
    open_gate(&daemon, &slow).await;
    let next = daemon.build(gated(json!({ "n": "3" }))).await;
    assert_eq!(next["Base"], later["ID"]);
}

/// Fault points are there in debug builds, which this one is.
#[tokio::test]
async fn a_cold_build_is_the_base_and_marked_whenever_the_daemon_is_killed() {
    for point in [
        "finish-record@2",
        "link-made@2",
        "in-place@2",
        "cold-marked",
        "linked@2",
    ] {
        let home = Home::new().await;
        home.fixture("succeed");
        home.configure(&json!({}));
        let (name, time) = point.split_once('@').unwrap_or((point, "1"));
        let daemon = faulty(&home, &format!("{name}=kill@{time}")).await;
        let first = Ask::post("/jobs", &counted(1));
        daemon.at.ask(first).await.expect(201);
        let cold = Ask::post("/jobs", &with(counted(2), &["cold"]));
        let at = daemon.at.clone();
        // Its connection ends with the process.
        let _ = tokio::spawn(async move { at.ask(cold).await }).await;
        assert_eq!(daemon.end(Signal::KILL).await, -9, "{point}");

        let daemon = home.spawn().await;
        // Not before the builds of the earlier process are taken over.
        let next = Ask::post("/jobs", &counted(3));
        let next = daemon.at.ask(next).await.expect(201).json();
        let base = Ask::get(format!("/job/succeed/{}", text(&next, "Base"))).json();
        let base = daemon.at.ask(base).await.expect(200).json();
        assert_eq!(base["BuildInfo"]["Cold"], true, "{point}");
        let marks = home.builds().join(".mistry/cold/succeed");
        assert_eq!(names(&marks), ["g"], "{point}");
        let own = names(&home.builds().join(".mistry"));
        assert!(
            !own.iter().any(|name| name.starts_with("link-")),
            "{point}: {own:?}"
        );
    }
}
