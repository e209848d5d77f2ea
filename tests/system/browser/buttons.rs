//! The buttons do what their labels say, report the result, and ask before what cannot be undone.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use super::support::Browser;
use crate::support::Place;
use crate::support::daemon::{Daemon, Setup};

fn info(daemon: &Daemon, project: &str, id: &str) -> Value {
    daemon.get(&format!("/job/{project}/{id}?json")).json()
}

fn id(info: &Value) -> String {
    info["ID"].as_str().unwrap().to_owned()
}

fn button(does: &str) -> String {
    format!("#actions:not([hidden]) button[data-do={does}]")
}

#[test]
fn a_build_is_cancelled_with_a_reason_once_its_reader_is_sure() {
    let daemon = Setup::on(Place::Host).fixture("slow").start();
    let running = daemon.submit(json!({"project": "slow"}));
    daemon.until("slow", &running, "waiting");
    let browser = Browser::at(daemon.address());
    browser.open(&format!("/job/slow/{running}"));
    browser.wait_for(&button("cancel"));
    for leave in ["Escape", "Back"] {
        browser.click(&button("cancel"));
        browser.wait_for("dialog[open] input[name=reason]");
        match leave {
            "Escape" => browser.press("Escape"),
            _ => browser.click("dialog button:last-of-type"),
        }
        browser.wait_until("!document.querySelector('dialog')");
        assert_eq!(info(&daemon, "slow", &running)["State"], "pending");
        browser.wait_until("!document.querySelector('button[disabled]')");
    }

    browser.click(&button("cancel"));
    browser.wait_for("dialog[open] input[name=reason]");
    browser.write("not needed any more");
    browser.click("dialog button[value=yes]");
    browser.wait_for_text("h1 .outcome", "cancelled");
    browser.wait_for_text(
        "#summary .notice",
        "Cancelled by 127.0.0.1: not needed any more",
    );
    assert_eq!(
        info(&daemon, "slow", &running)["BuildInfo"]["Cancelled"]["Reason"],
        "not needed any more"
    );

    // And asked for again.
    browser.click(&button("again"));
    browser.wait_for_text("h1 .outcome", "running");
    daemon.until("slow", &running, "waiting");
    daemon.release("slow", &running);
    browser.wait_for_text("h1 .outcome", "succeeded");
    browser.end();
}

#[test]
fn a_rebuild_asks_for_the_secrets_that_are_kept_nowhere() {
    let daemon = Setup::on(Place::Host).fixture("secret").start();
    let params = json!({"_token": "xyzzy", "name": "open"});
    let built = id(&daemon.succeed(json!({"project": "secret", "params": params})));
    let browser = Browser::at(daemon.address());
    browser.open(&format!("/job/secret/{built}"));
    browser.wait_for(&button("rebuild"));
    assert!(!browser.text("body").contains("xyzzy"));
    browser.click(&button("rebuild"));
    browser.wait_for("dialog[open] input[type=password][name=_token]");
    browser.press("Escape");
    browser.wait_until("!document.querySelector('dialog')");
    browser.click(&button("rebuild"));
    browser.wait_for("dialog[open] input[type=password][name=_token]");
    browser.write("xyzzy");
    browser.press("Enter");
    browser.wait_until("!document.querySelector('dialog')");
    // The same job: it is where it was, and executed once more.
    daemon.wait("secret", &built);
    browser.wait_for_text("h1 .outcome", "succeeded");
    browser.wait_for_path(&format!("/job/secret/{built}?attempt=2"));
    let now = info(&daemon, "secret", &built);
    assert_eq!(
        now["BuildInfo"]["Params"],
        json!({"_token": null, "name": "open"}),
        "{now:#}"
    );
    browser.end();
}

/// A build of a group.
fn grouped(n: u32) -> Value {
    json!({"project": "succeed", "group": "main", "params": {"n": n.to_string()}})
}

#[test]
fn a_cold_build_starts_empty_and_becomes_the_base_of_its_group() {
    let daemon = Setup::on(Place::Host).fixture("succeed").start();
    let first = id(&daemon.succeed(grouped(1)));
    let second = daemon.succeed(grouped(2));
    assert_eq!(second["Base"], first.as_str());
    let browser = Browser::at(daemon.address());
    browser.open(&format!("/job/succeed/{first}"));
    browser.wait_for(&button("cold"));
    browser.click(&button("cold"));
    browser.wait_for_path(&format!("/job/succeed/{first}?attempt=2"));
    browser.wait_for_text("h1 .outcome", "succeeded");
    browser.wait_for_text("#summary .attempts", "attempt 2 of 2");
    let kind =
        "document.querySelector('#facts').textContent.includes('started empty, as requested')";
    browser.wait_until(kind);
    let made = &info(&daemon, "succeed", &first)["BuildInfo"];
    assert_eq!(
        (&made["Cold"], &made["Incremental"]),
        (&json!(true), &json!(false)),
        "{made:#}"
    );
    // It ran without the cache of the first one, and the next build has its cache.
    browser.wait_for_text("#log .row", "run 1");
    let third = daemon.succeed(grouped(3));
    assert_eq!(third["Base"], first.as_str());
    let log = daemon.get(&format!("/log/succeed/{}?text", id(&third)));
    assert!(log.text().contains("run 2"), "{}", log.text());
    browser.end();
}

