//! Why a build failed: the end of its log as it was written, with the lines of standard error marked, and
//! where the output of its container begins.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{
    context::Context,
    daemon::{TestDaemon, job, text},
    http::Ask,
};

/// A compiler that warns on standard error, waits at a gate, and then prints its error on standard output.
const COMPILER: &str = "
    mkfifo \"$DATA/gate\"; echo 'npm WARN deprecated' >&2
    read -r _ < \"$DATA/gate\" || :
    echo 'src/app.ts(3,5): error TS2322'; exit 2";

/// Waits until the log of the build has a line.
async fn until(daemon: &TestDaemon, project: &str, id: &str, line: &str) {
    let mut log = daemon.open(Ask::get(format!("/log/{project}/{id}"))).await;
    log.until(|event| event.data == line).await;
}

async fn open_gate(daemon: &TestDaemon, id: &str) {
    let gate = daemon.home.build("tsc", "pending", id).join("data/gate");
    tokio::task::spawn_blocking(move || std::fs::write(gate, "\n").unwrap())
        .await
        .unwrap();
}

/// The whole log of a build.
async fn log(daemon: &TestDaemon, info: &Value) -> Vec<u8> {
    let path = format!("/log/{}/{}", text(info, "Project"), text(info, "ID"));
    let ask = Ask::get(path).with("accept", "text/plain");
    daemon.ask(ask).await.expect(200).body.to_vec()
}

/// The texts and marks of an excerpt, which is the end of this part and begins where it says.
async fn lines(daemon: &TestDaemon, info: &Value, part: &str) -> Vec<(String, bool)> {
    let excerpt = &info["Excerpt"];
    assert_eq!(excerpt["Part"], part, "{info:#}");
    let lines = excerpt["Lines"].as_array().unwrap().iter();
    let lines: Vec<_> = lines
        .map(|line| {
            let is_stderr = line["Stderr"].as_bool().unwrap();
            (text(line, "Text").to_owned(), is_stderr)
        })
        .collect();
    let from = usize::try_from(excerpt["From"].as_u64().unwrap()).unwrap();
    let log = log(daemon, info).await;
    let first = lines[0].0.trim_start_matches("[…] ");
    let at = String::from_utf8_lossy(&log[from..]).into_owned();
    assert!(at.starts_with(first), "{at:.200} {first:.200}");
    lines
}

#[tokio::test]
async fn an_error_on_standard_output_is_shown_beside_a_warning_on_standard_error() {
    for is_restarted in [false, true] {
        let mut daemon = TestDaemon::builder().await.script("tsc", COMPILER);
        daemon = daemon.project("other", |context| context);
        let mut daemon = daemon.start().await;
        let id = daemon.submit(job("tsc")).await;
        until(&daemon, "tsc", &id, "npm WARN deprecated").await;
        if is_restarted {
            daemon.stop().await;
            daemon.start_again().await;
        }
        open_gate(&daemon, &id).await;
        let info = daemon.wait("tsc", &id).await;
        let expected = [
            ("npm WARN deprecated".to_owned(), true),
            ("src/app.ts(3,5): error TS2322".to_owned(), false),
        ];
        assert_eq!(lines(&daemon, &info, "run").await, expected);
        let from = info["LogRunsFrom"].as_u64().unwrap();
        assert_eq!(info["Excerpt"]["From"], from);
        let log = log(&daemon, &info).await;
        assert_eq!(
            String::from_utf8_lossy(&log[from as usize..]),
            "npm WARN deprecated\nsrc/app.ts(3,5): error TS2322\n"
        );
        // The key that clients of the first mistry read holds what it always did.
        assert_eq!(text(&info, "ContainerStderr"), "npm WARN deprecated\n");
        // The record has it, and lists do not.
        daemon.stop().await;
        daemon.start_again().await;
        assert_eq!(daemon.info("tsc", &id).await["Excerpt"], info["Excerpt"]);
        let list = daemon.get("/index/").await.expect(200).json();
        assert_eq!(list[0]["buildInfo"]["Excerpt"], Value::Null, "{list}");
        assert_eq!(list[0]["buildInfo"]["LogRunsFrom"], from);
    }
}

