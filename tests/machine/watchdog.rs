//! The watchdog: a daemon that makes no progress is replaced by systemd, whichever part of it hangs.

use crate::support::Machine;

/// The packaged time is 30 s; to be shorter is all that the tests change.
const QUICKLY: &str = "WatchdogSec=2s\nTimeoutAbortSec=1s\n";

#[track_caller]
fn is_replaced_when_it_hangs(fault: &str, method: &str, path: &str, body: &str) {
    let machine = Machine::installed();
    let healthy = machine.property("mistryd.service", "ExecStart");
    machine.example();
    machine.run_debug_daemon(fault, QUICKLY);
    assert_ne!(machine.property("mistryd.service", "ExecStart"), healthy);
    let mut watch = machine.watch("mistryd.service");
    machine.run("systemctl start mistryd.service");
    let first = machine.daemon();
    // Without waiting for an answer, which does not come.
    let mut hanging = machine.connect_unix().unwrap();
    crate::support::send(&mut *hanging, method, path, body).unwrap();
    watch.until("NRestarts", |count| count != "0");
    let journal = machine.journal_text("mistryd.service");
    assert!(journal.contains("Watchdog timeout"), "{journal}");
    // What follows is the packaged daemon.
    machine.run(
        "rm -r /run/systemd/system/mistryd.service.d
        systemctl daemon-reload
        systemctl restart mistryd.service",
    );
    assert_ne!(machine.daemon(), first);
    assert_eq!(machine.get("/healthz").status, 200);
}

#[test]
fn a_daemon_whose_scheduler_hangs_is_replaced() {
    is_replaced_when_it_hangs(
        "scheduler=wedge",
        "POST",
        "/jobs",
        r#"{ "project": "hello" }"#,
    );
}

#[test]
fn a_daemon_that_accepts_no_client_is_replaced() {
    is_replaced_when_it_hangs("accept=wedge", "GET", "/healthz", "");
}

#[test]
fn a_daemon_that_hangs_as_a_whole_is_replaced_and_its_clients_are_answered() {
    let machine = Machine::installed();
    machine.drop_in("mistryd.service", &format!("[Service]\n{QUICKLY}"));
    assert_eq!(machine.get("/healthz").status, 200);
    let before = machine.daemon();
    let mut watch = machine.watch("mistryd.service");
    machine.run("systemctl kill --kill-who=main --signal=STOP mistryd.service");
    // This one waits for the daemon that comes.
    let waiting = machine.connect_unix().unwrap();
    watch.until("NRestarts", |count| count != "0");
    watch.until("ActiveState", |state| state == "active");
    assert_ne!(machine.daemon(), before);
    assert_eq!(machine.get("/healthz").status, 200);
    let answer = crate::support::try_ask(waiting, "GET", "/healthz", "");
    // Whether the old one had taken it before it stood, only the kernel knows; it had not.
    assert_eq!(answer.unwrap().status, 200);
}

#[test]
fn an_idle_daemon_is_not_replaced() {
    let machine = Machine::installed();
    machine.drop_in("mistryd.service", "[Service]\nWatchdogSec=500ms\n");
    assert_eq!(machine.get("/healthz").status, 200);
    let before = machine.daemon();
    // A build that lasts for several of its times.
    let project = machine.script("lasting", "sleep 2", serde_json::json!(null));
    project.succeed(serde_json::json!({}));
    assert_eq!(machine.daemon(), before);
    assert_eq!(machine.property("mistryd.service", "NRestarts"), "0");
}
