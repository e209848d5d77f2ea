//! Tests of artifacts and targets that try to write outside, and of ordinary ones.

use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use tar::{Builder, EntryType, Header};
use tokio_util::sync::CancellationToken;

use super::local::{Source, walk};
use super::target::{Target, clear};
use super::unpack::unpack;
use super::{Error, options::tests::options};
use crate::cli::progress::Progress;
use crate::client::{Client, scripted::Scripted};

/// A target, and a directory beside it that must not change.
struct Fixture {
    dir: tempfile::TempDir,
}

impl Fixture {
    fn new() -> Fixture {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("target")).unwrap();
        std::fs::create_dir(dir.path().join("outside")).unwrap();
        std::fs::write(dir.path().join("outside/secret"), "secret").unwrap();
        Fixture { dir }
    }

    fn target(&self) -> std::path::PathBuf {
        self.dir.path().join("target")
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.target().join(name)).unwrap()
    }

    fn unpack(&self, tar: &[u8]) -> Result<u64, Error> {
        let mut target =
            Target::open(&self.target(), Progress::hidden(), CancellationToken::new())?;
        let unpacked = unpack(tar, &mut target);
        assert_eq!(
            std::fs::read_to_string(self.dir.path().join("outside/secret")).unwrap(),
            "secret"
        );
        let beside = |path: &Path| std::fs::read_dir(path).unwrap().count();
        assert_eq!(beside(&self.dir.path().join("outside")), 1);
        assert_eq!(beside(self.dir.path()), 2);
        let left = std::fs::read_dir(self.target()).unwrap();
        for entry in left {
            let name = entry.unwrap().file_name();
            assert!(
                !name.as_bytes().starts_with(b".mistry-"),
                "{name:?} is left"
            );
        }
        unpacked.map(|()| target.files())
    }
}

/// An entry with an unchanged name and link, which the builder would refuse.
fn add(tar: &mut Builder<Vec<u8>>, kind: EntryType, name: &str, link: &str, data: &[u8]) {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(0o6755);
    header.set_mtime(1_000_000_000);
    header.set_size(data.len() as u64);
    let raw = header.as_gnu_mut().unwrap();
    raw.name[..name.len()].copy_from_slice(name.as_bytes());
    raw.linkname[..link.len()].copy_from_slice(link.as_bytes());
    header.set_cksum();
    tar.append(&header, data).unwrap();
}

fn tar(entries: &[(EntryType, &str, &str, &[u8])]) -> Vec<u8> {
    let mut tar = Builder::new(Vec::new());
    for (kind, name, link, data) in entries {
        add(&mut tar, *kind, name, link, data);
    }
    tar.into_inner().unwrap()
}

const FILE: EntryType = EntryType::Regular;
const DIR: EntryType = EntryType::Directory;
const LINK: EntryType = EntryType::Symlink;
const HARD: EntryType = EntryType::Link;

#[test]
fn packed_files_are_unpacked_unchanged() {
    let fixture = Fixture::new();
    let long = format!("{}/{}", "d".repeat(120), "f".repeat(200));
    let mut tar = Builder::new(Vec::new());
    add(&mut tar, DIR, "./", "", b"");
    add(&mut tar, DIR, "./a/", "", b"");
    add(&mut tar, FILE, "./a/.hidden", "", b"hello");
    add(&mut tar, LINK, "a/link", "../../outside/secret", b"");
    add(&mut tar, HARD, "same", "a/.hidden", b"");
    add(&mut tar, FILE, "empty", "", b"");
    let mut header = Header::new_gnu();
    header.set_mode(0o444);
    header.set_size(3);
    tar.append_data(&mut header, &long, &b"abc"[..]).unwrap();
    let fields = [("mtime", &b"1000000000.25"[..]), ("path", b"pax/\xff")];
    tar.append_pax_extensions(fields).unwrap();
    add(&mut tar, FILE, "short", "", b"pax");
    assert_eq!(fixture.unpack(&tar.into_inner().unwrap()).unwrap(), 6);

    assert_eq!(fixture.read("a/.hidden"), "hello");
    assert_eq!(fixture.read("same"), "hello");
    assert_eq!(fixture.read(&long), "abc");
    let target = fixture.target();
    let of = |name: &str| target.join(name).symlink_metadata().unwrap();
    assert_eq!(of("a/.hidden").ino(), of("same").ino());
    assert_eq!(
        std::fs::read_link(target.join("a/link")).unwrap(),
        Path::new("../../outside/secret")
    );
    for name in ["a", "a/.hidden", "a/link", "empty"] {
        assert_eq!(of(name).mtime(), 1_000_000_000, "{name}");
        assert_eq!(of(name).permissions().mode() & 0o7000, 0, "{name}");
    }
    assert_eq!(of("a/.hidden").mode() & 0o100, 0o100);
    assert_eq!(of(&long).mode() & 0o777, 0o444);
    let pax = target.join(std::ffi::OsStr::from_bytes(b"pax/\xff"));
    let pax = pax.symlink_metadata().unwrap();
    assert_eq!((pax.len(), pax.mtime_nsec()), (3, 250_000_000));
}

