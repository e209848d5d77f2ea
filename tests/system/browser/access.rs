//! Access from a browser: a token is asked for once and kept, a wrong one is reported, and pages of other
//! sites can do nothing with it.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};

use mistry::web::{Scope, Token};
use serde_json::{Value, json};

use super::pages::Pages;
use super::support::Browser;
use crate::support::Place;
use crate::support::daemon::{Daemon, Setup};
use crate::support::http;

const ADMIN: &str = "the-secret-of-root";
const READER: &str = "the-secret-of-an-eye";
/// Where a token is asked for.
const FIELD: &str = "dialog[open] input[type=password]";

/// Has a daemon know a token for everything and one for reading. What runs goes on meanwhile.
fn guard(daemon: &mut Daemon, public: &str) {
    let root = Token::of("root", vec![Scope::Admin], ADMIN);
    let eye = Token::of("eye", vec![Scope::Read], READER);
    std::fs::write(daemon.home().join("tokens"), format!("{root}\n{eye}\n")).unwrap();
    let file = daemon.home().join("config.json");
    let mut config: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    config["auth_tokens_file"] = json!("tokens");
    config["public"] = json!(public);
    std::fs::write(file, config.to_string()).unwrap();
    daemon.end();
    daemon.start();
}

/// Where all may read: two builds that run.
fn guarded() -> (Daemon, [String; 2]) {
    let mut daemon = Setup::on(Place::Host).fixture("slow").start();
    guard(&mut daemon, "read");
    let ids = ["first", "second"].map(|name| running(&daemon, name));
    (daemon, ids)
}

/// Asks with a token.
fn ask(daemon: &Daemon, method: &str, path: &str, body: &Value) -> http::Answer {
    let token = format!("Bearer {ADMIN}");
    let headers = [
        ("authorization", token.as_str()),
        ("content-type", "application/json"),
        ("accept", "application/json"),
    ];
    http::ask(
        daemon.address(),
        method,
        path,
        &headers,
        body.to_string().as_bytes(),
    )
}

/// A build that runs, asked for with a token; its id.
fn running(daemon: &Daemon, name: &str) -> String {
    let job = json!({"project": "slow", "params": {"name": name}});
    let answer = ask(daemon, "POST", "/jobs?async", &job);
    assert_eq!(answer.status, 201, "{}", answer.text());
    let id = answer.json()["ID"].as_str().unwrap().to_owned();
    daemon.until("slow", &id, "waiting");
    id
}

#[track_caller]
fn press_cancel(browser: &Browser) {
    browser.wait_for("#actions:not([hidden]) button[data-do=cancel]");
    browser.click("button[data-do=cancel]");
    browser.wait_for("dialog[open] input[name=reason]");
    browser.press("Enter");
}

#[test]
fn a_button_asks_for_a_token_once_and_keeps_it() {
    let (daemon, [first, second]) = guarded();
    let browser = Browser::at(daemon.address());
    // The browser itself says in its console that it was refused.
    browser.forgive("status of 401");
    browser.forgive("status of 403");
    browser.open(&format!("/job/slow/{first}"));
    browser.wait_for_text("#log .row", "waiting");
    press_cancel(&browser);

    // A wrong one is reported, and the user can try again.
    browser.wait_for(FIELD);
    browser.write("no-such-token");
    browser.press("Enter");
    browser.wait_for_text("body", "not known");
    if browser.count(FIELD) == 0 {
        browser.wait_until("!document.querySelector('button[disabled]')");
        press_cancel(&browser);
    }
    browser.wait_for(FIELD);
    browser.eval(&format!(
        "void document.querySelector({}).select()",
        json!(FIELD)
    ));
    browser.write(ADMIN);
    browser.press("Enter");
    browser.wait_for_text("h1 .outcome", "cancelled");
    browser.wait_for_text("#summary .notice", "Cancelled by token root");

    browser.open(&format!("/job/slow/{second}"));
    press_cancel(&browser);
    browser.wait_for_text("h1 .outcome", "cancelled");
    assert_eq!(browser.count("dialog"), 0);
    browser.end();
}

#[test]
fn a_token_that_does_not_suffice_is_reported() {
    let (daemon, [id, _]) = guarded();
    let browser = Browser::at(daemon.address());
    browser.forgive("status of 401");
    browser.forgive("status of 403");
    browser.open(&format!("/job/slow/{id}"));
    press_cancel(&browser);
    browser.wait_for(FIELD);
    browser.write(READER);
    browser.press("Enter");
    browser.wait_for_text("body", "this token does not allow that");
    assert_eq!(
        ask(
            &daemon,
            "GET",
            &format!("/job/slow/{id}?json"),
            &Value::Null
        )
        .json()["State"],
        "pending"
    );
    browser.end();
}

