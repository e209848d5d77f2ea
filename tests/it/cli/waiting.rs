//! Waiting for a build: over restarts of the server, with a timeout, later.

use rustix::process::Signal;
use serde_json::{Value, json};

use super::Bench;
use crate::support::{
    cli::mistry,
    daemon::{Home, TestDaemon, job, names, text},
    http::{Ask, At},
    process::begin,
};

#[tokio::test]
async fn an_overloaded_server_has_exit_status_3_and_a_timeout_5() {
    let daemon = TestDaemon::builder()
        .await
        .slots(1)
        .backlog(1)
        .fixture("succeed");
    let bench = Bench {
        daemon: daemon.start().await,
    };
    let engine = &bench.daemon.home.engine;
    engine.hold("start");
    let late = bench.build("succeed", &["--timeout", "300ms"]).await;
    assert_eq!(late.status, 5, "{late:?}");
    assert!(
        late.stderr.contains("The build did not finish after 300ms"),
        "{late:?}"
    );
    let port = format!(" --port {}\n", bench.daemon.port());
    let (_, hint) = late.stderr.split_once("mistry logs -f ").unwrap();
    assert!(hint.ends_with(&port), "{late:?}");
    bench
        .daemon
        .submit(json!({ "project": "succeed", "params": { "n": "1" } }))
        .await;
    // None of them waits for as long as the server asks for.
    for options in [
        &["--no-retry", "--", "n=2"][..],
        &["--no-wait", "--", "n=2"],
        &["--timeout", "1s", "--", "n=2"],
    ] {
        let full = bench.build("succeed", options).await;
        assert_eq!(full.status, 3, "{full:?}");
        let sentence = "Server is overloaded; try again later (request ";
        assert!(full.stderr.starts_with(sentence), "{full:?}");
    }
    // The one that was given up goes on.
    engine.release("start");
    let built = bench.build("succeed", &[]).await;
    assert_eq!(built.status, 0, "{built:?}");
    // The one that waited has its turn, and no other has one.
    engine.wait_for("start", 2).await;
    assert_eq!(engine.containers().len(), 2);
}

#[tokio::test]
async fn the_client_reconnects_when_the_daemon_is_killed_while_it_waits() {
    for verbose in [false, true] {
        let home = Home::new().await;
        home.fixture("slow");
        home.configure(&json!({}));
        let daemon = home.spawn().await;
        let (at, port) = (daemon.at.clone(), daemon.port().to_string());
        let target = home.path("target");
        let mut arguments = vec!["build", "--port", &port, "--project", "slow", "--target"];
        arguments.push(target.to_str().unwrap());
        if verbose {
            arguments.push("--verbose");
        }
        let building = begin(mistry(&arguments));
        let id = printed(&home, &at, 1).await;
        daemon.end(Signal::KILL).await;
        let daemon = home.serve(&format!("127.0.0.1:{port}")).await;
        assert_eq!(printed(&home, &daemon.at, 1).await, id);
        let gate = home.build("slow", "pending", &id).join("data/gate");
        tokio::task::spawn_blocking(move || std::fs::write(gate, "").unwrap())
            .await
            .unwrap();
        let ended = building.await;
        assert_eq!(ended.status, 0, "{ended:?}");
        assert!(
            ended.stderr.contains("connection to the server was lost"),
            "{ended:?}"
        );
        assert_eq!(names(&target), ["released"]);
        // The container ran on, and its log came whole: nothing missing, nothing twice.
        assert_eq!(home.engine.containers().len(), 1);
        for line in ["waiting", "released"] {
            let shown = ended.stderr.matches(&format!("{line}\n")).count();
            assert_eq!(shown, usize::from(verbose), "{ended:?}");
        }
    }
}

/// Returns when the only job, of `slow`, is at its gate in its container number `count`.
async fn printed(home: &Home, at: &At, count: usize) -> String {
    home.engine.wait_for("start", count).await;
    let list = at.ask(Ask::get("/index/")).await.expect(200).json();
    let id = text(&list[0], "id").to_owned();
    let mut log = at.open(Ask::get(format!("/log/slow/{id}"))).await;
    log.until(|event| event.data == "waiting").await;
    id
}