#[test]
fn nothing_is_written_outside_the_target() {
    let absolute = Fixture::new();
    let outside = absolute.dir.path().join("outside/secret");
    let outside = outside.to_str().unwrap();
    for entries in [
        &[(FILE, "../outside/secret", "", &b"owned"[..])][..],
        &[(FILE, "a/../../outside/secret", "", b"owned")],
        &[(FILE, outside, "", b"owned")],
        &[(DIR, "../new", "", b"")],
        &[(LINK, "../new", "x", b"")],
        &[(HARD, "x", "../outside/secret", b"")],
        &[(HARD, "x", outside, b"")],
        &[(LINK, "l", "../outside", b""), (HARD, "x", "l/secret", b"")],
        &[(EntryType::Char, "x", "", b"")],
        &[(EntryType::Block, "x", "", b"")],
        &[(EntryType::Fifo, "x", "", b"")],
        &[(FILE, "./", "", b"owned")],
        &[(LINK, "x", "", b"")],
    ] {
        let fixture = Fixture::new();
        assert!(fixture.unpack(&tar(entries)).is_err(), "{entries:?}");
        assert_eq!(absolute.unpack(&tar(&[])).unwrap(), 0);
    }
}

#[test]
fn an_entry_through_a_link_replaces_the_link() {
    for (link, to) in [("l", "../outside"), ("l", "/etc"), ("l", ".")] {
        let fixture = Fixture::new();
        let bytes = tar(&[(LINK, link, to, b""), (FILE, "l/secret", "", b"mine")]);
        fixture.unpack(&bytes).unwrap();
        assert!(
            fixture
                .target()
                .join("l")
                .symlink_metadata()
                .unwrap()
                .is_dir()
        );
        assert_eq!(fixture.read("l/secret"), "mine");
    }
}

#[test]
fn links_in_the_target_are_replaced_and_not_followed() {
    let fixture = Fixture::new();
    let target = fixture.target();
    symlink("../outside/secret", target.join("file")).unwrap();
    symlink("../outside", target.join("dir")).unwrap();
    std::fs::write(target.join("link"), "old").unwrap();
    std::fs::create_dir(target.join("empty")).unwrap();
    let bytes = tar(&[
        (FILE, "file", "", b"new"),
        (DIR, "dir/", "", b""),
        (FILE, "dir/secret", "", b"new"),
        (LINK, "link", "file", b""),
        (FILE, "empty", "", b"new"),
        // If an entry occurs twice, the later one counts.
        (FILE, "file", "", b"newer"),
    ]);
    fixture.unpack(&bytes).unwrap();
    assert_eq!(fixture.read("file"), "newer");
    assert_eq!(fixture.read("dir/secret"), "new");
    assert_eq!(fixture.read("link"), "newer");
    assert_eq!(fixture.read("empty"), "new");
}

#[test]
fn no_file_that_was_in_the_target_gets_a_hard_link() {
    for (name, link) in [("twin", "mine"), ("mine", "twin"), ("a/b", "mine")] {
        let fixture = Fixture::new();
        std::fs::write(fixture.target().join("mine"), "mine").unwrap();
        let bytes = tar(&[(DIR, "a/", "", b""), (HARD, name, link, b"")]);
        let error = fixture.unpack(&bytes).unwrap_err();
        assert!(matches!(error, Error::Hostile(..)), "{error:?}");
        let mine = fixture.target().join("mine").metadata().unwrap();
        assert_eq!(mine.nlink(), 1, "{name}");
    }
    // A new file replaces the existing one, and is another file.
    let fixture = Fixture::new();
    std::fs::hard_link(
        fixture.dir.path().join("outside/secret"),
        fixture.target().join("mine"),
    )
    .unwrap();
    let bytes = tar(&[(FILE, "mine", "", b"new"), (HARD, "twin", "mine", b"")]);
    fixture.unpack(&bytes).unwrap();
    assert_eq!(
        (fixture.read("mine"), fixture.read("twin")),
        ("new".into(), "new".into())
    );
}