#[test]
fn a_group_is_reset_once_its_reader_is_sure() {
    let daemon = Setup::on(Place::Host).fixture("succeed").start();
    let built = id(&daemon.succeed(grouped(1)));
    let reset = "button[data-do=reset]:not([hidden])";
    let groups = || daemon.get("/project/succeed?json").json()["Groups"].clone();
    let browser = Browser::at(daemon.address());
    browser.open("/project/succeed");
    browser.wait_for(reset);
    browser.click(reset);
    browser.wait_for_text("dialog[open]", "Reset group 'main'?");
    browser.click("dialog button:last-of-type");
    browser.wait_until("!document.querySelector('dialog')");
    assert_eq!(groups(), json!({"main": built}));

    browser.click(reset);
    browser.wait_for("dialog[open] button[value=yes]");
    browser.click("dialog button[value=yes]");
    browser.wait_for_text("main", "None: no build without a group has succeeded");
    assert_eq!(browser.count(reset), 0);
    assert_eq!(groups(), json!({}));
    // Its builds stay, and the next one starts empty.
    browser.wait_for(&format!("#recent tr[data-job='succeed/{built}']"));
    let next = daemon.succeed(grouped(2));
    assert_eq!(
        (&next["Base"], &next["Incremental"]),
        (&Value::Null, &json!(false))
    );
    browser.end();
}

#[test]
fn a_build_is_pinned_and_let_go() {
    let daemon = Setup::on(Place::Host).fixture("succeed").start();
    let built = id(&daemon.succeed(json!({"project": "succeed"})));
    let browser = Browser::at(daemon.address());
    browser.open(&format!("/job/succeed/{built}"));
    browser.wait_for(&button("pin"));
    browser.click(&button("pin"));
    browser.wait_for_text(&button("unpin"), "Unpin");
    assert_eq!(info(&daemon, "succeed", &built)["Pinned"], true);
    browser.reload();
    browser.wait_for(&button("unpin"));
    browser.click(&button("unpin"));
    browser.wait_for_text(&button("pin"), "Pin");
    assert_eq!(info(&daemon, "succeed", &built)["Pinned"], false);

    // An error of the server is shown beside the button.
    std::fs::remove_dir_all(daemon.ready("succeed", &built)).unwrap();
    browser.click(&button("pin"));
    browser.wait_for("#actions [role=status]:not(:empty)");
    browser.wait_until("!document.querySelector('button[disabled]')");
    browser.forgive("status of 404");
    browser.end();
}

#[test]
fn the_queue_is_paused_and_resumed_and_every_page_shows_it() {
    let daemon = Setup::on(Place::Host).fixture("succeed").start();
    let browser = Browser::at(daemon.address());
    let overview = Browser::at(daemon.address());
    overview.open("/");
    overview.wait_for_text("#link", "● live");
    browser.open("/status");
    browser.wait_for(&button("pause"));
    browser.click(&button("pause"));
    browser.wait_for_text(".notice", "The queue is paused.");
    overview.wait_for_text("#notices", "The queue is paused.");
    let waits = daemon.submit(json!({"project": "succeed"}));
    overview.wait_for_text(&format!("#now tr[data-job='succeed/{waits}']"), "queued");
    browser.wait_until("document.querySelector('#queue').innerText.startsWith('1 of')");
    browser.click(&button("resume"));
    browser.wait_for(&button("pause"));
    assert_eq!(browser.count(".notice"), 0);
    overview.wait_until("!document.querySelector('#notices').innerText.includes('paused')");
    overview.wait_for_text(
        &format!("#recent tr[data-job='succeed/{waits}']"),
        "succeeded",
    );
    browser.end();
    overview.end();
}

#[test]
fn a_projects_image_is_rebuilt_and_its_commands_are_copied() {
    let daemon = Setup::on(Place::Host).fixture("succeed").start();
    daemon.succeed(json!({"project": "succeed"}));
    let browser = Browser::at(daemon.address());
    browser.open("/project/succeed");
    browser.wait_for(&button("image"));
    browser.click(&button("image"));
    browser.wait_for_text("#actions [role=status]", "the image is ");
    let commands = browser.texts("[data-copy]");
    assert!(commands[1].starts_with("curl "), "{commands:?}");
    // What is copied does what it says.
    let mistry = Path::new(env!("CARGO_BIN_EXE_mistry")).parent().unwrap();
    let built = Command::new("/bin/sh")
        .args(["-c", &commands[0]])
        .env("PATH", mistry)
        .current_dir(daemon.home())
        .output()
        .unwrap();
    assert!(built.status.success(), "{commands:?}: {built:?}");
    browser.click("[data-copy] + button");
    browser.wait_for_text("[data-copy] + button", "Copied");
    browser.end();
}
