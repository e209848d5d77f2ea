//! What is printed about a build that did not succeed, and the exit statuses.

use serde_json::json;

use super::Bench;
use crate::support::daemon::{TestDaemon, text};

#[tokio::test]
async fn a_message_after_a_log_begins_a_line() {
    let builder = TestDaemon::builder().await;
    let daemon = builder.script("p", "printf 'no end'").start().await;
    let bench = Bench { daemon };
    let built = bench.build("p", &["--verbose"]).await;
    assert_eq!(built.status, 0, "{built:?}");
    let end = "no end\nwarning: the build left nothing in /data/artifacts\n";
    assert!(built.stderr.ends_with(end), "{built:?}");
    // Without a message, and by itself, the log stays as it is.
    let quiet = TestDaemon::builder().await;
    let quiet = quiet.script("p", "touch $D/artifacts/a; printf 'no end'");
    let quiet = Bench {
        daemon: quiet.start().await,
    };
    let built_quietly = quiet.build("p", &["--verbose"]).await;
    assert!(
        built_quietly.stderr.ends_with("no end"),
        "{built_quietly:?}"
    );
    let id = built
        .stdout
        .split('/')
        .find(|part| part.len() > 64)
        .unwrap();
    let log = bench.mistry("logs", &[&id[..64]]).await;
    assert!(log.stdout.ends_with("no end"), "{log:?}");
}

#[tokio::test]
async fn each_kind_of_failure_has_its_exit_status_and_message() {
    let bench = Bench::new(&["exit-code", "image-build-failure", "succeed"]).await;
    let failed = bench.build("exit-code", &["--", "--code=9"]).await;
    assert_eq!(failed.status, 1, "{failed:?}");
    assert!(
        failed.stderr.contains("Build failed with exit code 9"),
        "{failed:?}"
    );
    assert!(failed.stderr.contains("about to exit with 9"), "{failed:?}");
    let image = bench.build("image-build-failure", &[]).await;
    assert_eq!(image.status, 1, "{image:?}");
    assert!(
        image.stderr.contains("this image is about to fail"),
        "{image:?}"
    );
    let sentence = "could not build docker image";
    assert_eq!(image.stderr.matches(sentence).count(), 1, "{image:?}");
    assert!(
        image.stderr.contains(" could not be built after "),
        "{image:?}"
    );
    assert!(!image.stderr.contains("What it left"), "{image:?}");
    for (arguments, words) in [
        (&["--", "--a"][..], "no value"),
        (&["--", "--a=1", "--a=2"], "twice"),
        (&["--", "--../x=1"], "param name"),
        (&["--", "--a=@/nowhere"], "/nowhere"),
        (&["--colour"], "--colour"),
        (&["--timeout", "soon"], "time"),
        (&["--transport", "pigeon"], "pigeon"),
        (&["--group", "a\nb"], "group name"),
        (&["--project", "a/b"], ""),
    ] {
        let wrong = bench.build("succeed", arguments).await;
        assert_eq!(
            (wrong.status, wrong.stdout.as_str()),
            (2, ""),
            "{arguments:?}: {wrong:?}"
        );
        assert!(wrong.stderr.contains(words), "{arguments:?}: {wrong:?}");
    }
    let unknown = bench.build("none-such", &[]).await;
    assert_eq!(unknown.status, 3, "{unknown:?}");
    assert!(
        unknown.stderr.contains("unknown project 'none-such'"),
        "{unknown:?}"
    );
    std::fs::write(bench.daemon.home.path("file"), "").unwrap();
    let file = bench.daemon.home.path("file");
    let arguments = ["--project", "succeed", "--target", file.to_str().unwrap()];
    let target = bench.mistry("build", &arguments).await;
    assert_ne!(target.status, 0, "{target:?}");
    bench.daemon.home.engine.stop().await;
    let away = bench.build("succeed", &["--no-retry", "--", "--n=1"]).await;
    assert_eq!(away.status, 3, "{away:?}");
    assert!(away.stderr.contains("Docker"), "{away:?}");
    for said in [&failed, &image, &unknown, &away] {
        assert!(
            !said.stderr.contains("panicked") && !said.stderr.contains("stack"),
            "{said:?}"
        );
    }
}

