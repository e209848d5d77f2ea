//! A log of 100 MB: the page opens at its end, any part is a moment away, and the page holds no more
//! of it than a reader sees.

use std::fs::{self, File};
use std::io::{BufWriter, Write};

use serde_json::json;

use super::log;
use super::support::Browser;
use crate::support::Place;
use crate::support::daemon::{Daemon, Setup};

const BYTES: usize = 100 << 20;
/// Of each line, with its end.
const LINE: usize = 64;
const LINES: usize = BYTES / LINE;
/// A line that is like no other.
const RARE: usize = LINES / 3;
/// Rows that are in the page at once.
const MAX_ROWS: usize = 2_000;
/// Milliseconds that one task of the page may take before a reader calls the page frozen; on a slow
/// host everything takes longer.
const FROZEN: f64 = 2_000.0;

fn line(n: usize) -> String {
    let word = if n == RARE {
        "a-rare-word"
    } else {
        "just a line"
    };
    format!(
        "{:<width$}",
        format!("{n}: {word} \x1b[32mgreen\x1b[0m"),
        width = LINE - 1
    )
}

/// As it is shown.
fn text(n: usize) -> String {
    line(n)
        .replace("\x1b[32m", "")
        .replace("\x1b[0m", "")
        .trim_end()
        .to_owned()
}

fn start() -> (Daemon, String) {
    let setup = Setup::on(Place::Host).fixture("succeed");
    let id = format!("{:064x}", 1);
    let at = setup.home().join("builds/succeed/ready").join(&id);
    fs::create_dir_all(at.join("data/artifacts")).unwrap();
    let record = json!({
        "Params": {}, "Group": "", "ExitCode": 1, "ErrBuild": "", "Outcome": "failed",
        "StartedAt": "2026-01-01T00:00:00Z", "Duration": 1_000_000_000_i64,
    });
    fs::write(at.join("build_info.json"), record.to_string()).unwrap();
    let mut file = BufWriter::new(File::create(at.join("out.log")).unwrap());
    for n in 1..=LINES {
        writeln!(file, "{}", line(n)).unwrap();
    }
    file.flush().unwrap();
    (setup.start(), format!("/job/succeed/{id}"))
}

/// Measures the page's longest task from now on.
fn watch(browser: &Browser) {
    browser.eval(
        "void new PerformanceObserver((list) => {
            window.longest = Math.max(window.longest ?? 0, ...list.getEntries().map((task) => task.duration));
        }).observe({type: 'longtask', buffered: true})",
    );
}

#[track_caller]
fn is_light(browser: &Browser) {
    let rows = browser.count("#log .row");
    assert!((1..MAX_ROWS).contains(&rows), "{rows} rows");
    let longest = browser.eval("window.longest ?? 0").as_f64().unwrap();
    assert!(longest < FROZEN, "one task took {longest} ms");
}

/// Line `n` is there, with its text.
#[track_caller]
fn wait_for_line(browser: &Browser, n: usize) {
    browser.wait_for_text(&format!("#log .row[data-line='{n}'] .text"), &text(n));
}

#[test]
fn a_log_of_100_megabytes_opens_at_its_end_and_any_part_is_a_moment_away() {
    let (daemon, page) = start();
    let browser = Browser::at(daemon.address());
    browser.open(&page);
    watch(&browser);
    wait_for_line(&browser, LINES);
    log::wait_for_lines(&browser, &format!("count === {LINES}"));
    is_light(&browser);

    // By its two ends, by a link, by the scroll bar.
    browser.click("#log-top");
    wait_for_line(&browser, 1);
    is_light(&browser);
    browser.click("#log-end");
    wait_for_line(&browser, LINES);
    log::go_to(&browser, LINES / 2);
    let (from, to) = (LINES / 2, LINES / 2 + 30);
    let seen = log::lines(&browser, from, to);
    for (seen, n) in seen.iter().zip(from..=to) {
        assert_eq!(seen.trim_end(), text(n));
    }
    for part in [0.1, 0.9, 0.25, 0.75] {
        browser.eval(&format!(
            "void (() => {{ const box = document.querySelector('.log-box'); scrollTo(0, box.offsetTop + box.offsetHeight * {part}); }})()"
        ));
        let expected = (LINES as f64 * part) as usize;
        let near = format!(
            "[...document.querySelectorAll('#log .row')].some(row => Math.abs(Number(row.dataset.line) - {expected}) < {LINES} / 50
                && row.querySelector('.text').textContent.startsWith(row.dataset.line + ': '))"
        );
        browser.wait_until(&near);
        is_light(&browser);
    }
    // Screen by screen: each line after the one before.
    log::go_to(&browser, 1_000_000);
    browser.eval("void document.querySelector('.log-box').focus()");
    for _ in 0..30 {
        browser.press("PageDown");
    }
    browser.wait_until(
        "Number(document.querySelector('#log .row:last-child').dataset.line) > 1000300",
    );
    is_light(&browser);
    let bytes: u64 = browser.requests().iter().map(|request| request.bytes).sum();
    assert!(bytes < BYTES as u64 / 4, "{bytes} bytes were asked for");
    browser.end();
}

#[test]
fn a_line_of_a_long_log_is_linked_to_and_found() {
    let (daemon, page) = start();
    let browser = Browser::at(daemon.address());
    let (from, to) = (LINES / 5, LINES / 5 + 3);
    browser.open(&format!("{page}#L{from}-L{to}"));
    watch(&browser);
    wait_for_line(&browser, from);
    let linked = browser.texts("#log .row.linked .text");
    let expected: Vec<String> = (from..=to).map(text).collect();
    assert_eq!(
        linked
            .iter()
            .map(|text| text.trim_end().to_owned())
            .collect::<Vec<_>>(),
        expected
    );
    is_light(&browser);

    browser.click("#log-find");
    browser.write("A-RARE-WORD");
    browser.press("Enter");
    wait_for_line(&browser, RARE);
    browser.wait_for_text("#log .row mark", "a-rare-word");
    assert_eq!(browser.count("#log .row mark"), 1);
    browser.wait_for_text("#log-count", "1");
    is_light(&browser);

    // A text with very many hits is found without keeping all of them.
    browser.eval("void document.querySelector('#log-find').select()");
    browser.write("just a line");
    browser.press("Enter");
    browser.wait_until("document.querySelectorAll('#log .row mark').length > 10");
    is_light(&browser);

    // A click on its number makes a line the page's address, and that leads back to it.
    log::go_to(&browser, 123_456);
    browser.click("#log .row[data-line='123458'] .line-number");
    assert!(browser.path().ends_with("#L123458"), "{}", browser.path());
    browser.open("/");
    browser.back();
    wait_for_line(&browser, 123_458);
    browser.wait_for("#log .row.linked[data-line='123458']");
    browser.end();
}
