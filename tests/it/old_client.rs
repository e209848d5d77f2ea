//! The client of the first mistry, and scripts that read its output, keep working: requests byte for
//! byte as it sends them, and the fields that it takes from the answers.

use serde_json::Value;

use crate::support::daemon::TestDaemon;

/// Sends a request as the Go client does, and reads status and body.
async fn send(daemon: &TestDaemon, line: &str, headers: &str, body: &str) -> (u16, String, Value) {
    let length = match body {
        "" => String::new(),
        body => format!("Content-Length: {}\r\n", body.len()),
    };
    let request = format!(
        "{line} HTTP/1.1\r\nHost: 0.0.0.0:8462\r\nUser-Agent: Go-http-client/1.1\r\n{length}{headers}\
         Accept-Encoding: gzip\r\nConnection: close\r\n\r\n{body}"
    );
    let answer = daemon.at().raw(request.as_bytes()).await;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    let body = match head.to_lowercase().contains("transfer-encoding: chunked") {
        true => body.split("\r\n").nth(1).unwrap_or(""),
        false => body,
    };
    let json = serde_json::from_str(body).unwrap_or(Value::Null);
    (status, body.to_owned(), json)
}

const JSON: &str = "Content-Type: application/json\r\n";

fn request(project: &str, more: &str) -> String {
    format!(
        r#"{{"Project":"{project}","Params":{{"lockfile":"{{\"a\": 1}}"}},"Group":"","Rebuild":false{more}}}"#
    )
}

#[tokio::test]
async fn an_old_client_builds_with_its_request_and_reads_the_answer() {
    let daemon = TestDaemon::with(&["succeed"]).await;
    let (status, _, info) = send(&daemon, "POST /jobs", JSON, &request("succeed", "")).await;
    // Its one criterion of success.
    assert_eq!(status, 201);
    assert_eq!(info["Params"]["lockfile"], "{\"a\": 1}");
    for (field, is) in [
        ("Group", Value::is_string as fn(&Value) -> bool),
        ("Path", Value::is_string),
        ("Cached", Value::is_boolean),
        ("Coalesced", Value::is_boolean),
        ("Incremental", Value::is_boolean),
        ("ExitCode", Value::is_i64),
        ("ErrBuild", Value::is_string),
        ("ContainerStdouterr", Value::is_string),
        ("TransportMethod", Value::is_string),
        ("StartedAt", Value::is_string),
        ("Duration", Value::is_i64),
        ("URL", Value::is_string),
    ] {
        assert!(is(&info[field]), "{field}: {}", info[field]);
    }
    // Where its transports look.
    let path = info["Path"].as_str().unwrap();
    assert!(
        path.starts_with('/') && path.ends_with("/data/artifacts"),
        "{path}"
    );
    assert!(std::path::Path::new(path).join("lockfile").exists());
    assert_eq!(info["TransportMethod"], "rsync");
    assert!(!info["URL"].as_str().unwrap().starts_with('/'));
    let (_, _, cached) = send(&daemon, "POST /jobs", JSON, &request("succeed", "")).await;
    assert_eq!(cached["Cached"], true);
    // It is read as a Go time.Time: RFC 3339.
    cached["StartedAt"]
        .as_str()
        .unwrap()
        .parse::<jiff::Timestamp>()
        .unwrap();
}

#[tokio::test]
async fn null_is_the_same_as_nothing() {
    let daemon = TestDaemon::with(&["succeed"]).await;
    let body = r#"{"Project":"succeed","Params":null,"Group":"","Rebuild":false}"#;
    let (status, _, info) = send(&daemon, "POST /jobs", JSON, body).await;
    assert_eq!((status, &info["ExitCode"]), (201, &0.into()));
}

#[tokio::test]
async fn the_async_flag_and_the_json_of_a_job_are_as_they_were() {
    let daemon = TestDaemon::with(&["succeed"]).await;
    let (status, ..) = send(&daemon, "POST /jobs?async", JSON, &request("succeed", "")).await;
    assert_eq!(status, 201);
    let id = loop {
        let list = daemon.get("/index").await.json();
        if list[0]["state"] == "ready" {
            break list[0]["id"].as_str().unwrap().to_owned();
        }
    };
    // Its scripts ask for JSON with the header of a request's body.
    let line = format!("GET /job/succeed/{id}");
    let (status, _, view) = send(&daemon, &line, JSON, "").await;
    assert_eq!(status, 200);
    assert_eq!(view["State"], "ready");
    assert_eq!(view["ID"], id.as_str());
    assert_eq!(view["BuildInfo"]["ExitCode"], 0);
    assert!(view["BuildInfo"]["ContainerStdouterr"].is_string());
    // Without it, a page.
    let request = format!("{line} HTTP/1.1\r\nHost: 0.0.0.0:8462\r\nConnection: close\r\n\r\n");
    let page = daemon.at().raw(request.as_bytes()).await;
    assert!(page.contains("<!doctype html>"), "{page}");
}

#[tokio::test]
async fn failures_have_the_statuses_that_an_old_client_distinguishes() {
    let daemon = TestDaemon::builder().await.slots(1).backlog(1);
    let daemon = daemon
        .fixture("exit-code")
        .fixture("bad-dockerfile")
        .fixture("succeed");
    let daemon = daemon.start().await;
    let (status, _, info) = send(&daemon, "POST /jobs", JSON, &request("exit-code", "")).await;
    assert_eq!((status, &info["ExitCode"]), (201, &3.into()));
    assert_eq!(info["ContainerStderr"], "about to exit with 3\n");
    let (status, text, _) = send(&daemon, "POST /jobs", JSON, &request("bad-dockerfile", "")).await;
    assert_eq!(status, 500);
    assert!(text.contains("could not build docker image"), "{text}");
    let (status, ..) = send(&daemon, "POST /jobs", JSON, "{").await;
    assert_eq!(status, 400);
    let (status, ..) = send(&daemon, "GET /jobs", "", "").await;
    assert_eq!(status, 405);
    daemon.home.engine.hold("start");
    for n in 0..2 {
        let body = format!(r#"{{"Project":"succeed","Params":{{"n":"{n}"}}}}"#);
        send(&daemon, "POST /jobs?async", JSON, &body).await;
    }
    let (status, text, _) = send(&daemon, "POST /jobs", JSON, &request("succeed", "")).await;
    assert_eq!(status, 503);
    assert!(
        text.contains("Server is overloaded; try again later"),
        "{text}"
    );
}

#[tokio::test]
async fn old_clients_that_send_no_content_type_get_an_error_that_names_it() {
    let daemon = TestDaemon::with(&["succeed"]).await;
    let (status, text, _) = send(&daemon, "POST /jobs", "", &request("succeed", "")).await;
    assert_eq!(status, 415);
    assert!(text.contains("Content-Type: application/json"), "{text}");
}
