//! Tools that decide by time, over the builds of a group: GNU make, cargo. What a group's build gives
//! is compared with what the same tool makes of the same files on the host, from nothing.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use crate::support::daemon::{Daemon, Setup};
use crate::support::{Home, Place};

/// Programs of the host are used in containers without an image registry.
const HOST: [&str; 5] = ["/usr", "/bin", "/lib", "/lib64", "/etc/alternatives"];

const MAKEFILE: &str = "\
all: $(OUT)/a.o $(OUT)/b.o
\tcat $^ > $(OUT)/all
$(OUT)/%.o: $(SRC)/%.c
\techo making $*
\tcat $< > $@
";

/// A Dockerfile whose layers are this test's own: one from Docker's cache that another test made would
/// be one of which mistryd knows nothing.
fn own(daemon: &Daemon, dockerfile: &str) -> String {
    let label = format!("\nLABEL {}\n", daemon.mark());
    let lines = dockerfile
        .lines()
        .map(|line| match line.starts_with("FROM ") {
            true => format!("{line}{label}"),
            false => format!("{line}\n"),
        });
    lines.collect()
}

/// A project whose files a test writes, built by a script of the host's shell in /data.
fn project(daemon: &Daemon, dockerfile: &str, script: &str, mounts: &[(&Path, &str)]) -> PathBuf {
    let project = daemon.project("tool");
    fs::create_dir_all(project.join("src")).unwrap();
    fs::write(project.join("Dockerfile"), own(daemon, dockerfile)).unwrap();
    fs::write(
        project.join("run.sh"),
        format!("set -eu\ncd /data\n{script}"),
    )
    .unwrap();
    let mut all = serde_json::Map::new();
    for place in HOST.into_iter().filter(|place| Path::new(place).exists()) {
        all.insert(place.to_owned(), json!(place));
    }
    for (host, inside) in mounts {
        all.insert(host.to_str().unwrap().to_owned(), json!(inside));
    }
    let settings = json!({"mounts": all, "network": "none"});
    fs::write(project.join("mistry.json"), settings.to_string()).unwrap();
    project
}

/// Waits for a new second: the times of files in an image are whole ones.
#[expect(
    clippy::disallowed_methods,
    reason = "the clock itself is what is waited for"
)]
fn next_second() {
    let since = || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let now = since().unwrap();
    let rest = Duration::from_secs(1) - Duration::from_nanos(now.subsec_nanos().into());
    std::thread::sleep(rest + Duration::from_millis(10));
    assert!(since().unwrap().as_secs() > now.as_secs());
}

fn build(daemon: &Daemon, group: &str, n: &mut u32) -> (Value, String) {
    *n += 1;
    let params = json!({"n": n.to_string()});
    let info = daemon.succeed(json!({"project": "tool", "group": group, "params": params}));
    let ready = daemon.ready("tool", info["ID"].as_str().unwrap());
    let log = fs::read_to_string(ready.join("out.log")).unwrap();
    (info, log)
}

fn artifact(daemon: &Daemon, info: &Value) -> String {
    let ready = daemon.ready("tool", info["ID"].as_str().unwrap());
    fs::read_to_string(ready.join("data/artifacts/out")).unwrap()
}

fn made(log: &str) -> Vec<&str> {
    let lines = log.lines();
    lines
        .filter_map(|line| line.strip_prefix("making "))
        .collect()
}

struct Make {
    daemon: Daemon,
    project: PathBuf,
    cold: Home,
    n: u32,
}

impl Make {
    fn new(place: Place) -> Make {
        let daemon = Setup::on(place).start();
        let script = "make -s -f /Makefile SRC=/src OUT=/data/cache\ncp cache/all artifacts/out\n";
        let dockerfile = "FROM scratch\nCOPY run.sh Makefile /\nCOPY src /src\n\
            ENTRYPOINT [\"/bin/sh\", \"/run.sh\"]\n";
        let project = project(&daemon, dockerfile, script, &[]);
        fs::write(project.join("Makefile"), MAKEFILE).unwrap();
        fs::write(project.join("src/b.c"), "b\n").unwrap();
        Make {
            daemon,
            project,
            cold: Home::on(Place::Host),
            n: 0,
        }
    }

