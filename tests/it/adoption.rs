//! Builds outlive the daemon and the Engine: a container that runs on is found again and followed from
//! the end of its log; one that was stopped is run again, a limited number of times.

use serde_json::json;

use crate::support::{
    daemon::{TestDaemon, job, text},
    http::Ask,
};

/// Prints lines, waits at a gate, prints more, and ends with the status that it reads there.
const SCRIPT: &str = "
    mkfifo \"$DATA/gate\"; printf 'one\\ntw'; printf 'o\\nwaiting\\n'
    read -r code < \"$DATA/gate\" || :
    [ \"${code:-0}\" = 0 ] || echo err >&2
    printf 'three\\377\\n'; exit \"${code:-0}\"";
const PRINTED: &[u8] = b"one\ntwo\nwaiting\nthree\xff\n";

async fn daemon() -> (TestDaemon, String) {
    daemon_on(None).await
}

/// On podman of this version, or on Docker.
async fn daemon_on(podman: Option<&str>) -> (TestDaemon, String) {
    let daemon = TestDaemon::builder().await.script("gated", SCRIPT);
    let daemon = daemon.start().await;
    daemon.home.engine.speak_as(podman);
    let id = daemon.submit(job("gated")).await;
    until(&daemon, &id, "waiting").await;
    (daemon, id)
}

/// Waits until the log has a line.
async fn until(daemon: &TestDaemon, id: &str, line: &str) {
    let mut log = daemon.open(Ask::get(format!("/log/gated/{id}"))).await;
    log.until(|event| event.data.ends_with(line)).await;
}

async fn open_gate(daemon: &TestDaemon, id: &str, code: &'static str) {
    let gate = daemon.home.build("gated", "pending", id).join("data/gate");
    tokio::task::spawn_blocking(move || std::fs::write(gate, code).unwrap())
        .await
        .unwrap();
}

/// The build is run again, its log says so, and the second attempt succeeds.
async fn succeeds_the_second_time(daemon: &TestDaemon, id: &str) {
    until(daemon, id, "is made again").await;
    let mut log = daemon.open(Ask::get(format!("/log/gated/{id}"))).await;
    for _ in 0..2 {
        log.until(|event| event.data == "waiting").await;
    }
    open_gate(daemon, id, "0").await;
    let info = daemon.wait("gated", id).await;
    assert_eq!(
        (&info["Outcome"], &info["Attempt"]),
        (&json!("succeeded"), &json!(2))
    );
}

/// The part of the log that follows the image build.
fn log(daemon: &TestDaemon, id: &str) -> Vec<u8> {
    const BUILT: &[u8] = b"Successfully tagged mistry-";
    let path = daemon.home.build("gated", "ready", id).join("out.log");
    let log = std::fs::read(path).unwrap();
    let mut lines = log.split_inclusive(|byte| *byte == b'\n');
    lines.find(|line| line.starts_with(BUILT)).unwrap();
    lines.collect::<Vec<_>>().concat()
}

#[tokio::test]
async fn a_container_that_runs_on_is_followed_and_no_byte_is_missing_or_doubled() {
    let (mut daemon, id) = daemon().await;
    daemon.stop().await;
    daemon.start_again().await;
    daemon.stop().await;
    daemon.start_again().await;
    open_gate(&daemon, &id, "0").await;
    let info = daemon.wait("gated", &id).await;
    assert_eq!(
        (&info["Outcome"], &info["Attempt"]),
        (&json!("succeeded"), &json!(1))
    );
    assert_eq!(
        String::from_utf8_lossy(&log(&daemon, &id)),
        String::from_utf8_lossy(PRINTED)
    );
    assert_eq!(daemon.home.engine.containers().len(), 1);
}

#[tokio::test]
async fn a_build_that_ended_meanwhile_has_its_exit_code_and_all_of_its_output() {
    let (mut daemon, id) = daemon().await;
    daemon.stop().await;
    open_gate(&daemon, &id, "3").await;
    // The Engine keeps output that is not followed.
    daemon.home.engine.ended(0).await;
    daemon.start_again().await;
    let info = daemon.wait("gated", &id).await;
    assert_eq!(
        (&info["Outcome"], &info["ExitCode"]),
        (&json!("failed"), &json!(3))
    );
    assert_eq!(text(&info, "ContainerStderr"), "err\n");
    // The two outputs come in any order.
    assert_eq!(log(&daemon, &id).len(), PRINTED.len() + "err\n".len());
}

#[tokio::test]
async fn a_running_build_goes_on_though_its_project_has_changed() {
    let (mut daemon, id) = daemon().await;
    daemon.stop().await;
    std::fs::write(daemon.home.projects().join("gated/new"), "x").unwrap();
    daemon.start_again().await;
    open_gate(&daemon, &id, "0").await;
    assert_eq!(daemon.wait("gated", &id).await["Outcome"], "succeeded");
}

#[tokio::test]
async fn an_engine_that_goes_away_and_comes_back_does_not_affect_a_build() {
    let (daemon, id) = daemon().await;
    let engine = &daemon.home.engine;
    for looked in 1..=2 {
        engine.stop().await;
        engine.start_again();
        // Until it has been found running.
        engine.wait_for("inspect", looked).await;
    }
    open_gate(&daemon, &id, "0").await;
    let info = daemon.wait("gated", &id).await;
    assert_eq!(
        (&info["Outcome"], &info["Attempt"]),
        (&json!("succeeded"), &json!(1))
    );
    assert_eq!(log(&daemon, &id), PRINTED);
}

/// With or without a running daemon.
#[tokio::test]
async fn a_build_that_the_engine_ended_or_lost_is_run_again() {
    for (is_away, is_removed) in [(false, false), (true, false), (true, true)] {
        let (mut daemon, id) = daemon().await;
        if is_away {
            daemon.stop().await;
        }
        daemon.home.engine.stop().await;
        daemon.home.engine.take_down(is_removed).await;
        daemon.home.engine.start_again();
        if is_away {
            daemon.start_again().await;
        }
        succeeds_the_second_time(&daemon, &id).await;
        let log = log(&daemon, &id);
        let whole = String::from_utf8_lossy(&log);
        assert!(log.ends_with(PRINTED), "{whole}");
        assert!(
            whole.contains("mistry: the build was interrupted ("),
            "{whole}"
        );
    }
}

/// podman has exit code 0 for a container that ran when the host went down.
#[tokio::test]
async fn a_build_that_ran_on_podman_when_the_host_went_down_is_run_again() {
    let (mut daemon, id) = daemon_on(Some("5.4.2")).await;
    daemon.stop().await;
    daemon.home.engine.stop().await;
    daemon.home.engine.lose_power().await;
    daemon.home.engine.start_again();
    daemon.start_again().await;
    succeeds_the_second_time(&daemon, &id).await;
}

/// podman has not ended what ended while it was away.
#[tokio::test]
async fn a_build_that_ended_while_podman_was_away_has_its_result() {
    let (daemon, id) = daemon_on(Some("5.4.2")).await;
    daemon.home.engine.stop().await;
    open_gate(&daemon, &id, "3").await;
    daemon.home.engine.ended(0).await;
    daemon.home.engine.start_again();
    let info = daemon.wait("gated", &id).await;
    assert_eq!(
        (&info["Outcome"], &info["ExitCode"], &info["Attempt"]),
        (&json!("failed"), &json!(3), &json!(1))
    );
}

/// A build may have taken SIGTERM for a good reason to end: with 0 and half its result.
#[tokio::test]
async fn a_build_that_ended_while_the_engine_was_unreachable_is_run_again_whatever_its_exit_code() {
    let (daemon, id) = daemon().await;
    daemon.home.engine.stop().await;
    open_gate(&daemon, &id, "0").await;
    daemon.home.engine.ended(0).await;
    daemon.home.engine.start_again();
    succeeds_the_second_time(&daemon, &id).await;
}

#[tokio::test]
async fn a_build_that_is_interrupted_again_and_again_ends_with_an_error_that_says_so() {
    let (daemon, id) = daemon().await;
    for attempt in 1..=3 {
        let mut log = daemon.open(Ask::get(format!("/log/gated/{id}"))).await;
        for _ in 0..attempt {
            log.until(|event| event.data == "waiting").await;
        }
        daemon.home.engine.stop().await;
        daemon.home.engine.take_down(false).await;
        daemon.home.engine.start_again();
    }
    let info = daemon.wait("gated", &id).await;
    assert_eq!(info["Outcome"], "errored");
    assert!(text(&info, "Err").contains("interrupted 3 times"), "{info}");
    assert_eq!(daemon.home.engine.containers().len(), 3);
    assert!(
        daemon
            .home
            .engine
            .containers()
            .iter()
            .all(|one| one.removed)
    );
}

/// As Docker does it: its socket is the first thing that ends, its connections are the last.
#[tokio::test]
async fn a_build_that_a_stopping_engine_ended_is_run_again() {
    let (daemon, id) = daemon().await;
    let engine = &daemon.home.engine;
    engine.close();
    engine.take_down(false).await;
    engine.wait_for("events", 1).await;
    engine.stop().await;
    engine.start_again();
    succeeds_the_second_time(&daemon, &id).await;
}

/// Whatever the exit code: an Engine that takes connections has not ended the container.
#[tokio::test]
async fn the_exit_codes_of_a_stopping_engine_end_a_build_at_once_while_it_answers() {
    for code in [137, 143, 255] {
        let builder = TestDaemon::builder().await;
        let daemon = builder
            .script("gated", &format!("exit {code}"))
            .start()
            .await;
        let began = std::time::Instant::now();
        let info = daemon.build(job("gated")).await;
        // An Engine that goes down may take 16 s.
        assert!(
            began.elapsed() < std::time::Duration::from_secs(8),
            "{code}"
        );
        assert_eq!(
            (&info["Outcome"], &info["ExitCode"], &info["Attempt"]),
            (&json!("failed"), &json!(code), &json!(1))
        );
    }
}

/// The Engine that started it is still there, so it has not gone down meanwhile.
#[tokio::test]
async fn a_build_that_ended_while_no_daemon_ran_has_its_exit_code_whatever_it_is() {
    for code in ["137", "143", "255"] {
        let (mut daemon, id) = daemon().await;
        daemon.stop().await;
        open_gate(&daemon, &id, code).await;
        daemon.home.engine.ended(0).await;
        daemon.start_again().await;
        let info = daemon.wait("gated", &id).await;
        assert_eq!(info["ExitCode"].to_string(), code, "{info}");
        assert_eq!(
            (&info["Outcome"], &info["Attempt"]),
            (&json!("failed"), &json!(1))
        );
    }
}

/// The Engine can neither end nor remove it.
#[tokio::test]
async fn what_a_container_writes_that_cannot_be_ended_is_in_no_build() {
    let script = "
        cd \"$DATA\"; mkfifo gate done; exec 3< artifacts/. 4<> done
        echo early > artifacts/early; echo waiting; read -r code < gate || :
        cd /proc/$$/fd/3; echo late > late; echo written >&4; sleep 600";
    let builder = TestDaemon::builder().await.script("gated", script);
    let daemon = builder.start().await;
    let id = daemon.submit(job("gated")).await;
    until(&daemon, &id, "waiting").await;
    let data = daemon.home.build("gated", "pending", &id).join("data");
    let open = |name: &str| {
        let mut file = std::fs::File::options();
        file.read(true).write(true).open(data.join(name)).unwrap()
    };
    let (gate, done) = (open("gate"), open("done"));
    let engine = &daemon.home.engine;
    for _ in 0..100 {
        engine.fail_next("stop", 500);
        engine.fail_next("remove", 500);
    }
    let cancel = json!({"reason": "enough"});
    let cancelled = daemon.post(format!("/job/gated/{id}/cancel"), &cancel);
    cancelled.await.expect(202);
    let info = daemon.wait("gated", &id).await;
    assert_eq!(info["Outcome"], "cancelled", "{info}");
    // The container continues in the directory that it had opened.
    let written = tokio::task::spawn_blocking(move || {
        std::io::Write::write_all(&mut &gate, b"0\n").unwrap();
        std::io::Read::read(&mut &done, &mut [0; 8]).unwrap()
    });
    assert_eq!(written.await.unwrap(), 8);
    assert!(engine.containers()[0].running);
    let ready = daemon.home.build("gated", "ready", &id);
    for name in ["early", "late"] {
        assert!(!ready.join("data/artifacts").join(name).exists(), "{name}");
    }
    assert!(ready.join("out.log").exists());
}

/// The Engine has lost it for the third time, but does not end it.
#[tokio::test]
async fn the_data_of_a_lost_container_that_runs_on_is_in_no_build() {
    let script = "echo early > \"$DATA/artifacts/early\"; sleep 600";
    let builder = TestDaemon::builder().await.script("gated", script);
    let daemon = builder.start().await;
    let engine = &daemon.home.engine;
    for _ in 0..2 {
        engine.fail_next("wait", 404);
    }
    let id = daemon.submit(job("gated")).await;
    engine.wait_for("wait", 3).await;
    engine.fail_next("wait", 404);
    for _ in 0..100 {
        engine.fail_next("remove", 500);
    }
    engine.stop().await;
    engine.start_again();
    let info = daemon.wait("gated", &id).await;
    assert!(text(&info, "Err").contains("interrupted 3 times"), "{info}");
    let containers = engine.containers();
    assert!(containers.len() == 3 && containers[2].running);
    let ready = daemon.home.build("gated", "ready", &id);
    assert!(ready.join("out.log").exists());
    assert!(!ready.join("data").exists());
}

/// While it is watched, the same exit code is the build's own.
#[tokio::test]
async fn a_build_that_kills_itself_is_not_run_again() {
    let script = "echo dying; kill -9 $$";
    let daemon = TestDaemon::builder()
        .await
        .script("gated", script)
        .start()
        .await;
    let info = daemon.build(job("gated")).await;
    assert_eq!(
        (&info["Outcome"], &info["ExitCode"]),
        (&json!("failed"), &json!(137))
    );
    assert_eq!(daemon.home.engine.containers().len(), 1);
}

/// Never more than one container at a time, however often the daemon ends between its steps.
#[tokio::test]
async fn a_container_that_was_made_and_not_yet_started_is_started_once() {
    let daemon = TestDaemon::builder().await.script("gated", SCRIPT);
    let mut daemon = daemon.start().await;
    daemon.home.engine.hold("start");
    let id = daemon.submit(job("gated")).await;
    daemon.home.engine.wait_for("start", 1).await;
    daemon.stop().await;
    daemon.home.engine.release("start");
    daemon.start_again().await;
    until(&daemon, &id, "waiting").await;
    open_gate(&daemon, &id, "0").await;
    let info = daemon.wait("gated", &id).await;
    assert_eq!(
        (&info["Outcome"], &info["Attempt"]),
        (&json!("succeeded"), &json!(1))
    );
    assert_eq!(daemon.home.engine.containers().len(), 1);
    assert_eq!(log(&daemon, &id), PRINTED);
}

/// No client got an acceptance; a later request gets a build of its own.
#[tokio::test]
async fn a_job_that_was_being_written_down_when_the_daemon_was_killed_is_not_there() {
    let mut daemon = TestDaemon::with(&["succeed"]).await;
    let id = text(&daemon.build(job("succeed")).await, "ID").to_owned();
    for half in [&[][..], &["out.log"], &["out.log", "build_info.json.new"]] {
        daemon.stop().await;
        let ready = daemon.home.build("succeed", "ready", &id);
        std::fs::remove_dir_all(ready).unwrap();
        let pending = daemon.home.build("succeed", "pending", &id);
        std::fs::create_dir(&pending).unwrap();
        for name in half {
            std::fs::write(pending.join(name), "").unwrap();
        }
        daemon.start_again().await;
        daemon.get(format!("/job/succeed/{id}")).await.expect(404);
        let info = daemon.build(job("succeed")).await;
        assert_eq!(
            (&info["Outcome"], &info["Attempt"]),
            (&json!("succeeded"), &json!(1))
        );
    }
}

/// An Engine that was away may have gone on with it.
#[tokio::test]
async fn a_container_without_a_build_is_removed_when_the_engine_is_back() {
    let wait = std::time::Duration::from_millis(200);
    let builder = TestDaemon::builder().await.script("gated", SCRIPT);
    let daemon = builder.engine_wait(wait).start().await;
    let id = daemon.submit(job("gated")).await;
    until(&daemon, &id, "waiting").await;
    daemon.home.engine.stop().await;
    let info = daemon.wait("gated", &id).await;
    assert!(text(&info, "Err").contains("engine_wait"), "{info}");
    assert!(daemon.home.engine.containers()[0].running);
    daemon.home.engine.start_again();
    daemon.home.engine.wait_for("remove", 1).await;
    daemon.home.engine.ended(0).await;
}

/// Docker cannot always: "device or resource busy".
#[tokio::test]
async fn a_dead_container_that_cannot_be_removed_blocks_no_build() {
    let daemon = TestDaemon::with(&["succeed"]).await;
    let engine = &daemon.home.engine;
    for _ in 0..100 {
        engine.fail_next("remove", 500);
    }
    for n in 0..3 {
        let job = json!({"project": "succeed", "params": {"n": n.to_string()}});
        assert_eq!(daemon.build(job).await["Outcome"], "succeeded");
    }
    engine.wait_for("remove", 4).await;
    assert!(engine.containers().iter().all(|one| !one.removed));
}