#[test]
fn a_directory_replaced_by_a_link_during_a_transfer_is_not_followed() {
    let fixture = Fixture::new();
    let target = fixture.target();
    let mut opened = Target::open(&target, Progress::hidden(), CancellationToken::new()).unwrap();
    let at = super::metadata::Modified {
        seconds: 0,
        nanos: 0,
    };
    opened.make_directory(Path::new("d"), 0o755, at).unwrap();
    // Between two files, and between a file and its name.
    let draft = opened.begin_file(Path::new("d/first")).unwrap();
    std::fs::rename(target.join("d"), target.join("moved")).unwrap();
    symlink("../outside", target.join("d")).unwrap();
    opened
        .finish_file(Path::new("d/first"), draft, 0o644, at)
        .unwrap();
    let draft = opened.begin_file(Path::new("d/secret")).unwrap();
    opened
        .finish_file(Path::new("d/secret"), draft, 0o644, at)
        .unwrap();
    opened.make_directory(Path::new("e"), 0o755, at).unwrap();
    let draft = opened.begin_file(Path::new("d/secret")).unwrap();
    opened
        .finish_file(Path::new("d/secret"), draft, 0o644, at)
        .unwrap();
    opened.finish().unwrap();
    let outside = fixture.dir.path().join("outside");
    assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 1);
    assert_eq!(
        std::fs::read_to_string(outside.join("secret")).unwrap(),
        "secret"
    );
    assert!(target.join("d").symlink_metadata().unwrap().is_dir());
}

#[test]
fn a_directory_with_files_is_not_replaced_by_a_file() {
    let fixture = Fixture::new();
    std::fs::create_dir(fixture.target().join("x")).unwrap();
    std::fs::write(fixture.target().join("x/mine"), "mine").unwrap();
    let error = fixture
        .unpack(&tar(&[(FILE, "x", "", b"new")]))
        .unwrap_err();
    assert!(matches!(error, Error::InTheWay(_)), "{error:?}");
    assert_eq!(fixture.read("x/mine"), "mine");
}

#[test]
fn a_link_made_twice_leaves_nothing_behind() {
    let fixture = Fixture::new();
    let bytes = tar(&[
        (FILE, "a", "", b"x"),
        (HARD, "b", "a", b""),
        (HARD, "b", "a", b""),
        (HARD, "a", "a", b""),
    ]);
    fixture.unpack(&bytes).unwrap();
    assert_eq!(std::fs::read_dir(fixture.target()).unwrap().count(), 2);
}

#[test]
fn a_truncated_stream_is_an_error_wherever_it_ends() {
    let whole = tar(&[(FILE, "a", "", &[b'x'; 700]), (FILE, "b", "", b"y")]);
    // The stream is read up to the end mark; padding follows.
    for end in [
        0, 1, 512, 600, 1_200, 1_300, 1_536, 2_048, 2_049, 2_560, 2_700,
    ] {
        let fixture = Fixture::new();
        let error = fixture.unpack(&whole[..end]).unwrap_err();
        assert!(matches!(error, Error::Torn(_)), "{end}: {error:?}");
        let has = |name: &str| fixture.target().join(name).exists();
        assert_eq!(has("a"), end >= 1_536, "{end}");
        assert_eq!(has("b"), end >= 2_560, "{end}");
    }
    assert_eq!(Fixture::new().unpack(&whole[..3_072]).unwrap(), 2);
}

#[test]
fn damaged_and_endless_headers_are_refused_in_bounded_memory() {
    let mut damaged = tar(&[(FILE, "a", "", b"x")]);
    damaged[0] ^= 1;
    assert!(matches!(
        Fixture::new().unpack(&damaged),
        Err(Error::Hostile(..))
    ));

    let mut header = Header::new_gnu();
    header.set_entry_type(EntryType::GNULongName);
    header.set_size(u64::MAX >> 2);
    header.set_cksum();
    let endless = header.as_bytes().chain(io::repeat(b'x'));
    let fixture = Fixture::new();
    let mut target = Target::open(
        &fixture.target(),
        Progress::hidden(),
        CancellationToken::new(),
    )
    .unwrap();
    assert!(matches!(
        unpack(endless, &mut target),
        Err(Error::Hostile(..))
    ));

    let mut tail = tar(&[]);
    tail.resize(4 << 20, 0);
    assert!(matches!(
        Fixture::new().unpack(&tail),
        Err(Error::Hostile(..))
    ));
}

