//! What the HTTP contract says, route by route: statuses, headers, shapes.

use serde_json::{Value, json};

use crate::support::{
    daemon::{TestDaemon, job, text},
    http::Ask,
};

const ZEROS: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// A record with megabytes of params would be read for each list again.
#[tokio::test]
async fn a_list_shows_a_live_build_without_its_record() {
    let daemon = TestDaemon::with(&["slow"]).await;
    daemon.home.engine.hold("start");
    let id = daemon.submit(job("slow")).await;
    daemon.home.engine.wait_for("start", 1).await;
    let pending = daemon.home.build("slow", "pending", &id);
    std::fs::write(pending.join("build_info.json"), "unreadable").unwrap();
    let list = daemon.get("/index/").await.expect(200).json();
    assert_eq!(list[0]["id"], json!(id));
    assert_eq!(list[0]["state"], "pending");
}

#[tokio::test]
async fn the_index_is_newest_first_in_pages_and_filtered() {
    let daemon = TestDaemon::with(&["succeed", "exit-code", "slow"]).await;
    assert_eq!(daemon.get("/index/").await.expect(200).text(), "[]");
    let mut built = Vec::new();
    for n in 0..5 {
        let group = if n % 2 == 0 { "even" } else { "" };
        let asked =
            json!({ "project": "succeed", "group": group, "params": { "n": n.to_string() } });
        built.insert(0, daemon.build(asked).await["ID"].clone());
    }
    built.insert(0, daemon.build(job("exit-code")).await["ID"].clone());
    daemon.home.engine.hold("start");
    built.insert(0, json!(daemon.submit(job("slow")).await));
    daemon.home.engine.wait_for("start", 7).await;
    let ids = async |path: &str| -> Vec<Value> {
        let list = daemon.get(path).await.expect(200).json();
        list.as_array()
            .unwrap()
            .iter()
            .map(|item| item["id"].clone())
            .collect()
    };
    assert_eq!(ids("/index/").await, built);
    assert_eq!(ids("/index").await, built);
    assert_eq!(ids("/index/?state=pending").await, built[..1]);
    assert_eq!(ids("/index/?state=ready").await, built[1..]);
    assert_eq!(ids("/index/?project=exit-code").await, built[1..2]);
    assert_eq!(ids("/index/?group=even").await.len(), 3);
    assert_eq!(ids("/index/?group=none-such").await.len(), 0);
    assert_eq!(
        ids("/index/?project=succeed&state=ready&group=even&limit=2")
            .await
            .len(),
        2
    );
    // Page by page, each named by the one before it.
    let (mut path, mut seen) = ("/index/?limit=3".to_owned(), Vec::new());
    loop {
        let page = daemon.get(&*path).await.expect(200);
        for item in page.json().as_array().unwrap() {
            seen.push(item["id"].clone());
        }
        let link = page.header("link");
        let Some(next) = link.strip_prefix('<').and_then(|l| l.split_once('>')) else {
            break;
        };
        assert_eq!(next.1, "; rel=\"next\"");
        path = next.0.to_owned();
    }
    assert_eq!(seen, built);
    let item = &daemon.get("/index/?limit=1&state=ready").await.json()[0];
    let keys: Vec<_> = item.as_object().unwrap().keys().cloned().collect();
    assert_eq!(keys, ["buildInfo", "id", "project", "startedAt", "state"]);
    text(item, "startedAt").parse::<jiff::Timestamp>().unwrap();
    for log in ["ContainerStdouterr", "ContainerStderr"] {
        assert!(item["buildInfo"].get(log).is_none(), "{log}");
    }
    for wrong in [
        "limit=0",
        "limit=1001",
        "limit=x",
        "limit=-1",
        "state=done",
        "before=x",
    ] {
        daemon.get(format!("/index/?{wrong}")).await.expect(400);
    }
    daemon.get("/index/?project=..").await.expect(422);
}

