//! What only Btrfs promises: clones are snapshots, subvolumes may be anywhere, and a filesystem is
//! recognised.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use mistry::filesystem::{Error, Filesystem, Kind};

use super::volume::{Volume, is_subvolume};

#[test]
fn a_clone_on_btrfs_is_a_snapshot() {
    let volume = Volume::btrfs();
    let from = volume.tree("from");
    for n in 0..50 {
        fs::write(from.join(n.to_string()), "x").unwrap();
    }
    let to = volume.clone_of(&from, &["0"]);
    assert!(is_subvolume(&from) && is_subvolume(&to));
    for n in 1..50 {
        // No program can set the time of the last change of an inode, so no copy has it.
        let (from, to) = (from.join(n.to_string()), to.join(n.to_string()));
        let (from, to) = (fs::metadata(from).unwrap(), fs::metadata(to).unwrap());
        assert_eq!((from.ino(), from.ctime_nsec()), (to.ino(), to.ctime_nsec()));
    }
    fs::write(to.join("new"), "writable").unwrap();
}

#[test]
fn a_plain_directory_on_btrfs_is_cloned_to_a_subvolume_that_shares_its_blocks() {
    let volume = Volume::btrfs();
    let from = volume.path("from");
    fs::create_dir_all(from.join("a/b")).unwrap();
    fs::write(from.join("a/b/file"), "x".repeat(1_000_000)).unwrap();
    let to = volume.clone_keeps(&from, [".", "a", "a/b", "a/b/file"]);
    assert!(!is_subvolume(&from) && is_subvolume(&to));
    volume.remove(&from);
    assert_eq!(fs::read(to.join("a/b/file")).unwrap().len(), 1_000_000);
}

#[test]
fn a_tree_with_subvolumes_inside_is_cloned_completely() {
    let volume = Volume::btrfs();
    let from = volume.tree("from");
    fs::create_dir(from.join("cache")).unwrap();
    Filesystem::Btrfs.create(&from.join("cache/inner")).unwrap();
    fs::write(from.join("cache/inner/file"), "kept").unwrap();
    let to = volume.clone_of(&from, &[]);
    assert!(is_subvolume(&to));
    assert_eq!(fs::read(to.join("cache/inner/file")).unwrap(), b"kept");
    fs::write(to.join("cache/inner/new"), "writable").unwrap();
    // What was a subvolume is a directory in there, so the next clone is a snapshot again.
    let again = volume.path("again");
    volume.filesystem.clone_tree(&to, &again, &[]).unwrap();
    let change = |path: &Path| {
        fs::metadata(path.join("cache/inner/file"))
            .unwrap()
            .ctime_nsec()
    };
    assert_eq!(change(&to), change(&again));
}

#[test]
fn subvolumes_inside_are_removed_for_every_user() {
    let volume = Volume::btrfs();
    for plain in [false, true] {
        let fill = || {
            let tree = volume.tree("tree");
            for path in ["a", "a/b", "a/b/c", "read-only"] {
                Filesystem::Btrfs.create(&tree.join(path)).unwrap();
                fs::create_dir(tree.join(path).join("directory")).unwrap();
                fs::write(tree.join(path).join("directory/file"), "x").unwrap();
            }
            read_only(&tree.join("read-only"));
            fs::set_permissions(tree.join("a/b"), Permissions::from_mode(0o000)).unwrap();
            assert!(fs::write(tree.join("read-only/new"), "x").is_err());
            volume.remove(&tree);
        };
        if plain {
            volume.as_a_plain_user(fill);
        } else {
            fill();
        }
    }
}

#[test]
fn a_read_only_tree_is_cloned_to_a_writable_one_and_removed() {
    let volume = Volume::btrfs();
    volume.as_a_plain_user(|| {
        let from = volume.tree("from");
        fs::write(from.join("file"), "x").unwrap();
        read_only(&from);
        let to = volume.clone_of(&from, &[]);
        fs::write(to.join("file"), "y").unwrap();
        volume.remove(&from);
        volume.remove(&to);
    });
}

#[test]
fn the_plain_kind_removes_what_the_other_kind_made() {
    let volume = Volume::btrfs();
    let tree = volume.tree("tree");
    fs::write(tree.join("file"), "x").unwrap();
    assert!(Filesystem::Plain.remove(&tree).unwrap());
    assert!(!tree.exists());
}

#[test]
fn kinds_are_detected() {
    for (volume, found) in [(Volume::ext4(), "ext4"), (Volume::tmpfs(), "tmpfs")] {
        let auto = Filesystem::detect(Kind::Auto, &volume.home).unwrap();
        assert_eq!(auto, Filesystem::Plain);
        match Filesystem::detect(Kind::Btrfs, &volume.home).unwrap_err() {
            error @ Error::NotBtrfs { .. } => assert!(error.to_string().ends_with(found)),
            other => panic!("{other}"),
        }
    }
    let volume = Volume::btrfs();
    let detect = |kind| Filesystem::detect(kind, &volume.home).unwrap();
    assert_eq!(detect(Kind::Auto), Filesystem::Btrfs);
    assert_eq!(detect(Kind::Plain), Filesystem::Plain);
}

fn read_only(subvolume: &Path) {
    let status = std::process::Command::new("btrfs")
        .args(["property", "set"])
        .arg(subvolume)
        .args(["ro", "true"])
        .status()
        .unwrap();
    assert!(status.success());
}
