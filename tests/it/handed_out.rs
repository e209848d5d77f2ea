//! A descriptor of a build's artifacts for another process: it leads to them and to nothing else.
//!
//! These tests need a kernel that lets the user who runs them make namespaces. Where it does not, they fail
//! and say so, as the daemon does.

use std::{
    fs::{self, File},
    io::Read,
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::fs::{MetadataExt, symlink},
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use mistry::{
    budget::Client,
    filesystem::{self, Filesystem, hand_out},
    job::JobId,
    project::ProjectName,
    scheduler::Error,
};
use rustix::{
    fs::{
        AtFlags, Dir, Mode, OFlags, StatVfsMountFlags, fchmod, fstat, fstatvfs, ftruncate, linkat,
        mkdirat, openat, renameat, statat, symlinkat, unlinkat,
    },
    io::Errno,
    mount::{OpenTreeFlags, open_tree},
};
use serde_json::{Value, json};

use crate::support::{
    daemon::{TestDaemon, job, names, text},
    http::within,
};

const MISTRYD: &str = env!("CARGO_BIN_EXE_mistryd");

/// What a hostile build leaves, and what lies beside it.
struct Left {
    home: tempfile::TempDir,
}

impl Left {
    fn new() -> Left {
        let home = tempfile::tempdir().unwrap();
        let left = Left { home };
        let artifacts = left.artifacts();
        fs::create_dir_all(artifacts.join("deep/er")).unwrap();
        fs::write(artifacts.join("file"), "made").unwrap();
        fs::write(artifacts.join("deep/er/file"), "deeper").unwrap();
        for outside in ["build_info.json", "data/secret"] {
            fs::write(left.path(outside), "not for you").unwrap();
        }
        for (name, target) in [
            ("host", "/etc/passwd"),
            ("info", "../../build_info.json"),
            ("near", "file"),
            ("root", "/"),
            ("up", ".."),
            ("here", "deep"),
            ("proc", "/proc/self/root"),
        ] {
            symlink(target, artifacts.join(name)).unwrap();
        }
        left
    }

    fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    fn artifacts(&self) -> PathBuf {
        self.path("data/artifacts")
    }

    fn try_hand_out(&self, program: &str) -> Result<OwnedFd, filesystem::Error> {
        let artifacts = self.artifacts();
        let directory = File::open(&artifacts).unwrap();
        hand_out(Path::new(program), directory.as_fd(), &artifacts)
    }

    fn hand_out(&self) -> OwnedFd {
        unwrap_with_causes(self.try_hand_out(MISTRYD))
    }

    /// A program in the place of `mistryd`.
    fn program(&self, script: &str) -> String {
        let path = self.path("program");
        // Not by this process: a file that is open for writing cannot be executed.
        let written = Command::new("/bin/sh")
            .args([
                "-c",
                r#"printf '#!/bin/sh\n%s\n' "$1" > "$0" && chmod 700 "$0""#,
            ])
            .arg(&path)
            .arg(script)
            .status();
        assert!(written.unwrap().success());
        path.to_str().unwrap().to_owned()
    }
}

/// The value; panics with all causes of an error.
fn unwrap_with_causes<T, E: std::error::Error>(result: Result<T, E>) -> T {
    match result {
        Ok(found) => found,
        Err(error) => panic!("{}", causes(&error)),
    }
}

fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

fn open(at: impl AsFd, path: &str) -> Result<OwnedFd, Errno> {
    openat(at, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
}

fn read(at: impl AsFd, path: &str) -> String {
    let mut content = String::new();
    let mut file = File::from(open(at, path).unwrap());
    file.read_to_string(&mut content).unwrap();
    content
}

fn listed(directory: impl AsFd) -> Vec<String> {
    let entries = Dir::read_from(directory).unwrap();
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap().file_name().to_str().unwrap().to_owned())
        .filter(|name| name != "." && name != "..")
        .collect();
    names.sort();
    names
}

fn identity(stat: &rustix::fs::Stat) -> (u64, u64) {
    (stat.st_dev, stat.st_ino)
}

#[test]
fn what_was_built_is_listed_and_read() {
    let left = Left::new();
    let handed = left.hand_out();
    let expected = fs::metadata(left.artifacts()).unwrap();
    let found = identity(&fstat(&handed).unwrap());
    assert_eq!(found, (expected.dev(), expected.ino()));
    assert_eq!(listed(&handed), names(&left.artifacts()));
    assert_eq!(read(&handed, "file"), "made");
    assert_eq!(read(&handed, "deep/er/file"), "deeper");
    let deep = open(&handed, "deep").unwrap();
    assert_eq!(listed(&deep), ["er"]);
    // A receiver may change into it.
    let there = format!("/proc/self/fd/{}", handed.as_raw_fd());
    assert_eq!(fs::read(format!("{there}/file")).unwrap(), b"made");
}

#[test]
fn no_path_leads_above_it() {
    let left = Left::new();
    let handed = left.hand_out();
    let root = identity(&fstat(&handed).unwrap());
    for path in ["..", "../..", "deep/../..", "deep/er/../../../../.."] {
        let found = open(&handed, path).unwrap();
        assert_eq!(identity(&fstat(&found).unwrap()), root, "{path}");
        assert_eq!(
            identity(&statat(&handed, path, AtFlags::empty()).unwrap()),
            root
        );
    }
    for path in ["../secret", "../../build_info.json", "../artifacts/file"] {
        assert_eq!(open(&handed, path).unwrap_err(), Errno::NOENT, "{path}");
    }
    let there = format!("/proc/self/fd/{}", handed.as_raw_fd());
    assert!(fs::metadata(format!("{there}/../secret")).is_err());
}

#[test]
fn links_that_a_build_planted_are_not_followed() {
    let left = Left::new();
    let handed = left.hand_out();
    for path in [
        "host",
        "info",
        "near",
        "root",
        "up",
        "here",
        "proc",
        "root/etc/passwd",
        "up/secret",
        "here/er/file",
        "proc/etc/passwd",
    ] {
        assert_eq!(open(&handed, path).unwrap_err(), Errno::LOOP, "{path}");
        let found = statat(&handed, path, AtFlags::empty());
        assert_eq!(found.unwrap_err(), Errno::LOOP, "{path}");
        let there = format!("/proc/self/fd/{}/{path}", handed.as_raw_fd());
        assert!(fs::read(there).is_err(), "{path}");
    }
    // Their content is what was built.
    let target = rustix::fs::readlinkat(&handed, "host", Vec::new()).unwrap();
    assert_eq!(target.as_c_str(), c"/etc/passwd");
}

#[test]
fn nothing_can_be_changed_through_it() {
    let left = Left::new();
    let handed = left.hand_out();
    let write = |path, flags| openat(&handed, path, flags, Mode::RWXU).map(drop);
    let file = open(&handed, "file").unwrap();
    let again = |file: &OwnedFd| {
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        rustix::fs::open(path, OFlags::RDWR, Mode::empty()).map(drop)
    };
    let near = left.path("near");
    let beside = File::open(left.home.path()).unwrap();
    let before = fs::metadata(left.artifacts().join("file")).unwrap();
    for (what, result) in [
        ("write", write("file", OFlags::WRONLY)),
        ("append", write("file", OFlags::RDWR | OFlags::APPEND)),
        ("truncate", write("file", OFlags::RDONLY | OFlags::TRUNC)),
        ("create", write("new", OFlags::WRONLY | OFlags::CREATE)),
        (
            "create deep",
            write("deep/new", OFlags::WRONLY | OFlags::CREATE),
        ),
        ("unnamed", write("deep", OFlags::WRONLY | OFlags::TMPFILE)),
        ("open again", again(&file)),
        ("mkdir", mkdirat(&handed, "new", Mode::RWXU)),
        ("symlink", symlinkat("x", &handed, "new")),
        ("unlink", unlinkat(&handed, "file", AtFlags::empty())),
        ("rmdir", unlinkat(&handed, "deep/er", AtFlags::REMOVEDIR)),
        ("rename", renameat(&handed, "file", &handed, "new")),
        ("chmod", fchmod(&handed, Mode::RWXU)),
        ("chmod a file", fchmod(&file, Mode::RWXU)),
    ] {
        assert_eq!(result, Err(Errno::ROFS), "{what}");
    }
    // It is open for reading only, whatever the mount is.
    assert_eq!(ftruncate(&file, 0), Err(Errno::INVAL));
    // Another mount, as the kernel sees it: a name outside would be a way to write to the file.
    let linked = linkat(&handed, "file", &beside, "near", AtFlags::empty());
    assert_eq!(linked, Err(Errno::XDEV));
    assert!(!near.exists());
    let after = fs::metadata(left.artifacts().join("file")).unwrap();
    assert_eq!(before.ctime_nsec(), after.ctime_nsec());
    assert_eq!(names(&left.artifacts()).len(), 9);
}

#[test]
fn programs_devices_and_set_uid_bits_have_no_effect_in_it() {
    let left = Left::new();
    let program = left.artifacts().join("program");
    let script = left.program("exit 0");
    fs::rename(script, &program).unwrap();
    assert!(Command::new(&program).status().unwrap().success());
    let handed = left.hand_out();
    let there = format!("/proc/self/fd/{}/program", handed.as_raw_fd());
    let error = Command::new(there).status().unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::PermissionDenied);
    let flags = fstatvfs(&handed).unwrap().f_flag;
    assert!(flags.contains(StatVfsMountFlags::NODEV | StatVfsMountFlags::NOSUID));
}