#[tokio::test]
async fn a_job_is_a_page_for_people_and_json_for_programs() {
    let daemon = TestDaemon::with(&["output"]).await;
    let asked = json!({ "project": "output", "group": "<b>", "params": { "x": "<script>alert(1)</script>" } });
    let id = text(&daemon.build(asked).await, "ID").to_owned();
    let path = format!("/job/output/{id}");
    let page = daemon
        .ask(Ask::get(&path).with("accept", "text/html,*/*;q=0.8"))
        .await
        .expect(200);
    assert!(page.header("content-type").starts_with("text/html"));
    assert!(!page.header("content-security-policy").is_empty());
    let text = page.text();
    // Only our own module, and framed by no other site.
    assert_eq!(text.matches("<script").count(), 1, "{text}");
    assert!(text.contains("<script type=\"module\" src=\"/static/page.js\"></script>"));
    assert!(!text.contains("<b>"));
    assert!(text.contains("to standard output") && text.contains(&id));
    assert!(!text.contains("//unpkg") && !text.contains("=\"http"));
    let view = daemon.get(&path).await.expect(200);
    assert_eq!(view.header("content-type"), "application/json");
    let view = view.json();
    assert_eq!(view["ID"], json!(id));
    assert_eq!(
        (&view["Project"], &view["State"]),
        (&json!("output"), &json!("ready"))
    );
    assert!(view["BuildInfo"]["ContainerStdouterr"].is_string());
    let none = daemon.get(format!("{path}?log=none")).await.json();
    assert!(none["BuildInfo"].get("ContainerStdouterr").is_none());
    let overview = daemon
        .ask(Ask::get("/").with("accept", "text/html"))
        .await
        .expect(200)
        .text();
    assert!(overview.contains(&id) && !overview.contains("<b>"));
    let style = daemon.ask(Ask::get("/static/style.css")).await.expect(200);
    assert!(style.header("content-type").starts_with("text/css"));
}

#[tokio::test]
async fn projects_are_listed_shown_and_rebuilt() {
    let daemon = TestDaemon::with(&["succeed", "bad-dockerfile"]).await;
    std::fs::create_dir(daemon.home.projects().join("no-dockerfile")).unwrap();
    let built = daemon.build(job("succeed")).await;
    let list = daemon.get("/projects").await.expect(200).json();
    assert_eq!(
        list,
        json!([
            { "Name": "bad-dockerfile", "Builds": 0, "Latest": null },
            { "Name": "succeed", "Builds": 1, "Latest": built["StartedAt"] },
        ])
    );
    let view = daemon.get("/project/succeed").await.expect(200).json();
    assert_eq!(
        (&view["Name"], &view["Latest"]),
        (&json!("succeed"), &built["ID"])
    );
    assert_eq!(view["Builds"][0]["id"], built["ID"]);
    let image = daemon
        .post("/project/succeed/rebuild", &json!({}))
        .await
        .expect(200)
        .json();
    assert!(text(&image, "Image").starts_with("sha256:"));
    assert_ne!(image["Image"], built["Image"]);
    assert!(text(&image, "Log").contains("Step 1/"));
    let bad = daemon
        .post("/project/bad-dockerfile/rebuild", &json!({}))
        .await
        .expect(500)
        .json();
    assert!(
        text(&bad, "error").contains("could not build docker image"),
        "{bad}"
    );
    for (path, status) in [
        ("/project/nope", 404),
        ("/project/no-dockerfile", 404),
        ("/project/..%2f", 422),
    ] {
        daemon.get(path).await.expect(status);
        daemon
            .post(format!("{path}/rebuild"), &json!({}))
            .await
            .expect(status);
    }
}

#[tokio::test]
async fn the_small_ones_answer_as_expected() {
    let daemon = TestDaemon::with(&["succeed"]).await;
    assert_eq!(daemon.get("/healthz").await.expect(200).text(), "ok\n");
    daemon.build(job("succeed")).await;
    daemon.build(job("succeed")).await;
    let metrics = daemon.ask(Ask::get("/metrics")).await.expect(200);
    assert!(metrics.header("content-type").starts_with("text/plain"));
    for line in [
        "mistry_builds_started{project=\"succeed\"} 2",
        "mistry_builds_finished{project=\"succeed\"} 1",
        "mistry_cache_utilization{project=\"succeed\"} 1",
        "mistry_builds_hosted{project=\"succeed\"} 1",
        "mistry_builds_succeeded_seconds_bucket{project=\"succeed\",le=\"120\"} 1",
    ] {
        assert!(metrics.text().contains(line), "{line}: {}", metrics.text());
    }
    daemon.get("/openapi.json").await.expect(200).json();
    let status = daemon.get("/status").await.expect(200).json();
    assert_eq!(
        (&status["Engine"], &status["Filesystem"]),
        (&json!("0.0.0-fake"), &json!("plain"))
    );
    daemon.home.engine.stop().await;
    assert_eq!(
        daemon.get("/status").await.expect(200).json()["Engine"],
        Value::Null
    );
}

