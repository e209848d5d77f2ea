//! Builds that try not to end: whatever one does to its data, it ends, no secret of ours stays on disk,
//! its group goes on, and it can be removed.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::support::daemon::{Daemon, Setup};
use crate::support::engine::socket;
use crate::support::http::ask;
use crate::support::{Place, names};

/// The user `nobody`, on every Debian.
const USER: u32 = 65534;
const SECRET: &str = "hunter2-is-nowhere-on-this-disk";

/// What builds do to their data in the end. They run as the daemon's user.
const DEEDS: [&str; 14] = [
    "chmod -R a-w /data",
    "chmod 000 /data",
    "chmod 000 params",
    "chmod 000 params/_token; chmod 555 params",
    "mv params cache/elsewhere; chmod 000 cache/elsewhere",
    "mv params/_token artifacts/mine; ln artifacts/mine cache/mine; chmod 000 cache/mine",
    "chmod 000 cache; chmod 111 artifacts; chmod 444 .",
    "mkdir -p x; cp params/_token x/copy; rm params/_token; mkdir params/_token; mv x/copy params/_token/; chmod 000 params/_token params",
    "rm -r params; ln -s /etc params",
    "rm -r params; echo mine > params; chmod 000 params; chmod 555 .",
    "rm -r artifacts cache; ln -s /etc artifacts; ln -s ../../.. cache; chmod 555 .",
    "rm -r artifacts; mkfifo artifacts; chmod 000 .",
    "[ ! -e cache/a ] || exit 0; mkdir -p cache/a/b; echo x > cache/a/b/c; chmod 000 cache/a/b/c cache/a/b cache/a; chmod 000 artifacts/* artifacts",
    "rm -r artifacts cache params; chmod 000 .",
];

fn unprivileged(place: Place) -> Setup {
    let group = fs::metadata(socket()).unwrap().gid();
    Setup::on(place).user(USER, group)
}

/// Does as its param `how` says.
const VANDAL: &str = r#"
    how=$(cat params/how)
    n=$(cat params/n)
    [ "$(cat params/_token)" ] || exit 9
    echo "made $n" > "artifacts/made-$n"
    echo "kept $n" > "cache/kept-$n"
    # What a base brought along.
    [ ! -e cache/elsewhere ] || chmod 700 cache/elsewhere
    rm -rf cache/elsewhere
    rm -f artifacts/mine cache/mine
    eval "$how""#;

fn job(project: &str, how: &str, n: u32, group: &str) -> Value {
    let params = json!({"how": how, "n": n.to_string(), "_token": SECRET});
    json!({"project": project, "group": group, "params": params})
}

/// Every file below `root` that holds the secret.
fn leaks(root: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut pending = vec![root.to_owned()];
    while let Some(directory) = pending.pop() {
        for entry in fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            let facts = fs::symlink_metadata(&path).unwrap();
            if facts.is_dir() {
                pending.push(path);
            } else if facts.is_file() {
                let mut content = Vec::new();
                File::open(&path)
                    .unwrap()
                    .read_to_end(&mut content)
                    .unwrap();
                if String::from_utf8_lossy(&content).contains(SECRET) {
                    found.push(path.display().to_string());
                }
            }
        }
    }
    found
}

#[track_caller]
fn remove(daemon: &Daemon, project: &str, id: &str) {
    let address = format!("/job/{project}/{id}");
    let headers = [("content-type", "application/json")];
    let answer = ask(daemon.address(), "DELETE", &address, &headers, b"");
    assert_eq!(answer.status, 204, "{}\n{}", answer.text(), daemon.log());
    assert!(!daemon.ready(project, id).exists());
}

