//! Build secrets: a program in the place of docker-buildx gets them, and whatever it does ends in a sentence.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open};
use serde_json::{Value, json};

use crate::recovery::wait;
use crate::support::{
    cli,
    context::Context,
    daemon::{Home, names, text},
    http::{Ask, Event, within},
    process::{Ended, Process, run, served},
};

const SECRET: &str = "hunter2-of-the-registry";

const DOCKERFILE: &str =
    "FROM scratch\nCOPY run.sh /\nRUN --mount=type=secret,id=tok x\nENTRYPOINT [\"/run.sh\"]\n";

/// The begin of each program: it reads the context and its arguments.
const PROGRAM: &str = r#"#!/bin/sh
set -e
engine=$(dirname "${DOCKER_HOST#unix://}")
echo "$*" > "$engine/arguments"
tr '\0' '\n' < /proc/$$/environ > "$engine/variables"
mkdir root; tar -C root -xf -
id_file= secret=
: > labels
while [ $# -gt 0 ]; do
    case $1 in
        --label) echo "$2" >> labels; shift ;;
        --iidfile) id_file=$2; shift ;;
        --secret=*) secret=$(cat "${1#*src=}") ;;
    esac
    shift
done
# step NAME, out TEXT: as docker-buildx reports them.
step() { printf '{"vertexes":[{"digest":"%s","name":"%s","started":"2026-11-30T00:00:00Z"}]}\n' "$1" "$1" >&2; }
out() { printf '{\n  "logs": [\n    {"vertex": "%s", "data": "%s"}\n  ]\n}\n' "$1" "$(printf '%s\n' "$2" | base64 -w0)" >&2; }
image() {
    id=$(printf '%s %s' "$$" "$(cat labels)" | sha256sum | cut -c1-64)
    mkdir -p "$engine/built"
    cp -r . "$engine/built/.$id"; mv "$engine/built/.$id" "$engine/built/$id"
    echo "sha256:$id" > "$id_file"
}
"#;

const GOOD: &str =
    r#"step 'RUN x'; out 'RUN x' "it is $secret"; echo run >> "$engine/runs"; image"#;

struct Bench {
    home: Home,
}

