//! The program `mistry` against a server: what it prints and where, what it fetches, and the exit
//! statuses that scripts rely on.

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::{
    cli::mistry,
    daemon::{Home, TestDaemon, job, names, text},
    http::{Ask, At},
    process::{Ended, begin, run},
};

struct Bench {
    daemon: TestDaemon,
}

impl Bench {
    async fn new(fixtures: &[&str]) -> Bench {
        Bench {
            daemon: TestDaemon::with(fixtures).await,
        }
    }

    fn target(&self) -> std::path::PathBuf {
        self.daemon.home.path("target")
    }

    /// `mistry VERB --port N …`.
    async fn mistry(&self, verb: &str, arguments: &[&str]) -> Ended {
        let port = self.daemon.port().to_string();
        let all = [&[verb, "--port", &port], arguments].concat();
        run(mistry(&all)).await
    }

    /// `mistry build --project P --target T …`.
    async fn build(&self, project: &str, arguments: &[&str]) -> Ended {
        let target = self.target();
        let base = ["--project", project, "--target", target.to_str().unwrap()];
        self.mistry("build", &[&base, arguments].concat()).await
    }
}

#[tokio::test]
async fn a_build_fetches_its_artifacts_and_the_second_is_cached() {
    let bench = Bench::new(&["succeed"]).await;
    let lock = bench.daemon.home.path("lock");
    std::fs::write(&lock, "content\nof a file\n").unwrap();
    let file = format!("--lock=@{}", lock.display());
    let params = [
        "--",
        "--a=b=c",
        "--d",
        "e",
        "--at=@@x",
        &file,
        "--_token=hush",
    ];
    let built = bench.build("succeed", &params).await;
    assert_eq!(built.status, 0, "{built:?}");
    assert_eq!(
        names(&bench.target()),
        [".count", "_token", "a", "at", "d", "lock"]
    );
    let read = |name: &str| std::fs::read_to_string(bench.target().join(name)).unwrap();
    assert_eq!(
        (read("a"), read("d"), read("at")),
        ("b=c".into(), "e".into(), "@x".into())
    );
    assert_eq!(read("lock"), "content\nof a file\n");
    assert!(
        built
            .stdout
            .starts_with("Logs can be found at http://127.0.0.1:"),
        "{built:?}"
    );
    assert!(
        built.stdout.contains("/job/succeed/") && built.stdout.contains("6 files"),
        "{built:?}"
    );
    assert_eq!(built.stdout.lines().count(), 2);
    assert!(!built.stdout.contains("hush") && !built.stderr.contains("hush"));
    // What moves is for terminals only.
    assert_eq!(built.stderr, "");
    std::fs::remove_dir_all(bench.target()).unwrap();
    let cached = bench.build("succeed", &params).await;
    assert!(
        cached.status == 0 && cached.stdout.contains("cached"),
        "{cached:?}"
    );
    assert_eq!(names(&bench.target()).len(), 6);
    assert_eq!(bench.daemon.home.engine.containers().len(), 1);
    let group = bench.build("succeed", &["--group", "g"]).await;
    assert_eq!(group.status, 0);
    let again = bench.build("succeed", &["-g", "g", "--", "n=1"]).await;
    assert!(again.stdout.contains("incremental"), "{again:?}");
    assert_eq!(read(".count"), "2\n");
    let rebuilt = bench.build("succeed", &["--rebuild"]).await;
    assert!(
        rebuilt.status == 0 && !rebuilt.stdout.contains("cached"),
        "{rebuilt:?}"
    );
}

