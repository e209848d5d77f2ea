//! Open pages show changes as they happen, without being loaded again.

use std::time::{Duration, Instant};

use serde_json::json;

use super::support::Browser;
use crate::support::Place;
use crate::support::daemon::{Daemon, Setup};
use crate::support::http;

/// More than any page takes on the slowest host.
const HANGING: Duration = Duration::from_secs(30);

/// One slot, so that the second build waits.
fn start() -> Daemon {
    let setup = Setup::on(Place::Host).config(json!({"job_concurrency": 1}));
    setup.fixture("slow").start()
}

/// The job named so, which prints "waiting" and goes on when it is released.
fn submit(daemon: &Daemon, name: &str) -> String {
    let id = daemon.submit(json!({"project": "slow", "params": {"name": name}}));
    assert_eq!(id.len(), 64);
    id
}

/// Lets a build end as soon as it can.
fn release(daemon: &Daemon, id: &str) {
    daemon.until("slow", id, "waiting");
    daemon.release("slow", id);
}

/// Removes a build that is over, as another user would.
fn remove(daemon: &Daemon, id: &str) {
    let headers = [("content-type", "application/json")];
    let path = format!("/job/slow/{id}");
    let removed = http::ask(daemon.address(), "DELETE", &path, &headers, b"");
    assert_eq!(removed.status, 204, "{}", removed.text());
}

/// The outcome of a build in a table.
fn outcome(table: &str, id: &str) -> String {
    format!("#{table} tr[data-job='slow/{id}'] .outcome")
}

/// Marks the page, so that a later check notices whether it is still the same one.
fn mark(browser: &Browser) {
    browser.eval("window.isStillThis = true");
}

#[track_caller]
fn end_on_the_same_page(browser: Browser) {
    assert_eq!(
        browser.eval("window.isStillThis"),
        true,
        "it was loaded again"
    );
    browser.end();
}

#[track_caller]
fn wait_for_icon(browser: &Browser, name: &str) {
    browser.wait_for(&format!("link[rel=icon][href='/static/icon-{name}.svg']"));
}

#[test]
fn the_overview_follows_builds_from_their_acceptance_to_their_removal() {
    let daemon = start();
    let browser = Browser::at(daemon.address());
    browser.open("/");
    mark(&browser);
    browser.wait_for_text("#link", "● live");
    assert_eq!(browser.text("#load"), "0 of 1 slots in use, 0 queued");
    assert_eq!(browser.title(), "Builds – mistry");
    wait_for_icon(&browser, "idle");

    let first = submit(&daemon, "first");
    browser.wait_for_text(&outcome("now", &first), "running");
    let second = submit(&daemon, "second");
    browser.wait_for_text(&outcome("now", &second), "queued");
    browser.wait_for_text("#load", "1 of 1 slots in use, 1 queued");
    browser.wait_until("document.title === '(2) Builds – mistry'");
    wait_for_icon(&browser, "running");
    // What runs stands before what waits.
    assert!(browser.texts("#now tbody tr")[0].contains("first"));

    release(&daemon, &first);
    browser.wait_for_text(&outcome("recent", &first), "succeeded");
    browser.wait_for_text(&outcome("now", &second), "running");
    browser.wait_until("document.title === '(1) Builds – mistry'");
    assert_eq!(browser.count(&outcome("now", &first)), 0);
    release(&daemon, &second);
    browser.wait_for_text(&outcome("recent", &second), "succeeded");
    browser.wait_until("document.title === 'Builds – mistry'");
    wait_for_icon(&browser, "good");
    browser.wait_for_text("#load", "0 of 1 slots in use, 0 queued");
    assert!(browser.texts("#recent tbody tr")[0].contains("second"));

    remove(&daemon, &first);
    browser.wait_until(&format!(
        "!document.querySelector(\"{}\")",
        outcome("recent", &first)
    ));
    assert_eq!(browser.count("#recent tbody tr"), 1);
    end_on_the_same_page(browser);
}

#[test]
fn the_page_of_a_build_follows_it_and_its_log_to_the_end() {
    let daemon = start();
    let first = submit(&daemon, "first");
    let second = submit(&daemon, "second");
    let browser = Browser::at(daemon.address());
    browser.open(&format!("/job/slow/{second}"));
    mark(&browser);
    browser.wait_for_text("h1 .outcome", "queued");
    wait_for_icon(&browser, "running");
    assert!(
        browser.title().starts_with("queued: slow "),
        "{}",
        browser.title()
    );

    release(&daemon, &first);
    browser.wait_for_text("h1 .outcome", "running");
    browser.wait_until("document.title.startsWith('running: slow ')");
    browser.wait_for_text("#log", "waiting");
    assert!(!browser.text("#log").contains("released"));

    release(&daemon, &second);
    browser.wait_for_text("h1 .outcome", "succeeded");
    browser.wait_for_text("#log", "released");
    browser.wait_until("document.title.startsWith('succeeded: slow ')");
    // There are no more events.
    browser.wait_until("document.querySelector('#link').textContent === ''");
    wait_for_icon(&browser, "good");
    browser.wait_for("#actions button[data-do=rebuild]");
    assert_eq!(browser.count("#actions button[data-do=cancel]"), 0);
    end_on_the_same_page(browser);
}

