//! The program `mistry` over the bus: the same verbs, the same artifacts, the same exit statuses, and no
//! socket of HTTP anywhere.

use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::{
    bus::TestBus,
    cli::mistry,
    daemon::{Home, names, text},
    process::{Ended, Process, begin, run},
};

/// A daemon on a bus. Where it listens for HTTP, `mistry` is not told.
struct World {
    bus: TestBus,
    home: Home,
    daemon: Process,
}

impl World {
    async fn new(fixtures: &[&str]) -> World {
        World::with(&json!({}), fixtures).await
    }

    async fn with(config: &Value, fixtures: &[&str]) -> World {
        let (bus, home) = (TestBus::start(), Home::new().await);
        home.configure(config);
        for name in fixtures {
            home.fixture(name);
        }
        let daemon = bus.spawn(&home).await;
        World { bus, home, daemon }
    }

    fn target(&self) -> std::path::PathBuf {
        self.home.path("target")
    }

    /// `mistry VERB --bus=user …`.
    fn command(&self, verb: &str, arguments: &[&str]) -> Command {
        let mut command = mistry(&[&[verb, "--bus=user"], arguments].concat());
        command.env("DBUS_SESSION_BUS_ADDRESS", self.bus.address());
        command
    }

    async fn mistry(&self, verb: &str, arguments: &[&str]) -> Ended {
        run(self.command(verb, arguments)).await
    }

    /// `mistry build --bus=user --project P --target T …`.
    fn building(&self, project: &str, arguments: &[&str]) -> Command {
        let target = self.target();
        let base = ["--project", project, "--target", target.to_str().unwrap()];
        self.command("build", &[&base, arguments].concat())
    }

    async fn build(&self, project: &str, arguments: &[&str]) -> Ended {
        run(self.building(project, arguments)).await
    }

    /// Submits a job and returns its id.
    async fn submit(&self, project: &str, arguments: &[&str]) -> String {
        let submitted = self
            .build(project, &[&["--no-wait", "--verbose"], arguments].concat())
            .await;
        assert_eq!(submitted.status, 0, "{submitted:?}");
        submitted.stdout.trim().to_owned()
    }
}

#[tokio::test]
async fn a_build_brings_its_artifacts_home_and_the_second_is_cached() {
    let world = World::new(&["succeed"]).await;
    let params = ["--", "--a=b=c", "--_token=hush"];
    let built = world.build("succeed", &params).await;
    assert_eq!(built.status, 0, "{built:?}");
    assert_eq!(names(&world.target()), [".count", "_token", "a"]);
    let a = std::fs::read_to_string(world.target().join("a")).unwrap();
    assert_eq!(a, "b=c");
    assert!(
        built
            .stdout
            .starts_with("Logs can be found with: mistry logs ")
            && built.stdout.contains(" --bus=user\n"),
        "{built:?}"
    );
    assert!(built.stdout.contains("3 files"), "{built:?}");
    assert_eq!(built.stdout.lines().count(), 2);
    assert!(!built.stdout.contains("hush"));
    assert_eq!(built.stderr, "");
    std::fs::remove_dir_all(world.target()).unwrap();
    let cached = world.build("succeed", &params).await;
    assert!(
        cached.status == 0 && cached.stdout.contains("cached"),
        "{cached:?}"
    );
    assert_eq!(names(&world.target()).len(), 3);
    assert_eq!(world.home.engine.containers().len(), 1);
    let rebuilt = world.build("succeed", &["--rebuild"]).await;
    assert!(
        rebuilt.status == 0 && !rebuilt.stdout.contains("cached"),
        "{rebuilt:?}"
    );
}

