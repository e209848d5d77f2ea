//! What a Docker Engine answers: lists, objects, and streams of JSON and of framed output. The first byte
//! says which call is answered, the rest is the answer as it is on the wire; to the question for its
//! version it answers as an Engine does.
#![no_main]

use std::cell::RefCell;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use mistry::docker::{BuildSecrets, Builder, Docker, Dockerfile, ImageSpec};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::runtime::Runtime;
use tokio::task::LocalSet;
use tokio_util::sync::CancellationToken;

/// Of the runtime's time, which goes on when nothing else does. Longer than any call is waited for, so
/// that a call which waits for ever is found.
const CALL_TIMEOUT: Duration = Duration::from_secs(3_600);
/// Bytes of output that one trial can bring about: a line end may be added to each of its entries.
const MOST_OUTPUT: usize = 4 << 20;
/// Requests that one call may come to: each is answered alike, and what is asked again is bounded.
const MOST_REQUESTS: usize = 200;

struct Harness {
    runtime: Runtime,
    home: TempDir,
}

thread_local! {
    static HARNESS: RefCell<Option<Harness>> = const { RefCell::new(None) };
}

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let (call, answer) = data.split_first().unwrap_or((&0, &[]));
    HARNESS.with_borrow_mut(|harness| {
        let harness = harness.get_or_insert_with(|| Harness {
            runtime: tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .start_paused(true)
                .build()
                .expect("a runtime"),
            home: mistry_fuzz::directory(),
        });
        let socket = harness.home.path().join("docker.sock");
        let _ = std::fs::remove_file(&socket);
        let local = LocalSet::new();
        let done = local.block_on(&harness.runtime, async {
            let listener = UnixListener::bind(&socket).expect("a socket");
            let answer: Rc<[u8]> = answer.into();
            let serving = tokio::task::spawn_local(serve(listener, answer, call & 0x80 != 0));
            let docker = Docker::new(&socket).expect("a path");
            let done =
                tokio::time::timeout(CALL_TIMEOUT, ask(&docker, call & 0x0f, call & 0x40 != 0))
                    .await;
            serving.abort();
            done
        });
        assert!(done.is_ok(), "call {call} waits for ever");
    });
});

async fn ask(docker: &Docker, call: u8, is_buildkit: bool) {
    match call {
        0 => {
            let mut output = Box::pin(docker.logs("c", over()));
            let mut bytes = 0;
            while let Some(Ok(piece)) = output.next().await {
                bytes += piece.bytes.len();
                assert!(bytes < MOST_OUTPUT, "more output than was sent");
            }
        }
        1 => {
            let (sender, mut progress) = tokio::sync::mpsc::channel(1_000);
            let spec = ImageSpec {
                tag: "mistry-p".to_owned(),
                labels: Default::default(),
                build_args: Default::default(),
                optional_args: vec!["uid".to_owned()],
                target: String::new(),
                registries: mistry::docker::Registries::default(),
                network: String::new(),
                fresh: false,
                builder: if is_buildkit {
                    Builder::BuildKit
                } else {
                    Builder::Auto
                },
                dockerfile: Dockerfile::parse(b"FROM debian\n"),
                secrets: BuildSecrets::default(),
                scratch: PathBuf::new(),
            };
            let context =
                |_: &[mistry::docker::Patch]| stream::iter([Ok(Bytes::from_static(b"context"))]);
            let building = docker.build_image(&spec, context, sender);
            let reading = async { while progress.recv().await.is_some() {} };
            let _ = futures_util::future::join(building, reading).await;
        }
        2 => drop(docker.images().await),
        3 => drop(docker.image_config("i").await),
        4 => drop(docker.newest_instruction("i").await),
        5 => drop(docker.wait("c").await),
        6 => drop(docker.container_status("c").await),
        7 => drop(docker.containers(&Default::default()).await),
        8 => {
            if let Ok(Some(home)) = docker.home_of("c", 1000).await {
                assert!(!home.is_empty());
            }
        }
        9 => drop(docker.last_line("c").await),
        10 => drop(docker.has_started("c").await),
        11 => drop(docker.remove("c").await),
        12 => drop(docker.start("c").await),
        13 => drop(docker.version().await),
        _ => drop(docker.watch("c").next().await),
    }
}

/// A container that has ended: its output is not waited for.
fn over() -> CancellationToken {
    let over = CancellationToken::new();
    over.cancel();
    over
}

/// An Engine; an old one leaves line ends out of its output.
async fn serve(listener: UnixListener, answer: Rc<[u8]>, is_old: bool) {
    let mut requests = 0;
    while let Ok((connection, _)) = listener.accept().await {
        requests += 1;
        assert!(requests < MOST_REQUESTS, "it is asked again and again");
        tokio::task::spawn_local(answer_one(connection, answer.clone(), is_old));
    }
}

async fn answer_one(mut connection: UnixStream, answer: Rc<[u8]>, is_old: bool) {
    let mut head = Vec::new();
    while !head.windows(4).any(|four| four == b"\r\n\r\n") {
        match connection.read_buf(&mut head).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
    }
    let version = match is_old {
        true => r#"{"Version":"20.10.24","ApiVersion":"1.41","MinAPIVersion":"1.12"}"#,
        false => r#"{"Version":"27.0.1","ApiVersion":"1.46","MinAPIVersion":"1.24"}"#,
    };
    let version = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{version}",
        version.len()
    );
    let line = head.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let is_version = line.windows(9).any(|word| word == b"/version ");
    let bytes = if is_version {
        version.as_bytes()
    } else {
        &answer
    };
    let _ = connection.write_all(bytes).await;
    let _ = connection.shutdown().await;
    // What the client still sends is read, so that it gets the answer and not a reset.
    let mut rest = [0; 4096];
    while matches!(connection.read(&mut rest).await, Ok(1..)) {}
}