#[tokio::test]
async fn the_line_that_says_why_is_shown_and_the_next_commands_work() {
    let bench = Bench::new(&[]).await;
    let lines = "echo 'npm WARN deprecated' >&2; echo 'error TS2322'; echo report > $D/artifacts/junit.xml; exit 2";
    bench.daemon.home.script("mixed", lines);
    let params = ["--group", "g", "--", "--n=1 2", "--_token=hush"];
    let failed = bench.build("mixed", &params).await;
    assert_eq!(failed.status, 1, "{failed:?}");
    assert!(
        failed.stdout.starts_with("Logs can be found at "),
        "{failed:?}"
    );
    // Which comes first depends on the Engine, which sends two streams.
    let header = "The end of the log (\"2>\" marks lines of standard error):\n";
    assert!(failed.stderr.starts_with(header), "{failed:?}");
    for shown in ["\n2> npm WARN deprecated\n", "\n   error TS2322\n"] {
        assert_eq!(failed.stderr.matches(shown).count(), 1, "{failed:?}");
    }
    assert!(!failed.stderr.contains("hush"), "{failed:?}");
    let job = json!({"project": "mixed", "group": "g", "params": {"n": "1 2"}});
    let list = bench.daemon.get("/index/").await.json();
    let id = text(&list[0], "id")[..12].to_owned();
    let port = format!("--port {}", bench.daemon.port());
    let (_, end) = failed
        .stderr
        .split_once("Build failed with exit code 2\n")
        .unwrap();
    let end: Vec<&str> = end.lines().collect();
    let begin = format!("mixed/{id} failed after ");
    assert!(end[0].starts_with(&begin), "{job}: {failed:?}");
    assert_eq!(end[1], format!("Whole log: mistry logs {id} {port}"));
    assert_eq!(
        end[2],
        format!("What it left: mistry fetch {id} {port} --target DIR")
    );
    let target = bench.target();
    let again = format!(
        "Build it again: mistry build {port} --project mixed --target {} --group g -- '--n=1 2' --_token=@FILE",
        target.display()
    );
    assert_eq!(end[3..], [again]);
    let left = bench
        .mistry("fetch", &[&id, "--target", target.to_str().unwrap()])
        .await;
    assert_eq!(left.status, 0, "{left:?}");
    assert!(target.join("junit.xml").exists());
    // The log that was printed while the build ran is not printed again.
    let verbose = bench.build("mixed", &["--verbose"]).await;
    assert_eq!(
        verbose.stderr.matches("error TS2322\n").count(),
        1,
        "{verbose:?}"
    );
    // A client that waits by the id gets the same, and a command made from the build.
    let waited = bench.mistry("wait", &[&id]).await;
    assert_eq!(waited.status, 1);
    assert!(waited.stderr.contains("error TS2322\n"), "{waited:?}");
    let port = port.replace(' ', "=");
    let again = format!(
        "Build it again: mistry build --project=mixed --group=g {port} -- --_token=@FILE '--n=1 2'\n"
    );
    assert!(waited.stderr.ends_with(&again), "{waited:?}");
}

/// The server still has the build that succeeded before it.
#[tokio::test]
async fn after_a_failed_cold_build_the_next_commands_are_about_that_attempt() {
    let bench = Bench::new(&[]).await;
    let lines = "if [ -e $D/../../../../../bad ]; then echo 'second run'; exit 3; fi\n\
        echo 'first run'; echo one > $D/artifacts/one";
    bench.daemon.home.script("twice", lines);
    assert_eq!(bench.build("twice", &[]).await.status, 0);
    std::fs::write(bench.daemon.home.path("bad"), "").unwrap();
    let failed = bench.build("twice", &["--cold"]).await;
    assert_eq!(failed.status, 1, "{failed:?}");
    assert!(failed.stderr.contains("second run"), "{failed:?}");
    assert!(!failed.stderr.contains("What it left"), "{failed:?}");
    let id = text(&bench.daemon.get("/index/").await.json()[0], "id").to_owned();
    let logs = failed
        .stderr
        .lines()
        .find_map(|line| line.strip_prefix("Whole log: mistry logs "));
    let logs = logs.unwrap_or_else(|| panic!("{failed:?}"));
    let (arguments, _) = logs.split_once(" --port").unwrap();
    assert_eq!(arguments, format!("--attempt 2 {}", &id[..12]));
    let arguments: Vec<&str> = arguments.split(' ').collect();
    let log = bench.mistry("logs", &arguments).await;
    assert!(log.stdout.ends_with("second run\n"), "{log:?}");
    assert!(!log.stdout.contains("first run"), "{log:?}");
}

#[tokio::test]
async fn fetch_with_wait_ends_with_1_if_the_build_that_it_waited_for_failed_beside_a_success() {
    let bench = Bench::new(&[]).await;
    let lines = "if [ -e $D/../../../../../bad ]; then exit 3; fi; echo one > $D/artifacts/one";
    bench.daemon.home.script("twice", lines);
    let id = text(&bench.daemon.build(json!({"project": "twice"})).await, "ID").to_owned();
    std::fs::write(bench.daemon.home.path("bad"), "").unwrap();
    let engine = &bench.daemon.home.engine;
    engine.hold("start");
    let cold = json!({"project": "twice", "cold": true});
    bench.daemon.submit(cold).await;
    engine.wait_for("start", 2).await;
    let target = bench.target();
    let arguments = ["--wait", &id, "--target", target.to_str().unwrap()];
    let release = async {
        bench
            .daemon
            .until_metric("mistry_bodies_held_bytes", "", 1024.0)
            .await;
        engine.release("start");
    };
    let (fetched, ()) = tokio::join!(bench.mistry("fetch", &arguments), release);
    assert_eq!(fetched.status, 1, "{fetched:?}");
    assert!(!target.join("one").exists(), "{fetched:?}");
}
