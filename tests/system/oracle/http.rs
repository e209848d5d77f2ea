//! Ranges and conditions as nginx answers them for the same files.
//!
//! Where nginx and RFC 9110 differ, the RFC decides: [`is_allowed`] says where, and why.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use serde_json::json;

use crate::support::daemon::{Daemon, Setup};
use crate::support::dice::{Dice, seed};
use crate::support::http::TEST_TIMEOUT;
use crate::support::{Home, Place};

/// A server that a test has started; it is killed when it is dropped.
pub struct Server {
    child: Child,
    pub port: u16,
    home: Home,
}

impl Drop for Server {
    fn drop(&mut self) {
        // SIGTERM, so that nginx takes its worker with it.
        let process = rustix::process::Pid::from_child(&self.child);
        let _ = rustix::process::kill_process(process, rustix::process::Signal::TERM);
        let _ = self.child.wait();
        if std::thread::panicking() {
            let log = fs::read_to_string(self.home.join("error.log")).unwrap_or_default();
            eprintln!("the other server said:\n{log}");
        }
    }
}

impl Server {
    /// Starts `command` with what `configure` makes of a free port and a home, and waits until it
    /// listens.
    pub fn start(
        command: impl Fn(&Path) -> Command,
        configure: impl FnOnce(u16, &Home) -> String,
    ) -> Server {
        let home = Home::on(Place::Host);
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = free.local_addr().unwrap().port();
        drop(free);
        let file = home.join("server.conf");
        fs::write(&file, configure(port, &home)).unwrap();
        let log = fs::File::create(home.join("error.log")).unwrap();
        let mut command = command(&file);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        let child = command.spawn().unwrap();
        let mut server = Server { child, port, home };
        let began = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            let ended = server.child.try_wait().unwrap();
            assert!(
                ended.is_none() && began.elapsed() < TEST_TIMEOUT,
                "it does not listen"
            );
            std::thread::yield_now();
        }
        server
    }

    /// nginx with this in its `http` block.
    pub fn nginx(http: impl FnOnce(u16, &Home) -> String) -> Server {
        Server::start(
            |file| {
                let mut command = Command::new("/usr/sbin/nginx");
                command
                    .arg("-p")
                    .arg(file.parent().unwrap())
                    .arg("-c")
                    .arg(file);
                command.args(["-e", "stderr"]);
                command
            },
            |port, home| {
                let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
                    .map(|what| format!("{what}_temp_path {}/{what};\n", home.path().display()))
                    .concat();
                format!(
                    "user root;\nworker_processes 1;\ndaemon off;\npid nginx.pid;\nevents {{}}\nhttp {{\n\
                     access_log off;\ndefault_type application/octet-stream;\n{temporary}{}\n}}\n",
                    http(port, home)
                )
            },
        )
    }
}

#[derive(Debug)]
struct Reply {
    status: u16,
    head: String,
    body: Vec<u8>,
}

impl Reply {
    fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().filter_map(|line| line.split_once(':'));
        lines
            .find(|(there, _)| there.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.trim())
    }
}

fn ask(port: u16, method: &str, path: &str, headers: &str) -> Reply {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(TEST_TIMEOUT)).unwrap();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{headers}\r\n"
    );
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let at = answer
        .windows(4)
        .position(|four| four == b"\r\n\r\n")
        .unwrap();
    let head = String::from_utf8(answer[..at].to_vec()).unwrap();
    let reply = Reply {
        status: head.split(' ').nth(1).unwrap().parse().unwrap(),
        head,
        body: answer[at + 4..].to_vec(),
    };
    if let (Some(length), false) = (reply.header("content-length"), method == "HEAD") {
        assert_eq!(length, reply.body.len().to_string(), "{headers}");
    }
    reply
}

