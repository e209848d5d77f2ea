//! Whole bytes of a connection: request line, headers, body, route, answer; by the server itself, over a
//! unix socket or TCP. It has one build, of the first mistry, and no Docker Engine.
//!
//! The first byte says how the bytes come: `t`, over TCP, where changes need a token and there is none;
//! else over the unix socket, where all is allowed.
#![no_main]

use std::cell::RefCell;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use mistry::build::BuildStore;
use mistry::docker::Docker;
use mistry::filesystem::Filesystem;
use mistry::metrics::Metrics;
use mistry::project::Projects;
use mistry::scheduler::{Scheduler, SchedulerConfig};
use mistry::web::{Access, Listener, Public, TokensFile, Web, serve};
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

/// The build that is there.
const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
/// Of the runtime's time, which goes on when nothing else does: an answer that has not come by then
/// waits for something that does not come, such as an event.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// Bytes of an answer that are looked at.
const MOST: u64 = 256 << 10;

struct Harness {
    runtime: Runtime,
    home: TempDir,
    port: u16,
}

thread_local! {
    static HARNESS: RefCell<Option<Harness>> = const { RefCell::new(None) };
}

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let (way, bytes) = data.split_first().unwrap_or((&b'u', &[]));
    let is_over_tcp = *way == b't';
    let text = String::from_utf8_lossy(bytes);
    // What ends the one build, or all builds, would end the trials.
    if !is_over_tcp
        && ["DELETE", "/gc", "/pause"]
            .iter()
            .any(|word| text.contains(word))
    {
        return;
    }
    HARNESS.with_borrow_mut(|harness| {
        let harness = harness.get_or_insert_with(begin);
        let (port, socket) = (harness.port, harness.home.path().join("socket"));
        let answer = harness.runtime.block_on(async {
            if is_over_tcp {
                let stream = TcpStream::connect(("127.0.0.1", port)).await;
                let stream = stream.expect("the server listens");
                // A port would be in use for a minute otherwise.
                rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO))
                    .expect("an option of TCP");
                exchange(stream, bytes).await
            } else {
                exchange(
                    UnixStream::connect(socket)
                        .await
                        .expect("the server listens"),
                    bytes,
                )
                .await
            }
        });
        check(&answer, bytes);
    });
});

/// What is answered to `bytes`.
async fn exchange(mut stream: impl AsyncRead + AsyncWrite + Unpin, bytes: &[u8]) -> Vec<u8> {
    let mut answer = Vec::new();
    let asking = async {
        // A server that refuses the beginning does not read the rest.
        let _ = stream.write_all(bytes).await;
        let _ = stream.shutdown().await;
        let _ = stream.take(MOST).read_to_end(&mut answer).await;
    };
    let _ = tokio::time::timeout(ANSWER_TIMEOUT, asking).await;
    answer
}

/// What holds for every answer.
fn check(answer: &[u8], request: &[u8]) {
    if answer.is_empty() {
        return;
    }
    let shown = || {
        let begin = &answer[..answer.len().min(2_000)];
        format!(
            "{}\n{}",
            String::from_utf8_lossy(request),
            String::from_utf8_lossy(begin)
        )
    };
    let Some(end) = answer.windows(4).position(|four| four == b"\r\n\r\n") else {
        panic!("no head of an answer: {}", shown());
    };
    let (head, body) = (&answer[..end], &answer[end + 4..]);
    let head = std::str::from_utf8(head).expect("a head is ASCII");
    let mut lines = head.split("\r\n");
    let status = lines.next().and_then(|line| line.strip_prefix("HTTP/1."));
    let status: u16 = status
        .and_then(|line| line.get(2..5)?.parse().ok())
        .expect("a status");
    // 501 and 503 are no faults of the server's.
    assert!(status != 500 && status < 504, "{}", shown());
    let mut length = None;
    let mut is_json = false;
    for line in lines {
        let (name, value) = line.split_once(": ").unwrap_or((line, ""));
        assert!(
            !line.contains(|c: char| c.is_control() && c != '\t'),
            "{}",
            shown()
        );
        match name {
            "content-length" => length = value.parse::<usize>().ok(),
            "content-type" => is_json = value.starts_with("application/json"),
            _ => {}
        }
    }
    // An answer to HEAD has the length of what GET would send, and no body: what follows it is the answer
    // to what the client sent behind the request.
    let begin = request.trim_ascii_start();
    if let Some(length) = length
        && !begin.starts_with(b"HEAD ")
        && is_json
        && !body.is_empty()
        && let Some(body) = body.get(..length)
    {
        assert!(
            serde_json::from_slice::<serde_json::Value>(body).is_ok(),
            "{}",
            shown()
        );
    }
}

