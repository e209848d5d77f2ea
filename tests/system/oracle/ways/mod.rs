//! What arrives equals what was built, by every transport: compared name by name, with what rsync itself
//! finds different, and with the table that `mistry fetch --help` prints.
//!
//! One small build is made for each test; the test then fills its artifacts with trees that no script
//! of busybox can make. The servers are real: `rsync --daemon` and `sshd`.

mod trees;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, chown, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use mistry::filesystem::Filesystem;
use rustix::fs::{XattrFlags, inotify};
use serde_json::json;

use self::trees::{Fact, Kind, facts, set_mode, set_time};
use crate::support::daemon::{Daemon, Setup};
use crate::support::dice::{Dice, seed};
use crate::support::servers::{self, Server};
use crate::support::{Home, Place, names};

const WAYS: [&str; 4] = ["http", "rsync", "scp", "local"];
/// The user `nobody`, on every Debian.
const USER: u32 = 65534;

/// A build whose artifacts the tests make, and the transports.
struct Scene {
    daemon: Daemon,
    id: String,
    rsync: Server,
    ssh: Server,
}

impl Scene {
    fn on(place: Place) -> Scene {
        let daemon = Setup::on(place).script("tree", "").start();
        let built = daemon.succeed(json!({"project": "tree"}));
        let id = built["ID"].as_str().unwrap().to_owned();
        // So that a user who is not root may read by path and run the program.
        let artifacts = daemon.ready("tree", &id).join("data/artifacts");
        for path in artifacts
            .ancestors()
            .take_while(|path| *path != daemon.home())
        {
            set_mode(path, 0o755);
        }
        fs::copy(env!("CARGO_BIN_EXE_mistry"), daemon.home().join("mistry")).unwrap();
        let rsync = servers::rsync(daemon.home(), &documented(&daemon));
        let ssh = servers::ssh_for(daemon.home(), USER);
        Scene {
            daemon,
            id,
            rsync,
            ssh,
        }
    }

    fn artifacts(&self) -> PathBuf {
        self.daemon.ready("tree", &self.id).join("data/artifacts")
    }

    /// Replaces the artifacts.
    fn fill(&self, make: impl FnOnce(&Path)) {
        let artifacts = self.artifacts();
        Filesystem::Plain.remove(&artifacts).unwrap();
        fs::create_dir(&artifacts).unwrap();
        set_mode(&artifacts, 0o755);
        make(&artifacts);
    }

    /// An empty directory of that user.
    fn target(&self, name: &str, user: u32) -> PathBuf {
        let target = self.daemon.home().join(name);
        fs::create_dir(&target).unwrap();
        chown(&target, Some(user), Some(user)).unwrap();
        target
    }

    fn command(&self, way: &str, target: &Path, more: &[&str], user: u32) -> Command {
        let mut command = Command::new(self.daemon.home().join("mistry"));
        command.args([
            "fetch",
            "--host",
            "127.0.0.1",
            "--port",
            self.daemon.port(),
            &self.id,
        ]);
        command
            .args(["--transport", way, "--target"])
            .arg(target)
            .args(more);
        match way {
            "rsync" => command.args(&self.rsync.arguments),
            "scp" => command.args(&self.ssh.arguments),
            _ => &mut command,
        };
        // A umask that takes nearly everything, which must not matter.
        let mut shell = Command::new("sh");
        shell.args(["-c", "umask 077; exec \"$@\"", "sh"]);
        shell.arg(command.get_program()).args(command.get_args());
        if user != 0 {
            shell.uid(user).gid(user);
        }
        shell
            .env_remove("MISTRY_URL")
            .env_remove("MISTRY_TOKEN_FILE");
        shell.current_dir("/");
        shell
    }

    /// The exit status and what was said.
    fn try_fetch(&self, way: &str, target: &Path, more: &[&str], user: u32) -> (i32, String) {
        let fetched = self.command(way, target, more, user).output().unwrap();
        let said = String::from_utf8_lossy(&fetched.stderr).into_owned();
        (fetched.status.code().unwrap(), said)
    }

    #[track_caller]
    fn fetch(&self, way: &str, target: &Path, more: &[&str], user: u32) {
        let (status, said) = self.try_fetch(way, target, more, user);
        assert_eq!(status, 0, "{way}: {said}\n{}", self.daemon.log());
        assert_no_temporaries(target);
    }
}

fn assert_no_temporaries(target: &Path) {
    let left = names(target);
    let ours = |name: &String| name.starts_with(".mistry-") || name.starts_with(".large.");
    assert!(!left.iter().any(ours), "{left:?}");
}

