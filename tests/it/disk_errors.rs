//! An error of the disk is one record of the journal with its path, however many clients wait for what
//! failed; none of them gets a path or the message of the kernel.

use std::path::Path;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::{
    daemon::{Home, job, text},
    http::{Answer, Ask},
};

/// A home with a project and a build of it.
async fn built() -> (Home, String) {
    let home = Home::new().await;
    home.fixture("succeed");
    home.configure(&json!({}));
    let daemon = home.spawn().await;
    let answer = daemon.at.ask(Ask::post("/jobs", &job("succeed"))).await;
    let id = text(&answer.expect(201).json(), "ID").to_owned();
    assert_eq!(daemon.end(Signal::TERM).await, 0);
    (home, id)
}

fn replace_by_a_file(path: &Path) {
    let _ = std::fs::remove_dir_all(path);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, "in the way").unwrap();
}

/// The records of faults, whatever they are about. Warnings, such as of what is configured, are none.
fn faults(log: &str) -> Vec<String> {
    let is_fault = |line: &&str| line.contains(" ERROR ");
    log.lines().filter(is_fault).map(str::to_owned).collect()
}

/// The chain of causes in a record repeats none of them.
fn says_each_cause_once(fault: &str) {
    let (_, causes) = fault.split_once(" error=\"").unwrap();
    let causes: Vec<_> = causes.split(": ").collect();
    let mut each = causes.clone();
    each.sort_unstable();
    each.dedup();
    assert_eq!(each.len(), causes.len(), "{fault}");
}

fn is_a_sentence(home: &Home, answer: &Answer) {
    assert_eq!(answer.status, 500, "{}", answer.text());
    let text = answer.text();
    let builds = home.builds().display().to_string();
    for secret in [builds.as_str(), "os error", "directory", "Not a", "exists"] {
        assert!(!text.contains(secret), "{secret}: {text}");
    }
}

/// One fault of the disk: what is in the way, what is asked then, and which path the journal names.
struct Case {
    in_the_way: &'static str,
    ask: fn(&str) -> Ask,
    names: &'static str,
}

fn another() -> Value {
    json!({"project": "succeed", "params": {"n": "1"}})
}

const CASES: [Case; 3] = [
    // The record of a job cannot be written.
    Case {
        in_the_way: "succeed/pending",
        ask: |_| Ask::post("/jobs", &another()),
        names: "succeed/pending/",
    },
    Case {
        in_the_way: "succeed/groups",
        ask: |_| Ask::get("/project/succeed").json(),
        names: "succeed/groups",
    },
    Case {
        in_the_way: ".mistry/pins",
        ask: |id| {
            let path = format!("/job/succeed/{id}/pin");
            Ask::new("PUT", path).with("content-type", "application/json")
        },
        names: ".mistry/pins/",
    },
];

#[tokio::test]
async fn an_error_of_the_disk_is_one_record_with_its_path() {
    for case in CASES {
        let (home, id) = built().await;
        let daemon = home.spawn().await;
        // The list waits until the build path was read: that would find the file as well.
        daemon.at.ask(Ask::get("/index/")).await.expect(200);
        replace_by_a_file(&home.builds().join(case.in_the_way));
        let answer = daemon.at.ask((case.ask)(&id)).await;
        is_a_sentence(&home, &answer);
        let log = daemon.log_to_the_end().await;
        let faults = faults(&log);
        assert_eq!(faults.len(), 1, "{}: {log}", case.in_the_way);
        let path = home.builds().join(case.names);
        assert!(faults[0].contains(path.to_str().unwrap()), "{}", faults[0]);
        says_each_cause_once(&faults[0]);
    }
}

#[tokio::test]
async fn a_project_that_cannot_be_read_is_one_record_with_its_path() {
    let (home, _) = built().await;
    let daemon = home.spawn().await;
    let project = home.projects().join("succeed");
    std::fs::remove_dir_all(&project).unwrap();
    std::os::unix::fs::symlink("succeed", &project).unwrap();
    let answer = daemon.at.ask(Ask::post("/jobs", &another())).await;
    is_a_sentence(&home, &answer);
    assert!(answer.text().contains("'succeed'"), "{}", answer.text());
    let projects = home.projects();
    std::fs::remove_dir_all(&projects).unwrap();
    replace_by_a_file(&projects);
    let answer = daemon.at.ask(Ask::get("/projects").json()).await;
    is_a_sentence(&home, &answer);
    let log = daemon.log_to_the_end().await;
    let faults = faults(&log);
    assert_eq!(faults.len(), 2, "{log}");
    for (fault, path) in faults.iter().zip([&project, &projects]) {
        assert!(fault.contains(path.to_str().unwrap()), "{fault}");
        says_each_cause_once(fault);
    }
}

#[tokio::test]
async fn an_end_that_cannot_be_written_is_logged_once_for_all_waiters() {
    let (home, _) = built().await;
    let daemon = home.spawn().await;
    home.engine.hold("start");
    let mut waiting = Vec::new();
    let mut id = String::new();
    for _ in 0..3 {
        let ask = Ask::post("/jobs", &another()).with("accept", "text/event-stream");
        let mut stream = daemon.at.open(ask).await;
        let state = stream.event().await.unwrap();
        id = text(&state.json(), "ID").to_owned();
        waiting.push(stream);
    }
    home.engine.wait_for("start", 1).await;
    replace_by_a_file(&home.builds().join("succeed/ready"));
    home.engine.release("start");
    for stream in waiting {
        for event in stream.events().await {
            assert!(!event.data.contains("/ready"), "{}", event.data);
        }
    }
    let log = daemon.log_to_the_end().await;
    let ready = home.build("succeed", "ready", &id).display().to_string();
    let faults = faults(&log);
    let about = faults.iter().filter(|line| line.contains("could not put"));
    let about: Vec<_> = about.collect();
    assert_eq!(about.len(), 1, "{log}");
    assert!(about[0].contains(&ready) && about[0].contains(&id), "{log}");
}

#[tokio::test]
async fn a_torn_or_missing_record_is_logged_once_with_its_path() {
    for is_gone in [true, false] {
        let (home, id) = built().await;
        let record = home.build("succeed", "ready", &id).join("build_info.json");
        match is_gone {
            true => std::fs::remove_file(&record).unwrap(),
            false => std::fs::write(&record, "{\"torn").unwrap(),
        }
        let daemon = home.spawn().await;
        let info = daemon.at.ask(Ask::get(format!("/job/succeed/{id}")).json());
        let answer = info.await.expect(404);
        assert!(!answer.text().contains("build_info"), "{}", answer.text());
        // Lists wait until the tree has been read.
        daemon.at.ask(Ask::get("/index/").json()).await.expect(200);
        let log = daemon.log_to_the_end().await;
        let faults = faults(&log);
        assert_eq!(faults.len(), 1, "{log}");
        let directory = record.parent().unwrap().display().to_string();
        assert!(faults[0].contains(&directory), "{}", faults[0]);
    }
}
