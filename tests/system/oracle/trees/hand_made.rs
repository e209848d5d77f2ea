//! Trees that are known to be hard: deep, wide, sparse, and of odd times and names.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::process::Command;

use mistry::filesystem::Filesystem;
use rustix::fs::{CWD, Mode, OFlags, mkdirat, openat};
use serde_json::json;

use super::entries::{run, unpack};
use super::generated::{daemon, manifest};
use crate::support::daemon::Setup;
use crate::support::http::ask;
use crate::support::{Place, most_resident};

/// What a daemon may take more for a large tree, in kB. A page of a directory, which is made whole, takes most
/// of it, however many names there are; all names of the directories would be more, and
/// their whole paths a hundred megabytes.
const GROWTH: u64 = 12 * 1024;

/// Makes directories one in another beneath `root`; the deepest.
fn descend(root: &Path, names: &[String]) -> File {
    let mut here = File::open(root).unwrap();
    for name in names {
        mkdirat(&here, name, Mode::RWXU).unwrap();
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        here = File::from(openat(&here, name, flags, Mode::empty()).unwrap());
    }
    here
}

fn touch(at: &File, name: &str) {
    let flags = OFlags::WRONLY | OFlags::CREATE;
    openat(at, name, flags, Mode::from_raw_mode(0o644)).unwrap();
}

#[test]
fn an_artifact_at_the_end_of_a_path_of_5_000_bytes_is_sent_listed_and_shown() {
    // From its end to its beginning, since the shell works with whole paths.
    let script = r#"
        # Its clone has it already.
        [ ! -e artifacts/ok ] || exit 0
        echo fine > artifacts/ok
        name=$(head -c 200 /dev/zero | tr '\0' d)
        mkdir top
        echo deep > top/file
        for n in $(seq 24); do mkdir next; mv top "next/$name"; mv next top; done
        mv "top/$name" artifacts/
        rmdir top"#;
    let daemon = Setup::on(Place::Ext4).script("deep", script).start();
    daemon.succeed(json!({"project": "deep", "group": "g"}));
    let again = daemon.succeed(json!({"project": "deep", "group": "g", "params": {"n": "2"}}));
    assert_eq!(again["Incremental"], true);
    let id = again["ID"].as_str().unwrap();
    let address = format!("/artifacts/deep/{id}");
    let directory = vec!["d".repeat(200); 24].join("/");

    let got = daemon.get_plain(&address);
    // GNU tar lists paths of any length, and unpacks those that the kernel takes.
    let tar = daemon.home().join("deep.tar");
    fs::write(&tar, &got.body).unwrap();
    let listed = run(Command::new("tar").arg("-tf").arg(&tar));
    let listed = String::from_utf8(listed).unwrap();
    let deepest = format!("{directory}/file");
    assert_eq!(listed.lines().count(), 26);
    assert!(listed.lines().any(|line| line == deepest) && listed.lines().any(|line| line == "ok"));
    let content = run(Command::new("tar")
        .arg("-xOf")
        .arg(&tar)
        .args([&deepest, "ok"]));
    assert_eq!(content, b"deep\nfine\n");

    let list = manifest(&daemon.get(&format!("{address}?manifest")).json());
    let file = format!("{directory}/file").into_bytes();
    assert_eq!(list.len(), 26);
    assert!(
        list.iter()
            .any(|(path, kind, _, size)| *path == file && (*kind, *size) == ('f', 5))
    );
    assert_eq!(
        daemon.get(&format!("{address}/{directory}/file")).text(),
        "deep\n"
    );
    let page = daemon.page(&format!("{address}/{directory}/"));
    assert_eq!(page.status, 200);
    assert!(page.text().contains("file"));
    assert_eq!(
        daemon.get(&format!("{address}/{directory}/none")).status,
        404
    );
    let mut daemon = daemon;
    daemon.end();
}

