//! What a container sees and how it ends, compared with `docker run`.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::daemon::{Daemon, Setup};
use crate::support::dice::{Dice, seed};
use crate::support::engine::Engine;
use crate::support::{Place, names, tree};

/// Well below what an Engine may take to go down, during which a build waited once.
const AT_ONCE: Duration = Duration::from_secs(10);

/// The docker CLI at the Engine of the tests.
pub fn docker(arguments: &[&str]) -> Output {
    Command::new("docker").args(arguments).output().unwrap()
}

/// `docker run` of the image of a build, as its project runs, with `/data` of its own.
fn docker_run(image: &str, user: &str, data: &Path, more: &[&str]) -> Output {
    let data = format!("{}:/data", data.display());
    let mut arguments = vec!["run", "--rm", "--network", "host", "-u", user, "-v", &data];
    arguments.extend(more);
    arguments.push(image);
    docker(&arguments)
}

/// Changes the Dockerfile of a project.
fn edit(daemon: &Daemon, project: &str, was: &str, is: &str) {
    let file = daemon.project(project).join("Dockerfile");
    let text = fs::read_to_string(&file).unwrap();
    assert!(text.contains(was), "{text}");
    fs::write(file, text.replace(was, is)).unwrap();
}

pub fn settings(daemon: &Daemon, project: &str, settings: Value) {
    let file = daemon.project(project).join("mistry.json");
    fs::write(file, settings.to_string()).unwrap();
}

pub fn artifacts(daemon: &Daemon, info: &Value) -> std::path::PathBuf {
    let (project, id) = (info["Project"].as_str(), info["ID"].as_str());
    let ready = daemon.ready(project.unwrap(), id.unwrap());
    ready.join("data/artifacts")
}

#[test]
fn exit_codes_are_those_of_docker_run_and_reported_at_once() {
    let script = "exec sh -c \"$(busybox cat params/command)\"";
    let daemon = Setup::on(Place::Host)
        .config(json!({"job_backlog": 1000}))
        .script("ends", script)
        .start();
    edit(
        &daemon,
        "ends",
        "ENTRYPOINT",
        "RUN [\"/bin/busybox\", \"--install\", \"-s\", \"/bin\"]\nENTRYPOINT",
    );
    let mut commands: Vec<String> = [
        "exit 0",
        "exit 1",
        "exit 125",
        "exit 126",
        "exit 127",
        "exit 137",
        "exit 143",
        "exit 255",
        "exit 256",
        "nope",
        "/data",
        "sh -c 'kill -9 $$'",
        "sh -c 'kill $$'",
        "trap 'exit 7' TERM; kill $$",
    ]
    .map(str::to_owned)
    .into();
    let seed = seed();
    let mut dice = Dice::of(seed);
    let generated = if std::env::var_os("MISTRY_SOAK").is_some() {
        100
    } else {
        4
    };
    for _ in 0..generated {
        commands.push(match dice.up_to(2) {
            0 => format!("exit {}", dice.up_to(256)),
            _ => format!("sh -c 'kill -{} $$'; exit $?", 1 + dice.up_to(16)),
        });
    }
    let job = |command: &str| json!({"project": "ends", "params": {"command": command}});
    // The image first, so that the builds take the time of their containers.
    let image = daemon.build(job("exit 0"))["Image"]
        .as_str()
        .unwrap()
        .to_owned();
    let submitted: Vec<_> = commands
        .iter()
        .map(|command| (command, daemon.submit(job(command))))
        .collect();
    let own = daemon.home().join("own/params");
    fs::create_dir_all(&own).unwrap();
    for (command, id) in submitted {
        let info = daemon.wait("ends", &id);
        fs::write(own.join("command"), command).unwrap();
        let run = docker_run(&image, "0:0", own.parent().unwrap(), &[]);
        let code = run.status.code().unwrap();
        assert_eq!(info["ExitCode"], code, "{command} (seed {seed}): {info:#}");
        let outcome = if code == 0 { "succeeded" } else { "failed" };
        assert_eq!(info["Outcome"], outcome, "{command}");
        assert_eq!(info["Attempt"], 1, "{command}");
        let ran = info["Phases"]["Run"].as_u64().unwrap();
        assert!(ran < AT_ONCE.as_millis() as u64, "{command}: {ran} ms");
    }
}

