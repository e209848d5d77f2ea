//! What arrives in a target: any tree, over other trees, of many files, and after an interruption.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use mistry::filesystem::Filesystem;
use rustix::fs::{XattrFlags, inotify};
use serde_json::json;

use super::scene::{Scene, TRANSPORTS, USER, assert_no_temporaries, documented};
use super::trees::{self, Fact, Kind, facts, set_mode};
use crate::support::daemon::{Daemon, Setup};
use crate::support::dice::{Dice, seed};
use crate::support::servers::{self, Server};
use crate::support::{Home, Place, names};

/// As rsync itself sees it: what it would still transfer from the build to the target.
fn rsync_differences(built: &Path, fetched: &Path) -> String {
    let mut command = Command::new("rsync");
    command.args([
        "-rlptHn",
        "--delete",
        "--itemize-changes",
        "--checksum",
        "--",
    ]);
    for path in [built, fetched] {
        command.arg(path.join(""));
    }
    let output = command.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    // The target itself is not among the artifacts.
    stdout
        .lines()
        .filter(|line| !line.ends_with(" ./"))
        .collect()
}

#[test]
fn any_tree_arrives_as_it_was_built_on_any_filesystem_and_over_another_tree() {
    // Blocks are shared with a target on the same Btrfs.
    let scene = Scene::on(Place::Btrfs);
    let elsewhere = [Home::on(Place::Ext4), Home::on(Place::Tmpfs)];
    let homes = [
        scene.daemon.home(),
        elsewhere[0].path(),
        elsewhere[1].path(),
    ];
    let seed = seed();
    let mut dice = Dice::of(seed);
    let rounds = match std::env::var_os("MISTRY_SOAK") {
        Some(_) => 200,
        None => 8,
    };
    for round in 0..rounds {
        scene.fill(|root| trees::make_any(root, &mut dice));
        // Twice into the same target: over what was there before, which must go.
        let home = homes[round / 2 % homes.len()];
        for transport in ["http", "rsync", "local"] {
            let target = home.join(transport);
            if round % 2 == 0 {
                Filesystem::Plain.remove(&target).unwrap();
                fs::create_dir(&target).unwrap();
                // What directories inherit here must not count.
                let everything_to_no_user = acl(USER);
                let name = "system.posix_acl_default";
                rustix::fs::setxattr(&target, name, &everything_to_no_user, XattrFlags::empty())
                    .unwrap();
                set_mode(&target, 0o2775);
            }
            scene.fetch(transport, &target, &["--clear-target"], 0);
            let context = format!("{transport}, round {round}, seed {seed}");
            let (built, fetched) = (facts(&scene.artifacts()), facts(&target));
            for (path, fact) in &built {
                assert_eq!(Some(fact), fetched.get(path), "{path:?}: {context}");
            }
            assert_eq!(built.len(), fetched.len(), "{context}");
            let mode = fs::metadata(&target).unwrap().mode() & 0o7777;
            assert_eq!(mode, 0o2775, "{context}");
            assert_eq!(
                rsync_differences(&scene.artifacts(), &target),
                "",
                "{context}"
            );
        }
    }
}

/// The value of a list of rights, as the kernel keeps it: all to all, and to `user` by number.
fn acl(user: u32) -> Vec<u8> {
    const UNNAMED: u32 = u32::MAX;
    let mut value = 2_u32.to_le_bytes().to_vec();
    // Owner, that user, group, the mask, others.
    for (tag, id) in [
        (0x01, UNNAMED),
        (0x02, user),
        (0x04, UNNAMED),
        (0x10, UNNAMED),
        (0x20, UNNAMED),
    ] {
        value.extend(u16::to_le_bytes(tag));
        value.extend(7_u16.to_le_bytes());
        value.extend(u32::to_le_bytes(id));
    }
    value
}

