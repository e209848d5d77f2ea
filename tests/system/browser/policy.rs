//! What holds for every page in a reader's browser: a strict policy, few bytes, nothing from other
//! servers.

use serde_json::json;

use super::pages::Pages;
use super::support::Browser;
use crate::support::Place;
use crate::support::daemon::Setup;
use crate::support::http;

/// Bytes over the line until the overview is there and live, with a cold cache.
const FIRST_VISIT: u64 = 50 << 10;
/// On the first page of the overview.
const ROWS: usize = 50;

#[test]
fn every_page_has_a_strict_policy() {
    let pages = Pages::set();
    for path in pages.paths() {
        let headers = [("accept", "text/html,*/*;q=0.8")];
        let answer = http::ask(pages.daemon.address(), "GET", &path, &headers, b"");
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
        assert!(answer.text().starts_with("<!doctype html>"), "{path}");
        let policy = answer.header("content-security-policy").unwrap();
        assert!(policy.starts_with("default-src 'none'"), "{path}: {policy}");
        for rule in [
            "frame-ancestors 'none'",
            "base-uri 'none'",
            "form-action 'self'",
            "script-src 'self'",
        ] {
            assert!(
                policy.split("; ").any(|part| part == rule),
                "{path}: {policy}"
            );
        }
        for hole in ["unsafe", "data:", "http:", "https:", "*"] {
            assert!(!policy.contains(hole), "{path}: {policy}");
        }
        assert_eq!(
            answer.header("x-content-type-options"),
            Some("nosniff"),
            "{path}"
        );
    }
    pages.release();
}

#[test]
fn injected_scripts_do_not_run() {
    let pages = Pages::set();
    let browser = Browser::at(pages.daemon.address());
    for path in pages.paths() {
        browser.open(&path);
        browser.eval(
            "(() => {
                const script = document.createElement('script');
                script.textContent = 'window.isTaken = 1';
                const box = document.createElement('div');
                box.innerHTML = '<img src=\"/nothing-is-here\" onerror=\"window.isTaken = 2\"><p style=\"color: red\">x</p>';
                const link = Object.assign(document.createElement('a'), {href: 'javascript:window.isTaken = 3'});
                document.body.append(script, box, link);
                link.click();
            })()",
        );
        browser.wait_until("document.querySelector('img').complete");
        assert_eq!(browser.eval("window.isTaken"), json!(null), "{path}");
        assert_eq!(
            browser.eval("document.querySelector('p[style]').style.color"),
            "",
            "{path}"
        );
    }
    // The browser reports each.
    browser.forgive("Content Security Policy");
    browser.forgive("status of 404");
    let console = browser.console();
    assert!(
        console
            .iter()
            .any(|line| line.contains("Content Security Policy")),
        "{console:#?}"
    );
    pages.release();
    browser.end();
}

#[test]
fn a_first_visit_costs_little() {
    let setup = Setup::on(Place::Host).fixture("succeed");
    for n in 0..2 * ROWS {
        let at = setup.home().join(format!("builds/succeed/ready/{n:064x}"));
        std::fs::create_dir_all(at.join("data/artifacts")).unwrap();
        let record = json!({
            "Params": {"revision": format!("{:040x}", n * 7919), "environment": "production"},
            "Group": format!("branch-{}", n % 7),
            "ExitCode": 0,
            "ErrBuild": "",
            "StartedAt": format!("2026-01-01T00:{:02}:{:02}Z", n / 60, n % 60),
            "Duration": 1_000_000_000_i64 * n as i64,
            "Outcome": if n % 5 == 0 { "failed" } else { "succeeded" },
        });
        std::fs::write(at.join("build_info.json"), record.to_string()).unwrap();
        std::fs::write(at.join("out.log"), "done\n").unwrap();
    }
    let daemon = setup.start();
    assert_eq!(daemon.get("/index/?limit=1").status, 200);
    let browser = Browser::at(daemon.address());
    browser.open("/");
    browser.wait_for_text("#link", "● live");
    assert_eq!(browser.count("#recent tbody tr"), ROWS);
    let requests = browser.requests();
    let bytes: u64 = requests.iter().map(|request| request.bytes).sum();
    assert!(bytes <= FIRST_VISIT, "{bytes} bytes: {requests:#?}");
    browser.end();
}
