//! The pages as the server writes them: their content is there with and without scripts.

use serde_json::json;

use super::support::Browser;
use crate::support::Place;
use crate::support::daemon::{Daemon, Setup};

/// A daemon with one build that has failed; its id.
fn with_a_failed_build() -> (Daemon, String) {
    let script = "echo 'tests: 41 passed, <b>1 failed</b>'; exit 3";
    let daemon = Setup::on(Place::Host).script("tests", script).start();
    let info = daemon.build(json!({"project": "tests", "group": "main", "params": {"on": "<i>"}}));
    assert_eq!(info["Outcome"], "failed", "{info:#}");
    let id = info["ID"].as_str().unwrap().to_owned();
    (daemon, id)
}

fn a_build_is_found_and_shows_how_it_ended(browser: &Browser, id: &str) {
    browser.open("/");
    assert!(browser.title().contains("mistry"), "{}", browser.title());
    let overview = browser.text("body");
    for expected in [&id[..7], "tests", "main", "failed"] {
        assert!(
            overview.contains(expected),
            "{expected} is not in {overview}"
        );
    }
    browser.click(&format!("a[href*='/job/tests/{id}']"));
    // The log is shown when it was read; without scripts it is there from the beginning.
    for expected in ["failed", "exit code 3", "<i>", "41 passed, <b>1 failed</b>"] {
        browser.wait_for_text("body", expected);
    }
    assert_eq!(browser.path(), format!("/job/tests/{id}?attempt=1"));
    assert_eq!(browser.count("b, i"), 0);
}

#[test]
fn a_build_is_found_from_the_overview_and_its_page_shows_how_it_ended() {
    let (daemon, id) = with_a_failed_build();
    let browser = Browser::at(daemon.address());
    a_build_is_found_and_shows_how_it_ended(&browser, &id);
    browser.end();
}

#[test]
fn pages_show_the_same_without_scripts() {
    let (daemon, id) = with_a_failed_build();
    let browser = Browser::at(daemon.address());
    browser.set_javascript(false);
    a_build_is_found_and_shows_how_it_ended(&browser, &id);
    browser.end();
}
