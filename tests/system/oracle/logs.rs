//! Logs: what a container writes is what each interface returns, byte for byte. The file that the
//! container prints says what is right, and `docker run` proves that the container prints it.

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use serde_json::{Value, json};

use crate::support::Place;
use crate::support::daemon::{Daemon, Setup};
use crate::support::http;

/// Prints the bytes of two params.
const PRINT: &str = "touch artifacts/made\n\
    cd params\n\
    base64 -d out\n\
    if [ -e err ]; then base64 -d err >&2; fi";

fn daemon() -> Daemon {
    let daemon = Setup::on(Place::Tmpfs).script("print", PRINT).start();
    // Its image is there from now on: what the build of an image prints is in the first log only.
    daemon.succeed(json!({"project": "print", "params": {"out": ""}}));
    daemon
}

/// Bytes that a reader might cut, join, replace or drop.
fn cases() -> Vec<Vec<u8>> {
    let line = |length: usize| [vec![b'x'; length], b"\n".to_vec()].concat();
    let mut cases: Vec<Vec<u8>> = [
        "",
        "\n",
        "one\n\n\ntwo\n",
        "no end",
        "1%\r2%\r100%\n",
        "1%\r2%",
        "\r",
        "\r\r\n",
        "windows\r\nlines\r\n\nnul\0in\0line\n\0",
        "\u{feff}mark\n  spaces \n\t\n\u{1b}[31mred\u{1b}[0m\n\u{1b}]0;title\u{7}\u{1b}[2J",
        "data: x\n\nevent: end\ndata: {}\n\n\u{2028}\u{85}\u{b}\u{c}\n",
    ]
    .map(|text| text.as_bytes().to_vec())
    .into();
    cases.push(b"\xff\xfe\n\xc3\n\xe2\x82".to_vec());
    cases.push((0..=255).cycle().take(70_000).collect());
    let letters = format!("x{}", "é".repeat(40_000));
    cases.push(letters.clone().into_bytes());
    cases.push(format!("{letters}\n").into_bytes());
    cases.push(format!("{letters}\nshort\n{letters}").into_bytes());
    // Around the entries of Docker's log, and the pieces of ours.
    for length in [16_383, 16_384, 16_385, 32_768, 65_536] {
        cases.push(line(length));
        cases.push(vec![b'x'; length]);
        cases.push([line(length), line(3), line(0), line(length)].concat());
    }
    cases
}

fn generated() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..60),
        "[a\r\n\u{0}\u{1b}é😀]{0,30}".prop_map(String::into_bytes),
        (any::<u8>(), 1..5usize, 0..3usize).prop_map(|(byte, count, more)| vec![
            byte;
            count * (16 << 10)
                + more
                - 1
        ]),
        (1..50_000usize).prop_map(|count| "é".repeat(count).into_bytes()),
        Just(b"\n".to_vec()),
    ];
    prop::collection::vec(piece, 0..8).prop_map(|pieces| pieces.concat())
}

/// The bytes that the events of a log stand for.
fn bytes_of_events(body: &[u8]) -> Vec<u8> {
    let text = std::str::from_utf8(body).unwrap();
    let mut log = Vec::new();
    for event in text.split("\n\n") {
        let field = |name: &str| {
            let mut values = event.lines().filter_map(|line| line.strip_prefix(name));
            values.next()
        };
        if field("event: ") != Some("log") {
            continue;
        }
        match field("bytes: ") {
            Some(encoded) => log.extend(STANDARD.decode(encoded).unwrap()),
            None => {
                log.extend(field("data: ").unwrap().as_bytes());
                log.push(b'\n');
            }
        }
        assert_eq!(field("id: ").unwrap(), log.len().to_string());
    }
    log
}

#[track_caller]
fn same(way: &str, found: &[u8], expected: &[u8]) {
    if found == expected {
        return;
    }
    let at = found
        .iter()
        .zip(expected)
        .position(|(one, other)| one != other);
    let at = at.unwrap_or(found.len().min(expected.len()));
    let around = |bytes: &[u8]| {
        let part = &bytes[at.saturating_sub(20)..bytes.len().min(at + 20)];
        part.escape_ascii().to_string()
    };
    panic!(
        "{way}: {} bytes for {}; from byte {at} on \"{}\" for \"{}\"",
        found.len(),
        expected.len(),
        around(found),
        around(expected),
    );
}

struct Printed<'a> {
    daemon: &'a Daemon,
    id: String,
    verbose: Vec<u8>,
}

