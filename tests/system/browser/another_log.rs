//! A page whose log has been replaced meanwhile, and a page that is not visible.

use serde_json::json;

use super::support::Browser;
use crate::support::Place;
use crate::support::daemon::{Daemon, Setup};
use crate::support::http;

/// Asks for the job named so, which prints "waiting" and goes on when it is released.
fn submit(daemon: &Daemon, name: &str) -> String {
    let id = daemon.submit(json!({"project": "slow", "params": {"name": name}}));
    daemon.until("slow", &id, "waiting");
    id
}

#[test]
fn the_log_of_a_job_that_was_requested_again_is_opened_again() {
    let daemon = Setup::on(Place::Host).fixture("slow").start();
    // The last build of a project cannot be removed.
    let [id, _] = ["first", "last"].map(|name| {
        let id = submit(&daemon, name);
        daemon.release("slow", &id);
        daemon.wait("slow", &id);
        id
    });
    let browser = Browser::at(daemon.address());
    browser.forgive("status of 412");
    browser.open(&format!("/job/slow/{id}"));
    browser.wait_for_text("#log", "released");
    browser.wait_for_text("#log-size", "lines");

    let headers = [("content-type", "application/json")];
    let path = format!("/job/slow/{id}");
    let removed = http::ask(daemon.address(), "DELETE", &path, &headers, b"");
    assert_eq!(removed.status, 204, "{}", removed.text());
    assert_eq!(submit(&daemon, "first"), id);
    browser.press("/");
    browser.write("waiting");
    browser.wait_for_text("#log-status", "Asked for again: Live");
    browser.wait_for_text("#log-count", "1 of 1");
    assert!(!browser.text("#log").contains("released"));
    daemon.release("slow", &id);
    browser.wait_for_text("#log", "released");
    browser.wait_for_text("#log-size", "complete");
    assert_eq!(browser.text("#log-status"), "Asked for again");
    browser.end();
}

#[test]
fn the_log_of_a_failed_rebuild_stays_and_the_page_names_the_build_that_is_served() {
    let daemon = Setup::on(Place::Host).fixture("slow").start();
    let id = submit(&daemon, "good");
    daemon.release("slow", &id);
    daemon.wait("slow", &id);
    let job = json!({"project": "slow", "params": {"name": "good"}, "rebuild": true});
    assert_eq!(daemon.submit(job), id);
    daemon.until("slow", &id, "waiting");
    let browser = Browser::at(daemon.address());
    browser.open(&format!("/job/slow/{id}"));
    browser.wait_for_text("#log-status", "Live");
    std::fs::write(daemon.pending("slow", &id).join("data/gate"), "7\n").unwrap();
    browser.wait_for_text("h1 .outcome", "failed");
    browser.wait_for_text("#summary", "This is not the current build of the job");
    browser.wait_for_path(&format!("/job/slow/{id}?attempt=2"));
    browser.wait_for_text("#log-size", "complete");
    browser.end();
}

#[test]
fn a_log_continues_where_it_was_when_its_page_is_visible_again() {
    let daemon = Setup::on(Place::Host).fixture("slow").start();
    let id = submit(&daemon, "seen");
    let browser = Browser::at(daemon.address());
    browser.open(&format!("/job/slow/{id}"));
    browser.wait_for_text("#log-status", "Live");
    browser.wait_for_text("#log", "waiting");
    let see = |is_hidden: bool| {
        browser.eval(&format!(
            "void Object.defineProperty(document, 'hidden', {{ value: {is_hidden}, configurable: true }})"
        ));
        browser.eval("void document.dispatchEvent(new Event('visibilitychange'))");
    };
    see(true);
    daemon.release("slow", &id);
    browser.wait_for_text("h1 .outcome", "succeeded");
    assert!(!browser.text("#log").contains("released"));
    see(false);
    browser.wait_for_text("#log", "released");
    browser.wait_for_text("#log-size", "complete");
    assert_eq!(browser.text("#log").matches("waiting").count(), 1);
    browser.end();
}