/// What a set of ranges is to RFC 9110, read apart from the code under test: `None` where it breaks
/// the grammar of §14.1.1; else what is satisfiable of `length` bytes, in the order of the set.
fn satisfiable(range: &str, length: usize) -> Option<Vec<(usize, usize)>> {
    let (unit, set) = range.split_once('=')?;
    (unit.eq_ignore_ascii_case("bytes")).then_some(())?;
    let number = |text: &str| {
        let digits = !text.is_empty() && text.chars().all(|c| c.is_ascii_digit());
        digits.then(|| text.parse::<u128>().unwrap_or(u128::MAX))
    };
    let mut found = Vec::new();
    let specs: Vec<_> = set
        .split(',')
        .map(str::trim)
        .filter(|s| !s.is_empty())
        .collect();
    (!specs.is_empty()).then_some(())?;
    for spec in specs {
        let (first, last) = spec.split_once('-')?;
        if first.is_empty() {
            let suffix = number(last)?.min(length as u128) as usize;
            if suffix > 0 {
                found.push((length - suffix, length - 1));
            }
            continue;
        }
        let first = number(first)?;
        let last = if last.is_empty() {
            u128::MAX
        } else {
            number(last)?
        };
        (first <= last).then_some(())?;
        if first < length as u128 {
            found.push((first as usize, last.min(length as u128 - 1) as usize));
        }
    }
    Some(found)
}

/// Whether RFC 9110 allows this answer of `content`, whatever nginx does.
fn is_allowed(range: &str, content: &[u8], reply: &Reply) -> bool {
    let whole = reply.status == 200 && reply.body == content;
    let Some(parts) = satisfiable(range, content.len()) else {
        // §14.2: what is invalid may be ignored or refused; nginx refuses it.
        return whole;
    };
    match parts.as_slice() {
        // §14.2: 416; of an empty file a suffix is satisfiable, and no part of it can be named.
        [] => {
            let refused = format!("bytes */{}", content.len());
            let is_refused = reply.status == 416 && reply.header("content-range") == Some(&refused);
            is_refused || (content.is_empty() && whole)
        }
        // §15.3.7: one part comes as it is.
        [(first, last)] => is_part(content, *first, *last, reply),
        // Several may be ignored, sent in parts (as nginx does), or as one where they touch.
        several => {
            let first = several.iter().map(|part| part.0).min().unwrap();
            let last = several.iter().map(|part| part.1).max().unwrap();
            let covers = (first..=last).all(|at| several.iter().any(|p| p.0 <= at && at <= p.1));
            whole || (covers && is_part(content, first, last, reply))
        }
    }
}

fn is_part(content: &[u8], first: usize, last: usize, reply: &Reply) -> bool {
    let range = format!("bytes {first}-{last}/{}", content.len());
    reply.status == 206
        && reply.header("content-range") == Some(&range)
        && reply.body == content[first..=last]
}

fn generated(dice: &mut Dice, length: u64) -> String {
    let number = |dice: &mut Dice| match dice.up_to(8) {
        0 => "0".to_owned(),
        1 => "00".to_owned(),
        2 => length.to_string(),
        3 => "99999999999999999999999".to_owned(),
        4 => String::new(),
        _ => dice.up_to(length + 4).to_string(),
    };
    let specs: Vec<String> = (0..=dice.up_to(4).saturating_sub(1))
        .map(|_| match dice.up_to(12) {
            0 => "x".to_owned(),
            1 => String::new(),
            2 => format!("-{}", number(dice)),
            3 => format!("{}-", number(dice)),
            _ => format!("{}-{}", number(dice), number(dice)),
        })
        .collect();
    let unit = ["bytes", "bytes", "bytes", "bytes", "BYTES", "lines"][dice.up_to(6) as usize];
    let comma = [",", ", ", " ,"][dice.up_to(3) as usize];
    format!("{unit}={}", specs.join(comma))
}

const RANGES: [&str; 33] = [
    "bytes=0-0",
    "bytes=0-5",
    "bytes=5-",
    "bytes=-5",
    "bytes=-1000",
    "bytes=0-1000",
    "bytes=0-",
    "bytes=19-",
    "bytes=20-",
    "bytes=20-30",
    "bytes=-0",
    "bytes=0-5,3-8",
    "bytes=3-8,0-5",
    "bytes=0-1,4-5",
    "bytes=4-5,0-1",
    "bytes=0-5,100-200",
    "bytes=100-200,300-",
    "bytes=9-0",
    "bytes=",
    "bytes=,",
    "bytes=-",
    "bytes=a-b",
    "bytes=0-5x",
    "bytes= 0-5",
    "bytes=0-5 , 6-9",
    "bytes=0-0,-1",
    "bytes=00-05",
    "lines=0-5",
    "items",
    "bytes=0-99999999999999999999",
    "bytes=99999999999999999999-",
    "bytes=-99999999999999999999",
    "bytes=0-0,0-0,0-0,0-0",
];

