//! HTTP as RFC 9110 and RFC 9112 define it, request by request, byte for byte where it matters.

use std::time::SystemTime;

use serde_json::json;

use crate::garbage::settled;
use crate::support::{
    daemon::{TestDaemon, job, text},
    http::{Ask, header},
};

/// The status of the first answer to these bytes.
fn status(answer: &str) -> &str {
    answer.split(' ').nth(1).unwrap_or("none")
}

#[tokio::test]
async fn a_flag_is_true_false_or_a_mistake_at_every_address() {
    let daemon = TestDaemon::with(&["succeed"]).await;
    let info = daemon
        .build(json!({ "project": "succeed", "params": { "a": "b" } }))
        .await;
    let id = text(&info, "ID").to_owned();
    let name = format!("succeed/{id}");
    for (path, flag) in [
        (format!("/job/{name}?"), "wait"),
        (format!("/job/{name}?"), "json"),
        ("/status?".to_owned(), "json"),
        ("/projects?".to_owned(), "json"),
        (format!("/log/{name}?"), "text"),
        (format!("/log/{name}?"), "lines"),
        (format!("/log/{name}?"), "times"),
        (format!("/log/{name}?text&"), "follow"),
        (format!("/artifacts/{name}?"), "manifest"),
        (format!("/artifacts/{name}?"), "sparse"),
        (format!("/artifacts/{name}/a?"), "view"),
        (format!("/artifacts/{name}/a?"), "inline"),
    ] {
        for value in ["", "=", "=1", "=true", "=0", "=false"] {
            daemon.get(format!("{path}{flag}{value}")).await.expect(200);
        }
        for wrong in ["=no", "=yes", "=2", "=x", "=%20"] {
            let refused = daemon
                .get(format!("{path}{flag}{wrong}"))
                .await
                .expect(400)
                .json();
            let sentence = text(&refused, "error");
            let expected = format!("{flag}: expected true, 1 or nothing, or false or 0");
            assert_eq!(sentence, expected, "{path}{flag}{wrong}");
        }
        let twice = daemon
            .get(format!("{path}{flag}=1&{flag}=0"))
            .await
            .expect(400)
            .json();
        assert_eq!(
            text(&twice, "error"),
            format!("{flag}: expected once in an address")
        );
    }
    for (path, expected) in [
        ("/events?rows=no", "rows: "),
        ("/index/?limit=1&limit=2", "limit: "),
        ("/index/?project=a&project=b", "project: "),
        (&*format!("/job/{name}?log=0"), "log: "),
    ] {
        let refused = daemon.get(path).await.expect(400).json();
        assert!(text(&refused, "error").starts_with(expected), "{refused}");
    }
    daemon.get("/index/?x=1&x=2").await.expect(200);
    // And they have their usual meaning.
    let media = async |path: String| {
        let answer = daemon.ask(Ask::get(path).with("accept", "text/html")).await;
        answer.expect(200).header("content-type").to_owned()
    };
    assert_eq!(media("/status?json=1".to_owned()).await, "application/json");
    assert!(
        media("/status?json=0".to_owned())
            .await
            .starts_with("text/html")
    );
    let kind = media(format!("/artifacts/{name}?manifest=false")).await;
    assert_eq!(kind, "application/x-tar");
    daemon
        .post("/jobs?async=maybe", &job("succeed"))
        .await
        .expect(400);
    let waited = daemon.post("/jobs?async=false", &job("succeed")).await;
    assert_eq!(waited.expect(201).json()["State"], "ready");
    let queued = daemon
        .post(
            "/jobs?async=true",
            &json!({ "project": "succeed", "group": "g" }),
        )
        .await;
    assert!(queued.expect(201).json().get("Outcome").is_none());
}

