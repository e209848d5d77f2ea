//! Trees that are generated.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::fs::{self, File, Permissions};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileExt, PermissionsExt, lchown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use mistry::filesystem::Filesystem;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use rustix::fs::{AtFlags, CWD, FileType, Mode, Timespec, Timestamps, XattrFlags, mknodat};
use serde_json::json;

use super::entries::{Depth, entries, run, same, unpack};
use crate::support::daemon::{Daemon, Setup};
use crate::support::{Home, Place};

/// Paths of the programs that we compare with end there.
const LONGEST_PATH: usize = 3500;

#[derive(Clone, Debug)]
enum What {
    Directory,
    /// Pieces of data: where, how long.
    File(Vec<(u64, usize)>, u64),
    Link(Vec<u8>),
    /// Another name of an entry before it.
    Name(usize),
    Fifo,
    Socket,
    Device,
}

#[derive(Clone, Debug)]
struct Planned {
    parent: usize,
    name: Vec<u8>,
    what: What,
    mode: u32,
    modified: (i64, i64),
    owner: (u32, u32),
    attribute: Option<Vec<u8>>,
    has_list: bool,
}

fn what() -> impl Strategy<Value = What> {
    let page = 64 * 1024;
    let piece = (0_u64..24, 1_usize..6000).prop_map(move |(at, length)| (at * page, length));
    let text = vec(1_u8..=255, 1..300);
    prop_oneof![
        5 => Just(What::Directory),
        6 => (vec(piece, 0..4), prop_oneof![2 => Just(0), 1 => 0_u64..3_000_000])
            .prop_map(|(pieces, size)| What::File(pieces, size)),
        1 => text.prop_map(What::Link),
        1 => prop_oneof![Just("./x//y/."), Just("/"), Just("../.."), Just("a/"), Just("/etc/passwd")]
            .prop_map(|text| What::Link(text.as_bytes().to_owned())),
        3 => any::<usize>().prop_map(What::Name),
        1 => Just(What::Fifo),
        1 => Just(What::Socket),
        1 => Just(What::Device),
    ]
}

fn name() -> impl Strategy<Value = Vec<u8>> {
    let any_byte = prop_oneof![1_u8..=46, 48_u8..=255];
    prop_oneof![
        4 => "[a-z0-9.-]{1,12}".prop_map(String::into_bytes),
        2 => vec(any_byte.clone(), 1..20),
        1 => vec(any_byte, 90..=255),
        1 => Just(vec![0xff; 120]),
        1 => Just(b"-rf\n".to_vec()),
    ]
    .prop_filter("a name", |name| !matches!(name.as_slice(), b"." | b".."))
}

fn planned() -> impl Strategy<Value = Planned> {
    let seconds = prop_oneof![
        Just(-1_000_000_000_i64),
        Just(-1),
        Just(0),
        Just(315_532_800),
        1_000_000_000_i64..1_800_000_000,
        Just(9_000_000_000),
    ];
    let owner = (
        prop_oneof![Just(0_u32), Just(1000)],
        prop_oneof![Just(0_u32), Just(65534)],
    );
    (
        any::<usize>(),
        name(),
        what(),
        0_u32..0o10000,
        (seconds, 0_i64..1_000_000_000),
        owner,
        proptest::option::of(vec(any::<u8>(), 0..50)),
        proptest::bool::weighted(0.1),
    )
        .prop_map(
            |(parent, name, what, mode, modified, owner, attribute, has_list)| Planned {
                parent,
                name,
                what,
                mode,
                modified,
                owner,
                attribute,
                has_list,
            },
        )
}

fn plan() -> impl Strategy<Value = Vec<Planned>> {
    vec(planned(), 0..40)
}

