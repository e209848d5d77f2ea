//! What a script that calls `curl` gets for a build that failed.

use std::process::{Command, Output};

use serde_json::{Value, json};

use crate::support::Place;
use crate::support::daemon::{Daemon, Setup};

/// The exit status of `curl -f` for an HTTP error, as its manual says.
const HTTP_ERROR: i32 = 22;

fn ask(daemon: &Daemon, project: &str, query: &str, options: &[&str]) -> Output {
    let url = format!("http://{}/jobs{query}", daemon.address());
    let job = json!({ "project": project }).to_string();
    let mut curl = Command::new("curl");
    curl.args(["-sS", "-H", "Content-Type: application/json", "-d", &job]);
    curl.args(options).arg(url).output().unwrap()
}

#[test]
fn with_fail_a_build_that_failed_is_an_error_for_curl_and_its_info_can_still_be_read() {
    let daemon = Setup::on(Place::Host)
        .script("red", "echo why; exit 3")
        .script("green", "touch /data/artifacts/made")
        .start();
    // The first mistry's clients read 201 whatever the exit code is.
    assert_eq!(ask(&daemon, "red", "", &["-f"]).status.code(), Some(0));
    let failed = ask(&daemon, "red", "?fail", &["--fail-with-body"]);
    assert_eq!(failed.status.code(), Some(HTTP_ERROR));
    let info: Value = serde_json::from_slice(&failed.stdout).unwrap();
    assert_eq!(
        (&info["Outcome"], &info["ExitCode"]),
        (&json!("failed"), &json!(3))
    );
    let succeeded = ask(&daemon, "green", "?fail", &["-f"]);
    assert_eq!(succeeded.status.code(), Some(0));
}