#[test]
fn emptying_a_target_follows_no_links() {
    let fixture = Fixture::new();
    let target = fixture.target();
    symlink("../outside", target.join("dir")).unwrap();
    symlink("../outside/secret", target.join("file")).unwrap();
    std::fs::create_dir_all(target.join("a/b")).unwrap();
    std::fs::write(target.join(".hidden"), "").unwrap();
    clear(&target, Some("kept".as_ref())).unwrap();
    assert_eq!(std::fs::read_dir(&target).unwrap().count(), 0);
    fixture.unpack(&tar(&[])).unwrap();
}

#[test]
fn local_files_are_copied_and_links_and_pipes_are_not_followed() {
    for source in [Source::Artifacts, Source::Stage { scp_path_len: None }] {
        let fixture = Fixture::new();
        let from = fixture.dir.path().join("target/from");
        std::fs::create_dir_all(from.join("d/e")).unwrap();
        std::fs::write(from.join("d/e/.f"), "text").unwrap();
        let executable = std::fs::Permissions::from_mode(0o4755);
        std::fs::set_permissions(from.join("d/e/.f"), executable).unwrap();
        symlink("/etc", from.join("link")).unwrap();
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        rustix::fs::mkfifoat(rustix::fs::CWD, from.join("pipe"), mode).unwrap();
        let to = fixture.dir.path().join("target/to");
        std::fs::create_dir(&to).unwrap();
        let mut target = Target::open(&to, Progress::hidden(), CancellationToken::new()).unwrap();
        let opened = std::fs::File::open(&from).unwrap().into();
        walk(opened, &from, &mut target, source).unwrap();
        assert_eq!(target.files(), 2);
        assert_eq!(std::fs::read_to_string(to.join("d/e/.f")).unwrap(), "text");
        assert_eq!(to.join("d/e/.f").metadata().unwrap().mode() & 0o7777, 0o755);
        assert_eq!(
            std::fs::read_link(to.join("link")).unwrap(),
            Path::new("/etc")
        );
        assert!(to.join("pipe").symlink_metadata().is_err());
        assert_eq!(from.join("d/e/.f").exists(), source == Source::Artifacts);
    }
}

#[tokio::test]
async fn artifacts_are_received_compressed_or_not_and_truncated_ones_are_an_error() {
    let bytes = tar(&[(DIR, "d", "", b""), (FILE, "d/a", "", &[b'x'; 9_000])]);
    let zstd = zstd::encode_all(&bytes[..], 1).unwrap();
    let answer = |encoding: &str, length: usize, body: &[u8]| {
        let head = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: application/x-tar\r\n{encoding}Content-Length: {length}\r\n\r\n"
        );
        [head.as_bytes(), body].concat()
    };
    let close = |body: &[u8]| [&b"HTTP/1.0 200 OK\r\n\r\n"[..], body].concat();
    let compressed = "Content-Encoding: zstd\r\n";
    for (script, whole) in [
        (answer("", bytes.len(), &bytes), true),
        (answer(compressed, zstd.len(), &zstd), true),
        (close(&bytes), true),
        (answer("", bytes.len(), &bytes[..5_000]), false),
        (
            answer(compressed, zstd.len(), &zstd[..zstd.len() / 2]),
            false,
        ),
        (
            answer(compressed, zstd.len() / 2, &zstd[..zstd.len() / 2]),
            false,
        ),
        // A server without lengths that ends between two entries.
        (close(&bytes[..512]), false),
        (answer("Content-Encoding: br\r\n", 0, b""), false),
    ] {
        let server = Scripted::start(vec![script]).await;
        let client = Client::new(server.address(), None);
        let dir = tempfile::tempdir().unwrap();
        let info = crate::api::BuildView {
            project: "p".to_owned(),
            id: "a".repeat(64),
            ..Default::default()
        };
        let fetched = super::fetch(&client, &info, &options(dir.path())).await;
        assert_eq!(fetched.is_ok(), whole, "{fetched:?}");
        assert_eq!(dir.path().join("d/a").exists(), whole);
        assert!(server.asked()[0].contains("accept-encoding: zstd"));
    }
}
