//! An upgrade with builds running and clients waiting: no client is refused, nothing is built twice.

use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::json;

use crate::support::{Machine, Packages, ask, is_emulated};

#[test]
fn an_upgrade_refuses_no_client_and_loses_no_build() {
    let machine = Machine::installed();
    machine.changing();
    upgrade(&machine);
}

/// From the first packages to the next.
pub fn upgrade(machine: &Machine) {
    let held = machine.held("held");
    // What the administrator changed stays, and the administrator is not asked about it.
    machine.configure(json!({ "idle_exit": "20m" }));
    let config = machine.read("/etc/mistry/config.json");
    machine.run("mistryd token new visitor > /dev/null");
    let tokens = machine.read("/etc/mistry/tokens");

    let waiting = machine.begin(
        "member",
        "mistry build --project held --target out --json-result && cat out/word >&2",
    );
    held.is_there();
    let (old, socket) = (
        machine.daemon(),
        machine.property("mistryd.socket", "InvocationID"),
    );
    let over = AtomicBool::new(false);
    let ran = std::thread::scope(|scope| {
        // Where all is emulated, four would leave nothing to the upgrade.
        for number in 0..if is_emulated() { 2 } else { 4 } {
            let over = &over;
            scope.spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    let connection = match number % 2 {
                        0 => machine.connect_unix(),
                        _ => machine.connect_tcp(),
                    };
                    let answer = ask(connection.unwrap(), "GET", "/index/", "");
                    assert_eq!(answer.status, 200, "{}", answer.body);
                }
            });
        }
        let ran = machine.attempt(&machine.install_command(Packages::Next));
        over.store(true, Ordering::Relaxed);
        ran
    });
    assert_eq!(ran.status, 0, "{ran}");
    assert_eq!(
        machine.version("mistryd").as_deref(),
        Some(Packages::Next.version().as_str())
    );
    assert_eq!(machine.get("/healthz").status, 200);
    let new = machine.daemon();
    assert_ne!(new, old);
    assert!(
        machine
            .run("mistryd --version")
            .contains(&Packages::Next.version())
    );
    let program = machine.run(&format!("readlink /proc/{new}/exe"));
    assert_eq!(program, "/usr/sbin/mistryd\n");
    assert_eq!(machine.property("mistryd.socket", "InvocationID"), socket);
    assert_eq!(machine.read("/etc/mistry/config.json"), config);
    assert_eq!(machine.read("/etc/mistry/tokens"), tokens);

    let mut story = machine.follow(&["MISTRY_PROJECT=held"]);
    story.event("taken-over");
    held.release();
    let ran = waiting.end();
    assert_eq!(ran.status, 0, "{ran}");
    assert!(ran.stderr.ends_with("gone\n"), "{ran}");
    let info: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(info["Outcome"], "succeeded", "{info:#}");
    // Its container ran on through it all.
    assert_eq!(info["Attempt"], 1, "{info:#}");
    let failed = machine.run("systemctl list-units --state=failed --no-legend --plain");
    assert_eq!(failed, "");
}

/// Earlier packages had the configuration as a conffile, without a network in it. dpkg replaces a
/// conffile that was not changed.
#[test]
fn an_upgrade_leaves_the_network_of_builds_as_it_was() {
    let machine = Machine::uninstalled();
    let earlier = "{\n  \"projects_path\": \"/var/lib/mistry/projects\",\n  \
        \"build_path\": \"/var/lib/mistry/builds\",\n  \
        \"auth_tokens_file\": \"/etc/mistry/tokens\",\n  \"idle_exit\": \"10m\"\n}\n";
    let tree = "/var/tmp/mistry-test-earlier";
    machine.run(&format!("rm -rf {tree}; mkdir -p {tree}"));
    machine.write(&format!("{tree}/etc/mistry/config.json"), earlier);
    machine.write(
        &format!("{tree}/DEBIAN/conffiles"),
        "/etc/mistry/config.json\n",
    );
    machine.write(
        &format!("{tree}/DEBIAN/control"),
        "Package: mistryd\nVersion: 0.0.1\nArchitecture: all\n\
        Maintainer: Tests <tests@mistry.example.org>\nDescription: stands for an earlier version\n",
    );
    machine.run(&format!(
        "chmod -R u=rwX,go=rX {tree} && dpkg-deb --root-owner-group --build {tree} {tree}.deb &&
        dpkg --install {tree}.deb && rm -r {tree} {tree}.deb"
    ));
    machine.install(Packages::First);
    assert_eq!(machine.read("/etc/mistry/config.json"), earlier);
    assert_eq!(machine.get("/healthz").status, 200);
    let project = machine.script(
        "networked",
        "readlink /proc/self/ns/net > artifacts/network",
        json!(null),
    );
    let id = project.succeed(json!({}));
    let network = machine.run("readlink /proc/self/ns/net");
    let answer = machine.get(&format!("/artifacts/networked/{id}/network"));
    assert_eq!(answer.body, network);
}