#[tokio::test]
async fn what_is_not_there_is_404_and_what_is_no_name_422() {
    let daemon = TestDaemon::with(&["succeed"]).await;
    for path in ["job", "log", "artifacts"] {
        for (rest, status) in [
            (format!("succeed/{ZEROS}"), 404),
            (format!("none-such/{ZEROS}"), 404),
            (format!("succeed/{}", &ZEROS[1..]), 404),
            (format!("succeed/{}0", ZEROS), 422),
            (format!("succeed/{}", "A".repeat(64)), 422),
            (format!("succeed/{}", "g".repeat(64)), 422),
            (format!("%2e%2e/{ZEROS}"), 422),
            (format!("a%2Fb/{ZEROS}"), 422),
            (format!("a%00/{ZEROS}"), 422),
            (format!("%ff/{ZEROS}"), 422),
            ("succeed".to_owned(), 404),
            (String::new(), 404),
        ] {
            daemon.get(format!("/{path}/{rest}")).await.expect(status);
        }
    }
    for path in [
        "/x",
        "/jobs/",
        "/index/x",
        "//",
        "/static/x",
        "/static/../x",
        "/job",
        "/templates/show.html",
    ] {
        daemon.get(path).await.expect(404);
    }
    daemon.post("/jobs", &job("none-such")).await.expect(404);
}

#[tokio::test]
async fn a_wrong_method_gets_the_allowed_ones() {
    let daemon = TestDaemon::with(&[]).await;
    let id = format!("succeed/{ZEROS}");
    for (method, path, allow) in [
        ("GET", "/jobs".to_owned(), "POST"),
        ("DELETE", "/jobs".to_owned(), "POST"),
        ("POST", "/index/".to_owned(), "GET"),
        ("PUT", "/index".to_owned(), "GET"),
        ("POST", "/".to_owned(), "GET"),
        ("PUT", format!("/job/{id}"), "GET"),
        ("POST", format!("/log/{id}"), "GET"),
        ("DELETE", format!("/artifacts/{id}/x"), "GET"),
        ("POST", "/projects".to_owned(), "GET"),
        ("GET", "/project/p/rebuild".to_owned(), "POST"),
        ("POST", "/metrics".to_owned(), "GET"),
        ("POST", "/healthz".to_owned(), "GET"),
    ] {
        let ask = Ask::new(method, &path).with("content-type", "application/json");
        let answer = daemon.ask(ask).await.expect(405);
        assert!(answer.header("allow").contains(allow), "{method} {path}");
    }
}

#[tokio::test]
async fn head_is_get_without_a_body() {
    let daemon = TestDaemon::with(&["succeed"]).await;
    let info = daemon
        .build(json!({ "project": "succeed", "params": { "a": "12345" } }))
        .await;
    let id = text(&info, "ID");
    for path in [
        "/".to_owned(),
        "/healthz".to_owned(),
        "/index/".to_owned(),
        format!("/job/succeed/{id}"),
        format!("/artifacts/succeed/{id}/a"),
        format!("/artifacts/succeed/{id}"),
        format!("/log/succeed/{id}"),
        format!("/log/succeed/{ZEROS}"),
    ] {
        let get = daemon.ask(Ask::get(&path)).await;
        let head = daemon.ask(Ask::new("HEAD", &path)).await;
        assert_eq!((head.status, head.body.len()), (get.status, 0), "{path}");
        assert_eq!(
            head.header("content-type"),
            get.header("content-type"),
            "{path}"
        );
    }
    let head = daemon
        .ask(Ask::new("HEAD", format!("/artifacts/succeed/{id}/a")))
        .await;
    assert_eq!(head.header("content-length"), "5");
}