#[test]
fn what_is_in_the_target_is_replaced_and_never_followed() {
    let scene = Scene::on(Place::Ext4);
    let outside = scene.target("outside", USER);
    fs::write(outside.join("file"), "outside").unwrap();
    chown(outside.join("file"), Some(USER), None).unwrap();
    for transport in TRANSPORTS {
        let target = scene.target(transport, USER);
        scene.fill(|root| {
            for name in ["file", "d/file", "e/file", "f", "read-only"] {
                fs::create_dir_all(root.join(name).parent().unwrap()).unwrap();
                fs::write(root.join(name), "new").unwrap();
            }
        });
        // As the user, whose links these are.
        let prepare = format!(
            "ln -s {0}/file file; ln -s {0} d; ln -s nowhere e; mkdir f; echo old > read-only; chmod 0 read-only",
            outside.display()
        );
        let mut shell = Command::new("sh");
        shell
            .args(["-ec", &prepare])
            .current_dir(&target)
            .uid(USER)
            .gid(USER);
        assert!(shell.status().unwrap().success());
        scene.fetch(transport, &target, &[], USER);
        for name in ["file", "d/file", "e/file", "f", "read-only"] {
            assert_eq!(
                fs::read_to_string(target.join(name)).unwrap(),
                "new",
                "{transport}: {name}"
            );
            assert_eq!(fs::metadata(target.join(name)).unwrap().uid(), USER);
        }
        assert!(target.join("d").symlink_metadata().unwrap().is_dir());
        assert_eq!(names(&outside), ["file"]);
        assert_eq!(fs::read_to_string(outside.join("file")).unwrap(), "outside");

        // Files become directories and directories files: these only where they may be emptied.
        scene.fill(|root| {
            fs::create_dir(root.join("file")).unwrap();
            fs::write(root.join("file/inner"), "new").unwrap();
            fs::write(root.join("d"), "new").unwrap();
        });
        let (status, said) = scene.try_fetch(transport, &target, &[], USER);
        assert_eq!(status, 4, "{transport}: {said}");
        assert_eq!(fs::read_to_string(target.join("d/file")).unwrap(), "new");
        assert_no_temporaries(&target);
        scene.fetch(transport, &target, &["--clear-target"], USER);
        assert_eq!(names(&target), ["d", "file"]);
        // A target of another user, where all may write.
        let shared = scene.target(&format!("shared-{transport}"), 0);
        set_mode(&shared, 0o777);
        let (status, said) = scene.try_fetch(transport, &shared, &[], USER);
        assert_eq!(
            (status, names(&shared).len()),
            (0, 2),
            "{transport}: {said}"
        );
        assert_eq!(fs::metadata(&shared).unwrap().mode() & 0o7777, 0o777);
        assert_eq!(
            fs::read_to_string(target.join("file/inner")).unwrap(),
            "new"
        );
    }
}

#[test]
fn many_files_arrive_by_every_transport() {
    let scene = Scene::on(Place::Ext4);
    let many = if std::env::var_os("MISTRY_SOAK").is_some() {
        100_000
    } else {
        3_000
    };
    scene.fill(|root| {
        for n in 0..many {
            let directory = root.join(format!("{}", n % 7));
            if n < 7 {
                fs::create_dir(&directory).unwrap();
            }
            fs::write(directory.join(format!("{n}")), format!("{n}")).unwrap();
        }
    });
    let built = facts(&scene.artifacts());
    for transport in TRANSPORTS {
        let target = scene.target(transport, USER);
        scene.fetch(transport, &target, &[], USER);
        let fetched = facts(&target);
        assert_eq!(fetched.len(), many + 7, "{transport}");
        let same = |(path, fact): (&PathBuf, &Fact)| fetched[path].kind == fact.kind;
        assert!(built.iter().all(same), "{transport}");
    }
}

#[test]
fn a_fetch_that_is_ended_leaves_no_half_files() {
    let scene = Scene::on(Place::Ext4);
    scene.fill(|root| {
        // It has all its blocks, so that all of it is sent.
        let file = fs::File::create(root.join("large")).unwrap();
        let flags = rustix::fs::FallocateFlags::empty();
        rustix::fs::fallocate(file, flags, 0, 512 << 20).unwrap();
    });
    for transport in ["http", "rsync", "scp"] {
        for signal in [rustix::process::Signal::INT, rustix::process::Signal::TERM] {
            let target = scene.target(&format!("{transport}-{}", signal.as_raw()), USER);
            fs::write(target.join("before"), "").unwrap();
            let watch = inotify::init(inotify::CreateFlags::CLOEXEC).unwrap();
            inotify::add_watch(&watch, &target, inotify::WatchFlags::CREATE).unwrap();
            let mut child = scene
                .command(transport, &target, &[], USER)
                .spawn()
                .unwrap();
            // Until a transfer into the target is under way.
            rustix::io::read(&watch, &mut [0; 4096]).unwrap();
            let process = rustix::process::Pid::from_child(&child);
            rustix::process::kill_process(process, signal).unwrap();
            let status = child.wait().unwrap();
            assert_eq!(status.code(), Some(130), "{transport} {signal:?}");
            assert_eq!(names(&target), ["before"], "{transport} {signal:?}");
        }
    }
}

