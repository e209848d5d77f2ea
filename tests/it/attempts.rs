//! The executions of a job: each has a number, and the record and the log of an earlier one can be read
//! after the job was built again, also over crashes, and within bounds.

use std::path::{Path, PathBuf};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::recovery::read;
use crate::support::{
    cli::mistry,
    daemon::{Builder, Home, TestDaemon, job, names, text},
    http::{Answer, Ask, At},
    process::{Process, run, served},
};

/// A project whose builds fail with 9 while a file is there, and print which of the two they are.
fn switched(home: &Home) -> PathBuf {
    let flag = home.path("fail");
    let lines = format!(
        "[ ! -e '{}' ] || {{ echo red; exit 9; }}\necho green; echo x > $D/artifacts/a",
        flag.display()
    );
    home.script("p", &lines);
    flag
}

async fn builder() -> (Builder, PathBuf) {
    let builder = TestDaemon::builder().await;
    let flag = switched(&builder.home);
    (builder, flag)
}

fn rebuild() -> Value {
    json!({ "project": "p", "rebuild": true })
}

fn counts(info: &Value) -> (u64, u64, bool) {
    let number = |name: &str| info[name].as_u64().unwrap();
    (number("Number"), number("Numbers"), info["Flaky"] == true)
}

/// The kept executions of a job: number, outcome, whether it is served.
async fn listed(at: &At, id: &str) -> Vec<(u64, String, bool)> {
    let list = at.ask(Ask::get(format!("/job/p/{id}/attempts")).json());
    let list = list.await.expect(200).json();
    let one = |one: &Value| {
        let number = one["Number"].as_u64().unwrap();
        (
            number,
            text(one, "Outcome").to_owned(),
            one["Served"] == true,
        )
    };
    list.as_array().unwrap().iter().map(one).collect()
}

fn kept(list: &[(u64, &str, bool)]) -> Vec<(u64, String, bool)> {
    let one =
        |(number, outcome, served): &(u64, &str, bool)| (*number, (*outcome).to_owned(), *served);
    list.iter().map(one).collect()
}

async fn attempt(at: &At, id: &str, number: u64) -> Value {
    let ask = Ask::get(format!("/job/p/{id}?attempt={number}")).json();
    at.ask(ask).await.expect(200).json()["BuildInfo"].clone()
}

async fn log(at: &At, path: &str) -> Answer {
    at.ask(Ask::get(path).with("accept", "text/plain")).await
}

/// Names in it that are no numbers of attempts.
const FOREIGN: [&str; 7] = ["x", "01", "+2", "0", "7.new", "-1", "99999999999"];

/// The directory of a job's attempts.
fn attempts_of(home: &Home, id: &str) -> PathBuf {
    home.builds().join(".mistry/attempts/p").join(id)
}

