//! Whatever goes wrong inside, the answer to a client is a sentence: no path of the host, no cause, no
//! place in our source. Faults are made one by one, and each address is requested.

use std::path::Path;

use serde_json::json;

use crate::support::{
    context::Context,
    daemon::{TestDaemon, job, text},
    http::{Answer, Ask},
};

/// Marks of text that belongs in the journal only.
const SECRETS: [&str; 12] = [
    "/tmp",
    "/var",
    "/proc",
    "/src/",
    ".rs:",
    "os error",
    "No such file",
    "docker.sock",
    "panicked",
    "the test wants",
    "Is a directory",
    "Not a directory",
];

fn check(what: &str, home: &Path, answer: &Answer) {
    if answer.status < 400 {
        return;
    }
    let text = answer.text();
    for secret in SECRETS.iter().copied().chain([home.to_str().unwrap()]) {
        assert!(!text.contains(secret), "{what}: {secret}: {text}");
    }
    for (name, value) in &answer.headers {
        let value = value.to_str().unwrap();
        assert!(
            !value.contains(home.to_str().unwrap()),
            "{what}: {name}: {value}"
        );
    }
    let view = answer.json();
    let sentence = view["error"]
        .as_str()
        .unwrap_or_else(|| panic!("{what}: {text}"));
    assert!(
        !sentence.is_empty() && !sentence.contains('\n'),
        "{what}: {sentence}"
    );
}

/// Requests all addresses of a job and its project; returns the statuses from 500 on.
async fn ask_all(daemon: &TestDaemon, what: &str, project: &str, id: &str) -> Vec<(String, u16)> {
    let mut faults = Vec::new();
    let home = daemon.home.path("");
    for path in [
        "/".to_owned(),
        "/index/".to_owned(),
        "/projects".to_owned(),
        "/status".to_owned(),
        "/metrics".to_owned(),
        format!("/project/{project}"),
        format!("/job/{project}/{id}"),
        format!("/job/{project}/{id}?wait"),
        format!("/log/{project}/{id}"),
        format!("/log/{project}/{id}?text"),
        format!("/artifacts/{project}/{id}"),
        format!("/artifacts/{project}/{id}/"),
        format!("/artifacts/{project}/{id}/a"),
    ] {
        let answer = daemon.get(&*path).await;
        check(&format!("{what}: {path}"), &home, &answer);
        if answer.status >= 500 {
            faults.push((path, answer.status));
        }
    }
    for (path, body) in [
        ("/jobs".to_owned(), job(project)),
        (
            "/jobs?async".to_owned(),
            json!({ "project": project, "group": "g", "params": { "x": what } }),
        ),
        (
            "/jobs".to_owned(),
            json!({ "project": project, "rebuild": true }),
        ),
        (format!("/project/{project}/rebuild"), json!({})),
    ] {
        let answer = daemon.post(&*path, &body).await;
        check(&format!("{what}: {path}"), &home, &answer);
        if answer.status >= 500 {
            faults.push((path, answer.status));
        }
    }
    faults
}

#[tokio::test]
async fn errors_about_the_disk_hold_no_path() {
    type Fault = fn(&Path);
    let faults: [(&str, Fault); 9] = [
        ("project is a file", |p| {
            std::fs::remove_dir_all(p).unwrap();
            std::fs::write(p, "x").unwrap();
        }),
        ("pending is a file", |p| {
            let _ = std::fs::remove_dir_all(p.join("pending"));
            std::fs::write(p.join("pending"), "x").unwrap();
        }),
        ("ready is a file", |p| {
            std::fs::remove_dir_all(p.join("ready")).unwrap();
            std::fs::write(p.join("ready"), "x").unwrap();
        }),
        ("groups is a file", |p| {
            std::fs::write(p.join("groups"), "x").unwrap()
        }),
        ("latest is a directory", |p| {
            std::fs::remove_file(p.join("latest")).unwrap();
            std::fs::create_dir_all(p.join("latest/x")).unwrap();
        }),
        ("record is a directory", |p| replace(p, "build_info.json")),
        ("log is a directory", |p| replace(p, "out.log")),
        ("data is a file", |p| {
            let build = only(p);
            std::fs::remove_dir_all(build.join("data")).unwrap();
            std::fs::write(build.join("data"), "x").unwrap();
        }),
        ("artifacts are a link", |p| {
            let data = only(p).join("data");
            std::fs::remove_dir_all(data.join("artifacts")).unwrap();
            std::os::unix::fs::symlink("/etc", data.join("artifacts")).unwrap();
        }),
    ];
    for (what, make) in faults {
        let daemon = TestDaemon::with(&["succeed", "output"]).await;
        let id = text(&daemon.build(job("succeed")).await, "ID").to_owned();
        make(&daemon.home.builds().join("succeed"));
        ask_all(&daemon, what, "succeed", &id).await;
        // Another project is not affected.
        assert_eq!(daemon.build(job("output")).await["ExitCode"], 0, "{what}");
        let list = daemon
            .get("/index/?project=output")
            .await
            .expect(200)
            .json();
        assert_eq!(list.as_array().unwrap().len(), 1, "{what}");
        daemon.get("/index/").await.expect(200);
        daemon.get("/").await.expect(200);
    }
}

