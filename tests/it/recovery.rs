//! A start handles whatever it finds, however torn or foreign: accepted jobs are built, once; finished
//! builds are served; what a power cut may have damaged is not; unknown files do no harm.

use std::path::{Path, PathBuf};

use mistry::{
    build::BuildStore,
    filesystem::{Filesystem, Kind},
    job::State,
};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::{
    daemon::{Home, TestDaemon, job, text},
    http::{Ask, At},
    process::Process,
};

pub const NEVER: &str = "00000000000000000000000000000000000000000000000000000000000000aa";

pub fn read(record: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(record).unwrap()).unwrap()
}

pub fn change(directory: &Path, changes: Value) {
    let record = directory.join("build_info.json");
    let mut value = read(&record);
    for (key, new) in changes.as_object().unwrap() {
        value["Bookkeeping"][key] = new.clone();
    }
    std::fs::write(record, value.to_string()).unwrap();
}

/// A directory that links lead to and that must stay as it is: what is in it, with contents.
pub fn outside(home: &Home) -> (PathBuf, impl Fn() -> Vec<(String, String)> + use<>) {
    let path = home.path("outside");
    for name in ["data/artifacts", "ready", "pending"] {
        std::fs::create_dir_all(path.join(name)).unwrap();
    }
    for name in ["out.log", "data/artifacts/a", "secret"] {
        std::fs::write(path.join(name), "outside:").unwrap();
    }
    let root = path.clone();
    let tree = move || {
        let listed = std::process::Command::new("find")
            .arg(&root)
            .output()
            .unwrap();
        let mut paths: Vec<_> = String::from_utf8(listed.stdout)
            .unwrap()
            .lines()
            .map(|path| {
                (
                    path.to_owned(),
                    std::fs::read_to_string(path).unwrap_or_default(),
                )
            })
            .collect();
        paths.sort();
        paths
    };
    (path, tree)
}

/// A process over a home with these fixtures.
pub async fn process(fixtures: &[&str]) -> (Home, Process) {
    let home = Home::new().await;
    for name in fixtures {
        home.fixture(name);
    }
    home.configure(&json!({}));
    let daemon = home.spawn().await;
    (home, daemon)
}

pub async fn wait(at: &At, project: &str, id: &str) -> Value {
    let ask = Ask::get(format!("/job/{project}/{id}?wait")).json();
    at.ask(ask).await.expect(200).json()["BuildInfo"].clone()
}