#[tokio::test]
async fn a_link_to_a_red_build_shows_it_after_the_job_is_green() {
    let (builder, flag) = builder().await;
    std::fs::write(&flag, "").unwrap();
    let daemon = builder.start().await;
    let at = daemon.at();
    // The image is there from now on: the logs below hold only what the container printed.
    daemon
        .build(json!({ "project": "p", "params": { "n": "0" } }))
        .await;
    let red = daemon.build(job("p")).await;
    let id = text(&red, "ID").to_owned();
    assert_eq!(counts(&red), (1, 1, false));
    let path = format!("/log/p/{id}?attempt=1");
    let before = log(&at, &path).await.expect(200);
    std::fs::remove_file(&flag).unwrap();
    let green = daemon.build(job("p")).await;
    assert_eq!(text(&green, "ID"), id);
    assert_eq!(counts(&green), (2, 2, true));
    assert_eq!(
        counts(&daemon.build(job("p")).await),
        (2, 2, true),
        "cached"
    );

    // The record.
    let shown = attempt(&at, &id, 1).await;
    assert_eq!(
        (&shown["ExitCode"], &shown["StartedAt"]),
        (&json!(9), &red["StartedAt"])
    );
    assert_eq!(counts(&shown), (1, 2, true));
    assert_eq!(
        (text(&shown, "ContainerStdouterr"), text(&shown, "Path")),
        ("red\n", "")
    );
    assert_eq!(attempt(&at, &id, 2).await["ExitCode"], 0);
    let list = [(2, "succeeded", true), (1, "failed", false)];
    assert_eq!(listed(&at, &id).await, kept(&list));
    // The log, in each form.
    let after = log(&at, &path).await.expect(200);
    assert_eq!(
        (after.text(), after.header("mistry-log")),
        (before.text(), before.header("mistry-log"))
    );
    assert_eq!(after.text(), "red\n");
    assert_eq!(log(&at, &format!("/log/p/{id}")).await.text(), "green\n");
    let followed = log(&at, &format!("{path}&follow&from=1")).await.expect(200);
    assert_eq!(followed.text(), "ed\n");
    let lines = daemon.get(format!("{path}&lines")).await.expect(200).json();
    assert_eq!((&lines["Length"], &lines["Lines"]), (&json!(4), &json!(1)));
    let found = daemon
        .get(format!("{path}&find=RED"))
        .await
        .expect(200)
        .json();
    assert_eq!(found["Count"], 1);
    let events = daemon.open(Ask::get(path.as_str())).await.events().await;
    assert_eq!(events[0].data, "red");
    let end: Value = serde_json::from_str(&events.last().unwrap().data).unwrap();
    assert_eq!(
        (&end["Outcome"], &end["ExitCode"]),
        (&json!("failed"), &json!(9))
    );
    let over = Ask::get(path.as_str()).with("last-event-id", "4");
    daemon.ask(over).await.expect(204);
    // The page.
    let page = daemon
        .ask(Ask::get(format!("/job/p/{id}?attempt=1")))
        .await
        .expect(200)
        .text();
    for part in [
        "failed with exit code 9",
        "attempt 1 of 2",
        "flaky",
        "red\n",
        &format!("/job/p/{id}?attempt=2"),
    ] {
        assert!(page.contains(part), "{part}: {page}");
    }
    assert!(!page.contains("/artifacts/"), "{page}");
    let page = daemon
        .ask(Ask::get(format!("/job/p/{id}")))
        .await
        .expect(200)
        .text();
    assert!(
        page.contains("attempt 2 of 2") && page.contains("/artifacts/"),
        "{page}"
    );
    // Lists.
    let index = daemon.get("/index/").await.json();
    assert_eq!(counts(&index[0]["buildInfo"]), (2, 2, true));
    let rows = daemon.ask(Ask::get("/")).await.text();
    assert!(
        rows.contains(&format!("/job/p/{id}?attempt=2")) && rows.contains("flaky"),
        "{rows}"
    );
    // The disk: the data of the served execution alone, and nothing new where the first mistry looks.
    assert_eq!(names(&attempts_of(&daemon.home, &id)), ["1"]);
    let files = names(&attempts_of(&daemon.home, &id).join("1"));
    assert_eq!(files, ["build_info.json", "out.log", "out.times"]);
    assert_eq!(
        names(&daemon.home.builds().join("p")),
        ["latest", "pending", "ready"]
    );
    // The client.
    let cli = async |verb: &str| {
        let server = format!("http://127.0.0.1:{}", daemon.port());
        let mut command = mistry(&[verb, &id[..9], "--attempt", "1"]);
        command.env("MISTRY_URL", server);
        run(command).await
    };
    let status = cli("status").await;
    for (name, value) in [
        ("attempt ", "1 of 2, flaky"),
        ("exit code", " 9"),
        ("attempt 2", ", served"),
        ("page", "?attempt=1"),
    ] {
        let mut lines = status.stdout.lines();
        let is_there = lines.any(|line| line.starts_with(name) && line.ends_with(value));
        assert!(is_there, "{name}: {status:?}");
    }
    assert_eq!(cli("logs").await.stdout, "red\n");
}

