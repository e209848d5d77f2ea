//! The pictures in `docs/screenshots/`, taken anew by `make screenshots`; every `make test` takes them
//! too and throws them away, so that they can be taken at any time.

use std::path::PathBuf;

use super::pages::beyond_the_window;
use super::scene::Scene;
use super::support::Browser;

/// All of them together; they are in every clone.
const MAX_BYTES: u64 = 1_500_000;
/// A telephone held upright.
const NARROW: (u32, u32) = (390, 844);
const WIDE: (u32, u32) = (1280, 800);

/// A picture: its file's name, the page's path, and where in it which text must be seen.
type View<'a> = (&'a str, String, &'a str, &'a str);

#[test]
fn every_page_is_fit_to_be_seen() {
    // Only for us; removed in the end.
    let thrown_away = tempfile::tempdir().unwrap();
    let kept = std::env::var_os("MISTRY_SCREENSHOTS").map(PathBuf::from);
    let directory = kept.unwrap_or_else(|| thrown_away.path().to_owned());
    std::fs::create_dir_all(&directory).unwrap();
    let scene = Scene::set();
    let (succeeded, failed, running) = (&scene.succeeded, &scene.failed, &scene.running);
    let log = "#log .row";
    let views: [View; 6] = [
        ("overview", "/".to_owned(), "#link", "● live"),
        (
            "running",
            format!("/job/firmware/{running}"),
            log,
            "waiting for the signature",
        ),
        (
            "failed",
            format!("/job/checks/{failed}"),
            log,
            "prices::have_a_currency",
        ),
        (
            "project",
            "/project/assets".to_owned(),
            "[data-copy] + button",
            "Copy",
        ),
        (
            "artifacts",
            format!("/artifacts/assets/{succeeded}/"),
            "main",
            "index.html",
        ),
        ("host", "/status".to_owned(), "#actions", "Pause"),
    ];

    let browser = Browser::at(scene.daemon.address());
    let mut bytes = 0;
    let mut take = |name: &str, (_, path, place, seen): &View| {
        browser.open(path);
        browser.wait_for_text(place, seen);
        let beyond = beyond_the_window(&browser);
        assert!(
            beyond.is_empty(),
            "'{path}' is wider than its window: {beyond:#?}"
        );
        let file = directory.join(format!("{name}.png"));
        browser.screenshot(&file);
        bytes += std::fs::metadata(&file).unwrap().len();
    };
    for view in &views {
        take(view.0, view);
    }
    browser.dark(true);
    take("overview-dark", &views[0]);
    take("failed-dark", &views[2]);
    browser.dark(false);
    browser.resize(NARROW.0, NARROW.1);
    take("overview-narrow", &views[0]);
    browser.resize(WIDE.0, WIDE.1);
    assert!(bytes < MAX_BYTES, "the pictures take {bytes} bytes");
    scene.release();
    browser.end();
}