#[tokio::test]
async fn ctrl_c_leaves_the_build_running_and_prints_that() {
    let bench = Bench::new(&["succeed"]).await;
    let engine = &bench.daemon.home.engine;
    engine.hold("start");
    let port = bench.daemon.port().to_string();
    let mut command = mistry(&["build", "--port", &port, "--project", "succeed"]);
    command
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped());
    let mut child = command.spawn().unwrap();
    // Its first line says that the job is accepted, so that it listens for the signal by then.
    let mut out = std::io::BufReader::new(child.stdout.take().unwrap());
    let line = tokio::task::spawn_blocking(move || {
        let mut line = String::new();
        std::io::BufRead::read_line(&mut out, &mut line).unwrap();
        line
    });
    let line = line.await.unwrap();
    assert!(line.starts_with("Logs can be found at"), "{line}");
    let pid = rustix::process::Pid::from_raw(child.id() as i32).unwrap();
    rustix::process::kill_process(pid, Signal::INT).unwrap();
    let ended = tokio::task::spawn_blocking(move || child.wait_with_output().unwrap());
    let ended = ended.await.unwrap();
    let said = String::from_utf8(ended.stderr).unwrap();
    assert_eq!(ended.status.code(), Some(130), "{said}");
    assert!(
        said.contains("the build goes on") && said.contains("mistry logs -f"),
        "{said}"
    );
    engine.release("start");
    assert_eq!(bench.daemon.build(job("succeed")).await["ExitCode"], 0);
    assert_eq!(engine.containers().len(), 1);
}

#[tokio::test]
async fn a_job_that_was_not_waited_for_is_waited_for_later() {
    let bench = Bench::new(&["succeed", "exit-code"]).await;
    bench.daemon.home.engine.hold("start");
    let submitted = bench.build("succeed", &["--no-wait"]).await;
    let id = submitted.stdout.trim().to_owned();
    let (short, target) = (&id[..12], bench.target());
    for part in [
        format!("Build {short} accepted. Follow it: mistry logs -f {short} "),
        format!("Get the result: mistry wait {short} "),
    ] {
        assert!(submitted.stderr.contains(&part), "{part}: {submitted:?}");
    }
    let early = bench.mistry("wait", &[short, "--timeout", "3s"]).await;
    assert_eq!(early.status, 5, "{early:?}");
    assert!(early.stderr.contains("the build goes on"), "{early:?}");
    let target = target.to_str().unwrap();
    let arguments = [short, "--target", target];
    let fetch_arguments = ["--wait", short, "--target", target];
    let (waited, fetched, ()) = tokio::join!(
        bench.mistry("wait", &arguments),
        bench.mistry("fetch", &fetch_arguments),
        async { bench.daemon.home.engine.release("start") },
    );
    assert_eq!(
        (waited.status, fetched.status),
        (0, 0),
        "{waited:?} {fetched:?}"
    );
    assert!(
        waited.stdout.starts_with(&format!("{short} built in ")),
        "{waited:?}"
    );
    assert!(waited.stdout.contains(" in "), "{waited:?}");
    // Without a target it only waits, and a failed build is one.
    let failed = bench.build("exit-code", &["--no-wait"]).await;
    let failed = bench.mistry("wait", &[failed.stdout.trim()]).await;
    assert_eq!(failed.status, 1, "{failed:?}");
    let ended = bench.mistry("wait", &[short, "--json-result"]).await;
    let info: Value = serde_json::from_str(&ended.stdout).unwrap();
    assert_eq!((ended.status, &info["ID"]), (0, &json!(id)));
}

#[tokio::test]
async fn who_joins_a_build_learns_whose_it_is() {
    let bench = Bench::new(&["succeed"]).await;
    let engine = &bench.daemon.home.engine;
    engine.hold("start");
    let first = bench.daemon.asking(Ask::post("/jobs", &job("succeed")));
    engine.wait_for("start", 1).await;
    let released = async {
        let name = "mistry_builds_coalesced";
        bench.daemon.until_metric(name, "succeed", 1.0).await;
        engine.release("start");
    };
    let (joined, ()) = tokio::join!(bench.build("succeed", &[]), released);
    assert_eq!(first.await.unwrap().status, 201);
    assert_eq!(joined.status, 0, "{joined:?}");
    let told = "Joined a build that 127.0.0.1 asked for ";
    assert!(joined.stderr.starts_with(told), "{joined:?}");
    assert!(joined.stderr.ends_with(" ago\n"), "{joined:?}");
}