#[tokio::test]
async fn what_a_build_leaves_comes_as_it_is_and_links_in_it_are_not_followed() {
    let world = World::new(&["hostile-artifacts"]).await;
    let left = "cd \"$DATA/artifacts\"; mkdir -p deep/er; echo '#!' > deep/er/run; chmod 755 deep/er/run; \
                echo x > plain; chmod 640 plain; ln -s /etc/shadow deep/link; ln -s gone dangling; mkdir empty";
    world.home.script("tree", left);
    let built = world.build("tree", &[]).await;
    assert_eq!(built.status, 0, "{built:?}");
    let target = world.target();
    assert_eq!(names(&target), ["dangling", "deep", "empty", "plain"]);
    let mode = |name: &str| {
        let found = std::fs::metadata(target.join(name)).unwrap();
        found.permissions().mode() & 0o777
    };
    assert_eq!((mode("deep/er/run"), mode("plain")), (0o755, 0o640));
    let link = std::fs::read_link(target.join("deep/link")).unwrap();
    assert_eq!(link, std::path::Path::new("/etc/shadow"));
    assert!(built.stdout.contains("4 files"), "{built:?}");
    std::fs::remove_dir_all(&target).unwrap();
    let hostile = world.build("hostile-artifacts", &[]).await;
    assert_eq!(hostile.status, 0, "{hostile:?}");
    assert!(!target.join("fifo").exists());
    // No artifacts are no error.
    world.home.script("none", "true");
    let none = world.build("none", &[]).await;
    assert!(
        none.status == 0 && none.stdout.contains("no files"),
        "{none:?}"
    );
    // Where there is not even a directory for them, nothing is emptied, either.
    let id = world.home.ids("none", "ready").remove(0);
    let lost = world
        .home
        .build("none", "ready", &id)
        .join("data/artifacts");
    std::fs::remove_dir(lost).unwrap();
    let none = world.build("none", &["--clear-target"]).await;
    assert!(
        none.status == 0 && none.stdout.contains("no files"),
        "{none:?}"
    );
    assert!(!names(&target).is_empty());
}

#[tokio::test]
async fn each_way_to_fail_has_its_status_and_its_sentence() {
    let world = World::new(&["exit-code", "image-build-failure", "succeed"]).await;
    let failed = world.build("exit-code", &["--", "--code=9"]).await;
    assert_eq!(failed.status, 1, "{failed:?}");
    for words in ["Build failed with exit code 9", "about to exit with 9"] {
        assert!(failed.stderr.contains(words), "{failed:?}");
    }
    assert!(!world.target().exists());
    let image = world.build("image-build-failure", &[]).await;
    assert_eq!(image.status, 1, "{image:?}");
    assert!(
        image.stderr.contains("this image is about to fail"),
        "{image:?}"
    );
    let unknown = world.build("none-such", &[]).await;
    assert_eq!(unknown.status, 3, "{unknown:?}");
    assert!(
        unknown.stderr.contains("unknown project 'none-such'"),
        "{unknown:?}"
    );
    let http = world.build("succeed", &["--transport", "http"]).await;
    assert_eq!(http.status, 2, "{http:?}");
    assert!(http.stderr.contains("local"), "{http:?}");
    for verb in ["pin", "unpin"] {
        let pinned = world.mistry(verb, &["0123"]).await;
        assert_eq!(pinned.status, 2, "{pinned:?}");
        assert!(pinned.stderr.contains("leave out --bus"), "{pinned:?}");
    }
    world.home.script("slow", "sleep 1000");
    let late = world.build("slow", &["--timeout", "300ms"]).await;
    assert_eq!(late.status, 5, "{late:?}");
    assert!(late.stderr.contains(" --bus=user\n"), "{late:?}");
    world.home.engine.stop().await;
    let away = world.build("succeed", &["--", "--n=1"]).await;
    assert_eq!(away.status, 3, "{away:?}");
    assert!(away.stderr.contains("Docker"), "{away:?}");
}