impl Bench {
    async fn new() -> Bench {
        let home = Home::new().await;
        home.configure(&json!({}));
        let context = Context::of(DOCKERFILE)
            .script(
                "run.sh",
                "ls ${DATA:-/data}/params > ${DATA:-/data}/artifacts/params",
            )
            .file("mistry.json", 0o644, r#"{"secrets": ["tok"]}"#);
        home.project("p", &context);
        Bench { home }
    }

    /// Puts a program in the place of docker-buildx.
    fn program(&self, lines: &str) {
        let directory = self.home.path("docker/cli-plugins");
        std::fs::create_dir_all(&directory).unwrap();
        let program = directory.join("docker-buildx");
        // A file that is executed cannot be written.
        let _ = std::fs::remove_file(&program);
        std::fs::write(&program, format!("{PROGRAM}{lines}\n")).unwrap();
        std::fs::set_permissions(program, PermissionsExt::from_mode(0o755)).unwrap();
    }

    /// The same, but the program waits in its step for [`Bench::open_gate`].
    fn gated(&self, lines: &str) {
        let gate = self.written("gate");
        let made = std::process::Command::new("mkfifo").arg(gate).status();
        assert!(made.unwrap().success());
        let wait = r#"step 'RUN x'; out 'RUN x' begun; read -r _ < "$engine/gate""#;
        self.program(&format!("{wait}\n{lines}"));
    }

    /// Lets the program go on; it is at the gate, or comes there.
    async fn open_gate(&self) {
        let gate = self.written("gate");
        let opened = tokio::task::spawn_blocking(|| std::fs::write(gate, "\n").unwrap());
        within("the program at the gate", opened).await.unwrap();
    }

    /// A file that the program has written.
    fn written(&self, name: &str) -> PathBuf {
        self.home.engine.socket().parent().unwrap().join(name)
    }

    fn mistryd(&self) -> std::process::Command {
        let mut command = self.home.mistryd();
        command.env("DOCKER_CONFIG", self.home.path("docker"));
        // The tools of the program.
        command.env("PATH", "/usr/bin:/bin");
        command
    }

    async fn serve(&self) -> Process {
        let mut command = self.mistryd();
        command.args(["--addr", "127.0.0.1:0"]);
        served(command).await
    }

    /// Nothing is left of the program, and no process has the secret.
    fn assert_clean(&self) {
        assert_eq!(names(&self.home.builds().join(".mistry/buildx")), [""; 0]);
        let found = std::process::Command::new("grep")
            .args(["-rl", "--", SECRET])
            .arg(self.home.builds())
            .output()
            .unwrap();
        assert_eq!(String::from_utf8_lossy(&found.stdout), "");
    }
}

fn with_secret() -> Value {
    json!({"project": "p", "params": {"_tok": SECRET}})
}

/// The client, at this daemon.
async fn mistry(daemon: &Process, arguments: &[&str]) -> Ended {
    let mut command = cli::mistry(arguments);
    command.env("MISTRY_URL", format!("http://127.0.0.1:{}", daemon.port()));
    run(command).await
}

/// Waits until a step has said that it has begun.
async fn until_begun(daemon: &Process, id: &str) {
    let path = format!("/log/p/{id}?follow&text");
    let mut log = daemon.at.open(Ask::get(path)).await;
    within("the step", async {
        let mut seen = Vec::new();
        while !String::from_utf8_lossy(&seen).contains("begun") {
            seen.extend(log.piece().await.expect("the log goes on"));
        }
    })
    .await;
}

/// Waits until a job asks for its image.
async fn until_imaging(daemon: &Process, job: &Value) {
    let ask = Ask::post("/jobs", job).with("accept", "text/event-stream");
    let mut events = daemon.at.open(ask).await;
    let is_imaging = |event: &Event| event.name == "state" && event.json()["Phase"] == "imaging";
    events.until(is_imaging).await;
}

async fn log(daemon: &Process, info: &Value) -> String {
    let path = format!("/log/p/{}?text", text(info, "ID"));
    daemon.at.ask(Ask::get(path)).await.text()
}

#[tokio::test]
async fn the_value_reaches_the_build_of_the_image_and_nothing_else() {
    let bench = Bench::new().await;
    bench.program(GOOD);
    let daemon = bench.serve().await;
    let id = daemon.at.submit(&with_secret()).await;
    let info = wait(&daemon.at, "p", &id).await;
    assert_eq!(info["Outcome"], "succeeded", "{info}");
    let log = log(&daemon, &info).await;
    assert!(log.contains("#1 RUN x\n#1 it is ***\n"), "{log}");
    for name in ["arguments", "variables"] {
        let seen = std::fs::read_to_string(bench.written(name)).unwrap();
        assert!(!seen.contains(SECRET) && !seen.is_empty(), "{seen}");
    }
    let asked = std::fs::read_to_string(bench.written("arguments")).unwrap();
    for part in [
        "build --builder default --progress rawjson ",
        " --label mistry.context=",
        " --build-arg uid=",
        " --network host ",
        " --secret=id=tok,src=/proc/",
    ] {
        assert!(asked.contains(part), "{asked}");
    }
    bench.assert_clean();
    // The image is there: no value is needed, and another value gets the same image.
    for params in [
        json!({"a": "b"}),
        json!({"a": "c", "_tok": "another-value"}),
    ] {
        let id = daemon
            .at
            .submit(&json!({"project": "p", "params": params}))
            .await;
        let info = wait(&daemon.at, "p", &id).await;
        assert_eq!(info["Outcome"], "succeeded", "{info}");
    }
    let runs = std::fs::read_to_string(bench.written("runs")).unwrap();
    assert_eq!(runs, "run\n");
}

#[tokio::test]
async fn without_the_value_an_image_is_not_built_and_the_param_is_named() {
    let bench = Bench::new().await;
    bench.program(GOOD);
    let daemon = bench.serve().await;
    let id = daemon.at.submit(&json!({"project": "p"})).await;
    let info = wait(&daemon.at, "p", &id).await;
    assert_eq!(info["Outcome"], "errored", "{info}");
    let error = text(&info, "Err");
    assert!(
        error.contains("its build needs the value of _tok"),
        "{error}"
    );
    assert!(error.contains("ask again with --_tok=@FILE"), "{error}");
    assert!(!bench.written("runs").exists());
    // The next request has it.
    let id = daemon.at.submit(&with_secret()).await;
    assert_eq!(wait(&daemon.at, "p", &id).await["Outcome"], "succeeded");
    // A new image needs it again.
    let rebuild = json!({"project": "p", "params": {"a": "b"}, "rebuild": true});
    let id = daemon.at.submit(&rebuild).await;
    let info = wait(&daemon.at, "p", &id).await;
    let error = text(&info, "Err");
    assert!(
        error.contains(": its build needs the value of _tok"),
        "{error}"
    );
}

#[tokio::test]
async fn jobs_with_different_values_that_want_one_image_get_one_image_build() {
    let bench = Bench::new().await;
    bench.home.configure(&json!({"job_concurrency": 3}));
    bench.gated(r#"echo "$secret" >> "$engine/values"; image"#);
    let daemon = bench.serve().await;
    let job = |number: u8| {
        let value = format!("{SECRET}-{number}");
        json!({"project": "p", "params": {"number": number.to_string(), "_tok": value}})
    };
    let first = daemon.at.submit(&job(1)).await;
    until_begun(&daemon, &first).await;
    let none = json!({"project": "p"});
    let mut ids = vec![first];
    for later in [job(2), none] {
        until_imaging(&daemon, &later).await;
        ids.push(daemon.at.submit(&later).await);
    }
    bench.open_gate().await;
    for id in ids {
        let info = wait(&daemon.at, "p", &id).await;
        assert_eq!(info["Outcome"], "succeeded", "{info}");
    }
    let values = std::fs::read_to_string(bench.written("values")).unwrap();
    assert_eq!(values, format!("{SECRET}-1\n"));
    bench.assert_clean();
}

#[tokio::test]
async fn a_job_that_waits_for_an_image_that_fails_builds_it_with_its_own_value() {
    let bench = Bench::new().await;
    let lines = r#"echo 'ERROR: refused' >&2; exit 1"#;
    bench.gated(&format!(
        "if [ \"$secret\" = wrong-value ]; then {lines}; fi\nimage"
    ));
    let daemon = bench.serve().await;
    let wrong = json!({"project": "p", "params": {"a": "b", "_tok": "wrong-value"}});
    let wrong = daemon.at.submit(&wrong).await;
    until_begun(&daemon, &wrong).await;
    until_imaging(&daemon, &with_secret()).await;
    let right = daemon.at.submit(&with_secret()).await;
    bench.open_gate().await;
    let info = wait(&daemon.at, "p", &wrong).await;
    assert!(text(&info, "Err").contains("refused"), "{info}");
    bench.open_gate().await;
    assert_eq!(wait(&daemon.at, "p", &right).await["Outcome"], "succeeded");
}

#[tokio::test]
async fn a_daemon_that_ends_meanwhile_begins_again_with_the_value() {
    for signal in [Signal::TERM, Signal::KILL] {
        let bench = Bench::new().await;
        bench.gated("image");
        let daemon = bench.serve().await;
        let id = daemon.at.submit(&with_secret()).await;
        until_begun(&daemon, &id).await;
        let is_killed = signal == Signal::KILL;
        assert_eq!(daemon.end(signal).await == 0, !is_killed);
        assert_eq!(
            names(&bench.home.builds().join(".mistry/buildx")).is_empty(),
            !is_killed
        );
        if is_killed {
            // The program is still there.
            bench.open_gate().await;
        }
        bench.program(GOOD);
        let daemon = bench.serve().await;
        let info = wait(&daemon.at, "p", &id).await;
        assert_eq!(info["Outcome"], "succeeded", "{info}");
        assert!(log(&daemon, &info).await.contains("it is ***"), "{info}");
        bench.assert_clean();
    }
}

#[tokio::test]
async fn whatever_the_program_does_ends_in_a_sentence() {
    let bench = Bench::new().await;
    let daemon = bench.serve().await;
    for (lines, expected) in [
        ("kill -9 $$", "docker-buildx was killed by signal 9"),
        (
            "echo nonsense >&2; echo '{' >&2; exit 3",
            "docker-buildx ended with status 3; its last words: {",
        ),
        (
            "echo \"ERROR: failed to solve: it is $secret\" >&2; exit 1",
            "failed to solve: it is ***",
        ),
        ("exit 0", "docker-buildx ended without the id of an image"),
        (
            "echo sha256:x > \"$id_file\"",
            "docker-buildx ended without the id of an image",
        ),
        (
            "printf 'sha256:%064d' 7 > \"$id_file\"",
            "docker-buildx reports an image that the Docker Engine does not have",
        ),
        (
            "echo other=label > labels; image",
            "or that is not the one that was asked for",
        ),
        (
            "echo 'ERROR: unknown flag: --iidfile' >&2; exit 1",
            "mistry needs docker-buildx 0.13 or later",
        ),
        (
            "head -c 17000000 /dev/zero | tr '\\0' x >&2; exec sleep 1000",
            "printed more than 16 MiB without an end of the line",
        ),
    ] {
        bench.program(lines);
        let id = daemon.at.submit(&with_secret()).await;
        let info = wait(&daemon.at, "p", &id).await;
        assert_eq!(info["Outcome"], "errored", "{lines}: {info}");
        let error = text(&info, "Err");
        assert!(error.contains(expected), "{lines}: {error}");
    }
    bench.assert_clean();
    bench.home.project(
        "q",
        &Context::of(DOCKERFILE).script("run.sh", "true").file(
            "mistry.json",
            0o644,
            r#"{"secrets": ["other"]}"#,
        ),
    );
    let params = json!({"project": "q", "params": {"_other": "x"}});
    let id = daemon.at.submit(&params).await;
    let info = wait(&daemon.at, "q", &id).await;
    let expected = "line 3 of the Dockerfile asks for the build secret 'tok', which mistry.json does not list: add \"secrets\": [\"tok\"]";
    assert!(text(&info, "Err").contains(expected), "{info}");
}

#[tokio::test]
async fn a_cancelled_build_ends_the_program_and_what_it_has_started() {
    let bench = Bench::new().await;
    bench.program(
        "sleep 1000 & echo $! > \"$engine/other\"; step 'RUN x'; out 'RUN x' begun; exec sleep 1000",
    );
    let daemon = bench.serve().await;
    let id = daemon.at.submit(&with_secret()).await;
    until_begun(&daemon, &id).await;
    let other = std::fs::read_to_string(bench.written("other")).unwrap();
    let other = Pid::from_raw(other.trim().parse().unwrap()).unwrap();
    let other = pidfd_open(other, PidfdFlags::NONBLOCK).unwrap();
    let cancel = Ask::post(format!("/job/p/{id}/cancel"), &json!({}));
    assert!(daemon.at.ask(cancel).await.status < 300);
    assert_eq!(wait(&daemon.at, "p", &id).await["Outcome"], "cancelled");
    let ended = tokio::net::unix::pipe::Receiver::from_owned_fd_unchecked(other).unwrap();
    within("the end of the other process", ended.readable())
        .await
        .unwrap();
    // The program is awaited before the daemon ends.
    assert_eq!(daemon.end(Signal::TERM).await, 0);
    bench.assert_clean();
}

#[tokio::test]
async fn a_rebuild_takes_the_value_and_leaves_the_image_without_it() {
    let bench = Bench::new().await;
    bench.program(GOOD);
    let file = bench.home.path("tok");
    std::fs::write(&file, SECRET).unwrap();
    let param = format!("--_tok=@{}", file.display());
    let left = "is left as it is: its build needs the value of _tok";
    for with_daemon in [true, false] {
        let daemon = match with_daemon {
            true => Some(bench.serve().await),
            false => None,
        };
        if let Some(daemon) = &daemon {
            let ask = |body: Value| daemon.at.ask(Ask::post("/project/p/rebuild", &body));
            let answer = ask(json!({})).await.expect(409);
            assert!(answer.text().contains(left), "{}", answer.text());
            let other = ask(json!({"params": {"other": "x"}})).await.expect(422);
            assert!(other.text().contains("param 'other' is not for the image"));
            ask(json!({"parms": {}})).await.expect(400);
            let made = ask(json!({"params": {"_tok": SECRET}})).await.expect(200);
            let made = made.json();
            assert!(text(&made, "Log").contains("it is ***"), "{made}");
            assert!(!made.to_string().contains(SECRET));
            let ended = mistry(daemon, &["rebuild", "p"]).await;
            assert_eq!(ended.status, 3, "{ended:?}");
            assert!(ended.stderr.contains(left), "{ended:?}");
            let ended = mistry(daemon, &["rebuild", "-v", "p", &param]).await;
            assert_eq!(ended.status, 0, "{ended:?}");
            assert!(ended.stderr.contains("it is ***"), "{ended:?}");
        }
        let mut command = bench.mistryd();
        let ended = {
            command.args(["rebuild"]);
            run(command).await
        };
        assert_eq!(ended.status, 0, "{ended:?}");
        assert!(ended.stdout.contains("Left p: "), "{ended:?}");
        assert!(ended.stdout.contains(left), "{ended:?}");
        let last = ended.stdout.lines().last().unwrap();
        assert!(last.starts_with("Finished. Rebuilt: 0, "), "{last}");
        assert!(last.ends_with(", Failed: 0, Left names: p"), "{last}");
        let mut command = bench.mistryd();
        command.args(["rebuild", "p", &param, "--verbose"]);
        let ended = run(command).await;
        assert_eq!(ended.status, 0, "{ended:?}");
        assert!(ended.stdout.contains("it is ***"), "{ended:?}");
        let mut command = bench.mistryd();
        command.args(["rebuild", "p", "--", "--other=x"]);
        let ended = run(command).await;
        assert_eq!(ended.status, 2, "{ended:?}");
        assert!(
            ended
                .stderr
                .contains("param 'other' is not for the image of any")
        );
        if let Some(daemon) = daemon {
            assert_eq!(daemon.end(Signal::TERM).await, 0);
        }
    }
    bench.assert_clean();
}