#[tokio::test]
async fn a_target_is_kept_or_cleared_as_asked_and_never_made_for_nothing() {
    let bench = Bench::new(&["succeed", "exit-code"]).await;
    bench.daemon.home.script("none", "true");
    let failed = bench.build("exit-code", &[]).await;
    assert_eq!((failed.status, bench.target().exists()), (1, false));
    // No artifacts is no error.
    let none = bench.build("none", &[]).await;
    assert_eq!(none.status, 0, "{none:?}");
    std::fs::create_dir_all(bench.target().join("deep")).unwrap();
    std::fs::write(bench.target().join(".old"), "").unwrap();
    assert_eq!(bench.build("succeed", &[]).await.status, 0);
    assert_eq!(names(&bench.target()), [".count", ".old", "deep"]);
    assert_eq!(
        bench.build("exit-code", &["--clear-target"]).await.status,
        1
    );
    assert_eq!(names(&bench.target()).len(), 3);
    assert_eq!(bench.build("succeed", &["--clear-target"]).await.status, 0);
    assert_eq!(names(&bench.target()), [".count"]);
    let local = bench.daemon.home.path("local");
    let arguments = [
        "--project",
        "succeed",
        "--transport",
        "local",
        "--target",
        local.to_str().unwrap(),
    ];
    assert_eq!(bench.mistry("build", &arguments).await.status, 0);
    assert_eq!(names(&local), [".count"]);
}

#[tokio::test]
async fn hostile_artifacts_stay_in_the_target() {
    let bench = Bench::new(&["hostile-artifacts"]).await;
    let outside = names(&bench.daemon.home.path(""));
    let built = bench.build("hostile-artifacts", &[]).await;
    assert_eq!(built.status, 0, "{built:?}");
    let link = std::fs::read_link(bench.target().join("absolute")).unwrap();
    assert_eq!(link, std::path::Path::new("/etc/shadow"));
    assert!(!bench.target().join("fifo").exists());
    assert_eq!(
        std::fs::read_to_string(bench.target().join("new\nline")).unwrap(),
        "newline\n"
    );
    let mut after = names(&bench.daemon.home.path(""));
    after.retain(|name| name != "target");
    assert_eq!(after, outside);
    // Over what the first left, through none of its links.
    assert_eq!(bench.build("hostile-artifacts", &[]).await.status, 0);
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
    let away = bench.build("succeed", &["--", "--n=1"]).await;
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
    let full = bench.build("succeed", &["--", "n=2"]).await;
    assert_eq!(full.status, 3, "{full:?}");
    assert!(
        full.stderr
            .contains("Server is overloaded; try again later"),
        "{full:?}"
    );
    // The one that was given up goes on.
    engine.release("start");
    let built = bench.build("succeed", &[]).await;
    assert_eq!(built.status, 0, "{built:?}");
    // The one that waited has its turn, and no other has one.
    engine.wait_for("start", 2).await;
    assert_eq!(engine.containers().len(), 2);
}

#[tokio::test]
async fn no_server_and_an_invalid_response_have_exit_status_7() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    let server = tokio::spawn(async move {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        while let Ok((mut connection, _)) = listener.accept().await {
            let mut head = [0; 4096];
            let _ = connection.read(&mut head).await;
            let _ = connection
                .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")
                .await;
        }
    });
    for verb in [&["list"][..], &["projects"], &["build", "--project", "p"]] {
        let ended = run(mistry(&[verb, &["--port", &port]].concat())).await;
        assert_eq!(ended.status, 7, "{verb:?}: {ended:?}");
    }
    server.abort();
    let ended = run(mistry(&["list", "--socket", "/nowhere/at/all.sock"])).await;
    assert_eq!(ended.status, 7, "{ended:?}");
    assert!(ended.stderr.contains("/nowhere/at/all.sock"), "{ended:?}");
}