#[test]
fn a_program_that_cannot_run_has_the_exit_code_and_the_message_of_docker_run() {
    let setup = Setup::on(Place::Host).script("broken", "");
    let daemon = setup.start();
    let was = "ENTRYPOINT [\"/bin/busybox\", \"sh\", \"/run.sh\"]";
    let dockerfile = daemon.project("broken").join("Dockerfile");
    let whole = fs::read_to_string(&dockerfile).unwrap();
    for (is, outcome) in [
        ("ENTRYPOINT [\"/nope\"]", "failed"),
        ("CMD [\"nope\"]", "failed"),
        ("ENTRYPOINT nope", "failed"),
        ("ENTRYPOINT [\"/bin\"]", "failed"),
        ("ENTRYPOINT [\"/run.sh\"]", "failed"),
        ("# none", "errored"),
    ] {
        fs::write(&dockerfile, whole.replace(was, is)).unwrap();
        let answer = daemon.post("/jobs?async", &json!({"project": "broken"}));
        let id = answer.json()["ID"].as_str().unwrap().to_owned();
        let info = daemon.wait("broken", &id);
        let image = info["Image"].as_str().unwrap();
        let run = docker_run(image, "0:0", daemon.home(), &[]);
        assert_eq!(
            info["ExitCode"],
            run.status.code().unwrap(),
            "{is}: {info:#}"
        );
        assert_eq!(info["Outcome"], outcome, "{is}: {info:#}");
        let error = String::from_utf8(run.stderr).unwrap();
        let error = error.split("Error response from daemon: ").nth(1).unwrap();
        let error = error.lines().next().unwrap().trim_end_matches('.');
        let said = info["Err"].as_str().unwrap();
        let said = said.strip_prefix("could not run the build's container: ");
        assert_eq!(said, Some(error), "{is}");
    }
}

#[test]
fn a_container_that_is_stopped_by_hand_ends_at_once_with_its_own_exit_code() {
    let script = "
        trap 'exit 143' TERM
        echo waiting; while :; do /bin/busybox sleep 0.1; done";
    let daemon = Setup::on(Place::Host).script("stopped", script).start();
    let id = daemon.submit(json!({"project": "stopped"}));
    daemon.until("stopped", &id, "waiting");
    let running = Engine::new().containers(&daemon.label());
    let began = Instant::now();
    let stopped = docker(&["stop", running[0].id.as_ref().unwrap()]);
    assert!(stopped.status.success(), "{stopped:?}");
    let info = daemon.wait("stopped", &id);
    assert!(began.elapsed() < AT_ONCE, "{:?}", began.elapsed());
    assert_eq!(info["Outcome"], "failed", "{info:#}");
    assert_eq!(
        (&info["ExitCode"], &info["Attempt"]),
        (&json!(143), &json!(1))
    );
}

