//! A group can be reset, and its base removed: the next build of the group starts empty.

use std::time::{Duration, SystemTime};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::attempts::faulty;
use crate::garbage::settled;
use crate::support::{
    daemon::{Home, TestDaemon, job, names, text},
    http::Ask,
};

fn counted(group: &str, n: usize) -> Value {
    json!({ "project": "succeed", "group": group, "params": { "n": n.to_string() } })
}

async fn reset(daemon: &TestDaemon, project: &str, group: &str) -> crate::support::http::Answer {
    let path = format!("/project/{project}/groups/reset");
    daemon.post(path, &json!({ "group": group })).await
}

#[tokio::test]
async fn the_next_build_of_a_group_that_was_reset_starts_empty_also_after_a_restart() {
    let mut daemon = TestDaemon::with(&["succeed"]).await;
    let first = daemon.build(counted("a/b", 1)).await;
    let other = daemon.build(counted("h", 1)).await;
    reset(&daemon, "succeed", "a/b").await.expect(204);
    let project = daemon.get("/project/succeed").await.json();
    assert_eq!(project["Groups"], json!({ "h": other["ID"] }));
    daemon.stop().await;
    daemon.start_again().await;
    // Its builds stay.
    assert_eq!(daemon.build(counted("a/b", 1)).await["Cached"], true);
    let next = daemon.build(counted("a/b", 2)).await;
    assert_eq!(
        (&next["Incremental"], &next["Cold"], &next["Base"]),
        (&json!(false), &json!(false), &Value::Null)
    );
    assert_eq!(daemon.artifact(&next, ".count").await.text(), "1\n");
    assert_eq!(daemon.artifact(&first, ".count").await.status, 200);
    assert_eq!(daemon.build(counted("h", 2)).await["Base"], other["ID"]);
}

#[tokio::test]
async fn a_reset_heals_a_group_whose_cache_is_bad() {
    let script = "[ ! -e $D/cache/bad ] || exit 1
        [ $(cat $D/params/v) != 1 ] || touch $D/cache/bad
        touch $D/artifacts/v";
    let daemon = TestDaemon::builder().await.script("poison", script);
    let daemon = daemon.start().await;
    let job = |v: usize| json!({ "project": "poison", "group": "main", "params": { "v": v.to_string() } });
    daemon.build(job(1)).await;
    assert_eq!(daemon.build(job(2)).await["ExitCode"], 1);
    reset(&daemon, "poison", "main").await.expect(204);
    for v in [2, 3] {
        assert_eq!(daemon.build(job(v)).await["ExitCode"], 0);
    }
}

const SEEN: &str = "echo x >> $D/cache/seen\ncp $D/cache/seen $D/artifacts/seen";

/// Writes a file of project `p` that is older than every build: no build that was made from another content
/// may be the base.
fn write_input(daemon: &TestDaemon, text: &str) {
    let path = daemon.home.projects().join("p/input");
    std::fs::write(&path, text).unwrap();
    let old = SystemTime::now() - Duration::from_secs(1_000_000);
    let file = std::fs::File::options().write(true).open(path).unwrap();
    file.set_modified(old).unwrap();
}

/// A build whose project has gone back to earlier files may start from an earlier build of the group.
#[tokio::test]
async fn no_build_from_before_a_reset_or_a_cold_build_is_a_base_again() {
    let daemon = TestDaemon::builder().await.script("p", SEEN);
    let daemon = daemon.start().await;
    let write = |text: &str| write_input(&daemon, text);
    let job = |n: usize| json!({ "project": "p", "group": "g", "params": { "n": n.to_string() } });
    write("one");
    let before = daemon.build(job(1)).await;
    write("two");
    daemon.build(job(2)).await;
    write("one");
    let again = daemon.build(job(3)).await;
    assert_eq!(again["Base"], before["ID"], "without a reset it is");
    reset(&daemon, "p", "g").await.expect(204);
    write("two");
    let fresh = daemon.build(job(4)).await;
    write("one");
    let next = daemon.build(job(5)).await;
    assert_eq!(
        (&fresh["Base"], &next["Base"]),
        (&Value::Null, &Value::Null)
    );
    write("two");
    let cold = json!({ "project": "p", "group": "g", "params": { "n": "6" }, "cold": true });
    let cold = daemon.build(cold).await;
    write("one");
    assert_eq!(daemon.build(job(7)).await["Base"], Value::Null);
    write("two");
    assert_eq!(daemon.build(job(8)).await["Base"], cold["ID"]);
}

