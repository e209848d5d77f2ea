//! Secrets of a build are masked in its log before it is written: in whatever pieces and forms they are
//! printed, over restarts of the daemon, and in everything that is made of the log.

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::recovery::{process, wait};
use crate::support::{
    daemon::{Home, TestDaemon, job, text},
    http::{Ask, Opened},
};

const SECRET: &str = "hunter2/&\"x y";

/// Prints half of the secret, waits at a gate, and prints the rest.
const CUT: &str = "
    mkfifo \"$DATA/gate\"; t=$(cat params/_token)
    printf 'whole %s\\nhalf %s' \"$t\" \"$(printf %s \"$t\" | cut -c1-6)\"
    read -r _ < \"$DATA/gate\" || :
    printf '%s end\\nerror %s\\n' \"$(printf %s \"$t\" | cut -c7-)\" \"$t\"";
const MASKED: &str = "whole ***\nhalf *** end\nerror ***\n";

fn with_secret(project: &str) -> Value {
    json!({ "project": project, "params": { "_token": SECRET } })
}

/// Everything in the build path, also what clients never see.
fn whole_disk(home: &Home) -> String {
    let grep = std::process::Command::new("grep")
        .args(["-rlaE", "hunter|aHVudGVy|h1bnRlc|odW50ZX"])
        .arg(home.builds())
        .output();
    String::from_utf8(grep.unwrap().stdout).unwrap()
}

/// The log behind the image build.
fn printed(log: &str) -> String {
    let (_, printed) = log.split_once("Successfully tagged mistry-").unwrap();
    let (_, printed) = printed.split_once('\n').unwrap();
    printed.to_owned()
}

fn written(home: &Home, project: &str, state: &str, id: &str) -> String {
    let path = home.build(project, state, id).join("out.log");
    String::from_utf8_lossy(&std::fs::read(path).unwrap()).into_owned()
}

fn followed(project: &str, id: &str) -> Ask {
    Ask::get(format!("/log/{project}/{id}?text&follow"))
}

async fn until(mut log: Opened, end: &str) -> String {
    let mut seen = Vec::new();
    loop {
        let piece = log.piece().await.unwrap();
        seen.extend_from_slice(&piece);
        let text = String::from_utf8_lossy(&seen);
        if text.ends_with(end) {
            return text.into_owned();
        }
    }
}

async fn open_gate(home: &Home, id: &str) {
    let gate = home.build("cut", "pending", id).join("data/gate");
    tokio::task::spawn_blocking(move || std::fs::write(gate, "").unwrap())
        .await
        .unwrap();
}

#[tokio::test]
async fn a_secret_is_masked_in_each_form_and_in_everything_that_quotes_the_log() {
    let script = r#"
        t=$(cat params/_token)
        echo "it is $t!"
        printf %s "$t" | base64; echo "$t" | base64; printf 'user:%s' "$t" | base64
        echo 'hunter2%2F%26%22x%20y hunter2%2f%26%22x%20y hunter2%2F%26%22x+y'
        echo 'hunter2/&\"x y hunter2/\u0026\"x y'
        echo "pin: $(cat params/_pin)"
        echo "failed with $t" >&2; exit 3"#;
    let daemon = TestDaemon::builder().await.script("leaky", script);
    let daemon = daemon.start().await;
    let mut job = with_secret("leaky");
    job["params"]["_pin"] = json!("12345");
    job["params"]["_long"] = json!("x".repeat((64 << 10) + 1));
    let info = daemon.build(job).await;
    assert_eq!(info["ExitCode"], 3);
    let id = text(&info, "ID");
    assert_eq!(text(&info, "ContainerStderr"), "failed with ***\n");
    let log = written(&daemon.home, "leaky", "ready", id);
    let head = "mistry: masked in this log: _token\n\
        mistry: not masked in this log, because too long: _long\n\
        mistry: not masked in this log, because shorter than 6 bytes: _pin\n";
    assert!(log.starts_with(head), "{log}");
    let lines: Vec<String> = printed(&log).lines().map(str::to_owned).collect();
    for line in [
        "it is ***!",
        "***",
        "*** *** ***",
        "*** ***",
        "pin: 12345",
        "failed with ***",
    ] {
        assert!(lines.iter().any(|printed| printed == line), "{line}: {log}");
    }
    assert!(log.contains("\ndXNlcjp***\n"), "{log}");
    assert!(
        text(&info, "ContainerStdouterr").contains("it is ***!"),
        "{info}"
    );
    assert_eq!(whole_disk(&daemon.home), "");
}

