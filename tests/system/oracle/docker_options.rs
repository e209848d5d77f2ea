//! Options of `mistry.json` that are those of `docker run` and `docker build`: what a container sees, and the image,
//! compared with the same options of Docker's client.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use super::containers::{artifacts, docker, settings};
use crate::support::Place;
use crate::support::daemon::{Daemon, Setup};

/// Everything that an option changes, as the container sees it, one file each.
const LOOK: &str = "
    b=/bin/busybox
    $b df -k /dev/shm | $b tail -n 1 | $b tr -s ' ' | $b cut -d ' ' -f 2 > artifacts/shm
    $b head -n 1 /proc/1/status > artifacts/init
    $b cat /proc/self/limits > artifacts/limits
    $b cat /etc/resolv.conf > artifacts/resolv.conf
    $b cat /etc/hosts > artifacts/hosts
    $b env | $b grep '^OWN' | $b sort > artifacts/env
";
const FILES: [&str; 6] = ["shm", "init", "limits", "resolv.conf", "hosts", "env"];

fn read(directory: &Path) -> Vec<(&'static str, String)> {
    let read = |name| (name, fs::read_to_string(directory.join(name)).unwrap());
    FILES.map(read).into()
}

/// What a container of `docker run` with these options sees.
fn run(
    daemon: &Daemon,
    image: &str,
    network: &str,
    options: &[&str],
) -> Vec<(&'static str, String)> {
    let own = daemon.home().join("own");
    fs::create_dir_all(own.join("artifacts")).unwrap();
    let volume = format!("{}:/data", own.display());
    let pids = [
        "--pids-limit",
        "4096",
        "--security-opt",
        "no-new-privileges",
    ];
    let fixed = [
        "run",
        "--rm",
        "--network",
        network,
        "-u",
        "0:0",
        "-v",
        &volume,
    ];
    let ran = docker(&[&fixed[..], &pids, options, &[image]].concat());
    assert!(ran.status.success(), "{ran:?}");
    let seen = read(&own.join("artifacts"));
    fs::remove_dir_all(own).unwrap();
    seen
}

/// A project whose first process may be seen.
fn daemon(network: &str) -> Daemon {
    Setup::on(Place::Host)
        .config(json!({"network": network}))
        .script("p", LOOK)
        .start()
}

#[test]
fn a_container_sees_what_one_of_docker_run_sees() {
    let daemon = daemon("host");
    for (keys, options) in [
        (json!({}), &[][..]),
        (json!({"shm_size": "96m"}), &["--shm-size", "96m"]),
        (json!({"init": true}), &["--init"]),
        (
            json!({"ulimits": {"nofile": 1024, "core": {"soft": 0, "hard": -1}}}),
            &["--ulimit", "nofile=1024", "--ulimit", "core=0:-1"],
        ),
        (
            json!({"dns": ["192.0.2.53", "2001:db8::53"]}),
            &["--dns", "192.0.2.53", "--dns", "2001:db8::53"],
        ),
        (
            json!({"extra_hosts": ["db.example:192.0.2.7", "six:2001:db8::7"]}),
            &[
                "--add-host",
                "db.example:192.0.2.7",
                "--add-host",
                "six:2001:db8::7",
            ],
        ),
        (
            json!({"env": {"OWN_A": "a $$b\n$$", "OWN-B": ""}}),
            &["-e", "OWN_A=a $b\n$", "-e", "OWN-B="],
        ),
    ] {
        settings(&daemon, "p", keys.clone());
        let info = daemon.succeed(json!({"project": "p"}));
        let image = info["Image"].as_str().unwrap();
        let expected = run(&daemon, image, "host", options);
        assert_eq!(read(&artifacts(&daemon, &info)), expected, "{keys}");
    }
}

#[test]
fn a_container_without_the_hosts_network_has_the_files_of_docker_run() {
    let daemon = daemon("none");
    settings(
        &daemon,
        "p",
        json!({"dns": ["192.0.2.53"], "extra_hosts": ["db.example:192.0.2.7"]}),
    );
    let info = daemon.succeed(json!({"project": "p"}));
    let image = info["Image"].as_str().unwrap();
    let options = ["--dns", "192.0.2.53", "--add-host", "db.example:192.0.2.7"];
    let expected = run(&daemon, image, "none", &options);
    assert_eq!(read(&artifacts(&daemon, &info)), expected);
}

#[test]
fn an_image_is_that_of_docker_build_with_these_args_and_this_stage() {
    let daemon = daemon("host");
    let first = fs::read_to_string(daemon.project("p").join("Dockerfile")).unwrap();
    let stages = "FROM scratch AS unused\nLABEL unused=1\nFROM none.example/later\n";
    let (start, end) = first.split_once("ENTRYPOINT").unwrap();
    let dockerfile = format!(
        "ARG STAGE=scratch\n{}\nARG VERSION=default\nENV VERSION=$VERSION\nENTRYPOINT{end}\n{stages}",
        start.replacen("FROM scratch", "FROM $STAGE AS test", 1),
    );
    fs::write(daemon.project("p").join("Dockerfile"), dockerfile).unwrap();
    for builder in ["classic", "buildkit"] {
        settings(
            &daemon,
            "p",
            json!({
                "builder": builder, "target": "test",
                "build_args": {"VERSION": "1 \"2\" é $x", "UNUSED": "x"},
            }),
        );
        let info = daemon.succeed(json!({"project": "p"}));
        let image = info["Image"].as_str().unwrap();
        let id = info["ID"].as_str().unwrap();
        let log = daemon.get(&format!("/log/p/{id}?text")).text();
        let mut lines = log.lines();
        let is_named =
            lines.any(|line| line.contains("UNUSED") && line.ends_with("were not consumed"));
        assert_eq!(is_named, builder == "classic", "{log}");
        let project = daemon.project("p");
        let arguments = [
            "build",
            "-q",
            "--network=host",
            "--target=test",
            "--build-arg",
            "uid=0",
            "--build-arg",
            "VERSION=1 \"2\" é $x",
            project.to_str().unwrap(),
        ];
        let built = docker(&arguments);
        assert!(built.status.success(), "{built:?}");
        let own = String::from_utf8(built.stdout).unwrap();
        let variables = |image: &str| {
            let shown = docker(&["inspect", "-f", "{{json .Config.Env}}", image]);
            let env: Value = serde_json::from_slice(&shown.stdout).unwrap();
            env
        };
        assert_eq!(variables(image), variables(own.trim()), "{builder}");
        docker(&["rmi", own.trim()]);
    }
    settings(&daemon, "p", json!({"target": "none-such"}));
    let answer = daemon.post("/jobs?async", &json!({"project": "p"}));
    let id = answer.json()["ID"].as_str().unwrap().to_owned();
    let info = daemon.wait("p", &id);
    assert_eq!(info["Outcome"], "errored", "{info}");
    assert!(
        info["Err"].as_str().unwrap().contains("none-such"),
        "{info}"
    );
}
