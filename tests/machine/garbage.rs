//! The timer's service collects garbage as the configuration says, inside its sandbox: by the daemon,
//! which it starts if necessary.

use serde_json::json;

use crate::support::Machine;

#[test]
fn the_service_of_the_timer_has_garbage_collected_by_the_daemon() {
    let machine = Machine::installed();
    machine.configure(json!({ "gc": { "max_age": "7d" } }));
    let project = machine.script("any", "cp params/n artifacts/n", json!(null));
    let (old, new) = (
        project.succeed(json!({ "n": "old" })),
        project.succeed(json!({ "n": "new" })),
    );
    machine.run("systemctl stop mistryd.service");
    let ready = "/var/lib/mistry/builds/any/ready";
    machine.run(&format!(
        "touch -d '8 days ago' {ready}/{old} {ready}/{new}"
    ));
    machine.run("systemctl start mistryd-gc.service");
    assert_eq!(machine.property("mistryd-gc.service", "Result"), "success");
    // What is the latest stays, whatever its age.
    assert_eq!(machine.run(&format!("ls {ready}")).trim(), new);
    let records = machine.journal(&[&format!("MISTRY_JOB={old}"), "MISTRY_EVENT=removed"]);
    assert_eq!(records.len(), 1, "{records:#?}");
    let records = machine.journal(&["_SYSTEMD_UNIT=mistryd-gc.service"]);
    assert!(
        records
            .iter()
            .any(|record| record.field("MESSAGE").contains("Removed: 1")),
        "{records:#?}"
    );
    assert_eq!(machine.active("mistryd.service"), "active");
}