#[tokio::test]
async fn a_param_that_is_no_secret_is_not_masked() {
    let daemon = TestDaemon::builder().await;
    let daemon = daemon
        .script("plain", "echo in $(cat params/_env)")
        .start()
        .await;
    let settings = daemon.home.projects().join("plain/mistry.json");
    let job = json!({ "project": "plain", "params": { "_env": "production" } });
    for (settings_text, shown) in [
        (r#"{"params":{"_env":{"secret":false}}}"#, "in production\n"),
        (r#"{"params":{"_env":{"secret":true}}}"#, "in ***\n"),
        (r#"{"params":{"_env":{}}}"#, "in ***\n"),
        ("{}", "in ***\n"),
    ] {
        std::fs::write(&settings, settings_text).unwrap();
        let info = daemon.build(job.clone()).await;
        let log = written(&daemon.home, "plain", "ready", text(&info, "ID"));
        assert_eq!(printed(&log), shown, "{settings_text}");
        let is_masked = log.starts_with("mistry: masked in this log: _env\n");
        assert_eq!(is_masked, shown.contains('*'), "{log}");
    }
}

#[tokio::test]
async fn a_secret_in_two_pieces_is_masked_and_only_its_beginning_waits() {
    let daemon = TestDaemon::builder().await.script("cut", CUT).start().await;
    let id = daemon.submit(with_secret("cut")).await;
    // Followers have all that cannot be the secret while the build waits.
    let log = daemon.open(followed("cut", &id)).await;
    until(log, "whole ***\nhalf ").await;
    open_gate(&daemon.home, &id).await;
    let info = daemon.wait("cut", &id).await;
    assert_eq!(info["Outcome"], "succeeded");
    assert_eq!(printed(&written(&daemon.home, "cut", "ready", &id)), MASKED);
    assert_eq!(whole_disk(&daemon.home), "");
}

#[tokio::test]
async fn a_secret_is_masked_over_restarts_in_its_middle_and_no_byte_is_missing_or_doubled() {
    let mut daemon = TestDaemon::builder().await.script("cut", CUT).start().await;
    let id = daemon.submit(with_secret("cut")).await;
    let log = daemon.open(followed("cut", &id)).await;
    until(log, "\nhalf ").await;
    for _ in 0..2 {
        daemon.stop().await;
        // What is masked was decided when the build began.
        let settings = r#"{"params":{"_token":{"secret":false}}}"#;
        std::fs::write(daemon.home.projects().join("cut/mistry.json"), settings).unwrap();
        daemon.start_again().await;
    }
    open_gate(&daemon.home, &id).await;
    let info = daemon.wait("cut", &id).await;
    assert_eq!(
        (&info["Outcome"], &info["Attempt"]),
        (&json!("succeeded"), &json!(1))
    );
    assert_eq!(printed(&written(&daemon.home, "cut", "ready", &id)), MASKED);
}

#[tokio::test]
async fn a_daemon_that_is_killed_in_the_middle_of_a_secret_loses_and_doubles_nothing() {
    let (home, daemon) = process(&[]).await;
    home.script("cut", CUT);
    let id = daemon.at.submit(&with_secret("cut")).await;
    let log = daemon.at.open(followed("cut", &id)).await;
    until(log, "\nhalf ").await;
    let mut daemon = daemon;
    for _ in 0..2 {
        daemon.end(Signal::KILL).await;
        daemon = home.spawn().await;
    }
    open_gate(&home, &id).await;
    let info = wait(&daemon.at, "cut", &id).await;
    assert_eq!(
        (&info["Outcome"], &info["Attempt"]),
        (&json!("succeeded"), &json!(1))
    );
    assert_eq!(printed(&written(&home, "cut", "ready", &id)), MASKED);
    assert_eq!(whole_disk(&home), "");
}

#[tokio::test]
async fn the_beginning_of_a_secret_at_the_end_of_the_output_is_written() {
    let script = "printf 'out hunt'; printf 'err hunt' >&2; exit 1";
    let daemon = TestDaemon::builder()
        .await
        .script("ends", script)
        .start()
        .await;
    let info = daemon.build(with_secret("ends")).await;
    assert_eq!(text(&info, "ContainerStderr"), "err hunt");
    let log = printed(&written(&daemon.home, "ends", "ready", text(&info, "ID")));
    assert_eq!(log.len(), "out hunterr hunt".len(), "{log}");
    assert!(log.contains("out ") && log.contains("err "), "{log}");
}

#[tokio::test]
async fn the_limit_of_a_log_counts_what_is_written() {
    // 13 bytes of each line are written as three.
    let script =
        "t=$(cat params/_token); i=0; while [ $i -lt 500 ]; do echo \"$t\"; i=$((i+1)); done";
    let daemon = TestDaemon::builder().await.log_limit(4 << 10);
    let daemon = daemon.script("many", script).start().await;
    let info = daemon.build(with_secret("many")).await;
    assert_eq!(info["Outcome"], "succeeded", "{info}");
    let log = printed(&written(&daemon.home, "many", "ready", text(&info, "ID")));
    assert_eq!(log, "***\n".repeat(500));
    assert_eq!(daemon.build(job("many")).await["ExitCode"], 0);
}