/// Fetches a path of the documented module with rsync itself; whether it ended well, and the files.
fn rsync_files(daemon: &Daemon, server: &Server, path: &str) -> (bool, Vec<PathBuf>) {
    let into = daemon.home().join("by-hand");
    let _ = fs::remove_dir_all(&into);
    let mut command = Command::new("rsync");
    command.arg("-rl").arg(format!("--port={}", server.port()));
    command.arg(format!("127.0.0.1::mistry/{path}")).arg(&into);
    let output = command.output().unwrap();
    let found = if into.is_dir() {
        facts(&into)
    } else {
        BTreeMap::new()
    };
    let files = found
        .into_iter()
        .filter(|(_, fact)| fact.kind != Kind::Directory);
    (
        output.status.success(),
        files.map(|(path, _)| path).collect(),
    )
}

/// Paths of the module that are no artifacts of a finished build.
fn closed_paths(id: &str) -> Vec<String> {
    let mut paths = [".mistry/", ".mistry/secret", ".mistry/instance"]
        .map(str::to_owned)
        .to_vec();
    for project in ["pending", "data"] {
        for build in [
            format!("ready/{id}"),
            "latest".into(),
            format!("groups/{project}"),
        ] {
            for inside in [
                "data/params/",
                "data/cache/",
                "data/params/p",
                "out.log",
                "build_info.json",
            ] {
                paths.push(format!("{project}/{build}/{inside}"));
            }
        }
    }
    for state in ["pending", "failed"] {
        for inside in [
            "",
            "data/",
            "data/params/",
            "data/params/s3cret",
            "data/artifacts/",
        ] {
            paths.push(format!("pending/{state}/{id}/{inside}"));
        }
    }
    paths
}

#[test]
fn the_documented_rsync_daemon_serves_all_artifacts_and_nothing_else() {
    const ARTIFACTS: [&str; 6] = [
        "a/data/cache/y",
        "a/data/params/z",
        "build_info.json",
        "keep",
        "out.log",
        "pending/x",
    ];
    const PROJECTS: [&str; 7] = [
        "pending", "ready", "data", "groups", "trash", "params", "cache",
    ];
    let mut script = String::from("echo s3cret > cache/kept\n");
    for path in ARTIFACTS {
        let directory = Path::new(path).parent().unwrap().display().to_string();
        script.push_str(&format!(
            "mkdir -p ./artifacts/{directory}\necho {path} > artifacts/{path}\n"
        ));
    }
    let mut setup = Setup::on(Place::Ext4);
    for project in PROJECTS {
        setup = setup.script(project, &script);
    }
    let daemon = setup.start();
    let job =
        |project: &str| json!({"project": project, "group": project, "params": {"p": "s3cret"}});
    let ids: Vec<String> = PROJECTS
        .iter()
        .map(|project| daemon.submit(job(project)))
        .collect();
    let server = servers::rsync(daemon.home(), &documented(&daemon));
    for (project, id) in PROJECTS.iter().zip(&ids) {
        assert_eq!(
            daemon.wait(project, id)["Outcome"],
            "succeeded",
            "{}",
            daemon.log()
        );
        let target = daemon.home().join(project);
        let mut arguments = vec![
            "fetch",
            id,
            "--transport",
            "rsync",
            "--target",
            target.to_str().unwrap(),
        ];
        arguments.extend(server.arguments.iter().map(String::as_str));
        let fetched = daemon.mistry(&arguments);
        assert!(fetched.status.success(), "{fetched:?}");
        let fetched = facts(&target);
        let files = fetched
            .iter()
            .filter(|(_, fact)| fact.kind != Kind::Directory);
        let files: Vec<&str> = files.map(|(path, _)| path.to_str().unwrap()).collect();
        assert_eq!(files, ARTIFACTS);
    }

    // A build that is running, and one whose rebuild failed, as far as a reader can tell.
    let id = &ids[0];
    for state in ["pending", "failed"] {
        for inner in ["artifacts", "params", "cache"] {
            let path = daemon
                .builds()
                .join("pending")
                .join(state)
                .join(id)
                .join("data")
                .join(inner);
            fs::create_dir_all(&path).unwrap();
            fs::write(path.join("s3cret"), "s3cret").unwrap();
        }
    }
    let rsync = |path: &str| rsync_files(&daemon, &server, path);
    // Its group's latest build, by the link that leads to it.
    let (is_served, latest) = rsync("data/groups/data/data/artifacts/");
    assert_eq!((is_served, latest.len()), (true, ARTIFACTS.len()));
    for path in closed_paths(id) {
        assert_eq!(rsync(&path), (false, Vec::new()), "{path}");
    }
    // The whole module is the artifacts of what is ready.
    let (_, all) = rsync("");
    assert_eq!(all.len(), PROJECTS.len() * ARTIFACTS.len(), "{all:?}");
    let is_artifact = |path: &PathBuf| {
        path.iter().nth(1) == Some("ready".as_ref())
            && path.iter().nth(4) == Some("artifacts".as_ref())
    };
    assert!(all.iter().all(is_artifact), "{all:?}");
}
