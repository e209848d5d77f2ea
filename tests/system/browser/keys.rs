//! The keyboard is enough: to go through builds, to search, to read the log, to find out which keys
//! there are.

use serde_json::json;

use super::log;
use super::pages::Pages;
use super::support::Browser;
use crate::support::Place;
use crate::support::daemon::Setup;

const CURRENT: &str =
    "[...document.querySelectorAll('tr[data-job]')].findIndex(row => row.ariaCurrent === 'true')";

#[test]
fn builds_are_gone_through_searched_and_opened_by_keys() {
    let pages = Pages::set();
    let browser = Browser::at(pages.daemon.address());
    browser.open("/");
    browser.wait_for_text("#link", "● live");
    assert_eq!(browser.eval(CURRENT), -1);
    for (key, current) in [
        ("j", 0),
        ("j", 1),
        ("k", 0),
        ("k", 0),
        ("j", 1),
        ("j", 2),
        ("j", 3),
        ("j", 3),
    ] {
        browser.press(key);
        assert_eq!(browser.eval(CURRENT), current, "after {key}");
    }
    // The focus is visible.
    assert_eq!(
        browser.eval("document.activeElement.closest('tr').ariaCurrent"),
        "true"
    );
    assert_eq!(
        browser.eval("getComputedStyle(document.activeElement).outlineStyle"),
        "solid"
    );
    browser.press("k");
    let job = browser
        .attribute("tr[aria-current=true]", "data-job")
        .unwrap();
    browser.press("Enter");
    browser.wait_for(&format!("[data-build='{job}']"));
    for (key, path) in [("h", "/status"), ("p", "/projects"), ("b", "/")] {
        browser.wait_until("document.readyState === 'complete'");
        browser.press(key);
        browser.wait_until(&format!("location.pathname === '{path}'"));
        browser.wait_for("main h1");
        // The modules of the page that has come are there.
        browser.wait_until(
            "document.querySelector('time[title]') || document.readyState === 'complete'",
        );
    }

    // In a field keys are letters.
    browser.wait_for_text("#link", "● live");
    browser.press("/");
    browser.write("jhk?/");
    assert_eq!(
        browser.eval("document.querySelector('#search').value"),
        "jhk?/"
    );
    assert_eq!(browser.path(), "/");
    assert_eq!(browser.count("dialog"), 0);
    pages.release();
    browser.end();
}

#[test]
fn a_question_mark_lists_the_keys_of_each_page_and_escape_closes_it() {
    let pages = Pages::set();
    let browser = Browser::at(pages.daemon.address());
    let job = format!("/job/every/{}", pages.succeeded);
    let with: [(&str, &str, &[&str]); 3] = [
        (
            "/",
            "#link[role=status]:not(:empty)",
            &["?", "b", "p", "h", "j", "k", "/"],
        ),
        (&job, "#log .row", &["?", "b", "p", "h", "/", "f"]),
        (
            "/project/every",
            "[data-project] #actions:not([hidden])",
            &["?", "b", "p", "h", "j", "k"],
        ),
    ];
    for (path, ready, keys) in with {
        browser.open(path);
        browser.wait_for(ready);
        browser.press("?");
        browser.wait_for("dialog[open][aria-labelledby]");
        let listed = browser.texts("dialog dt");
        for key in keys {
            assert!(
                listed.iter().any(|shown| shown == key),
                "{path}: {key} is not in {listed:?}"
            );
        }
        assert_eq!(browser.count("dialog dd:empty"), 0);
        browser.press("Escape");
        browser.wait_until("!document.querySelector('dialog')");
    }
    pages.release();
    browser.end();
}

#[test]
fn the_keyboard_reaches_everything_and_shows_where_it_is() {
    let pages = Pages::set();
    let browser = Browser::at(pages.daemon.address());
    for path in pages.paths() {
        browser.open(&path);
        browser.press("Tab");
        // Skips the navigation, for users of screen readers.
        assert_eq!(
            browser.eval("document.activeElement.className"),
            "skip",
            "{path}"
        );
        let seen = "document.activeElement.getBoundingClientRect().left >= 0";
        assert_eq!(browser.eval(seen), true, "{path}");
        for _ in 0..12 {
            browser.press("Tab");
            let outline = "document.activeElement === document.body ? 'none left'
                : `${getComputedStyle(document.activeElement).outlineStyle} ${document.activeElement.outerHTML}`";
            let outline = browser.eval(outline);
            let outline = outline.as_str().unwrap();
            assert!(
                outline.starts_with("solid") || outline == "none left",
                "{path}: {outline}"
            );
        }
    }
    pages.release();
    browser.end();
}

#[test]
fn a_line_of_the_log_is_found_by_keys() {
    let script = "n=0; while [ $n -lt 500 ]; do echo \"line $n of many\"; n=$((n + 1)); done";
    let daemon = Setup::on(Place::Host).script("many", script).start();
    let info = daemon.succeed(json!({"project": "many"}));
    let id = info["ID"].as_str().unwrap();
    let first = log::find(&daemon, "many", id, "line 0 of many");
    let browser = Browser::at(daemon.address());
    browser.open(&format!("/job/many/{id}"));
    // A build that succeeded begins at its own first line: the image build is folded.
    browser.wait_for_text("#log .row", "line 0 of many");
    browser.press("/");
    browser.write("LINE 12");
    browser.press("Enter");
    browser.wait_for_text("#log .row mark", "line 12");
    // 12 and 120 to 129.
    browser.wait_for_text("#log-count", "11");
    browser.press("Escape");
    browser.press("n");
    browser.wait_for_text("#log .row mark", "line 12");
    browser.press("g");
    browser.wait_for_text(&format!("#log .row[data-line='{first}']"), "line 0 of many");
    browser.press("G");
    browser.wait_for_text(
        &format!("#log .row[data-line='{}']", first + 499),
        "line 499 of many",
    );
    assert_eq!(
        browser.attribute("#log-wrap", "aria-pressed").unwrap(),
        "true"
    );
    browser.press("w");
    assert_eq!(
        browser.attribute("#log-wrap", "aria-pressed").unwrap(),
        "false"
    );
    browser.end();
}
