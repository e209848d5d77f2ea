//! The journal: one record for each event, with fields to find it by and an explanation; and a journal
//! that does not read delays nothing.

use std::os::unix::net::UnixDatagram;

use serde_json::json;

use crate::support::Machine;

const ACCEPTED: &str = "fddd42b3f76149bdb9aa243f0a7b9143";
const STARTED: &str = "98e3dc20d8b443089d23f8a07a9ffe7e";
const RUNNING: &str = "c0b2a58ab75e4a088345564b2e626c27";
const SUCCEEDED: &str = "8422031a6eb14a51a89d70754a1e266c";
const FAILED: &str = "bcb709d46fe3499db04ea6809552042c";

#[test]
fn the_records_of_a_job_cover_it_from_start_to_end() {
    let machine = Machine::installed();
    machine.example();
    let ran = machine.as_user(
        "member",
        "mistry build --project hello --group red/blue --json-result",
    );
    assert_eq!(ran.status, 0, "{ran}");
    let info: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    let id = info["ID"].as_str().unwrap();
    machine
        .follow(&[&format!("MISTRY_JOB={id}")])
        .event("succeeded");

    let records = machine.journal(&[&format!("MISTRY_JOB={id}"), "_SYSTEMD_UNIT=mistryd.service"]);
    let story: Vec<_> = records
        .iter()
        .filter(|record| !record.event().is_empty())
        .map(|record| {
            (
                record.event(),
                record.field("MESSAGE_ID"),
                record.field("PRIORITY"),
            )
        })
        .collect();
    assert_eq!(
        story,
        [
            ("accepted", ACCEPTED, "6"),
            ("started", STARTED, "6"),
            ("running", RUNNING, "6"),
            ("succeeded", SUCCEEDED, "6"),
        ],
        "{records:#?}"
    );
    for record in &records {
        assert_eq!(record.field("MISTRY_PROJECT"), "hello", "{record:?}");
        assert_eq!(record.field("MISTRY_GROUP"), "red/blue", "{record:?}");
        assert_eq!(record.field("SYSLOG_IDENTIFIER"), "mistryd", "{record:?}");
        assert!(!record.message().is_empty(), "{record:?}");
    }
    assert!(
        !records[0].field("MISTRY_REQUEST").is_empty(),
        "{:?}",
        records[0]
    );
    // One record for each, not another on standard error.
    let all = machine.journal(&["_SYSTEMD_UNIT=mistryd.service", "_TRANSPORT=stdout"]);
    assert!(all.is_empty(), "{all:#?}");
}

#[test]
fn a_build_that_fails_is_a_warning_with_its_exit_code() {
    let machine = Machine::installed();
    let project = machine.script("failing", "exit 42", json!(null));
    let info = project.build(json!({}));
    let job = format!("MISTRY_JOB={}", info["ID"].as_str().unwrap());
    let record = machine.follow(&[&job]).event("failed");
    assert_eq!(record.field("PRIORITY"), "4");
    assert_eq!(record.field("MESSAGE_ID"), FAILED);
    assert_eq!(record.field("EXIT_CODE"), "42");
}

#[test]
fn every_record_has_an_explanation_in_the_catalog() {
    let machine = Machine::installed();
    let project = machine.script("failing", "exit 42", json!(null));
    let info = project.build(json!({}));
    let id = info["ID"].as_str().unwrap();
    machine
        .follow(&[&format!("MISTRY_JOB={id}")])
        .event("failed");
    let explained = machine.run(&format!("journalctl -q -x --no-pager MISTRY_JOB={id}"));
    assert!(explained.matches("Subject:").count() >= 4, "{explained}");
    // The explanation names what it is about.
    let (_, failed) = explained.rsplit_once("Subject:").unwrap();
    assert!(failed.contains("failing"), "{explained}");
    assert!(
        !explained.contains('@'),
        "a field of the explanation has no value: {explained}"
    );
}

#[test]
fn a_journal_that_is_stalled_holds_up_no_build() {
    let machine = Machine::installed();
    let project = machine.script("quiet", "cp params/n artifacts/", json!(null));
    project.succeed(json!({ "n": "before" }));
    machine.run("systemctl kill --kill-who=main --signal=STOP systemd-journald.service");
    // Until nothing more goes in.
    let journal = UnixDatagram::unbound().unwrap();
    journal
        .connect(machine.path("/run/systemd/journal/socket"))
        .unwrap();
    journal.set_nonblocking(true).unwrap();
    while journal.send(b"MESSAGE=filling\n").is_ok() {}

    // With and without the daemon that was there before.
    for n in 0..10 {
        project.succeed(json!({ "n": n.to_string() }));
    }
    assert_eq!(machine.property("mistryd.service", "NRestarts"), "0");
    machine.run("systemctl kill --kill-who=main --signal=CONT systemd-journald.service");
    let id = project.succeed(json!({ "n": "after" }));
    machine
        .follow(&[&format!("MISTRY_JOB={id}")])
        .event("succeeded");
}
