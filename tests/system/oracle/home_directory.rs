//! The home directory of a container, compared with `docker run`.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::json;

use super::containers::{artifacts, docker, settings};
use crate::support::daemon::Setup;
use crate::support::engine::Engine;
use crate::support::{Place, names};

/// A project whose image knows users 0 and 1000.
fn with_users(setup: Setup, name: &str, script: &str) -> Setup {
    let setup = setup.script(name, script);
    let project = setup.home().join("projects").join(name);
    let users = "root:x:0:0:root:/root:/bin/sh\nnode:x:1000:1000::/home/node:/bin/sh\n";
    fs::write(project.join("users"), users).unwrap();
    let file = project.join("Dockerfile");
    let text = fs::read_to_string(&file).unwrap();
    let users = "COPY users /usr/users\n\
        RUN [\"/bin/busybox\", \"ln\", \"-sf\", \"../usr/users\", \"/etc/passwd\"]\nENTRYPOINT";
    fs::write(file, text.replace("ENTRYPOINT", users)).unwrap();
    setup
}

#[test]
fn home_is_that_of_docker_run_where_the_image_has_one_and_else_empty_and_writable() {
    let script = "
        echo \"$HOME\" > artifacts/home
        case $HOME in
            /mistry/*)
                [ -z \"$(/bin/busybox ls -A \"$HOME\")\" ]
                /bin/busybox mkdir \"$HOME/.npm\"; echo x > \"$HOME/.npm/x\" ;;
        esac
        echo \"$XDG_CACHE_HOME ${npm_config_cache-} $YARN_CACHE_FOLDER $BUNDLE_USER_CACHE\" > artifacts/caches
        for cache in \"$XDG_CACHE_HOME\" \"${npm_config_cache-}\" \"$YARN_CACHE_FOLDER\"; do
            case $cache in /data/cache*) /bin/busybox mkdir -p \"$cache/made\" ;; esac
        done";
    let setup = with_users(Setup::on(Place::Host), "knows", script);
    let daemon = setup.script("knows-none", script).start();
    for (project, image_home, user) in [
        ("knows", "", "1000:1000"),
        ("knows", "", "1234:1000"),
        ("knows", "/from/env", "1234:1000"),
        ("knows-none", "", "0:0"),
        ("knows-none", "", "1000"),
    ] {
        settings(&daemon, project, json!({"user": user}));
        if !image_home.is_empty() {
            let file = daemon.project(project).join("Dockerfile");
            let text = fs::read_to_string(&file).unwrap();
            let set = format!("ENV HOME={image_home} NPM_CONFIG_CACHE=/own\nENTRYPOINT");
            if !text.contains("/from/env") {
                fs::write(file, text.replace("ENTRYPOINT", &set)).unwrap();
            }
        }
        // Twice: what is known of the image is used, and the second finds nothing of the first.
        for n in ["1", "2"] {
            let info = daemon.build(json!({"project": project, "group": "g", "params": {"n": n}}));
            assert_eq!(info["Outcome"], "succeeded", "{project} {user}: {info:#}");
            let artifacts = artifacts(&daemon, &info);
            let home = fs::read_to_string(artifacts.join("home")).unwrap();
            let image = info["Image"].as_str().unwrap();
            let run = ["run", "--rm", "--network", "none", "-u", user];
            let env = docker(&[&run[..], &["--entrypoint", "/bin/busybox", image, "env"]].concat());
            let env = String::from_utf8(env.stdout).unwrap();
            let theirs = env
                .lines()
                .find_map(|line| line.strip_prefix("HOME="))
                .unwrap();
            let ours = if theirs == "/" {
                "/mistry/home"
            } else {
                theirs
            };
            assert_eq!(home.trim(), ours, "{project} {image_home} {user}");
            assert!(!artifacts.join("../../home").exists());
            let caches = fs::read_to_string(artifacts.join("caches")).unwrap();
            let npm = if image_home.is_empty() {
                "/data/cache/npm"
            } else {
                ""
            };
            let yarn = "/data/cache/yarn /data/cache/bundler";
            assert_eq!(caches.trim(), format!("/data/cache {npm} {yarn}"));
            assert!(artifacts.join("../cache/yarn/made").is_dir());
        }
    }
}

#[test]
fn what_an_author_mounts_over_the_home_directory_or_in_it_stays() {
    let script = "
        /bin/busybox cat \"$HOME/.config/deep/file\" \"$HOME/one\" > artifacts/read
        echo x > \"$HOME/.config/own\"; echo x > \"$HOME/own\"";
    let daemon = Setup::on(Place::Host).script("mounts", script).start();
    let (deep, one) = (daemon.home().join("deep"), daemon.home().join("one"));
    fs::create_dir(&deep).unwrap();
    fs::write(deep.join("file"), "deep ").unwrap();
    fs::write(&one, "one").unwrap();
    let mounts = json!({
        (deep.to_str().unwrap()): "/mistry/home/.config/deep",
        (one.to_str().unwrap()): "/mistry/home/one",
    });
    settings(
        &daemon,
        "mounts",
        json!({"user": "1000:1000", "mounts": mounts}),
    );
    let info = daemon.succeed(json!({"project": "mounts"}));
    let read = fs::read_to_string(artifacts(&daemon, &info).join("read")).unwrap();
    assert_eq!(read, "deep one");
    assert_eq!(
        (names(&deep), fs::read_to_string(&one).unwrap()),
        (vec!["file".to_owned()], "one".to_owned())
    );
    let over = daemon.home().join("over");
    fs::create_dir_all(over.join(".config/deep")).unwrap();
    fs::write(over.join(".config/deep/file"), "over ").unwrap();
    fs::write(over.join("one"), "").unwrap();
    let mounts = json!({(over.to_str().unwrap()): "/mistry/home"});
    settings(&daemon, "mounts", json!({"user": "0:0", "mounts": mounts}));
    let info = daemon.succeed(json!({"project": "mounts"}));
    let read = fs::read_to_string(artifacts(&daemon, &info).join("read")).unwrap();
    assert_eq!(read, "over ");
    assert!(over.join("own").exists());
}

/// Files below a directory that hold a text.
fn holding(directory: &Path, text: &str) -> Vec<String> {
    let found = Command::new("grep")
        .args(["-rl", text])
        .arg(directory)
        .output()
        .unwrap();
    let found = String::from_utf8_lossy(&found.stdout).into_owned();
    found.lines().map(str::to_owned).collect()
}

#[test]
fn a_token_in_the_home_directory_is_nowhere_afterwards() {
    const TOKEN: &str = "secret-4711-token";
    // No file of the project holds the token itself.
    let write = "
        /bin/busybox mkdir -p \"$HOME/closed/deep\"
        printf '%s-%s-token' secret 4711 > \"$HOME/.npmrc\"
        /bin/busybox cp \"$HOME/.npmrc\" \"$HOME/closed/deep/.netrc\"
        /bin/busybox chmod 0 \"$HOME/closed\"; /bin/busybox chmod 0 \"$HOME\"";
    let held = format!(
        "{write}\n/bin/busybox mkfifo gate; echo waiting; read -r code < gate || :; /bin/busybox rm gate"
    );
    let failing = format!("{write}\nexit 3");
    let setup = Setup::on(Place::Host)
        .script("writes", write)
        .script("held", &held);
    let mut daemon = setup.script("fails", &failing).start();
    for (project, user) in [
        ("writes", "1000:1000"),
        ("fails", "1000:1000"),
        ("held", "1000:1000"),
    ] {
        settings(&daemon, project, json!({"user": user}));
    }
    daemon.succeed(json!({"project": "writes"}));
    daemon.succeed(json!({"project": "writes", "group": "g"}));
    daemon.succeed(json!({"project": "writes", "group": "g", "params": {"again": "1"}}));
    let failed = daemon.build(json!({"project": "fails", "group": "g"}));
    assert_eq!(failed["ExitCode"], 3);
    // Killed in the middle, and when the build's end was being written down.
    let id = daemon.submit(json!({"project": "held", "group": "g"}));
    daemon.until("held", &id, "waiting");
    assert_eq!(holding(&daemon.builds(), TOKEN).len(), 2);
    daemon.kill();
    daemon.start();
    daemon.release("held", &id);
    assert_eq!(daemon.wait("held", &id)["Outcome"], "succeeded");
    daemon.kill();
    for fault in ["params-removed=kill", "finish-record=kill"] {
        daemon.start_at("127.0.0.1:0", fault);
        let id = daemon.submit(json!({"project": "writes", "params": {"fault": fault}}));
        let process = daemon.watch();
        let events = rustix::event::PollFlags::IN;
        let mut ends = [rustix::event::PollFd::new(&process, events)];
        rustix::event::poll(&mut ends, None).unwrap();
        daemon.end_somehow();
        daemon.start();
        assert_eq!(daemon.wait("writes", &id)["Outcome"], "succeeded");
        // A stop waits until the container is cleared away.
        daemon.end();
    }
    assert_eq!(holding(&daemon.builds(), TOKEN), [""; 0]);
    let left = Engine::new().containers(&daemon.label());
    assert!(left.is_empty(), "{left:?}");
}