    fn edit(&self, text: &str) {
        fs::write(self.project.join("src/a.c"), format!("{text}\n")).unwrap();
    }

    /// A build of the group, which must give what the host's make does; what make made anew.
    #[track_caller]
    fn build(&mut self, group: &str) -> (Value, Vec<String>) {
        let (info, log) = build(&self.daemon, group, &mut self.n);
        let out = self.cold.join(format!("{}", self.n));
        fs::create_dir(&out).unwrap();
        let made_cold = Command::new("make")
            .args(["-s", "-f"])
            .arg(self.project.join("Makefile"))
            .arg(format!("SRC={}", self.project.join("src").display()))
            .arg(format!("OUT={}", out.display()))
            .output()
            .unwrap();
        assert!(made_cold.status.success(), "{made_cold:?}");
        let right = fs::read_to_string(out.join("all")).unwrap();
        assert_eq!(artifact(&self.daemon, &info), right, "{info:#}\n{log}");
        (info, made(&log).into_iter().map(str::to_owned).collect())
    }
}

#[test]
fn make_gives_what_a_cold_run_gives_whatever_the_files_went_through() {
    let mut make = Make::new(Place::Btrfs);
    make.edit("v1");
    assert_eq!(make.build("g").1, ["a", "b"]);
    // Forward: only what was edited is made.
    next_second();
    make.edit("v2");
    let (info, made) = make.build("g");
    assert_eq!(
        (&info["Incremental"], made),
        (&json!(true), vec!["a".to_owned()])
    );
    // Back: the image of the first is found, whose files are older than the second build.
    next_second();
    make.edit("v1");
    let (info, _) = make.build("g");
    assert_eq!(
        info["Incremental"], true,
        "the first build is of the same files: {info:#}"
    );
    // On: incremental again.
    next_second();
    make.edit("v3");
    assert_eq!(make.build("g").1, ["a"]);
    // Restored with its old time, as `cp -p` does.
    make.edit("v2");
    let long_ago = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    let file = File::options()
        .write(true)
        .open(make.project.join("src/a.c"));
    file.unwrap().set_modified(long_ago).unwrap();
    make.build("g");
    // New content with an old time: an unpacked release.
    make.edit("v4");
    let file = File::options()
        .write(true)
        .open(make.project.join("src/a.c"));
    file.unwrap().set_modified(long_ago).unwrap();
    let (info, made) = make.build("g");
    assert_eq!((&info["Incremental"], made.len()), (&json!(false), 2));
    // In the same second as the end of the build before.
    make.edit("v5");
    make.build("g");
    // Over a restart of the daemon, back to what was built in the group long before.
    make.daemon.end();
    make.daemon.start();
    next_second();
    make.edit("v3");
    make.build("g");
    // Touched, but the same.
    next_second();
    make.edit("v3");
    assert_eq!(make.build("g").0["Incremental"], true);
    // With nothing remembered, the right value is made all the same, and then all is as before.
    make.daemon.end();
    fs::remove_dir_all(make.daemon.builds().join(".mistry/images")).unwrap();
    make.daemon.start();
    next_second();
    make.edit("v1");
    make.build("g");
    next_second();
    make.edit("v6");
    make.build("g");
    next_second();
    make.edit("v7");
    assert_eq!(make.build("g").1, ["a"]);
}

#[test]
fn two_groups_of_one_project_stay_incremental_and_right() {
    let mut make = Make::new(Place::Ext4);
    make.edit("v1");
    make.build("g");
    assert_eq!(make.build("h").1, ["a", "b"]);
    next_second();
    make.edit("v2");
    assert_eq!(make.build("g").1, ["a"]);
    // The image was built for the other group.
    assert_eq!(make.build("h").1, ["a"]);
    // One group stays behind, and then goes back to what only the other has built meanwhile.
    next_second();
    make.edit("v3");
    make.build("g");
    next_second();
    make.edit("v4");
    make.build("h");
    make.edit("v3");
    make.build("h");
    // A new image, pulled and without cache.
    let answer = make.daemon.post("/project/tool/rebuild", &json!({}));
    assert_eq!(answer.status, 200, "{}", answer.text());
    make.build("h");
    next_second();
    make.edit("v5");
    assert_eq!(make.build("h").1, ["a"]);
}