/// Docker keeps no order between the streams: the log may be all of one, then all of the other.
#[tokio::test]
async fn an_error_on_one_stream_is_shown_beside_any_number_of_lines_on_the_other() {
    let error = "src.c:1:21: error: expected expression";
    let builder = TestDaemon::builder().await;
    let before = "
        echo 'src.c:1:21: error: expected expression'
        i=0; while [ $i -lt 60 ]; do i=$((i+1)); echo \"noise $i\"; done >&2
        exit 1";
    let behind = "
        i=0; while [ $i -lt 60 ]; do i=$((i+1)); echo \"noise $i\"; done >&2
        echo 'src.c:1:21: error: expected expression'
        exit 1";
    // Far before the end of the log.
    let far = "
        echo 'src.c:1:21: error: expected expression' >&2
        head -c 1000000 /dev/zero | tr '\\0' '\\n'
        exit 1";
    let builder = builder.script("before", before).script("behind", behind);
    let daemon = builder.script("far", far).start().await;
    for (project, is_stderr, printed) in [
        ("before", false, 61),
        ("behind", false, 61),
        ("far", true, 1_000_001),
    ] {
        let info = daemon.build(job(project)).await;
        let lines = lines(&daemon, &info, "run").await;
        assert_eq!(lines.len(), 40, "{lines:?}");
        assert!(lines.contains(&(error.to_owned(), is_stderr)), "{lines:?}");
        let noise = lines.iter().filter(|(_, of)| *of != is_stderr).count();
        assert_eq!(noise, 39);
        let shown = info["Excerpt"]["Lines"].as_array().unwrap();
        let gaps = shown.iter().map(|line| line["Skipped"].as_u64().unwrap());
        let gaps: Vec<u64> = gaps.filter(|lines| *lines > 0).collect();
        // Which comes first depends on the Engine, which sends two streams.
        let most = gaps.iter().all(|lines| *lines <= printed - 40);
        assert!(gaps.len() <= 1 && most, "{project}: {gaps:?}");
    }
}

#[tokio::test]
async fn output_on_one_stream_alone_is_marked_as_that_stream() {
    let builder = TestDaemon::builder().await;
    let builder = builder.script("out", "echo one; printf two; exit 1");
    let builder = builder.script("err", "{ echo one; printf two; } >&2; exit 1");
    let daemon = builder.script("none", "exit 1").start().await;
    for (project, is_stderr) in [("out", false), ("err", true)] {
        let info = daemon.build(job(project)).await;
        let expected = ["one", "two"].map(|line| (line.to_owned(), is_stderr));
        assert_eq!(lines(&daemon, &info, "run").await, expected);
    }
    let info = daemon.build(job("none")).await;
    assert_eq!(info["Excerpt"], Value::Null);
    assert!(info["LogRunsFrom"].is_u64());
}

#[tokio::test]
async fn only_a_build_that_did_not_succeed_has_an_excerpt() {
    let daemon = TestDaemon::with(&["succeed"]).await;
    let info = daemon.build(job("succeed")).await;
    assert_eq!(info["Excerpt"], Value::Null);
    let from = info["LogRunsFrom"].as_u64().unwrap() as usize;
    assert_eq!(&log(&daemon, &info).await[from..], b"run 1\n");
}

#[tokio::test]
async fn a_failed_image_build_shows_the_end_of_its_own_output_without_anything_of_ours() {
    let builder = TestDaemon::builder().await;
    let dockerfile = "FROM scratch\nRUN echo compiling\nRUN false\n";
    builder.home.project("bad", &Context::of(dockerfile));
    let daemon = builder.start().await;
    let answer = daemon.post("/jobs", &job("bad")).await.expect(500).json();
    let id = text(&answer, "job").to_owned();
    let info = daemon.info("bad", &id).await;
    let lines = lines(&daemon, &info, "image").await;
    let texts: Vec<_> = lines.iter().map(|(text, _)| text.as_str()).collect();
    let digits = "0123456789ab";
    let expected = [
        "Step 1/3 : FROM scratch",
        &format!(" ---> {digits}"),
        "Step 2/3 : RUN echo compiling",
        &format!(" ---> Running in {digits}"),
        "compiling",
        &format!("Removing intermediate container {digits}"),
        &format!(" ---> {digits}"),
        "Step 3/3 : RUN false",
        &format!(" ---> Running in {digits}"),
    ];
    assert_eq!(texts, expected);
    assert!(lines.iter().all(|(_, is_stderr)| !is_stderr));
    assert_eq!(info["LogRunsFrom"], Value::Null);
}