#[test]
fn a_directory_of_100_000_names_and_100_000_directories_are_sent_listed_cloned_and_removed() {
    let (daemon, address, artifacts) = daemon(Place::Tmpfs);
    for n in 0..100_000 {
        File::create(artifacts.join(format!("f{n}"))).unwrap();
    }
    for n in 0..100 {
        for m in 0..1000 {
            fs::create_dir_all(artifacts.join(format!("d{n}/{m}"))).unwrap();
        }
    }
    let before = most_resident(daemon.process());
    let got = daemon.get_plain(&address);
    let grown = most_resident(daemon.process()) - before;
    assert!(grown < GROWTH, "{grown} kB");
    let tar = daemon.home().join("artifacts.tar");
    fs::write(&tar, &got.body).unwrap();
    let listed = run(Command::new("tar").arg("-tf").arg(&tar));
    fs::remove_file(tar).unwrap();
    let listed = String::from_utf8(listed).unwrap();
    let names: BTreeSet<&str> = listed.lines().collect();
    // With the one that the build made.
    assert_eq!((names.len(), listed.lines().count()), (200_101, 200_101));
    assert!(names.contains("f99999") && names.contains("d99/999"));
    let list = daemon.get(&format!("{address}?manifest"));
    let lines = list.body.iter().filter(|byte| **byte == b'\n').count();
    assert_eq!(lines, names.len());
    let page = daemon.page(&format!("{address}/"));
    assert_eq!(page.status, 200);

    let clone = daemon.home().join("clone");
    Filesystem::Plain
        .clone_tree(&artifacts, &clone, &[])
        .unwrap();
    let count = |root: &Path| {
        run(Command::new("find").arg(root))
            .iter()
            .filter(|byte| **byte == b'\n')
            .count()
    };
    assert_eq!(count(&clone), names.len() + 1);
    Filesystem::Plain.remove(&clone).unwrap();
    assert!(!clone.exists());
}

#[test]
fn memory_does_not_grow_with_many_directories_at_the_end_of_a_long_path() {
    const MANY: usize = 30_000;
    let script = "rm -rf artifacts/*; mkdir artifacts/flat; echo made > artifacts/made";
    let setup =
        Setup::on(Place::Tmpfs).script("kept", "[ -e cache/made ] || echo made > cache/made");
    let daemon = setup.script("trees", script).start();
    // What every build and every answer takes is there before it is measured.
    let job = |project: &str, n: u32| json!({"project": project, "group": "g", "params": {"n": n.to_string()}});
    let built = [job("trees", 1), job("kept", 1), job("kept", 2)].map(|job| daemon.succeed(job));
    let place = |built: &serde_json::Value| {
        let (project, id) = (
            built["Project"].as_str().unwrap(),
            built["ID"].as_str().unwrap(),
        );
        (
            daemon.ready(project, id).join("data"),
            format!("/artifacts/{project}/{id}"),
        )
    };
    let (data, address) = place(&built[0]);
    let shown = |path: &str| daemon.page(path);
    for query in ["", "?manifest", "/", "/made?view"] {
        assert_eq!(shown(&format!("{address}{query}")).status, 200, "{query}");
    }
    let path: Vec<String> = (0..15).map(|_| "n".repeat(200)).collect();
    let fill = |root: &Path| {
        let deep = descend(root, &path);
        for n in 0..MANY {
            mkdirat(&deep, n.to_string(), Mode::RWXU).unwrap();
            if n % 10 == 0 {
                // Another name of it is never met.
                touch(&deep, &format!("{n}.file"));
                let from = format!("{n}.file");
                let to = daemon
                    .home()
                    .join(format!("{}{from}", root.display()).replace('/', "-"));
                rustix::fs::linkat(&deep, &from, CWD, &to, rustix::fs::AtFlags::empty()).unwrap();
            }
        }
    };
    fill(&data.join("artifacts"));
    for n in 0..MANY {
        fs::write(data.join(format!("artifacts/flat/{n:0>200}")), "").unwrap();
    }
    let before = most_resident(daemon.process());
    let check = |what: &str| {
        let grown = most_resident(daemon.process()) - before;
        println!("{what}: {grown} kB");
        assert!(grown < GROWTH, "{what}: {grown} kB");
    };
    for query in ["", "?manifest"] {
        let got = daemon.get_plain(&format!("{address}{query}"));
        assert!(got.body.len() > MANY * 3000, "{}", got.body.len());
        check(query);
    }
    assert!(
        shown(&format!("{address}/flat/"))
            .text()
            .contains("30000 entries")
    );
    check("a page");
    // Cloned, measured when it is over, and removed; so is what it was cloned from.
    let (data, _) = place(&built[2]);
    fill(&data.join("cache"));
    let clone = daemon.succeed(job("kept", 3));
    assert_eq!(clone["Incremental"], true);
    check("a clone");
    let (cloned, _) = place(&clone);
    let last = descend_into(&cloned.join("cache"), &path);
    assert!(
        rustix::fs::accessat(
            &last,
            "29999",
            rustix::fs::Access::EXISTS,
            rustix::fs::AtFlags::empty()
        )
        .is_ok()
    );
    let (project, id) = (built[2]["Project"].as_str(), built[2]["ID"].as_str());
    let job = format!("/job/{}/{}", project.unwrap(), id.unwrap());
    let json = [("content-type", "application/json")];
    let answer = ask(daemon.address(), "DELETE", &job, &json, b"");
    assert!(answer.status < 300, "{}", answer.text());
    assert!(!data.exists(), "{}", answer.text());
    check("a removal");
}

