//! Ten thousand builds: each can be found, by its place or by its properties, and the address of a page
//! says what it shows.

use std::fs;
use std::path::Path;

use serde_json::json;

use super::support::Browser;
use crate::support::Place;
use crate::support::daemon::{Daemon, Setup};

const BUILDS: usize = 10_000;
/// On one page.
const PAGE: usize = 50;
const OUTCOMES: [&str; 4] = ["succeeded", "failed", "errored", "cancelled"];
const PROJECTS: [&str; 2] = ["even", "odd"];

/// The record of build `n`, as small as it can be; the highest number is the newest.
fn write(builds: &Path, n: usize) {
    let at = builds.join(PROJECTS[n % 2]).join("ready").join(id(n));
    fs::create_dir_all(at.join("data/artifacts")).unwrap();
    let outcome = OUTCOMES[n / 2 % 4];
    let record = json!({
        "Params": {"n": format!("number-{n}")},
        "Group": format!("group-{}", n / 10 % 100),
        "ExitCode": i32::from(outcome != "succeeded"),
        "ErrBuild": "",
        "StartedAt": format!("2026-01-01T{:02}:{:02}:{:02}Z", n / 3600, n / 60 % 60, n % 60),
        "Duration": 1_000_000_000_i64,
        "Outcome": outcome,
    });
    fs::write(at.join("build_info.json"), record.to_string()).unwrap();
    fs::write(at.join("out.log"), "done\n").unwrap();
}

fn id(n: usize) -> String {
    format!("{n:064x}")
}

fn start() -> Daemon {
    let setup = PROJECTS
        .iter()
        .fold(Setup::on(Place::Host), |setup, project| {
            setup.script(project, "echo done")
        });
    for n in 0..BUILDS {
        write(&setup.home().join("builds"), n);
    }
    setup.start()
}

/// The numbers of the builds that the page shows.
#[track_caller]
fn shown(browser: &Browser) -> Vec<usize> {
    let jobs = "[...document.querySelectorAll('#recent tr[data-job]')].map(row => row.dataset.job)";
    let jobs: Vec<String> = serde_json::from_value(browser.eval(jobs)).unwrap();
    let number = |job: &String| usize::from_str_radix(job.rsplit_once('/').unwrap().1, 16).unwrap();
    jobs.iter().map(number).collect()
}

/// Those that a filter leaves, newest first.
fn newest(most: usize, takes: impl Fn(usize) -> bool) -> Vec<usize> {
    (0..BUILDS).rev().filter(|n| takes(*n)).take(most).collect()
}

#[test]
fn any_of_ten_thousand_builds_is_found() {
    let daemon = start();
    // The index is whole before anything is looked at.
    assert_eq!(daemon.get("/index/?limit=1").status, 200);
    let browser = Browser::at(daemon.address());
    browser.open("/");
    assert_eq!(shown(&browser), newest(PAGE, |_| true));
    assert_eq!(browser.count("a[rel=first]"), 0);

    // Page after page, without a gap and without doubles; there and back again.
    for page in 1..4 {
        browser.click("a[rel=next]");
        let expected = newest((page + 1) * PAGE, |_| true).split_off(page * PAGE);
        browser.wait_for(&format!("tr[data-job$='/{}']", id(expected[0])));
        assert_eq!(shown(&browser), expected);
    }
    let address = browser.path();
    browser.reload();
    assert_eq!(shown(&browser)[0], BUILDS - 1 - 3 * PAGE);
    browser.back();
    browser.wait_for(&format!("tr[data-job$='/{}']", id(BUILDS - 1 - 2 * PAGE)));
    assert_ne!(browser.path(), address);
    browser.click("a[rel=first]");
    browser.wait_for(&format!("tr[data-job$='/{}']", id(BUILDS - 1)));

    // Down to the oldest, where nothing is older.
    browser.open("/?text=number-3");
    let found = |n: usize| format!("number-{n}").contains("number-3");
    let mut seen = shown(&browser);
    while browser.count("a[rel=next]") == 1 {
        let before = seen[seen.len() - 1];
        browser.click("a[rel=next]");
        browser.wait_until(&format!(
            "!document.querySelector(\"tr[data-job$='/{}']\")",
            id(before)
        ));
        assert!(
            browser.path().contains("text=number-3"),
            "{}",
            browser.path()
        );
        seen.extend(shown(&browser));
    }
    assert_eq!(seen, newest(BUILDS, found));
    browser.end();
}

#[test]
fn a_filter_is_in_the_address_and_stays_there() {
    let daemon = start();
    assert_eq!(daemon.get("/index/?limit=1").status, 200);
    let browser = Browser::at(daemon.address());
    browser.open("/");
    browser.wait_for_text("#link", "● live");
    // A choice is enough.
    browser.eval("void (() => { const select = document.querySelector('select[name=project]'); select.value = 'odd'; select.dispatchEvent(new Event('change', {bubbles: true})); })()");
    browser.wait_until("location.search.includes('project=odd')");
    browser.wait_for_text("h1", "Builds of odd");
    assert_eq!(shown(&browser), newest(PAGE, |n| n % 2 == 1));

    // A second one beside it, by hand.
    browser.eval("void (document.querySelector('select[name=outcome]').value = 'failed')");
    browser.click("form[role=search] button");
    browser.wait_until("location.search.includes('outcome=failed')");
    let both = |n: usize| n % 2 == 1 && n / 2 % 4 == 1;
    assert_eq!(shown(&browser), newest(PAGE, both));
    assert_eq!(browser.texts("#recent .outcome").len(), PAGE);
    assert!(
        browser
            .texts("#recent .outcome")
            .iter()
            .all(|outcome| outcome == "failed")
    );
    let address = browser.path();

    browser.reload();
    assert_eq!(browser.path(), address);
    assert_eq!(shown(&browser), newest(PAGE, both));
    assert_eq!(
        browser.eval("document.querySelector('select[name=project]').value"),
        "odd"
    );
    assert_eq!(
        browser.eval("document.querySelector('select[name=outcome]').value"),
        "failed"
    );
    // Into a build and back.
    browser.click("#recent tbody tr a");
    browser.wait_for("[data-build]");
    browser.back();
    browser.wait_for("[data-list]");
    assert_eq!(browser.path(), address);
    assert_eq!(shown(&browser), newest(PAGE, both));
    browser.click("a[rel=next]");
    browser.wait_until("location.search.includes('before=')");
    browser.wait_for("a[rel=first]");
    assert_eq!(shown(&browser), newest(2 * PAGE, both).split_off(PAGE));

    // By group, from a row; by text, from the keyboard.
    browser.open("/");
    browser.click("#recent tbody tr a.quiet");
    browser.wait_until("location.search.includes('group=')");
    let group = |n: usize| n % 2 == 1 && n / 10 % 100 == 99;
    assert_eq!(shown(&browser), newest(PAGE, group));
    browser.open("/");
    browser.wait_for_text("#link", "● live");
    browser.press("/");
    browser.write("number-4321");
    browser.press("Enter");
    browser.wait_until("location.search.includes('text=number-4321')");
    browser.wait_for_text("#recent", "number-4321");
    assert_eq!(shown(&browser), [4321]);
    browser.open("/?text=nothing-is-like-that");
    assert_eq!(browser.text("#none"), "No builds match these filters.");
    browser.end();
}
