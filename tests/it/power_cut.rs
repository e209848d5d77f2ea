//! A start after a power cut: finished builds are put in place, and builds whose data may be lost are
//! neither served nor replace good ones.

use std::path::Path;

use serde_json::{Value, json};

use crate::recovery::{change, outside, read};
use crate::support::{
    daemon::{TestDaemon, job, names, text},
    http::within,
};

#[tokio::test]
async fn a_finished_build_that_is_not_in_place_is_put_there() {
    let mut daemon = TestDaemon::with(&["succeed"]).await;
    let grouped = json!({ "project": "succeed", "group": "g" });
    let info = daemon.build(grouped.clone()).await;
    daemon.stop().await;
    let (pending, ready) = (
        daemon.home.build("succeed", "pending", text(&info, "ID")),
        daemon.home.build("succeed", "ready", text(&info, "ID")),
    );
    std::fs::rename(&ready, &pending).unwrap();
    std::fs::remove_file(daemon.home.builds().join("succeed/groups/g")).unwrap();
    daemon.start_again().await;
    let cached = daemon.build(grouped).await;
    assert_eq!(
        (&cached["Cached"], &cached["StartedAt"]),
        (&json!(true), &info["StartedAt"])
    );
    assert!(ready.is_dir() && !pending.exists());
    assert_eq!(daemon.home.engine.containers().len(), 1);
    let next = json!({ "project": "succeed", "group": "g", "params": { "n": "2" } });
    assert_eq!(daemon.build(next).await["Incremental"], true);
}

#[tokio::test]
async fn leftovers_of_an_exchange_in_pending_are_removed() {
    let mut daemon = TestDaemon::with(&["succeed"]).await;
    let old = daemon.build(job("succeed")).await;
    let id = text(&old, "ID").to_owned();
    let ready = daemon.home.build("succeed", "ready", &id);
    let kept = daemon.home.path("old");
    let copy = std::process::Command::new("cp")
        .arg("-a")
        .args([&ready, &kept])
        .status()
        .unwrap();
    assert!(copy.success());
    let new = daemon
        .build(json!({ "project": "succeed", "rebuild": true }))
        .await;
    daemon.stop().await;
    std::fs::rename(&kept, daemon.home.build("succeed", "pending", &id)).unwrap();
    daemon.start_again().await;
    assert_eq!(
        daemon.build(job("succeed")).await["StartedAt"],
        new["StartedAt"]
    );
    assert!(daemon.home.ids("succeed", "pending").is_empty());
}

#[tokio::test]
async fn a_build_that_a_power_cut_may_have_damaged_is_not_served() {
    let mut daemon = TestDaemon::with(&["succeed"]).await;
    let asked =
        |n: usize| json!({ "project": "succeed", "group": "g", "params": { "n": n.to_string() } });
    let first = daemon.build(asked(1)).await;
    daemon.stop().await;
    let directory = daemon.home.build("succeed", "ready", text(&first, "ID"));
    let record = read(&directory.join("build_info.json"));
    let keep = &record["Bookkeeping"];
    assert_eq!(
        keep["Durable"], true,
        "it is marked once it is on stable storage"
    );
    assert!(text(keep, "Boot").len() > 10);
    // Not durable, of this boot: there was no power cut.
    change(&directory, json!({ "Durable": false }));
    daemon.start_again().await;
    assert_eq!(daemon.build(asked(1)).await["Cached"], true);
    daemon.stop().await;
    // Durable, of another boot: it survived.
    change(&directory, json!({ "Durable": true, "Boot": "another" }));
    daemon.start_again().await;
    assert_eq!(daemon.build(asked(1)).await["Cached"], true);
    daemon.stop().await;
    // Not durable, of another boot: ignored, also as a base.
    change(&directory, json!({ "Durable": false, "Boot": "another" }));
    daemon.start_again().await;
    daemon
        .get(format!("/job/succeed/{}", text(&first, "ID")))
        .await
        .expect(404);
    assert_eq!(daemon.artifact(&first, ".count").await.status, 404);
    assert_eq!(daemon.get("/index/").await.text(), "[]");
    assert_eq!(daemon.build(asked(2)).await["Incremental"], false);
    let again = daemon.build(asked(1)).await;
    assert_eq!(
        (&again["Cached"], &again["ExitCode"]),
        (&json!(false), &json!(0))
    );
}