#[tokio::test]
async fn json_is_one_document_and_no_wait_prints_the_id() {
    let bench = Bench::new(&["succeed", "exit-code"]).await;
    let built = bench.build("succeed", &["--json-result"]).await;
    let info: Value =
        serde_json::from_str(&built.stdout).unwrap_or_else(|e| panic!("{e}: {built:?}"));
    assert_eq!((built.status, &info["ExitCode"]), (0, &json!(0)));
    assert_eq!(names(&bench.target()), [".count"]);
    let failed = bench.build("exit-code", &["--json-result"]).await;
    let info: Value =
        serde_json::from_str(&failed.stdout).unwrap_or_else(|e| panic!("{e}: {failed:?}"));
    assert_eq!((failed.status, &info["ExitCode"]), (1, &json!(3)));
    let ended = bench.build("succeed", &["--no-wait"]).await;
    let id = ended.stdout.trim();
    assert_eq!((ended.status, id.len()), (0, 64), "{ended:?}");
    let advice = format!(
        "Build {} is ready. Get the result: mistry fetch ",
        &id[..12]
    );
    assert!(ended.stderr.starts_with(&advice), "{ended:?}");
    let same = bench.build("succeed", &["--async", "--verbose"]).await;
    assert_eq!(same.stdout, ended.stdout);
    let both = bench
        .build("succeed", &["--no-wait", "--json-result"])
        .await;
    let state: Value = serde_json::from_str(&both.stdout).unwrap();
    assert_eq!(state["ID"], ended.stdout.trim());
}

#[tokio::test]
async fn verbose_prints_the_log_to_standard_error() {
    let bench = Bench::new(&["output"]).await;
    let built = bench.build("output", &["--verbose"]).await;
    assert_eq!(built.status, 0, "{built:?}");
    assert!(built.stderr.contains("to standard output\n"), "{built:?}");
    assert!(built.stderr.contains("to standard error"), "{built:?}");
    assert!(!built.stdout.contains("to standard output"), "{built:?}");
}

#[tokio::test]
async fn builds_are_found_shown_and_fetched_by_the_first_digits_of_their_id() {
    let bench = Bench::new(&["succeed", "exit-code", "output"]).await;
    let good = bench
        .daemon
        .build(json!({ "project": "succeed", "group": "g", "params": { "a": "b" } }))
        .await;
    let bad = bench.daemon.build(job("exit-code")).await;
    let output = bench.daemon.build(job("output")).await;
    let short = |info: &Value| text(info, "ID")[..12].to_owned();
    let list = bench.mistry("list", &[]).await;
    assert_eq!(
        (list.status, list.stdout.lines().count()),
        (0, 4),
        "{list:?}"
    );
    for words in [
        "succeed",
        "exit-code",
        "failed",
        "PARAMS",
        "a=b",
        &short(&good),
        &short(&bad),
    ] {
        assert!(list.stdout.contains(words), "{words}: {list:?}");
    }
    assert_eq!(
        bench
            .mistry("list", &["--limit", "1"])
            .await
            .stdout
            .lines()
            .count(),
        2
    );
    let one = bench
        .mistry("list", &["--project", "exit-code", "--state", "ready"])
        .await;
    assert!(
        one.stdout.contains("exit-code") && !one.stdout.contains("succeeded"),
        "{one:?}"
    );
    let status = bench.mistry("status", &[]).await;
    assert!(
        status.status == 0 && status.stdout.contains("Slots"),
        "{status:?}"
    );
    let disk = status.stdout.lines().find(|l| l.starts_with("DiskSize"));
    let unit = disk.unwrap().split_whitespace().last().unwrap();
    assert!(["KiB", "MiB", "GiB", "TiB"].contains(&unit), "{status:?}");
    let status = bench.mistry("status", &[&short(&good)]).await;
    assert!(
        status.stdout.contains("succeeded") && status.stdout.contains("param a"),
        "{status:?}"
    );
    let with_project = format!("exit-code/{}", short(&bad));
    let status = bench.mistry("status", &[&with_project]).await;
    assert!(status.stdout.contains("failed"), "{status:?}");
    let logs = bench.mistry("logs", &[&short(&output)]).await;
    assert!(
        logs.status == 0 && logs.stdout.contains("to standard error"),
        "{logs:?}"
    );
    let follow = bench.mistry("logs", &["-f", &short(&good)]).await;
    assert!(
        follow.status == 0 && follow.stdout.ends_with("run 1\n"),
        "{follow:?}"
    );
    let to = bench.target();
    let to = to.to_str().unwrap();
    let fetched = bench
        .mistry("fetch", &[&short(&good), "--target", to])
        .await;
    assert_eq!(fetched.status, 0, "{fetched:?}");
    assert_eq!(names(&bench.target()), [".count", "a"]);
    let projects = bench.mistry("projects", &[]).await;
    assert_eq!(projects.stdout.lines().count(), 4, "{projects:?}");
    let rebuilt = bench.mistry("rebuild", &["succeed"]).await;
    assert!(
        rebuilt.status == 0 && rebuilt.stdout.contains("Rebuilt succeed"),
        "{rebuilt:?}"
    );
    for (verb, arguments, status) in [
        ("status", &["0000000000"][..], 3),
        ("logs", &["0000000000"], 3),
        ("fetch", &["0000000000"], 3),
        ("status", &["xyz"], 2),
        ("rebuild", &["none-such"], 3),
        ("dance", &[], 2),
    ] {
        let ended = bench.mistry(verb, arguments).await;
        assert_eq!(ended.status, status, "{verb} {arguments:?}: {ended:?}");
        assert!(!ended.stderr.is_empty());
    }
}