#[tokio::test]
async fn nobody_on_the_bus_and_no_bus_are_7() {
    let bus = TestBus::start();
    for verb in [&["list"][..], &["status"], &["pause"], &["logs", "0123"]] {
        for (address, words) in [
            (bus.address(), "on the bus of the user"),
            ("unix:path=/nowhere/bus".to_owned(), "/nowhere/bus"),
        ] {
            let mut command = mistry(&[&["--bus=user"], verb].concat());
            command.env("DBUS_SESSION_BUS_ADDRESS", address);
            let ended = run(command).await;
            assert_eq!((ended.status, ended.stdout.as_str()), (7, ""), "{ended:?}");
            assert!(
                ended.stderr.starts_with("could not reach the server")
                    && ended.stderr.contains(words),
                "{ended:?}"
            );
            assert_eq!(ended.stderr.lines().count(), 1, "{ended:?}");
        }
    }
    // The other one is the system's.
    let mut command = mistry(&["--bus", "list"]);
    command.env("DBUS_SYSTEM_BUS_ADDRESS", "unix:path=/nowhere/system");
    let ended = run(command).await;
    assert_eq!(ended.status, 7, "{ended:?}");
    assert!(ended.stderr.contains("on the system bus"), "{ended:?}");
}

#[tokio::test]
async fn builds_are_found_shown_followed_and_fetched_by_the_first_digits_of_their_id() {
    let world = World::new(&["succeed", "exit-code", "output"]).await;
    let good = world
        .submit("succeed", &["--group", "g", "--", "--a=b"])
        .await;
    let bad = world.submit("exit-code", &[]).await;
    let output = world.submit("output", &[]).await;
    for id in [&good, &bad, &output] {
        let followed = world.mistry("logs", &["-f", &id[..12]]).await;
        assert_eq!(followed.status, 0, "{followed:?}");
    }
    let follow = world.mistry("logs", &["-f", &good[..12]]).await;
    assert!(follow.stdout.ends_with("\nrun 1\n"), "{follow:?}");
    let logs = world.mistry("logs", &[&output[..12]]).await;
    assert!(
        logs.status == 0 && logs.stdout.contains("to standard error"),
        "{logs:?}"
    );
    let list = world.mistry("list", &[]).await;
    assert_eq!(list.status, 0, "{list:?}");
    assert_eq!(list.stdout.lines().count(), 4, "{list:?}");
    for words in [
        "succeed",
        "exit-code",
        "failed",
        "PARAMS",
        "a=b",
        &bad[..12],
    ] {
        assert!(list.stdout.contains(words), "{words}: {list:?}");
    }
    let one = world
        .mistry("list", &["--project", "exit-code", "--state", "ready"])
        .await;
    assert_eq!(one.stdout.lines().count(), 2, "{one:?}");
    let host = world.mistry("status", &[]).await;
    for words in ["Version", "Slots", "Paused", "Filesystem"] {
        assert!(host.stdout.contains(words), "{words}: {host:?}");
    }
    let status = world.mistry("status", &[&good[..12]]).await;
    assert!(
        status.stdout.contains("succeeded") && status.stdout.contains("param a"),
        "{status:?}"
    );
    let elsewhere = world
        .mistry("status", &[&format!("exit-code/{good}")])
        .await;
    assert_eq!(elsewhere.status, 3, "{elsewhere:?}");
    let to = world.target();
    let fetching = [&good[..12], "--target", to.to_str().unwrap()];
    let fetched = world.mistry("fetch", &fetching).await;
    assert_eq!(fetched.status, 0, "{fetched:?}");
    assert_eq!(names(&to), [".count", "a"]);
    let projects = world.mistry("projects", &[]).await;
    assert_eq!(projects.stdout, "PROJECT\nexit-code\noutput\nsucceed\n");
    let rebuilt = world.mistry("rebuild", &["succeed"]).await;
    assert_eq!(
        (rebuilt.status, rebuilt.stdout.as_str()),
        (0, "Rebuilt succeed\n"),
        "{rebuilt:?}"
    );
    let cancelled = world.mistry("cancel", &[&good[..12]]).await;
    assert_eq!(cancelled.status, 3, "{cancelled:?}");
    for (verb, argument, status) in [
        ("status", "0000000000", 3),
        ("logs", "0000000000", 3),
        ("fetch", "0000000000", 3),
        ("rebuild", "none-such", 3),
    ] {
        let ended = world.mistry(verb, &[argument]).await;
        assert_eq!(ended.status, status, "{verb}: {ended:?}");
    }
}