#[tokio::test]
async fn trash_is_removed_at_the_next_start() {
    let mut daemon = TestDaemon::with(&["succeed"]).await;
    daemon.stop().await;
    let (outside, tree) = outside(&daemon.home);
    let trash = daemon.home.builds().join(".mistry/trash");
    std::fs::create_dir_all(trash.join("x/data/artifacts")).unwrap();
    std::fs::write(trash.join("x/data/artifacts/a"), "a").unwrap();
    std::os::unix::fs::symlink(&outside, trash.join("x/data/link")).unwrap();
    let before = tree();
    daemon.start_again().await;
    // The stop waits for all that the start began.
    daemon.stop().await;
    assert!(names(&trash).is_empty());
    assert_eq!(tree(), before);
}

/// Marks the whole record, not only what is kept for ourselves.
fn mark(directory: &Path, changes: Value) {
    let record = directory.join("build_info.json");
    let mut value = read(&record);
    for (key, new) in changes.as_object().unwrap() {
        value[key] = new.clone();
    }
    std::fs::write(record, value.to_string()).unwrap();
}

/// As a build that a power cut caught between its end and stable storage.
fn leave_not_durable(directory: &Path) {
    let later =
        json!({ "StartedAt": "2020-01-01T00:00:00Z", "FinishedAt": "2099-01-01T00:00:00Z" });
    mark(directory, later);
    change(directory, json!({ "Durable": false, "Boot": "another" }));
}

#[tokio::test]
async fn a_build_that_a_power_cut_may_have_damaged_replaces_no_good_build() {
    let mut daemon = TestDaemon::with(&["succeed"]).await;
    let good = daemon.build(job("succeed")).await;
    let id = text(&good, "ID").to_owned();
    daemon.stop().await;
    let ready = daemon.home.build("succeed", "ready", &id);
    let pending = daemon.home.build("succeed", "pending", &id);
    let copied = std::process::Command::new("cp")
        .arg("-a")
        .args([&ready, &pending])
        .status();
    assert!(copied.unwrap().success());
    assert_eq!(
        read(&ready.join("build_info.json"))["Bookkeeping"]["Durable"],
        true
    );
    leave_not_durable(&pending);
    daemon.start_again().await;
    let cached = daemon.build(job("succeed")).await;
    assert_eq!(
        (&cached["Cached"], &cached["StartedAt"]),
        (&json!(true), &good["StartedAt"])
    );
    assert_eq!(daemon.artifact(&good, ".count").await.status, 200);
}

#[tokio::test]
async fn a_build_that_a_power_cut_may_have_damaged_is_not_put_in_place() {
    let mut daemon = TestDaemon::with(&["succeed"]).await;
    let asked = |n: &str| json!({ "project": "succeed", "group": "g", "params": { "n": n } });
    let spoilt = daemon.build(asked("1")).await;
    let id = text(&spoilt, "ID").to_owned();
    daemon.stop().await;
    let ready = daemon.home.build("succeed", "ready", &id);
    let pending = daemon.home.build("succeed", "pending", &id);
    std::fs::rename(&ready, &pending).unwrap();
    let link = daemon.home.builds().join("succeed/groups/g");
    std::fs::remove_file(&link).unwrap();
    leave_not_durable(&pending);
    std::fs::write(pending.join("data/artifacts/spoilt"), "x").unwrap();
    daemon.start_again().await;
    // Built again, or gone; either way it is not shown.
    let answer = daemon.get(format!("/job/succeed/{id}?wait")).await;
    assert!(matches!(answer.status, 200 | 404), "{}", answer.text());
    assert!(!answer.text().contains("2099-"), "{}", answer.text());
    assert_eq!(daemon.artifact(&spoilt, "spoilt").await.status, 404);
    // The link of the group is none, or leads to what was made since.
    if link.symlink_metadata().is_ok() {
        let linked = read(&link.join("build_info.json"));
        assert_ne!(linked["Bookkeeping"]["Boot"], "another", "{linked}");
    }
    let info = daemon.build(asked("1")).await;
    assert!(!text(&info, "FinishedAt").starts_with("2099"), "{info}");
    assert_eq!(daemon.artifact(&info, "spoilt").await.status, 404);
    assert!(daemon.home.ids("succeed", "pending").is_empty());
}

#[tokio::test]
async fn a_build_that_was_answered_but_is_not_durable_is_made_durable_at_the_next_start() {
    let mut daemon = TestDaemon::with(&["succeed"]).await;
    let info = daemon.build(job("succeed")).await;
    daemon.stop().await;
    let directory = daemon.home.build("succeed", "ready", text(&info, "ID"));
    change(&directory, json!({ "Durable": false }));
    daemon.start_again().await;
    assert_eq!(daemon.get("/index/").await.json()[0]["id"], info["ID"]);
    let record = directory.join("build_info.json");
    within("to be durable", async {
        while read(&record)["Bookkeeping"]["Durable"] != true {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(daemon.build(job("succeed")).await["Cached"], true);
}
