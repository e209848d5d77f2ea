//! A configuration that is wrong, missing or unreadable: clients get an error, there is no restart storm,
//! and when it is corrected everything works again without a manual start.

use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::json;

use crate::support::{Machine, try_ask};

/// Microseconds. Five seconds are promised between two starts; the machine may be busy.
const PACE: u64 = 4_500_000;

/// The error that clients get; the causes are for the journal.
const FOR_CLIENTS: &str = "journalctl -u mistryd";

/// Has clients come all the time while the configuration is as `spoil` leaves it, until the daemon was
/// started twice; then `machine.configure` mends it.
#[track_caller]
fn makes_no_restart_storm(spoil: &str, sentence: &str, mend: &str) {
    let machine = Machine::installed();
    let socket = machine.property("mistryd.socket", "InvocationID");
    machine.run(spoil);
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    let Ok(connection) = machine.connect_unix() else {
                        continue;
                    };
                    // One that comes as it ends may be let down; it comes again.
                    let Ok(answer) = try_ask(connection, "GET", "/index/", "") else {
                        continue;
                    };
                    if answer.status == 503 {
                        assert!(answer.body.contains(FOR_CLIENTS), "{}", answer.body);
                    } else {
                        assert_eq!(answer.status, 200, "{}", answer.body);
                        return;
                    }
                }
            });
        }
        let ends = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let mut journal = machine.follow(&["UNIT=mistryd.service", "_PID=1"]);
            let mut start = || {
                let starting = |record: &crate::support::Record| {
                    record.field("MESSAGE_ID") == "7d4958e842da4a758f6c1cdc7b36dcc5"
                };
                let record = journal.until(starting);
                record
                    .field("__MONOTONIC_TIMESTAMP")
                    .parse::<u64>()
                    .unwrap()
            };
            let (first, second, third) = (start(), start(), start());
            assert!(second - first > PACE, "{first} {second} {third}");
            assert!(third - second > PACE, "{first} {second} {third}");
            // What it ended with.
            let journal = machine.journal_text("mistryd.service");
            assert!(journal.contains("status=78"), "{journal}");
            assert!(journal.contains(sentence), "{journal}");
        }));
        machine.run(&format!("rm -rf /etc/mistry/config.json; {mend}"));
        machine.configure(json!({}));
        if ends.is_err() {
            over.store(true, Ordering::Relaxed);
        }
        ends.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        // All threads end only when they have been answered.
    });
    assert_eq!(machine.property("mistryd.socket", "InvocationID"), socket);
    assert_eq!(machine.active("mistryd.service"), "active");
}

#[test]
fn a_wrong_configuration_is_reported_to_all_waiting_clients_without_a_restart_storm() {
    makes_no_restart_storm(
        "echo '{ \"builds_path\": 1 }' > /etc/mistry/config.json",
        "builds_path",
        "",
    );
}

#[test]
fn a_missing_configuration_is_reported_to_all_waiting_clients_without_a_restart_storm() {
    makes_no_restart_storm("rm /etc/mistry/config.json", "/etc/mistry/config.json", "");
}

#[test]
fn an_unreadable_configuration_is_reported_to_all_waiting_clients_without_a_restart_storm() {
    makes_no_restart_storm(
        "rm /etc/mistry/config.json; mkdir /etc/mistry/config.json",
        "/etc/mistry/config.json",
        "",
    );
}

#[test]
fn a_wrong_docker_host_is_reported_to_all_waiting_clients_without_a_restart_storm() {
    makes_no_restart_storm(
        "mkdir -p /run/systemd/system/mistryd.service.d
        printf '[Service]\\nEnvironment=DOCKER_HOST=tcp://elsewhere\\n' \
            > /run/systemd/system/mistryd.service.d/test.conf
        systemctl daemon-reload",
        "DOCKER_HOST",
        "rm /run/systemd/system/mistryd.service.d/test.conf; systemctl daemon-reload",
    );
}

#[test]
fn a_started_service_reports_at_once_that_its_configuration_is_wrong() {
    let machine = Machine::installed();
    machine.run("echo '{' > /etc/mistry/config.json");
    let ran = machine.attempt("systemctl start mistryd.service");
    assert_ne!(ran.status, 0, "{ran}");
    assert_eq!(machine.property("mistryd.service", "ExecMainStatus"), "78");
    let records = machine.journal(&[
        "_SYSTEMD_UNIT=mistryd.service",
        "MISTRY_EVENT=misconfigured",
    ]);
    assert_eq!(records.len(), 1, "{records:#?}");
    assert_eq!(records[0].field("PRIORITY"), "3");
    machine.configure(json!({}));
    machine.run("systemctl start mistryd.service");
    assert_eq!(machine.get("/healthz").status, 200);
}

#[test]
fn a_build_path_that_is_missing_is_a_wrong_configuration() {
    let machine = Machine::installed();
    machine.configure(json!({ "build_path": "/var/lib/mistry/elsewhere" }));
    let answer = machine.get("/index/");
    assert_eq!(answer.status, 503, "{}", answer.body);
    assert!(answer.body.contains(FOR_CLIENTS), "{}", answer.body);
    let mut watch = machine.watch("mistryd.service");
    watch.until("ExecMainStatus", |status| status == "78");
    let records = machine.journal(&[
        "_SYSTEMD_UNIT=mistryd.service",
        "MISTRY_EVENT=misconfigured",
    ]);
    assert!(records[0].message().contains("build_path"), "{records:#?}");
    machine.run("install -d -o mistry -g mistry /var/lib/mistry/elsewhere");
    assert_eq!(machine.get("/index/").status, 200);
    machine.run("systemctl stop mistryd.service; rm -r /var/lib/mistry/elsewhere");
}