#[tokio::test]
async fn a_log_is_followed_while_it_grows_and_read_as_far_as_it_is() {
    let world = World::new(&[]).await;
    let script = "mkfifo \"$DATA/gate\"; echo first; read -r x < \"$DATA/gate\"; echo last";
    world.home.script("slow", script);
    let building = begin(world.building("slow", &["--verbose"]));
    world.home.engine.wait_for("wait", 1).await;
    let id = world.home.ids("slow", "pending").remove(0);
    let gate = world.home.build("slow", "pending", &id).join("data/gate");
    let mut so_far = String::new();
    // The container has begun, its first line comes when it comes.
    while !so_far.contains("first") {
        let logs = world.mistry("logs", &[&id]).await;
        assert_eq!(logs.status, 0, "{logs:?}");
        so_far = logs.stdout;
    }
    assert!(!so_far.contains("last"));
    // By its whole name: in the moment in which it is put in place, a list may be without it.
    let following = begin(world.command("logs", &["-f", &format!("slow/{id}")]));
    std::fs::write(gate, "on\n").unwrap();
    let followed = following.await;
    assert_eq!(followed.status, 0, "{followed:?}");
    assert!(followed.stdout.ends_with("first\nlast\n"), "{followed:?}");
    let built = building.await;
    assert_eq!(built.status, 0, "{built:?}");
    assert!(built.stderr.contains("first\nlast\n"), "{built:?}");
}

#[tokio::test]
async fn a_build_is_cancelled_and_whoever_waits_is_told() {
    let world = World::new(&["succeed"]).await;
    world.home.engine.hold("start");
    let waiting = begin(world.building("succeed", &[]));
    world.home.engine.wait_for("start", 1).await;
    let id = world.home.ids("succeed", "pending").remove(0);
    let reason = ["--reason", "wrong branch", &id[..12]];
    let cancelled = world.mistry("cancel", &reason).await;
    assert_eq!(cancelled.status, 0, "{cancelled:?}");
    world.home.engine.release("start");
    let told = waiting.await;
    assert_eq!(told.status, 6, "{told:?}");
    assert!(told.stderr.contains("wrong branch"), "{told:?}");
}

#[tokio::test]
async fn the_queue_is_paused_and_resumed_and_garbage_counted() {
    let world = World::new(&["succeed"]).await;
    assert_eq!(world.build("succeed", &[]).await.status, 0);
    let paused = world.mistry("pause", &[]).await;
    assert!(
        paused.status == 0 && paused.stdout.starts_with("Paused"),
        "{paused:?}"
    );
    let shown = world.mistry("status", &[]).await;
    let line = shown.stdout.lines().find(|line| line.starts_with("Paused"));
    assert!(line.unwrap().ends_with("true"), "{shown:?}");
    assert_eq!(world.mistry("resume", &[]).await.status, 0);
    let shown = world.mistry("status", &[]).await;
    let line = shown.stdout.lines().find(|line| line.starts_with("Paused"));
    assert!(line.unwrap().ends_with("false"), "{shown:?}");
    let none = world.mistry("gc", &[]).await;
    assert_eq!(none.status, 3, "{none:?}");
    // What was used a moment ago stays.
    for (flag, did) in [(Some("--dry-run"), "Would remove"), (None, "Removed")] {
        let arguments = ["--older-than", "1h"];
        let all: Vec<&str> = arguments.into_iter().chain(flag).collect();
        let collected = world.mistry("gc", &all).await;
        assert_eq!(collected.stdout, format!("{did} 0 builds (0 B)\n"));
    }
}