#[tokio::test]
async fn no_build_from_before_a_cold_build_is_a_base_again_when_the_cold_build_is_gone() {
    for is_rebuilt in [false, true] {
        let daemon = TestDaemon::builder().await.script("p", SEEN);
        let daemon = daemon.start().await;
        let job =
            |n: usize| json!({ "project": "p", "group": "g", "params": { "n": n.to_string() } });
        write_input(&daemon, "one");
        daemon.build(job(1)).await;
        write_input(&daemon, "two");
        daemon.build(job(2)).await;
        let mut cold = job(3);
        cold["cold"] = json!(true);
        let cold = daemon.build(cold).await;
        match is_rebuilt {
            // Its record is replaced by one that is not cold.
            true => {
                let mut again = job(3);
                again["rebuild"] = json!(true);
                assert_eq!(daemon.build(again).await["Cold"], false);
            }
            false => {
                delete(&daemon, &cold, "?base").await.expect(200);
                assert_eq!(daemon.build(job(4)).await["Base"], Value::Null);
            }
        }
        write_input(&daemon, "one");
        let next = daemon.build(job(5)).await;
        assert_eq!(next["Base"], Value::Null, "rebuilt: {is_rebuilt}");
    }
}

/// Fault points are there in debug builds, which this one is.
#[tokio::test]
async fn a_kill_between_any_two_steps_of_a_reset_leaves_a_group_that_is_reset() {
    for point in ["group-unlinked", "reset-marked", "group-reset"] {
        let home = Home::new().await;
        home.fixture("succeed");
        home.configure(&json!({}));
        let daemon = faulty(&home, &format!("{point}=kill")).await;
        for group in ["g", "h"] {
            let ask = Ask::post("/jobs", &counted(group, 1));
            daemon.at.ask(ask).await.expect(201);
        }
        let at = daemon.at.clone();
        let reset = Ask::post("/project/succeed/groups/reset", &json!({ "group": "g" }));
        // Its connection ends with the process.
        let _ = tokio::spawn(async move { at.ask(reset).await }).await;
        assert_eq!(daemon.end(Signal::KILL).await, -9, "{point}");

        let daemon = home.spawn().await;
        let next = Ask::post("/jobs", &counted("g", 2));
        let next = daemon.at.ask(next).await.expect(201).json();
        assert_eq!(next["Incremental"], false, "{point}");
        let own = home.builds().join(".mistry");
        assert_eq!(names(&own.join("resets/succeed")), ["g"], "{point}");
        assert!(names(&own.join("resetting/succeed")).is_empty(), "{point}");
        let next = Ask::post("/jobs", &counted("h", 2));
        let next = daemon.at.ask(next).await.expect(201).json();
        assert_eq!(next["Incremental"], true, "{point}");
    }
}

#[tokio::test]
async fn a_kill_while_a_base_is_removed_leaves_neither_the_build_nor_its_link() {
    for point in ["retired", "base-unlinked"] {
        let home = Home::new().await;
        home.fixture("succeed");
        home.configure(&json!({}));
        let daemon = faulty(&home, &format!("{point}=kill")).await;
        let build = Ask::post("/jobs", &counted("g", 1));
        let base = daemon.at.ask(build).await.expect(201).json();
        let id = text(&base, "ID").to_owned();
        settled(&home, "succeed", &id).await;
        let at = daemon.at.clone();
        let remove = Ask::new("DELETE", format!("/job/succeed/{id}?base"));
        let remove = remove.with("content-type", "application/json");
        let _ = tokio::spawn(async move { at.ask(remove).await }).await;
        assert_eq!(daemon.end(Signal::KILL).await, -9, "{point}");

        let daemon = home.spawn().await;
        let build = Ask::get(format!("/job/succeed/{id}")).json();
        daemon.at.ask(build).await.expect(404);
        let next = Ask::post("/jobs", &counted("g", 2));
        let next = daemon.at.ask(next).await.expect(201).json();
        assert_eq!(next["Incremental"], false, "{point}");
        let ready = home.ids("succeed", "ready");
        assert_eq!(ready, [text(&next, "ID")], "{point}");
        assert_eq!(daemon.end(Signal::TERM).await, 0, "{point}");
    }
}

/// A link to a build that someone has removed by hand, or that a process has removed as its last act.
#[tokio::test]
async fn a_start_removes_links_to_builds_that_are_gone() {
    let mut daemon = TestDaemon::with(&["succeed"]).await;
    let kept = daemon.build(counted("kept", 1)).await;
    for job in [counted("gone", 1), job("succeed")] {
        let info = daemon.build(job).await;
        settled(&daemon.home, "succeed", text(&info, "ID")).await;
        let ready = daemon.home.build("succeed", "ready", text(&info, "ID"));
        std::fs::remove_dir_all(ready).unwrap();
    }
    daemon.stop().await;
    daemon.start_again().await;
    assert_eq!(daemon.build(counted("kept", 2)).await["Base"], kept["ID"]);
    let place = daemon.home.builds().join("succeed");
    assert_eq!(names(&place.join("groups")), ["kept"]);
    assert!(place.join("latest").symlink_metadata().is_err());
}

#[tokio::test]
async fn a_reset_does_not_disturb_a_build_under_way_which_then_is_the_base() {
    let daemon = TestDaemon::with(&["succeed"]).await;
    let engine = &daemon.home.engine;
    daemon.build(counted("g", 1)).await;
    engine.hold("start");
    let running = daemon.asking(Ask::post("/jobs", &counted("g", 2)));
    engine.wait_for("start", 2).await;
    reset(&daemon, "succeed", "g").await.expect(204);
    engine.release("start");
    let running = running.await.unwrap().expect(201).json();
    assert_eq!(
        (&running["Outcome"], &running["Incremental"]),
        (&json!("succeeded"), &json!(true))
    );
    assert_eq!(daemon.build(counted("g", 3)).await["Base"], running["ID"]);
}