/// `TAG`, `PAST` and `FUTURE` stand for the entity tag of a file and for two dates.
const CONDITIONS: [&str; 26] = [
    "If-None-Match: TAG\r\n",
    "If-None-Match: W/TAG\r\n",
    "If-None-Match: *\r\n",
    "If-None-Match: \"x\", TAG\r\n",
    "If-None-Match: \"x\"\r\n",
    "If-None-Match: x\r\n",
    "If-Match: TAG\r\n",
    "If-Match: \"x\" , TAG\r\n",
    "If-Match: *\r\n",
    "If-Match: W/TAG\r\n",
    "If-Match: \"x\"\r\n",
    "If-Match: \"x\"\r\nIf-None-Match: TAG\r\n",
    "If-Match: TAG\r\nIf-None-Match: TAG\r\n",
    "If-Match: TAG\r\nRange: bytes=0-4\r\n",
    "If-None-Match: TAG\r\nRange: bytes=0-4\r\n",
    "If-None-Match: \"x\"\r\nRange: bytes=0-4\r\n",
    "If-Range: TAG\r\nRange: bytes=0-4\r\n",
    "If-Range: \"x\"\r\nRange: bytes=0-4\r\n",
    "If-Range: W/TAG\r\nRange: bytes=0-4\r\n",
    "If-Range: \"x\"\r\nRange: bytes=100-\r\n",
    "If-Range: TAG\r\nRange: bytes=100-\r\n",
    "If-None-Match: \"x\"\r\nIf-Modified-Since: FUTURE\r\n",
    "If-Match: TAG\r\nIf-Unmodified-Since: PAST\r\n",
    "If-Modified-Since: PAST\r\n",
    "If-Unmodified-Since: FUTURE\r\n",
    "If-Range: PAST\r\nRange: bytes=0-4\r\n",
];

const PAST: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
const FUTURE: &str = "Fri, 06 Nov 2099 08:49:37 GMT";

/// The same files, served by a daemon as artifacts of a build, and by nginx.
struct Files {
    daemon: Daemon,
    nginx: Server,
    id: String,
    directory: PathBuf,
}

impl Files {
    fn new() -> Files {
        let daemon = Setup::on(Place::Host)
            .script(
                "ranges",
                "cd artifacts; printf 0123456789abcdefghij > twenty.txt; : > empty.txt; printf x > one.txt\n\
                 head -c 100000 /dev/zero | tr '\\0' z > large.txt; printf 'said\\nthat\\n'",
            )
            .start();
        let info = daemon.succeed(json!({ "project": "ranges" }));
        let id = info["ID"].as_str().unwrap().to_owned();
        let directory = daemon.ready("ranges", &id).join("data/artifacts");
        let log = daemon.ready("ranges", &id).join("out.log");
        fs::copy(log, directory.join("log.txt")).unwrap();
        let nginx = Server::nginx(|port, _| {
            format!(
                "server {{ listen 127.0.0.1:{port}; root {}; }}",
                directory.display()
            )
        });
        Files {
            daemon,
            nginx,
            id,
            directory,
        }
    }

    fn port(&self) -> u16 {
        self.daemon.port().parse().unwrap()
    }

    /// The path of an artifact on the daemon.
    fn path(&self, name: &str) -> String {
        format!("/artifacts/ranges/{}/{name}", self.id)
    }
}

/// What is compared of an answer: the status, the range, and the body if it is no error.
fn compared(reply: &Reply) -> (u16, Option<&str>, &[u8]) {
    let body = if reply.status >= 400 {
        &[]
    } else {
        &*reply.body
    };
    (reply.status, reply.header("content-range"), body)
}