#[tokio::test]
async fn a_host_is_read_in_every_legal_form_and_said_once() {
    let daemon = TestDaemon::with(&[]).await;
    let ask = async |head: &str| {
        let request = format!("{head}\r\nConnection: close\r\n\r\n");
        status(&daemon.at().raw(request.as_bytes()).await).to_owned()
    };
    for head in [
        "GET /healthz HTTP/1.1\r\nHost: localhost",
        "GET /healthz HTTP/1.1\r\nHost: LOCALHOST.:8462",
        "GET /healthz HTTP/1.1\r\nHost: [::1]:8462",
        "GET /healthz HTTP/1.1\r\nHost:\tbuild.example.:443 ",
        "GET http://localhost:8462/healthz HTTP/1.1\r\nHost: localhost:8462",
        // The target decides (RFC 9112 §3.2.2).
        "GET http://build.example/healthz HTTP/1.1\r\nHost: evil.example",
        "GET /healthz HTTP/1.0",
        "GET /healthz HTTP/1.0\r\nHost: localhost",
        "OPTIONS * HTTP/1.1\r\nHost: localhost",
    ] {
        assert!(["200", "204"].contains(&&*ask(head).await), "{head}");
    }
    for (head, expected) in [
        ("GET /healthz HTTP/1.1", "400"),
        ("GET /healthz HTTP/1.1\r\nHost:", "400"),
        (
            "GET /healthz HTTP/1.1\r\nHost: localhost\r\nHost: localhost",
            "400",
        ),
        (
            "GET /healthz HTTP/1.0\r\nHost: localhost\r\nHost: evil.example",
            "400",
        ),
        ("GET /healthz HTTP/1.1\r\nHost: ::1", "400"),
        ("GET /healthz HTTP/1.1\r\nHost: user@localhost", "400"),
        ("GET /healthz HTTP/1.1\r\nHost: localhost:http", "400"),
        ("GET http://localhost/healthz HTTP/1.1", "400"),
        (
            "GET http://evil.example/healthz HTTP/1.1\r\nHost: localhost",
            "421",
        ),
        // `*` is the whole server, which has no content to read.
        ("GET * HTTP/1.1\r\nHost: localhost", "404"),
        ("GET /healthz HTTP/1.1\r\nHost: evil.example.", "421"),
        ("GET /healthz HTTP/1.0\r\nHost: evil.example", "421"),
    ] {
        assert_eq!(ask(head).await, expected, "{head}");
    }
    // Over the unix socket any host is accepted, but one is needed.
    let unix = crate::support::http::At::Unix(daemon.socket());
    for (hosts, expected) in [
        ("Host: /run/x.sock\r\n", "200"),
        ("", "400"),
        ("Host: a\r\nHost: a\r\n", "400"),
    ] {
        let request = format!("GET /healthz HTTP/1.1\r\n{hosts}Connection: close\r\n\r\n");
        assert_eq!(
            status(&unix.raw(request.as_bytes()).await),
            expected,
            "{hosts}"
        );
    }
}

#[tokio::test]
async fn a_button_works_on_any_port_and_for_no_page_of_another_one() {
    let daemon = TestDaemon::with(&["succeed"]).await;
    for (host, origin, expected) in [
        ("build.example:8443", "https://build.example:8443", 201),
        ("build.example", "https://build.example", 201),
        ("build.example:443", "https://build.example", 201),
        ("[::1]:8462", "http://[::1]:8462", 201),
        ("build.example", "https://build.example:8443", 403),
        ("build.example:8443", "https://build.example:8444", 403),
        ("build.example:8443", "https://evil.example:8443", 403),
    ] {
        let ask = Ask::post("/jobs", &job("succeed")).with("host", host);
        daemon
            .ask(ask.with("origin", origin))
            .await
            .expect(expected);
    }
}

#[tokio::test]
async fn head_has_the_headers_of_get_at_every_address() {
    let daemon = TestDaemon::with(&["succeed"]).await;
    let info = daemon
        .build(json!({ "project": "succeed", "params": { "a.txt": "12345" } }))
        .await;
    let name = format!("succeed/{}", text(&info, "ID"));
    let paths = [
        "/",
        "/static/style.css",
        "/index/",
        "/index",
        "/projects",
        "/project/succeed",
        "/status",
        "/healthz",
        "/openapi.json",
        "/nowhere",
        "/jobs",
        "/metrics",
    ];
    let paths = paths.map(str::to_owned).into_iter().chain(
        ["", "?json", "?log=none", "?attempt=1", "/attempts"]
            .map(|query| format!("/job/{name}{query}")),
    );
    let paths = paths
        .chain(["?text", "?lines", "?times", "?find=x"].map(|query| format!("/log/{name}{query}")));
    let paths = paths.chain(
        [
            "",
            "?manifest",
            "/",
            "/a.txt",
            "/a.txt?inline",
            "/a.txt?view",
            "/no",
        ]
        .map(|rest| format!("/artifacts/{name}{rest}")),
    );
    for path in paths {
        for accept in ["*/*", "text/html", "application/json"] {
            let ask = |method: &str| Ask::new(method, &path).with("accept", accept);
            let get = daemon.ask(ask("GET")).await;
            // A part is not asked for by HEAD (RFC 9110 §14.2).
            let head = daemon.ask(ask("HEAD").with("range", "bytes=0-0")).await;
            assert_eq!((head.status, head.body.len()), (get.status, 0), "{path}");
            for (name, value) in &get.headers {
                let varies = ["date", "x-request-id", "transfer-encoding"];
                // Live values may have another length each time.
                let is_figure =
                    name == "content-length" && ["/metrics", "/status", "/"].contains(&&*path);
                // The id is in the error message, and ids have one length.
                if !varies.contains(&name.as_str()) && !is_figure {
                    assert_eq!(
                        head.headers.get(name),
                        Some(value),
                        "{path} {accept} {name}"
                    );
                }
            }
        }
    }
}

