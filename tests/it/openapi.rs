//! `docs/openapi.json` and the running server agree: for each request below, the status and media type
//! are declared, and a JSON body fits its schema, with no undeclared key. Every path of the document is
//! requested; a missing one is an error.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Mutex;

use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use mistry::build::BuildStore;
use mistry::docker::Docker;
use mistry::filesystem::{Filesystem, Kind};
use mistry::metrics::Metrics;
use mistry::project::Projects;
use mistry::scheduler::{Scheduler, SchedulerConfig};
use mistry::web::{Access, Listener, Proxies, Public, Web, serve};
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::openapi_schema::{check, resolved};
use crate::support::context::Context;
use crate::support::daemon::rules;
use crate::support::engine::Engine;

const DOCUMENT: &str = include_str!("../../docs/openapi.json");

/// A server over the fake Engine, gone when dropped.
struct Server {
    address: String,
    _home: tempfile::TempDir,
    engine: Engine,
    /// `GET /job/{project}/{id}`, as the document spells it.
    asked: Mutex<BTreeSet<String>>,
    serving: JoinHandle<std::io::Result<()>>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

fn project(home: &Path, name: &str, dockerfile: &str, script: &str) {
    let context = Context::of(dockerfile).script("run.sh", script);
    context.write(&home.join("projects").join(name));
}

impl Server {
    async fn start() -> Server {
        const DOCKERFILE: &str = "FROM scratch\nCOPY run.sh /\nENTRYPOINT [\"/run.sh\"]\n";
        let home = tempfile::tempdir().unwrap();
        let builds = home.path().join("builds");
        std::fs::create_dir(&builds).unwrap();
        let made = "echo said; mkdir $DATA/artifacts/dir; echo 0123456789 | tee $DATA/artifacts/file > $DATA/artifacts/file.txt";
        project(home.path(), "good", DOCKERFILE, made);
        project(home.path(), "bad", DOCKERFILE, "echo why >&2; exit 3");
        project(home.path(), "broken", "FRM scratch\n", "true");
        project(home.path(), "secretive", DOCKERFILE, "true");
        let settings = home.path().join("projects/secretive/mistry.json");
        std::fs::write(settings, r#"{"secrets": ["tok"]}"#).unwrap();
        let engine = Engine::start().await;
        let rules = SchedulerConfig {
            slots: 1,
            backlog: 1,
            log_limit: 1 << 20,
            ..rules()
        };
        let filesystem = Filesystem::detect(Kind::Plain, &builds).unwrap();
        let metrics = Metrics::new().unwrap();
        let scheduler = Scheduler::new(
            rules,
            Projects::new(&home.path().join("projects")),
            BuildStore::open(&builds, filesystem).unwrap(),
            Docker::new(&engine.socket()).unwrap(),
            metrics.clone(),
        );
        scheduler.adopt().await.unwrap();
        let access = Access {
            hosts: Vec::new(),
            tokens: None,
            public: Public::Read,
            local: None,
            proxies: Proxies::default(),
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let web = Web::new(scheduler, metrics, access, CancellationToken::new());
        Server {
            address,
            _home: home,
            engine,
            asked: Mutex::default(),
            serving: tokio::spawn(serve(vec![Listener::Tcp(listener)], web)),
        }
    }

    /// Asks, and holds the answer against the document. Returns the body.
    async fn ask(&self, asked: Asked<'_>) -> (Answer, Vec<String>) {
        let name = format!("{} {}", asked.method, asked.about);
        self.asked.lock().unwrap().insert(name);
        let stream = TcpStream::connect(&self.address).await.unwrap();
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .unwrap();
        let connection = tokio::spawn(connection);
        let mut request = Request::builder().method(asked.method).uri(asked.path);
        if asked.headers.iter().all(|(name, _)| *name != "host") {
            request = request.header("host", &self.address);
        }
        for (name, value) in asked.headers {
            request = request.header(*name, *value);
        }
        let body = Full::new(Bytes::from(asked.body.to_owned()));
        let response = sender
            .send_request(request.body(body).unwrap())
            .await
            .unwrap();
        let (head, body) = response.into_parts();
        let header = |name: &str| {
            head.headers
                .get(name)
                .map(|v| v.to_str().unwrap().to_owned())
        };
        let answer = Answer {
            status: head.status.as_u16(),
            media: header("content-type"),
            location: header("location"),
            body: body.collect().await.unwrap().to_bytes(),
        };
        connection.abort();
        assert!(header("x-request-id").is_some());
        let wrong = asked.differences(&answer);
        (answer, wrong)
    }

    /// Every operation of these methods was asked for.
    fn was_asked_for_all(&self, here: &str, is_ours: impl Fn(&str) -> bool) {
        let (asked, document) = (self.asked.lock().unwrap(), document());
        for (path, item) in document["paths"].as_object().unwrap() {
            let operations = resolved(&document, item).as_object().unwrap();
            for method in operations.keys().map(|method| method.to_uppercase()) {
                assert!(
                    !is_ours(&method) || asked.contains(&format!("{method} {path}")),
                    "{method} {path} is not asked for: add a request to `{here}` in tests/it/openapi.rs"
                );
            }
        }
    }

    async fn fits(&self, asked: Asked<'_>, status: u16) -> Answer {
        let (answer, wrong) = self.ask(asked).await;
        let text = String::from_utf8_lossy(&answer.body);
        assert_eq!(
            answer.status, status,
            "{} {}: {text}",
            asked.method, asked.path
        );
        assert!(
            wrong.is_empty(),
            "{} {}: {wrong:#?}\n{text}",
            asked.method,
            asked.path
        );
        answer
    }
}

/// A request, and the path of the document that it is about.
#[derive(Clone, Copy)]
struct Asked<'a> {
    about: &'a str,
    method: &'a str,
    path: &'a str,
    headers: &'a [(&'a str, &'a str)],
    body: &'a str,
}

struct Answer {
    status: u16,
    media: Option<String>,
    location: Option<String>,
    body: Bytes,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

fn get<'a>(about: &'a str, path: &'a str, headers: &'a [(&'a str, &'a str)]) -> Asked<'a> {
    Asked {
        about,
        method: "GET",
        path,
        headers,
        body: "",
    }
}

fn post<'a>(about: &'a str, path: &'a str, body: &'a str) -> Asked<'a> {
    Asked {
        about,
        method: "POST",
        path,
        headers: &[("content-type", "application/json")],
        body,
    }
}

