//! Bad input gets an error message, never crashes the daemon, and leaves nothing behind: requests that
//! cannot be read, invalid names, too much input, an unreachable Engine, clients and builds that ask for
//! too much.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::{
    daemon::{TestDaemon, job, names, text},
    http::{Ask, within},
};

/// Asks, expects this status and a sentence that holds these words.
pub async fn refused(
    daemon: &TestDaemon,
    body: impl Into<bytes::Bytes>,
    status: u16,
    words: &[&str],
) {
    let ask = Ask::new("POST", "/jobs").with("content-type", "application/json");
    let body = body.into();
    let shown = String::from_utf8_lossy(&body[..body.len().min(200)]).into_owned();
    let answer = daemon.ask(ask.body(body)).await;
    assert_eq!(answer.status, status, "{shown}: {}", answer.text());
    let view = answer.json();
    let sentence = text(&view, "error");
    assert!(
        sentence.len() < 2000 && !sentence.contains('\0'),
        "{sentence}"
    );
    for word in words {
        assert!(
            sentence.contains(word),
            "{shown}: '{word}' is not in '{sentence}'"
        );
    }
}

/// Nothing was written to disk, the Engine got no request, and the server works.
pub async fn unharmed(daemon: &TestDaemon) {
    assert_eq!(names(&daemon.home.builds()), [".mistry"]);
    assert_eq!(daemon.home.engine.containers().len(), 0);
    let status = daemon.get("/status").await.expect(200).json();
    assert_eq!(
        (&status["Running"], &status["Queued"]),
        (&json!(0), &json!(0))
    );
    assert_eq!(daemon.build(job("succeed")).await["ExitCode"], 0);
}