#[tokio::test]
async fn a_failed_rebuild_is_an_attempt_beside_the_build_that_stays() {
    let (builder, flag) = builder().await;
    let daemon = builder.start().await;
    let at = daemon.at();
    let good = daemon.build(job("p")).await;
    let id = text(&good, "ID").to_owned();
    std::fs::write(&flag, "").unwrap();
    daemon.home.engine.hold("start");
    let failing = daemon.asking(Ask::post("/jobs", &rebuild()));
    daemon.home.engine.wait_for("start", 2).await;
    let waiting = daemon.asking(Ask::get(format!("/job/p/{id}?wait")).json());
    // While it runs, each number shows its own execution.
    assert_eq!(daemon.info("p", &id).await["Number"], 2);
    assert_eq!(attempt(&at, &id, 1).await["Outcome"], "succeeded");
    assert_eq!(attempt(&at, &id, 2).await["State"], "pending");
    daemon.home.engine.release("start");
    let bad = failing.await.unwrap().expect(201).json();
    assert_eq!((counts(&bad), &bad["ExitCode"]), ((2, 2, true), &json!(9)));
    let waited = waiting.await.unwrap().expect(200).json();
    assert!(waited["BuildInfo"]["Numbers"] == 2, "{waited}");

    let stays = daemon.info("p", &id).await;
    assert_eq!(
        (counts(&stays), &stays["StartedAt"]),
        ((1, 2, true), &good["StartedAt"])
    );
    let cached = daemon.build(job("p")).await;
    assert_eq!(
        (counts(&cached), &cached["Cached"]),
        ((1, 2, true), &json!(true))
    );
    let shown = attempt(&at, &id, 2).await;
    assert_eq!(
        (
            &shown["ExitCode"],
            text(&shown, "ContainerStdouterr").ends_with("red\n")
        ),
        (&json!(9), true)
    );
    let list = [(2, "failed", false), (1, "succeeded", true)];
    assert_eq!(listed(&at, &id).await, kept(&list));
    assert!(
        log(&at, &format!("/log/p/{id}?attempt=2"))
            .await
            .text()
            .ends_with("red\n")
    );
    let page = daemon.ask(Ask::get(format!("/job/p/{id}"))).await.text();
    for part in [
        "A later attempt failed with exit code 9",
        &format!("/job/p/{id}?attempt=2"),
    ] {
        assert!(page.contains(part), "{part}: {page}");
    }
    // A start changes nothing.
    let mut daemon = daemon;
    daemon.stop().await;
    daemon.start_again().await;
    assert_eq!(listed(&daemon.at(), &id).await, kept(&list));
    std::fs::remove_file(&flag).unwrap();
    assert_eq!(counts(&daemon.build(rebuild()).await), (3, 3, true));
}

#[tokio::test]
async fn at_most_as_many_attempts_are_kept_as_configured() {
    let (builder, flag) = builder().await;
    std::fs::write(&flag, "").unwrap();
    let mut daemon = builder.keep_attempts(2).start().await;
    let mut id = String::new();
    for number in 1..6 {
        let info = daemon.build(job("p")).await;
        assert_eq!(info["Number"], number);
        text(&info, "ID").clone_into(&mut id);
    }
    let at = daemon.at();
    let list = [
        (5, "failed", true),
        (4, "failed", false),
        (3, "failed", false),
    ];
    assert_eq!(listed(&at, &id).await, kept(&list));
    daemon.stop().await;
    assert_eq!(names(&attempts_of(&daemon.home, &id)), ["3", "4"]);
    daemon.start_again().await;
    for (query, status, sentence) in [
        ("attempt=1", 404, "keep_attempts"),
        ("attempt=6", 404, "the last one is 5"),
        ("attempt=4294967296", 400, "attempt: "),
        ("attempt=0", 400, "attempt: "),
        ("attempt=x", 400, "attempt: "),
        ("attempt", 400, "attempt: "),
    ] {
        for path in ["job", "log"] {
            let answer = daemon.get(format!("/{path}/p/{id}?{query}")).await;
            let said = answer.expect(status).text();
            assert!(said.contains(sentence), "{path} {query}: {said}");
        }
    }
}

#[tokio::test]
async fn numbers_increase_also_when_no_attempt_is_kept() {
    let (builder, flag) = builder().await;
    let daemon = builder.keep_attempts(0).start().await;
    let good = daemon.build(job("p")).await;
    let id = text(&good, "ID");
    std::fs::write(&flag, "").unwrap();
    for number in [2, 3] {
        let bad = daemon.build(rebuild()).await;
        assert_eq!(
            (
                &bad["Number"],
                text(&bad, "ContainerStdouterr").ends_with("red\n")
            ),
            (&json!(number), true)
        );
    }
    assert_eq!(counts(&daemon.info("p", id).await), (1, 3, false));
    assert_eq!(
        listed(&daemon.at(), id).await,
        kept(&[(1, "succeeded", true)])
    );
    daemon
        .get(format!("/job/p/{id}?attempt=3"))
        .await
        .expect(404);
    assert!(!attempts_of(&daemon.home, id).exists());
}