fn document() -> Value {
    serde_json::from_str(DOCUMENT).unwrap()
}

impl Asked<'_> {
    /// Where the answer differs from the document.
    fn differences(&self, answer: &Answer) -> Vec<String> {
        let document = document();
        let item = resolved(&document, &document["paths"][self.about]);
        let operation = &item[self.method.to_lowercase()];
        let response = resolved(
            &document,
            &operation["responses"][answer.status.to_string()],
        );
        if response.is_null() {
            return vec![format!("status {} is not declared", answer.status)];
        }
        let Some(content) = response["content"].as_object() else {
            let is_empty = answer.body.is_empty();
            return (!is_empty)
                .then(|| "a body is not declared".to_owned())
                .into_iter()
                .collect();
        };
        let media = answer.media.as_deref().unwrap_or_default();
        let Some(declared) = content.get(media) else {
            return vec![format!("media type '{media}' is not declared")];
        };
        let mut wrong = Vec::new();
        if media == "application/json" {
            check(
                &document,
                &declared["schema"],
                &answer.json(),
                "",
                &mut wrong,
            );
        }
        wrong
    }
}

const JSON: &[(&str, &str)] = &[("accept", "application/json")];
const JSON_BODY: &[(&str, &str)] = &[("content-type", "application/json")];
const EVENTS: &[(&str, &str)] = &[("accept", "text/event-stream")];

/// Path as documented, path asked, headers, status.
type Case<'a> = (&'a str, &'a str, &'a [(&'a str, &'a str)], u16);