#[tokio::test]
async fn torn_and_foreign_files_do_no_harm() {
    let mut daemon = TestDaemon::with(&["succeed", "output"]).await;
    let good = daemon.build(job("succeed")).await;
    daemon.stop().await;
    let builds = daemon.home.builds();
    let (outside, tree) = outside(&daemon.home);
    let before = tree();
    let id = |n: usize| format!("{n:064x}");
    for place in ["pending", "ready", "failed"] {
        let place = builds.join("succeed").join(place);
        let make = |name: &str| {
            let path: PathBuf = place.join(name);
            std::fs::create_dir_all(&path).unwrap();
            path
        };
        make(&id(1));
        std::fs::write(make(&id(2)).join("build_info.json"), "{\"ExitCode\":").unwrap();
        std::fs::write(make(&id(3)).join("build_info.json"), "").unwrap();
        std::fs::create_dir_all(make(&id(4)).join("build_info.json/x")).unwrap();
        std::fs::write(place.join(id(5)), "a file").unwrap();
        std::os::unix::fs::symlink("nowhere", place.join(id(6))).unwrap();
        std::os::unix::fs::symlink(&outside, place.join(id(7))).unwrap();
        make("no-id");
        make(&"A".repeat(64));
        std::fs::write(place.join(".stray"), "x").unwrap();
        std::fs::write(make(&id(8)).join("build_info.json.new"), "half").unwrap();
        std::os::unix::fs::symlink("build_info.json", make(&id(9)).join("build_info.json"))
            .unwrap();
        rustix::fs::mkfifoat(
            rustix::fs::CWD,
            make(&id(10)).join("build_info.json"),
            rustix::fs::Mode::RUSR,
        )
        .unwrap();
        std::fs::write(make(&id(11)).join("data"), "a file").unwrap();
        std::os::unix::fs::symlink(&outside, make(&id(12)).join("data")).unwrap();
    }
    std::fs::create_dir(builds.join("lost+found")).unwrap();
    std::fs::create_dir(builds.join("unknown-project")).unwrap();
    std::fs::create_dir_all(builds.join("files")).unwrap();
    for name in ["pending", "ready", "failed", "groups", "latest"] {
        std::fs::write(builds.join("files").join(name), "a file").unwrap();
    }
    std::fs::write(builds.join("a-file"), "x").unwrap();
    std::os::unix::fs::symlink(&outside, builds.join("a-link")).unwrap();
    std::fs::write(builds.join(".mistry/trash/stray"), "x").unwrap();
    daemon.start_again().await;
    assert_eq!(daemon.build(job("succeed")).await["Cached"], true);
    assert_eq!(daemon.build(job("output")).await["ExitCode"], 0);
    let list = daemon.get("/index/").await.expect(200).json();
    assert!(
        list.as_array()
            .unwrap()
            .iter()
            .any(|item| item["id"] == good["ID"])
    );
    for path in [
        "/",
        "/projects",
        "/project/succeed",
        "/metrics",
        "/index/?project=files",
    ] {
        daemon.ask(Ask::get(path)).await.expect(200);
    }
    for n in 1..13 {
        for path in ["job", "log", "artifacts"] {
            let answer = daemon.get(format!("/{path}/succeed/{}", id(n))).await;
            assert!(answer.status < 500, "{path} {n}: {}", answer.text());
            assert!(!answer.text().contains("outside:"), "{path} {n}");
        }
    }
    // An unfinished job that cannot be built again is over, not pending for ever.
    let pending = daemon.get("/index/?state=pending").await.json();
    assert_eq!(pending, json!([]), "{pending}");
    assert_eq!(tree(), before);
    assert_eq!(daemon.get("/status").await.json()["Running"], 0);
}

#[tokio::test]
async fn an_interrupted_job_whose_project_has_changed_ends_with_an_error_that_says_so() {
    let mut daemon = TestDaemon::with(&["succeed"]).await;
    daemon.home.engine.hold("create");
    let id = daemon.submit(job("succeed")).await;
    daemon.home.engine.wait_for("create", 1).await;
    daemon.stop().await;
    std::fs::write(daemon.home.projects().join("succeed/new"), "x").unwrap();
    daemon.home.engine.release("create");
    daemon.start_again().await;
    let info = daemon.wait("succeed", &id).await;
    assert_eq!(info["Outcome"], "errored");
    assert!(text(&info, "Err").contains("changed"), "{info}");
    assert_eq!(daemon.home.ids("succeed", "ready"), [id]);
}

#[tokio::test]
async fn a_killed_daemon_loses_no_build_and_mixes_no_logs() {
    let (home, daemon) = process(&["slow"]).await;
    let asked = json!({ "project": "slow", "params": { "a": "b", "_s": "opaque" } });
    let id = daemon.at.submit(&asked).await;
    // The first execution runs and has printed when the daemon is killed.
    let mut log = daemon.at.open(Ask::get(format!("/log/slow/{id}"))).await;
    log.until(|event| event.data == "waiting").await;
    let pid = daemon.end(Signal::KILL).await;
    assert_eq!(pid, -9);
    assert!(home.engine.containers()[0].running);
    assert_eq!(home.ids("slow", "pending"), [&*id]);

    let daemon = home.spawn().await;
    let pending = daemon
        .at
        .ask(Ask::get(format!("/job/slow/{id}")).json())
        .await
        .json();
    assert_eq!(
        (&pending["State"], &pending["BuildInfo"]["Attempt"]),
        (&json!("pending"), &json!(1))
    );
    // A request for it now joins.
    let at = daemon.at.clone();
    let joining = tokio::spawn(async move { at.ask(Ask::post("/jobs", &asked)).await });
    let gate = home.build("slow", "pending", &id).join("data/gate");
    assert_eq!(
        std::fs::read_to_string(gate.with_file_name("params/_s")).unwrap(),
        "opaque"
    );
    tokio::task::spawn_blocking(move || std::fs::write(gate, "").unwrap())
        .await
        .unwrap();
    let info = wait(&daemon.at, "slow", &id).await;
    assert_eq!(
        (&info["Outcome"], &info["Attempt"]),
        (&json!("succeeded"), &json!(1))
    );
    assert_eq!(joining.await.unwrap().expect(201).json()["ID"], json!(id));
    let log = std::fs::read_to_string(home.build("slow", "ready", &id).join("out.log")).unwrap();
    assert_eq!(
        log.matches("waiting").count(),
        1,
        "a log of one execution: {log}"
    );
    // The container ran on meanwhile, and was the only one.
    assert_eq!(home.engine.containers().len(), 1);
    assert!(home.ids("slow", "pending").is_empty());
}

