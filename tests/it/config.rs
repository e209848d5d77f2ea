//! The daemon's command line and configuration: a mistake is one line that names it and an exit
//! status that says not to try again.

use serde_json::{Value, json};

use crate::support::{
    daemon::{Home, names},
    process::{Ended, run},
};

const WRONG: i32 = 78;

async fn check(home: &Home) -> Ended {
    let mut command = home.mistryd();
    command.arg("--check-config");
    run(command).await
}

#[tokio::test]
async fn a_valid_configuration_is_reported_as_valid_and_nothing_is_started() {
    let home = Home::new().await;
    home.configure(&json!({}));
    let ended = check(&home).await;
    assert_eq!(
        (ended.status, ended.stdout.lines().count()),
        (0, 1),
        "{ended:?}"
    );
    assert!(names(&home.builds()).is_empty());
}

#[tokio::test]
async fn what_a_valid_configuration_lacks_on_this_host_is_a_warning() {
    let home = Home::new().await;
    let warnings = async |settings: Value| {
        home.configure(&settings);
        let ended = check(&home).await;
        assert_eq!(ended.status, 0, "{ended:?}");
        ended.stderr.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    for network in ["host", "none", "bridge", "container:db"] {
        assert!(
            warnings(json!({ "network": network })).await.is_empty(),
            "{network}"
        );
    }
    let missing = warnings(json!({ "network": "nope" })).await;
    let expected = "mistryd: warning: network: the Docker Engine has no network 'nope', so every build will fail; it has: bridge, host, none";
    assert_eq!(missing, [expected]);
    let no_rule = warnings(json!({ "gc": { "keep_last": 3 } })).await;
    assert!(
        no_rule.len() == 1 && no_rule[0].contains("nothing is removed"),
        "{no_rule:?}"
    );
    let no_proxies = warnings(json!({ "host_proxies": true })).await;
    let is_set = [
        "http_proxy",
        "https_proxy",
        "ftp_proxy",
        "no_proxy",
        "all_proxy",
    ]
    .iter()
    .flat_map(|name| [(*name).to_owned(), name.to_uppercase()])
    .any(|name| std::env::var_os(name).is_some_and(|value| !value.is_empty()));
    assert_eq!(no_proxies.is_empty(), is_set, "{no_proxies:?}");
    // A reload does not fail because the Engine is away.
    home.engine.stop().await;
    let away = warnings(json!({})).await;
    assert!(
        away.len() == 1 && away[0].contains("see that Docker is installed and runs"),
        "{away:?}"
    );
}

#[tokio::test]
async fn each_key_wrong_in_turn_is_one_line_and_status_78() {
    let home = Home::new().await;
    for (key, value) in [
        ("projects_path", json!("/nowhere/at/all")),
        ("projects_path", json!(7)),
        ("projects_path", Value::Null),
        ("build_path", json!("/nowhere/at/all")),
        ("build_path", json!("/proc/version")),
        ("mounts", json!({ "/nowhere/at/all": "/x" })),
        ("mounts", json!({ "/etc": "relative" })),
        ("mounts", json!({ "/etc": "/data/x" })),
        ("mounts", json!(["/etc"])),
        ("job_concurrency", json!(-1)),
        ("job_concurrency", json!(1.5)),
        ("job_concurrency", json!("2")),
        ("job_backlog", json!(1_000_000)),
        ("filesystem", json!("zfs")),
        ("job_timeout", json!("soon")),
        ("silence_timeout", json!(5)),
        ("log_limit", json!("much")),
        ("engine_wait", json!("-1s")),
        ("keep_attempts", json!(1_001)),
        ("keep_attempts", json!(-1)),
        ("network", json!("")),
        ("limits", json!({ "memory": "1K" })),
        ("limits", json!({ "colour": 1 })),
        ("limits", json!({ "cpus": 0 })),
        ("gc", json!({ "max_age": "old" })),
        ("gc", json!(true)),
        ("idle_exit", json!("never")),
        ("auth_tokens_file", json!("/nowhere/at/all")),
        ("public", json!("all")),
        ("hosts", json!("a")),
        ("hosts", json!(["a:1"])),
        ("colour", json!("red")),
    ] {
        home.configure(&json!({ key: value }));
        for arguments in [&["--check-config"][..], &["--addr", "127.0.0.1:0"]] {
            let mut command = home.mistryd();
            command.args(arguments);
            let ended = run(command).await;
            assert_eq!(ended.status, WRONG, "{key}: {value}: {ended:?}");
            let said = &ended.stderr;
            assert_eq!(
                (said.lines().count(), ended.stdout.as_str()),
                (1, ""),
                "{key}: {ended:?}"
            );
            assert!(
                said.contains(key) && said.contains("config.json"),
                "{key}: {said}"
            );
        }
    }
    assert!(names(&home.builds()).is_empty());
}

#[tokio::test]
async fn a_file_that_cannot_be_read_is_named() {
    let home = Home::new().await;
    let path = home.path("config.json");
    for text in [
        None,
        Some(""),
        Some("{"),
        Some("[]"),
        Some("null"),
        Some("{} x"),
        Some("\u{0}"),
    ] {
        if let Some(text) = text {
            std::fs::write(&path, text).unwrap();
        }
        let ended = check(&home).await;
        assert_eq!(ended.status, WRONG, "{text:?}: {ended:?}");
        assert_eq!(ended.stderr.lines().count(), 1, "{ended:?}");
        assert!(ended.stderr.contains("config.json"), "{ended:?}");
    }
    // Two paths that are none, by position.
    let list = json!([home.projects(), home.builds()]);
    std::fs::write(&path, list.to_string()).unwrap();
    assert_eq!(check(&home).await.status, WRONG);
    // A broken tokens file, too.
    std::fs::write(home.path("tokens"), "# fine\nnonsense\n").unwrap();
    home.configure(&json!({ "auth_tokens_file": "tokens" }));
    let ended = check(&home).await;
    assert_eq!(
        (ended.status, ended.stderr.lines().count()),
        (WRONG, 1),
        "{ended:?}"
    );
    assert!(ended.stderr.contains("line 2"), "{ended:?}");
}

#[tokio::test]
async fn without_a_name_the_file_of_this_directory_is_taken() {
    let home = Home::new().await;
    home.configure(&json!({}));
    let mut command = std::process::Command::new(home.mistryd().get_program());
    command
        .env_clear()
        .arg("--check-config")
        .current_dir(home.path(""));
    let ended = run(command).await;
    assert_eq!(ended.status, 0, "{ended:?}");
    assert!(ended.stdout.contains("config.json'"), "{ended:?}");
}

#[tokio::test]
async fn a_wrong_docker_host_is_named() {
    let home = Home::new().await;
    home.configure(&json!({}));
    for host in ["tcp://127.0.0.1:2375", "unix://relative", "nonsense"] {
        let mut command = home.mistryd();
        command
            .args(["--addr", "127.0.0.1:0"])
            .env("DOCKER_HOST", host);
        let ended = run(command).await;
        assert_eq!(ended.status, WRONG, "{ended:?}");
        assert!(
            ended.stderr.contains("DOCKER_HOST") && ended.stderr.contains(host),
            "{ended:?}"
        );
    }
}

#[tokio::test]
async fn the_command_line_answers_for_itself() {
    let home = Home::new().await;
    home.configure(&json!({}));
    let version = concat!("mistryd ", env!("CARGO_PKG_VERSION"), "\n");
    for (arguments, status, out) in [
        (&["--version"][..], 0, version),
        (&["-v"], 0, version),
        (&["--help"], 0, "Usage: mistryd"),
        (&["-h"], 0, "Usage: mistryd"),
        (&["rebuild", "--help"], 0, "--fail-fast"),
    ] {
        let mut command = home.mistryd();
        command.args(arguments);
        let ended = run(command).await;
        assert_eq!(ended.status, status, "{ended:?}");
        assert!(
            ended.stdout.contains(out) && ended.stderr.is_empty(),
            "{arguments:?}: {ended:?}"
        );
    }
    for wrong in [
        &["dance"][..],
        &["--colour"],
        &["--filesystem", "zfs"],
        &["--addr"],
    ] {
        let mut command = home.mistryd();
        command.args(wrong);
        let ended = run(command).await;
        assert_eq!(
            (ended.status, ended.stdout.as_str()),
            (2, ""),
            "{wrong:?}: {ended:?}"
        );
        assert!(!ended.stderr.is_empty());
    }
}

#[tokio::test]
async fn paths_may_be_relative_to_the_file() {
    let home = Home::new().await;
    let text =
        json!({ "projects_path": "projects", "build_path": "./builds", "filesystem": "plain" });
    std::fs::write(home.path("config.json"), text.to_string()).unwrap();
    home.fixture("succeed");
    let daemon = home.spawn().await;
    let ask = crate::support::http::Ask::post("/jobs", &json!({ "project": "succeed" }));
    let info = daemon.at.ask(ask).await.expect(201).json();
    assert!(info["Path"].as_str().unwrap().starts_with('/'));
}

#[tokio::test]
async fn the_sample_is_accepted() {
    let sample = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("config.sample.json");
    let text = std::fs::read_to_string(sample).unwrap();
    let mut config: Value = serde_json::from_str(&text).unwrap();
    let home = Home::new().await;
    std::fs::write(home.path("tokens"), "").unwrap();
    std::fs::create_dir(home.path("mounted")).unwrap();
    // Values of this host are replaced; all else is used as it is.
    config["projects_path"] = json!(home.projects());
    config["build_path"] = json!(home.builds());
    config["auth_tokens_file"] = json!(home.path("tokens"));
    config["mounts"] = json!({ home.path("mounted").to_str().unwrap(): "/mounted" });
    std::fs::write(home.path("config.json"), config.to_string()).unwrap();
    let ended = check(&home).await;
    assert_eq!(ended.status, 0, "{ended:?}");
}

#[tokio::test]
async fn a_daemon_that_builds_can_command_warns_and_says_how_to_prevent_it() {
    for (keys, warns) in [
        (json!({}), true),
        (json!({"network": "host"}), true),
        (json!({"network": "bridge"}), false),
        (json!({"auth_tokens_file": "tokens"}), false),
    ] {
        let home = Home::new().await;
        std::fs::write(home.path("tokens"), "").unwrap();
        home.configure(&keys);
        let daemon = home.spawn().await;
        let log = daemon.log();
        let lines = log
            .lines()
            .filter(|line| line.contains("they can read and command this server"))
            .filter(|line| line.contains("auth_tokens_file") && line.contains("bridge"));
        assert_eq!(lines.count(), usize::from(warns), "{keys}: {log}");
    }
}