#[tokio::test]
async fn an_address_lists_its_methods() {
    let daemon = TestDaemon::with(&[]).await;
    for (path, allow) in [
        ("/", "GET, HEAD, OPTIONS"),
        ("/jobs", "POST, OPTIONS"),
        ("/session", "POST, DELETE, OPTIONS"),
        ("/job/p/x", "GET, HEAD, DELETE, OPTIONS"),
        ("/job/p/x/pin", "PUT, DELETE, OPTIONS"),
        ("/artifacts/p/x/y/z", "GET, HEAD, OPTIONS"),
    ] {
        let answer = daemon.ask(Ask::new("OPTIONS", path)).await.expect(204);
        assert_eq!(answer.header("allow"), allow, "{path}");
        assert_eq!(answer.header("access-control-allow-origin"), "");
        // Before the media type is checked, which would make no difference.
        for method in ["TRACE", "PATCH", "BREW"] {
            let refused = daemon.ask(Ask::new(method, path)).await.expect(405);
            assert_eq!(refused.header("allow"), allow, "{method} {path}");
        }
    }
    daemon
        .ask(Ask::new("OPTIONS", "/nowhere"))
        .await
        .expect(404);
    daemon.ask(Ask::new("TRACE", "/nowhere")).await.expect(404);
}

#[tokio::test]
async fn a_body_is_asked_for_only_when_it_is_wanted() {
    let daemon = TestDaemon::with(&["succeed"]).await;
    let body = job("succeed").to_string();
    let ask = async |target: &str, headers: &str| {
        let head = format!(
            "POST {target} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n{headers}Connection: close\r\n\r\n"
        );
        let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", daemon.port()))
            .await
            .unwrap();
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut first = vec![0; 4096];
        let read = crate::support::http::within("an answer", stream.read(&mut first));
        let count = read.await.unwrap();
        first.truncate(count);
        let mut answer = String::from_utf8(first).unwrap();
        if answer.starts_with("HTTP/1.1 100 Continue\r\n\r\n") {
            stream.write_all(body.as_bytes()).await.unwrap();
            stream.read_to_string(&mut answer).await.unwrap();
        }
        answer
    };
    let length = format!("Content-Length: {}\r\n", body.len());
    let wanted = ask("/jobs", &format!("{length}Expect: 100-Continue\r\n")).await;
    assert!(
        wanted.starts_with("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 201"),
        "{wanted}"
    );
    for (target, headers, expected) in [
        (
            "/jobs",
            format!("{length}Expect: 100-continue\r\nOrigin: http://evil.example\r\n"),
            "403",
        ),
        (
            "/nowhere",
            format!("{length}Expect: 100-continue\r\n"),
            "404",
        ),
        (
            "/jobs?async=x",
            format!("{length}Expect: 100-continue\r\n"),
            "400",
        ),
        (
            "/jobs",
            "Content-Length: 99999999\r\nExpect: 100-continue\r\n".to_owned(),
            "413",
        ),
        (
            "/gc",
            "Content-Length: 99999\r\nExpect: 100-continue\r\n".to_owned(),
            "413",
        ),
        ("/jobs", format!("{length}Expect: a-miracle\r\n"), "417"),
        (
            "/jobs",
            format!("{length}Expect: 100-continue\r\nExpect: more\r\n"),
            "417",
        ),
    ] {
        let answer = ask(target, &headers).await;
        assert_eq!(status(&answer), expected, "{target} {headers}: {answer}");
    }
}

