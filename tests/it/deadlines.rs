//! Builds end: at their deadline, after too long a silence, at too long a log. The time counts from the
//! start of the run, also while the daemon is stopped.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{
    daemon::{Builder, TestDaemon, job, text},
    http::Ask,
};

/// Prints a line and waits at a gate for its exit code.
const GATED: &str = "
    mkfifo \"$DATA/gate\"; echo waiting
    read -r code < \"$DATA/gate\" || :
    echo over; exit \"${code:-0}\"";

const HOUR: Duration = Duration::from_secs(3_600);
const MOMENT: Duration = Duration::from_millis(300);

async fn gated() -> Builder {
    TestDaemon::builder().await.script("gated", GATED)
}

async fn until_waiting(daemon: &TestDaemon, id: &str) {
    let mut log = daemon.open(Ask::get(format!("/log/gated/{id}"))).await;
    log.until(|event| event.data == "waiting").await;
}

async fn open_gate(daemon: &TestDaemon, id: &str) {
    let gate = daemon.home.build("gated", "pending", id).join("data/gate");
    tokio::task::spawn_blocking(move || std::fs::write(gate, "0").unwrap())
        .await
        .unwrap();
}

/// Makes the build look started that much earlier.
fn age(daemon: &TestDaemon, id: &str, by: Duration) {
    let record = daemon
        .home
        .build("gated", "pending", id)
        .join("build_info.json");
    let mut value: Value = serde_json::from_slice(&std::fs::read(&record).unwrap()).unwrap();
    for key in ["Deadline", "RunningSince"] {
        if let Some(at) = value["Bookkeeping"][key].as_str() {
            let at: jiff::Timestamp = at.parse().unwrap();
            value["Bookkeeping"][key] = json!((at - by).to_string());
        }
    }
    for key in ["RunningUptime", "StartedUptime"] {
        if let Some(at) = value["Bookkeeping"][key].as_i64() {
            value["Bookkeeping"][key] = json!(at - i64::try_from(by.as_millis()).unwrap());
        }
    }
    std::fs::write(record, value.to_string()).unwrap();
}

fn is_timed_out(info: &Value, sentence: &str) {
    assert_eq!(info["Outcome"], "timed-out", "{info}");
    assert_eq!(info["ExitCode"], -999);
    assert_eq!(info["Err"], sentence);
    let last = format!("mistry: {sentence}\n");
    assert!(text(info, "ContainerStdouterr").ends_with(&last), "{info}");
}

#[tokio::test]
async fn a_build_over_its_deadline_is_stopped_with_an_error_that_says_so() {
    let daemon = gated().await.job_timeout(MOMENT).start().await;
    let info = daemon.build(job("gated")).await;
    is_timed_out(
        &info,
        "the build ran longer than 300ms (job_timeout) and was stopped",
    );
    assert!(!daemon.home.engine.containers()[0].running);
    // The project's own bound is the one in force.
    let settings = json!({"job_timeout": "1h"}).to_string();
    std::fs::write(daemon.home.projects().join("gated/mistry.json"), settings).unwrap();
    let id = daemon.submit(job("gated")).await;
    until_waiting(&daemon, &id).await;
    open_gate(&daemon, &id).await;
    assert_eq!(daemon.wait("gated", &id).await["Outcome"], "succeeded");
}

#[tokio::test]
async fn a_build_that_prints_nothing_for_too_long_is_stopped_with_an_error_that_says_so() {
    let daemon = gated().await.silence_timeout(MOMENT).start().await;
    let info = daemon.build(job("gated")).await;
    is_timed_out(
        &info,
        "the build printed nothing for 300ms (silence_timeout) and was stopped",
    );
}

/// Otherwise it would hold a slot for ever.
#[tokio::test]
async fn an_image_that_takes_too_long_is_given_up() {
    let daemon = gated().await.job_timeout(MOMENT).start().await;
    daemon.home.engine.hold("build");
    let info = daemon.build(job("gated")).await;
    is_timed_out(&info, "the image was not built within 300ms (job_timeout)");
    daemon.home.engine.release("build");
}

#[tokio::test]
async fn a_deadline_that_passed_while_no_daemon_ran_is_enforced() {
    let mut daemon = gated().await.job_timeout(HOUR).start().await;
    let id = daemon.submit(job("gated")).await;
    until_waiting(&daemon, &id).await;
    daemon.stop().await;
    age(&daemon, &id, HOUR / 2);
    daemon.start_again().await;
    assert_eq!(daemon.info("gated", &id).await["State"], "pending");
    daemon.stop().await;
    age(&daemon, &id, HOUR);
    daemon.start_again().await;
    let info = daemon.wait("gated", &id).await;
    is_timed_out(
        &info,
        "the build ran longer than 1h (job_timeout) and was stopped",
    );
    assert_eq!(info["Attempt"], 1);
}

