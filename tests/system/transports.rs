//! Four transports fetch the same tree: http, rsync, scp and local.
//!
//! What exactly arrives is compared in `oracle::transports`.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use serde_json::json;

use crate::support::daemon::{Daemon, Setup};
use crate::support::servers::{self, Server};
use crate::support::{Home, Place, tree};

const TREE: &str = "
    cd artifacts
    mkdir -p deep/er .hidden-directory empty
    echo plain > plain
    echo hidden > .hidden
    echo within > .hidden-directory/file
    echo below > deep/er/below
    printf '#!/bin/sh\\n' > deep/program && chmod 755 deep/program
    ln -s ../plain deep/link
    echo strange > \"a 'strange' name\"
    touch -d '2001-02-03 04:05:06' plain";

/// What each transport fetches, `.stale` being what was in the target before.
const KEPT: [&str; 13] = [
    ".hidden - \"hidden\\n\"",
    ".hidden-directory/",
    ".hidden-directory/file - \"within\\n\"",
    "a 'strange' name - \"strange\\n\"",
    "deep/",
    "deep/er/",
    "deep/er/below - \"below\\n\"",
    "deep/link -> ../plain",
    "deep/program x \"#!/bin/sh\\n\"",
    "empty/",
    "link-to-directory -> deep",
    "plain - \"plain\\n\"",
    // Sorted behind the others where it is.
    ".stale - \"\"",
];

#[test]
fn http_brings_the_tree() {
    check("http", |_| Vec::new());
}

#[test]
fn local_brings_the_tree() {
    check("local", |_| Vec::new());
}

#[test]
fn rsync_brings_the_tree_from_a_daemon_rooted_at_the_build_path() {
    check("rsync", |daemon| {
        let text = format!(
            "use chroot = no\nuid = 0\ngid = 0\n[mistry]\npath = {}\nread only = yes\n",
            daemon.builds().display()
        );
        vec![servers::rsync(daemon.home(), &text)]
    });
}

#[test]
fn scp_brings_the_tree_with_links_followed() {
    // A link to a directory is left out: scp over SFTP, as it is from OpenSSH 9.0 on, refuses it.
    check("scp", |daemon| vec![servers::ssh(daemon.home())]);
}

fn check(transport: &str, server: impl FnOnce(&Daemon) -> Vec<Server>) {
    let mut script = TREE.to_owned();
    if transport != "scp" {
        script.push_str("\n    ln -s deep link-to-directory");
    }
    let setup = Setup::on(Place::Ext4).script("tree", &script);
    let daemon = setup.script("nothing", "exit 0").start();
    let transports = server(&daemon);
    let build = |project: &str, target: &Path, more: &[&str]| {
        let mut arguments = vec!["build", "--project", project, "--transport", transport];
        arguments.extend(["--target", target.to_str().unwrap()]);
        arguments.extend(
            transports
                .iter()
                .flat_map(|transport| &transport.arguments)
                .map(String::as_str),
        );
        arguments.extend(more);
        let built = daemon.mistry(&arguments);
        let said = String::from_utf8_lossy(&built.stderr).into_owned();
        (built.status.code().unwrap(), said)
    };

    let target = daemon.home().join("made/by the client");
    let (status, said) = build("tree", &target, &[]);
    assert_eq!(status, 0, "{said}\n{}", daemon.log());
    assert_eq!(tree(&target), expected(transport, false));
    if transport != "scp" {
        let times = fs::metadata(target.join("plain"))
            .unwrap()
            .modified()
            .unwrap();
        let times = times.duration_since(std::time::UNIX_EPOCH).unwrap();
        assert_eq!(times.as_secs(), 981_173_106);
    }

    // What was there before stays, unless the target is to be cleared; what has changed is replaced.
    fs::write(target.join(".stale"), "").unwrap();
    fs::write(target.join("plain"), "changed here").unwrap();
    assert_eq!(build("tree", &target, &[]).0, 0);
    assert_eq!(tree(&target), expected(transport, true));
    assert_eq!(build("tree", &target, &["--clear-target"]).0, 0);
    assert_eq!(tree(&target), expected(transport, false));

    let empty = daemon.home().join("empty");
    let (status, said) = build("nothing", &empty, &[]);
    assert_eq!(status, 0, "{said}");
    assert!(tree(&empty).is_empty());
}

fn expected(transport: &str, stale: bool) -> Vec<String> {
    let mut expected: Vec<String> = KEPT.map(str::to_owned).into();
    expected.retain(|line| stale || !line.starts_with(".stale"));
    if transport == "scp" {
        expected.retain(|line| !line.contains(" -> "));
        expected.push("deep/link - \"plain\\n\"".to_owned());
    }
    expected.sort();
    expected
}

