//! What the Docker Engine is asked for: containers are inspected while a build runs.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::PathBuf;

use bollard::models::{ContainerInspectResponse, HostConfig};
use serde_json::json;

use crate::support::daemon::{Daemon, Setup};
use crate::support::engine::Engine;
use crate::support::{Place, tree};

/// Starts the fixture `slow` and looks at its container while it waits; its id and what was seen.
fn seen(daemon: &Daemon, group: &str) -> (String, ContainerInspectResponse) {
    let id = daemon.submit(json!({"project": "slow", "group": group}));
    daemon.until("slow", &id, "waiting");
    let engine = Engine::new();
    let running = engine.containers(&daemon.label());
    assert_eq!(running.len(), 1);
    let container = engine.container(running[0].id.as_ref().unwrap());
    (id, container)
}

fn mount(host: &HostConfig, inside: &str) -> Option<String> {
    let mounts = host.mounts.as_ref().unwrap();
    let found = mounts
        .iter()
        .find(|mount| mount.target.as_deref() == Some(inside))?;
    found.source.clone()
}

#[test]
fn a_container_is_named_labelled_and_bound_as_promised() {
    let setup = Setup::on(Place::Ext4).fixture("slow");
    let outside = setup.home().join("outside");
    fs::create_dir(&outside).unwrap();
    let config = json!({"mounts": {"outside": "/outside"}, "log_limit": "1M"});
    let daemon = setup.config(config).start();
    let (id, container) = seen(&daemon, "my group/ü");
    let instance = daemon.label().split_once('=').unwrap().1.to_owned();
    assert_eq!(instance.len(), 32);
    let name = format!("/mistry-{}-{}-1", &instance[..8], &id[..16]);
    assert_eq!(container.name.unwrap(), name);

    let config = container.config.unwrap();
    let labels = config.labels.unwrap();
    for (label, value) in [
        ("mistry.instance", instance.as_str()),
        ("mistry.job", &id),
        ("mistry.project", "slow"),
        ("mistry.group", "my group/ü"),
        ("mistry.attempt", "1"),
    ] {
        assert_eq!(labels[label], value, "{label}");
    }
    assert_eq!(config.user.as_deref(), Some("0:0"), "the daemon's own");
    assert_eq!(config.tty, Some(false));
    // By id: a tag may mean another image a moment later.
    assert!(config.image.unwrap().starts_with("sha256:"));

    let host = container.host_config.unwrap();
    assert_eq!(
        host.security_opt,
        Some(vec!["no-new-privileges".to_owned()])
    );
    assert_eq!(
        host.cap_drop.clone().unwrap(),
        ["AUDIT_WRITE", "MKNOD", "NET_RAW", "SETFCAP"],
        "root keeps what else an unprivileged container has"
    );
    assert_eq!(host.pids_limit, Some(4096));
    assert_ne!(host.privileged, Some(true));
    assert_eq!(host.network_mode.as_deref(), Some("host"));
    let log = host.log_config.clone().unwrap();
    assert_eq!(log.typ.as_deref(), Some("local"));
    let options = log.config.unwrap();
    assert_eq!(options["max-file"], "1");
    assert!(options["max-size"].parse::<u64>().unwrap() > 1 << 20);
    let data = daemon.pending("slow", &id).join("data");
    assert_eq!(mount(&host, "/data").as_deref(), data.to_str());
    assert_eq!(mount(&host, "/outside").as_deref(), outside.to_str());
    // Its image knows no users.
    let home = daemon.pending("slow", &id).join("home");
    assert_eq!(mount(&host, "/mistry/home").as_deref(), home.to_str());
    assert_eq!(host.mounts.unwrap().len(), 3);
    assert_eq!(
        (host.memory, host.nano_cpus),
        (Some(0), Some(0)),
        "no limits were set"
    );

    daemon.release("slow", &id);
    let info = daemon.wait("slow", &id);
    assert_eq!(info["Image"].as_str(), container.image.as_deref());
    let image = Engine::new().image(info["Image"].as_str().unwrap());
    let labels = image.config.unwrap().labels.unwrap();
    assert_eq!(labels["mistry.instance"], instance);
    assert_eq!(labels["mistry.context"].len(), 64);
    assert_eq!(labels["mistry.uid"], "0");
    // Other daemons on this Engine may have the name for people, and none has this one.
    let own = format!("mistry-slow:{}-", &labels["mistry.context"][..12]);
    let names = image.repo_tags.unwrap();
    assert!(names.iter().any(|name| name.starts_with(&own)), "{names:?}");
}

