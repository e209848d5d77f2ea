//! Pictures of every page, wide and narrow, light and dark: `make screenshots` keeps them below the target
//! directory, and takes those in `docs/screenshots/` from there. Every `make test` takes them too and throws
//! them away, so that they can be taken at any time.

use std::path::{Path, PathBuf};

use mistry::web::{Scope, Token};
use serde_json::json;

use super::pages::beyond_the_window;
use super::scene::Scene;
use super::support::Browser;
use crate::support::Place;
use crate::support::daemon::{Daemon, Setup};

/// The pictures that documents show; they are in every clone.
const MAX_BYTES: u64 = 600_000;
/// A telephone held upright.
const NARROW: (u32, u32) = (390, 844);
const WIDE: (u32, u32) = (1280, 800);

/// A picture of a page.
struct View {
    /// The beginning of its file's name.
    name: &'static str,
    path: String,
    /// Where in the page which text must be seen before it is taken.
    place: &'static str,
    seen: &'static str,
    /// What is clicked then.
    clicked: Option<&'static str>,
}

fn view(
    name: &'static str,
    path: impl Into<String>,
    place: &'static str,
    seen: &'static str,
) -> View {
    View {
        name,
        path: path.into(),
        place,
        seen,
        clicked: None,
    }
}

/// The pages of a server with builds.
fn views(scene: &Scene) -> Vec<View> {
    let (succeeded, failed) = (&scene.succeeded, &scene.failed);
    let (running, waiting, broken) = (&scene.running, &scene.waiting, &scene.broken);
    let log = "#log .row";
    let files = format!("/artifacts/assets/{succeeded}");
    let attempt = format!("/job/checks/{}?attempt=1", scene.repeated);
    // A red page opens at the end of its log; a button leads to its top.
    let to_top = Some("#log-why");
    vec![
        view("overview", "/", "#link", "● live"),
        view("filtered", "/?outcome=failed", "#link", "● live"),
        view(
            "running",
            format!("/job/firmware/{running}"),
            log,
            "waiting for the signature",
        ),
        view("waiting", format!("/job/docs/{waiting}"), "h1", "queued"),
        view(
            "succeeded",
            format!("/job/assets/{succeeded}"),
            log,
            "successfully",
        ),
        view(
            "failed",
            format!("/job/checks/{failed}"),
            log,
            "prices::have_a_currency",
        ),
        View {
            clicked: to_top,
            ..view(
                "broken",
                format!("/job/tools/{broken}"),
                log,
                "Unable to locate",
            )
        },
        View {
            clicked: to_top,
            ..view("attempt", attempt, log, "running 6 tests")
        },
        view("project", "/project/assets", "[data-copy] + button", "Copy"),
        View {
            clicked: Some("button[data-do=start]"),
            ..view("form", "/project/assets", "#actions", "Start a build")
        },
        view("projects", "/projects", "main", "firmware"),
        view("host", "/status", "#actions", "Pause"),
        view("artifacts", format!("{files}/"), "main", "index.html"),
        view(
            "file",
            format!("{files}/index.html?view"),
            "main",
            "doctype",
        ),
        view(
            "picture",
            format!("{files}/static/logo.svg?view"),
            "main",
            "logo.svg",
        ),
        view("refused", "/project/nothing", "main", "nothing"),
    ]
}

/// A server without builds, and one that shows nothing without a token.
fn others() -> [(Daemon, View); 2] {
    let empty = Setup::on(Place::Host).start();
    let guarded = json!({"auth_tokens_file": "tokens", "public": "none"});
    let guarded = Setup::on(Place::Host).config(guarded);
    let token = Token::of("root", vec![Scope::Admin], "a-secret");
    std::fs::write(guarded.home().join("tokens"), format!("{token}\n")).unwrap();
    [
        (empty, view("empty", "/", "#link", "● live")),
        (guarded.start(), view("sign-in", "/", "form", "Token")),
    ]
}

/// Takes each view in both widths and colour schemes; the bytes of those that documents show.
fn take(browser: &Browser, directory: &Path, views: &[View]) -> u64 {
    let documents = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/screenshots");
    let mut bytes = 0;
    for (size, narrow) in [(WIDE, ""), (NARROW, "-narrow")] {
        browser.resize(size.0, size.1);
        for (is_dark, dark) in [(false, ""), (true, "-dark")] {
            browser.dark(is_dark);
            for view in views {
                browser.open(&view.path);
                browser.wait_for_text(view.place, view.seen);
                if let Some(clicked) = view.clicked {
                    browser.click(clicked);
                }
                let beyond = beyond_the_window(browser);
                let path = &view.path;
                assert!(
                    beyond.is_empty(),
                    "'{path}' is wider than its window: {beyond:#?}"
                );
                let name = format!("{}{narrow}{dark}.png", view.name);
                let file = directory.join(&name);
                browser.screenshot(&file);
                if documents.join(&name).exists() {
                    bytes += std::fs::metadata(&file).unwrap().len();
                }
            }
        }
    }
    bytes
}

#[test]
fn every_page_is_fit_to_be_seen() {
    // Only for us; removed in the end.
    let thrown_away = tempfile::tempdir().unwrap();
    let kept = std::env::var_os("MISTRY_SCREENSHOTS").map(PathBuf::from);
    let directory = kept.unwrap_or_else(|| thrown_away.path().to_owned());
    std::fs::create_dir_all(&directory).unwrap();
    let scene = Scene::set();
    let browser = Browser::at(scene.daemon.address());
    let bytes = take(&browser, &directory, &views(&scene));
    assert!(bytes < MAX_BYTES, "the pictures take {bytes} bytes");
    scene.release();
    // The browser reports the page that is not there.
    browser.forgive("status of 404");
    browser.end();
    for (daemon, view) in others() {
        let browser = Browser::at(daemon.address());
        take(&browser, &directory, &[view]);
        browser.forgive("status of 401");
        browser.end();
    }
}