/// Makes a tree in the empty directory `root`.
fn make(root: &Path, plan: &[Planned]) {
    let mut directories = vec![PathBuf::new()];
    let mut taken = BTreeSet::new();
    let mut made: Vec<(PathBuf, &Planned)> = Vec::new();
    for planned in plan {
        // The youngest are preferred, so that some trees are deep.
        let back = planned.parent % directories.len().min(4);
        let parent = &directories[directories.len() - 1 - back];
        let path = parent.join(OsStr::from_bytes(&planned.name));
        if path.as_os_str().len() > LONGEST_PATH || !taken.insert(path.clone()) {
            continue;
        }
        let there = root.join(&path);
        match &planned.what {
            What::Directory => {
                fs::create_dir(&there).unwrap();
                directories.push(path.clone());
            }
            What::File(pieces, size) => {
                let file = File::create(&there).unwrap();
                for (at, length) in pieces {
                    file.write_all_at(&vec![(*at >> 16) as u8 + 1; *length], *at)
                        .unwrap();
                }
                let end = pieces.iter().map(|(at, length)| at + *length as u64).max();
                file.set_len(end.unwrap_or(0).max(*size)).unwrap();
            }
            What::Link(text) => symlink(OsString::from_vec(text.clone()), &there).unwrap(),
            What::Name(of) => {
                let others: Vec<_> = made
                    .iter()
                    .filter(|(_, other)| !matches!(other.what, What::Directory))
                    .collect();
                if !others.is_empty() {
                    let of = root.join(&others[of % others.len()].0);
                    rustix::fs::linkat(CWD, &of, CWD, &there, AtFlags::empty()).unwrap();
                }
                // It has the metadata of the other name.
                continue;
            }
            What::Fifo => node(&there, FileType::Fifo),
            What::Socket => node(&there, FileType::Socket),
            What::Device => node(&there, FileType::CharacterDevice),
        }
        made.push((path, planned));
    }
    // A directory after what is in it.
    for (path, planned) in made.iter().rev() {
        let there = root.join(path);
        lchown(&there, Some(planned.owner.0), Some(planned.owner.1)).unwrap();
        if matches!(planned.what, What::Directory | What::File(..)) {
            if let Some(value) = &planned.attribute {
                rustix::fs::setxattr(&there, "user.mistry", value, XattrFlags::empty()).unwrap();
            }
            if planned.has_list {
                let set = |name: &str| {
                    rustix::fs::setxattr(&there, name, &access_list(), XattrFlags::empty())
                        .unwrap();
                };
                set("system.posix_acl_access");
                if matches!(planned.what, What::Directory) {
                    set("system.posix_acl_default");
                }
            }
        }
        if !matches!(planned.what, What::Link(_)) {
            fs::set_permissions(&there, Permissions::from_mode(planned.mode)).unwrap();
        }
        let time = Timespec {
            tv_sec: planned.modified.0,
            tv_nsec: planned.modified.1,
        };
        let times = Timestamps {
            last_access: time,
            last_modification: time,
        };
        rustix::fs::utimensat(CWD, &there, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
    }
}

fn node(path: &Path, kind: FileType) {
    let device = rustix::fs::makedev(1, 3);
    mknodat(CWD, path, kind, Mode::RUSR, device).unwrap();
}

/// `u::rw-,u:1000:r--,g::r--,m::r--,o::---` as the kernel keeps it.
fn access_list() -> Vec<u8> {
    let mut list = 2_u32.to_le_bytes().to_vec();
    let unset = u32::MAX;
    for (tag, permissions, id) in [
        (1_u16, 6_u16, unset),
        (2, 4, 1000),
        (4, 4, unset),
        (16, 4, unset),
        (32, 0, unset),
    ] {
        list.extend(tag.to_le_bytes());
        list.extend(permissions.to_le_bytes());
        list.extend(id.to_le_bytes());
    }
    list
}

fn cases(ordinary: u32) -> TestRunner {
    let factor = if std::env::var_os("MISTRY_SOAK").is_some() {
        40
    } else {
        1
    };
    TestRunner::new(Config {
        cases: ordinary * factor,
        failure_persistence: None,
        max_shrink_iters: 200,
        ..Config::default()
    })
}

fn clones_are_what_cp_makes(place: Place) {
    let home = Home::on(place);
    let filesystem = match place.has_subvolumes() {
        true => Filesystem::Btrfs,
        false => Filesystem::Plain,
    };
    let [from, clone, copy] = ["from", "clone", "copy"].map(|name| home.join(name));
    let clear = || {
        for path in [&from, &clone, &copy] {
            filesystem.remove(path).unwrap();
            assert!(fs::symlink_metadata(path).is_err());
        }
    };
    let done = cases(24).run(&plan(), |plan| {
        clear();
        filesystem.create(&from).unwrap();
        make(&from, &plan);
        let before = entries(&from, Depth::All);
        run(Command::new("cp").arg("-aT").args([&from, &copy]));
        filesystem.clone_tree(&from, &clone, &[]).unwrap();
        let (clone, copy) = (entries(&clone, Depth::All), entries(&copy, Depth::All));
        same(&clone, &copy, "a clone and cp -a");
        same(
            &entries(&from, Depth::All),
            &before,
            "the source, afterwards and before",
        );
        Ok(())
    });
    clear();
    done.unwrap();
}

#[test]
fn a_clone_on_btrfs_is_what_cp_makes() {
    clones_are_what_cp_makes(Place::Btrfs);
}

#[test]
fn a_clone_on_btrfs_without_subvolumes_is_what_cp_makes() {
    clones_are_what_cp_makes(Place::BtrfsAsPlain);
}

#[test]
fn a_clone_on_ext4_is_what_cp_makes() {
    clones_are_what_cp_makes(Place::Ext4);
}

#[test]
fn a_clone_on_tmpfs_is_what_cp_makes() {
    clones_are_what_cp_makes(Place::Tmpfs);
}

/// A daemon with one build, whose artifacts are replaced by whatever a test makes.
pub fn daemon(place: Place) -> (Daemon, String, PathBuf) {
    let daemon = Setup::on(place)
        .script("trees", "echo made > artifacts/made")
        .start();
    let built = daemon.succeed(json!({"project": "trees"}));
    let id = built["ID"].as_str().unwrap();
    let artifacts = daemon.ready("trees", id).join("data/artifacts");
    let address = format!("/artifacts/trees/{id}");
    (daemon, address, artifacts)
}

#[test]
fn a_tar_of_artifacts_unpacks_to_what_that_of_gnu_tar_does_and_their_list_is_what_find_finds() {
    let (daemon, address, artifacts) = daemon(Place::Ext4);
    let [ours, theirs] = ["ours", "theirs"].map(|name| daemon.home().join(name));
    let clear = || {
        for path in [&ours, &theirs, &artifacts] {
            Filesystem::Plain.remove(path).unwrap();
        }
    };
    let mut runner = cases(32);
    let is_sparse = any::<bool>();
    let done = runner.run(&(plan(), is_sparse), |(plan, is_sparse)| {
        clear();
        fs::create_dir(&artifacts).unwrap();
        make(&artifacts, &plan);
        let query = if is_sparse { "?sparse" } else { "" };
        let got = daemon.get_plain(&format!("{address}{query}"));
        assert_eq!(got.status, 200, "{}", got.text());
        unpack(&got.body, &ours);
        let mut tar = Command::new("tar");
        tar.arg("-C")
            .arg(&artifacts)
            .args(["-c", "--format=gnu", "--warning=no-file-ignored"]);
        tar.args(["--owner=0", "--group=0", "--mode=a-st"]);
        if is_sparse {
            tar.arg("--sparse");
        }
        unpack(&run(tar.arg(".")), &theirs);
        let mut found = entries(&ours, Depth::Fetched);
        let mut expected = entries(&theirs, Depth::Fetched);
        if is_sparse {
            // Where data ends within a block, both send as much as they choose of it.
            forget_pieces(&mut found);
            forget_pieces(&mut expected);
            let blocks = |root: &Path| -> u64 {
                let text = run(Command::new("du").arg("-s").arg("-B1").arg(root));
                let text = String::from_utf8(text).unwrap();
                text.split_whitespace().next().unwrap().parse().unwrap()
            };
            assert!(blocks(&ours) <= blocks(&theirs) + 64 * 1024);
        }
        same(&found, &expected, "our tar and GNU tar's");
        let list = daemon.get(&format!("{address}?manifest"));
        assert_eq!(manifest(&list.json()), found_by_find(&artifacts));
        Ok(())
    });
    clear();
    done.unwrap();
}

fn forget_pieces(tree: &mut BTreeMap<Vec<u8>, super::entries::Entry>) {
    for entry in tree.values_mut() {
        entry.forget_pieces();
    }
}

/// Path, type, mode, size of files and target of links.
type Listed = BTreeSet<(Vec<u8>, char, u32, u64)>;

pub fn manifest(list: &serde_json::Value) -> Listed {
    let items = list.as_array().unwrap().iter();
    items
        .map(|item| {
            let kind = match item["Type"].as_str().unwrap() {
                "directory" => 'd',
                "file" => 'f',
                "link" => 'l',
                other => other.chars().next().unwrap(),
            };
            let mode = u32::from_str_radix(item["Mode"].as_str().unwrap(), 8).unwrap();
            let path = decoded(item["URL"].as_str().unwrap());
            (path, kind, mode, item["Size"].as_u64().unwrap())
        })
        .collect()
}

fn decoded(text: &str) -> Vec<u8> {
    let mut bytes = text.bytes();
    let mut decoded = Vec::new();
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let digits: String = bytes.by_ref().take(2).map(char::from).collect();
            decoded.push(u8::from_str_radix(&digits, 16).unwrap());
        } else {
            decoded.push(byte);
        }
    }
    decoded
}

fn found_by_find(root: &Path) -> Listed {
    let mut find = Command::new("find");
    find.current_dir(root)
        .args([".", "-mindepth", "1", "-printf", "%y %m %s %P\\0"]);
    let printed = run(&mut find);
    printed
        .split(|byte| *byte == 0)
        .filter(|line| !line.is_empty())
        .map(|line| {
            let mut fields = line.splitn(4, |byte| *byte == b' ');
            let mut text = || String::from_utf8(fields.next().unwrap().to_owned()).unwrap();
            let (kind, mode, size) = (text(), text(), text());
            let kind = match kind.as_str() {
                "d" | "f" | "l" => kind.chars().next().unwrap(),
                _ => 's',
            };
            let mode = u32::from_str_radix(&mode, 8).unwrap() & 0o777;
            let size = if kind == 'f' {
                size.parse().unwrap()
            } else {
                0
            };
            (fields.next().unwrap().to_owned(), kind, mode, size)
        })
        .collect()
}