#[tokio::test]
async fn what_cannot_be_read_is_named() {
    let daemon = TestDaemon::with(&["succeed"]).await;
    for (body, words) in [
        ("", &["cannot be read"][..]),
        ("{", &["cannot be read"]),
        ("[]", &["object"]),
        ("null", &["object"]),
        ("7", &["object"]),
        ("\"succeed\"", &["object"]),
        ("{}", &["project"]),
        (r#"{"project":null}"#, &["string"]),
        (r#"{"project":7}"#, &["string"]),
        (r#"{"project":["succeed"]}"#, &["string"]),
        (r#"{"project":"succeed","params":[]}"#, &["params"]),
        (r#"{"project":"succeed","params":"a"}"#, &["params"]),
        (r#"{"project":"succeed","params":{"a":1}}"#, &["param 'a'"]),
        (
            r#"{"project":"succeed","params":{"a":null}}"#,
            &["param 'a'"],
        ),
        (
            r#"{"project":"succeed","params":{"a":{"b":"c"}}}"#,
            &["param 'a'"],
        ),
        (
            r#"{"project":"succeed","params":{"a":"1","a":"2"}}"#,
            &["param 'a'", "twice"],
        ),
        (r#"{"project":"succeed","group":7}"#, &["string"]),
        (r#"{"project":"succeed","rebuild":"yes"}"#, &["boolean"]),
        (
            r#"{"project":"succeed","colour":"red"}"#,
            &["colour", "project"],
        ),
        (r#"{"project":"succeed","Project":"other"}"#, &["project"]),
        (r#"{"project":"succeed"} trailing"#, &["trailing"]),
        (r#"{"project":"\ud800"}"#, &["cannot be read"]),
    ] {
        refused(&daemon, body, 400, words).await;
    }
    refused(
        &daemon,
        &b"{\"project\":\"\xff\"}"[..],
        400,
        &["cannot be read"],
    )
    .await;
    let deep = "[".repeat(200_000);
    refused(
        &daemon,
        format!("{{\"project\":{deep}"),
        400,
        &["cannot be read"],
    )
    .await;
    let long = "k".repeat(100_000);
    refused(&daemon, format!("{{\"{long}\":1}}"), 400, &["kkkk"]).await;
    unharmed(&daemon).await;
}

#[tokio::test]
async fn names_that_break_their_rule_are_refused() {
    let daemon = TestDaemon::with(&["succeed"]).await;
    let long = "n".repeat(300);
    let hostile = [
        "",
        ".",
        "..",
        "../evil",
        "../../etc",
        "/",
        "/etc",
        "a/b",
        "a\\b",
        "a\0b",
        "\0",
        "a\nb",
        " ",
        "a b",
        "-rf",
        ".git",
        ".mistry",
        "ä",
        "a%2fb",
        "a:b",
        "~",
        "$(x)",
        "\u{202e}x",
        &long,
    ];
    for name in hostile {
        let body = json!({ "project": name });
        refused(&daemon, body.to_string(), 422, &["project name"]).await;
        let body = json!({ "project": "succeed", "params": { name: "x" } });
        refused(&daemon, body.to_string(), 422, &["param name"]).await;
    }
    for group in [
        "a\0b",
        "\n",
        "a\u{1b}[31m",
        "\u{7f}",
        "\u{85}",
        &"g".repeat(201),
        &long,
    ] {
        let body = json!({ "project": "succeed", "group": group });
        refused(&daemon, body.to_string(), 422, &["group name"]).await;
    }
    for path in ["/index/?project=..%2f", "/?project=a/b"] {
        daemon.get(path).await.expect(422);
    }
    unharmed(&daemon).await;
}

#[tokio::test]
async fn too_much_is_refused() {
    let daemon = TestDaemon::with(&["succeed"]).await;
    let params: serde_json::Map<String, Value> =
        (0..10_000).map(|n| (format!("p{n}"), json!("x"))).collect();
    let body = json!({ "project": "succeed", "params": params });
    refused(&daemon, body.to_string(), 400, &["1000"]).await;
    let some: serde_json::Map<String, Value> =
        (0..1001).map(|n| (format!("p{n}"), json!(""))).collect();
    refused(
        &daemon,
        json!({ "project": "succeed", "params": some }).to_string(),
        400,
        &["1000"],
    )
    .await;

    // 17 MiB, announced and not: refused, and the answer arrives.
    let size = 17 << 20;
    let head = "POST /jobs HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n";
    let value = "x".repeat(size);
    let body = format!("{{\"project\":\"succeed\",\"params\":{{\"a\":\"{value}\"}}}}");
    let announced = format!("{head}Content-Length: {}\r\n\r\n{body}", body.len());
    let chunked = format!(
        "{head}Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\n\r\n",
        body.len()
    );
    for request in [announced, chunked] {
        let answer = daemon.at().raw(request.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 413"), "{answer:?}");
        assert!(answer.contains("too large"), "{answer}");
    }
    unharmed(&daemon).await;
    // What a large lock file needs is taken.
    let value = "x".repeat(3 << 20);
    let info = daemon
        .build(json!({ "project": "succeed", "params": { "a": value } }))
        .await;
    let artifact = daemon.artifact(&info, "a").await.expect(200);
    assert!(artifact.body == value);
}

#[tokio::test]
async fn requests_that_are_no_http_are_turned_away() {
    let daemon = TestDaemon::with(&["succeed"]).await;
    let endless = format!(
        "GET / HTTP/1.1\r\nHost: localhost\r\nX: {}",
        "x".repeat(200 << 10)
    );
    let many: String = (0..2_000).map(|n| format!("X-{n}: y\r\n")).collect();
    for (request, statuses) in [
        ("GET / HTTP/1.1\r\nConnection: close\r\n\r\n".to_owned(), &["400"][..]),
        ("nonsense\r\n\r\n".to_owned(), &["400"]),
        ("GET / HTTP/9.9\r\nHost: localhost\r\n\r\n".to_owned(), &["400", "505"]),
        ("GET /\0 HTTP/1.1\r\nHost: localhost\r\n\r\n".to_owned(), &["400"]),
        (endless, &["431"]),
        (format!("GET / HTTP/1.1\r\nHost: localhost\r\n{many}\r\n"), &["431"]),
        (
            "POST /jobs HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: x\r\n\r\n".to_owned(),
            &["400"],
        ),
        (
            "POST /jobs HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n".to_owned(),
            &["400"],
        ),
    ] {
        let answer = daemon.at().raw(request.as_bytes()).await;
        let status = answer.split(' ').nth(1).unwrap_or("none");
        let shown: String = request.chars().take(60).collect();
        assert!(statuses.contains(&status), "{shown:?}: {answer}");
    }
    // A body that breaks off is no job.
    {
        use tokio::io::AsyncWriteExt;
        let mut half = tokio::net::TcpStream::connect(("127.0.0.1", daemon.port()))
            .await
            .unwrap();
        let request = "POST /jobs HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n{\"project\":\"succeed\"}";
        half.write_all(request.as_bytes()).await.unwrap();
        half.shutdown().await.unwrap();
    }
    unharmed(&daemon).await;
}

#[tokio::test]
async fn without_docker_a_job_is_refused_at_once_and_taken_when_it_is_back() {
    let daemon = TestDaemon::with(&["succeed"]).await;
    daemon.home.engine.stop().await;
    let began = Instant::now();
    for path in ["/jobs", "/jobs?async"] {
        let answer = daemon.post(path, &job("succeed")).await.expect(503);
        assert!(answer.header("retry-after").parse::<u32>().unwrap() > 0);
        assert!(
            text(&answer.json(), "error").contains("Docker"),
            "{}",
            answer.text()
        );
        assert_eq!(answer.header("location"), "");
    }
    daemon
        .post("/project/succeed/rebuild", &json!({}))
        .await
        .expect(503);
    assert!(began.elapsed().as_secs() < 5);
    assert_eq!(names(&daemon.home.builds()), [".mistry"]);
    assert_eq!(daemon.get("/index/").await.expect(200).text(), "[]");
    daemon.home.engine.start_again();
    unharmed(&daemon).await;
}

#[tokio::test]
async fn an_engine_that_does_not_come_back_in_time_ends_the_waiting_build_and_no_other() {
    let daemon = TestDaemon::builder()
        .await
        .engine_wait(Duration::from_millis(100));
    let daemon = daemon.fixture("slow").fixture("succeed").start().await;
    daemon.home.engine.hold("start");
    let asked = daemon.asking(Ask::post("/jobs", &job("slow")));
    daemon.home.engine.wait_for("start", 1).await;
    daemon.home.engine.stop().await;
    let view = asked.await.unwrap().expect(500).json();
    let sentence = text(&view, "error");
    assert!(
        sentence.contains("the Docker Engine went away and was not back within"),
        "{sentence}"
    );
    let info = daemon.info("slow", text(&view, "job")).await;
    assert_eq!(
        (&info["Outcome"], &info["ExitCode"]),
        (&json!("errored"), &json!(-999))
    );
    daemon.home.engine.release("start");
    daemon.home.engine.start_again();
    assert_eq!(daemon.build(job("succeed")).await["ExitCode"], 0);
}

#[tokio::test]
async fn a_build_that_prints_too_much_is_stopped_with_an_error_that_says_so() {
    let daemon = TestDaemon::builder().await.log_limit(100_000);
    let daemon = daemon.fixture("succeed");
    // It would print for ever.
    let daemon = daemon
        .script("yes", "while :; do echo yes yes yes; done")
        .start()
        .await;
    let answer = daemon.post("/jobs", &job("yes")).await.expect(500).json();
    assert!(
        text(&answer, "error").contains("100000 bytes (log_limit)"),
        "{answer}"
    );
    let id = text(&answer, "job");
    let info = daemon.info("yes", id).await;
    assert_eq!(
        (&info["Outcome"], &info["ExitCode"]),
        (&json!("errored"), &json!(-999))
    );
    let log =
        std::fs::read_to_string(daemon.home.build("yes", "ready", id).join("out.log")).unwrap();
    assert!((100_000..101_000).contains(&log.len()), "{}", log.len());
    let last = log.lines().last().unwrap();
    assert!(last.contains("log_limit"), "{last}");
    let container = &daemon.home.engine.containers()[0];
    assert!(!container.running);
    assert_eq!(daemon.build(job("succeed")).await["ExitCode"], 0);
}

#[tokio::test]
async fn an_image_build_that_prints_too_much_is_stopped_with_an_error_that_says_so() {
    let builder = TestDaemon::builder().await.log_limit(100_000);
    let line = format!("RUN echo {}\n", "x".repeat(90));
    let dockerfile = format!("FROM scratch\n{}", line.repeat(3_000));
    let daemon = builder
        .fixture("succeed")
        .project("loud", |c| c.file("Dockerfile", 0o644, dockerfile))
        .start()
        .await;
    let answer = daemon.post("/jobs", &job("loud")).await.expect(500).json();
    assert!(
        text(&answer, "error").contains("100000 bytes (log_limit)"),
        "{answer}"
    );
    let id = text(&answer, "job");
    let info = daemon.info("loud", id).await;
    assert_eq!(
        (&info["Outcome"], &info["ExitCode"]),
        (&json!("errored"), &json!(-999))
    );
    let log = daemon.home.build("loud", "ready", id).join("out.log");
    let log = std::fs::read_to_string(log).unwrap();
    let last = log.lines().last().unwrap();
    assert!(last.contains("log_limit"), "{last}");
    assert!((99_000..110_000).contains(&log.len()), "{}", log.len());
    assert_eq!(daemon.home.engine.containers().len(), 0);
    assert_eq!(daemon.build(job("succeed")).await["ExitCode"], 0);
}

#[tokio::test]
async fn many_large_requests_at_once_take_no_more_memory_than_is_set_aside() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    const DECLARED: usize = 16 << 20;
    let daemon = TestDaemon::with(&["succeed"]).await;
    let port = daemon.port();
    let head = format!(
        "POST /jobs HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
         Content-Length: {DECLARED}\r\n\r\n"
    );
    let body = bytes::Bytes::from(vec![b' '; 15 << 20]);
    // Each says what the server answered, if it answers before the body is whole.
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..21 {
        let (head, body) = (head.clone(), body.clone());
        clients.spawn(async move {
            let stream = tokio::net::TcpStream::connect(("127.0.0.1", port));
            let (mut from, mut to) = stream.await.unwrap().into_split();
            let sending = tokio::spawn(async move {
                // The server may refuse before all is sent.
                let _ = to.write_all(head.as_bytes()).await;
                let _ = to.write_all(&body).await;
                // Never finished, never closed.
                std::future::pending::<()>().await;
            });
            struct Ending(tokio::task::JoinHandle<()>);
            impl Drop for Ending {
                fn drop(&mut self) {
                    self.0.abort();
                }
            }
            let _ending = Ending(sending);
            let mut answer = vec![0; 4096];
            let n = from.read(&mut answer).await.unwrap_or(0);
            String::from_utf8_lossy(&answer[..n]).to_lowercase()
        });
    }
    // 21 of them would be 315 MiB; 48 MiB are set aside.
    let first = clients.join_next();
    let answer = within("a refusal", first).await;
    let answer = answer.unwrap().unwrap();
    assert!(answer.starts_with("http/1.1 503"), "{answer}");
    assert!(answer.contains("\r\nretry-after: "), "{answer}");
    // A client that wants little is served.
    daemon.get("/healthz").await.expect(200);
    assert_eq!(daemon.build(job("succeed")).await["ExitCode"], 0);
    // With the clients goes what they held; the server learns of it in its own time, and who is
    // refused before all is sent may see no more than the end of the connection.
    clients.shutdown().await;
    let large = job("succeed").to_string() + &" ".repeat(15 << 20);
    let large = format!(
        "POST /jobs HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
         Connection: close\r\nContent-Length: {}\r\n\r\n{large}",
        large.len()
    );
    let freed = async {
        loop {
            let answer = daemon.at().raw(large.as_bytes()).await;
            if !answer.is_empty() && !answer.starts_with("HTTP/1.1 503") {
                return answer;
            }
        }
    };
    let answer = within("the room of those who left", freed).await;
    assert!(answer.starts_with("HTTP/1.1 201"), "{answer}");
}