#[test]
fn an_out_of_memory_kill_is_reported_whatever_the_script_returns() {
    const LINE: &str = "mistry: the kernel killed a process of the build";
    let script = "
        [ -e params/greedy ] && { /bin/busybox tail /dev/zero || echo \"ended by $?\"; }
        exit \"$(/bin/busybox cat params/code)\"";
    let daemon = Setup::on(Place::Host).script("memory", script).start();
    settings(&daemon, "memory", json!({"limits": {"memory": "32M"}}));
    for (code, greedy) in [("0", true), ("3", true), ("0", false), ("3", false)] {
        let mut params = json!({"code": code});
        if greedy {
            params["greedy"] = json!("1");
        }
        let info = daemon.build(json!({"project": "memory", "params": params}));
        let code: i64 = code.parse().unwrap();
        assert_eq!(info["ExitCode"], code, "{info:#}");
        // `set -e` ends a script at a test that fails.
        let name = "mistry-oracle-memory";
        let own = daemon.home().join(format!("own-{code}-{greedy}/params"));
        fs::create_dir_all(&own).unwrap();
        fs::write(own.join("code"), code.to_string()).unwrap();
        if greedy {
            fs::write(own.join("greedy"), "1").unwrap();
        }
        let volume = format!("{}:/data", own.parent().unwrap().display());
        docker(&["rm", "-f", name]);
        let image = info["Image"].as_str().unwrap();
        docker(&[
            "run",
            "--name",
            name,
            "-m",
            "32m",
            "--network",
            "host",
            "-v",
            &volume,
            image,
        ]);
        let inspected = docker(&["inspect", "-f", "{{.State.OOMKilled}}", name]);
        docker(&["rm", "-f", name]);
        let killed = String::from_utf8(inspected.stdout).unwrap();
        assert_eq!(killed.trim(), greedy.to_string());
        assert_eq!(info["OOMKilled"], greedy, "{info:#}");
        let log = artifacts(&daemon, &info).join("../../out.log");
        let log = fs::read_to_string(log).unwrap();
        assert_eq!(log.contains(LINE), greedy, "{log}");
        let error = (code != 0 && greedy).then_some("the build ran out of memory");
        assert_eq!(info["Err"].as_str(), error, "{info:#}");
    }
}

#[test]
fn what_an_image_declares_below_data_is_the_builds_own() {
    let script = "
        pwd > artifacts/pwd; cd - > /dev/null || cd \"$(/bin/busybox pwd)\"
        echo kept >> /data/cache/x/kept; echo local > local
        [ \"$(/bin/busybox cat /data/params/p)\" = value ]
        echo elsewhere > /etc/volume/file
        /bin/busybox cat /data/cache/x/kept > /data/artifacts/kept";
    let daemon = Setup::on(Place::Ext4).script("declares", script).start();
    // The script begins where the image says.
    let run = daemon.project("declares").join("run.sh");
    let text = fs::read_to_string(&run).unwrap();
    fs::write(
        &run,
        text.replace("cd /data\n", "")
            .replace("> artifacts/pwd", "> /data/artifacts/pwd"),
    )
    .unwrap();
    let declared = "
RUN [\"/bin/busybox\", \"mkdir\", \"-p\", \"/etc/volume\"]
RUN [\"/bin/busybox\", \"chmod\", \"777\", \"/etc/volume\"]
ENV DEEP=/data/cache/deep
VOLUME [\"/data/artifacts\", \"/data//cache/x/\", \"/data\", \"/data/params\"]
VOLUME /data/../etc/volume $DEEP/a /data/params/inner
WORKDIR $DEEP//a/../there/
ENTRYPOINT";
    edit(&daemon, "declares", "\nENTRYPOINT", declared);
    for user in ["0:0", "1000:1000"] {
        settings(&daemon, "declares", json!({"user": user}));
        for n in 1..=2 {
            let job = json!({
                "project": "declares", "group": user,
                "params": {"n": n.to_string(), "p": "value"},
            });
            let info = daemon.succeed(job);
            let artifacts = artifacts(&daemon, &info);
            let kept = fs::read_to_string(artifacts.join("kept")).unwrap();
            assert_eq!(kept, "kept\n".repeat(n), "{user}");
            let image = info["Image"].as_str().unwrap();
            let program = ["--network", "none", "--entrypoint", "/bin/busybox"];
            let pwd = docker(&[&["run", "--rm"], &program[..], &[image, "pwd"]].concat());
            let pwd = String::from_utf8(pwd.stdout).unwrap();
            assert_eq!(fs::read_to_string(artifacts.join("pwd")).unwrap(), pwd);
            let local = artifacts.join("../cache/deep/there/local");
            let uid: u32 = user.split(':').next().unwrap().parse().unwrap();
            for made in [
                &local,
                local.parent().unwrap(),
                &artifacts.join("../cache/x"),
            ] {
                assert_eq!(fs::metadata(made).unwrap().uid(), uid, "{made:?}");
            }
        }
    }
}

#[test]
fn what_a_base_left_in_the_place_of_a_declared_directory_is_replaced_and_not_followed() {
    let script = "
        [ -e params/plant ] && {
            /bin/busybox ln -s \"$(/bin/busybox cat params/plant)\" cache/link
            echo file > cache/file; exit 0
        }
        echo written > cache/link/written; echo written > cache/file/deep/written";
    let script = script.replace("[ -e", "! [ ! -e");
    let daemon = Setup::on(Place::Ext4).script("planted", &script).start();
    let outside = daemon.home().join("outside");
    fs::create_dir(&outside).unwrap();
    let plant = json!({
        "project": "planted", "group": "g", "params": {"plant": outside.to_str().unwrap()},
    });
    daemon.succeed(plant);
    let declared = "\nVOLUME /data/cache/link\nWORKDIR /data/cache/file/deep\nENTRYPOINT";
    edit(&daemon, "planted", "\nENTRYPOINT", declared);
    let info = daemon.succeed(json!({"project": "planted", "group": "g"}));
    assert_eq!(info["Incremental"], true);
    assert_eq!(names(&outside), [""; 0]);
    let cache = tree(&artifacts(&daemon, &info).join("../cache"));
    assert_eq!(
        cache,
        [
            "file/",
            "file/deep/",
            "file/deep/written - \"written\\n\"",
            "link/",
            "link/written - \"written\\n\""
        ]
    );
}

#[test]
fn a_clone_belongs_to_the_user_of_the_new_build_and_not_of_the_base() {
    for place in [Place::Ext4, Place::Btrfs] {
        let script = "
            [ -d cache/closed ] || { /bin/busybox mkdir -p cache/closed/deep; /bin/busybox ln -s /nowhere cache/link; }
            echo \"$(/bin/busybox id -u)\" >> cache/closed/deep/users
            /bin/busybox ln -f cache/closed/deep/users cache/name
            /bin/busybox chmod 0640 cache/closed/deep/users; /bin/busybox chmod 0700 cache/closed
            /bin/busybox cp cache/name artifacts/users";
        let daemon = Setup::on(place).script("changes", script).start();
        let mut users = String::new();
        let all = ["1000:1000", "2000:2000", "0:0", "2000:3000"];
        for (n, user) in all.iter().enumerate() {
            settings(&daemon, "changes", json!({"user": user}));
            let job = json!({"project": "changes", "group": "g", "params": {"n": n.to_string()}});
            let info = daemon.succeed(job);
            assert_eq!(info["Incremental"], n > 0, "{place:?} {user}");
            let (uid, gid) = user.split_once(':').unwrap();
            users.push_str(&format!("{uid}\n"));
            let artifacts = artifacts(&daemon, &info);
            assert_eq!(
                fs::read_to_string(artifacts.join("users")).unwrap(),
                users,
                "{place:?}"
            );
            let data = artifacts.parent().unwrap();
            for (path, mode) in [
                ("cache", None),
                ("cache/closed", Some(0o700)),
                ("cache/closed/deep/users", Some(0o640)),
                ("cache/link", None),
                ("artifacts/users", None),
                ("params/n", None),
            ] {
                let found = fs::symlink_metadata(data.join(path)).unwrap();
                let owner = format!("{}:{}", found.uid(), found.gid());
                assert_eq!(owner, format!("{uid}:{gid}"), "{place:?} {path}");
                if let Some(mode) = mode {
                    assert_eq!(found.permissions().mode() & 0o7777, mode, "{path}");
                }
            }
            let names = fs::metadata(data.join("cache/name")).unwrap().nlink();
            assert_eq!(names, 2, "{place:?}");
        }
    }
}

#[test]
fn a_base_whose_owner_cannot_be_changed_is_not_used_and_the_log_says_so() {
    let group = fs::metadata(crate::support::engine::socket())
        .unwrap()
        .gid();
    let script = "[ ! -e cache/before ] || exit 9; echo x > cache/before";
    let setup = Setup::on(Place::Btrfs).user(65534, group);
    let mut daemon = setup.script("changes", script).start();
    let job = |n: &str| json!({"project": "changes", "group": "g", "params": {"n": n}});
    let first = daemon.succeed(job("1"));
    daemon.end();
    // As another user's daemon has left it.
    let record = daemon.ready("changes", first["ID"].as_str().unwrap());
    let text = fs::read_to_string(record.join("build_info.json")).unwrap();
    let mut record_now: Value = serde_json::from_str(&text).unwrap();
    record_now["Bookkeeping"]["User"] = json!("4321:4321");
    fs::write(record.join("build_info.json"), record_now.to_string()).unwrap();
    std::os::unix::fs::lchown(record.join("data/cache/before"), Some(4321), Some(4321)).unwrap();
    daemon.start();
    let second = daemon.succeed(job("2"));
    assert_eq!(second["Incremental"], false);
    let log = second["ContainerStdouterr"].as_str().unwrap();
    assert!(
        log.contains("mistry: the latest build of the group belongs to another user"),
        "{log}"
    );
}

#[test]
fn an_engine_that_remaps_users_runs_builds_as_any_other_does() {
    let engine = Remapping::start();
    let script = "
        echo \"$(/bin/busybox id -u) $(/bin/busybox cat /proc/self/uid_map)\" > artifacts/who
        echo x >> cache/kept; /bin/busybox cp cache/kept artifacts/kept";
    let setup = Setup::on(Place::Host).docker_host(engine.host());
    let daemon = setup.script("remapped", script).start();
    settings(&daemon, "remapped", json!({"user": "1000:1000"}));
    for n in 1..=2 {
        let job = json!({"project": "remapped", "group": "g", "params": {"n": n.to_string()}});
        let info = daemon.succeed(job);
        let artifacts = artifacts(&daemon, &info);
        let kept = artifacts.join("kept");
        assert_eq!(fs::read_to_string(&kept).unwrap(), "x\n".repeat(n));
        assert_eq!(fs::metadata(&kept).unwrap().uid(), 1000);
        let who = fs::read_to_string(artifacts.join("who")).unwrap();
        assert_eq!(
            who.split_whitespace().collect::<Vec<_>>(),
            ["1000", "0", "0", "4294967295"]
        );
    }
}

/// A Docker Engine of a test's own with `--userns-remap`, ended with all that it has made.
struct Remapping {
    home: tempfile::TempDir,
    process: std::process::Child,
}

impl Remapping {
    fn start() -> Remapping {
        let home = tempfile::Builder::new()
            .prefix("mistry-userns-")
            .tempdir()
            .unwrap();
        let at = |name: &str| home.path().join(name).display().to_string();
        let mut dockerd = Command::new("dockerd");
        dockerd
            .arg(format!("--host=unix://{}", at("docker.sock")))
            .args([
                format!("--data-root={}", at("data")),
                format!("--exec-root={}", at("run")),
            ])
            .arg(format!("--pidfile={}", at("pid")))
            .args([
                "--userns-remap=default",
                "--iptables=false",
                "--ip-forward=false",
            ])
            .stderr(Stdio::piped());
        // Without an interface docker0, no other Engine's can be taken away.
        if !Path::new("/sys/class/net/docker0").exists() {
            dockerd.arg("--bridge=none");
        }
        let mut process = dockerd
            .spawn()
            .expect("dockerd runs: `make environment` installs it");
        let mut lines = BufReader::new(process.stderr.take().unwrap()).lines();
        let mut last = String::new();
        while !last.contains("API listen on") {
            let line = lines.next().and_then(Result::ok);
            last = line.unwrap_or_else(|| panic!("dockerd did not start: {last}"));
        }
        // Ends with the Engine.
        std::thread::spawn(move || lines.for_each(drop));
        Remapping { home, process }
    }

    fn host(&self) -> String {
        format!("unix://{}", self.home.path().join("docker.sock").display())
    }
}

impl Drop for Remapping {
    fn drop(&mut self) {
        let process = rustix::process::Pid::from_child(&self.process);
        let _ = rustix::process::kill_process(process, rustix::process::Signal::TERM);
        let _ = self.process.wait();
        // The network namespace of the host stays mounted, and other mounts where it was killed.
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let home = self.home.path().display().to_string();
        for mount in mounts.lines().rev() {
            let at = mount.split(' ').nth(1).unwrap_or("");
            if at.starts_with(&home) {
                let _ = Command::new("umount").args(["-l", at]).status();
            }
        }
    }
}
