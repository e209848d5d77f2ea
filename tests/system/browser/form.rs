//! The form on the page of a project that starts a build: what is typed is sent, what the project does not take
//! is refused with the sentence of the server, and markup is text.

use serde_json::{Value, json};

use super::hostile::{MARKUP, nothing_is_taken};
use super::support::Browser;
use crate::support::Place;
use crate::support::daemon::{Daemon, Setup};

/// A param that must be sent, one with few values, a secret, and one that may be left out.
const PARAMS: &str = r#"{
    "lock": {"required": true, "description": "the lock file"},
    "env": {"default": "production", "values": ["staging", "production"]},
    "_token": {},
    "note": {}
}"#;
const SENT: &str = "#start > .bar button:not([type])";
const TOLD: &str = "#start [role=status]";

/// Has the project `succeed` say which params it takes.
fn describe(daemon: &Daemon, params: &str) {
    let settings = daemon.project("succeed").join("mistry.json");
    std::fs::write(settings, format!("{{\"params\": {params}}}")).unwrap();
}

/// The opened form of the project.
#[track_caller]
fn open(browser: &Browser) {
    browser.open("/project/succeed");
    browser.wait_for("#actions:not([hidden]) button[data-do=start]");
    assert_eq!(browser.count("#start:not([hidden])"), 0);
    browser.click("button[data-do=start]");
    browser.wait_for("#start:not([hidden])");
}

#[track_caller]
fn fill(browser: &Browser, css: &str, text: &str) {
    browser.click(css);
    browser.write(text);
}

/// The field of a param.
fn field(param: &str) -> String {
    format!("#start [data-param={param}] :is(input, textarea, select)")
}

/// The id of the build whose page is open.
#[track_caller]
fn built(browser: &Browser) -> String {
    browser.wait_for_path("/job/succeed/");
    browser.wait_for_text("h1 .outcome", "succeeded");
    browser.wait_for("#log[data-stream=over]");
    let path = browser.path();
    let id = path.trim_start_matches("/job/succeed/");
    id.split('?').next().unwrap().to_owned()
}

fn info(daemon: &Daemon, id: &str) -> Value {
    daemon.get(&format!("/job/succeed/{id}?json")).json()["BuildInfo"].clone()
}

#[track_caller]
fn nothing_was_built(daemon: &Daemon) {
    assert_eq!(daemon.get("/index/?project=succeed").json(), json!([]));
}

#[test]
fn a_build_is_started_with_the_group_and_the_params_of_the_form() {
    let daemon = Setup::on(Place::Host).fixture("succeed").start();
    describe(&daemon, PARAMS);
    let browser = Browser::at(daemon.address());
    open(&browser);
    assert!(browser.text("#start").contains("the lock file"));
    // The field for the group has the focus.
    browser.write("main");
    fill(&browser, &field("lock"), "two words");
    fill(&browser, &field("_token"), "hunter2");
    // By the keyboard, as a reader without a mouse does it.
    let select = json!(field("env"));
    browser.eval(&format!("void document.querySelector({select}).focus()"));
    browser.write("staging");
    browser.click(SENT);
    let id = built(&browser);
    let info = info(&daemon, &id);
    assert_eq!(info["Group"], "main");
    // An empty field is not sent.
    let sent = json!({"lock": "two words", "env": "staging", "_token": null});
    assert_eq!(info["Params"], sent);
    assert!(!browser.text("body").contains("hunter2"));

    // The next one begins with the same values, but for the secret.
    open(&browser);
    let values = format!(
        "[...document.querySelectorAll({})].map(one => one.value)",
        json!("#start :is(input, textarea, select)")
    );
    let expected = json!(["main", "two words", "staging", "", ""]);
    assert_eq!(browser.eval(&values), expected);
    browser.end();
}

#[test]
fn a_param_that_is_missing_is_refused_with_its_sentence() {
    let daemon = Setup::on(Place::Host).fixture("succeed").start();
    describe(&daemon, PARAMS);
    let browser = Browser::at(daemon.address());
    open(&browser);
    // The browser itself knows that a field must be filled.
    browser.click(SENT);
    let invalid = "document.activeElement.matches('[data-param=lock] textarea:invalid')";
    browser.wait_until(invalid);
    nothing_was_built(&daemon);

    // Since the page was loaded, the project takes other params.
    describe(
        &daemon,
        r#"{"lock": {}, "region": {"required": true, "description": "where it runs"}}"#,
    );
    browser.write("x");
    browser.click(SENT);
    browser.wait_for_text(TOLD, "param 'region' is missing (where it runs)");
    browser.wait_until("!document.querySelector('#start button[disabled]')");
    assert_eq!(browser.path(), "/project/succeed");
    nothing_was_built(&daemon);
    browser.forgive("status of 422");
    browser.end();
}

#[test]
fn markup_that_is_typed_into_the_form_is_sent_and_shown_as_text() {
    let daemon = Setup::on(Place::Host).fixture("succeed").start();
    let browser = Browser::at(daemon.address());
    open(&browser);
    let group = "<x-hostile>&amp;\"'";
    browser.write(group);
    // A name that no param can have is named in the refusal, as text.
    browser.click("[data-add]");
    fill(
        &browser,
        "#start .free [data-name]",
        "<x-hostile onload=isTaken=8>",
    );
    browser.press("Tab");
    browser.write("x");
    browser.click(SENT);
    browser.wait_for_text(TOLD, "<x-hostile onload=isTaken=8>");
    nothing_is_taken(&browser);
    browser.forgive("status of 4");
    browser.eval("void document.querySelector('#start .free').remove()");

    let short = "\"><x-hostile onload=isTaken=9>";
    for (at, (name, value)) in [("long", MARKUP), ("short", short)].into_iter().enumerate() {
        browser.click("[data-add]");
        let name_field =
            format!("[...document.querySelectorAll('#start .free [data-name]')][{at}]");
        browser.eval(&format!("void {name_field}.focus()"));
        browser.write(name);
        browser.press("Tab");
        browser.write(value);
    }
    nothing_is_taken(&browser);
    browser.click(SENT);
    let id = built(&browser);
    let info = info(&daemon, &id);
    assert_eq!(info["Group"], group);
    assert_eq!(info["Params"], json!({"long": MARKUP, "short": short}));
    nothing_is_taken(&browser);
    let params = browser.eval("document.querySelector('.params').textContent");
    let params = params.as_str().unwrap();
    assert!(
        params.contains(MARKUP) && params.contains(short),
        "{params}"
    );
    assert!(browser.text("#facts").contains(group));

    browser.open("/");
    browser.wait_for_text("#link", "● live");
    nothing_is_taken(&browser);
    let row = browser.text("#recent");
    assert!(row.contains(group) && row.contains(&MARKUP[..60]), "{row}");
    // The form offers what it was sent.
    open(&browser);
    nothing_is_taken(&browser);
    let offered = browser.eval(&format!(
        "document.querySelector({}).value",
        json!(field("short"))
    ));
    assert_eq!(offered, short);
    browser.end();
}