fn builds_end_and_leave_no_secret(setup: Setup, deeds: &[&str]) {
    let mut daemon = setup.script("vandal", VANDAL).start();
    for (at, how) in deeds.iter().enumerate() {
        let without = daemon.succeed(job("vandal", how, 0, ""));
        let group = format!("g{at}");
        let first = daemon.succeed(job("vandal", how, 1, &group));
        let second = daemon.succeed(job("vandal", how, 2, &group));
        assert_eq!(second["Incremental"], true, "{how}");
        assert_eq!(leaks(&daemon.builds()), Vec::<String>::new(), "{how}");
        for info in [&without, &second] {
            let address = format!("/artifacts/vandal/{}", info["ID"].as_str().unwrap());
            let got = ask(daemon.address(), "GET", &address, &[], b"");
            assert_eq!(got.status, 200, "{how}: {}", got.text());
        }
        remove(&daemon, "vandal", first["ID"].as_str().unwrap());
    }
    assert!(names(&daemon.builds().join("vandal/pending")).is_empty());
    daemon.end();
    assert!(names(&daemon.builds().join(".mistry/trash")).is_empty());
}

#[test]
fn a_daemon_without_capabilities_finishes_whatever_its_builds_do_to_their_data() {
    builds_end_and_leave_no_secret(unprivileged(Place::Host), &DEEDS);
}

#[test]
fn a_daemon_without_capabilities_finishes_on_btrfs_whatever_its_builds_do_to_their_data() {
    // A snapshot has the modes of its base at once; a few of them are enough.
    builds_end_and_leave_no_secret(unprivileged(Place::Btrfs), &DEEDS[..5]);
}

/// A build that waits until its test has done something to its data from outside.
const WAITING: &str = r#"
    rm -f gate; mkfifo gate
    echo "made $(cat params/n)" > artifacts/made
    mkdir -p cache/inner
    echo at the gate
    read -r word < gate || :"#;

fn a_read_only_subvolume_is_finished(setup: Setup) {
    let mut daemon = setup.script("waiting", WAITING).start();
    for n in 1..3 {
        let id = daemon.submit(job("waiting", "", n, "g"));
        daemon.until("waiting", &id, "at the gate");
        let data = daemon.pending("waiting", &id).join("data");
        let btrfs = |arguments: &[&str], path: &Path| {
            let done = Command::new("btrfs")
                .args(arguments)
                .arg(path)
                .output()
                .unwrap();
            assert!(done.status.success(), "{done:?}");
        };
        if n == 1 {
            let nested = data.join("cache/nested");
            btrfs(&["-q", "subvolume", "create"], &nested);
            fs::write(nested.join("file"), "nested").unwrap();
            let user = fs::metadata(&data).unwrap();
            std::os::unix::fs::chown(&nested, Some(user.uid()), Some(user.gid())).unwrap();
            std::os::unix::fs::chown(nested.join("file"), Some(user.uid()), Some(user.gid()))
                .unwrap();
            read_only(&nested);
        }
        read_only(&data);
        daemon.release("waiting", &id);
        let info = daemon.wait("waiting", &id);
        assert_eq!(info["Outcome"], "succeeded", "{info:#}\n{}", daemon.log());
        assert_eq!(info["Incremental"], n > 1);
        assert_eq!(leaks(&daemon.builds()), Vec::<String>::new());
        let nested = daemon.ready("waiting", &id).join("data/cache/nested/file");
        assert_eq!(fs::read_to_string(nested).unwrap(), "nested");
        if n > 1 {
            for other in names(&daemon.builds().join("waiting/ready")) {
                if other != id {
                    remove(&daemon, "waiting", &other);
                }
            }
        }
    }
    daemon.end();
    assert!(names(&daemon.builds().join(".mistry/trash")).is_empty());
}

fn read_only(subvolume: &Path) {
    let mut btrfs = Command::new("btrfs");
    let done = btrfs
        .args(["property", "set"])
        .arg(subvolume)
        .args(["ro", "true"])
        .output();
    assert!(done.unwrap().status.success());
}

#[test]
fn a_build_that_makes_its_subvolume_read_only_is_finished_and_its_group_goes_on() {
    a_read_only_subvolume_is_finished(Setup::on(Place::Btrfs));
}

#[test]
fn a_daemon_without_capabilities_finishes_a_build_that_makes_its_subvolume_read_only() {
    a_read_only_subvolume_is_finished(unprivileged(Place::Btrfs));
}