#[tokio::test]
async fn every_get_answers_as_declared() {
    let server = Server::start().await;
    let body = r#"{"project": "good", "group": "g", "params": {"a": "b", "_c": "d"}}"#;
    let built = server.fits(post("/jobs", "/jobs", body), 201).await.json();
    let failed = server
        .fits(post("/jobs", "/jobs", r#"{"project": "bad"}"#), 201)
        .await
        .json();
    let url = built["URL"].as_str().unwrap().to_owned();
    let (_, name) = url.split_once('/').unwrap();
    let (job, log) = (format!("/job/{name}"), format!("/log/{name}"));
    let (lines, times, found, nothing) = (
        format!("{log}?lines"),
        format!("{log}?times"),
        format!("{log}?find=SAID"),
        format!("{log}?find="),
    );
    let (tar, file) = (
        format!("/artifacts/{name}"),
        format!("/artifacts/{name}/file"),
    );
    let (directory, lost) = (
        format!("/artifacts/{name}/dir"),
        format!("/artifacts/{name}/no"),
    );
    let listed = format!("{tar}?manifest");
    let (viewed, inline) = (
        format!("/artifacts/{name}/file.txt?view"),
        format!("/artifacts/{name}/file.txt?inline"),
    );
    let (waited, short) = (format!("{job}?wait"), format!("{job}?log=none"));
    let (first, no_first) = (format!("{job}?attempt=1"), format!("{job}?attempt=2"));
    let (wrong_first, attempts) = (format!("{job}?attempt=0"), format!("{job}/attempts"));
    let (first_log, no_first_log) = (format!("{log}?attempt=1"), format!("{log}?attempt=2"));
    let (failed, page) = (
        format!("/{}", failed["URL"].as_str().unwrap()),
        "/index/?limit=1",
    );
    let unknown = format!("/job/good/{}", "0".repeat(64));
    let no_attempts = format!("{unknown}/attempts");
    let none: &[(&str, &str)] = &[];
    let (of_groups, of_attempts) = ("/project/{project}/groups", "/job/{project}/{id}/attempts");
    let text: &[(&str, &str)] = &[("accept", "text/plain")];
    let (part, beyond) = ([("range", "bytes=1-2")], [("range", "bytes=900-")]);
    let text_part = [("accept", "text/plain"), ("range", "bytes=0-1")];
    let text_beyond = [("accept", "text/plain"), ("range", "bytes=900-")];
    let at_the_end = [("last-event-id", "900")];
    let nonsense = [("last-event-id", "x")];
    let another = [("mistry-log", "x")];
    let changed = [("accept", "application/json"), ("if-match", "\"x\"")];
    let other_host = [("host", "evil.example")];
    let all: &[Case<'_>] = &[
        ("/", "/", none, 200),
        ("/", "/?project=good", none, 200),
        ("/", "/?project=..", none, 422),
        ("/static/{name}", "/static/style.css", none, 200),
        ("/static/{name}", "/static/no", none, 404),
        ("/index/", "/index/", none, 200),
        ("/index/", page, none, 200),
        ("/index/", "/index/?limit=0", none, 400),
        ("/index", "/index?project=good&state=ready", none, 200),
        ("/job/{project}/{id}", &job, JSON, 200),
        ("/job/{project}/{id}", &waited, JSON, 200),
        ("/job/{project}/{id}", &short, JSON, 200),
        ("/job/{project}/{id}", &failed, JSON, 200),
        ("/job/{project}/{id}", &job, none, 200),
        ("/job/{project}/{id}", &first, JSON, 200),
        ("/job/{project}/{id}", &no_first, JSON, 404),
        ("/job/{project}/{id}", &wrong_first, JSON, 400),
        (of_attempts, &attempts, none, 200),
        (of_attempts, &no_attempts, JSON, 404),
        (of_attempts, "/job/good/X/attempts", JSON, 422),
        ("/log/{project}/{id}", &first_log, text, 200),
        ("/log/{project}/{id}", &no_first_log, JSON, 404),
        ("/job/{project}/{id}", &unknown, JSON, 404),
        ("/job/{project}/{id}", "/job/good/X", JSON, 422),
        ("/log/{project}/{id}", &log, none, 200),
        ("/log/{project}/{id}", &log, EVENTS, 200),
        ("/log/{project}/{id}", &log, &at_the_end, 204),
        ("/log/{project}/{id}", &log, &nonsense, 400),
        ("/log/{project}/{id}", &log, text, 200),
        ("/log/{project}/{id}", &log, &text_part, 206),
        ("/log/{project}/{id}", &log, &text_beyond, 416),
        ("/log/{project}/{id}", &lines, none, 200),
        ("/log/{project}/{id}", &times, none, 200),
        ("/log/{project}/{id}", &found, none, 200),
        ("/log/{project}/{id}", &found, &another, 412),
        ("/log/{project}/{id}", &nothing, JSON, 400),
        ("/artifacts/{project}/{id}", &tar, none, 200),
        ("/artifacts/{project}/{id}", &listed, none, 200),
        ("/artifacts/{project}/{id}/{path}", &file, none, 200),
        ("/artifacts/{project}/{id}/{path}", &file, &changed, 412),
        ("/artifacts/{project}/{id}/{path}", &file, &part, 206),
        ("/artifacts/{project}/{id}/{path}", &file, &beyond, 416),
        (
            "/artifacts/{project}/{id}/{path}",
            &file,
            &[("if-none-match", "*")],
            304,
        ),
        ("/artifacts/{project}/{id}/{path}", &directory, none, 200),
        ("/artifacts/{project}/{id}/{path}", &viewed, none, 200),
        ("/artifacts/{project}/{id}/{path}", &inline, none, 200),
        ("/artifacts/{project}/{id}/{path}", &inline, &part, 206),
        ("/artifacts/{project}/{id}/{path}", &lost, none, 404),
        ("/projects", "/projects", none, 200),
        ("/project/{project}", "/project/good", none, 200),
        ("/project/{project}", "/project/unknown", none, 404),
        ("/project/{project}", "/project/_", none, 422),
        (of_groups, "/project/good/groups", none, 200),
        (of_groups, "/project/unknown/groups", none, 404),
        ("/status", "/status", none, 200),
        // It never ends; tests/it/slow/events.rs reads its events.
        ("/events", "/events", &nonsense, 400),
        ("/events", "/events?outcome=fine", none, 400),
        ("/metrics", "/metrics", none, 200),
        ("/healthz", "/healthz", none, 200),
        ("/healthz", "/healthz", &other_host, 421),
        ("/openapi.json", "/openapi.json", none, 200),
    ];
    for (about, path, headers, status) in all {
        server.fits(get(about, path, headers), *status).await;
        // An error is JSON, a text or a page, as the client wants it.
        for media in ["text/plain", "text/html"] {
            let others = headers.iter().filter(|(name, _)| *name != "accept");
            let headers: Vec<_> = others.copied().chain([("accept", media)]).collect();
            // Of a log and of what goes on, `Accept` says what is asked for.
            let is_choice = about.starts_with("/log/") || *about == "/events";
            if *status >= 400 && !is_choice {
                server.fits(get(about, path, &headers), *status).await;
            }
        }
    }
    server.was_asked_for_all("every_get_answers_as_declared", |method| method == "GET");
}

#[tokio::test]
async fn every_post_answers_as_declared() {
    let server = Server::start().await;
    let jobs = |body| post("/jobs", "/jobs", body);
    let good = r#"{"project": "good"}"#;
    let built = server.fits(jobs(good), 201).await.json();
    assert_eq!(built["Cached"], false);
    assert_eq!(server.fits(jobs(good), 201).await.json()["Cached"], true);
    let short = server
        .fits(post("/jobs", "/jobs?log=none", good), 201)
        .await
        .json();
    assert!(short["ContainerStdouterr"].is_null());
    let accepted = post(
        "/jobs",
        "/jobs?async",
        r#"{"project": "good", "group": "g"}"#,
    );
    let accepted = server.fits(accepted, 201).await;
    assert_eq!(
        accepted.location.unwrap(),
        format!("/{}", accepted_url(&accepted.body))
    );
    let events = Asked {
        headers: &[("content-type", "application/json"), EVENTS[0]],
        ..jobs(good)
    };
    let events = server.fits(events, 200).await.body;
    let events = String::from_utf8(events.to_vec()).unwrap();
    let document = document();
    for (name, schema) in [("state", "JobState"), ("result", "BuildInfo")] {
        let (_, event) = events
            .split_once(&format!("event: {name}\ndata: "))
            .unwrap();
        let data: Value = serde_json::from_str(event.lines().next().unwrap()).unwrap();
        let mut wrong = Vec::new();
        check(
            &document,
            &document["components"]["schemas"][schema],
            &data,
            "",
            &mut wrong,
        );
        assert!(wrong.is_empty(), "{name}: {wrong:?}");
    }
    let errored = server.fits(jobs(r#"{"project": "broken"}"#), 500).await;
    assert!(
        errored
            .location
            .unwrap()
            .ends_with(errored_job(&errored.body).as_str())
    );
    for (body, status) in [
        ("{", 400),
        (r#"{"project": "good", "colour": 1}"#, 400),
        (r#"{"project": "unknown"}"#, 404),
        (r#"{"project": "../x"}"#, 422),
    ] {
        server.fits(jobs(body), status).await;
    }
    let untyped = Asked {
        headers: &[],
        ..jobs(good)
    };
    server.fits(untyped, 415).await;
    let foreign = Asked {
        headers: &[
            ("content-type", "application/json"),
            ("sec-fetch-site", "cross-site"),
        ],
        ..jobs(good)
    };
    server.fits(foreign, 403).await;

    let about = "/job/{project}/{id}/cancel";
    server.engine.hold("create");
    let asked = r#"{"project": "good", "group": "held"}"#;
    let held = server.fits(post("/jobs", "/jobs?async", asked), 201).await;
    let path = format!("/{}/cancel", accepted_url(&held.body));
    server
        .fits(post(about, &path, r#"{"reason": "x"}"#), 202)
        .await;
    server.engine.release("create");
    let over = format!("/job/good/{}/cancel", built["ID"].as_str().unwrap());
    let unknown = format!("/job/good/{}/cancel", "0".repeat(64));
    for (path, body, status) in [
        (over.as_str(), "", 409),
        (&over, "{", 400),
        (&over, r#"{"reason": "\n"}"#, 422),
        (&unknown, "{}", 404),
        ("/job/good/x/cancel", "{}", 422),
    ] {
        server.fits(post(about, path, body), status).await;
    }

    let gc = |body| post("/gc", "/gc", body);
    let all = server.fits(gc(r#"{"max_bytes": 0, "dry_run": true}"#), 200);
    assert_eq!(all.await.json()["DryRun"], true);
    server.fits(gc("{}"), 422).await;
    server.fits(gc(r#"{"colour": 1}"#), 400).await;
    let job = format!("/{}", built["URL"].as_str().unwrap());
    let pin = format!("{job}/pin");
    let (of_job, of_pin) = ("/job/{project}/{id}", "/job/{project}/{id}/pin");
    let unknown = format!("/job/good/{}", "0".repeat(64));
    let grouped = r#"{"project": "good", "group": "reset"}"#;
    let grouped = server.fits(jobs(grouped), 201).await.json();
    let loose = format!("/{}?base", grouped["URL"].as_str().unwrap());
    let about = "/project/{project}/groups/reset";
    for (body, status) in [
        (r#"{"group": "reset"}"#, 204),
        (r#"{"group": "reset"}"#, 404),
        (r#"{"group": 1}"#, 400),
        (r#"{"group": "a\nb"}"#, 422),
    ] {
        let reset = post(about, "/project/good/groups/reset", body);
        server.fits(reset, status).await;
    }
    let lost = format!("{unknown}/pin");
    for (about, method, path, status) in [
        (of_pin, "PUT", pin.as_str(), 204),
        (of_pin, "PUT", lost.as_str(), 404),
        (of_job, "DELETE", job.as_str(), 409),
        (of_job, "DELETE", loose.as_str(), 200),
        (of_pin, "DELETE", pin.as_str(), 204),
        (of_pin, "DELETE", lost.as_str(), 404),
        (of_pin, "DELETE", "/job/good/X/pin", 422),
        (of_job, "DELETE", unknown.as_str(), 404),
        (of_job, "DELETE", "/job/good/X", 422),
    ] {
        let asked = Asked {
            method,
            ..post(about, path, "")
        };
        server.fits(asked, status).await;
    }

    for (method, headers, status) in [
        ("POST", JSON_BODY, 204),
        ("DELETE", JSON_BODY, 204),
        ("DELETE", &[][..], 415),
    ] {
        let asked = Asked {
            method,
            headers,
            ..post("/session", "/session", "")
        };
        server.fits(asked, status).await;
    }
    for path in ["/queue/pause", "/queue/pause", "/queue/resume"] {
        server.fits(post(path, path, ""), 204).await;
        let untyped = Asked {
            headers: &[],
            ..post(path, path, "")
        };
        server.fits(untyped, 415).await;
    }
    let rebuild = |path| post("/project/{project}/rebuild", path, "{}");
    server.fits(rebuild("/project/good/rebuild"), 200).await;
    server.fits(rebuild("/project/unknown/rebuild"), 404).await;
    server.fits(rebuild("/project/_/rebuild"), 422).await;
    server.fits(rebuild("/project/broken/rebuild"), 500).await;
    server
        .fits(rebuild("/project/secretive/rebuild"), 409)
        .await;
    let other = post(
        "/project/{project}/rebuild",
        "/project/secretive/rebuild",
        r#"{"params": {"other": "x"}}"#,
    );
    server.fits(other, 422).await;
    server.engine.stop().await;
    server.fits(rebuild("/project/good/rebuild"), 503).await;
    server
        .fits(jobs(r#"{"project": "good", "group": "new"}"#), 503)
        .await;
    server.was_asked_for_all("every_post_answers_as_declared", |method| method != "GET");
}

fn accepted_url(body: &[u8]) -> String {
    let state: Value = serde_json::from_slice(body).unwrap();
    state["URL"].as_str().unwrap().to_owned()
}

fn errored_job(body: &[u8]) -> String {
    let error: Value = serde_json::from_slice(body).unwrap();
    error["job"].as_str().unwrap().to_owned()
}

#[test]
fn the_request_in_the_document_fits_its_schema() {
    let document = document();
    let schema = &document["components"]["schemas"]["JobRequest"];
    let text = include_str!("../../docs/http-api.md");
    let (_, example) = text.split_once("```json\n").unwrap();
    let example = serde_json::from_str(example.split_once("\n```").unwrap().0).unwrap();
    let mut wrong = Vec::new();
    check(&document, schema, &example, "", &mut wrong);
    assert!(wrong.is_empty(), "{wrong:?}");
}