#[tokio::test]
async fn a_daemon_that_is_killed_while_one_waits_loses_nothing() {
    let mut world = World::new(&["succeed"]).await;
    let script = "mkfifo \"$DATA/gate\"; echo first; read -r x < \"$DATA/gate\"; echo last; echo made > \"$DATA/artifacts/file\"";
    world.home.script("slow", script);
    let mut waiting = Vec::new();
    for arguments in [&["--verbose"][..], &["--json-result"]] {
        waiting.push(begin(world.building("slow", arguments)));
    }
    world.home.engine.wait_for("wait", 1).await;
    let id = world.home.ids("slow", "pending").remove(0);
    let gate = world.home.build("slow", "pending", &id).join("data/gate");
    // One has asked and the other joined, or is about to.
    let here = world.bus.connect().await;
    assert_eq!(world.daemon.end(Signal::KILL).await, -9);
    world.bus.owned(&here, false).await;
    world.daemon = world.bus.spawn(&world.home).await;
    std::fs::write(gate, "on\n").unwrap();
    let json = waiting.pop().unwrap().await;
    let verbose = waiting.pop().unwrap().await;
    assert_eq!(verbose.status, 0, "{verbose:?}");
    // Each line once, whichever life it came from.
    for line in ["first", "last"] {
        assert_eq!(verbose.stderr.matches(line).count(), 1, "{verbose:?}");
    }
    assert!(verbose.stderr.contains("was lost"), "{verbose:?}");
    assert_eq!(json.status, 0, "{json:?}");
    let info: Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!(text(&info, "ID"), id);
    assert_eq!(names(&world.target()), ["file"]);
}

#[tokio::test]
async fn json_is_one_document_and_no_wait_says_nothing() {
    let world = World::new(&["succeed", "exit-code"]).await;
    for (cached, ended) in [
        (false, world.build("succeed", &["--json-result"]).await),
        (true, world.build("succeed", &["--json-result"]).await),
    ] {
        let info: Value = serde_json::from_str(&ended.stdout).unwrap();
        assert_eq!((ended.status, &info["ExitCode"]), (0, &json!(0)));
        assert_eq!(info["Cached"], cached);
        assert_eq!(info["Project"], "succeed");
    }
    assert_eq!(names(&world.target()), [".count"]);
    let failed = world.build("exit-code", &["--json-result"]).await;
    let info: Value = serde_json::from_str(&failed.stdout).unwrap();
    assert_eq!((failed.status, &info["ExitCode"]), (1, &json!(3)));
    assert!(text(&info, "ContainerStdouterr").contains("about to exit"));
    let silent = world.build("succeed", &["--no-wait"]).await;
    assert_eq!(
        (
            silent.status,
            silent.stdout.as_str(),
            silent.stderr.as_str()
        ),
        (0, "", "")
    );
}

#[tokio::test]
async fn a_rebuild_that_fails_is_not_taken_for_the_build_that_stays() {
    let world = World::new(&[]).await;
    // The script stays as it is, and so does the id; what it finds outside does not.
    let script = "[ ! -e \"$HOLD\" ] || { echo this one fails; exit 4; }";
    let mark = world.home.path("mark");
    let script = script.replace("$HOLD", mark.to_str().unwrap());
    world.home.script("turns", &script);
    assert_eq!(world.build("turns", &[]).await.status, 0);
    std::fs::write(&mark, "").unwrap();
    let failed = world.build("turns", &["--rebuild"]).await;
    assert_eq!(failed.status, 1, "{failed:?}");
    for words in ["the build before it stays", "this one fails"] {
        assert!(failed.stderr.contains(words), "{failed:?}");
    }
    // So it is with the answer as JSON.
    let failed = world.build("turns", &["--rebuild", "--json-result"]).await;
    let info: Value = serde_json::from_str(&failed.stdout).unwrap();
    assert_eq!((failed.status, text(&info, "Outcome")), (1, "failed"));
    let kept = world.build("turns", &[]).await;
    assert!(
        kept.status == 0 && kept.stdout.contains("cached"),
        "{kept:?}"
    );
}