/// Also not by root, which could remove the flags.
#[test]
fn it_cannot_be_mounted_anywhere_else() {
    let left = Left::new();
    let handed = left.hand_out();
    let clone = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::AT_EMPTY_PATH;
    let error = open_tree(&handed, c"", clone).unwrap_err();
    assert!(matches!(error, Errno::INVAL | Errno::PERM), "{error}");
    let path = format!("/proc/self/fd/{}", handed.as_raw_fd());
    let flags = rustix::mount::MountFlags::BIND;
    let error = rustix::mount::mount_remount(path, flags, c"").unwrap_err();
    assert!(matches!(error, Errno::INVAL | Errno::PERM), "{error}");
}

#[test]
fn the_build_may_be_removed_while_its_directory_is_held() {
    let left = Left::new();
    let handed = left.hand_out();
    let file = open(&handed, "file").unwrap();
    let trash = left.path("trash");
    fs::rename(left.path("data"), &trash).unwrap();
    assert_eq!(read(&handed, "file"), "made");
    assert!(Filesystem::Plain.remove(&trash).unwrap());
    assert!(!trash.exists());
    assert_eq!(open(&handed, "file").unwrap_err(), Errno::NOENT);
    assert_eq!(listed(&handed), [""; 0]);
    let mut content = String::new();
    File::from(file).read_to_string(&mut content).unwrap();
    assert_eq!(content, "made");
}

