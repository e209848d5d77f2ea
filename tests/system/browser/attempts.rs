//! The attempts at one job: the page of a failed one after the job was built again, and its log.

use serde_json::json;

use super::support::Browser;
use crate::support::Place;
use crate::support::daemon::Setup;

#[test]
fn a_page_names_its_attempt_and_shows_it_after_the_job_was_built_again() {
    let daemon = Setup::on(Place::Host).fixture("slow").start();
    let job = || json!({"project": "slow", "params": {"name": "moody"}});
    let id = daemon.submit(job());
    daemon.until("slow", &id, "waiting");
    let browser = Browser::at(daemon.address());
    browser.open(&format!("/job/slow/{id}"));
    browser.wait_for_text("#log-status", "Live");
    std::fs::write(daemon.pending("slow", &id).join("data/gate"), "7\n").unwrap();
    browser.wait_for_text("h1 .outcome", "failed with exit code 7");
    // From its end on, the address names this attempt.
    browser.wait_until("location.search === '?attempt=1'");

    assert_eq!(daemon.submit(job()), id);
    daemon.until("slow", &id, "waiting");
    daemon.release("slow", &id);
    daemon.wait("slow", &id);
    browser.reload();
    browser.wait_for_text("h1 .outcome", "failed with exit code 7");
    browser.wait_for_text("#summary .attempts", "attempt 1 of 2");
    browser.wait_for_text("#summary .attempts", "flaky");
    browser.wait_for_text("#log", "waiting");
    browser.press("/");
    browser.write("waiting");
    browser.wait_for_text("#log-count", "1 of 1");
    browser.click("#summary .attempts a");
    browser.wait_for_text("h1 .outcome", "succeeded");
    browser.wait_for_text("#log", "released");
    browser.end();
}