/// Has a container print the bytes; what `mistry build --verbose` shows of it.
fn print<'a>(daemon: &'a Daemon, name: &str, bytes: &[u8], err: Option<&[u8]>) -> Printed<'a> {
    let place = |kind: &str| daemon.home().join(format!("{name}-{kind}"));
    let target = format!("--target={}", place("target").display());
    let mut arguments = ["build", "--verbose", "--project=print", &target, "--"]
        .map(str::to_owned)
        .to_vec();
    let mut given = |kind: &str, bytes: &[u8]| {
        fs::write(place(kind), STANDARD.encode(bytes)).unwrap();
        arguments.push(format!("--{kind}=@{}", place(kind).display()));
    };
    given("out", bytes);
    if let Some(err) = err {
        given("err", err);
    }
    given("case", name.as_bytes());
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let built = daemon.mistry(&arguments);
    let said = String::from_utf8_lossy(&built.stdout).into_owned();
    let errors = String::from_utf8_lossy(&built.stderr);
    let end = errors.chars().rev().take(200).collect::<String>();
    let end: String = end.chars().rev().collect();
    assert!(built.status.success(), "{said}{end}");
    let id = said
        .split(|letter: char| !letter.is_ascii_hexdigit())
        .find(|word| word.len() == 64)
        .unwrap_or_else(|| panic!("no id in {said}"));
    Printed {
        daemon,
        id: id.to_owned(),
        verbose: built.stderr,
    }
}

impl Printed<'_> {
    fn file(&self) -> Vec<u8> {
        let path: PathBuf = self.daemon.ready("print", &self.id).join("out.log");
        fs::read(path).unwrap()
    }

    /// Every way gives these bytes.
    #[track_caller]
    fn is(&self, name: &str, expected: &[u8]) {
        let way = |way: &str| format!("case {name}, {way}");
        same(&way("out.log"), &self.file(), expected);
        same(&way("build --verbose"), &self.verbose, expected);
        for arguments in [
            ["logs", "print/", ""].as_slice(),
            ["logs", "-f", "print/"].as_slice(),
        ] {
            let mut arguments: Vec<String> = arguments
                .iter()
                .filter(|word| !word.is_empty())
                .map(|word| (*word).to_owned())
                .collect();
            arguments.last_mut().unwrap().push_str(&self.id);
            let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
            let shown = self.daemon.mistry(&arguments);
            assert!(shown.status.success(), "{arguments:?}");
            same(&way(&arguments.join(" ")), &shown.stdout, expected);
        }
        let path = format!("/log/print/{}", self.id);
        let ask = |accept| {
            let headers = [("accept", accept)];
            http::ask(self.daemon.address(), "GET", &path, &headers, b"")
        };
        let events = ask("text/event-stream");
        same(&way("events"), &bytes_of_events(&events.body), expected);
        same(&way("text"), &ask("text/plain").body, expected);
    }
}