#[tokio::test]
async fn bodies_are_framed_as_in_the_standard() {
    let daemon = TestDaemon::with(&["succeed"]).await;
    let ask = async |headers: &str, body: &str| {
        let request = format!(
            "POST /jobs?async HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json; charset=utf-8\r\n{headers}\r\n{body}"
        );
        daemon.at().raw(request.as_bytes()).await
    };
    let close = "Connection: close\r\n";
    let chunked = "a;x=\"y\"\r\n{\"project\"\r\nb\r\n:\"succeed\"}\r\n0\r\nX-Trailer: x\r\n\r\n";
    let answer = ask(&format!("Transfer-Encoding: Chunked\r\n{close}"), chunked).await;
    assert_eq!(status(&answer), "201", "{answer}");
    for (headers, body, expected) in [
        ("Transfer-Encoding: gzip\r\n", chunked, "400"),
        ("Transfer-Encoding: chunked, gzip\r\n", chunked, "400"),
        ("Transfer-Encoding: gzip, chunked\r\n", chunked, "501"),
        ("Transfer-Encoding: chunked\r\n", "zz\r\n", "400"),
        (
            "Content-Length: 5\r\nContent-Length: 6\r\n",
            "hello!",
            "400",
        ),
        ("Content-Length: -1\r\n", "", "400"),
        ("Content-Length: +1\r\n", "x", "400"),
    ] {
        let answer = ask(&format!("{headers}{close}"), body).await;
        assert_eq!(status(&answer), expected, "{headers} {answer}");
    }
    // With both, the coding counts and the connection ends (RFC 9112 §6.3): what follows is not taken
    // for a request.
    for both in [
        "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 3\r\n",
    ] {
        let smuggled = format!("{chunked}GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n");
        let answer = ask(both, &smuggled).await;
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{answer}");
    }
}

#[tokio::test]
async fn an_error_names_what_is_too_long() {
    let daemon = TestDaemon::with(&[]).await;
    let get = async |target: &str, headers: &str| {
        let request = format!(
            "GET {target} HTTP/1.1\r\nHost: localhost\r\n{headers}Connection: close\r\n\r\n"
        );
        status(&daemon.at().raw(request.as_bytes()).await).to_owned()
    };
    assert_eq!(
        get(&format!("/healthz?{}", "x".repeat(30_000)), "").await,
        "200"
    );
    assert_eq!(
        get(&format!("/healthz?{}", "x".repeat(40_000)), "").await,
        "414"
    );
    assert_eq!(
        get(&format!("/healthz?{}", "x".repeat(100_000)), "").await,
        "414"
    );
    let headers = format!("X-Long: {}\r\n", "x".repeat(70_000));
    assert_eq!(get("/healthz", &headers).await, "431");
    assert_eq!(get("/healthz", &"X: y\r\n".repeat(200)).await, "431");
}

