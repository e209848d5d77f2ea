//! A client of a server whose queue is full asks again, and one whose job waits learns its place.

use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};

use serde_json::json;

use crate::support::{cli::mistry, daemon::TestDaemon};

/// A server with one slot, whose builds do not start before `release("start")`, and two jobs.
async fn busy(backlog: usize) -> TestDaemon {
    let daemon = TestDaemon::builder().await.slots(1).backlog(backlog);
    let daemon = daemon.fixture("succeed").start().await;
    daemon.home.engine.hold("start");
    for n in ["1", "2"] {
        let job = json!({"project": "succeed", "params": {"n": n}});
        daemon.submit(job).await;
    }
    daemon
}

/// Begins a third build; the first line that it prints to standard error.
async fn third(daemon: &TestDaemon) -> (Child, String) {
    let port = daemon.port().to_string();
    let arguments = [
        "build",
        "--port",
        &port,
        "--project",
        "succeed",
        "--",
        "n=3",
    ];
    let mut command = mistry(&arguments);
    command
        .current_dir(daemon.home.path(""))
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap());
    let line = tokio::task::spawn_blocking(move || {
        let mut line = String::new();
        lines.read_line(&mut line).unwrap();
        // The rest goes nowhere, but must be read.
        std::thread::spawn(move || std::io::copy(&mut lines, &mut std::io::sink()));
        line
    });
    (child, line.await.unwrap())
}

async fn succeeds(mut child: Child) {
    let ended = tokio::task::spawn_blocking(move || child.wait().unwrap());
    assert!(ended.await.unwrap().success());
}

#[tokio::test]
async fn a_client_of_a_full_queue_asks_again_until_it_has_a_place() {
    let daemon = busy(1).await;
    let (child, line) = third(&daemon).await;
    let told = "Server is overloaded; try again later (running: 1, waiting: 1, as many as job_backlog \
                on the server allows). This command asks again for up to 10 m 0 s; --no-retry ends it at once\n";
    assert_eq!(line, told);
    daemon.home.engine.release("start");
    succeeds(child).await;
}

#[tokio::test]
async fn a_client_whose_job_waits_learns_its_place() {
    let daemon = busy(2).await;
    let (child, line) = third(&daemon).await;
    assert_eq!(line, "Waiting for a slot (2nd of 2 in the queue)\n");
    daemon.home.engine.release("start");
    succeeds(child).await;
}

#[tokio::test]
async fn a_client_whose_job_waits_in_a_paused_queue_learns_that() {
    let daemon = busy(2).await;
    let answer = daemon.post("/queue/pause", &json!({})).await;
    answer.expect(204);
    let (child, line) = third(&daemon).await;
    assert_eq!(
        line,
        "Waiting for a slot (2nd of 2 in the queue, which is paused until 'mistry resume')\n"
    );
    daemon.home.engine.release("start");
    daemon.post("/queue/resume", &json!({})).await.expect(204);
    succeeds(child).await;
}