#[tokio::test]
async fn the_client_uses_the_unix_socket_too() {
    let bench = Bench::new(&["succeed"]).await;
    let (socket, target) = (bench.daemon.socket(), bench.target());
    let (socket, target) = (socket.to_str().unwrap(), target.to_str().unwrap());
    let built = run(mistry(&[
        "build",
        "--socket",
        socket,
        "--project",
        "succeed",
        "--target",
        target,
    ]))
    .await;
    assert_eq!(built.status, 0, "{built:?}");
    let (_, hint) = built.stdout.split_once("mistry logs ").unwrap();
    let hint: Vec<&str> = hint.lines().next().unwrap().split(' ').collect();
    // As it stands there.
    let logs = run(mistry(&[&["logs"], hint.as_slice()].concat())).await;
    assert_eq!(logs.status, 0, "{hint:?}: {logs:?}");
    let mut by_url = mistry(&["list"]);
    by_url.env("MISTRY_URL", format!("unix://{socket}"));
    let list = run(by_url).await;
    assert!(
        list.status == 0 && list.stdout.contains("succeed"),
        "{list:?}"
    );
    let mut by_url = mistry(&["list"]);
    by_url.env(
        "MISTRY_URL",
        format!("http://127.0.0.1:{}", bench.daemon.port()),
    );
    assert_eq!(run(by_url).await.status, 0);
    let both = run(mistry(&["list", "--socket", socket, "--port", "1"])).await;
    assert_eq!(both.status, 2, "{both:?}");
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
async fn the_client_prints_its_version_and_help() {
    let version = run(mistry(&["--version"])).await;
    assert_eq!(
        version.stdout,
        concat!("mistry ", env!("CARGO_PKG_VERSION"), "\n")
    );
    let help = run(mistry(&["--help"])).await;
    assert_eq!(help.status, 0);
    for verb in [
        "build",
        "list",
        "status",
        "logs",
        "fetch",
        "projects",
        "rebuild",
        "completions",
    ] {
        assert!(help.stdout.contains(verb), "{verb}");
    }
    assert!(help.stdout.contains("Exit status"), "{help:?}");
    let shell = run(mistry(&["completions", "bash"])).await;
    assert!(
        shell.status == 0 && shell.stdout.contains("mistry"),
        "{shell:?}"
    );
    assert_eq!(run(mistry(&[])).await.status, 2);
}

#[tokio::test]
async fn a_local_transport_fetches_nothing_behind_a_link() {
    let bench = Bench::new(&[]).await;
    let home = &bench.daemon.home;
    let outside = home.path("outside");
    std::fs::create_dir(&outside).unwrap();
    std::fs::write(outside.join("secret"), "outside:").unwrap();
    let lines = format!(
        "rm -rf \"$D/artifacts\"\nln -s '{}' \"$D/artifacts\"",
        outside.display()
    );
    home.script("p", &lines);
    let built = bench.build("p", &["--transport", "local"]).await;
    assert_eq!(built.status, 0, "{built:?}");
    assert!(names(&bench.target()).is_empty(), "{built:?}");
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
    let early = bench.mistry("wait", &[short, "--timeout", "100ms"]).await;
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