fn only(project: &Path) -> std::path::PathBuf {
    std::fs::read_dir(project.join("ready"))
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path()
}

fn replace(project: &Path, name: &str) {
    let file = only(project).join(name);
    std::fs::remove_file(&file).unwrap();
    std::fs::create_dir(file).unwrap();
}

#[tokio::test]
async fn messages_of_the_engine_are_not_sent_to_clients() {
    // Errors of the builder are about the client's own Dockerfile; see below.
    let calls = [
        "images",
        "create",
        "start",
        "logs",
        "wait",
        "list",
        "remove-image",
    ];
    for call in calls {
        for status in [404, 500] {
            let daemon = TestDaemon::with(&["succeed"]).await;
            for _ in 0..3 {
                daemon.home.engine.fail_next(call, status);
            }
            let answer = daemon.post("/jobs", &job("succeed")).await;
            check(call, &daemon.home.path(""), &answer);
            if let Some(id) = answer.json()["job"].as_str() {
                let info = daemon.info("succeed", id).await;
                let errors = format!("{} {}", info["Err"], info["ErrBuild"]);
                assert!(
                    !errors.contains("the test wants") && !errors.contains("/tmp"),
                    "{call}: {errors}"
                );
            }
            let answer = daemon.post("/project/succeed/rebuild", &json!({})).await;
            check(call, &daemon.home.path(""), &answer);
        }
    }
}

#[tokio::test]
async fn errors_about_the_projects_hold_no_path() {
    let daemon = TestDaemon::with(&["succeed"]).await;
    let id = text(&daemon.build(job("succeed")).await, "ID").to_owned();
    let settings = daemon.home.projects().join("succeed/mistry.json");
    for text in [
        r#"{"mounts":{"nowhere/at/all":"/x"}}"#,
        r#"{"mounts":{"/":"relative"}}"#,
        "{",
    ] {
        std::fs::write(&settings, text).unwrap();
        ask_all(&daemon, text, "succeed", &id).await;
    }
    std::fs::remove_file(&settings).unwrap();
    std::fs::create_dir(&settings).unwrap();
    ask_all(&daemon, "settings are a directory", "succeed", &id).await;
    std::fs::rename(daemon.home.projects(), daemon.home.path("gone")).unwrap();
    let faults = ask_all(&daemon, "no projects at all", "succeed", &id).await;
    assert!(
        faults.iter().any(|(path, _)| path == "/projects"),
        "{faults:?}"
    );
    std::fs::write(daemon.home.projects(), "a file").unwrap();
    ask_all(&daemon, "projects are a file", "succeed", &id).await;
}

#[tokio::test]
async fn a_broken_tokens_file_lets_no_client_in_and_leaks_nothing() {
    let daemon = TestDaemon::builder()
        .await
        .tokens("# none yet\n")
        .start()
        .await;
    for broken in [Some("nonsense"), None] {
        match broken {
            Some(text) => std::fs::write(daemon.home.path("tokens"), text).unwrap(),
            None => std::fs::remove_file(daemon.home.path("tokens")).unwrap(),
        }
        let ask = Ask::post("/jobs", &job("p")).with("authorization", "Bearer x");
        let answer = daemon.ask(ask).await.expect(500);
        check("tokens", &daemon.home.path(""), &answer);
    }
}

#[tokio::test]
async fn errors_may_quote_the_dockerfile_because_it_is_the_clients_own() {
    let daemon = TestDaemon::builder().await;
    daemon
        .home
        .project("p", &Context::of("FROM scratch\nFRIM x\n"));
    let daemon = daemon.start().await;
    let answer = daemon.post("/jobs", &job("p")).await.expect(500);
    check("dockerfile", &daemon.home.path(""), &answer);
    assert!(answer.text().contains("unknown instruction: FRIM"));
}
