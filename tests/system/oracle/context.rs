//! What of a project reaches its image, compared with `docker build`.
//!
//! Docker's client decides what of a directory is sent, so it is asked to send projects to a
//! recorder in place of an Engine, several hundred of them; the Engine decides what of that is in
//! an image, so some are built by it. Differences are those of docs/operations.md and no others.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::SystemTime;

use mistry::project::Projects;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::sent::{EARLIEST, Recorder, Tree, docker, has_todays_patterns, unpack};
use crate::support::{Home, Place, word};

/// What we send of a project, or what we say when we refuse.
fn ours(project: &Path) -> Result<Tree, String> {
    let tar = our_tar(project)?;
    Ok(unpack(&tar))
}

fn our_tar(project: &Path) -> Result<Vec<u8>, String> {
    let name = project.file_name().unwrap().to_str().unwrap();
    let projects = Projects::new(project.parent().unwrap());
    let context = projects.context(&name.parse().unwrap());
    let mut tar = Vec::new();
    context
        .and_then(|context| context.write_tar(&mut tar, &[]))
        .map_err(|error| error.to_string())?;
    Ok(tar)
}

/// Something below a project.
#[derive(Clone, Debug)]
enum Kind {
    File(u32, Vec<u8>),
    Directory(u32),
    Link(&'static [u8]),
    /// Another name of the file that was made before.
    Twin,
    Fifo,
    Socket,
}

#[derive(Clone, Debug)]
struct Made {
    path: Vec<&'static [u8]>,
    kind: Kind,
    time: i64,
}

#[rustfmt::skip]
const NAMES: &[&[u8]] = &[
    b"a", b"b", b"ab", b"sub", b"keep", b"jeep", b"foo", b"b.log", b"x.log", b"node_modules",
    b"xnode_modules", b"#x", b"!a", b"a b", b" a", b"[a]", b"a]", b"*", b"\xc3\xa9", b"\xff",
    b"\xe2\x82", b"a\\b", b"a\nb", b"5", b"-", b"^", b"a^b", b"{a}", b"a$", b"A", b".hid",
    b"mistry.json",
];

#[rustfmt::skip]
const TARGETS: &[&[u8]] = &[
    b"a", b"none", b"./sub//a/", b"../x", b"/etc/passwd", b"\xff", b"a b",
    b"long/long/long/long/long/long/long/long/long/long/long/long/long/long/long/long/long/long/long/long/long",
];

/// Patterns that are whole lines.
#[rustfmt::skip]
const LINES: &[&[u8]] = &[
    b"a", b"sub", b"*", b"**", b"foo/", b"/a", b"!/a", b"../foo", b"# c", b"", b"#x", b" a ",
    b".", b"!.", b"!keep", b"!sub/a", b"!sub", b"!a/b", b"!foo/x.log", b"!Dockerfile",
    b"Dockerfile", b".dockerignore", b"mistry.json", b"a/*", b"*/*", b"!*/b", b"!a/**",
    b"!**/b.log", b"**/*.log", b"sub/**/b", b"**/node_modules", b"[ab]", b"[^a-z]", b"?",
];

/// Pieces of patterns, today's meaning of which older Dockers do not know.
#[rustfmt::skip]
const PIECES: &[&[u8]] = &[
    b"**", b"*", b"?", b"[", b"]", b"[^", b"[!", b"-", b"/", b"/", b"\\", b"a", b"b", b"ab",
    b"keep", b"eep", b"foo", b".log", b"node_modules", b"sub", b"!", b"#", b" ", b".", b"..",
    b"\xc3\xa9", b"\xff", b"\\d", b"\\W", b"\\b", b"\\pL", b"\\PL", b"\\p{Lu}", b"\\Q", b"\\E",
    b"\\x41", b"\\x{61}", b"\\101", b"[[:alpha:]]", b"[[:^digit:]]", b"\\.", b"^", b"$", b"{a}",
    b"{2}", b"{0,1}", b"{1,}", b"{", b"}", b"|", b"+", b"(", b")", b"\t", b"\r", b"\xc2\xa0",
    b"\xef\xbb\xbf", b"\0", b"[a-z]", b"[z-a]", b"\\B", b"\\A", b"\\z", b"\\s", b"**/", b"/**",
];

const TIMES: [i64; 8] = [
    -86_400,
    0,
    EARLIEST - 1,
    EARLIEST,
    EARLIEST + 1,
    1_700_000_000,
    4_000_000_000,
    10_000_000_000,
];

fn made() -> impl Strategy<Value = Vec<Made>> {
    let mode = prop::sample::select(vec![
        0o644, 0o664, 0o755, 0o775, 0o600, 0o777, 0o444, 0o4755, 0o2775, 0o1777, 0o6711, 0o000,
    ]);
    let content = prop::collection::vec(any::<u8>(), 0..600);
    let kind = prop_oneof![
        8 => (mode.clone(), content).prop_map(|(mode, content)| Kind::File(mode, content)),
        3 => mode.prop_map(Kind::Directory),
        2 => prop::sample::select(TARGETS.to_vec()).prop_map(Kind::Link),
        1 => Just(Kind::Twin),
        1 => Just(Kind::Fifo),
        1 => Just(Kind::Socket),
    ];
    let path = prop::collection::vec(prop::sample::select(NAMES.to_vec()), 1..4);
    let time = prop::sample::select(TIMES.to_vec());
    let one = (path, kind, time).prop_map(|(path, kind, time)| Made { path, kind, time });
    prop::collection::vec(one, 1..14)
}

/// The text of a `.dockerignore`, if there is one.
fn ignore(has_todays: bool) -> impl Strategy<Value = Option<Vec<u8>>> {
    let line = prop::sample::select(LINES.to_vec()).prop_map(<[u8]>::to_vec);
    let pieces = prop::collection::vec(prop::sample::select(PIECES.to_vec()), 1..6);
    let today = pieces.prop_map(|pieces| pieces.concat());
    let line = match has_todays {
        true => prop_oneof![line, today].boxed(),
        false => line.boxed(),
    };
    let lines = prop::collection::vec(line, 0..7);
    let end = prop::sample::select(vec![&b"\n"[..], b"\n", b"\r\n"]);
    let text = (lines, end, any::<bool>(), prop::bool::weighted(0.1));
    let text = text.prop_map(|(lines, end, is_ended, has_mark)| {
        let mark: &[u8] = if has_mark { b"\xef\xbb\xbf" } else { b"" };
        let last = if is_ended { end } else { b"" };
        [mark, &lines.join(end), last].concat()
    });
    prop::option::weighted(0.9, text)
}

fn set_time(path: &Path, seconds: i64, nanoseconds: u32) {
    use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, utimensat};
    let at = Timespec {
        tv_sec: seconds,
        tv_nsec: nanoseconds.into(),
    };
    let times = Timestamps {
        last_access: at,
        last_modification: at,
    };
    utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

fn make_fifo(path: &Path) {
    let kind = rustix::fs::FileType::Fifo;
    let mode = rustix::fs::Mode::from_raw_mode(0o644);
    rustix::fs::mknodat(rustix::fs::CWD, path, kind, mode, 0).unwrap();
}

/// Makes a project of what was thrown; what a name before is in the way of is left out.
fn write_project(project: &Path, made: &[Made], ignore: Option<&[u8]>) {
    fs::create_dir(project).unwrap();
    fs::write(project.join("Dockerfile"), "FROM scratch\nCOPY . /ctx\n").unwrap();
    let mut last_file: Option<PathBuf> = None;
    let mut times = Vec::new();
    for Made { path, kind, time } in made {
        let path: PathBuf = path.iter().map(|name| OsStr::from_bytes(name)).collect();
        let is_settings = path.starts_with("mistry.json");
        let path = project.join(path);
        let parent = path.parent().unwrap();
        // A project whose settings are not a file is refused, as documented.
        if is_settings && (parent != project || !matches!(kind, Kind::File(..))) {
            continue;
        }
        if path.symlink_metadata().is_ok() || fs::create_dir_all(parent).is_err() {
            continue;
        }
        match kind {
            Kind::File(mode, content) => {
                fs::write(&path, content).unwrap();
                fs::set_permissions(&path, Permissions::from_mode(*mode)).unwrap();
                last_file = Some(path.clone());
            }
            Kind::Directory(mode) => {
                fs::create_dir(&path).unwrap();
                fs::set_permissions(&path, Permissions::from_mode(*mode)).unwrap();
            }
            Kind::Link(target) => symlink(OsStr::from_bytes(target), &path).unwrap(),
            Kind::Twin => match &last_file {
                Some(file) => fs::hard_link(file, &path).unwrap(),
                None => continue,
            },
            Kind::Fifo => make_fifo(&path),
            Kind::Socket => drop(UnixListener::bind(&path).unwrap()),
        }
        times.push((path, *time));
    }
    if let Some(text) = ignore {
        fs::write(project.join(".dockerignore"), text).unwrap();
    }
    // Those of directories last, since what is made inside changes them.
    for (path, time) in times {
        set_time(&path, time, 999_999_999);
    }
}

/// Compares what both send, but for which name of a file with several comes first.
fn compare(project: &Path, docker: Result<Tree, String>) {
    let ours = ours(project);
    let (docker, ours) = match (docker, ours) {
        (Err(_), Err(_)) => return,
        (Ok(docker), Ok(ours)) => (docker, ours),
        (docker, ours) => panic!("Docker: {docker:?}\nours: {ours:?}"),
    };
    let names = |tree: &Tree| -> BTreeSet<String> {
        tree.keys()
            .map(|name| name.escape_ascii().to_string())
            .collect()
    };
    assert_eq!(names(&docker), names(&ours));
    let docker: Tree = docker
        .into_iter()
        .map(|(name, packed)| (name, packed.expected()))
        .collect();
    let (docker, ours) = (untwined(docker), untwined(ours));
    for (name, packed) in &docker {
        assert_eq!(packed, &ours[name], "{}", name.escape_ascii());
    }
}

/// The tree with each name of one file as the file, and as its target all of its names.
fn untwined(tree: Tree) -> Tree {
    let first = |name: &Vec<u8>| match &tree[name] {
        packed if packed.kind == b'1' => packed.target.clone(),
        _ => name.clone(),
    };
    let mut names: BTreeMap<Vec<u8>, Vec<&[u8]>> = BTreeMap::new();
    for name in tree.keys() {
        names.entry(first(name)).or_default().push(name);
    }
    let untwined = tree.keys().map(|name| {
        let first = first(name);
        let mut packed = tree[&first].clone();
        if names[&first].len() > 1 {
            packed.target = names[&first].join(&b'\n');
        }
        (name.clone(), packed)
    });
    untwined.collect()
}

fn runner(cases: u32, in_soak: u32) -> TestRunner {
    let is_soak = std::env::var_os("MISTRY_SOAK").is_some();
    TestRunner::new(Config {
        cases: if is_soak { in_soak } else { cases },
        failure_persistence: None,
        max_shrink_iters: 200,
        ..Config::default()
    })
}

#[test]
fn what_is_sent_of_a_project_is_what_dockers_client_sends() {
    let home = Home::on(Place::Tmpfs);
    let recorder = Recorder::at(home.join("engine"));
    let cases = (made(), ignore(has_todays_patterns()));
    let result = runner(200, 5_000).run(&cases, |(made, ignore)| {
        let project = home.join("p");
        write_project(&project, &made, ignore.as_deref());
        let compared = std::panic::catch_unwind(|| compare(&project, recorder.record(&project)));
        fs::remove_dir_all(&project).unwrap();
        compared.map_err(|why| {
            let text = why.downcast_ref::<String>().cloned();
            TestCaseError::fail(text.unwrap_or_default())
        })
    });
    result.unwrap_or_else(|error| panic!("{error}"));
}

#[test]
fn a_dockerignore_of_any_kind_is_taken_or_refused_as_docker_does() {
    let home = Home::on(Place::Tmpfs);
    let recorder = Recorder::at(home.join("engine"));
    let utf16 = |text: &str| -> Vec<u8> {
        let letters = "\u{feff}".encode_utf16().chain(text.encode_utf16());
        letters.flat_map(u16::to_le_bytes).collect()
    };
    let comments = [b"# ", &b"c".repeat(1_000)[..], b"\n"].concat();
    let big = [comments.repeat(10_000), b"*.log\n".to_vec()].concat();
    let line = |length: usize, end: &str| {
        // A comment, since Docker's time for a pattern grows with the square of its length.
        let comment = [b"#", &b"a".repeat(length - 1)[..]].concat();
        [b"x.log\n", &comment[..], end.as_bytes(), b"b.log"].concat()
    };
    let mut texts = vec![
        b"".to_vec(),
        b"\n".to_vec(),
        utf16("*.log\r\nb\r\n"),
        b"\xef\xbb\xbf# comment\n\xef\xbb\xbfb\nx.log".to_vec(),
        b"\xe9*\nb.log\n\xe9".to_vec(),
        b"b.log\0\n*\0\n".to_vec(),
        b"x.log\rb.log\n".to_vec(),
        b"!\n".to_vec(),
        b"b\n ! \n".to_vec(),
        b"!/\n".to_vec(),
        b"/\n!/..\n".to_vec(),
        b"[\n".to_vec(),
        b"b\\\n".to_vec(),
        b"[]a]\n".to_vec(),
        b"[a-]\n".to_vec(),
        b"\\#x\n \\#x\n".to_vec(),
        b" #x\n".to_vec(),
        b"./b/../x.log//\n".to_vec(),
        b"*\n!.dockerignore\n!Dockerfile\n".to_vec(),
        b"*\n!sub\n".to_vec(),
        b"sub\n!sub/b\n!**/x.log\n".to_vec(),
        b"**\n!sub/**/x.log\n".to_vec(),
        line(65_534, "\n"),
        line(65_535, "\n"),
        line(65_536, "\n"),
        line(65_534, "\r\n"),
        line(65_535, "\r\n"),
        [b"#".repeat(65_535), b"\nb.log".to_vec()].concat(),
        b"#".repeat(65_535),
        b"#".repeat(65_536),
        big,
    ];
    if has_todays_patterns() {
        let today: [&[u8]; 14] = [
            b"**.log",
            b"sub/**b",
            b"[!k]eep",
            b"../foo",
            b"**node_modules",
            b"foo/",
            b"a|b",
            b"a{2}",
            b"*{2}",
            b"|{2}",
            b"\\xff",
            b"\\p{Greek}",
            b"\\8",
            b"![z-a]",
        ];
        texts.extend(today.map(<[u8]>::to_vec));
    }
    for text in texts {
        let project = home.join("p");
        fs::create_dir_all(project.join("sub/deep")).unwrap();
        fs::create_dir(project.join("foo")).unwrap();
        fs::write(project.join("Dockerfile"), "FROM scratch\n").unwrap();
        for name in [
            "b",
            "aa",
            "b.log",
            "x.log",
            "#x",
            "keep",
            "jeep",
            "a|b",
            "node_modules",
            "foo/f",
            "sub/b",
            "sub/x.log",
            "sub/deep/b",
            "sub/deep/x.log",
            "sub/bb",
        ] {
            fs::write(project.join(name), "1").unwrap();
        }
        fs::write(project.join(OsStr::from_bytes(b"\xe9")), "1").unwrap();
        fs::write(project.join(".dockerignore"), &text).unwrap();
        println!("{}", text[..text.len().min(60)].escape_ascii());
        compare(&project, recorder.record(&project));
        fs::remove_dir_all(&project).unwrap();
    }
}

#[test]
fn a_dockerignore_that_is_no_file_is_never_waited_for() {
    let home = Home::on(Place::Tmpfs);
    let project = home.join("p");
    fs::create_dir(&project).unwrap();
    fs::write(project.join("Dockerfile"), "FROM scratch\n").unwrap();
    let at = project.join(".dockerignore");
    make_fifo(&at);
    // Docker waits until it is written to.
    assert!(ours(&project).unwrap_err().contains("is a FIFO"));
    fs::remove_file(&at).unwrap();
    let device = rustix::fs::makedev(1, 3);
    let kind = rustix::fs::FileType::CharacterDevice;
    let mode = rustix::fs::Mode::from_raw_mode(0o644);
    rustix::fs::mknodat(rustix::fs::CWD, &at, kind, mode, device).unwrap();
    assert!(ours(&project).unwrap_err().contains("is a device"));
}

#[test]
fn capabilities_devices_and_long_names_are_sent_as_dockers_client_sends_them() {
    let home = Home::on(Place::Ext4);
    let recorder = Recorder::at(home.join("engine"));
    let project = home.join("p");
    let long = "l".repeat(200);
    fs::create_dir_all(project.join(&long).join(&long)).unwrap();
    fs::write(project.join("Dockerfile"), "FROM scratch\n").unwrap();
    for name in ["second", "third"] {
        fs::write(project.join(name), "1").unwrap();
    }
    // CAP_NET_BIND_SERVICE as revision 2, and as revision 3 with an owner.
    let second = [1, 0, 0, 2, 0, 4, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let mut third = [second, second].concat();
    third.truncate(24);
    third[3] = 3;
    third[20..].copy_from_slice(&1_000_u32.to_le_bytes());
    for (name, capability) in [("second", &second[..]), ("third", &third)] {
        let flags = rustix::fs::XattrFlags::empty();
        let path = project.join(name);
        rustix::fs::setxattr(&path, "security.capability", capability, flags).unwrap();
    }
    fs::write(project.join(&long).join(&long).join(&long), "1").unwrap();
    symlink(format!("{long}/{long}"), project.join("to")).unwrap();
    let sparse = File::create(project.join("sparse")).unwrap();
    sparse.set_len(1 << 20).unwrap();
    let mode = rustix::fs::Mode::from_raw_mode(0o666);
    for (name, kind) in [
        ("c", rustix::fs::FileType::CharacterDevice),
        ("b", rustix::fs::FileType::BlockDevice),
    ] {
        let device = rustix::fs::makedev(7, 261);
        rustix::fs::mknodat(rustix::fs::CWD, project.join(name), kind, mode, device).unwrap();
    }
    compare(&project, recorder.record(&project));
    let sent = ours(&project).unwrap();
    assert_eq!(sent[&b"third"[..]].capability, second);
    assert_eq!(sent[&b"c"[..]].kind, b'3');
}

/// Runs `docker` at the Engine of the tests, which must agree.
fn engine(args: &[&str], stdin: Stdio) -> Vec<u8> {
    let output = Command::new("docker")
        .args(args)
        .env("DOCKER_BUILDKIT", "0")
        .stdin(stdin)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "docker {args:?}: {said}");
    output.stdout
}

/// What the last layer of an image holds.
fn last_layer(image: &str) -> Tree {
    let saved = engine(&["save", image], Stdio::null());
    let mut layers = Vec::new();
    for entry in tar::Archive::new(&saved[..]).entries().unwrap() {
        let mut entry = entry.unwrap();
        let mut content = Vec::new();
        entry.read_to_end(&mut content).unwrap();
        // A layer is a tar, whatever its name is; the rest is JSON and text.
        if content.len() >= 512 && content[257..].starts_with(b"ustar") {
            layers.push(content);
        }
    }
    assert_eq!(layers.len(), 1, "{image}");
    unpack(&layers[0])
}

#[test]
fn what_an_image_holds_of_a_project_is_what_docker_build_puts_there() {
    let home = Home::on(Place::Ext4);
    let name = format!("mistry-oracle-{}", word());
    let began = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let began = began.unwrap().as_secs().cast_signed() - 1;
    let build = |project: &Path, tag: &str| -> Result<Tree, String> {
        let image = format!("{name}:{tag}");
        // What is found in the cache would be compared with itself.
        let args = ["build", "-q", "--no-cache", "-t", &image];
        let output = match tag {
            "docker" => docker(&args, None, project),
            _ => {
                let tar = project.with_extension("tar");
                fs::write(&tar, our_tar(project)?).unwrap();
                let mut command = Command::new("docker");
                command.args(args).arg("-").env("DOCKER_BUILDKIT", "0");
                command.stdin(File::open(tar).unwrap()).output().unwrap()
            }
        };
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).into_owned());
        }
        let tree = last_layer(&image);
        engine(&["rmi", "-f", &image], Stdio::null());
        Ok(tree)
    };
    let check = |project: &Path| {
        let theirs = build(project, "docker");
        let ours = build(project, "ours");
        let (theirs, ours) = match (theirs, ours) {
            (Ok(theirs), Ok(ours)) => (theirs, ours),
            (Err(_), Err(_)) => return,
            (theirs, ours) => panic!("Docker: {theirs:?}\nours: {ours:?}"),
        };
        let normal = |tree: Tree| {
            let tree = tree.into_iter().map(|(name, mut packed)| {
                // Directories of which only something below was sent are made by the Engine.
                packed.time = packed.time.min(began);
                (name, packed.expected())
            });
            untwined(tree.collect())
        };
        let (theirs, ours) = (normal(theirs), normal(ours));
        let names = |tree: &Tree| -> Vec<String> {
            tree.keys()
                .map(|name| name.escape_ascii().to_string())
                .collect()
        };
        assert_eq!(names(&theirs), names(&ours));
        for (name, packed) in &theirs {
            assert_eq!(packed, &ours[name], "{}", name.escape_ascii());
        }
    };
    // Docker takes the recipe and the patterns out of the image where they are excluded.
    for text in [
        "*\n!kept\n",
        "Dockerfile\n",
        ".dockerignore\nmistry.json",
        "d\n!d/b\n",
    ] {
        let project = home.join("p");
        write_project(&project, &[], Some(text.as_bytes()));
        fs::create_dir(project.join("d")).unwrap();
        for name in ["kept", "a", "d/a", "d/b", "mistry.json"] {
            fs::write(project.join(name), name).unwrap();
            set_time(&project.join(name), 1_600_000_000, 7);
        }
        check(&project);
        fs::remove_dir_all(&project).unwrap();
    }
    let cases = (made(), ignore(false));
    let result = runner(5, 200).run(&cases, |(made, ignore)| {
        let project = home.join("p");
        write_project(&project, &made, ignore.as_deref());
        let checked = std::panic::catch_unwind(|| check(&project));
        fs::remove_dir_all(&project).unwrap();
        checked.map_err(|why| {
            let text = why.downcast_ref::<String>().cloned();
            TestCaseError::fail(text.unwrap_or_default())
        })
    });
    result.unwrap_or_else(|error| panic!("{error}"));
}
