//! The page of a build that failed: where it opens.

use serde_json::json;

use super::support::Browser;
use crate::support::Place;
use crate::support::daemon::{Daemon, Setup};

/// Prints this many lines.
const SCRIPT: &str = "
    i=0; while [ $i -lt $(cat params/lines) ]; do i=$((i+1)); echo \"line $i\"; done
    exit 3";

/// Opens the page of a failed build whose container prints so many lines.
fn open(browser: &Browser, daemon: &Daemon, lines: u32) {
    let params = json!({"lines": lines.to_string()});
    let info = daemon.build(json!({"project": "red", "params": params}));
    browser.open(&format!("/job/red/{}", info["ID"].as_str().unwrap()));
    browser.wait_until("document.querySelector('#log').dataset.stream === 'over'");
    browser.wait_for_text("#log .row", &format!("line {lines}"));
}

#[test]
fn a_page_with_a_short_log_opens_at_its_top_and_one_with_a_long_log_at_the_end_of_that() {
    let daemon = Setup::on(Place::Host).script("red", SCRIPT).start();
    let browser = Browser::at(daemon.address());
    // The summary has the last lines, too: together with it, the log takes more than the window has.
    open(&browser, &daemon, 20);
    browser.wait_until("document.documentElement.scrollHeight > innerHeight");
    browser.wait_until(
        "scrollY === 0 && document.querySelector('h1').getBoundingClientRect().top >= 0",
    );
    open(&browser, &daemon, 200);
    browser.wait_until(
        "scrollY > 0 && document.querySelector('h1').getBoundingClientRect().bottom < 0",
    );
    browser.end();
}