fn begin() -> Harness {
    let home = mistry_fuzz::directory();
    let at = |path: &str| home.path().join(path);
    for path in ["projects/p", "projects/empty", "builds"] {
        std::fs::create_dir_all(at(path)).expect("a directory");
    }
    std::fs::write(at("projects/p/Dockerfile"), "FROM scratch\n").expect("a file");
    std::fs::write(at("tokens"), "").expect("a file");
    plant(&at("builds/p"));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .max_blocking_threads(2)
        .build()
        .expect("a runtime");
    let port = runtime.block_on(async {
        let unix = UnixListener::bind(at("socket")).expect("a socket");
        let tcp = TcpListener::bind(("127.0.0.1", 0)).await.expect("a socket");
        let port = tcp.local_addr().expect("an address").port();
        let store = BuildStore::open(&at("builds"), Filesystem::Plain).expect("a build path");
        let metrics = Metrics::new().expect("metrics");
        let scheduler = Scheduler::new(
            rules(),
            Projects::new(&at("projects")),
            store,
            Docker::new(Path::new("/nonexistent/docker.sock")).expect("a path"),
            metrics.clone(),
        );
        scheduler.adopt().await.expect("nothing is left over");
        let access = Access {
            hosts: vec!["builds.example".to_owned()],
            tokens: Some(Arc::new(TokensFile::open(&at("tokens")).expect("a file"))),
            public: Public::Read,
            local: None,
            proxies: Default::default(),
        };
        let web = Web::new(scheduler, metrics, access, CancellationToken::new());
        // Until the process ends.
        tokio::spawn(serve(vec![Listener::Unix(unix), Listener::Tcp(tcp)], web));
        port
    });
    Harness {
        runtime,
        home,
        port,
    }
}

fn rules() -> SchedulerConfig {
    SchedulerConfig {
        slots: 2,
        backlog: 4,
        mounts: Default::default(),
        network: "none".to_owned(),
        builder: mistry::project::Builder::Auto,
        limits: Default::default(),
        shm_size: None,
        ulimits: None,
        dns: None,
        extra_hosts: None,
        registry_auth: None,
        proxies: Default::default(),
        cap_add: Default::default(),
        log_limit: 1 << 20,
        job_timeout: None,
        silence_timeout: None,
        keep_attempts: 10,
        engine_wait: Duration::from_secs(1),
        gc: None,
    }
}

/// A build as the first mistry left it.
fn plant(project: &Path) {
    let build = project.join("ready").join(ID);
    let artifacts = build.join("data/artifacts");
    std::fs::create_dir_all(artifacts.join("sub/dir")).expect("a directory");
    let record = format!(
        r#"{{"Params":{{"a":"b","_s":"secret"}},"Group":"g","Path":"","Cached":false,"Coalesced":false,
        "Incremental":false,"ExitCode":0,"ErrBuild":"","TransportMethod":"rsync",
        "StartedAt":"2019-03-04T12:13:14.123456789+02:00","Duration":41000000000,"URL":"job/p/{ID}"}}"#
    );
    std::fs::write(build.join("build_info.json"), record).expect("a file");
    let log = "\u{1b}[1;31mred\u{1b}[0m\n10%\r20%\r100%\nplain <b>\n\u{202e}turned\n".repeat(900);
    std::fs::write(build.join("out.log"), log).expect("a file");
    for (path, content) in [
        ("a.txt", &b"some text\n"[..]),
        ("page.html", b"<script>alert(1)</script>"),
        ("sub/x.png", b"\x89PNG\r\n"),
        ("sub/dir/\"quoted\" <b>", b""),
    ] {
        std::fs::write(artifacts.join(path), content).expect("a file");
    }
    std::os::unix::fs::symlink("/etc/passwd", artifacts.join("link")).expect("a link");
    let closed = artifacts.join("closed");
    std::fs::create_dir(&closed).expect("a directory");
    let mode = std::fs::Permissions::from_mode(0o000);
    std::fs::set_permissions(closed, mode).expect("a mode");
    let latest = project.join("latest");
    std::os::unix::fs::symlink(format!("ready/{ID}"), latest).expect("a link");
}