#[tokio::test]
async fn jobs_that_were_queued_when_the_daemon_was_killed_are_built_too() {
    let home = Home::new().await;
    home.fixture("succeed");
    home.configure(&json!({ "job_concurrency": 1, "job_backlog": 4 }));
    let daemon = home.spawn().await;
    home.engine.hold("start");
    let mut ids = Vec::new();
    for n in 0..4 {
        let asked = json!({ "project": "succeed", "params": { "n": n.to_string() } });
        ids.push(daemon.at.submit(&asked).await);
    }
    home.engine.wait_for("start", 1).await;
    daemon.end(Signal::KILL).await;
    home.engine.release("start");
    // Also where they would not fit into the backlog any more.
    home.configure(&json!({ "job_concurrency": 1, "job_backlog": 1 }));
    let daemon = home.spawn().await;
    for id in &ids {
        assert_eq!(
            wait(&daemon.at, "succeed", id).await["Outcome"],
            "succeeded"
        );
    }
}

#[tokio::test]
async fn a_stopping_daemon_notifies_all_waiters_and_their_builds_continue_at_the_next_start() {
    let (home, daemon) = process(&["succeed"]).await;
    home.engine.hold("start");
    let at = daemon.at.clone();
    let waiting = tokio::spawn(async move { at.ask(Ask::post("/jobs", &job("succeed"))).await });
    home.engine.wait_for("start", 1).await;
    let stream = Ask::post("/jobs", &job("succeed")).with("accept", "text/event-stream");
    let stream = daemon.at.open(stream).await;
    assert_eq!(daemon.end(Signal::TERM).await, 0);
    let answer = waiting.await.unwrap().expect(503);
    let id = text(&answer.json(), "job").to_owned();
    assert_eq!(answer.header("location"), format!("/job/succeed/{id}"));
    assert!(answer.header("retry-after").parse::<u32>().is_ok());
    let events = stream.events().await;
    assert!(
        events.iter().all(|event| event.name != "result"),
        "{events:?}"
    );

    home.engine.release("start");
    let daemon = home.spawn().await;
    let info = wait(&daemon.at, "succeed", &id).await;
    assert_eq!(
        (&info["Outcome"], &info["ExitCode"]),
        (&json!("succeeded"), &json!(0))
    );
    assert_eq!(daemon.end(Signal::INT).await, 0);
}

#[tokio::test]
async fn containers_and_images_of_others_are_left_alone() {
    let (home, daemon) = process(&["slow", "succeed"]).await;
    let id = daemon.at.submit(&job("slow")).await;
    let mut log = daemon.at.open(Ask::get(format!("/log/slow/{id}"))).await;
    log.until(|event| event.data == "waiting").await;
    // Another build path on the same Engine: it begins, builds the same job, rebuilds, ends.
    let other = Home::new().await;
    other.fixture("slow");
    other.fixture("succeed");
    other.configure(&json!({}));
    let engine = format!("unix://{}", home.engine.socket().display());
    let second = other.serve_with("127.0.0.1:0", &engine).await;
    second
        .at
        .ask(Ask::post("/jobs", &job("succeed")))
        .await
        .expect(201);
    assert_eq!(second.at.submit(&job("slow")).await, id);
    let mut log = second.at.open(Ask::get(format!("/log/slow/{id}"))).await;
    log.until(|event| event.data == "waiting").await;
    let rebuild = Ask::post("/project/slow/rebuild", &json!({}));
    second.at.ask(rebuild).await.expect(200);
    second.end(Signal::KILL).await;
    let second = other.serve_with("127.0.0.1:0", &engine).await;
    let mut log = second.at.open(Ask::get(format!("/log/slow/{id}"))).await;
    log.until(|event| event.data == "waiting").await;
    let mine = &home.engine.containers()[0];
    assert!(mine.running && !mine.removed);
    for (place, at) in [(&home, &daemon.at), (&other, &second.at)] {
        let gate = place.build("slow", "pending", &id).join("data/gate");
        tokio::task::spawn_blocking(move || std::fs::write(gate, "").unwrap())
            .await
            .unwrap();
        assert_eq!(wait(at, "slow", &id).await["Outcome"], "succeeded");
    }
    let unknown = Ask::get(format!("/job/slow/{NEVER}")).json();
    daemon.at.ask(unknown).await.expect(404);
}

