//! The times of lines in the page of a build: shown when they are asked for, of old lines and of new ones.

use serde_json::json;

use super::support::Browser;
use crate::support::Place;
use crate::support::daemon::Setup;

/// The times of the rows with this text.
fn times(browser: &Browser, text: &str) -> String {
    let rows = "[...document.querySelectorAll('#log .row')]";
    let times = browser.eval(&format!(
        "{rows}.filter(row => row.querySelector('.text').textContent === '{text}').map(row => row.querySelector('.line-time')?.textContent ?? 'none').join()"
    ));
    times.as_str().unwrap().to_owned()
}

/// "14:02:09.3".
fn is_time(text: &str) -> bool {
    let digits =
        |part: &str, count| part.len() == count && part.bytes().all(|b| b.is_ascii_digit());
    let (time, tenths) = text.split_once('.').unwrap_or_default();
    let parts: Vec<&str> = time.split(':').collect();
    parts.len() == 3 && parts.iter().all(|part| digits(part, 2)) && digits(tenths, 1)
}

/// Since midnight.
fn seconds(time: &str) -> f64 {
    let parts = time.split(':').map(|part| part.parse::<f64>().unwrap());
    parts.fold(0.0, |sum, part| 60.0 * sum + part)
}

#[test]
fn the_times_of_lines_are_shown_on_demand_also_of_lines_that_come() {
    let daemon = Setup::on(Place::Host).fixture("slow").start();
    let id = daemon.submit(json!({"project": "slow"}));
    daemon.until("slow", &id, "waiting");
    let browser = Browser::at(daemon.address());
    browser.open(&format!("/job/slow/{id}"));
    browser.wait_for_text("#log", "waiting");
    assert_eq!(browser.count("#log .line-time"), 0);
    browser.press("t");
    browser.wait_for("#log .line-time");
    assert_eq!(
        browser.attribute("#log-times", "aria-pressed").unwrap(),
        "true"
    );
    assert!(
        is_time(&times(&browser, "waiting")),
        "{}",
        times(&browser, "waiting")
    );
    daemon.release("slow", &id);
    browser.wait_for_text("#log", "released");
    assert!(
        is_time(&times(&browser, "released")),
        "{}",
        times(&browser, "released")
    );
    browser.wait_for_text("#log-size", "complete");
    // It is remembered, and the server says the same of the line that had come.
    let (waiting, released) = (times(&browser, "waiting"), times(&browser, "released"));
    browser.open(&format!("/job/slow/{id}"));
    browser.wait_for("#log .line-time:not(:empty)");
    assert_eq!(times(&browser, "waiting"), waiting);
    let apart = seconds(&times(&browser, "released")) - seconds(&released);
    assert!(apart.abs() < 30.0 || apart.abs() > 86_370.0, "{apart} s");
    browser.press("t");
    browser.wait_until("!document.querySelector('#log .line-time')");
    browser.end();
}
