//! Creating, cloning and removing trees: the same on each filesystem.

use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, PermissionsExt, lchown, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;

use rustix::fs::{CWD, Mode, XattrFlags};

use super::volume::{Volume, chain, descend, facts, is_subvolume, set_times};

macro_rules! promises {
    ($($promise:ident)*) => {
        mod on_btrfs { $(#[test] fn $promise() { super::$promise(&super::Volume::btrfs()) })* }
        mod on_btrfs_as_plain { $(#[test] fn $promise() { super::$promise(&super::Volume::plain_btrfs()) })* }
        mod on_ext4 { $(#[test] fn $promise() { super::$promise(&super::Volume::ext4()) })* }
        mod on_tmpfs { $(#[test] fn $promise() { super::$promise(&super::Volume::tmpfs()) })* }
    };
}

promises! {
    a_new_tree_is_empty_and_closed_to_others
    nothing_is_made_where_something_is
    contents_and_metadata_are_kept
    directories_keep_their_times_whatever_is_in_them
    owners_are_kept_where_we_may_give_things_away
    hard_links_inside_the_tree_are_kept
    links_are_kept_as_text
    a_planted_link_is_left_out_as_a_link
    names_are_left_out_at_the_top_only
    what_is_left_out_leaves_no_trace_on_the_root
    a_clone_is_independent_of_its_source
    odd_names_are_kept
    fifos_are_kept_and_sockets_are_no_error
    holes_are_kept
    a_big_file_is_kept
    deep_trees_are_cloned_and_removed
    wide_trees_are_cloned_and_removed
    closed_directories_are_cloned_by_root_and_removed_by_their_owner
    what_is_mounted_in_a_tree_is_not_entered
    a_removal_takes_a_link_and_not_what_it_points_at
    a_removal_of_nothing_is_reported
    a_failed_clone_leaves_nothing_and_names_the_place
}

fn a_new_tree_is_empty_and_closed_to_others(volume: &Volume) {
    let tree = volume.tree("tree");
    let mode = fs::metadata(&tree).unwrap().mode() & 0o7777;
    assert_eq!(mode & !0o750, 0);
    assert_eq!(mode & 0o700, 0o700);
    assert_eq!(fs::read_dir(&tree).unwrap().count(), 0);
    fs::write(tree.join("file"), "x").unwrap();
    volume.remove(&tree);
}

fn nothing_is_made_where_something_is(volume: &Volume) {
    let from = volume.tree("from");
    let taken = [
        volume.path("directory"),
        volume.path("file"),
        volume.path("link"),
    ];
    fs::create_dir(&taken[0]).unwrap();
    fs::write(taken[0].join("inner"), "kept").unwrap();
    fs::write(&taken[1], "kept").unwrap();
    symlink("nowhere", &taken[2]).unwrap();
    for path in &taken {
        let created = volume.filesystem.create(path).unwrap_err();
        let cloned = volume.filesystem.clone_tree(&from, path, &[]).unwrap_err();
        for error in [created, cloned] {
            assert_eq!(error.io().unwrap().kind(), ErrorKind::AlreadyExists);
        }
    }
    assert_eq!(fs::read(taken[0].join("inner")).unwrap(), b"kept");
    assert_eq!(fs::read(&taken[1]).unwrap(), b"kept");
    assert_eq!(fs::read_link(&taken[2]).unwrap(), Path::new("nowhere"));
}

fn contents_and_metadata_are_kept(volume: &Volume) {
    let from = volume.tree("from");
    let modes = [0o644, 0o600, 0o444, 0o755, 0o4755, 0o2711, 0o000, 0o1777];
    for (n, mode) in modes.into_iter().enumerate() {
        let path = from.join(format!("{mode:o}"));
        fs::write(&path, format!("contents of {mode:o}")).unwrap();
        rustix::fs::setxattr(&path, "user.mistry", b"kept", XattrFlags::empty()).unwrap();
        set_times(&path, 1_000_000_000 + n as i64, 123_456_789 + n as i64);
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
    }
    fs::set_permissions(&from, Permissions::from_mode(0o2771)).unwrap();
    let names = modes.map(|mode| format!("{mode:o}"));
    let to = volume.clone_keeps(&from, names.iter().map(String::as_str).chain(["."]));
    for mode in modes {
        let (from, to) = (from.join(format!("{mode:o}")), to.join(format!("{mode:o}")));
        assert_eq!(fs::metadata(&to).unwrap().mode() & 0o7777, mode);
        let mut value = [0; 10];
        let length = rustix::fs::getxattr(&to, "user.mistry", &mut value).unwrap();
        assert_eq!(&value[..length], b"kept");
        assert_eq!(fs::read(&from).unwrap(), fs::read(&to).unwrap());
    }
    assert_eq!(fs::read_dir(&to).unwrap().count(), modes.len());
}

fn directories_keep_their_times_whatever_is_in_them(volume: &Volume) {
    let from = volume.tree("from");
    fs::create_dir_all(from.join("a/b/c")).unwrap();
    fs::write(from.join("a/b/file"), "x").unwrap();
    for (n, path) in ["a/b/c", "a/b", "a", "."].into_iter().enumerate() {
        set_times(&from.join(path), 500 - 200 * n as i64, 999_999_999);
    }
    volume.clone_keeps(&from, ["a/b/c", "a/b", "a", "."]);
}

fn owners_are_kept_where_we_may_give_things_away(volume: &Volume) {
    let from = volume.tree("from");
    fs::create_dir(from.join("directory")).unwrap();
    fs::write(from.join("file"), "x").unwrap();
    symlink("file", from.join("link")).unwrap();
    lchown(from.join("directory"), Some(12_345), Some(23_456)).unwrap();
    lchown(from.join("file"), Some(12_345), Some(0)).unwrap();
    lchown(from.join("link"), Some(0), Some(23_456)).unwrap();
    fs::set_permissions(from.join("file"), Permissions::from_mode(0o6755)).unwrap();
    fs::set_permissions(&from, Permissions::from_mode(0o755)).unwrap();
    let to = volume.clone_keeps(&from, ["directory", "file", "link", "."]);
    volume.remove(&to);
    volume.as_a_plain_user(|| {
        volume.clone_of(&from, &[]);
    });
    let file = fs::metadata(to.join("file")).unwrap();
    assert_eq!(
        fs::metadata(&to).unwrap().uid(),
        fs::metadata(&volume.home).unwrap().uid()
    );
    assert_eq!(file.mode() & 0o7777, 0o755, "set-user-id for another user");
}

fn hard_links_inside_the_tree_are_kept(volume: &Volume) {
    let from = volume.tree("from");
    fs::create_dir_all(from.join("a/b")).unwrap();
    fs::create_dir_all(from.join("c")).unwrap();
    fs::write(from.join("one"), "shared").unwrap();
    for link in ["two", "a/three", "a/b/four", "c/five"] {
        fs::hard_link(from.join("one"), from.join(link)).unwrap();
    }
    if !is_subvolume(&from) {
        fs::hard_link(from.join("one"), volume.path("outside")).unwrap();
    }
    fs::write(from.join("alone"), "alone").unwrap();
    let to = volume.clone_of(&from, &[]);
    let one = fs::metadata(to.join("one")).unwrap();
    assert_eq!(one.nlink(), 5);
    for link in ["two", "a/three", "a/b/four", "c/five"] {
        assert_eq!(
            fs::metadata(to.join(link)).unwrap().ino(),
            one.ino(),
            "{link}"
        );
    }
    fs::write(to.join("c/five"), "changed").unwrap();
    assert_eq!(fs::read(to.join("two")).unwrap(), b"changed");
    assert_eq!(fs::read(from.join("two")).unwrap(), b"shared");
    assert_eq!(fs::metadata(to.join("alone")).unwrap().nlink(), 1);
}

fn links_are_kept_as_text(volume: &Volume) {
    let from = volume.tree("from");
    let long = "x/".repeat(2000);
    let texts = [
        OsStr::new("/etc/shadow"),
        OsStr::new("../../.."),
        OsStr::new("nowhere"),
        OsStr::new("."),
        OsStr::from_bytes(b"\xff\n"),
        OsStr::new(&long),
    ];
    for (n, text) in texts.iter().enumerate() {
        let link = from.join(n.to_string());
        symlink(text, &link).unwrap();
        set_times(&link, 1_000_000 + n as i64, 5);
    }
    let to = volume.clone_keeps(&from, ["0", "1", "2", "3", "4", "5"]);
    for (n, text) in texts.iter().enumerate() {
        let link = to.join(n.to_string());
        assert_eq!(fs::read_link(link).unwrap().as_os_str(), *text);
    }
}

fn a_planted_link_is_left_out_as_a_link(volume: &Volume) {
    let outside = volume.path("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("precious"), "x").unwrap();
    let from = volume.tree("from");
    symlink(&outside, from.join("params")).unwrap();
    symlink("/etc", from.join("etc")).unwrap();
    let to = volume.clone_of(&from, &["params"]);
    assert!(fs::symlink_metadata(to.join("params")).is_err());
    assert!(fs::symlink_metadata(from.join("params")).is_ok());
    assert_eq!(fs::read_link(to.join("etc")).unwrap(), Path::new("/etc"));
    volume.remove(&to);
    volume.remove(&from);
    assert!(outside.join("precious").exists());
}

fn names_are_left_out_at_the_top_only(volume: &Volume) {
    let from = volume.tree("from");
    for path in ["params/deep/er", "artifacts/params", "cache"] {
        fs::create_dir_all(from.join(path)).unwrap();
        fs::write(from.join(path).join("file"), "x").unwrap();
    }
    fs::write(from.join("marker"), "x").unwrap();
    let to = volume.clone_of(&from, &["params", "marker", "not there"]);
    let mut names: Vec<_> = fs::read_dir(&to)
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    names.sort();
    assert_eq!(names, ["artifacts", "cache"]);
    assert!(to.join("artifacts/params/file").exists());
    assert!(from.join("params/deep/er/file").exists() && from.join("marker").exists());
}

fn what_is_left_out_leaves_no_trace_on_the_root(volume: &Volume) {
    volume.as_a_plain_user(|| {
        let from = volume.tree("from");
        fs::create_dir(from.join("params")).unwrap();
        fs::write(from.join("params/secret"), "x").unwrap();
        set_times(&from, 1_000_000, 1);
        fs::set_permissions(&from, Permissions::from_mode(0o500)).unwrap();
        let before = facts(&from);
        let to = volume.clone_of(&from, &["params"]);
        assert_eq!(before, facts(&to));
        assert!(!to.join("params").exists());
    });
}

fn a_clone_is_independent_of_its_source(volume: &Volume) {
    let from = volume.tree("from");
    fs::create_dir(from.join("directory")).unwrap();
    for name in ["a", "b", "directory/c"] {
        fs::write(from.join(name), "before".repeat(10_000)).unwrap();
    }
    let to = volume.clone_of(&from, &[]);
    File::options()
        .write(true)
        .open(to.join("a"))
        .unwrap()
        .write_all_at(b"AFTER", 5)
        .unwrap();
    File::options()
        .write(true)
        .open(from.join("b"))
        .unwrap()
        .write_all_at(b"AFTER", 5)
        .unwrap();
    fs::remove_file(to.join("directory/c")).unwrap();
    fs::write(to.join("new"), "x").unwrap();
    let before = "before".repeat(10_000).into_bytes();
    assert!(fs::read(from.join("a")).unwrap() == before);
    assert!(fs::read(to.join("b")).unwrap() == before);
    assert!(fs::read(from.join("directory/c")).unwrap() == before);
    assert!(!from.join("new").exists());
    volume.remove(&from);
    assert!(fs::read(to.join("b")).unwrap() == before);
}

fn odd_names_are_kept(volume: &Volume) {
    let from = volume.tree("from");
    let long = [b'x'; 255];
    let names: [&[u8]; 8] = [
        b"new\nline",
        b"\xff\xfe",
        b" ",
        b"-rf",
        b"...",
        b"\x1b[31m",
        b"\\",
        &long,
    ];
    for name in names {
        let directory = from.join(OsStr::from_bytes(name));
        fs::create_dir(&directory).unwrap();
        fs::write(directory.join(OsStr::from_bytes(name)), name).unwrap();
    }
    let to = volume.clone_of(&from, &["new\nline"]);
    for name in &names[1..] {
        let name = OsStr::from_bytes(name);
        assert_eq!(fs::read(to.join(name).join(name)).unwrap(), name.as_bytes());
    }
    assert_eq!(fs::read_dir(&to).unwrap().count(), names.len() - 1);
    volume.remove(&from);
}

fn fifos_are_kept_and_sockets_are_no_error(volume: &Volume) {
    let from = volume.tree("from");
    rustix::fs::mkfifoat(CWD, from.join("fifo"), Mode::RWXU).unwrap();
    fs::set_permissions(from.join("fifo"), Permissions::from_mode(0o622)).unwrap();
    set_times(&from.join("fifo"), 77, 7);
    let _listener = UnixListener::bind(from.join("socket")).unwrap();
    fs::write(from.join("file"), "x").unwrap();
    let to = volume.clone_keeps(&from, ["fifo", "file"]);
    let fifo = fs::metadata(to.join("fifo")).unwrap();
    assert!(fifo.file_type().is_fifo());
    volume.remove(&from);
}

fn holes_are_kept(volume: &Volume) {
    const SIZE: u64 = 256 * 1024 * 1024;
    let from = volume.tree("from");
    let file = File::create(from.join("sparse")).unwrap();
    file.write_all_at(b"middle", SIZE / 2).unwrap();
    file.set_len(SIZE).unwrap();
    File::create(from.join("hollow"))
        .unwrap()
        .set_len(SIZE)
        .unwrap();
    let to = volume.clone_of(&from, &[]);
    for name in ["sparse", "hollow"] {
        let copy = fs::metadata(to.join(name)).unwrap();
        assert_eq!(copy.len(), SIZE);
        assert!(
            copy.blocks() * 512 < 1024 * 1024,
            "{name} takes {} blocks",
            copy.blocks()
        );
    }
    let mut middle = [0; 8];
    let copy = File::open(to.join("sparse")).unwrap();
    copy.read_exact_at(&mut middle, SIZE / 2 - 1).unwrap();
    assert_eq!(&middle, b"\0middle\0");
}

fn a_big_file_is_kept(volume: &Volume) {
    let from = volume.tree("from");
    let file = File::create(from.join("big")).unwrap();
    let block: Vec<u8> = (0..1024 * 1024_u32)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    for n in 0..100 {
        file.write_all_at(&block, n * 1_048_575).unwrap();
    }
    let to = volume.clone_of(&from, &[]);
    let (from, to) = (
        fs::read(from.join("big")).unwrap(),
        fs::read(to.join("big")).unwrap(),
    );
    assert!(from == to);
}

fn deep_trees_are_cloned_and_removed(volume: &Volume) {
    const LEVELS: usize = 5000;
    let name = "deep directory name";
    let from = volume.tree("from");
    fs::write(from.join("file"), "x").unwrap();
    let deepest = descend(
        &from,
        |here| {
            rustix::fs::mkdirat(here, name, Mode::RWXU).unwrap();
            Some(name)
        },
        LEVELS,
    );
    // A link from the top to the bottom and one back are both out of any path's reach.
    let top = File::open(&from).unwrap();
    rustix::fs::linkat(
        &top,
        "file",
        &deepest,
        "linked",
        rustix::fs::AtFlags::empty(),
    )
    .unwrap();
    rustix::fs::mkdirat(&deepest, "end", Mode::RWXU).unwrap();
    let to = volume.clone_of(&from, &[]);
    let bottom = descend(&to, |_| Some(name), LEVELS);
    let linked =
        rustix::fs::statat(&bottom, "linked", rustix::fs::AtFlags::SYMLINK_NOFOLLOW).unwrap();
    assert_eq!(linked.st_ino, fs::metadata(to.join("file")).unwrap().ino());
    assert!(rustix::fs::statat(&bottom, "end", rustix::fs::AtFlags::empty()).is_ok());
    drop((deepest, bottom));
    // On a stack that a walk by recursion would not fit into.
    std::thread::scope(|scope| {
        let small = std::thread::Builder::new().stack_size(128 * 1024);
        let removing = small.spawn_scoped(scope, || volume.remove(&to)).unwrap();
        removing.join().unwrap();
    });
    volume.remove(&from);
}

fn wide_trees_are_cloned_and_removed(volume: &Volume) {
    let from = volume.tree("from");
    for n in 0..100 {
        let directory = from.join(n.to_string());
        fs::create_dir(&directory).unwrap();
        for n in 0..100 {
            fs::write(directory.join(n.to_string()), n.to_string()).unwrap();
        }
    }
    let to = volume.clone_of(&from, &["7"]);
    let count = |n: usize| fs::read_dir(to.join(n.to_string())).map(Iterator::count);
    for n in (0..100).filter(|n| *n != 7) {
        assert_eq!(count(n).unwrap(), 100);
    }
    assert_eq!(fs::read(to.join("99/99")).unwrap(), b"99");
    volume.remove(&from);
    volume.remove(&to);
}

fn closed_directories_are_cloned_by_root_and_removed_by_their_owner(volume: &Volume) {
    let from = volume.path("from");
    let close = || {
        for (name, mode) in [
            ("closed", 0o000),
            ("read-only", 0o555),
            ("write-only", 0o300),
        ] {
            let path = from.join("all").join(name);
            fs::create_dir_all(path.join("inner/most")).unwrap();
            fs::write(path.join("inner/file"), "x").unwrap();
            fs::set_permissions(path.join("inner"), Permissions::from_mode(mode)).unwrap();
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        }
        fs::set_permissions(&from, Permissions::from_mode(0o500)).unwrap();
    };
    volume.as_a_plain_user(|| {
        volume.tree("from");
        close();
    });
    let to = volume.clone_of(&from, &[]);
    let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o7777;
    assert_eq!(mode(&to), 0o500);
    assert_eq!(mode(&to.join("all/closed/inner")), 0o000);
    assert!(to.join("all/write-only/inner/file").exists());
    volume.as_a_plain_user(|| volume.remove(&to));
    volume.as_a_plain_user(|| volume.remove(&from));
}

fn what_is_mounted_in_a_tree_is_not_entered(volume: &Volume) {
    let tree = volume.tree("tree");
    let mounted = tree.join("mounted");
    fs::create_dir(&mounted).unwrap();
    let precious = volume.path("precious");
    fs::create_dir(&precious).unwrap();
    fs::write(precious.join("file"), "x").unwrap();
    let mount = std::process::Command::new("mount")
        .arg("--bind")
        .args([&precious, &mounted])
        .status();
    assert!(mount.unwrap().success());
    let removed = volume.filesystem.remove(&tree);
    if mounted.join("file").exists() {
        let unmount = std::process::Command::new("umount").arg(&mounted).status();
        assert!(unmount.unwrap().success());
        let error = chain(&removed.unwrap_err());
        assert!(error.contains("'tree/mounted'"), "{error}");
    } else {
        // The kernel takes a mount away together with the subvolume that it is in.
        assert!(removed.unwrap() && !tree.exists());
    }
    assert!(precious.join("file").exists());
}

fn a_removal_takes_a_link_and_not_what_it_points_at(volume: &Volume) {
    let tree = volume.tree("tree");
    fs::write(tree.join("file"), "x").unwrap();
    let link = volume.path("link");
    symlink(&tree, &link).unwrap();
    volume.remove(&link);
    assert!(tree.join("file").exists());
    volume.remove(&tree.join("file"));
}

fn a_removal_of_nothing_is_reported(volume: &Volume) {
    assert!(!volume.filesystem.remove(&volume.path("nothing")).unwrap());
    assert!(!volume.filesystem.remove(&volume.path("no/parent")).unwrap());
}

fn a_failed_clone_leaves_nothing_and_names_the_place(volume: &Volume) {
    let from = volume.tree("from");
    fs::create_dir_all(from.join("a/b\nc")).unwrap();
    fs::write(from.join("a/b\nc/secret"), "x").unwrap();
    fs::write(from.join("a/other"), "x").unwrap();
    fs::set_permissions(from.join("a/b\nc/secret"), Permissions::from_mode(0o000)).unwrap();
    fs::set_permissions(&from, Permissions::from_mode(0o755)).unwrap();
    let to = volume.path("clone");
    // Not the user's own, so there is no snapshot either.
    let cloned = volume.as_a_plain_user(|| volume.filesystem.clone_tree(&from, &to, &[]));
    let error = cloned.unwrap_err();
    assert_eq!(error.io().unwrap().kind(), ErrorKind::PermissionDenied);
    let story = chain(&error);
    assert!(story.contains("could not open 'a/b\\nc/secret'"), "{story}");
    assert!(!to.exists());
    let missing = volume
        .filesystem
        .clone_tree(&volume.path("missing"), &to, &[]);
    assert_eq!(
        missing.unwrap_err().io().unwrap().kind(),
        ErrorKind::NotFound
    );
    assert!(!to.exists());
}