#[tokio::test]
async fn ten_thousand_attempts_of_one_job_cost_no_more_than_the_bound() {
    let (builder, flag) = builder().await;
    std::fs::write(&flag, "").unwrap();
    let mut daemon = builder.start().await;
    let id = text(&daemon.build(job("p")).await, "ID").to_owned();
    daemon.stop().await;
    let ready = daemon.home.build("p", "ready", &id);
    let attempts = attempts_of(&daemon.home, &id);
    for number in 1..10_001 {
        let attempt = attempts.join(number.to_string());
        std::fs::create_dir_all(&attempt).unwrap();
        for name in ["build_info.json", "out.log"] {
            std::fs::hard_link(ready.join(name), attempt.join(name)).unwrap();
        }
    }
    // Names that are no numbers are not attempts.
    for name in FOREIGN {
        std::fs::create_dir(attempts.join(name)).unwrap();
    }
    daemon.start_again().await;
    let at = daemon.at();
    let list = listed(&at, &id).await;
    assert_eq!(list.len(), 11, "{list:?}");
    assert_eq!(list[0].0, 10_000);
    let next = daemon.build(job("p")).await;
    assert_eq!(next["Number"], 10_001);
    daemon.stop().await;
    // The oldest go first, a bounded number at each end of a build.
    let mut left: Vec<u32> = names(&attempts)
        .iter()
        .filter(|name| !FOREIGN.contains(&name.as_str()))
        .map(|name| name.parse().unwrap())
        .collect();
    left.sort_unstable();
    assert_eq!(left, (1_001..10_001).collect::<Vec<u32>>());
}

#[tokio::test]
async fn a_build_is_removed_with_its_attempts() {
    let (builder, flag) = builder().await;
    std::fs::write(&flag, "").unwrap();
    let mut daemon = builder.start().await;
    let id = text(&daemon.build(job("p")).await, "ID").to_owned();
    daemon.build(job("p")).await;
    let delete = || {
        let delete = Ask::new("DELETE", format!("/job/p/{id}"));
        delete.with("content-type", "application/json")
    };
    daemon.ask(delete()).await.expect(204);
    assert!(!attempts_of(&daemon.home, &id).exists());
    for path in ["", "?attempt=1", "/attempts"] {
        let answer = daemon.get(format!("/job/p/{id}{path}")).await;
        assert!(answer.expect(404).text().contains("unknown job"), "{path}");
    }
    // Garbage collection does the same, and counts their bytes.
    daemon.build(job("p")).await;
    daemon.build(job("p")).await;
    // Until it is measured.
    daemon.stop().await;
    let log = attempts_of(&daemon.home, &id).join("1/out.log");
    std::fs::write(&log, vec![b'x'; 1 << 20]).unwrap();
    let ready = std::fs::File::open(daemon.home.build("p", "ready", &id)).unwrap();
    let long_ago = std::time::SystemTime::now() - std::time::Duration::from_secs(9 * 24 * 3600);
    ready.set_modified(long_ago).unwrap();
    daemon.start_again().await;
    let done = daemon
        .post("/gc", &json!({ "max_age": "7d" }))
        .await
        .expect(200)
        .json();
    assert_eq!(done["Removed"][0]["Place"], "ready", "{done}");
    assert!(done["Bytes"].as_u64().unwrap() >= 1 << 20, "{done}");
    assert!(!attempts_of(&daemon.home, &id).exists());
}

/// Makes a record look as an earlier version wrote it.
fn of_earlier_version(directory: &Path, changes: &Value, order: u64) {
    let path = directory.join("build_info.json");
    let mut record = read(&path);
    for name in ["Number", "Numbers", "Flaky"] {
        record.as_object_mut().unwrap().remove(name);
    }
    for (name, value) in changes.as_object().unwrap() {
        record[name] = value.clone();
    }
    record["Bookkeeping"]["Number"] = json!(order);
    std::fs::write(path, record.to_string()).unwrap();
}