#[tokio::test]
async fn a_note_that_explains_the_end_is_shown_and_that_of_a_cancellation_is_not() {
    let builder = TestDaemon::builder().await;
    let builder = builder.script(
        "hang",
        "echo waiting; mkfifo \"$DATA/gate\"; read -r _ < \"$DATA/gate\"",
    );
    let mut daemon = builder.start().await;
    let id = daemon.submit(job("hang")).await;
    until(&daemon, "hang", &id, "waiting").await;
    let path = format!("/job/hang/{id}/cancel");
    let reason = json!({ "reason": "wrong branch" });
    daemon.post(path, &reason).await.expect(202);
    let info = daemon.wait("hang", &id).await;
    let waiting = ("waiting".to_owned(), false);
    assert_eq!(
        lines(&daemon, &info, "run").await,
        std::slice::from_ref(&waiting)
    );
    daemon.stop().await;
    let settings = json!({"job_timeout": "3s"}).to_string();
    std::fs::write(daemon.home.projects().join("hang/mistry.json"), settings).unwrap();
    daemon.start_again().await;
    let info = daemon.build(job("hang")).await;
    let note = "mistry: the build ran longer than 3s (job_timeout) and was stopped";
    let expected = [waiting, (note.to_owned(), false)];
    assert_eq!(lines(&daemon, &info, "run").await, expected);
}

#[tokio::test]
async fn a_note_about_a_log_that_is_too_long_is_not_marked_as_standard_error() {
    let builder = TestDaemon::builder().await.log_limit(10_000);
    let builder = builder.script("loud", "while echo warning; do :; done >&2");
    let daemon = builder.start().await;
    let answer = daemon.post("/jobs", &job("loud")).await.expect(500).json();
    let info = daemon.info("loud", text(&answer, "job")).await;
    let lines = lines(&daemon, &info, "run").await;
    let note = "mistry: the build printed more than 10000 bytes (log_limit) and was stopped";
    let (last, printed) = lines.split_last().unwrap();
    assert_eq!(last, &(note.to_owned(), false));
    assert!(
        printed.iter().all(|(_, is_stderr)| *is_stderr),
        "{printed:?}"
    );
}

#[tokio::test]
async fn a_log_that_is_one_line_ends_in_an_escape_sequence_and_is_no_text_is_shown_at_its_end() {
    let builder = TestDaemon::builder().await;
    let script = "
        head -c 8000000 /dev/zero | tr '\\0' x; printf 'the \\377 end\\033[3'; exit 1";
    let daemon = builder.script("long", script).start().await;
    let info = daemon.build(job("long")).await;
    let lines = lines(&daemon, &info, "run").await;
    let [(line, _)] = &lines[..] else {
        panic!("{} lines", lines.len())
    };
    assert!(line.starts_with("[…] x"), "{line}");
    assert!(line.ends_with("xthe \u{fffd} end\u{1b}[3"), "{line}");
    assert!(line.len() < 4_096);
    // It is found at once, however long the log is.
    let found = tokio::time::timeout(
        Duration::from_secs(30),
        daemon.info("long", text(&info, "ID")),
    );
    assert_eq!(found.await.unwrap()["Excerpt"], info["Excerpt"]);
}

#[tokio::test]
async fn a_container_that_cannot_be_started_has_no_output() {
    let builder = TestDaemon::builder().await;
    builder
        .home
        .project("empty", &Context::of("FROM scratch\nCMD [\"/run.sh\"]\n"));
    let daemon = builder.start().await;
    let answer = daemon.post("/jobs", &job("empty")).await.json();
    let id = answer["job"].as_str().or(answer["ID"].as_str()).unwrap();
    let info = daemon.info("empty", id).await;
    assert_ne!(info["Outcome"], "succeeded");
    assert_eq!(info["LogRunsFrom"], Value::Null, "{info:#}");
    assert_eq!(info["Excerpt"], Value::Null);
}
