//! Readiness and the status text: `systemctl status mistryd` shows what the daemon is doing.

use serde_json::json;

use crate::support::Machine;

#[test]
fn the_status_has_the_running_and_waiting_builds_and_the_last_outcome() {
    let machine = Machine::installed();
    machine.configure(json!({ "job_concurrency": 1 }));
    assert_eq!(machine.get("/healthz").status, 200);
    let mut watch = machine.watch("mistryd.service");
    watch.until("StatusText", |text| text == "idle");

    let held = machine.held("held");
    let other = machine.script("other", "exit 7", json!(null));
    let first = held.submit(json!({}));
    held.is_there();
    watch.until("StatusText", |text| {
        text == "1 building, 0 queued" || text == "1 building"
    });
    let second = other.submit(json!({}));
    watch.until("StatusText", |text| text == "1 building, 1 queued");
    held.release();
    let begins = format!("idle; last: other {} failed", &second[..7]);
    watch.until("StatusText", |text| text.starts_with(&begins));
    assert_eq!(held.wait(&first)["Outcome"], "succeeded");
    assert!(
        machine
            .run("systemctl status mistryd.service")
            .contains("Status: \"idle; last: other")
    );
}

#[test]
fn a_stop_is_clean_and_accepted_jobs_are_built_by_the_next_process() {
    let machine = Machine::installed();
    let held = machine.held("held");
    let id = held.submit(json!({}));
    held.is_there();
    machine.run("systemctl stop mistryd.service");
    assert_eq!(machine.property("mistryd.service", "Result"), "success");
    assert_eq!(machine.property("mistryd.service", "ExecMainStatus"), "0");
    let job = format!("MISTRY_JOB={id}");
    machine.run("systemctl start mistryd.service");
    machine.follow(&[&job]).event("taken-over");
    held.release();
    let info = held.wait(&id);
    // Its container ran on meanwhile.
    assert_eq!(info["Outcome"], "succeeded", "{info:#}");
    assert_eq!(info["Attempt"], 1, "{info:#}");
}

#[test]
fn at_boot_the_daemon_goes_on_with_what_was_accepted() {
    let machine = Machine::installed();
    let wanted = machine.property("multi-user.target", "Wants");
    assert!(
        wanted.split(' ').any(|unit| unit == "mistryd.service"),
        "{wanted}"
    );
}