#[test]
fn ranges_are_those_of_nginx_or_of_the_standard_where_they_differ() {
    let files = Files::new();
    let ours = files.port();
    let mut ranges = RANGES.map(str::to_owned).to_vec();
    let seed = seed();
    let mut dice = Dice::of(seed);
    let many = match std::env::var_os("MISTRY_SOAK") {
        Some(_) => 3_000,
        None => 150,
    };
    ranges.extend((0..many).map(|_| generated(&mut dice, 20)));
    let mut differences = 0;
    for (name, path) in [
        ("empty.txt", files.path("empty.txt")),
        ("one.txt", files.path("one.txt?inline")),
        ("twenty.txt", files.path("twenty.txt")),
        ("large.txt", files.path("large.txt?inline")),
        ("log.txt", format!("/log/ranges/{}?text", files.id)),
    ] {
        let content = fs::read(files.directory.join(name)).unwrap();
        for range in &ranges {
            let header = format!("Range: {range}\r\n");
            let reply = ask(ours, "GET", &path, &header);
            assert!(
                is_allowed(range, &content, &reply),
                "{range} of {name} (seed {seed}): {}",
                reply.head
            );
            let theirs = ask(files.nginx.port, "GET", &format!("/{name}"), &header);
            if compared(&reply) != compared(&theirs) {
                differences += 1;
                let parts = satisfiable(range, content.len());
                let is_several = parts.as_ref().is_some_and(|parts| parts.len() > 1);
                // nginx refuses numbers past 64 bits, and empty elements of a list (§5.6.1.2).
                let is_large = range.contains("9999999999999999999");
                let mut specs = range.split([',', '=']).map(str::trim);
                let is_odd = is_large || specs.any(str::is_empty);
                assert!(
                    parts.is_none() || is_several || is_odd || content.is_empty(),
                    "{range} of {name} (seed {seed}): ours {} theirs {}",
                    reply.head,
                    theirs.head
                );
            }
            // §14.2: a HEAD has no ranges. nginx answers it like a GET.
            let head = ask(ours, "HEAD", &path, &header);
            assert_eq!(head.status, 200, "{range}");
            assert_eq!(
                head.header("content-length"),
                Some(&*content.len().to_string())
            );
            assert!(head.body.is_empty());
        }
    }
    // nginx has been asked, and mostly agrees on what it does not refuse.
    let asked = ranges.len() * 5;
    assert!(differences < asked * 3 / 4, "{differences} of {asked}");
}

#[test]
fn conditions_are_those_of_nginx_or_of_the_standard_where_they_differ() {
    let files = Files::new();
    let ours = files.port();
    let path = files.path("twenty.txt");
    let tag = |port, path| {
        ask(port, "GET", path, "")
            .header("etag")
            .unwrap()
            .to_owned()
    };
    let (our_tag, their_tag) = (tag(ours, &path), tag(files.nginx.port, "/twenty.txt"));
    assert!(our_tag.starts_with('"'), "{our_tag}");
    for headers in CONDITIONS {
        for method in ["GET", "HEAD"] {
            if method == "HEAD" && headers.contains("Range:") {
                continue;
            }
            let headers = headers.replace("PAST", PAST).replace("FUTURE", FUTURE);
            let reply = ask(ours, method, &path, &headers.replace("TAG", &our_tag));
            let with_tag = headers.replace("TAG", &their_tag);
            let theirs = ask(files.nginx.port, method, "/twenty.txt", &with_tag);
            let expected = match &*headers {
                // §13.2.2: If-Match decides alone. nginx looks at the date as well.
                both if both.contains("If-Match") && both.contains("Unmodified") => 200,
                _ => theirs.status,
            };
            assert_eq!(reply.status, expected, "{method} {headers}");
            if reply.status == 304 || reply.status == 200 {
                assert_eq!(reply.header("etag"), Some(&*our_tag));
            }
        }
    }
    // Ours have no date (§13.1.3 and §13.1.4: ignored then); nginx has one.
    for headers in [
        "If-Modified-Since: FUTURE\r\n",
        "If-Unmodified-Since: PAST\r\n",
    ] {
        let headers = headers.replace("PAST", PAST).replace("FUTURE", FUTURE);
        let reply = ask(ours, "GET", &path, &headers);
        assert_eq!(
            (reply.status, reply.header("last-modified")),
            (200, None),
            "{headers}"
        );
    }
}
