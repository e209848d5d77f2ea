//! Tests that fetched artifacts keep modes, times, links and holes, whatever the order and format of the
//! stream.

use std::ffi::OsString;
use std::fs::{self, File, Permissions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use tar::{Builder, EntryType, Header};
use tokio_util::sync::CancellationToken;

use super::Error;
use super::local::{Source, walk};
use super::target::Target;
use super::unpack::unpack;
use crate::cli::progress::Progress;
use crate::filesystem::Filesystem;

const SPARSE: u64 = 64 << 20;

fn target(path: &Path) -> Target {
    Target::open(path, Progress::hidden(), CancellationToken::new()).unwrap()
}

fn copy_tree(from: &Path, to: &Path) -> Result<(), Error> {
    let root: OwnedFd = File::open(from).unwrap().into();
    walk(root, from, &mut target(to), Source::Artifacts)
}

fn header(kind: EntryType, mode: u32, seconds: u64, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_mtime(seconds);
    header.set_size(size);
    header
}

fn two() -> (tempfile::TempDir, PathBuf, PathBuf) {
    let home = tempfile::tempdir().unwrap();
    let (from, to) = (home.path().join("from"), home.path().join("to"));
    fs::create_dir(&from).unwrap();
    fs::create_dir(&to).unwrap();
    (home, from, to)
}

fn mode(path: &Path) -> u32 {
    path.symlink_metadata().unwrap().mode() & 0o7777
}

#[test]
fn directories_keep_modes_and_times_in_whatever_order_their_entries_come() {
    let (_home, _, to) = two();
    let mut tar = Builder::new(Vec::new());
    let mut add = |kind, name: &str, mode, seconds| {
        tar.append_data(&mut header(kind, mode, seconds, 0), name, io::empty())
            .unwrap();
    };
    // All names of a directory first, then what is in each, the last one first.
    add(EntryType::Directory, "a", 0o2555, 100);
    add(EntryType::Directory, "b", 0o700, 200);
    add(EntryType::Directory, "b/c", 0, 300);
    add(EntryType::Regular, "b/c/file", 0o4000, 400);
    add(EntryType::Regular, "a/file", 0o644, 500);
    add(EntryType::Regular, "b/late", 0o666, 600);
    unpack(&tar.into_inner().unwrap()[..], &mut target(&to)).unwrap();
    for (name, expected, seconds) in [
        ("a", 0o555, 100),
        ("b", 0o700, 200),
        ("b/c", 0, 300),
        ("b/c/file", 0, 400),
        ("b/late", 0o666, 600),
    ] {
        let path = to.join(name);
        assert_eq!(mode(&path), expected, "{name}");
        assert_eq!(path.metadata().unwrap().mtime(), seconds, "{name}");
    }
}

#[test]
fn an_existing_directory_gets_the_mode_of_the_artifacts() {
    let (_home, from, to) = two();
    for (parent, bits) in [(&from, 0o555), (&to, 0o2777)] {
        fs::create_dir(parent.join("d")).unwrap();
        fs::write(parent.join("d/file"), "").unwrap();
        fs::set_permissions(parent.join("d"), Permissions::from_mode(bits)).unwrap();
    }
    copy_tree(&from, &to).unwrap();
    assert_eq!(mode(&to.join("d")), 0o555);
    // And one that is not among them keeps its own.
    fs::create_dir(to.join("other")).unwrap();
    fs::set_permissions(to.join("other"), Permissions::from_mode(0o1500)).unwrap();
    let mut tar = Builder::new(Vec::new());
    let file = &mut header(EntryType::Regular, 0o600, 0, 0);
    tar.append_data(file, "other/file", io::empty()).unwrap();
    unpack(&tar.into_inner().unwrap()[..], &mut target(&to)).unwrap();
    assert_eq!(mode(&to.join("other")), 0o1500);
    assert!(to.join("other/file").exists());
}

#[test]
fn a_file_that_was_in_the_target_gets_no_hard_link() {
    let (_home, _, to) = two();
    for name in ["mine", "d/mine"] {
        fs::create_dir_all(to.join("d")).unwrap();
        fs::write(to.join(name), "mine").unwrap();
        symlink("mine", to.join("link")).unwrap_or(());
        for old in [name, "link", "d", "absent", "absent/too", "link/x"] {
            let mut tar = Builder::new(Vec::new());
            let entry = &mut header(EntryType::Link, 0o644, 0, 0);
            tar.append_link(entry, "second", old).unwrap();
            let error = unpack(&tar.into_inner().unwrap()[..], &mut target(&to)).unwrap_err();
            assert!(matches!(error, Error::Hostile(..)), "{old}: {error:?}");
            assert!(!to.join("second").exists());
            assert!(!to.join("absent").exists());
        }
    }
    assert_eq!(fs::read_dir(&to).unwrap().count(), 3);
}

#[test]
fn hard_links_are_made_in_closed_directories_and_to_symbolic_links() {
    let (_home, from, to) = two();
    for name in ["a", "b"] {
        fs::create_dir(from.join(name)).unwrap();
    }
    fs::write(from.join("a/file"), "x").unwrap();
    fs::hard_link(from.join("a/file"), from.join("b/file")).unwrap();
    symlink("nowhere", from.join("a/link")).unwrap();
    fs::hard_link(from.join("a/link"), from.join("b/link")).unwrap();
    for name in ["a", "b"] {
        fs::set_permissions(from.join(name), Permissions::from_mode(0o555)).unwrap();
    }
    copy_tree(&from, &to).unwrap();
    copy_tree(&from, &to).unwrap();
    for name in ["file", "link"] {
        let inode = |parent: &str| to.join(parent).join(name).symlink_metadata().unwrap();
        assert_eq!(inode("a").ino(), inode("b").ino(), "{name}");
        assert_eq!(inode("a").nlink(), 2, "{name}");
    }
    assert_eq!(fs::read_dir(to.join("a")).unwrap().count(), 2);
}

#[test]
fn holes_are_kept_and_zeros_become_holes() {
    let (_home, from, to) = two();
    let file = File::create(from.join("sparse")).unwrap();
    file.write_all_at(b"middle", SPARSE / 2).unwrap();
    file.set_len(SPARSE).unwrap();
    copy_tree(&from, &to).unwrap();
    let mut tar = Builder::new(Vec::new());
    tar.sparse(false);
    let mut dense = File::open(from.join("sparse")).unwrap();
    tar.append_file("zeros", &mut dense).unwrap();
    tar.sparse(true);
    tar.append_file("gnu", &mut File::open(from.join("sparse")).unwrap())
        .unwrap();
    unpack(&tar.into_inner().unwrap()[..], &mut target(&to)).unwrap();
    for name in ["sparse", "zeros", "gnu"] {
        let file = File::open(to.join(name)).unwrap();
        let found = file.metadata().unwrap();
        assert_eq!(found.len(), SPARSE, "{name}");
        assert!(found.blocks() * 512 < 1 << 20, "{name}: {}", found.blocks());
        let mut middle = [0; 8];
        file.read_exact_at(&mut middle, SPARSE / 2 - 1).unwrap();
        assert_eq!(&middle, b"\0middle\0", "{name}");
    }
}

#[test]
fn many_segments_of_a_sparse_file_are_written_at_their_offsets() {
    let (_home, from, to) = two();
    let file = File::create(from.join("sparse")).unwrap();
    for n in 0..200_u64 {
        file.write_all_at(&[n as u8 + 1; 5], n * (1 << 20) + 77)
            .unwrap();
    }
    let mut tar = Builder::new(Vec::new());
    tar.append_file("sparse", &mut File::open(from.join("sparse")).unwrap())
        .unwrap();
    let tar = tar.into_inner().unwrap();
    assert!(tar.len() < 4 << 20, "the test's own tar is not sparse");
    unpack(&tar[..], &mut target(&to)).unwrap();
    let same = |name: &Path| fs::read(name).unwrap();
    assert!(same(&from.join("sparse")) == same(&to.join("sparse")));
}

#[test]
fn an_inconsistent_map_of_holes_is_refused() {
    let map = |pieces: &[(u64, u64)], size: u64, length: u64| {
        let mut header = header(EntryType::GNUSparse, 0o644, 0, size);
        let gnu = header.as_gnu_mut().unwrap();
        gnu.name[0] = b'x';
        gnu.set_real_size(length);
        for (to, (offset, length)) in gnu.sparse.iter_mut().zip(pieces) {
            to.set_offset(*offset);
            to.set_length(*length);
        }
        header.set_cksum();
        let mut tar = Builder::new(Vec::new());
        tar.append(&header, io::repeat(b'x').take(size)).unwrap();
        tar.into_inner().unwrap()
    };
    use std::io::Read;
    for (bytes, good) in [
        (map(&[(0, 5), (10, 5), (20, 0)], 10, 20), true),
        (map(&[(0, 5)], 6, 20), false),
        (map(&[(10, 5), (0, 5)], 10, 20), false),
        (map(&[(0, 5), (4, 5)], 10, 20), false),
        (map(&[(18, 5)], 5, 20), false),
        (
            map(&[(1 << 62, 1 << 62), (u64::MAX >> 1, 5)], 5, u64::MAX >> 1),
            false,
        ),
    ] {
        let (_home, _, to) = two();
        assert_eq!(unpack(&bytes[..], &mut target(&to)).is_ok(), good);
        assert_eq!(fs::read_dir(&to).unwrap().count(), usize::from(good));
    }
}

#[test]
fn times_are_exact_and_may_be_before_1970() {
    for (text, seconds, nanos) in [
        ("1000000000.25", 1_000_000_000, 250_000_000),
        ("1000000000.1234567899", 1_000_000_000, 123_456_789),
        ("-1.25", -2, 750_000_000),
        ("-0.5", -1, 500_000_000),
        ("-5", -5, 0),
        ("7", 7, 0),
    ] {
        let (_home, _, to) = two();
        let mut tar = Builder::new(Vec::new());
        tar.append_pax_extensions([("mtime", text.as_bytes())])
            .unwrap();
        let file = &mut header(EntryType::Regular, 0o644, 1, 0);
        tar.append_data(file, "x", io::empty()).unwrap();
        unpack(&tar.into_inner().unwrap()[..], &mut target(&to)).unwrap();
        let found = to.join("x").metadata().unwrap();
        assert_eq!(
            (found.mtime(), found.mtime_nsec()),
            (seconds, nanos),
            "{text}"
        );
    }
    // The times are in the header itself: GNU tar's binary numbers.
    let (_home, _, to) = two();
    let mut file = header(EntryType::Regular, 0o644, 0, 0);
    let field = &mut file.as_old_mut().mtime;
    field.fill(0xff);
    field[11] = 0xfe;
    let mut tar = Builder::new(Vec::new());
    tar.append_data(&mut file, "x", io::empty()).unwrap();
    unpack(&tar.into_inner().unwrap()[..], &mut target(&to)).unwrap();
    assert_eq!(to.join("x").metadata().unwrap().mtime(), -2);
}

#[test]
fn trees_of_any_depth_and_names_of_any_bytes_are_unpacked() {
    let (_home, from, to) = two();
    // One step at a time, since the kernel does not accept a path of this length.
    let mut here: OwnedFd = File::open(&from).unwrap().into();
    let name = "d".repeat(200);
    for _ in 0..300 {
        rustix::fs::mkdirat(&here, name.as_str(), 0o755.into()).unwrap();
        let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::DIRECTORY;
        here = rustix::fs::openat(&here, name.as_str(), flags, rustix::fs::Mode::empty()).unwrap();
    }
    let flags = rustix::fs::OFlags::CREATE | rustix::fs::OFlags::WRONLY;
    let odd = OsString::from_vec(b"-\n* :\xff[x]".to_vec());
    rustix::fs::openat(&here, &*odd, flags, 0o644.into()).unwrap();
    copy_tree(&from, &to).unwrap();
    // The same by a tar, whose name is 60,000 bytes long.
    let mut long = vec![name.clone().into_bytes(); 300].join(&b'/');
    long.extend(b"/second");
    let mut tar = Builder::new(Vec::new());
    let mut longer = header(EntryType::GNULongName, 0, 0, long.len() as u64);
    longer.set_cksum();
    tar.append(&longer, &long[..]).unwrap();
    let mut file = header(EntryType::Regular, 0o644, 0, 0);
    file.set_cksum();
    tar.append(&file, io::empty()).unwrap();
    unpack(&tar.into_inner().unwrap()[..], &mut target(&to)).unwrap();

    let mut here: OwnedFd = File::open(&to).unwrap().into();
    for _ in 0..300 {
        let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::DIRECTORY;
        here = rustix::fs::openat(&here, name.as_str(), flags, rustix::fs::Mode::empty()).unwrap();
    }
    let mut names = super::local::names(std::os::fd::AsFd::as_fd(&here)).unwrap();
    names.sort();
    assert_eq!(names, [odd, "second".into()]);
    super::target::clear(&to, None).unwrap();
    assert_eq!(fs::read_dir(&to).unwrap().count(), 0);
    Filesystem::Plain.remove(&from).unwrap();
}
