//! The web view: the cost of a first visit, its time with few and with many builds, the delay until a
//! line of a log is visible, and the memory that a long log takes in the browser.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::daemon::{Daemon, project};
use crate::http::Connection;
use crate::index::{build, keeping};
use crate::logs::printing;
use crate::support::browser::Browser;
use crate::{Figure, median};

const FEW: usize = 10;
const MANY: usize = 100_000;
/// Visits of which the middle one counts.
const VISITS: usize = 21;
/// Lines of which the middle one counts, for each of the two who watch.
const LINES: usize = 30;
/// What a first visit may bring over the network.
const FIRST_PAINT_LIMIT: f64 = 50.0;
const LONG_LOG: usize = 100 << 20;
/// Parts of a log that are looked at, one after the other, before its page is weighed.
const PLACES: usize = 200;
const KIB: f64 = 1024.0;
const MIB: f64 = 1024.0 * 1024.0;

pub fn measure() -> Vec<Figure> {
    let few = visited(FEW);
    let many = visited(MANY);
    let (page, line) = lines();
    let (short, long) = (held(10 * LINE.len()), held(LONG_LOG));
    vec![
        Figure::new(
            "first visit of /",
            few.kilobytes,
            "KiB",
            "limit",
            FIRST_PAINT_LIMIT,
        ),
        Figure::new(
            "requests of a first visit",
            few.requests,
            "requests",
            "the page alone",
            1.0,
        ),
        Figure::new(
            "first paint of /, 100,000 builds",
            many.paint,
            "ms",
            "with 10 builds",
            few.paint,
        ),
        Figure::new(
            "log line, container to page",
            page,
            "ms",
            "to a bare client",
            line,
        ),
        Figure::new(
            "scripts' memory after a 100 MB log",
            long.heap,
            "MiB",
            "a log of ten lines",
            short.heap,
        ),
        Figure::new(
            "process' memory after a 100 MB log",
            long.resident,
            "MiB",
            "a log of ten lines",
            short.resident,
        ),
    ]
}

/// A visit of `/`.
struct Visited {
    kilobytes: f64,
    requests: f64,
    /// Milliseconds from the click to the first text.
    paint: f64,
}

fn visited(builds: usize) -> Visited {
    let daemon = keeping(builds);
    // The index is whole before anything is measured.
    Connection::tcp(daemon.port).ask("GET", "/index/?limit=50", "");

    let browser = Browser::at(&format!("127.0.0.1:{}", daemon.port));
    browser.open("/");
    browser.wait_until(PAINTED);
    let requests = browser.requests();
    let bytes: u64 = requests.iter().map(|request| request.bytes).sum();
    let visits = (0..VISITS).map(|_| {
        browser.open("/");
        browser.wait_until(PAINTED);
        browser.eval(PAINT).as_f64().unwrap()
    });
    let paint = median(visits.collect());
    browser.end();
    Visited {
        kilobytes: bytes as f64 / KIB,
        requests: requests.len() as f64,
        paint,
    }
}

const PAINT: &str = "performance.getEntriesByName('first-contentful-paint')[0]?.startTime";
const PAINTED: &str = "performance.getEntriesByName('first-contentful-paint').length > 0 && document.readyState === 'complete'";

/// Milliseconds that a line takes from the container into a page, and to a client that only reads.
fn lines() -> (f64, f64) {
    let (daemon, id, stream) = printing();
    let mut bare = BufReader::new(stream).lines().map_while(Result::ok);
    bare.find(|line| line.ends_with("ready")).unwrap();
    let browser = Browser::at(&format!("127.0.0.1:{}", daemon.port));
    browser.open(&format!("/job/trivial/{id}"));
    browser.wait_for_text("body", "ready");
    browser.eval(WATCH);

    let gate = daemon
        .builds()
        .join(format!("trivial/pending/{id}/data/cache/gate"));
    let mut gate = File::options().write(true).open(gate).unwrap();
    let (mut in_page, mut at_client) = (Vec::new(), Vec::new());
    for n in 0..LINES {
        let marker = format!("line-{n:04}");
        let began = now();
        writeln!(gate, "{marker}").unwrap();
        bare.find(|line| line.ends_with(&marker)).unwrap();
        at_client.push(now() - began);
        let seen = format!("seen[{}]", serde_json::json!(marker));
        browser.wait_until(&format!("{seen} !== undefined"));
        in_page.push(browser.eval(&seen).as_f64().unwrap() - began);
    }
    drop(gate);
    browser.end();
    (median(in_page), median(at_client))
}

/// Notes when the frame is drawn in which a line is seen first, by the clock that we have too.
const WATCH: &str = r"(() => {
    window.seen = {};
    const log = document.querySelector('#log');
    const draws = new MessageChannel();
    let drawn = [];
    draws.port1.onmessage = () => {
        const at = performance.timeOrigin + performance.now();
        for (const marker of drawn) seen[marker] ??= at;
    };
    const note = () => {
        drawn = [...log.textContent.matchAll(/line-\d{4}/g)].map(([marker]) => marker);
        // What is posted before a frame is received after it.
        requestAnimationFrame(() => draws.port2.postMessage(null));
    };
    new MutationObserver(note).observe(log, {subtree: true, childList: true, characterData: true});
})()";

/// Milliseconds of this host's clock.
fn now() -> f64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    since.as_secs_f64() * 1e3
}

/// What a page holds when its log has been scrolled through, in MiB.
struct Held {
    heap: f64,
    resident: f64,
}

const LINE: &str =
    "\x1b[32mok\x1b[0m a line of a log as builds print them, neither short nor long\n";

/// Scrolls to a part of the log, and lets the page draw it.
const SCROLL: &str = "new Promise((done) => {
    const box = document.querySelector('.log-box');
    box.scrollTop = box.scrollHeight * PART;
    requestAnimationFrame(() => setTimeout(done));
})";
/// Whether all rows that are in the page have been read.
const SHOWN: &str =
    "[...document.querySelectorAll('#log .row .text')].every((text) => text.textContent !== '')";

fn held(log: usize) -> Held {
    let home = tempfile::tempdir().unwrap();
    project(&home.path().join("projects/trivial"), "echo done\n");
    let id = format!("{:064x}", 1);
    let ready = home.path().join("builds/trivial/ready").join(&id);
    build(&ready, 1);
    write_log(&ready.join("out.log"), log);
    let daemon = Daemon::again(home, 2);
    let browser = Browser::at(&format!("127.0.0.1:{}", daemon.port));
    browser.open(&format!("/job/trivial/{id}"));
    browser.wait_for_text("#log .row", "a line of a log");
    for place in 0..=PLACES {
        browser.eval(&SCROLL.replace("PART", &format!("{place} / {PLACES}")));
        browser.wait_until(SHOWN);
    }
    let held = Held {
        heap: browser.heap_bytes() as f64 / MIB,
        resident: browser.resident_bytes() as f64 / MIB,
    };
    browser.end();
    held
}

fn write_log(file: &Path, bytes: usize) {
    let mut file = std::io::BufWriter::new(File::create(file).unwrap());
    for _ in 0..bytes / LINE.len() {
        file.write_all(LINE.as_bytes()).unwrap();
    }
    file.flush().unwrap();
}
