//! Projects that cannot be built get an error message, and leave nothing behind: no Dockerfile, invalid
//! settings, an image that fails, a project that vanishes.

use std::os::unix::fs::symlink;

use serde_json::json;

use crate::bad_input::{refused, unharmed};
use crate::support::{
    daemon::{TestDaemon, job, names, text},
    http::Ask,
};

#[tokio::test]
async fn a_project_that_cannot_be_built_is_an_error_with_the_reason() {
    let daemon = TestDaemon::with(&["succeed"]).await;
    let projects = daemon.home.projects();
    let make = |name: &str| {
        let path = projects.join(name);
        std::fs::create_dir(&path).unwrap();
        path
    };
    make("empty");
    symlink("/etc/passwd", make("linked").join("Dockerfile")).unwrap();
    symlink("nowhere", make("dangling").join("Dockerfile")).unwrap();
    std::fs::create_dir(make("directory").join("Dockerfile")).unwrap();
    std::fs::write(projects.join("file"), "no directory").unwrap();
    std::fs::write(make("settings").join("Dockerfile"), "FROM scratch\n").unwrap();
    std::fs::write(projects.join("settings/mistry.json"), r#"{"colour":"red"}"#).unwrap();
    std::fs::write(make("other").join("Dockerfile"), "FROM scratch\n").unwrap();
    std::fs::write(projects.join("other/settings"), "{}").unwrap();
    symlink("settings", projects.join("other/mistry.json")).unwrap();
    std::fs::write(make("pattern").join("Dockerfile"), "FROM scratch\n").unwrap();
    std::fs::write(projects.join("pattern/.dockerignore"), "a\n[\n").unwrap();
    for (name, status, words) in [
        ("none-such", 404, &["unknown project 'none-such'"][..]),
        ("empty", 404, &["project 'empty' has no Dockerfile"]),
        ("file", 404, &["unknown project 'file'"]),
        ("linked", 422, &["'linked'", "symbolic link"]),
        ("dangling", 422, &["'dangling'", "symbolic link"]),
        (
            "directory",
            422,
            &["'directory'", "Dockerfile is a directory"],
        ),
        ("settings", 422, &["'settings'", "mistry.json", "colour"]),
        ("other", 422, &["'other'", "mistry.json is a symbolic link"]),
        (
            "pattern",
            422,
            &["project 'pattern' cannot be built: its .dockerignore is wrong: line 2: "],
        ),
    ] {
        refused(&daemon, job(name).to_string(), status, words).await;
    }
    unharmed(&daemon).await;
}

#[tokio::test]
async fn an_image_that_cannot_be_built_is_recorded_with_its_log() {
    let daemon = TestDaemon::with(&["bad-dockerfile", "image-build-failure"]).await;
    daemon
        .home
        .project("nothing", &crate::support::context::Context::of(""));
    for (name, said, logged) in [
        ("bad-dockerfile", "unknown instruction: COPIE", ""),
        (
            "image-build-failure",
            "returned a non-zero code: 1",
            "this image is about to fail\n",
        ),
        ("nothing", "cannot be empty", ""),
    ] {
        let answer = daemon.post("/jobs", &job(name)).await.expect(500);
        let view = answer.json();
        let begins = format!("could not build docker image '{name}'");
        let sentence = text(&view, "error");
        assert!(
            sentence.starts_with(&begins) && sentence.contains(said),
            "{sentence}"
        );
        let id = text(&view, "job");
        assert_eq!(answer.header("location"), format!("/job/{name}/{id}"));
        assert_eq!(daemon.home.ids(name, "ready"), [id]);
        assert!(daemon.home.ids(name, "pending").is_empty());
        let info = daemon.info(name, id).await;
        for (field, value) in [
            ("ExitCode", json!(-999)),
            ("Outcome", json!("errored")),
            ("State", json!("ready")),
            ("Err", json!(sentence)),
            ("ErrBuild", json!(sentence)),
        ] {
            assert_eq!(info[field], value, "{field}");
        }
        assert!(text(&info, "ContainerStdouterr").contains(logged), "{info}");
        let log = daemon
            .ask(Ask::get(format!("/log/{name}/{id}?text")))
            .await
            .expect(200)
            .text();
        assert!(log.contains(logged) && log.contains(said), "{log:?}");
        let page = daemon
            .ask(Ask::get(format!("/job/{name}/{id}")).with("accept", "text/html"))
            .await;
        assert!(page.expect(200).text().contains("errored"));
        assert_eq!(
            std::fs::read_link(daemon.home.builds().join(name).join("latest")).ok(),
            None
        );
        // After a correction it is built.
        let dockerfile = daemon.home.projects().join(name).join("Dockerfile");
        std::fs::write(dockerfile, "FROM scratch\n").unwrap();
        std::fs::write(daemon.home.projects().join(name).join("run.sh"), "true\n").unwrap();
        assert_eq!(daemon.build(job(name)).await["ExitCode"], 0);
    }
}

#[tokio::test]
async fn a_project_may_vanish_or_change_during_a_build() {
    let daemon = TestDaemon::builder().await.slots(1).backlog(4);
    let daemon = daemon
        .fixture("succeed")
        .fixture("output")
        .fixture("slow")
        .start()
        .await;
    let engine = &daemon.home.engine;
    engine.hold("images");
    let first = daemon.asking(Ask::post("/jobs", &job("slow")));
    engine.wait_for("images", 1).await;
    let vanishes = daemon.asking(Ask::post("/jobs", &job("output")));
    daemon.until_metric("mistry_queue_length", "", 1.0).await;
    std::fs::remove_dir_all(daemon.home.projects().join("output")).unwrap();
    std::fs::write(daemon.home.projects().join("slow/run.sh"), "changed").unwrap();
    engine.release("images");
    for (asked, words) in [(first, "changed"), (vanishes, "could not")] {
        let answer = asked.await.unwrap().expect(500).json();
        assert!(text(&answer, "error").contains(words), "{answer}");
        assert!(answer["job"].is_string());
    }
    assert_eq!(daemon.build(job("succeed")).await["ExitCode"], 0);
    daemon.post("/jobs", &job("output")).await.expect(404);
}

#[tokio::test]
async fn impossible_settings_are_refused_before_the_build() {
    let daemon = TestDaemon::with(&["succeed"]).await;
    let settings = daemon.home.projects().join("succeed/mistry.json");
    for (text, word) in [
        ("", "mistry.json"),
        ("[]", "mistry.json"),
        (r#"{"job_timeout":"soon"}"#, "job_timeout"),
        (r#"{"limits":{"memory":"x"}}"#, "memory"),
        (r#"{"mounts":{"/x":7}}"#, "mounts"),
        (r#"{"user":7}"#, "user"),
        (r#"{"network":""}"#, "network"),
    ] {
        std::fs::write(&settings, text).unwrap();
        refused(
            &daemon,
            job("succeed").to_string(),
            422,
            &["'succeed'", word],
        )
        .await;
    }
    std::fs::remove_file(settings).unwrap();
    unharmed(&daemon).await;
}

#[tokio::test]
async fn a_user_that_is_no_number_is_refused_before_the_build() {
    let daemon = TestDaemon::with(&["succeed"]).await;
    let settings = daemon.home.projects().join("succeed/mistry.json");
    for user in ["node", "1000:node", "node:1000", "-1", "1000:", ":1000"] {
        std::fs::write(&settings, json!({ "user": user }).to_string()).unwrap();
        let words = ["'succeed'", "user", "uid:gid"];
        refused(&daemon, job("succeed").to_string(), 422, &words).await;
    }
    assert_eq!(names(&daemon.home.builds()), [".mistry"]);
    for user in ["1000", "1000:1000"] {
        std::fs::write(&settings, json!({ "user": user }).to_string()).unwrap();
        // Whether it can be made depends on who we are; it is taken.
        daemon.submit(job("succeed")).await;
    }
}
