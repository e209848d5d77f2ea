//! Without scripts every page has its content, links to the others, and shows no control that would do
//! nothing.

use super::pages::Pages;
use super::support::Browser;

/// Controls and hints that need scripts.
const IN_VAIN: &str = "[...document.querySelectorAll('button, progress:not([value])')]
    .filter(one => one.checkVisibility() && !one.closest('form[method=get]')).length";

fn start() -> (Pages, Browser) {
    let pages = Pages::set();
    let browser = Browser::at(pages.daemon.address());
    browser.set_javascript(false);
    (pages, browser)
}

#[test]
fn every_page_shows_what_it_must_and_no_button_without_effect() {
    let (pages, browser) = start();
    let job = |id: &str| format!("/job/every/{id}");
    let expected: [(String, &[&str]); 7] = [
        (
            "/".to_owned(),
            &[
                "1 of 1 slots in use, 1 queued",
                "running",
                "queued",
                "succeeded",
                "failed",
                "UTC",
            ],
        ),
        (
            job(&pages.succeeded),
            &[
                "succeeded",
                "a-group",
                "cold",
                "127.0.0.1",
                "secret",
                "begun well",
                "UTC",
            ],
        ),
        (
            job(&pages.failed),
            &[
                "failed with exit code 3",
                "incremental",
                "it fails",
                "browse",
            ],
        ),
        (
            job(&pages.running),
            &["running", "begun well", "waiting", "Follow the log as text"],
        ),
        ("/projects".to_owned(), &["every"]),
        (
            "/project/every".to_owned(),
            &["build --project=every", "curl", "a-group", "50 %"],
        ),
        (
            "/status".to_owned(),
            &["1 of 1", "1 of", "reachable", "free of", "metrics"],
        ),
    ];
    for (path, words) in expected {
        browser.open(&path);
        let text = browser.text("body");
        for word in words {
            assert!(text.contains(word), "{path}: {word} is not in {text}");
        }
        assert_eq!(browser.eval(IN_VAIN), 0, "{path}");
        assert!(
            !text.contains("live"),
            "{path} says that it is live: {text}"
        );
    }
    browser.open(&format!("/artifacts/every/{}/", pages.succeeded));
    for name in ["notes.txt", "sub"] {
        browser.wait_for_text("main", name);
    }
    pages.release();
    browser.end();
}

#[test]
fn links_lead_from_each_page_to_the_next_and_the_filter_works() {
    let (pages, browser) = start();
    browser.open("/");
    browser.click("nav a[href='/projects']");
    browser.click("main a[href='/project/every']");
    browser.click(&format!(
        "#recent a[href^='/job/every/{}']",
        pages.succeeded
    ));
    browser.wait_for_text("h1 .outcome", "succeeded");
    browser.click(&format!(
        "main a[href='/artifacts/every/{}/']",
        pages.succeeded
    ));
    browser.wait_for_text("main", "notes.txt");
    browser.click("nav a[href='/status']");
    browser.wait_for_text("h1", "Host");
    browser.click(".brand");
    browser.eval("void (document.querySelector('select[name=group]').value = 'a-group')");
    browser.click("form[role=search] button");
    browser.wait_for_path("group=a-group");
    assert_eq!(browser.count("#recent tbody tr"), 2);
    assert_eq!(browser.count("#now tbody tr"), 1);
    // A page that was loaded again knows what has happened.
    pages.release();
    pages.daemon.wait("every", &pages.running);
    browser.reload();
    assert_eq!(browser.count("#recent tbody tr"), 3);
    browser.end();
}