#[tokio::test]
async fn what_changes_something_must_be_json_and_of_this_site() {
    let daemon = TestDaemon::with(&["succeed"]).await;
    let ask = || Ask::post("/jobs", &job("succeed"));
    for media in [
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data",
        "",
    ] {
        daemon
            .ask(ask().with("content-type", media))
            .await
            .expect(415);
    }
    daemon.ask(ask().without("content-type")).await.expect(415);
    for (name, value) in [
        ("sec-fetch-site", "cross-site"),
        ("sec-fetch-site", "same-site"),
        ("origin", "http://evil.example"),
        ("origin", "null"),
    ] {
        daemon.ask(ask().with(name, value)).await.expect(403);
        daemon
            .ask(Ask::post("/project/succeed/rebuild", &json!({})).with(name, value))
            .await
            .expect(403);
    }
    assert_eq!(
        daemon.home.engine.containers().len() + daemon.home.engine.builds().len(),
        0
    );
    let own = ask()
        .with("sec-fetch-site", "same-origin")
        .with("origin", "http://localhost");
    let answer = daemon.ask(own).await.expect(201);
    assert_eq!(answer.header("access-control-allow-origin"), "");
}

#[tokio::test]
async fn a_host_that_is_not_configured_is_refused() {
    let daemon = TestDaemon::with(&["succeed"]).await;
    for host in [
        "evil.example",
        "evil.example:80",
        "localhost.evil.example",
        "xn--e1a",
        "127.0.0.1.evil.example",
    ] {
        for path in ["/", "/index/", "/healthz"] {
            daemon
                .ask(Ask::get(path).with("host", host))
                .await
                .expect(421);
        }
        daemon
            .ask(Ask::post("/jobs", &job("succeed")).with("host", host))
            .await
            .expect(421);
    }
    for host in [
        "127.0.0.1",
        "127.0.0.1:8462",
        "[::1]:8462",
        "localhost:1",
        "build.example",
        "10.1.2.3",
        "BUILD.example:1",
    ] {
        daemon
            .ask(Ask::get("/healthz").with("host", host))
            .await
            .expect(200);
    }
    // A unix socket has no names that a page could bind.
    let at = crate::support::http::At::Unix(daemon.socket());
    at.ask(Ask::get("/healthz").with("host", "mistry.sock"))
        .await
        .expect(200);
}

#[tokio::test]
async fn an_error_is_json_or_text_and_has_the_id_of_its_request() {
    let daemon = TestDaemon::with(&[]).await;
    let mut seen = std::collections::BTreeSet::new();
    for ask in [
        Ask::get("/nowhere").json(),
        Ask::get("/nowhere"),
        Ask::get("/nowhere").with("accept", "*/*"),
        Ask::post("/jobs", &job("none-such")),
        Ask::get(format!("/job/p/{ZEROS}")).json(),
        Ask::new("PUT", "/jobs").with("content-type", "application/json"),
    ] {
        let answer = daemon.ask(ask).await;
        let view = answer.json();
        let sentence = text(&view, "error");
        assert!(
            !sentence.is_empty() && !sentence.contains('\n'),
            "{sentence}"
        );
        assert_eq!(text(&view, "request"), answer.header("x-request-id"));
        assert!(
            seen.insert(text(&view, "request").to_owned()),
            "each has its own"
        );
    }
    let plain = daemon
        .ask(Ask::get("/nowhere").with("accept", "text/plain"))
        .await
        .expect(404);
    assert!(plain.header("content-type").starts_with("text/plain"));
    assert!(!plain.header("x-request-id").is_empty());
    assert!(plain.text().ends_with('\n') && !plain.text().starts_with('{'));
    assert_eq!(plain.header("x-content-type-options"), "nosniff");
}

#[tokio::test]
async fn one_connection_serves_many_requests_and_a_refused_body_does_not_spoil_the_next() {
    let daemon = TestDaemon::with(&[]).await;
    let bytes = "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n\
        POST /jobs HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n\r\nhello\
        GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    let answer = daemon.at().raw(bytes.as_bytes()).await;
    let statuses: Vec<_> = answer
        .lines()
        .filter(|line| line.contains("HTTP/1.1 "))
        .collect();
    assert_eq!(answer.matches("HTTP/1.1 200").count(), 2, "{statuses:?}");
    assert!(answer.contains("HTTP/1.1 415"), "{statuses:?}");
}

#[tokio::test]
async fn an_answer_does_not_wait_for_the_rest_of_the_next_request() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let daemon = TestDaemon::with(&[]).await;
    let mut connection = tokio::net::TcpStream::connect(("127.0.0.1", daemon.port()))
        .await
        .unwrap();
    let bytes = "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\nGET /hea";
    connection.write_all(bytes.as_bytes()).await.unwrap();
    let mut answer = [0; 15];
    let read = connection.read_exact(&mut answer);
    crate::support::http::within("the first answer", read)
        .await
        .unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200 OK");
}