#[test]
fn a_build_of_very_many_files_ends_is_built_upon_and_is_removed() {
    let count = match std::env::var_os("MISTRY_SOAK") {
        Some(_) => 1_000_000,
        None => 100_000,
    };
    let script = format!(
        "cat params/n > artifacts/n
        [ ! -e cache/many ] || exit 0
        mkdir cache/many; cd cache/many; seq {count} | xargs touch; chmod 000 .; cd ..; chmod 000 ."
    );
    let mut daemon = unprivileged(Place::Btrfs).script("many", &script).start();
    let first = daemon.succeed(job("many", "", 1, "g"));
    let second = daemon.succeed(job("many", "", 2, "g"));
    assert_eq!(second["Incremental"], true);
    let many = daemon.ready("many", second["ID"].as_str().unwrap());
    assert_eq!(names(&many.join("data/cache/many")).len(), count);
    remove(&daemon, "many", first["ID"].as_str().unwrap());
    daemon.end();
    assert!(names(&daemon.builds().join(".mistry/trash")).is_empty());
}

/// Root in the container may leave what the daemon can neither write into nor remove.
#[test]
fn data_that_cannot_be_put_in_order_ends_its_build_as_errored_and_is_not_tried_at_each_start() {
    let script = format!("{VANDAL}\n    chown 0:0 . params params/_token; chmod 700 . params");
    let setup = unprivileged(Place::Host).script("foreign", &script);
    let settings = setup.home().join("projects/foreign/mistry.json");
    fs::write(settings, r#"{"user": "0:0"}"#).unwrap();
    let mut daemon = setup.start();
    let answer = daemon.post("/jobs", &job("foreign", "true", 1, "g"));
    assert_eq!(answer.status, 500, "{}", answer.text());
    let sentence = answer.json()["error"].as_str().unwrap().to_owned();
    assert_eq!(sentence, "could not remove the build's opaque params");
    let id = answer.json()["job"].as_str().unwrap().to_owned();
    for _ in 0..2 {
        let info = daemon.wait("foreign", &id);
        assert_eq!(
            (&info["State"], &info["Outcome"]),
            (&json!("ready"), &json!("errored"))
        );
        assert_eq!(info["Err"], json!(sentence));
        assert_eq!(leaks(&daemon.builds()), Vec::<String>::new());
        assert!(names(&daemon.builds().join("foreign/pending")).is_empty());
        daemon.end();
        daemon.start();
    }
    // What cannot be removed is not said to be removed.
    let address = format!("/job/foreign/{id}");
    let headers = [("content-type", "application/json")];
    let answer = ask(daemon.address(), "DELETE", &address, &headers, b"");
    assert_eq!(answer.status, 500, "{}", answer.text());
}

#[test]
fn an_obstacle_to_a_removal_is_reported_and_the_removal_is_retried() {
    let daemon = Setup::on(Place::Ext4).script("held", VANDAL).start();
    let first = daemon.succeed(job("held", "true", 1, "g"));
    daemon.succeed(job("held", "true", 2, "g"));
    let id = first["ID"].as_str().unwrap();
    let place = daemon.ready("held", id).join("data/cache");
    let mount = Command::new("mount")
        .args(["-t", "tmpfs", "none"])
        .arg(&place)
        .status();
    assert!(mount.unwrap().success());
    let headers = [("content-type", "application/json")];
    let address = format!("/job/held/{id}");
    let removed = ask(daemon.address(), "DELETE", &address, &headers, b"");
    let trash = daemon.builds().join(".mistry/trash");
    let left = names(&trash);
    let unmounted = left.iter().all(|name| {
        let cache = trash.join(name).join("data/cache");
        Command::new("umount")
            .arg(cache)
            .status()
            .unwrap()
            .success()
    });
    assert!(unmounted && left.len() == 1, "{left:?}");
    assert_eq!(removed.status, 500, "{}", removed.text());
    let collected = daemon.post("/gc", &json!({"min_free": "1K"}));
    assert_eq!(collected.status, 200, "{}", collected.text());
    assert!(names(&trash).is_empty());
}