#[tokio::test]
async fn a_group_that_is_not_there_is_refused_with_the_names_of_those_that_are() {
    let daemon = TestDaemon::with(&["succeed"]).await;
    let answer = reset(&daemon, "succeed", "main").await.expect(404).json();
    assert!(
        text(&answer, "error").contains("no group 'main'"),
        "{answer}"
    );
    for group in ["main", "feature/x"] {
        daemon.build(counted(group, 1)).await;
    }
    let answer = reset(&daemon, "succeed", "mian").await.expect(404).json();
    let error = text(&answer, "error");
    let named = "no group 'mian' (did you mean 'main'?); its groups are: feature/x, main";
    assert!(error.contains(named), "{error}");
    let answer = reset(&daemon, "succeed", "other").await.expect(404).json();
    let error = text(&answer, "error");
    assert!(
        error.contains("no group 'other'; its groups are: feature/x, main"),
        "{error}"
    );
    reset(&daemon, "none-such", "main").await.expect(404);
    reset(&daemon, "succeed", "").await.expect(422);
    let path = "/project/succeed/groups/reset";
    for body in [json!({}), json!({ "groop": "main" }), json!(["main"])] {
        daemon.post(path, &body).await.expect(400);
    }
}

#[tokio::test]
async fn groups_are_listed_with_their_bases() {
    let daemon = TestDaemon::with(&["succeed"]).await;
    let path = "/project/succeed/groups";
    assert_eq!(daemon.get(path).await.expect(200).json(), json!([]));
    let a = daemon.build(counted("a", 1)).await;
    let b = daemon.build(counted("b", 1)).await;
    daemon.build(job("succeed")).await;
    for info in [&a, &b] {
        settled(&daemon.home, "succeed", text(info, "ID")).await;
    }
    let groups = daemon.get(path).await.expect(200).json();
    let groups = groups.as_array().unwrap();
    assert_eq!(groups.len(), 2);
    for (group, info) in groups.iter().zip([a, b]) {
        for (key, of_info) in [
            ("Group", "Group"),
            ("Base", "ID"),
            ("FinishedAt", "FinishedAt"),
        ] {
            assert_eq!(group[key], info[of_info]);
        }
    }
    daemon.get("/project/none-such/groups").await.expect(404);
}

async fn delete(daemon: &TestDaemon, info: &Value, query: &str) -> crate::support::http::Answer {
    let path = format!("/job/{}/{}{query}", text(info, "Project"), text(info, "ID"));
    daemon
        .ask(Ask::new("DELETE", path).with("content-type", "application/json"))
        .await
}

#[tokio::test]
async fn a_base_is_removed_only_if_that_was_asked_for() {
    let daemon = TestDaemon::with(&["succeed"]).await;
    let base = daemon.build(counted("main", 1)).await;
    let refused = delete(&daemon, &base, "").await.expect(409).json();
    let error = text(&refused, "error");
    for part in [
        "the base of group 'main'",
        "start empty",
        "mistry rm --base",
    ] {
        assert!(error.contains(part), "{part}: {error}");
    }
    let gone = delete(&daemon, &base, "?base").await.expect(200).json();
    assert_eq!(gone, json!({ "BaseOf": "main" }));
    let place = daemon.home.builds().join("succeed");
    assert!(names(&place.join("groups")).is_empty());
    assert!(daemon.home.ids("succeed", "ready").is_empty());
    let next = daemon.build(counted("main", 2)).await;
    assert_eq!(next["Incremental"], false);
    // The latest without a group, and one that no link names.
    let latest = daemon.build(job("succeed")).await;
    let refused = delete(&daemon, &latest, "").await.expect(409).json();
    assert!(
        text(&refused, "error").contains("without a group"),
        "{refused}"
    );
    let gone = delete(&daemon, &latest, "?base").await.expect(200).json();
    assert_eq!(gone, json!({ "BaseOf": "" }));
    daemon.build(counted("main", 3)).await;
    let gone = delete(&daemon, &next, "?base").await.expect(200).json();
    assert_eq!(gone, json!({ "BaseOf": null }));
}

#[tokio::test]
async fn a_base_that_is_pinned_keeps_its_link() {
    let daemon = TestDaemon::with(&["succeed"]).await;
    let base = daemon.build(counted("g", 1)).await;
    let pin = format!("/job/succeed/{}/pin", text(&base, "ID"));
    let pin = Ask::new("PUT", pin).with("content-type", "application/json");
    daemon.ask(pin).await.expect(204);
    delete(&daemon, &base, "?base").await.expect(409);
    assert_eq!(daemon.build(counted("g", 2)).await["Base"], base["ID"]);
}