#[test]
fn a_stage_or_a_step_from_dockers_cache_makes_nothing_stale() {
    let mut make = Make::new(Place::Ext4);
    let staged = "FROM scratch AS files\nCOPY src/a.c /src/a.c\nCOPY src/b.c /src/\n\
        FROM scratch\nCOPY run.sh Makefile /\nCOPY --from=files /src /src\n\
        ENTRYPOINT [\"/bin/sh\", \"/run.sh\"]\n";
    fs::write(make.project.join("Dockerfile"), own(&make.daemon, staged)).unwrap();
    make.edit("v1");
    make.build("g");
    next_second();
    make.edit("v2");
    make.build("g");
    // The context is a new one, but the step that copies the file is in Docker's cache.
    next_second();
    make.edit("v1");
    fs::write(make.project.join("other"), "").unwrap();
    make.build("g");
    next_second();
    make.edit("v3");
    assert_eq!(make.build("g").1, ["a"]);
    // An old file comes to another place by an edit of the Dockerfile alone.
    next_second();
    let old = File::create(make.project.join("src/old.c")).unwrap();
    old.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000))
        .unwrap();
    make.build("g");
    next_second();
    let text = fs::read_to_string(make.project.join("Dockerfile")).unwrap();
    fs::write(
        make.project.join("Dockerfile"),
        text.replace("COPY src/a.c", "COPY src/old.c"),
    )
    .unwrap();
    let (info, _) = build(&make.daemon, "g", &mut make.n);
    assert_eq!(
        artifact(&make.daemon, &info),
        "b\n",
        "the old file is empty"
    );
}

#[test]
fn cargo_gives_what_a_cold_run_gives() {
    let daemon = Setup::on(Place::Btrfs).start();
    let sysroot = Command::new("rustc")
        .args(["--print", "sysroot"])
        .output()
        .unwrap();
    let sysroot = PathBuf::from(String::from_utf8(sysroot.stdout).unwrap().trim());
    let script = format!(
        "export PATH={0}/bin:/usr/bin:/bin CARGO_HOME=/data/cache/home HOME=/data/cache/home\n\
         cargo build --offline --manifest-path /src/Cargo.toml --target-dir /data/cache/target\n\
         cache/target/debug/tool > artifacts/out\n",
        sysroot.display()
    );
    let dockerfile = "FROM scratch\nCOPY run.sh /\nCOPY src /src\nWORKDIR /tmp\n\
        ENTRYPOINT [\"/bin/sh\", \"/run.sh\"]\n";
    let mounts = [(sysroot.as_path(), sysroot.to_str().unwrap())];
    // A toolchain of the distribution is under /usr.
    let mounts = match sysroot.starts_with("/usr") {
        true => &[][..],
        false => &mounts[..],
    };
    let project = project(&daemon, dockerfile, &script, mounts);
    let manifest = "[package]\nname = \"tool\"\nversion = \"0.0.0\"\nedition = \"2021\"\n";
    fs::create_dir(project.join("src/src")).unwrap();
    fs::write(project.join("src/Cargo.toml"), manifest).unwrap();
    let edit = |version: &str| {
        let text = format!("mod other;\nfn main() {{ println!(\"{version} {{}}\", other::X) }}\n");
        fs::write(project.join("src/src/main.rs"), text).unwrap();
    };
    fs::write(project.join("src/src/other.rs"), "pub const X: u32 = 1;\n").unwrap();
    let cold = Home::on(Place::Host);
    let mut n = 0;
    for version in ["v1", "v2", "v1", "v2"] {
        edit(version);
        let (info, log) = build(&daemon, "g", &mut n);
        let target = cold.join(n.to_string());
        let run = Command::new("cargo")
            .args(["run", "-q", "--offline", "--manifest-path"])
            .arg(project.join("src/Cargo.toml"))
            .arg("--target-dir")
            .arg(&target)
            .output()
            .unwrap();
        assert!(run.status.success(), "{run:?}");
        // What the host's cargo has written is no part of the project.
        let _ = fs::remove_file(project.join("src/Cargo.lock"));
        let right = String::from_utf8(run.stdout).unwrap();
        assert_eq!(artifact(&daemon, &info), right, "{info:#}\n{log}");
        next_second();
    }
}
