//! The part of a log that built the image: folded once the container runs, opened and closed by its button.

use serde_json::json;

use super::log;
use super::support::Browser;
use crate::support::Place;
use crate::support::daemon::{Daemon, Setup};

/// What a page asks for the output of a build waits until the test lets it go.
const HELD: &str = "const ask = window.fetch;
    const isOpen = new Promise((open) => (window.letGo = open));
    window.fetch = async (...given) => {
        if (String(given[0]).includes('&follow')) await isOpen;
        return ask(...given);
    };";

/// The lines that the image build of a finished build printed.
fn image_lines(daemon: &Daemon, project: &str, id: &str) -> Vec<String> {
    let info = &daemon.get(&format!("/job/{project}/{id}?json")).json()["BuildInfo"];
    let from = info["LogRunsFrom"].as_u64().unwrap() as usize;
    let log = daemon.get(&format!("/log/{project}/{id}?text")).text();
    log[..from].lines().map(str::to_owned).collect()
}

/// What the button says about so many lines.
fn said(mark: &str, lines: usize) -> String {
    format!("{mark} Image build: {lines} lines")
}

#[test]
fn the_lines_of_the_image_build_are_shown_and_hidden_by_their_button() {
    let daemon = Setup::on(Place::Host).fixture("succeed").start();
    let info = daemon.succeed(json!({"project": "succeed"}));
    let id = info["ID"].as_str().unwrap();
    let image = image_lines(&daemon, "succeed", id);
    assert!(image.len() > 1, "{image:?}");
    let browser = Browser::at(daemon.address());
    browser.open(&format!("/job/succeed/{id}"));
    let (closed, open) = (said("▸", image.len()), said("▾", image.len()));
    let first = "document.querySelector(\"#log .row[data-line='1']\")";
    let is_hidden = || {
        browser.wait_for_text("#log-image", &closed);
        let expanded = browser.attribute("#log-image", "aria-expanded");
        assert_eq!(expanded.as_deref(), Some("false"));
        browser.wait_for_text("#log .row", "run 1");
        browser.wait_until(&format!("!{first}"));
    };
    is_hidden();
    browser.click("#log-image");
    browser.wait_for_text("#log-image", &open);
    let expanded = browser.attribute("#log-image", "aria-expanded");
    assert_eq!(expanded.as_deref(), Some("true"));
    browser.wait_until(&format!("{first} !== null"));
    let shown = log::lines(&browser, 1, image.len());
    assert_eq!(shown, image);
    browser.click("#log-image");
    is_hidden();
    // A link to one of its lines opens it.
    log::go_to(&browser, 1);
    browser.wait_for_text("#log-image", &open);
    browser.end();
}

/// The page of a build knows where the container's output begins as soon as the server does; the output itself
/// comes in a stream of its own, which may be later.
#[test]
fn the_image_build_is_folded_whole_although_its_lines_come_after_their_number() {
    let setup = Setup::on(Place::Host).config(json!({"job_concurrency": 1}));
    // A project without an image, so that its build makes one.
    let script = "mkfifo gate
        echo waiting
        read -r _ < gate || :";
    let daemon = setup.fixture("slow").script("late", script).start();
    let holder = daemon.submit(json!({"project": "slow"}));
    daemon.until("slow", &holder, "waiting");
    let id = daemon.submit(json!({"project": "late"}));
    let browser = Browser::at(daemon.address());
    browser.run_first(HELD);
    browser.open(&format!("/job/late/{id}"));
    browser.wait_for_text("h1 .outcome", "queued");
    daemon.release("slow", &holder);
    daemon.until("late", &id, "waiting");
    browser.wait_until("document.querySelector('#log').dataset.runsFrom > 0");
    browser.eval("void window.letGo()");
    browser.wait_for_text("#log .row", "waiting");
    let image = image_lines(&daemon, "late", &id);
    browser.wait_for_text("#log-image", &said("▸", image.len()));
    daemon.release("late", &id);
    browser.wait_for_text("h1 .outcome", "succeeded");
    browser.wait_for_text("#log-image", &said("▸", image.len()));
    browser.end();
}