#[test]
fn a_failed_build_is_visible_in_a_background_tab() {
    let daemon = start();
    let id = submit(&daemon, "wrong");
    let [overview, page] = ["/".to_owned(), format!("/job/slow/{id}")].map(|path| {
        let browser = Browser::at(daemon.address());
        browser.open(&path);
        mark(&browser);
        wait_for_icon(&browser, "running");
        browser
    });
    daemon.until("slow", &id, "waiting");
    let gate = daemon.pending("slow", &id).join("data/gate");
    std::fs::write(gate, "3\n").unwrap();
    page.wait_for_text("h1 .outcome", "failed with exit code 3");
    page.wait_until("document.title.startsWith('failed: slow ')");
    overview.wait_for_text(&outcome("recent", &id), "failed");
    for browser in [overview, page] {
        wait_for_icon(&browser, "bad");
        end_on_the_same_page(browser);
    }
}

#[test]
fn the_expected_duration_is_shown_when_similar_builds_are_known() {
    let daemon = start();
    let before = submit(&daemon, "before");
    let browser = Browser::at(daemon.address());
    browser.open("/");
    mark(&browser);
    browser.wait_for_text(&outcome("now", &before), "running");
    let took = "#now td.number .progress";
    browser.wait_for(took);
    // Without similar builds nothing is expected.
    assert_eq!(browser.count("#now progress"), 0);
    assert!(
        !browser.text(took).contains("of about"),
        "{}",
        browser.text(took)
    );
    release(&daemon, &before);
    browser.wait_for_text(&outcome("recent", &before), "succeeded");

    let now = submit(&daemon, "now");
    browser.wait_for_text(&outcome("now", &now), "running");
    browser.wait_for_text(took, "of about");
    browser.wait_for("#now progress");
    // It counts on although the server says nothing new.
    let said = browser.text(took);
    browser.wait_until(&format!(
        "document.querySelector('{took}').innerText !== {}",
        json!(said)
    ));

    let page = Browser::at(daemon.address());
    page.open(&format!("/job/slow/{now}"));
    page.wait_for_text("#summary .progress", "of about");
    page.wait_for("#summary progress[aria-label]");
    // One bar: the phases are words until the build is over.
    assert_eq!(page.count(".timeline > svg"), 0);
    page.end();
    release(&daemon, &now);
    browser.wait_for_text(&outcome("recent", &now), "succeeded");
    end_on_the_same_page(browser);
}

/// A build that hangs is noticed by its silence.
#[test]
fn the_page_says_how_long_a_build_has_been_silent_until_it_prints_again() {
    let script = "mkfifo gate
        echo waiting
        read -r _ < gate || :
        echo 'here again'
        read -r _ < gate || :";
    let daemon = Setup::on(Place::Host).script("quiet", script).start();
    let id = daemon.submit(json!({"project": "quiet"}));
    daemon.until("quiet", &id, "waiting");
    let browser = Browser::at(daemon.address());
    browser.open(&format!("/job/quiet/{id}"));
    // What was before the page was opened is not known.
    browser.wait_for_text("#log-status", "Live, silent for more than 1");
    daemon.release("quiet", &id);
    browser.wait_for_text("#log .row", "here again");
    browser.wait_until("document.querySelector('#log-status').textContent === 'Live'");
    browser.wait_for_text("#log-status", "Live, silent for 1");
    daemon.release("quiet", &id);
    browser.wait_for_text("h1 .outcome", "succeeded");
    browser.wait_until("document.querySelector('#log-status').textContent === ''");
    browser.end();
}

/// A browser keeps pages for the back button, and has six connections to a server.
#[test]
fn pages_that_were_left_hold_no_connection_and_are_live_again_on_return() {
    let daemon = start();
    let running = submit(&daemon, "runs");
    daemon.until("slow", &running, "waiting");
    let browser = Browser::at(daemon.address());
    let page = format!("/job/slow/{running}");
    for n in 0..8 {
        let began = Instant::now();
        let path = if n % 2 == 0 { "/" } else { page.as_str() };
        browser.open(path);
        browser.wait_for_text("#link", "● live");
        if path != "/" {
            browser.wait_for_text("#log .row", "waiting");
        }
        // One that must wait for a connection waits for a minute.
        let took = began.elapsed();
        assert!(took < HANGING, "page {n} took {took:?}");
    }
    browser.back();
    browser.wait_for_text("#link", "● live");
    release(&daemon, &running);
    browser.wait_for_text(&outcome("recent", &running), "succeeded");
    browser.end();
}