/// The rsyncd.conf of docs/operations.md, for this daemon's build path and user.
fn documented(daemon: &Daemon) -> String {
    let document = include_str!("../../../../docs/operations.md");
    let block = document
        .split("```ini\n# /etc/rsyncd.conf\n")
        .nth(1)
        .unwrap();
    let block = block.split("```").next().unwrap();
    let mut config = String::new();
    for line in block.lines() {
        let builds = daemon.builds();
        config.push_str(&match line.split('=').next().unwrap().trim() {
            "path" => format!("    path = {}", builds.display()),
            "uid" => "    uid = 0".to_owned(),
            "gid" => "    gid = 0".to_owned(),
            _ => line.to_owned(),
        });
        config.push('\n');
    }
    assert!(config.contains("path = /"), "{config}");
    config
}

/// What one way makes of one property, in the words of the table.
fn probe(scene: &Scene, way: &str, property: &str) -> String {
    let target = scene.target(&format!("{way} {}", property.replace('/', "")), 0);
    let yes = |is: bool| if is { "yes" } else { "no" }.to_owned();
    let both = |target: &Path| (facts(&scene.artifacts()), facts(target));
    match property {
        "modes, without set-id and sticky bits" => {
            scene.fill(trees::make_rich);
            scene.fetch(way, &target, &[], 0);
            let (built, fetched) = both(&target);
            let modes = |facts: &BTreeMap<PathBuf, Fact>| -> Vec<_> {
                facts
                    .iter()
                    .map(|(path, fact)| (path.clone(), fact.mode))
                    .collect()
            };
            let extra = |path: &PathBuf| fs::metadata(target.join(path)).unwrap().mode() & 0o7000;
            let is_plain = fetched.keys().all(|path| extra(path) == 0);
            yes(modes(&built) == modes(&fetched) && is_plain)
        }
        "modification times" => {
            scene.fill(|root| {
                trees::make_rich(root);
                if way == "scp" {
                    // SFTP counts from 1970 on.
                    set_time(&root.join("old"), 1_000, 500_000_000);
                }
            });
            scene.fetch(way, &target, &[], 0);
            let (built, fetched) = both(&target);
            let times = |facts: &BTreeMap<PathBuf, Fact>, nanos: bool| -> Vec<_> {
                let time = |(path, fact): (&PathBuf, &Fact)| {
                    (
                        path.clone(),
                        fact.seconds,
                        if nanos { fact.nanos } else { 0 },
                    )
                };
                facts.iter().map(time).collect()
            };
            match (
                times(&built, true) == times(&fetched, true),
                times(&built, false) == times(&fetched, false),
            ) {
                (true, _) => "exact".to_owned(),
                (false, true) => "to 1 s".to_owned(),
                (false, false) => {
                    let differ = |(path, fact): (&PathBuf, &Fact)| {
                        let was = &built[path];
                        (was.seconds != fact.seconds)
                            .then(|| format!("{path:?}: {} {}", was.seconds, fact.seconds))
                    };
                    format!(
                        "no: {:?}",
                        fetched.iter().filter_map(differ).collect::<Vec<_>>()
                    )
                }
            }
        }
        "symbolic links" => {
            scene.fill(trees::make_links);
            fs::write(target.join("before"), "").unwrap();
            let (status, _) = scene.try_fetch(way, &target, &[], 0);
            if way == "scp" {
                // Those that cannot be followed end it, and nothing has come.
                assert_eq!((status, names(&target)), (4, vec!["before".to_owned()]));
                scene.fill(|root| {
                    fs::write(root.join("file"), "text").unwrap();
                    symlink("file", root.join("link")).unwrap();
                });
                scene.fetch(way, &target, &[], 0);
                let link = &facts(&target)[Path::new("link")];
                assert_eq!(link.kind, Kind::File(b"text".to_vec()));
                return "followed".to_owned();
            }
            fs::remove_file(target.join("before")).unwrap();
            let (built, fetched) = both(&target);
            let links = |facts: &BTreeMap<PathBuf, Fact>| -> Vec<_> {
                let link = |(path, fact): (&PathBuf, &Fact)| {
                    (path.clone(), fact.kind.clone(), fact.seconds)
                };
                facts.iter().map(link).collect()
            };
            yes(status == 0 && links(&built) == links(&fetched))
        }
        "hard links" => {
            scene.fill(trees::make_rich);
            scene.fetch(way, &target, &[], 0);
            let first = |path: &str| facts(&target)[Path::new(path)].first.clone();
            let whole = ["three", "several/one", "several/a/two"].map(first);
            yes(whole.iter().all(|first| *first == whole[2]))
        }
        "holes of sparse files" => {
            // scp sends all of it.
            let size = if way == "scp" { 32 } else { 512 } << 20;
            scene.fill(|root| trees::make_sparse(&root.join("sparse"), size));
            scene.fetch(way, &target, &[], 0);
            let found = fs::metadata(target.join("sparse")).unwrap();
            assert_eq!(found.len(), size);
            yes(found.blocks() * 512 < 1 << 20)
        }
        "names of any bytes" => {
            scene.fill(trees::make_rich);
            scene.fetch(way, &target, &[], 0);
            let (built, fetched) = both(&target);
            let whole = |facts: &BTreeMap<PathBuf, Fact>| -> Vec<_> {
                facts
                    .iter()
                    .map(|(path, fact)| (path.clone(), fact.kind.clone()))
                    .collect()
            };
            yes(whole(&built) == whole(&fetched))
        }
        "paths of 4,096 bytes and more" => {
            scene.fill(trees::make_deep);
            let (status, said) = scene.try_fetch(way, &target, &[], 0);
            if !trees::is_deep(&target) {
                assert_eq!(status, 4, "{way} has lost a file in silence: {said}");
                return "no".to_owned();
            }
            assert_eq!(fs::read_to_string(target.join("ok")).unwrap(), "ok");
            yes(status == 0)
        }
        "read-only directories" | "directories closed to their owner" => {
            // A user other than root needs the rights.
            chown(&target, Some(USER), None).unwrap();
            let mut opened = 0;
            for n in 0..2 {
                scene.fill(|root| make_closed(root, property.starts_with("read-only"), n));
                let (status, said) = scene.try_fetch(way, &target, &[], USER);
                if status == 4 && said.contains("could not read") {
                    return "no".to_owned();
                }
                assert_eq!(status, 0, "{way}: {said}");
                let (built, fetched) = both(&target);
                for (path, fact) in &built {
                    let fetched = fetched.get(path);
                    let fetched = fetched.unwrap_or_else(|| panic!("{way}: no {path:?}"));
                    assert_eq!(fact.kind, fetched.kind, "{way}: {path:?}");
                    opened += u32::from(fact.mode != fetched.mode);
                }
            }
            scene.fill(|root| fs::write(root.join("other"), "").unwrap());
            scene.fetch(way, &target, &["--clear-target"], USER);
            assert_eq!(names(&target), ["other"]);
            if opened == 0 { "yes" } else { "opened" }.to_owned()
        }
        "new content of the same size and time" => {
            for (n, text) in ["one", "two"].iter().enumerate() {
                scene.fill(|root| {
                    for name in ["built", "changed"] {
                        let text = if name == "built" { text } else { "abc" };
                        fs::write(root.join(name), text).unwrap();
                        set_time(&root.join(name), 1_000_000_000, 0);
                    }
                });
                if n == 1 {
                    // By content, since the time does not show it.
                    fs::write(target.join("changed"), "xyz").unwrap();
                    set_time(&target.join("changed"), 1_000_000_000, 0);
                }
                scene.fetch(way, &target, &[], 0);
            }
            let text = |name: &str| fs::read_to_string(target.join(name)).unwrap();
            yes(text("built") == "two" && text("changed") == "abc")
        }
        "pipes, sockets, devices" => {
            scene.fill(|root| {
                trees::make_special(root);
                fs::write(root.join("file"), "").unwrap();
            });
            scene.fetch(way, &target, &[], 0);
            let left = names(&target);
            assert!(left.contains(&"file".to_owned()));
            yes(left.len() > 1)
        }
        other => panic!("the table has a row that no test proves: {other}"),
    }
}