/// What `docker run` prints, given these bytes to print.
fn docker_run(image: &str, bytes: &[u8]) -> Vec<u8> {
    let mut docker = Command::new("docker")
        .args([
            "run",
            "--rm",
            "-i",
            "--network",
            "none",
            "--log-driver",
            "none",
        ])
        .args(["--entrypoint", "/bin/busybox", image, "base64", "-d"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut into = docker.stdin.take().unwrap();
    into.write_all(STANDARD.encode(bytes).as_bytes()).unwrap();
    drop(into);
    let ran = docker.wait_with_output().unwrap();
    assert!(ran.status.success());
    ran.stdout
}

#[test]
fn a_log_is_the_same_over_every_interface_and_is_what_the_container_wrote() {
    let daemon = daemon();
    let mut all = cases();
    let long = [vec![b'x'; 10 << 20], "é".repeat(1 << 17).into_bytes()].concat();
    all.push(long);
    let fixed = all.len();
    let more = match std::env::var_os("MISTRY_SOAK") {
        Some(_) => 300,
        None => 8,
    };
    let mut runner = TestRunner::default();
    for _ in 0..more {
        all.push(generated().new_tree(&mut runner).unwrap().current());
    }
    let all: Vec<(usize, Vec<u8>)> = all.into_iter().enumerate().collect();
    // As many at once as there are slots.
    let share = all.len().div_ceil(4);
    std::thread::scope(|scope| {
        for part in all.chunks(share) {
            let daemon = &daemon;
            scope.spawn(move || {
                for (number, bytes) in part {
                    let name = number.to_string();
                    print(daemon, &name, bytes, None).is(&name, bytes);
                }
            });
        }
    });
    let id = daemon.get("/index/?project=print&limit=1").json();
    let image = id[0]["buildInfo"]["Image"].as_str().unwrap().to_owned();
    for (number, bytes) in all.iter().take(fixed).step_by(6) {
        let way = format!("case {number}, docker run");
        same(&way, &docker_run(&image, bytes), bytes);
    }
}

/// Which of the two comes first the kernel and the Engine decide; what each of them holds, they do not.
#[test]
fn both_outputs_are_complete_where_they_are_mixed() {
    let daemon = daemon();
    let lines = |tag: &str, count: usize| {
        let line = |n: usize| format!("{tag} {n} {}\n", tag.repeat(n * 37 % 40_000));
        (0..count).map(line).collect::<String>()
    };
    let (out, err) = (lines("o", 200), lines("e", 200));
    let printed = print(&daemon, "mixed", out.as_bytes(), Some(err.as_bytes()));
    let log = String::from_utf8(printed.file()).unwrap();
    let of = |tag: char| {
        let lines = log.split_inclusive('\n');
        lines
            .filter(|line| line.starts_with(tag))
            .collect::<String>()
    };
    same("standard output", of('o').as_bytes(), out.as_bytes());
    same("standard error", of('e').as_bytes(), err.as_bytes());
    printed.is("mixed", log.as_bytes());
}

/// Pieces of lines of both outputs in turn, lines of a mebibyte, and no newline at the end: the letters and line
/// ends of the two differ, so what each wrote can be told apart wherever an Engine cuts it.
#[test]
fn lines_of_a_mebibyte_and_pieces_of_both_outputs_in_turn_are_whole() {
    let script = "for n in $(seq 300); do printf A$n; printf b >&2; printf '\\n'; printf '\\r' >&2; done\n\
        for n in 1 2; do head -c 1048576 /dev/zero | tr '\\0' C; echo; head -c 1048575 /dev/zero | tr '\\0' d >&2\n\
        printf '\\r' >&2; done\n\
        head -c 16384 /dev/zero | tr '\\0' E; head -c 20000 /dev/zero | tr '\\0' f >&2";
    let daemon = Setup::on(Place::Tmpfs).script("turns", script).start();
    daemon.succeed(json!({"project": "turns"}));
    let again = daemon.succeed(json!({"project": "turns", "params": {"again": ""}}));
    let file = daemon
        .ready("turns", again["ID"].as_str().unwrap())
        .join("out.log");
    let log = fs::read(file).unwrap();
    let only = |letters: &[u8]| -> Vec<u8> {
        let mut bytes = log.clone();
        bytes.retain(|byte| letters.contains(byte));
        bytes
    };
    let mut out: Vec<u8> = (1..=300)
        .flat_map(|n| format!("A{n}\n").into_bytes())
        .collect();
    let mut err = b"b\r".repeat(300);
    for _ in 0..2 {
        out.extend([vec![b'C'; 1 << 20], b"\n".to_vec()].concat());
        err.extend([vec![b'd'; (1 << 20) - 1], b"\r".to_vec()].concat());
    }
    out.extend([b'E'; 16 << 10]);
    err.extend([b'f'; 20_000]);
    same("standard output", &only(b"ACE0123456789\n"), &out);
    same("standard error", &only(b"bdf\r"), &err);
}

/// A daemon that is killed while a build prints goes on where its log ends, also within a long line.
#[test]
fn a_log_is_whole_though_the_daemon_was_killed_meanwhile() {
    let script = "mkfifo gate; seq 40000 | tr '\\n' ' '; echo; echo begun; read -r _ < gate || :\n\
        seq 50000 | tr '\\n' ' '; echo; echo over";
    let mut daemon = Setup::on(Place::Tmpfs).script("gated", script).start();
    let id = daemon.submit(json!({"project": "gated"}));
    daemon.until("gated", &id, "begun");
    daemon.kill();
    daemon.start();
    daemon.release("gated", &id);
    let info: Value = daemon.wait("gated", &id);
    assert_eq!(info["Outcome"], "succeeded", "{info}");
    let numbers = |to: u32| (1..=to).map(|n| format!("{n} ")).collect::<String>();
    let printed = format!("{}\nbegun\n{}\nover\n", numbers(40_000), numbers(50_000));
    let log = fs::read(daemon.ready("gated", &id).join("out.log")).unwrap();
    let at = log.len().saturating_sub(printed.len());
    same("out.log", &log[at..], printed.as_bytes());
}