#[tokio::test]
async fn an_address_is_decoded_once_and_leads_nowhere_else() {
    let daemon = TestDaemon::builder()
        .await
        .script(
            "names",
            "cd $D/artifacts; mkdir d; echo 1 > 'd/a b'; echo 2 > '%41'; echo 3 > A",
        )
        .start()
        .await;
    let info = daemon.build(job("names")).await;
    let at = format!("/artifacts/names/{}", text(&info, "ID"));
    for (path, expected) in [
        ("/d/a%20b", Ok("1\n")),
        ("/%64/a b", Err(400)),
        ("//d//a%20b", Ok("1\n")),
        ("/d/./a%20b", Ok("1\n")),
        ("/%2541", Ok("2\n")),
        ("/%41", Ok("3\n")),
        ("/A/", Err(404)),
        ("/d%2Fa%20b", Err(404)),
        ("/d/../A", Err(404)),
        ("/d/%2e%2e/A", Err(404)),
        ("/..%2f..%2fbuild_info.json", Err(404)),
        ("/A%00", Err(404)),
        ("/%ff", Err(404)),
        ("/%zz", Err(404)),
    ] {
        let request =
            format!("GET {at}{path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        let answer = daemon.at().raw(request.as_bytes()).await;
        match expected {
            Ok(body) => assert!(
                answer.ends_with(&format!("\r\n\r\n{body}")),
                "{path}: {answer}"
            ),
            Err(expected) => assert_eq!(status(&answer), expected.to_string(), "{path}"),
        }
    }
}

#[tokio::test]
async fn a_tag_names_one_content_over_a_rebuild_of_the_same_size_and_time() {
    let daemon = TestDaemon::builder()
        .await
        .script(
            "again",
            "cd $D/artifacts; date +%N | cut -c1-4 > a; touch -d @1000000000 a",
        )
        .start()
        .await;
    let mut seen = std::collections::HashMap::new();
    for _ in 0..6 {
        let info = daemon
            .build(json!({ "project": "again", "rebuild": true }))
            .await;
        let answer = daemon.artifact(&info, "a").await.expect(200);
        let tag = answer.header("etag").to_owned();
        assert!(tag.starts_with('"'), "{tag}");
        assert_eq!(answer.header("last-modified"), "");
        assert_eq!(seen.insert(tag, answer.text()), None, "the same tag again");
    }
}

#[tokio::test]
async fn a_log_that_grows_has_another_tag_and_the_same_name() {
    let daemon = TestDaemon::with(&["slow"]).await;
    let id = daemon.submit(job("slow")).await;
    let path = format!("/log/slow/{id}?text");
    let mut follower = daemon.open(Ask::get(format!("{path}&follow"))).await;
    assert_eq!(header(&follower.headers, "etag"), "");
    let name = header(&follower.headers, "mistry-log").to_owned();
    let mut received = Vec::new();
    while !received.ends_with(b"waiting\n") {
        received.extend_from_slice(&follower.piece().await.unwrap());
    }
    let early = daemon.ask(Ask::get(&path)).await.expect(200);
    let tag = early.header("etag").to_owned();
    assert_eq!(early.body, received);
    let same = daemon
        .ask(Ask::get(&path).with("if-none-match", &tag))
        .await;
    assert!(same.expect(304).body.is_empty());
    let gate = daemon.home.build("slow", "pending", &id).join("data/gate");
    tokio::task::spawn_blocking(move || std::fs::write(gate, "").unwrap())
        .await
        .unwrap();
    daemon.wait("slow", &id).await;
    let late = daemon
        .ask(Ask::get(&path).with("if-none-match", &tag))
        .await
        .expect(200);
    assert_ne!(late.header("etag"), tag);
    assert_eq!(late.header("mistry-log"), name);
    // The earlier tag belongs to other content.
    daemon
        .ask(Ask::get(&path).with("if-match", &tag))
        .await
        .expect(412);
    let range = Ask::get(&path)
        .with("range", "bytes=0-3")
        .with("if-range", &tag);
    assert_eq!(daemon.ask(range).await.expect(200).body, late.body);
    // The name identifies the log, from any byte on.
    let from = received.len();
    let rest = Ask::get(format!("{path}&follow&from={from}")).with("mistry-log", &name);
    let rest = daemon
        .ask(rest.with("range", "bytes=0-1"))
        .await
        .expect(200);
    assert_eq!(rest.body, late.body[from..]);
    daemon
        .ask(Ask::get(&path).with("mistry-log", "another"))
        .await
        .expect(412);
    for wrong in [
        "&from=1",
        "&follow&from=x",
        "&follow&from=-1",
        "&follow&from",
    ] {
        daemon.get(format!("{path}{wrong}")).await.expect(400);
    }
}

#[tokio::test]
async fn reading_a_build_does_not_count_as_use() {
    let daemon = TestDaemon::with(&["succeed"]).await;
    let info = daemon
        .build(json!({ "project": "succeed", "params": { "a": "b" } }))
        .await;
    let id = text(&info, "ID").to_owned();
    let at = format!("/artifacts/succeed/{id}");
    settled(&daemon.home, "succeed", &id).await;
    let directory = std::fs::File::open(daemon.home.build("succeed", "ready", &id)).unwrap();
    let old = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_700_000_000);
    directory.set_modified(old).unwrap();
    for (method, path) in [
        ("HEAD", at.clone()),
        ("HEAD", format!("{at}?manifest")),
        ("HEAD", format!("{at}/a")),
        ("HEAD", format!("{at}/no")),
        ("GET", format!("{at}/no")),
        ("OPTIONS", at.clone()),
    ] {
        daemon.ask(Ask::new(method, &path)).await;
        assert_eq!(
            directory.metadata().unwrap().modified().unwrap(),
            old,
            "{method} {path}"
        );
    }
    for path in [at.clone(), format!("{at}?manifest"), format!("{at}/a")] {
        directory.set_modified(old).unwrap();
        daemon.ask(Ask::get(&path)).await.expect(200);
        assert_ne!(
            directory.metadata().unwrap().modified().unwrap(),
            old,
            "{path}"
        );
    }
}
