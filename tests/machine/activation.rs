//! Socket activation: systemd listens, and each client is answered, whether a daemon runs or not.

use crate::support::{Machine, at_once};

/// As many as are promised.
const CLIENTS: usize = 200;

#[test]
fn two_hundred_clients_that_come_while_no_daemon_runs_are_all_answered() {
    let machine = Machine::installed();
    // The first would start it: it waits until all are there.
    machine.run("rm -f /run/mistry-test/gate; mkfifo -m 0666 /run/mistry-test/gate");
    machine.drop_in(
        "mistryd.service",
        "[Service]\nExecStartPre=/bin/sh -c 'read line < /run/mistry-test/gate'\n",
    );
    let connections = at_once(CLIENTS, |number| match number % 2 {
        0 => machine.connect_unix().unwrap(),
        _ => machine.connect_tcp().unwrap(),
    });
    assert_eq!(machine.daemon(), 0);
    let connections: Vec<_> = connections
        .into_iter()
        .map(|one| std::sync::Mutex::new(Some(one)))
        .collect();
    machine.run("echo go > /run/mistry-test/gate");
    let answers = at_once(CLIENTS, |number| {
        let connection = connections[number].lock().unwrap().take().unwrap();
        crate::support::ask(connection, "GET", "/index/", "").status
    });
    assert_eq!(answers, [200; CLIENTS]);
    assert_eq!(machine.property("mistryd.service", "NRestarts"), "0");
}

#[test]
fn each_socket_is_served_as_what_it_is() {
    let machine = Machine::installed();
    assert_eq!(machine.get("/healthz").status, 200);
    let tcp = crate::support::ask(machine.connect_tcp().unwrap(), "GET", "/healthz", "");
    assert_eq!(tcp.status, 200);
    // The rules of TCP hold over TCP alone: without a token one may not build there.
    let hello = machine.example();
    let job = serde_json::json!({ "project": hello.name }).to_string();
    let tcp = crate::support::ask(machine.connect_tcp().unwrap(), "POST", "/jobs", &job);
    assert_eq!(tcp.status, 401, "{}", tcp.body);
    hello.succeed(serde_json::json!({}));
    // It holds no socket of its own: its network has no listener, and systemd's are still there.
    let daemon = machine.daemon();
    let listeners = machine.run(&format!(
        "nsenter -t {daemon} -n cat /proc/net/tcp /proc/net/tcp6 | awk '$4 == \"0A\"'"
    ));
    assert_eq!(listeners, "");
    assert_eq!(machine.property("mistryd.socket", "NConnections"), "0");
    assert_eq!(machine.active("mistryd.socket"), "active");
}

#[test]
fn more_addresses_come_by_a_drop_in() {
    let machine = Machine::installed();
    machine.run("systemctl stop mistryd.socket");
    machine.drop_in(
        "mistryd.socket",
        "[Socket]\nListenStream=127.0.0.1:8463\nListenStream=/run/mistry/more.sock\n",
    );
    machine.run("systemctl start mistryd.socket");
    for address in ["http://127.0.0.1:8463", "unix:///run/mistry/more.sock"] {
        let ran = machine.as_user("member", &format!("MISTRY_URL={address} mistry projects"));
        assert_eq!(ran.status, 0, "{address}: {ran}");
    }
}