/// The deepest of directories one in another.
fn descend_into(root: &Path, names: &[String]) -> File {
    let mut here = File::open(root).unwrap();
    for name in names {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        here = File::from(openat(&here, name, flags, Mode::empty()).unwrap());
    }
    here
}

#[test]
fn holes_are_not_sent_to_those_who_ask_for_sparse_files() {
    const SIZE: u64 = 512 << 20;
    let (daemon, address, artifacts) = daemon(Place::Ext4);
    let file = File::create(artifacts.join("disk")).unwrap();
    file.write_all_at(b"begin", 0).unwrap();
    for piece in 1..60 {
        file.write_all_at(b"middle", SIZE / 64 * piece).unwrap();
    }
    file.set_len(SIZE).unwrap();
    File::create(artifacts.join("hollow"))
        .unwrap()
        .set_len(SIZE)
        .unwrap();
    let got = daemon.get_plain(&format!("{address}?sparse"));
    assert!(got.body.len() < 2 << 20, "{} bytes", got.body.len());
    let target = daemon.home().join("unpacked");
    unpack(&got.body, &target);
    for name in ["disk", "hollow"] {
        let found = fs::metadata(target.join(name)).unwrap();
        assert_eq!(found.len(), SIZE);
        assert!(
            found.blocks() * 512 < 2 << 20,
            "{name}: {} blocks",
            found.blocks()
        );
        run(Command::new("cmp")
            .arg(artifacts.join(name))
            .arg(target.join(name)));
    }
    // Other readers of tars understand it, too.
    let mut archive = tar::Archive::new(&got.body[..]);
    let sizes: Vec<u64> = archive
        .entries()
        .unwrap()
        .map(|entry| entry.unwrap().size())
        .collect();
    assert_eq!(sizes, [SIZE, SIZE, 5]);
}

#[test]
fn names_that_are_no_text_and_links_as_they_are_written_arrive() {
    let (daemon, address, artifacts) = daemon(Place::Ext4);
    let names: [&[u8]; 5] = [
        &[0xff; 150],
        &[0xff; 99],
        &[b'x'; 100],
        b"new\nline",
        &[0xe9; 255],
    ];
    for name in names {
        fs::write(artifacts.join(OsStr::from_bytes(name)), name).unwrap();
    }
    let texts = ["./x", "a//b", "a/", "/", "../..", &"t/".repeat(99)];
    for (n, text) in texts.iter().enumerate() {
        std::os::unix::fs::symlink(text, artifacts.join(format!("link{n}"))).unwrap();
    }
    let got = daemon.get_plain(&address);
    let target = daemon.home().join("unpacked");
    unpack(&got.body, &target);
    for name in names {
        assert_eq!(
            fs::read(target.join(OsStr::from_bytes(name))).unwrap(),
            name
        );
    }
    for (n, text) in texts.iter().enumerate() {
        let link = fs::read_link(target.join(format!("link{n}"))).unwrap();
        assert_eq!(link.as_os_str(), OsStr::new(text));
    }
}