/// A FIFO; a process that hangs in opening it is released in the end, so that a test that
/// fails ends.
struct Fifo(PathBuf);

impl Fifo {
    fn make(path: PathBuf) -> Fifo {
        let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
        rustix::fs::mkfifoat(rustix::fs::CWD, &path, mode).unwrap();
        Fifo(path)
    }
}

impl Drop for Fifo {
    fn drop(&mut self) {
        use std::os::unix::fs::OpenOptionsExt;
        let nonblocking = rustix::fs::OFlags::NONBLOCK.bits() as i32;
        let _ = std::fs::File::options()
            .read(true)
            .write(true)
            .custom_flags(nonblocking)
            .open(&self.0);
    }
}

#[tokio::test]
async fn a_foreign_file_among_the_projects_prevents_no_start_and_no_list() {
    let mut daemon = TestDaemon::with(&["succeed"]).await;
    let good = daemon.build(job("succeed")).await;
    daemon.stop().await;
    let builds = daemon.home.builds();
    let ready = daemon.home.build("succeed", "ready", text(&good, "ID"));
    let id = |n: usize| format!("{n:064x}");
    // A finished build that cannot be put in place, because a file stands there.
    let pending = builds.join("x/pending");
    std::fs::create_dir_all(&pending).unwrap();
    std::fs::write(builds.join("x/ready"), "a file").unwrap();
    std::fs::create_dir(pending.join(id(1))).unwrap();
    std::fs::copy(
        ready.join("build_info.json"),
        pending.join(id(1)).join("build_info.json"),
    )
    .unwrap();
    std::fs::create_dir_all(pending.join(id(2)).join("build_info.json")).unwrap();
    // Root may read everything, so this says something only to other users.
    let closed = builds.join("closed");
    for name in ["pending", "ready", "groups"] {
        use std::os::unix::fs::PermissionsExt;
        let closed = closed.join(name);
        std::fs::create_dir_all(&closed).unwrap();
        std::fs::set_permissions(closed, PermissionsExt::from_mode(0o000)).unwrap();
    }
    daemon.start_again().await;
    assert_eq!(daemon.build(job("succeed")).await["Cached"], true);
    let list = daemon.get("/index/").await.expect(200).json();
    let ours = |item: &Value| item["id"] == good["ID"];
    assert!(list.as_array().unwrap().iter().any(ours), "{list}");
    for path in ["/", "/projects", "/metrics", "/index/?project=closed"] {
        daemon.ask(Ask::get(path)).await.expect(200);
    }
    for name in ["pending", "ready", "groups"] {
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(closed.join(name), PermissionsExt::from_mode(0o755)).unwrap();
    }
}

#[tokio::test]
async fn a_fifo_in_the_place_of_a_log_blocks_no_client() {
    let mut daemon = TestDaemon::with(&["succeed"]).await;
    let good = daemon.build(job("succeed")).await;
    let id = text(&good, "ID");
    daemon.stop().await;
    let log = daemon.home.build("succeed", "ready", id).join("out.log");
    std::fs::remove_file(&log).unwrap();
    let _fifo = Fifo::make(log);
    daemon.start_again().await;
    let (job_path, log_path) = (format!("/job/succeed/{id}"), format!("/log/succeed/{id}"));
    for (path, accept) in [
        (&log_path, "text/event-stream"),
        (&format!("{log_path}?text"), "*/*"),
        (&job_path, "text/html"),
        (&job_path, "application/json"),
    ] {
        let answer = daemon.ask(Ask::get(path).with("accept", accept)).await;
        assert!(answer.status < 500, "{path}: {}", answer.text());
    }
    let cached = daemon.build(job("succeed")).await;
    assert_eq!(cached["ExitCode"], 0, "{cached}");
}

