//! The log in the page of a build, as a reader scrolls through it: only the rows around the visible ones
//! are in the page.

use std::collections::BTreeMap;

use super::support::Browser;
use crate::support::daemon::Daemon;

/// Rows that are surely in the page when one of them is gone to.
const STEP: usize = 10;

/// The number of the line that a build has printed. Before its container, Docker says how the image
/// is built.
#[track_caller]
pub fn find(daemon: &Daemon, project: &str, id: &str, text: &str) -> usize {
    let log = daemon.get(&format!("/log/{project}/{id}?text")).text();
    let at = log.lines().position(|line| line == text);
    at.unwrap_or_else(|| panic!("'{text}' is not in {log:.2000}")) + 1
}

/// The texts of lines, the first and the last one included; each must be in the page once at most.
#[track_caller]
pub fn lines(browser: &Browser, first: usize, last: usize) -> Vec<String> {
    let mut found = BTreeMap::new();
    for at in (first..=last).step_by(STEP) {
        go_to(browser, at);
        let rows = "[...document.querySelectorAll('#log .row')]";
        let rows = browser.eval(&format!(
            "{rows}.map(row => [Number(row.dataset.line), row.querySelector('.text').innerText])"
        ));
        let rows: Vec<(usize, String)> = serde_json::from_value(rows).unwrap();
        let mut seen = 0;
        for (number, text) in rows {
            assert!(number > seen, "line {number} stands after line {seen}");
            seen = number;
            if (at..(at + STEP).min(last + 1)).contains(&number) {
                found.insert(number, text);
            }
        }
    }
    assert!(found.keys().copied().eq(first..=last), "{:?}", found.keys());
    found.into_values().collect()
}

/// Waits until the shown length of the log, `count`, is as wanted.
#[track_caller]
pub fn wait_for_lines(browser: &Browser, wanted: &str) {
    browser.wait_until(&format!(
        "(() => {{
            const found = /([\\d,]+)\\slines?/.exec(document.querySelector('#log-size').textContent);
            const count = Number(found[1].replaceAll(',', ''));
            return {wanted};
        }})()"
    ));
}

/// Follows a link to a line, and waits until that is seen.
#[track_caller]
pub fn go_to(browser: &Browser, line: usize) {
    browser.eval(&format!("void (location.hash = '#L{line}')"));
    let is_seen = "(() => {
        const row = document.querySelector('#log .row[data-line=\"LINE\"]');
        const place = row.getBoundingClientRect();
        const bar = document.querySelector('.log-bar').getBoundingClientRect();
        return row.querySelector('.text').textContent !== '' && place.top < innerHeight && place.bottom > bar.bottom;
    })()";
    browser.wait_until(&is_seen.replace("LINE", &line.to_string()));
}
