//! Access to builds: members of group `mistry` over the socket, clients with a token over TCP, and no
//! others; a refusal says what to do.

use serde_json::json;

use crate::support::Machine;

const BUILD: &str = "build --project hello --target out -- --name=member";
const GREETING: &str = "Hello, member! (run 1 of this group)\n";

#[test]
fn a_member_of_the_group_builds_over_the_socket() {
    let machine = Machine::installed();
    machine.example();
    let ran = machine.as_user("member", &format!("mistry {BUILD} && cat out/greeting.txt"));
    assert_eq!(ran.status, 0, "{ran}");
    assert!(ran.stdout.ends_with(GREETING), "{ran}");
    // With an address, it connects there instead.
    let ran = machine.as_user("member", &format!("mistry --host 127.0.0.1 {BUILD}"));
    assert_eq!(ran.status, 3, "{ran}");
}

#[test]
fn a_token_lets_one_build_over_tcp() {
    let machine = Machine::installed();
    machine.example();
    assert_eq!(machine.get("/healthz").status, 200);
    let output = machine.run("umask 077; mistryd token new visitor");
    let token = output.split_whitespace().last().unwrap();
    assert!(!machine.read("/etc/mistry/tokens").contains(token));
    assert_eq!(
        machine.run("stat -c '%a %U:%G' /etc/mistry/tokens").trim(),
        "640 root:mistry"
    );
    machine.write("/home/outsider/token", token);
    machine.run("chown outsider:outsider /home/outsider/token; chmod 0600 /home/outsider/token");

    // The daemon ran when the token was made.
    let ran = machine.as_user(
        "outsider",
        &format!("mistry --token-file token {BUILD} && cat out/greeting.txt"),
    );
    assert_eq!(ran.status, 0, "{ran}");
    assert!(ran.stdout.ends_with(GREETING), "{ran}");

    // What is closed to it comes with the next start.
    machine.run("chown root:root /etc/mistry/tokens; chmod 0600 /etc/mistry/tokens");
    machine.drop_in(
        "mistryd.service",
        "[Service]\nAmbientCapabilities=\nCapabilityBoundingSet=\n",
    );
    machine.run("systemctl restart mistryd.service");
    let journal = machine.journal_text("mistryd.service");
    assert!(
        journal.contains("mistryd may not read the tokens file"),
        "{journal}"
    );
    let ran = machine.as_user("outsider", &format!("mistry --token-file token {BUILD}"));
    assert_eq!(ran.status, 0, "{ran}");

    machine.write("/home/outsider/token", "made-up");
    let ran = machine.as_user("outsider", &format!("mistry --token-file token {BUILD}"));
    assert_eq!(ran.status, 3, "{ran}");
    assert!(ran.stderr.contains("this token is not known"), "{ran}");
}

#[test]
fn without_a_token_tcp_is_for_reading() {
    let machine = Machine::installed();
    machine.example();
    let ran = machine.as_user("outsider", "mistry projects");
    assert_eq!(
        (ran.status, ran.stdout.contains("hello")),
        (0, true),
        "{ran}"
    );
    let ran = machine.as_user("outsider", &format!("mistry {BUILD}"));
    assert_eq!(ran.status, 3, "{ran}");
    assert!(ran.stderr.contains("a token is needed"), "{ran}");
    assert!(ran.stderr.contains("--token-file"), "{ran}");
}

#[test]
fn the_socket_is_closed_to_users_outside_the_group() {
    let machine = Machine::installed();
    machine.example();
    let ran = machine.as_user(
        "outsider",
        &format!("mistry --socket /run/mistry/mistryd.sock {BUILD}"),
    );
    assert_eq!(ran.status, 3, "{ran}");
    assert!(
        ran.stderr.contains("add you to the group 'mistry'"),
        "{ran}"
    );
    // No daemon was started by it.
    assert_eq!(machine.daemon(), 0);
}

/// Every process on loopback may read what was built, and a build must not read what others built.
#[test]
fn a_build_reaches_other_builds_results_only_where_it_has_the_hosts_network() {
    let machine = Machine::installed();
    let ask = "printf 'GET /projects HTTP/1.0\\r\\n\\r\\n' | nc -w 5 127.0.0.1 8462 > artifacts/answer || :";
    let asks = |network: serde_json::Value| {
        machine.configure(json!({ "network": network }));
        machine.run("systemctl restart mistryd.service");
        let name = match network.is_null() {
            true => "hosts",
            false => "packaged",
        };
        let project = machine.script(name, ask, json!(null));
        let id = project.succeed(json!({}));
        machine.get(&format!("/artifacts/{name}/{id}/answer")).body
    };
    let shipped: serde_json::Value =
        serde_json::from_str(&machine.read("/usr/share/mistryd/config.json")).unwrap();
    assert_eq!(asks(shipped["network"].clone()), "");
    let answer = asks(json!(null));
    assert!(answer.contains("200 OK"), "{answer}");
}
