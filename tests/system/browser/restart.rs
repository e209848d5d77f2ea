//! A daemon that dies and comes back at the same address: pages that are open say so, come back by
//! themselves, and have missed nothing.

use std::fs::File;
use std::io::Write;

use serde_json::json;

use super::log;
use super::support::Browser;
use crate::support::Place;
use crate::support::daemon::{Daemon, Setup};

/// Prints what is written into its gate, line by line, and ends when that is closed.
const SCRIPT: &str = "mkfifo gate; echo ready; cat gate";
/// Lines that are written in each part: before the end, while no server is there, and afterwards.
const PART: usize = 100;

fn begin(daemon: &Daemon, name: &str) -> (String, File) {
    let id = daemon.submit(json!({"project": "prints", "params": {"name": name}}));
    daemon.until("prints", &id, "ready");
    let gate = daemon.pending("prints", &id).join("data/gate");
    (id, File::options().write(true).open(gate).unwrap())
}

/// Prints one part, lines numbered through.
fn print(gate: &mut File, part: usize) {
    for n in part * PART..(part + 1) * PART {
        writeln!(gate, "line {n}").unwrap();
    }
}

#[test]
fn pages_outlive_the_daemon_and_miss_nothing() {
    let mut daemon = Setup::on(Place::Host).script("prints", SCRIPT).start();
    let (goes_on, mut gate) = begin(&daemon, "goes on");
    let (ends, its_gate) = begin(&daemon, "ends meanwhile");
    let [overview, page, other] = ["/", &job(&goes_on), &job(&ends)].map(|path| {
        let browser = Browser::at(daemon.address());
        browser.open(path);
        browser.wait_for_text("#link", "● live");
        browser.eval("window.isStillThis = true");
        // While there is no server to be asked, a browser says so in its console.
        browser.forgive("net::ERR_");
        browser
    });
    print(&mut gate, 0);
    page.wait_for_text("#log", &format!("line {}", PART - 1));

    let address = daemon.address().to_owned();
    daemon.kill();
    for browser in [&overview, &page, &other] {
        browser.wait_for_text("#link", "○ not connected");
        assert_eq!(
            browser.attribute("body", "data-connected").unwrap(),
            "false"
        );
    }
    print(&mut gate, 1);
    drop(its_gate);
    daemon.start_at(&address, "");
    overview.wait_for_text("#link", "● live");
    page.wait_for_text("#link", "● live");
    print(&mut gate, 2);
    page.wait_for_text("#log", &format!("line {}", 3 * PART - 1));
    drop(gate);

    for id in [&ends, &goes_on] {
        let row = format!("#recent tr[data-job='prints/{id}'] .outcome");
        overview.wait_for_text(&row, "succeeded");
    }
    assert_eq!(overview.count("#recent tbody tr"), 2);
    assert_eq!(overview.count("#now tbody tr"), 0);
    other.wait_for_text("h1 .outcome", "succeeded");
    page.wait_for_text("h1 .outcome", "succeeded");
    let ready = log::find(&daemon, "prints", &goes_on, "ready");
    log::wait_for_lines(&page, &format!("count === {}", ready + 3 * PART));
    let expected: Vec<String> = (0..3 * PART).map(|n| format!("line {n}")).collect();
    assert_eq!(log::lines(&page, ready + 1, ready + 3 * PART), expected);
    for browser in [overview, page, other] {
        assert_eq!(
            browser.eval("window.isStillThis"),
            true,
            "it was loaded again"
        );
        browser.end();
    }
}

#[test]
fn what_was_removed_while_the_server_was_away_is_gone_when_the_page_is_back() {
    let mut daemon = Setup::on(Place::Host).fixture("succeed").start();
    let build =
        |n: u32| daemon.succeed(json!({"project": "succeed", "params": {"n": n.to_string()}}));
    let ids: Vec<String> = (0..2)
        .map(|n| build(n)["ID"].as_str().unwrap().to_owned())
        .collect();
    let browser = Browser::at(daemon.address());
    browser.forgive("net::ERR_");
    browser.open("/");
    browser.wait_for_text("#link", "● live");
    assert_eq!(browser.count("#recent tbody tr"), 2);
    let address = daemon.address().to_owned();
    daemon.kill();
    browser.wait_for_text("#link", "○ not connected");
    std::fs::remove_dir_all(daemon.ready("succeed", &ids[0])).unwrap();
    daemon.start_at(&address, "");
    browser.wait_for_text("#link", "● live");
    browser.wait_until("document.querySelectorAll('#recent tbody tr').length === 1");
    browser.wait_for(&format!("#recent tr[data-job='succeed/{}']", ids[1]));
    browser.end();
}

fn job(id: &str) -> String {
    format!("/job/prints/{id}")
}