#[test]
fn a_project_sets_its_own_user_network_limits_and_mounts() {
    let setup = Setup::on(Place::Ext4).fixture("slow");
    for name in ["global", "own"] {
        fs::create_dir(setup.home().join(name)).unwrap();
    }
    let config = json!({"mounts": {"global": "/m"}, "limits": {"memory": "1G", "pids": 900}});
    let daemon = setup.config(config).start();
    let settings = json!({
        "user": "1234:1235", "network": "none",
        "limits": {"memory": "64M", "cpus": 0.5, "pids": 50},
        "mounts": {(daemon.home().join("own").to_str().unwrap()): "/own"},
    });
    fs::write(
        daemon.project("slow").join("mistry.json"),
        settings.to_string(),
    )
    .unwrap();
    let (id, container) = seen(&daemon, "");
    assert_eq!(
        container.config.as_ref().unwrap().user.as_deref(),
        Some("1234:1235")
    );
    let host = container.host_config.unwrap();
    assert_eq!(host.cap_drop, Some(vec!["ALL".to_owned()]));
    assert_eq!(
        host.security_opt,
        Some(vec!["no-new-privileges".to_owned()])
    );
    assert_eq!(host.network_mode.as_deref(), Some("none"));
    assert_eq!(host.memory, Some(64 << 20));
    assert_eq!(host.nano_cpus, Some(500_000_000));
    assert_eq!(host.pids_limit, Some(50));
    assert!(mount(&host, "/m").is_some() && mount(&host, "/own").is_some());
    // What the kernel says of its processes.
    let status = fs::read_to_string(process_of(&container.id.unwrap()).join("status")).unwrap();
    for line in [
        "CapBnd:\t0000000000000000",
        "CapEff:\t0000000000000000",
        "NoNewPrivs:\t1",
    ] {
        assert!(status.contains(line), "{line}: {status}");
    }
    daemon.release("slow", &id);
    let info = daemon.wait("slow", &id);
    assert_eq!(info["Outcome"], "succeeded", "{info:#}");
    let made = daemon.ready("slow", &id).join("data/artifacts/released");
    let made = fs::metadata(made).unwrap();
    assert_eq!((made.uid(), made.gid()), (1234, 1235));
    let labels = Engine::new()
        .image(info["Image"].as_str().unwrap())
        .config
        .unwrap()
        .labels;
    assert_eq!(labels.unwrap()["mistry.uid"], "1234");
}

/// A process of a container, by its cgroup: the number that the Engine knows it by may be one of its own
/// namespace.
fn process_of(container: &str) -> PathBuf {
    let mut processes = fs::read_dir("/proc")
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let is_inside = |process: &PathBuf| {
        let groups = fs::read_to_string(process.join("cgroup"));
        let mut lines = groups.iter().flat_map(|groups| groups.lines());
        lines.any(|line| line.ends_with(container) || line.ends_with(&format!("{container}.scope")))
    };
    processes.find(is_inside).unwrap()
}

#[test]
fn an_image_holds_the_context_as_it_is_without_what_is_ignored() {
    let setup = Setup::on(Place::Ext4).script("context", "cp -R /context/. artifacts/");
    let daemon = setup.start();
    let project = daemon.project("context");
    let dockerfile = fs::read_to_string(project.join("Dockerfile")).unwrap();
    let dockerfile = dockerfile.replace("ENTRYPOINT", "COPY files /context/\nENTRYPOINT");
    fs::write(project.join("Dockerfile"), dockerfile).unwrap();
    let files = project.join("files");
    fs::create_dir_all(files.join("empty/inner")).unwrap();
    fs::create_dir_all(files.join("ignored/kept")).unwrap();
    for (name, mode) in [
        ("plain", 0o600),
        ("program", 0o755),
        (".hidden", 0o644),
        ("a.tmp", 0o644),
        ("ignored/gone", 0o644),
        ("ignored/kept/file", 0o644),
    ] {
        fs::write(files.join(name), name).unwrap();
        fs::set_permissions(files.join(name), fs::Permissions::from_mode(mode)).unwrap();
    }
    symlink("plain", files.join("link")).unwrap();
    symlink("/nowhere", files.join("dangling")).unwrap();
    let ignore = "# what is not sent\n**/*.tmp\nfiles/ignored\n!files/ignored/kept\n";
    fs::write(project.join(".dockerignore"), ignore).unwrap();

    let build = |n: &str| daemon.succeed(json!({"project": "context", "params": {"n": n}}));
    let built = build("1");
    let artifacts = daemon
        .ready("context", built["ID"].as_str().unwrap())
        .join("data/artifacts");
    let expected = [
        ".hidden - \".hidden\"",
        "dangling -> /nowhere",
        "empty/",
        "empty/inner/",
        "ignored/",
        "ignored/kept/",
        "ignored/kept/file - \"ignored/kept/file\"",
        "link -> plain",
        "plain - \"plain\"",
        "program x \"program\"",
    ];
    assert_eq!(tree(&artifacts), expected);

    // The same context is the same image, whatever else has changed.
    let count = |daemon: &Daemon| Engine::new().images(&daemon.label()).len();
    let images = count(&daemon);
    fs::write(files.join("b.tmp"), "ignored").unwrap();
    fs::set_permissions(files.join("program"), fs::Permissions::from_mode(0o775)).unwrap();
    fs::write(files.join("plain"), "plain").unwrap();
    let again = build("1");
    assert_eq!(
        (&again["Cached"], &again["ID"]),
        (&json!(true), &built["ID"])
    );
    let other = build("2");
    assert_eq!((&other["Image"], count(&daemon)), (&built["Image"], images));
    // For the next process of the daemon, too.
    let mut daemon = daemon;
    daemon.end();
    daemon.start();
    let next = daemon.succeed(json!({"project": "context", "params": {"n": "3"}}));
    assert_eq!((&next["Image"], count(&daemon)), (&built["Image"], images));
    let log = daemon
        .ready("context", next["ID"].as_str().unwrap())
        .join("out.log");
    assert_eq!(fs::read_to_string(log).unwrap(), "");
    // Another context is another image.
    fs::write(files.join("plain"), "changed").unwrap();
    let changed = daemon.succeed(json!({"project": "context", "params": {"n": "1"}}));
    assert_ne!(changed["ID"], built["ID"]);
    assert_ne!(changed["Image"], built["Image"]);
}
