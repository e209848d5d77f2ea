//! What a build may not do to the host and to other builds, on a real Engine: capabilities, processes,
//! the network.

use std::fs;
use std::process::Command;

use serde_json::{Value, json};

use crate::support::daemon::{Daemon, Setup};
use crate::support::engine::Engine;
use crate::support::{Place, word};

/// Bits of `CapEff`, by capabilities(7).
const MKNOD: u32 = 27;
const SETFCAP: u32 = 31;
const NET_RAW: u32 = 13;
const AUDIT_WRITE: u32 = 29;
const CHOWN: u32 = 0;

fn settings(daemon: &Daemon, project: &str, settings: &Value) {
    let file = daemon.project(project).join("mistry.json");
    fs::write(file, settings.to_string()).unwrap();
}

fn artifact(daemon: &Daemon, info: &Value, name: &str) -> String {
    let (project, id) = (info["Project"].as_str(), info["ID"].as_str());
    let ready = daemon.ready(project.unwrap(), id.unwrap());
    fs::read_to_string(ready.join("data/artifacts").join(name)).unwrap()
}

fn log(daemon: &Daemon, info: &Value) -> String {
    let (project, id) = (info["Project"].as_str(), info["ID"].as_str());
    let ready = daemon.ready(project.unwrap(), id.unwrap());
    fs::read_to_string(ready.join("out.log")).unwrap()
}

#[test]
fn root_in_a_build_has_a_needless_capability_only_where_project_and_configuration_say_so() {
    let script = "
        b=/bin/busybox
        $b grep CapEff /proc/self/status | $b cut -f2 > artifacts/capabilities
        if $b mknod artifacts/node c 1 3 2> /dev/null; then echo made; else echo refused; fi > artifacts/said";
    let setup = Setup::on(Place::Ext4).config(json!({"cap_add": ["MKNOD", "NET_RAW"]}));
    let daemon = setup.script("powers", script).start();
    for (asked, said, had) in [
        (json!([]), "refused\n", &[][..]),
        (json!(["MKNOD"]), "made\n", &[MKNOD]),
        (json!(["MKNOD", "NET_RAW"]), "made\n", &[MKNOD, NET_RAW]),
    ] {
        settings(&daemon, "powers", &json!({"user": "0", "cap_add": asked}));
        let info = daemon.succeed(json!({"project": "powers"}));
        assert_eq!(artifact(&daemon, &info, "said"), said, "{asked}");
        let bits = artifact(&daemon, &info, "capabilities");
        let bits = u64::from_str_radix(bits.trim(), 16).unwrap();
        for bit in [MKNOD, SETFCAP, NET_RAW, AUDIT_WRITE] {
            assert_eq!(
                bits >> bit & 1 == 1,
                had.contains(&bit),
                "{bit} of {bits:x}"
            );
        }
        assert_eq!(bits >> CHOWN & 1, 1, "what builds need they keep: {bits:x}");
    }
    for (asked, parts) in [
        (
            json!({"user": "0", "cap_add": ["SETFCAP"]}),
            ["mistry.json", "config.json allows (MKNOD, NET_RAW)"],
        ),
        (
            json!({"user": "5", "cap_add": ["MKNOD"]}),
            ["mistry.json", "user 5"],
        ),
        (
            json!({"cap_add": ["SYS_ADMIN"]}),
            ["mistry.json", "`SETFCAP`"],
        ),
    ] {
        settings(&daemon, "powers", &asked);
        let answer = daemon.post("/jobs", &json!({"project": "powers"}));
        let text = answer.text();
        assert_eq!(answer.status, 422, "{text}");
        assert!(parts.iter().all(|part| text.contains(part)), "{text}");
    }
}

#[test]
fn a_build_at_its_limit_of_processes_gets_an_error() {
    const LINE: &str = "mistry: a process of the build could not be started";
    // It is over as soon as it has let go of what it has begun, some moments after it was refused.
    let bomb = "
        n=$(/bin/busybox cat params/n)
        /bin/busybox mkfifo wait
        exec 3<> wait
        ( while [ \"$n\" -gt 0 ]; do /bin/busybox tail -f /dev/null & n=$((n - 1)); done ) || failed=1
        read -t 2 line <&3 || :
        exit ${failed:-0}";
    let daemon = Setup::on(Place::Host).script("bomb", bomb).start();
    settings(&daemon, "bomb", &json!({"limits": {"pids": 64}}));
    for (n, is_reached) in [("100", true), ("10", false)] {
        let info = daemon.build(json!({"project": "bomb", "params": {"n": n}}));
        assert_eq!(info["PidsLimitReached"], is_reached, "{info:#}");
        let log = log(&daemon, &info);
        assert_eq!(log.contains(LINE), is_reached, "{log}");
        assert_eq!(info["Outcome"] == "succeeded", !is_reached, "{info:#}");
    }
}

#[test]
fn processes_are_limited_by_default() {
    let own = json!({"limits": {"memory": "64M"}});
    for (config, own, expected) in [
        (json!({}), json!({}), 4096),
        (json!({}), own.clone(), 4096),
        (json!({"limits": {"pids": 900}}), own, 900),
    ] {
        let daemon = Setup::on(Place::Host)
            .config(config)
            .fixture("slow")
            .start();
        settings(&daemon, "slow", &own);
        let id = daemon.submit(json!({"project": "slow"}));
        daemon.until("slow", &id, "waiting");
        let engine = Engine::new();
        let container = engine.containers(&daemon.label()).remove(0);
        let host = engine.container(&container.id.unwrap()).host_config;
        assert_eq!(host.unwrap().pids_limit, Some(expected));
        daemon.release("slow", &id);
        daemon.wait("slow", &id);
    }
}

/// A network of the Engine's, as its default bridge is one; removed at the end.
struct Bridge(String);

impl Bridge {
    fn new() -> Bridge {
        let name = format!("mistry-test-{}", word());
        let made = Command::new("docker")
            .args(["network", "create", "--driver", "bridge", &name])
            .output()
            .unwrap();
        assert!(made.status.success(), "{made:?}");
        Bridge(name)
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        let _ = Command::new("docker")
            .args(["network", "rm", &self.0])
            .output();
    }
}

#[test]
fn a_build_on_a_bridge_reaches_no_other_builds_results_by_the_daemons_loopback_address() {
    let bridge = Bridge::new();
    let script = "
        b=/bin/busybox
        gateway=$($b ip route | $b awk '/^default/ { print $3 }')
        for host in 127.0.0.1 $gateway; do
            $b printf 'GET /projects HTTP/1.0\\r\\n\\r\\n' | $b nc -w 5 $host \"$($b cat params/port)\" || :
        done > artifacts/answers
        echo \"gateway $gateway\" > artifacts/gateway";
    let daemon = Setup::on(Place::Host).script("curious", script).start();
    let ask = |network: &str| {
        settings(&daemon, "curious", &json!({"network": network}));
        let job = json!({"project": "curious", "params": {"port": daemon.port()}});
        daemon.succeed(job)
    };
    // On the host's network it does, which is why that is no default of the packages.
    let info = ask("host");
    assert!(artifact(&daemon, &info, "answers").contains("curious"));
    let info = ask(&bridge.0);
    assert_ne!(artifact(&daemon, &info, "gateway"), "gateway \n");
    assert_eq!(artifact(&daemon, &info, "answers"), "");
}
