//! Installing: `apt-get install` of the two packages is all that is needed, and nothing else on the
//! machine is changed by it.

use crate::support::{Machine, Packages};

#[test]
fn one_command_installs_a_server_that_is_ready_to_be_asked() {
    let machine = Machine::uninstalled();
    let before = machine.run("systemctl list-units --state=failed --no-legend --plain");
    machine.install(Packages::First);

    assert_eq!(
        machine.version("mistryd").as_deref(),
        Some(Packages::First.version().as_str())
    );
    assert_eq!(machine.active("mistryd.socket"), "active");
    assert_eq!(
        machine.run("systemctl is-enabled mistryd.socket mistryd.service"),
        "enabled\nenabled\n"
    );
    for (path, wanted) in [
        ("/etc/mistry/config.json", "644 root:root"),
        ("/etc/mistry/tokens", "640 root:mistry"),
        ("/var/lib/mistry", "755 mistry:mistry"),
        ("/var/lib/mistry/projects", "755 root:root"),
        // A filesystem that was mounted there before: it is given away, its mode stays.
        ("/var/lib/mistry/builds", "755 mistry:mistry"),
        ("/run/mistry", "755 mistry:mistry"),
        ("/run/mistry/mistryd.sock", "660 root:mistry"),
    ] {
        assert_eq!(
            machine.run(&format!("stat -c '%a %U:%G' {path}")).trim(),
            wanted,
            "{path}"
        );
    }
    assert_eq!(machine.read("/etc/mistry/tokens"), "");
    assert!(machine.run("id -nG mistry").contains("docker"));
    // The host's own from now on, so that no upgrade changes it.
    let conffiles = machine.run("dpkg-query -W -f '${Conffiles}' mistryd");
    assert!(
        !conffiles.contains("/etc/mistry/config.json"),
        "{conffiles}"
    );
    assert_eq!(
        machine.read("/etc/mistry/config.json"),
        machine.read("/usr/share/mistryd/config.json")
    );
    machine.run("mistryd --config /etc/mistry/config.json --check-config");

    // The shipped configuration serves both.
    assert_eq!(machine.get("/healthz").status, 200);
    let ran = machine.as_user("outsider", "mistry --host 127.0.0.1 projects");
    assert_eq!(ran.status, 0, "{ran}");

    let after = machine.run("systemctl list-units --state=failed --no-legend --plain");
    assert_eq!(after, before);
}

/// As Debian's own checker sees them, its opinions included.
#[test]
fn the_packages_are_as_debian_wants_them() {
    let files = Packages::First.files();
    let checked = std::process::Command::new("lintian")
        .args([
            "--pedantic",
            "--fail-on",
            "error,warning,pedantic",
            "--allow-root",
        ])
        .args(files)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&checked.stdout);
    assert!(checked.status.success(), "{said}");
}

#[test]
fn the_units_say_nothing_that_systemd_does_not_understand() {
    let machine = Machine::installed();
    let ran = machine.attempt(
        "cd $(dirname $(systemctl show -P FragmentPath mistryd.service)) &&
        systemd-analyze verify --man=no mistryd.socket mistryd.service mistryd-gc.service \
            mistryd-gc.timer mistry-builds.slice",
    );
    assert_eq!((ran.status, ran.stderr.as_str()), (0, ""), "{ran}");
    // Units, users, directories and catalog, installed where they are looked for.
    for unit in [
        "mistryd-gc.timer",
        "mistryd-gc.service",
        "mistry-builds.slice",
    ] {
        assert_eq!(machine.property(unit, "LoadState"), "loaded", "{unit}");
    }
    for (property, value) in [("UnitFileState", "enabled"), ("ActiveState", "active")] {
        assert_eq!(machine.property("mistryd-gc.timer", property), value);
    }
    // Without a rule there is nothing to do.
    machine.run("systemctl start mistryd-gc.service");
    assert_eq!(machine.property("mistryd-gc.service", "Result"), "success");
    let catalog = machine.run("journalctl --dump-catalog fddd42b3f76149bdb9aa243f0a7b9143");
    assert!(catalog.contains("Subject:"), "{catalog}");
}

#[test]
fn docker_may_come_later() {
    let machine = Machine::uninstalled();
    // As where it was never installed: no program, no socket, no group.
    machine.run(
        "systemctl stop docker.socket docker.service
        systemctl mask --runtime --quiet docker.socket docker.service
        mv /usr/sbin/dockerd /usr/sbin/dockerd.away
        groupdel docker",
    );
    let installed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        machine.install(Packages::First);
        let answer = machine.get("/healthz");
        assert_eq!(answer.status, 200, "{}", answer.body);
        machine.wait_for("mistryd.service", "StatusText", |text| {
            text.contains("Docker Engine cannot be reached")
        });
        let hello = machine.example();
        let answer = machine.post("/jobs", &serde_json::json!({ "project": hello.name }));
        assert_eq!(answer.status, 503, "{}", answer.body);
        assert!(answer.body.contains("Docker"), "{}", answer.body);
    }));
    machine.run(
        "mv /usr/sbin/dockerd.away /usr/sbin/dockerd
        getent group docker > /dev/null || groupadd --system docker
        systemctl unmask --runtime --quiet docker.socket docker.service
        systemctl start docker.socket docker.service",
    );
    installed.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    // The daemon that was started before is in the group already, since the group was made for it.
    machine
        .project_named("hello")
        .succeed(serde_json::json!({}));
}
