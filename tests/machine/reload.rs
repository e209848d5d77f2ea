//! `systemctl reload`: a new configuration is applied without a restart, a broken one changes nothing and
//! is reported.

use serde_json::json;

use crate::support::Machine;

#[test]
fn a_valid_configuration_is_applied_without_a_restart() {
    let machine = Machine::installed();
    // Only the newest client keeps it: with the setting it would be gone.
    assert_eq!(machine.get("/healthz").status, 200);
    let before = machine.daemon();
    machine.configure(json!({ "idle_exit": "200ms" }));
    let mut watch = machine.watch("mistryd.service");
    machine.run("systemctl reload mistryd.service");
    let records = machine
        .follow(&["_SYSTEMD_UNIT=mistryd.service"])
        .event("reloaded");
    assert_eq!(records.field("_PID"), before.to_string());
    // The setting is in force.
    watch.until("ActiveState", |state| state == "inactive");
    assert_eq!(machine.property("mistryd.service", "NRestarts"), "0");
}

#[test]
fn a_broken_configuration_is_reported_and_the_old_one_stays() {
    let machine = Machine::installed();
    assert_eq!(machine.get("/healthz").status, 200);
    let before = machine.daemon();
    let mut watch = machine.watch("mistryd.service");
    machine.configure(json!({ "idle_exit": "soon" }));
    let ran = machine.attempt("systemctl reload mistryd.service");
    assert_ne!(ran.status, 0, "{ran}");
    let text = watch.until("StatusText", |text| {
        text.contains("configuration not reloaded")
    });
    assert!(text.contains("idle_exit"), "{text}");
    let record = machine
        .follow(&["_SYSTEMD_UNIT=mistryd.service"])
        .event("not-reloaded");
    assert_eq!(record.field("PRIORITY"), "3");
    assert_eq!(
        record.field("MESSAGE_ID"),
        "93a1cf23a5dc4e46942f529f3b027c30"
    );
    // It goes on as it was.
    assert_eq!(
        (machine.daemon(), machine.active("mistryd.service").as_str()),
        (before, "active")
    );
    let project = machine.script("any", "true", json!(null));
    project.succeed(json!({}));

    machine.configure(json!({}));
    machine.run("systemctl reload mistryd.service");
    watch.until("StatusText", |text| !text.contains("not reloaded"));
    assert_eq!(machine.daemon(), before);
}

#[test]
fn a_build_goes_on_through_a_reload() {
    let machine = Machine::installed();
    let held = machine.held("held");
    let id = held.submit(json!({}));
    held.is_there();
    machine.configure(json!({ "job_timeout": "1h" }));
    machine.run("systemctl reload mistryd.service");
    held.release();
    assert_eq!(held.wait(&id)["Outcome"], "succeeded");
}