/// Time without a running daemon does not count.
#[tokio::test]
async fn a_build_took_as_long_as_its_container_ran() {
    let mut daemon = gated().await.start().await;
    let id = daemon.submit(job("gated")).await;
    until_waiting(&daemon, &id).await;
    daemon.stop().await;
    open_gate(&daemon, &id).await;
    daemon.home.engine.ended(0).await;
    // Sets all times back by an hour.
    daemon.home.engine.age(HOUR);
    age(&daemon, &id, HOUR);
    let record = daemon.home.build("gated", "pending", &id);
    let record = record.join("build_info.json");
    let mut value: Value = serde_json::from_slice(&std::fs::read(&record).unwrap()).unwrap();
    let started: jiff::Timestamp = text(&value, "StartedAt").parse().unwrap();
    value["StartedAt"] = json!((started - HOUR).to_string());
    std::fs::write(record, value.to_string()).unwrap();
    daemon.start_again().await;
    let info = daemon.wait("gated", &id).await;
    assert_eq!(info["Outcome"], "succeeded");
    let took = Duration::from_nanos(info["Duration"].as_u64().unwrap());
    assert!(took < HOUR / 2, "{took:?}");
    let ran = Duration::from_millis(info["Phases"]["Run"].as_u64().unwrap());
    assert!(ran < HOUR / 2, "{ran:?}");
}

#[tokio::test]
async fn a_build_that_ended_before_its_deadline_is_not_timed_out_whenever_its_end_is_noticed() {
    let mut daemon = gated().await.job_timeout(HOUR).start().await;
    let mut ids = Vec::new();
    for n in ["early", "late"] {
        let id = daemon
            .submit(json!({"project": "gated", "params": {"n": n}}))
            .await;
        until_waiting(&daemon, &id).await;
        ids.push(id);
    }
    let [early, late] = ids.try_into().unwrap();
    daemon.stop().await;
    open_gate(&daemon, &early).await;
    daemon.home.engine.ended(0).await;
    // Sets all times back by two hours; the second one ends now.
    daemon.home.engine.age(2 * HOUR);
    age(&daemon, &early, 2 * HOUR);
    age(&daemon, &late, 2 * HOUR);
    open_gate(&daemon, &late).await;
    daemon.home.engine.ended(1).await;
    daemon.start_again().await;
    assert_eq!(daemon.wait("gated", &early).await["Outcome"], "succeeded");
    let info = daemon.wait("gated", &late).await;
    is_timed_out(
        &info,
        "the build ran longer than 1h (job_timeout) and was stopped",
    );
}

/// By the times of the log, not by when it is read.
#[tokio::test]
async fn a_silence_is_counted_while_no_daemon_runs_and_a_line_ends_it() {
    let mut daemon = gated().await.silence_timeout(HOUR).start().await;
    let id = daemon.submit(job("gated")).await;
    until_waiting(&daemon, &id).await;
    daemon.stop().await;
    // Started long ago, and noticed just now.
    age(&daemon, &id, 5 * HOUR);
    let looked = daemon.home.engine.count("logs");
    daemon.start_again().await;
    // It is followed, and its last line was looked at.
    daemon.home.engine.wait_for("logs", looked + 2).await;
    assert_eq!(daemon.info("gated", &id).await["State"], "pending");
    daemon.stop().await;
    daemon.home.engine.age(HOUR);
    daemon.start_again().await;
    let info = daemon.wait("gated", &id).await;
    is_timed_out(
        &info,
        "the build printed nothing for 1h (silence_timeout) and was stopped",
    );
}

#[tokio::test]
async fn a_project_has_a_bound_of_its_own_for_its_log() {
    let script = "i=0; while [ $i -lt 2000 ]; do echo 0123456789; i=$((i+1)); done";
    let daemon = TestDaemon::builder()
        .await
        .script("loud", script)
        .start()
        .await;
    assert_eq!(daemon.build(job("loud")).await["Outcome"], "succeeded");
    let settings = json!({"log_limit": "8K"}).to_string();
    std::fs::write(daemon.home.projects().join("loud/mistry.json"), settings).unwrap();
    let answer = daemon.post("/jobs", &job("loud")).await.expect(500).json();
    assert_eq!(
        answer["error"],
        "the build printed more than 8192 bytes (log_limit) and was stopped"
    );
    let info = daemon.info("loud", text(&answer, "job")).await;
    assert_eq!(info["Outcome"], "errored");
}

/// A decision about a build is made once.
#[tokio::test]
async fn a_stopped_build_stays_stopped_when_daemon_and_engine_die_before_its_container_ends() {
    let mut daemon = gated().await.silence_timeout(MOMENT).start().await;
    daemon.home.engine.hold("stop");
    let id = daemon.submit(job("gated")).await;
    daemon.home.engine.wait_for("stop", 1).await;
    daemon.stop().await;
    daemon.home.engine.take_down(true).await;
    daemon.home.engine.release("stop");
    daemon.start_again().await;
    let info = daemon.wait("gated", &id).await;
    is_timed_out(
        &info,
        "the build printed nothing for 300ms (silence_timeout) and was stopped",
    );
}