#[tokio::test]
async fn a_client_that_waits_while_the_engine_does_not_answer_learns_that_nothing_was_accepted() {
    let (home, daemon) = process(&["succeed", "output"]).await;
    // An Engine is asked for its version before each build.
    let at = daemon.at.clone();
    at.ask(Ask::post("/jobs", &job("output"))).await.expect(201);
    let asked = home.engine.count("version");
    home.engine.hold("version");
    let waiting = tokio::spawn(async move { at.ask(Ask::post("/jobs", &job("succeed"))).await });
    home.engine.wait_for("version", asked + 1).await;
    daemon.end(Signal::TERM).await;
    let answer = waiting.await.unwrap().expect(503);
    assert_eq!(answer.header("location"), "", "{}", answer.text());
    assert!(answer.json().get("job").is_none(), "{}", answer.text());
    assert!(answer.header("retry-after").parse::<u32>().is_ok());
    assert!(home.ids("succeed", "pending").is_empty());
    home.engine.release("version");
}

#[tokio::test]
async fn jobs_on_disk_are_built_in_the_order_in_which_they_were_accepted() {
    let builder = TestDaemon::builder().await.slots(1).backlog(16);
    let mut daemon = builder.fixture("succeed").fixture("output").start().await;
    daemon.home.engine.hold("start");
    let mut accepted = Vec::new();
    for n in 0..8 {
        let project = ["succeed", "output"][n % 2];
        let asked = json!({ "project": project, "params": { "n": n.to_string() } });
        accepted.push((project, daemon.submit(asked).await));
    }
    daemon.home.engine.wait_for("start", 1).await;
    daemon.stop().await;
    daemon.home.engine.release("start");
    daemon.start_again().await;
    let mut started = Vec::new();
    for (project, id) in &accepted {
        let info = daemon.wait(project, id).await;
        assert_eq!(info["Outcome"], "succeeded", "{info}");
        let at: jiff::Timestamp = text(&info, "StartedAt").parse().unwrap();
        started.push((at, id.clone()));
    }
    started.sort();
    let made: Vec<_> = started.into_iter().map(|(_, id)| id).collect();
    let accepted: Vec<_> = accepted.into_iter().map(|(_, id)| id).collect();
    assert_eq!(made, accepted);
}

#[tokio::test]
async fn a_leftover_without_a_record_has_no_start_decades_ago() {
    let mut daemon = TestDaemon::with(&["succeed"]).await;
    daemon.stop().await;
    let place = daemon.home.build("succeed", "pending", NEVER);
    std::fs::create_dir_all(place.join("data")).unwrap();
    daemon.start_again().await;
    let info = daemon.wait("succeed", NEVER).await;
    assert_eq!(info["Outcome"], "errored", "{info}");
    let hour = 3_600_000_000_000;
    let duration = info["Duration"].as_i64().unwrap();
    assert!((0..hour).contains(&duration), "{info}");
    let started: jiff::Timestamp = text(&info, "StartedAt").parse().unwrap();
    let ago = jiff::Timestamp::now().duration_since(started).as_nanos();
    assert!((0..i128::from(hour)).contains(&ago), "{info}");
}

/// In the moment before a build is put in place its record says already that it is ready: it was not
/// found then, and fell out of the list.
#[test]
fn a_build_is_found_at_every_moment_of_being_put_in_place() {
    let dir = tempfile::tempdir().unwrap();
    let filesystem = Filesystem::detect(Kind::Plain, dir.path()).unwrap();
    let store = BuildStore::open(dir.path(), filesystem).unwrap();
    let id = "1".repeat(64);
    let place = dir.path().join("p/pending").join(&id);
    std::fs::create_dir_all(&place).unwrap();
    let record = r#"{"State":"ready","Outcome":"succeeded","StartedAt":"2026-01-01T00:00:00Z"}"#;
    std::fs::write(place.join("build_info.json"), record).unwrap();
    let found = store.find(&"p".parse().unwrap(), id.parse().unwrap());
    let info = found.unwrap().expect("it is not found");
    assert_eq!(info.state(), State::Pending);
}