/// Directories that are closed in all manners, or only to writing, when they are `readable`. The names
/// differ a little each time, so that entries come and are replaced in closed directories.
fn make_closed(root: &Path, readable: bool, n: u32) {
    let modes: &[u32] = match readable {
        true => &[0o555, 0o575],
        false => &[0o555, 0o000, 0o111, 0o444, 0o333, 0o055],
    };
    for mode in modes {
        let path = root.join(format!("mode-{mode:o}"));
        fs::create_dir_all(path.join("inner/empty")).unwrap();
        fs::write(path.join("same"), format!("{n}")).unwrap();
        fs::write(path.join(format!("inner/file-{n}")), "text").unwrap();
        for path in [path.join("inner/empty"), path.join("inner"), path] {
            set_mode(&path, *mode);
        }
    }
    fs::write(root.join("file"), "").unwrap();
    set_mode(&root.join("file"), if readable { 0o444 } else { 0 });
}

#[test]
fn each_transport_preserves_what_its_help_says() {
    let scene = Scene::on(Place::Ext4);
    let help = scene.daemon.mistry(&["fetch", "--help"]);
    let help = String::from_utf8(help.stdout).unwrap();
    let heads = |line: &str| {
        line.split_whitespace()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let table = help.lines().skip_while(|line| heads(line) != WAYS).skip(1);
    let mut wrong = Vec::new();
    let mut rows = 0;
    for line in table.take_while(|line| !line.is_empty()) {
        let cells = line.split("  ").map(str::trim);
        let cells: Vec<&str> = cells.filter(|cell| !cell.is_empty()).collect();
        for (way, claimed) in WAYS.iter().zip(&cells[1..]) {
            let found = probe(&scene, way, cells[0]);
            if found != *claimed {
                wrong.push(format!(
                    "{}: {way} is said to be '{claimed}' and is '{found}'",
                    cells[0]
                ));
            }
        }
        rows += 1;
    }
    assert!(rows >= 10, "{help}");
    assert!(wrong.is_empty(), "{wrong:#?}");
}

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
        for way in ["http", "rsync", "local"] {
            let target = home.join(way);
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
            scene.fetch(way, &target, &["--clear-target"], 0);
            let context = format!("{way}, round {round}, seed {seed}");
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
    for way in WAYS {
        let target = scene.target(way, USER);
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
        scene.fetch(way, &target, &[], USER);
        for name in ["file", "d/file", "e/file", "f", "read-only"] {
            assert_eq!(
                fs::read_to_string(target.join(name)).unwrap(),
                "new",
                "{way}: {name}"
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
        let (status, said) = scene.try_fetch(way, &target, &[], USER);
        assert_eq!(status, 4, "{way}: {said}");
        assert_eq!(fs::read_to_string(target.join("d/file")).unwrap(), "new");
        assert_no_temporaries(&target);
        scene.fetch(way, &target, &["--clear-target"], USER);
        assert_eq!(names(&target), ["d", "file"]);
        // A target of another user, where all may write.
        let shared = scene.target(&format!("shared-{way}"), 0);
        set_mode(&shared, 0o777);
        let (status, said) = scene.try_fetch(way, &shared, &[], USER);
        assert_eq!((status, names(&shared).len()), (0, 2), "{way}: {said}");
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
    for way in WAYS {
        let target = scene.target(way, USER);
        scene.fetch(way, &target, &[], USER);
        let fetched = facts(&target);
        assert_eq!(fetched.len(), many + 7, "{way}");
        let same = |(path, fact): (&PathBuf, &Fact)| fetched[path].kind == fact.kind;
        assert!(built.iter().all(same), "{way}");
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
    for way in ["http", "rsync", "scp"] {
        for signal in [rustix::process::Signal::INT, rustix::process::Signal::TERM] {
            let target = scene.target(&format!("{way}-{}", signal.as_raw()), USER);
            fs::write(target.join("before"), "").unwrap();
            let watch = inotify::init(inotify::CreateFlags::CLOEXEC).unwrap();
            inotify::add_watch(&watch, &target, inotify::WatchFlags::CREATE).unwrap();
            let mut child = scene.command(way, &target, &[], USER).spawn().unwrap();
            // Until something is under way in the target.
            rustix::io::read(&watch, &mut [0; 4096]).unwrap();
            let process = rustix::process::Pid::from_child(&child);
            rustix::process::kill_process(process, signal).unwrap();
            let status = child.wait().unwrap();
            assert_eq!(status.code(), Some(130), "{way} {signal:?}");
            assert_eq!(names(&target), ["before"], "{way} {signal:?}");
        }
    }
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

    // A build that is under way, and one whose rebuild failed, as far as a reader can tell.
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
    let rsync = |path: &str| {
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
            files.map(|(path, _)| path).collect::<Vec<_>>(),
        )
    };
    // Its group's latest build, by the link that leads to it.
    let (is_served, latest) = rsync("data/groups/data/data/artifacts/");
    assert_eq!((is_served, latest.len()), (true, ARTIFACTS.len()));
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
                let path = format!("{project}/{build}/{inside}");
                assert_eq!(rsync(&path), (false, Vec::new()), "{path}");
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
            let path = format!("pending/{state}/{id}/{inside}");
            assert_eq!(rsync(&path), (false, Vec::new()), "{path}");
        }
    }
    for path in [".mistry/", ".mistry/secret", ".mistry/instance"] {
        assert_eq!(rsync(path), (false, Vec::new()), "{path}");
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
