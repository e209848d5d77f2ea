//! A build directory of the first mistry is taken over as it is: its builds are listed and fetched from,
//! its groups are bases, its unfinished builds are over, and the opaque values in it are never shown.

use std::{
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use serde_json::{Value, json};

use crate::support::{
    daemon::{Builder, TestDaemon, job, text},
    http::Ask,
};

const GOOD: &str = "1111111111111111111111111111111111111111111111111111111111111111";
const GROUPED: &str = "2222222222222222222222222222222222222222222222222222222222222222";
const FAILED: &str = "3333333333333333333333333333333333333333333333333333333333333333";
const BROKEN: &str = "4444444444444444444444444444444444444444444444444444444444444444";
const PENDING: &str = "5555555555555555555555555555555555555555555555555555555555555555";
const BARE: &str = "6666666666666666666666666666666666666666666666666666666666666666";
const SECRET: &str = "opaque-of-old";

/// A build's directory with a record as it writes them.
fn put(root: &Path, state: &str, id: &str, hour: u32, more: Value) -> PathBuf {
    let directory = root.join("succeed").join(state).join(id);
    for name in ["cache", "artifacts", "params"] {
        std::fs::create_dir_all(directory.join("data").join(name)).unwrap();
    }
    let ready = root.join("succeed/ready").join(id).join("data/artifacts");
    let mut record = json!({
        "Params": { "a": "b", "_token": SECRET }, "Group": "", "Path": ready, "Cached": false,
        "Coalesced": false, "Incremental": false, "ExitCode": 0, "ErrBuild": "",
        "TransportMethod": "rsync",
        "StartedAt": format!("2021-03-04T{hour:02}:06:07.123456789+02:00"),
        "Duration": 4_200_000_000_i64, "URL": format!("job/succeed/{id}"),
    });
    for (key, value) in more.as_object().unwrap() {
        record[key] = value.clone();
    }
    std::fs::write(directory.join("build_info.json"), record.to_string()).unwrap();
    std::fs::write(directory.join("out.log"), "Step 1/2 : FROM x\n old line\n").unwrap();
    std::fs::write(directory.join("data/params/_token"), SECRET).unwrap();
    std::fs::write(directory.join("data/params/a"), "b").unwrap();
    std::fs::write(directory.join("data/artifacts/old"), id).unwrap();
    std::fs::write(directory.join("data/cache/count"), "41\n").unwrap();
    directory
}

async fn old_tree() -> Builder {
    let builder = TestDaemon::builder().await.fixture("succeed");
    let root = builder.home.builds();
    put(&root, "ready", GOOD, 1, json!({}));
    put(
        &root,
        "ready",
        GROUPED,
        2,
        json!({ "Group": "g", "Incremental": true }),
    );
    put(
        &root,
        "ready",
        FAILED,
        3,
        json!({ "ExitCode": 7, "Params": null }),
    );
    let error =
        "work: could not build docker image; could not build docker image 'mistry-succeed': x";
    put(
        &root,
        "ready",
        BROKEN,
        4,
        json!({ "ExitCode": -999, "ErrBuild": error }),
    );
    put(
        &root,
        "pending",
        PENDING,
        5,
        json!({ "ExitCode": -999, "Duration": -1_000_000_000 }),
    );
    // Left-overs of a failure between two steps.
    std::fs::create_dir_all(root.join("succeed/pending").join(BARE).join("data/params")).unwrap();
    let project = root.join("succeed");
    symlink(project.join("ready").join(GOOD), project.join("latest")).unwrap();
    std::fs::create_dir(project.join("groups")).unwrap();
    symlink(
        project.join("ready").join(GROUPED),
        project.join("groups/g"),
    )
    .unwrap();
    builder
}

#[tokio::test]
async fn its_builds_are_listed_and_shown_as_they_ended() {
    let daemon = old_tree().await.start().await;
    for id in [PENDING, BARE] {
        daemon
            .get(format!("/job/succeed/{id}?wait"))
            .await
            .expect(200);
    }
    let list = daemon.get("/index/?state=ready").await.expect(200).json();
    for (id, outcome, code) in [
        (GOOD, "succeeded", 0),
        (GROUPED, "succeeded", 0),
        (FAILED, "failed", 7),
        (BROKEN, "errored", -999),
        (PENDING, "errored", -999),
        (BARE, "errored", -999),
    ] {
        let found = list
            .as_array()
            .unwrap()
            .iter()
            .find(|item| item["id"] == id);
        let item = found.unwrap_or_else(|| panic!("{id} is not listed: {list}"));
        assert_eq!(
            (&item["project"], &item["state"]),
            (&json!("succeed"), &json!("ready"))
        );
        for info in [&item["buildInfo"], &daemon.info("succeed", id).await] {
            assert_eq!(
                (&info["Outcome"], &info["ExitCode"]),
                (&json!(outcome), &json!(code))
            );
            assert_eq!((text(info, "ID"), text(info, "Project")), (id, "succeed"));
        }
    }
    let good = daemon.info("succeed", GOOD).await;
    assert_eq!(good["Duration"], 4_200_000_000_i64);
    // The same moment, now in UTC.
    assert_eq!(text(&good, "StartedAt"), "2021-03-03T23:06:07.123456789Z");
    assert!(text(&good, "ContainerStdouterr").contains("old line"));
    let log = daemon
        .ask(Ask::get(format!("/log/succeed/{GOOD}?text")))
        .await
        .expect(200);
    assert!(log.text().ends_with("old line\n"));
    let project = daemon.get("/project/succeed").await.json();
    assert_eq!(
        (&project["Latest"], &project["Groups"]),
        (&json!(GOOD), &json!({ "g": GROUPED }))
    );
}

#[tokio::test]
async fn an_unfinished_build_of_the_predecessor_is_over_and_in_ready() {
    let daemon = old_tree().await.start().await;
    for id in [PENDING, BARE] {
        let info = daemon.wait("succeed", id).await;
        assert_eq!(
            (&info["State"], &info["Outcome"]),
            (&json!("ready"), &json!("errored"))
        );
        assert!(!text(&info, "Err").is_empty());
        assert!(daemon.home.build("succeed", "ready", id).is_dir());
    }
    assert!(daemon.home.ids("succeed", "pending").is_empty());
    assert_eq!(daemon.home.engine.containers().len(), 0);
}

#[tokio::test]
async fn its_artifacts_are_fetched() {
    let daemon = old_tree().await.start().await;
    for id in [GOOD, GROUPED, FAILED] {
        let path = format!("/artifacts/succeed/{id}/old");
        assert_eq!(daemon.ask(Ask::get(path)).await.expect(200).text(), id);
        let tar = daemon
            .ask(Ask::get(format!("/artifacts/succeed/{id}")))
            .await
            .expect(200);
        assert!(tar.text().contains(id));
    }
}

#[tokio::test]
async fn its_group_is_the_base_of_the_next_build() {
    let daemon = old_tree().await.start().await;
    let info = daemon
        .build(json!({ "project": "succeed", "group": "g" }))
        .await;
    assert_eq!(
        (&info["Incremental"], &info["Cached"]),
        (&json!(true), &json!(false))
    );
    assert_eq!(daemon.artifact(&info, ".count").await.text(), "42\n");
    assert_eq!(daemon.artifact(&info, "old").await.text(), GROUPED);
    assert_eq!(daemon.artifact(&info, "_token").await.status, 404);
    // The links are ours from now on, and relative.
    let link = std::fs::read_link(daemon.home.builds().join("succeed/groups/g")).unwrap();
    assert_eq!(link, Path::new("../ready").join(text(&info, "ID")));
    let none = daemon.build(job("succeed")).await;
    assert_eq!(none["Incremental"], false);
    let link = std::fs::read_link(daemon.home.builds().join("succeed/latest")).unwrap();
    assert_eq!(link, Path::new("ready").join(text(&none, "ID")));
    // What was there is as it was.
    assert_eq!(daemon.info("succeed", GROUPED).await["ExitCode"], 0);
}

#[tokio::test]
async fn a_tree_that_was_moved_is_still_a_base() {
    let builder = old_tree().await;
    let link = builder.home.builds().join("succeed/groups/g");
    std::fs::remove_file(&link).unwrap();
    symlink(format!("/old/place/succeed/ready/{GROUPED}"), &link).unwrap();
    let daemon = builder.start().await;
    let info = daemon
        .build(json!({ "project": "succeed", "group": "g" }))
        .await;
    assert_eq!(info["Incremental"], true);
}

#[tokio::test]
async fn the_opaque_values_that_it_kept_are_shown_nowhere() {
    let daemon = old_tree().await.start().await;
    daemon.wait("succeed", PENDING).await;
    let info = daemon.info("succeed", GOOD).await;
    assert_eq!(info["Params"], json!({ "_token": null, "a": "b" }));
    let mut paths = vec![
        "/".to_owned(),
        "/index/".to_owned(),
        "/project/succeed".to_owned(),
    ];
    for id in [GOOD, GROUPED, FAILED, BROKEN, PENDING] {
        for place in ["job", "log", "artifacts"] {
            paths.push(format!("/{place}/succeed/{id}"));
        }
        paths.push(format!("/artifacts/succeed/{id}/../params/_token"));
    }
    for path in paths {
        for accept in ["application/json", "text/html", "text/plain"] {
            let answer = daemon.ask(Ask::get(&path).with("accept", accept)).await;
            assert!(!answer.text().contains(SECRET), "{path}");
        }
    }
}