#[tokio::test]
async fn a_build_that_is_wanted_only_while_one_waits_ends_when_one_gives_up() {
    let world = World::new(&[]).await;
    world.home.script("slow", "sleep 1000");
    let bound = ["--cancel-on-disconnect", "--timeout", "500ms"];
    let late = world.build("slow", &bound).await;
    assert_eq!(late.status, 5, "{late:?}");
    assert!(
        late.stderr.contains("unless somebody else wants it"),
        "{late:?}"
    );
    // Whoever follows it does not want it, and sees its end.
    let (_, hint) = late.stderr.split_once("mistry status ").unwrap();
    let id = hint.split(' ').next().unwrap();
    let followed = world.mistry("logs", &["-f", id]).await;
    assert_eq!(followed.status, 0, "{followed:?}");
    let status = world.mistry("status", &[id]).await;
    assert!(status.stdout.contains("cancelled"), "{status:?}");
}

#[tokio::test]
async fn a_daemon_that_is_away_is_started_by_the_bus() {
    let (bus, home) = (TestBus::start(), Home::new().await);
    let config = home.configure(&json!({}));
    home.fixture("succeed");
    let program = format!(
        "/usr/bin/env DBUS_SESSION_BUS_ADDRESS={} {} --config {} --addr 127.0.0.1:0 --user-bus",
        bus.address(),
        env!("CARGO_BIN_EXE_mistryd"),
        config.display()
    );
    bus.activate("org.mistry.Mistry1", &program);
    let mut command = mistry(&["--bus=user", "list"]);
    command.env("DBUS_SESSION_BUS_ADDRESS", bus.address());
    let listed = run(command).await;
    // The bus has begun it, so nobody else ends it.
    let here = bus.connect().await;
    let asked = zbus::fdo::DBusProxy::new(&here).await.unwrap();
    let name = "org.mistry.Mistry1".try_into().unwrap();
    if let Ok(pid) = asked.get_connection_unix_process_id(name).await {
        let pid = rustix::process::Pid::from_raw(pid.cast_signed()).unwrap();
        rustix::process::kill_process(pid, Signal::KILL).unwrap();
    }
    assert_eq!(listed.status, 0, "{listed:?}");
    assert!(listed.stdout.starts_with("ID"), "{listed:?}");
}

/// Bytes that text cannot carry, and a line past the size of a piece that is cut within a letter.
#[tokio::test]
async fn a_log_is_the_same_bytes_over_the_bus_finished_followed_and_while_it_is_built() {
    let world = World::new(&["output"]).await;
    let script = world.home.projects().join("output/run.sh");
    let print = "printf 'x'; for n in $(seq 4000); do printf 'éééééééééé'; done\n\
        printf '\\n\\n1%%\\r2%%\\r\\n\\377\\303\\n\\000\\033[1mred\\nno end'\n";
    std::fs::write(script, print).unwrap();
    let mut expected = format!("x{}", "é".repeat(40_000)).into_bytes();
    expected.extend_from_slice(b"\n\n1%\r2%\r\n\xff\xc3\n\0\x1b[1mred\nno end");
    let bytes = async |mut command: Command| {
        let ran = tokio::task::spawn_blocking(move || command.output().unwrap());
        let ran = ran.await.unwrap();
        assert!(ran.status.success(), "{ran:?}");
        ran
    };
    let built = bytes(world.building("output", &["--verbose"])).await;
    let said = String::from_utf8(built.stdout).unwrap();
    let id = said.split("mistry logs ").nth(1).unwrap()[..12].to_owned();
    let shown = bytes(world.command("logs", &[&id])).await.stdout;
    let followed = bytes(world.command("logs", &["-f", &id])).await.stdout;
    // Before that comes what the image build has printed.
    assert!(shown.ends_with(&expected));
    assert!(followed == shown && built.stderr == shown);
}