#[test]
fn where_nothing_is_public_a_token_opens_every_page_with_its_log_and_its_stream() {
    let mut pages = Pages::set();
    guard(&mut pages.daemon, "none");
    let browser = Browser::at(pages.daemon.address());
    browser.forgive("status of 401");
    for path in pages.paths() {
        browser.open(&path);
        browser.wait_for("input[type=password]");
        let text = browser.eval("document.documentElement.outerHTML");
        let text = text.as_str().unwrap();
        // Nothing of the server: no project, no group, no outcome; the address is the reader's own.
        for content in [
            "a-group",
            "succeeded",
            "slots in use",
            "begun",
            &pages.succeeded[..7],
        ] {
            let is_own = path.contains(content);
            assert!(
                is_own || !text.contains(content),
                "{path} tells {content}: {text}"
            );
        }
    }
    browser.open("/");
    browser.wait_for("input[type=password]");
    browser.click("input[type=password]");
    browser.write("no-such-token");
    browser.press("Enter");
    browser.wait_for_text("body", "not known");
    browser.wait_for("input[type=password]");
    browser.eval("void document.querySelector('input[type=password]').select()");
    browser.write(ADMIN);
    browser.press("Enter");
    browser.wait_for("[data-list]");
    browser.wait_for_text("#link", "● live");
    for path in pages.paths() {
        browser.open(&path);
        browser.wait_for_text("main h1", "");
        browser.wait_until("!document.querySelector('input[type=password]')");
        if path.starts_with("/job/") {
            browser.wait_for_text("#log .row", "begun well");
        }
    }
    browser.open(&format!("/job/every/{}", pages.running));
    browser.wait_for_text("#link", "● live");
    browser.wait_for_text("#log .row", "waiting");
    pages.release();
    browser.wait_for_text("h1 .outcome", "succeeded");
    browser.end();
}

/// Pages of another origin that try what a page can against the daemon at `target`.
fn other_site(target: String) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let target = target.clone();
            // A browser also opens connections that it may need later.
            std::thread::spawn(move || answer(&stream, &target));
        }
    });
    address
}

fn answer(stream: &TcpStream, target: &str) {
    let mut lines = BufReader::new(stream).lines().map_while(Result::ok);
    let Some(first) = lines.next() else { return };
    lines.find(String::is_empty);
    let path = first.split(' ').nth(1).unwrap_or_default();
    let page = match path {
        "/form" => format!(
            r#"<form method="post" enctype="text/plain" action="{target}"><input name='{{"reason":"' value='"}}'></form>
            <script>document.forms[0].submit()</script>"#
        ),
        "/fetch" => format!(
            r#"<script>
            const url = "{target}", body = "{{}}";
            const tries = [
                fetch(url, {{method: "POST", mode: "no-cors", body}}),
                fetch(url, {{method: "POST", mode: "no-cors", body, headers: {{"Content-Type": "text/plain"}}}}),
                fetch(url, {{method: "POST", body, headers: {{"Content-Type": "application/json"}}}}),
                fetch(url, {{method: "POST", body, credentials: "include"}}),
                fetch("{target}/../?json", {{headers: {{"Accept": "application/json"}}}}).then((answer) => answer.text()).then(() => {{ document.title = "read"; }}),
            ];
            Promise.allSettled(tries).then(() => {{ document.body.textContent = "all was tried"; }});
            </script>"#
        ),
        "/frame" => format!(
            r#"<iframe src="{}"></iframe>"#,
            target.trim_end_matches("/cancel")
        ),
        _ => panic!("'{path}' was asked for"),
    };
    let page = format!(
        r#"<!doctype html><title>of others</title><link rel="icon" href="data:,"><body>{page}"#
    );
    let mut stream = stream;
    let length = page.len();
    // The client may have gone.
    let _ = write!(
        stream,
        "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{page}"
    );
}

#[test]
fn a_page_of_another_site_cannot_cancel_frame_or_read_a_build() {
    // Without tokens: a client that may connect may do everything, only not for others.
    let daemon = Setup::on(Place::Host).fixture("slow").start();
    let id = daemon.submit(json!({"project": "slow"}));
    daemon.until("slow", &id, "waiting");
    for host in ["127.0.0.1", "localhost"] {
        let target = format!("http://{host}:{}/job/slow/{id}/cancel", daemon.port());
        let browser = Browser::at(&other_site(target.clone()));
        // It may send the request, and the browser reports the refusal in its console.
        let daemon_there = format!("{host}:{}", daemon.port());
        for message in [&daemon_there, "blocked by CORS", "frame-ancestors"] {
            browser.forgive(message);
        }
        browser.forgive_asking(&format!("http://{daemon_there}/"));
        // What a browser shows in the place of a page that it does not show.
        browser.forgive_asking("chrome-error:");
        browser.forgive_asking("data:");
        browser.open("/fetch");
        browser.wait_for_text("body", "all was tried");
        assert_eq!(browser.title(), "of others");
        let refused = browser.requests();
        let refused: Vec<_> = refused
            .iter()
            .filter(|request| request.url == target)
            .collect();
        assert!(!refused.is_empty());
        assert!(
            refused
                .iter()
                .all(|request| request.status.is_none_or(|status| status >= 400)),
            "{refused:#?}"
        );

        browser.open("/frame");
        let shown = "(() => { try { return document.querySelector('iframe').contentDocument?.body?.innerText ?? null } catch { return null } })()";
        assert!(!browser.eval(shown).to_string().contains("slow"));
        let console = browser.console();
        assert!(
            console.iter().any(|line| line.contains("frame-ancestors")),
            "{console:#?}"
        );

        browser.open("/form");
        browser.wait_until("!location.pathname.endsWith('/form')");
        let text = browser.text("body");
        assert!(
            text.contains("another site") || text.contains("application/json"),
            "{text}"
        );
        browser.end();
    }
    let info = daemon.get(&format!("/job/slow/{id}?json")).json();
    assert_eq!(
        (&info["State"], &info["BuildInfo"]["Cancelled"]),
        (&json!("pending"), &Value::Null)
    );
    daemon.release("slow", &id);
    assert_eq!(daemon.wait("slow", &id)["Outcome"], "succeeded");
}