#[tokio::test]
async fn failed_rebuilds_of_earlier_versions_become_attempts() {
    for (ready_order, list) in [
        (1, [(2, "failed", false), (1, "succeeded", true)]),
        // The rebuild had failed before another one succeeded.
        (3, [(2, "succeeded", true), (1, "failed", false)]),
    ] {
        let (builder, _) = builder().await;
        let mut daemon = builder.start().await;
        let good = daemon.build(job("p")).await;
        let id = text(&good, "ID").to_owned();
        daemon.stop().await;
        let (ready, failed) = (
            daemon.home.build("p", "ready", &id),
            daemon.home.build("p", "failed", &id),
        );
        std::fs::create_dir_all(failed.join("data/artifacts")).unwrap();
        std::fs::copy(
            ready.join("build_info.json"),
            failed.join("build_info.json"),
        )
        .unwrap();
        std::fs::write(failed.join("out.log"), "of old\n").unwrap();
        let changes = json!({ "ExitCode": 9, "Outcome": "failed" });
        of_earlier_version(&failed, &changes, 2);
        of_earlier_version(&ready, &json!({}), ready_order);
        let copy = daemon.home.path("copy");
        let copied = std::process::Command::new("cp")
            .arg("-a")
            .args([&failed, &copy])
            .status();
        assert!(copied.unwrap().success());
        // The second time as after a crash between two steps.
        for _ in 0..2 {
            daemon.start_again().await;
            let at = daemon.at();
            assert_eq!(listed(&at, &id).await, kept(&list));
            let bad = if ready_order == 1 { 2 } else { 1 };
            let path = format!("/log/p/{id}?attempt={bad}");
            assert_eq!(log(&at, &path).await.expect(200).text(), "of old\n");
            let now = daemon.info("p", &id).await;
            assert_eq!((&now["Numbers"], &now["Flaky"]), (&json!(2), &json!(true)));
            assert_eq!(daemon.build(job("p")).await["StartedAt"], good["StartedAt"]);
            assert!(!daemon.home.builds().join("p/failed").exists());
            daemon.stop().await;
            std::fs::create_dir(daemon.home.builds().join("p/failed")).unwrap();
            let copied = std::process::Command::new("cp")
                .arg("-a")
                .args([&copy, &failed])
                .status();
            assert!(copied.unwrap().success());
        }
    }
}

pub(crate) async fn faulty(home: &Home, fault: &str) -> Process {
    let mut command = home.mistryd();
    command
        .args(["--addr", "127.0.0.1:0"])
        .env("MISTRY_FAULTS", fault);
    served(command).await
}

/// Fault points are there in debug builds, which this one is.
#[tokio::test]
async fn a_kill_between_any_two_steps_loses_neither_execution() {
    // Which execution reaches the point: the second of the process, or the first that is kept.
    let replacing = [
        "finish-record@2",
        "in-place@2",
        "attempt-made",
        "attempt-kept",
        "replaced",
        "finished@2",
        "answered@2",
    ];
    let beside = [
        "finish-record@2",
        "attempt-counted",
        "attempt-made",
        "attempt-kept",
        "finished@2",
        "answered@2",
    ];
    let cases = replacing.map(|point| (point, true)).into_iter();
    for (point, is_red_first) in cases.chain(beside.map(|point| (point, false))) {
        let home = Home::new().await;
        let flag = switched(&home);
        home.configure(&json!({}));
        let (name, time) = point
            .split_once('@')
            .map_or((point, "1"), |(name, time)| (name, time));
        let daemon = faulty(&home, &format!("{name}=kill@{time}")).await;
        let set = |is_red: bool| match is_red {
            true => std::fs::write(&flag, "").unwrap(),
            false => std::fs::remove_file(&flag).unwrap_or_default(),
        };
        set(is_red_first);
        let first = daemon
            .at
            .ask(Ask::post("/jobs", &job("p")))
            .await
            .expect(201)
            .json();
        let id = text(&first, "ID").to_owned();
        set(!is_red_first);
        let at = daemon.at.clone();
        // Its connection ends with the process.
        let second = tokio::spawn(async move { at.ask(Ask::post("/jobs", &rebuild())).await });
        let _ = second.await;
        assert_eq!(daemon.end(Signal::KILL).await, -9, "{point}");

        let daemon = home.spawn().await;
        let at = &daemon.at;
        let waiting = Ask::get(format!("/job/p/{id}?wait")).json();
        at.ask(waiting).await.expect(200);
        let list = match is_red_first {
            true => [(2, "succeeded", true), (1, "failed", false)],
            false => [(2, "failed", false), (1, "succeeded", true)],
        };
        assert_eq!(listed(at, &id).await, kept(&list), "{point} {is_red_first}");
        for (number, outcome, _) in list {
            let path = format!("/log/p/{id}?attempt={number}");
            let printed = log(at, &path).await.expect(200).text();
            let word = if outcome == "failed" {
                "red\n"
            } else {
                "green\n"
            };
            assert!(printed.ends_with(word), "{point} {number}: {printed}");
            let info = attempt(at, &id, number).await;
            assert_eq!(counts(&info), (number, 2, true), "{point}");
        }
        assert!(home.ids("p", "pending").is_empty(), "{point}");
        set(false);
        let next = at
            .ask(Ask::post("/jobs", &rebuild()))
            .await
            .expect(201)
            .json();
        assert_eq!(next["Number"], 3, "{point}");
    }
}
