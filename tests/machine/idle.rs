//! Idle exit: without work the daemon ends; the next client starts it again, and no client is lost in
//! between.

use serde_json::json;

use crate::support::{Machine, at_once};

#[test]
fn the_packaged_configuration_ends_an_idle_daemon() {
    let machine = Machine::installed();
    let config: serde_json::Value =
        serde_json::from_str(&machine.read("/etc/mistry/config.json")).unwrap();
    assert_eq!(config["idle_exit"], "10m");
}

#[test]
fn an_idle_daemon_ends_and_the_next_client_starts_it_again() {
    let machine = Machine::installed();
    machine.configure(json!({ "idle_exit": "200ms" }));
    let mut watch = machine.watch("mistryd.service");
    for _ in 0..3 {
        assert_eq!(machine.get("/healthz").status, 200);
        watch.until("ActiveState", |state| state == "inactive");
        assert_eq!(machine.property("mistryd.service", "Result"), "success");
        assert_eq!(machine.property("mistryd.service", "ExecMainStatus"), "0");
        assert_eq!(machine.active("mistryd.socket"), "active");
    }
    let ids = machine.journal(&["_SYSTEMD_UNIT=mistryd.service", "MISTRY_EVENT=idle"]);
    assert_eq!(ids.len(), 3);
    assert_eq!(
        ids[0].field("MESSAGE_ID"),
        "a22b43c71a9948ee934e1926106d92dd"
    );
}

#[test]
fn it_does_not_end_while_a_build_runs() {
    let machine = Machine::installed();
    machine.configure(json!({ "idle_exit": "100ms" }));
    // No client is connected while it goes on, for ten times as long.
    let project = machine.script("lasting", "sleep 1", json!(null));
    let id = project.submit(json!({}));
    let job = format!("MISTRY_JOB={id}");
    let mut story = machine.follow(&[&job]);
    let (began, ended) = (story.event("started"), story.event("succeeded"));
    assert_eq!(began.field("_PID"), ended.field("_PID"));
    machine.wait_for("mistryd.service", "ActiveState", |state| {
        state == "inactive"
    });
    assert_eq!(machine.property("mistryd.service", "ExecMainStatus"), "0");
}

#[test]
fn no_client_that_connects_while_the_daemon_ends_is_lost() {
    let machine = Machine::installed();
    machine.configure(json!({ "idle_exit": "30ms" }));
    let trials = if std::env::var_os("MISTRY_SOAK").is_some() {
        200
    } else {
        15
    };
    for trial in 0..trials {
        // The last client was here; now some come around the time at which it ends.
        assert_eq!(machine.get("/healthz").status, 200, "{trial}");
        let answers = at_once(4, |number| {
            let after = std::time::Duration::from_millis(20 + (trial % 10 * 2 + number * 4) as u64);
            #[expect(
                clippy::disallowed_methods,
                reason = "the moment itself is what is tried"
            )]
            std::thread::sleep(after);
            let connection = match number % 2 {
                0 => machine.connect_unix(),
                _ => machine.connect_tcp(),
            };
            crate::support::ask(connection.unwrap(), "GET", "/healthz", "").status
        });
        assert_eq!(answers, [200; 4], "{trial}");
    }
    assert_eq!(machine.active("mistryd.socket"), "active");
}