#[test]
fn nothing_below_a_target_is_followed_written_through_or_linked_to() {
    let script = "
        cd artifacts
        mkdir -p deep/er
        echo below > deep/er/below
        echo plain > plain && chmod 600 plain && ln plain twin
        echo file > file";
    let daemon = Setup::on(Place::Ext4).script("tree", script).start();
    let text = format!(
        "use chroot = no\nuid = 0\ngid = 0\n[mistry]\npath = {}\nread only = yes\n",
        daemon.builds().display()
    );
    let transports = [
        servers::rsync(daemon.home(), &text),
        servers::ssh(daemon.home()),
    ];
    for transport in ["http", "local", "rsync", "scp"] {
        let place = daemon.home().join(format!("place-{transport}"));
        let (outside, release) = (place.join("outside"), place.join("releases/1"));
        fs::create_dir_all(outside.join("er")).unwrap();
        fs::create_dir_all(release.join(".git")).unwrap();
        // What the build left as well, so that a transport may take it for the same.
        fs::write(outside.join("precious"), "plain\n").unwrap();
        fs::set_permissions(outside.join("precious"), fs::Permissions::from_mode(0o644)).unwrap();
        fs::write(outside.join("file"), "mine").unwrap();
        fs::write(outside.join("er/below"), "mine").unwrap();
        symlink("releases/1", place.join("current")).unwrap();
        symlink("../../outside", release.join("deep")).unwrap();
        symlink("../../outside/file", release.join("file")).unwrap();
        fs::hard_link(outside.join("precious"), release.join("plain")).unwrap();

        let current = place.join("current");
        let mut arguments = vec!["build", "--project", "tree", "--transport", transport];
        arguments.extend(["--target", current.to_str().unwrap()]);
        let more = transports.iter().flat_map(|transport| &transport.arguments);
        arguments.extend(more.map(String::as_str));
        let built = daemon.mistry(&arguments);
        let said = String::from_utf8_lossy(&built.stderr).into_owned();
        assert_eq!(built.status.code(), Some(0), "{transport}: {said}");
        assert_eq!(said.matches("holds .git").count(), 1, "{transport}: {said}");

        let precious = fs::metadata(outside.join("precious")).unwrap();
        assert_eq!(precious.mode() & 0o7777, 0o644, "{transport}");
        assert_eq!(precious.nlink(), 1, "{transport}");
        for name in ["file", "er/below"] {
            let text = fs::read_to_string(outside.join(name)).unwrap();
            assert_eq!(text, "mine", "{transport}: {name}");
        }
        assert!(
            place
                .join("current")
                .symlink_metadata()
                .unwrap()
                .is_symlink()
        );
        for (name, text) in [
            ("deep/er/below", "below\n"),
            ("plain", "plain\n"),
            ("twin", "plain\n"),
            ("file", "file\n"),
        ] {
            let path = release.join(name);
            assert!(path.symlink_metadata().unwrap().is_file(), "{name}");
            assert_eq!(fs::read_to_string(path).unwrap(), text, "{transport}");
        }
        let deep = release.join("deep").symlink_metadata().unwrap();
        assert!(deep.is_dir(), "{transport}");
    }
}

#[test]
fn a_transport_that_fails_ends_with_status_4_and_the_build_stays() {
    let daemon = Setup::on(Place::Ext4).script("tree", TREE).start();
    let built = daemon.succeed(json!({"project": "tree"}));
    // No server listens where one listened a moment ago.
    let closed = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let (port, option) = (closed.to_string(), format!("Port={closed}"));
    let target = daemon.home().join("target");
    let target = target.to_str().unwrap();
    let build = |more: &[&str]| {
        let mut arguments = vec![
            "build",
            "--project",
            "tree",
            "--target",
            target,
            "--transport",
        ];
        arguments.extend(more);
        let built = daemon.mistry(&arguments);
        assert_eq!(built.status.code(), Some(4), "{more:?}: {built:?}");
        let said = String::from_utf8(built.stderr).unwrap();
        assert!(said.contains("could not fetch the artifacts"), "{said}");
    };
    build(&["rsync", "--rsync-port", &port]);
    build(&[
        "scp",
        "--ssh-option",
        &option,
        "--ssh-option",
        "BatchMode=yes",
    ]);
    assert!(tree(Path::new(target)).is_empty());
    // The target cannot be made.
    let file = daemon.home().join("file");
    fs::write(&file, "").unwrap();
    let below = file.join("below");
    let fetched = daemon.mistry(&[
        "build",
        "--project",
        "tree",
        "--target",
        below.to_str().unwrap(),
    ]);
    assert_eq!(fetched.status.code(), Some(4), "{fetched:?}");
    // The artifacts went behind the server's back.
    let data = daemon
        .ready("tree", built["ID"].as_str().unwrap())
        .join("data");
    fs::rename(data.join("artifacts"), data.join("elsewhere")).unwrap();
    build(&["local"]);
}

#[test]
fn a_home_is_removed_with_all_that_is_in_it() {
    let home = Home::on(Place::Btrfs);
    let path = home.path().to_owned();
    fs::create_dir_all(path.join("a/b")).unwrap();
    drop(home);
    assert!(!path.exists());
}