#[test]
fn no_mount_and_no_child_stays_behind() {
    let left = Left::new();
    let handed = left.hand_out();
    // No open file lies in the build path.
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let home = left.home.path().to_str().unwrap();
    assert!(!mounts.contains(home), "{mounts}");
    assert_eq!(read(&handed, "file"), "made");
    // A zombie would be among them. Other tests have children like it for some milliseconds each, so
    // it is only this thread's that count.
    let children = fs::read_to_string("/proc/thread-self/children").unwrap();
    assert_eq!(children, "");
}

#[test]
fn another_directory_than_the_one_asked_for_is_refused() {
    let left = Left::new();
    let elsewhere = left.path("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    let elsewhere = elsewhere.display();
    let program = left.program(&format!("cd '{elsewhere}' && exec '{MISTRYD}' confine"));
    let error = left.try_hand_out(&program).unwrap_err();
    assert!(
        matches!(error, filesystem::Error::HandOut { .. }),
        "{error:?}"
    );
    assert!(
        causes(&error).ends_with("another directory came back"),
        "{}",
        causes(&error)
    );
}

#[test]
fn a_child_that_fails_or_is_not_there_is_an_error_and_nothing_is_handed_out() {
    let left = Left::new();
    for script in ["exit 0", "kill -9 $$", "echo nonsense >&0"] {
        let program = left.program(script);
        let error = left.try_hand_out(&program).unwrap_err();
        assert!(
            matches!(error, filesystem::Error::HandOut { .. }),
            "{script}: {error:?}"
        );
    }
    let error = left.try_hand_out("/nowhere/mistryd").unwrap_err();
    assert!(
        matches!(error, filesystem::Error::HandOut { .. }),
        "{error:?}"
    );
}

#[test]
fn a_kernel_that_refuses_namespaces_has_an_error_of_its_own() {
    let left = Left::new();
    // In a namespace that may have no further ones, and has no superuser.
    let script = format!(
        "exec unshare --user --map-root-user sh -c \
         'echo 0 > /proc/sys/user/max_user_namespaces && exec setpriv --bounding-set -all \
         --inh-caps -all --no-new-privs {MISTRYD} confine'"
    );
    let program = left.program(&format!("PATH=/usr/sbin:/usr/bin:/sbin:/bin\n{script}"));
    let error = left.try_hand_out(&program).unwrap_err();
    assert!(
        matches!(error, filesystem::Error::Confine { .. }),
        "{}",
        causes(&error)
    );
    assert!(
        causes(&error).contains("could not make namespaces"),
        "{}",
        causes(&error)
    );
}

#[test]
fn confine_started_by_hand_does_nothing_and_says_what_it_is_for() {
    let mut command = Command::new(MISTRYD);
    let output = command
        .arg("confine")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(stderr, "mistryd: confine is what mistryd does for itself\n");
    assert!(output.stdout.is_empty());
}

fn names_of(info: &Value) -> (ProjectName, JobId) {
    let (project, id) = (text(info, "Project"), text(info, "ID"));
    (project.parse().unwrap(), id.parse().unwrap())
}

#[tokio::test]
async fn the_scheduler_hands_out_what_a_build_left() {
    let script = "echo made > $D/artifacts/made\nln -s ../../build_info.json $D/artifacts/info";
    let daemon = TestDaemon::builder()
        .await
        .script("p", script)
        .start()
        .await;
    let reader = daemon.scheduler().reader(Client::Local);
    let info = daemon.build(job("p")).await;
    let (project, id) = names_of(&info);
    let handed = unwrap_with_causes(reader.hand_out_artifacts(&project, id).await);
    assert_eq!(listed(&handed), ["info", "made"]);
    assert_eq!(read(&handed, "made"), "made\n");
    assert_eq!(open(&handed, "info").unwrap_err(), Errno::LOOP);
    // It is no lease: a build that is replaced is removed although the directory is open.
    let again = daemon.build(json!({"project": "p", "rebuild": true})).await;
    assert_eq!(names_of(&again).1, id);
    within("the end of the old build", async {
        while open(&handed, "made").is_ok() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let handed = unwrap_with_causes(reader.hand_out_artifacts(&project, id).await);
    assert_eq!(read(&handed, "made"), "made\n");
}

#[tokio::test]
async fn artifacts_that_are_not_there_are_an_error() {
    let script = "echo made > $D/artifacts/made";
    let daemon = TestDaemon::builder().await.script("p", script);
    let daemon = daemon.start().await;
    let reader = daemon.scheduler().reader(Client::Local);
    let artifacts = async |project: &ProjectName, id| {
        let handed = reader.hand_out_artifacts(project, id);
        handed.await.unwrap_err()
    };

    let never: JobId = "0".repeat(64).parse().unwrap();
    let error = artifacts(&"p".parse().unwrap(), never).await;
    assert!(matches!(error, Error::UnknownJob(..)), "{error}");

    daemon.home.engine.hold("start");
    let id = daemon.submit(job("p")).await.parse().unwrap();
    let error = artifacts(&"p".parse().unwrap(), id).await;
    let sentence = format!(
        "there are no artifacts of job '{id}' of project 'p': it is not over, was not built to its \
         end, left none, or they were removed"
    );
    assert_eq!(error.to_string(), sentence);
    daemon.home.engine.release("start");
    let built = daemon.wait("p", &id.to_string()).await;
    let (project, id) = names_of(&built);
    unwrap_with_causes(reader.hand_out_artifacts(&project, id).await);

    // Also when a link or a file is in their place.
    let data = daemon
        .home
        .build("p", "ready", &id.to_string())
        .join("data");
    fs::remove_dir_all(data.join("artifacts")).unwrap();
    let error = artifacts(&project, id).await;
    assert!(matches!(error, Error::NoArtifacts(..)), "{error}");
    symlink("/etc", data.join("artifacts")).unwrap();
    let error = artifacts(&project, id).await;
    assert!(matches!(error, Error::NoArtifacts(..)), "{error}");
}
