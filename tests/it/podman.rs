//! podman behind its Docker-compatible socket: its dialect is found out, and an Engine that becomes another
//! kind between two builds is noticed.

use serde_json::json;

use crate::support::{
    daemon::{TestDaemon, job, text},
    http::Ask,
};

#[tokio::test]
async fn builds_run_on_podman_and_an_engine_that_changes_its_kind_is_noticed() {
    let daemon = TestDaemon::with(&["succeed"]).await;
    let engine = &daemon.home.engine;
    for (number, podman) in [Some("5.4.2"), None, Some("5.8.6")].into_iter().enumerate() {
        engine.speak_as(podman);
        let mut job = job("succeed");
        job["params"] = json!({ "number": number.to_string() });
        let built = daemon.build(job).await;
        assert_eq!(built["Outcome"], "succeeded", "{podman:?}: {built:#}");
    }
}

#[tokio::test]
async fn a_podman_that_is_too_old_is_refused_with_the_version_that_is_needed() {
    let daemon = TestDaemon::with(&["succeed"]).await;
    daemon.home.engine.speak_as(Some("4.3.1"));
    let answer = daemon.ask(Ask::post("/jobs", &job("succeed"))).await;
    let answer = answer.expect(503);
    assert_eq!(
        text(&answer.json(), "error"),
        "mistry needs podman 5 or newer; found 4.3.1"
    );
}

#[tokio::test]
async fn a_build_secret_is_refused_and_not_left_out() {
    let daemon = TestDaemon::with(&["succeed"]).await;
    daemon.home.engine.speak_as(Some("5.4.2"));
    let dockerfile = "FROM scratch\nRUN --mount=type=secret,id=token true\n";
    let file = daemon.home.projects().join("succeed/Dockerfile");
    std::fs::write(file, dockerfile).unwrap();
    let answer = daemon.ask(Ask::post("/jobs", &job("succeed"))).await;
    let answer = answer.expect(500).json();
    let error = text(&answer, "error");
    assert!(error.contains("line 2 of the Dockerfile"), "{error}");
    assert!(error.contains("podman does not take"), "{error}");
    assert!(daemon.home.engine.builds().is_empty());
}

#[tokio::test]
async fn podman_is_not_asked_for_a_mount_that_is_not_there() {
    let daemon = TestDaemon::with(&["succeed"]).await;
    daemon.home.engine.speak_as(Some("5.4.2"));
    let missing = daemon.home.builds().with_file_name("missing");
    let settings = json!({ "mounts": { (missing.to_str().unwrap()): "/m" } });
    let project = daemon.home.projects().join("succeed/mistry.json");
    std::fs::write(project, settings.to_string()).unwrap();
    let answer = daemon.ask(Ask::post("/jobs", &job("succeed"))).await;
    assert_eq!(
        text(&answer.expect(500).json(), "error"),
        "could not run the build's container: what one of its mounts names is not on this host"
    );
    assert!(!missing.exists());
}
