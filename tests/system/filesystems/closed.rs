//! What a build closed to its own user, or forbade to change.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;

use mistry::filesystem::{Filesystem, Walk};

use super::volume::Volume;

/// Directories and files of each mode that keeps their owner out, one in another.
fn close(tree: &Path) {
    for mode in [0o000, 0o111, 0o444, 0o555, 0o300] {
        let path = tree.join(format!("{mode:o}"));
        let inner = path.join("inner/most");
        fs::create_dir_all(&inner).unwrap();
        fs::write(inner.join("file"), "kept").unwrap();
        fs::hard_link(inner.join("file"), path.join("name")).unwrap();
        fs::set_permissions(inner.join("file"), Permissions::from_mode(0o000)).unwrap();
        for path in [&inner, &path.join("inner"), &path] {
            fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
        }
    }
    fs::set_permissions(tree, Permissions::from_mode(0o000)).unwrap();
}

/// Path, mode and content of all, as root sees it.
fn found(tree: &Path) -> Vec<(String, u32, Vec<u8>)> {
    let mut found = Vec::new();
    let mut pending = vec![tree.to_owned()];
    while let Some(path) = pending.pop() {
        let facts = fs::symlink_metadata(&path).unwrap();
        let mut content = Vec::new();
        if facts.is_dir() {
            pending.extend(
                fs::read_dir(&path)
                    .unwrap()
                    .map(|entry| entry.unwrap().path()),
            );
        } else {
            content = fs::read(&path).unwrap();
        }
        let name = path.strip_prefix(tree).unwrap().display().to_string();
        found.push((name, facts.mode() & 0o7777, content));
    }
    found.sort();
    found
}

fn what_its_owner_closed_is_cloned_measured_walked_and_left_as_it_was(volume: &Volume) {
    let from = volume.path("from");
    volume.as_a_plain_user(|| {
        volume.tree("from");
        close(&from);
    });
    let before = found(&from);
    assert_eq!(before.len(), 26);
    let clones = ["one", "two", "three"].map(|name| volume.path(name));
    // At the same time, so that each finds open what another one has opened.
    volume.as_a_plain_user(|| {
        for clone in &clones {
            volume.filesystem.clone_tree(&from, clone, &[]).unwrap();
        }
        volume.filesystem.usage(&from, Some(0)).unwrap();
    });
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                volume.as_a_plain_user(|| {
                    for _ in 0..20 {
                        let mut modes = Vec::new();
                        let flags = rustix::fs::OFlags::PATH;
                        let root = rustix::fs::open(&from, flags, rustix::fs::Mode::empty());
                        let mut walk = Walk::new(root.unwrap()).unwrap();
                        while let Some(found) = walk.next_entry().unwrap() {
                            if found.stat.st_size == 4 {
                                found.open().unwrap();
                            }
                            modes.push(found.stat.st_mode & 0o7777);
                        }
                        let mut expected: Vec<_> =
                            before[1..].iter().map(|(_, mode, _)| *mode).collect();
                        expected.sort_unstable();
                        modes.sort_unstable();
                        assert_eq!(modes, expected);
                    }
                });
            });
        }
    });
    assert_eq!(found(&from), before);
    for clone in &clones {
        assert_eq!(found(clone), before);
        volume.as_a_plain_user(|| volume.remove(clone));
    }
    volume.as_a_plain_user(|| volume.remove(&from));
}

/// Far below what holds a directory open, a walk that is given up gives the modes back.
fn a_walk_that_is_given_up_leaves_modes_as_they_were(volume: &Volume) {
    const LEVELS: usize = 100;
    let root = volume.path("from");
    let path = |levels| root.join(vec!["d"; levels].join("/"));
    volume.as_a_plain_user(|| {
        volume.tree("from");
        fs::create_dir_all(path(LEVELS)).unwrap();
        for levels in (1..=LEVELS).rev() {
            fs::set_permissions(path(levels), Permissions::from_mode(0o000)).unwrap();
        }
        let handle = rustix::fs::open(&root, rustix::fs::OFlags::PATH, rustix::fs::Mode::empty());
        let mut walk = Walk::new(handle.unwrap()).unwrap();
        for _ in 0..LEVELS {
            assert!(walk.next_entry().unwrap().is_some());
        }
        drop(walk);
    });
    for levels in 1..=LEVELS {
        assert_eq!(
            fs::metadata(path(levels)).unwrap().mode() & 0o777,
            0,
            "{levels}"
        );
    }
    volume.as_a_plain_user(|| volume.remove(&root));
}

fn what_must_not_be_changed_is_removed_by_root(volume: &Volume) {
    let tree = volume.tree("tree");
    fs::create_dir_all(tree.join("fixed/inner")).unwrap();
    for file in ["file", "fixed/file", "fixed/inner/log"] {
        fs::write(tree.join(file), "x").unwrap();
    }
    let protect = |flag: &str, path: &str| {
        let done = Command::new("chattr")
            .arg(flag)
            .arg(tree.join(path))
            .output()
            .unwrap();
        assert!(done.status.success(), "{done:?}");
    };
    protect("+a", "fixed/inner/log");
    protect("+i", "fixed/file");
    protect("+a", "fixed/inner");
    protect("+i", "fixed");
    protect("+i", "file");
    assert!(fs::remove_file(tree.join("file")).is_err());
    volume.remove(&tree);
}

macro_rules! on {
    ($($promise:ident: $($volume:ident)*;)*) => {
        $(mod $promise { $(#[test] fn $volume() { super::$promise(&super::Volume::$volume()) })* })*
    };
}

on! {
    what_its_owner_closed_is_cloned_measured_walked_and_left_as_it_was: btrfs plain_btrfs ext4 tmpfs;
    a_walk_that_is_given_up_leaves_modes_as_they_were: btrfs ext4 tmpfs;
    what_must_not_be_changed_is_removed_by_root: btrfs ext4;
}

#[test]
fn a_plain_clone_leaves_a_device_out_where_it_may_not_make_one() {
    let volume = Volume::ext4();
    let from = volume.path("from");
    fs::create_dir(&from).unwrap();
    let device = rustix::fs::makedev(1, 3);
    let kind = rustix::fs::FileType::CharacterDevice;
    for name in ["null", "other"] {
        let mode = rustix::fs::Mode::RUSR;
        rustix::fs::mknodat(rustix::fs::CWD, from.join(name), kind, mode, device).unwrap();
    }
    fs::hard_link(from.join("null"), from.join("second")).unwrap();
    fs::write(from.join("file"), "x").unwrap();
    let to = volume.path("clone");
    volume.as_a_plain_user(|| Filesystem::Plain.clone_tree(&from, &to, &[]).unwrap());
    let names: Vec<_> = fs::read_dir(&to)
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(names, ["file"]);
}
