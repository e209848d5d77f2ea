//! The images on an Engine: each has a name of its own, and goes when a newer one has taken its place, unless
//! it has a name that a user gave.

use std::path::Path;

use mistry::docker::Docker;
use serde_json::json;

use crate::support::daemon::{TestDaemon, job, text};

async fn daemon() -> TestDaemon {
    let builder = TestDaemon::builder().await;
    builder.script("p", "true").start().await
}

/// Changes the project, so that its next build needs another image. Returns the id of that image.
async fn edited(daemon: &TestDaemon, version: u32) -> String {
    let project = daemon.home.projects().join("p");
    std::fs::write(project.join("file"), version.to_string()).unwrap();
    let info = daemon
        .build(json!({"project": "p", "params": {"n": version.to_string()}}))
        .await;
    text(&info, "Image").to_owned()
}

/// The ids of the images, after the containers are gone and a collection has run.
async fn collected(daemon: &mut TestDaemon) -> Vec<String> {
    // Containers are removed after the answer; a stop waits for that.
    daemon.stop().await;
    daemon.start_again().await;
    let rules = json!({"max_age": "1000d"});
    daemon.post("/gc", &rules).await.expect(200);
    let images = daemon.home.engine.images();
    images.into_iter().map(|image| image.id).collect()
}

fn names(daemon: &TestDaemon, id: &str) -> Vec<String> {
    let images = daemon.home.engine.images();
    let image = images.into_iter().find(|image| image.id == id).unwrap();
    image.tags.into_iter().collect()
}

fn docker(daemon: &TestDaemon) -> Docker {
    Docker::new(Path::new(&daemon.home.engine.socket())).unwrap()
}

#[tokio::test]
async fn each_image_has_its_own_name_and_goes_when_a_newer_one_has_taken_its_place() {
    let mut daemon = daemon().await;
    let (first, second) = (edited(&daemon, 1).await, edited(&daemon, 2).await);
    let (own, latest) = (names(&daemon, &first), names(&daemon, &second));
    assert_eq!((own.len(), latest.len()), (1, 2), "{own:?} {latest:?}");
    assert!(own[0].starts_with("mistry-p:"), "{own:?}");
    assert!(latest.contains(&"mistry-p:latest".to_owned()), "{latest:?}");
    assert_eq!(collected(&mut daemon).await, [second]);
}

#[tokio::test]
async fn an_image_that_a_user_has_named_stays() {
    let mut daemon = daemon().await;
    let first = edited(&daemon, 1).await;
    docker(&daemon).tag_image(&first, "theirs:1").await.unwrap();
    let second = edited(&daemon, 2).await;
    assert_eq!(collected(&mut daemon).await, [first, second]);
}

#[tokio::test]
async fn an_image_with_the_name_that_earlier_versions_gave_goes() {
    let mut daemon = daemon().await;
    let (first, second) = (edited(&daemon, 1).await, edited(&daemon, 2).await);
    docker(&daemon).tag_image(&first, "mistry-p").await.unwrap();
    assert_eq!(names(&daemon, &first).len(), 2);
    assert_eq!(collected(&mut daemon).await, [second]);
}

#[tokio::test]
async fn an_image_without_a_record_goes_if_it_has_the_name_that_follows_from_its_labels() {
    let mut daemon = daemon().await;
    let (first, second) = (edited(&daemon, 1).await, edited(&daemon, 2).await);
    docker(&daemon).tag_image(&second, "theirs").await.unwrap();
    daemon.stop().await;
    std::fs::remove_dir_all(daemon.home.builds().join(".mistry/images")).unwrap();
    daemon.start_again().await;
    let left = collected(&mut daemon).await;
    assert!(!left.contains(&first), "it is ours");
    assert_eq!(left, [second], "theirs is a name that a user gave");
    // It is not used any more: without a record it may be a copy.
    let info = daemon.build(job("p")).await;
    assert_eq!(info["Outcome"], "succeeded", "{info}");
}
