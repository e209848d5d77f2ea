//! Removing: what administrators made or changed stays until a purge, and their own files stay after
//! it; after another installation everything goes on.

use serde_json::json;

use crate::support::{Machine, Packages};

const REMOVE: &str = "DEBIAN_FRONTEND=noninteractive apt-get remove -q -y mistryd mistry";
pub const PURGE: &str = "DEBIAN_FRONTEND=noninteractive apt-get purge -q -y mistryd mistry";

/// What of mistry is on the machine, besides what dpkg knows.
pub const LEFT: &str = "{
    find / -xdev \\( -name '*mistry*' -o -path '*/etc/mistry/*' \\) \
        ! -path '/proc/*' ! -path '/sys/*' ! -path '/tmp/*' ! -path '*/mistry-test*' \
        ! -path '/var/tmp/mistry-debs*' ! -path '/var/lib/docker/*' ! -path '/run/mistry-test*' \
        ! -path '/var/log/*'
    find /run /etc -name '*mistry*' ! -path '*/mistry-test*'
    getent passwd mistry; getent group mistry
    systemctl list-units --all --no-legend --plain '*mistry*'
    } | sort -u";

#[test]
fn what_is_removed_keeps_its_data_and_goes_on_when_it_is_installed_again() {
    let machine = Machine::installed();
    machine.changing();
    let hello = machine.example();
    let id = hello.succeed(json!({ "name": "kept" }));
    machine.configure(json!({ "idle_exit": "20m" }));
    let config = machine.read("/etc/mistry/config.json");
    machine.run("mistryd token new visitor > /dev/null");
    let tokens = machine.read("/etc/mistry/tokens");

    // With a build under way: it ends, and is made again.
    let held = machine.held("held");
    let under_way = held.submit(json!({}));
    held.is_there();
    machine.run(REMOVE);
    assert_eq!(machine.version("mistryd"), None);
    assert!(machine.connect_unix().is_err() && machine.connect_tcp().is_err());
    assert_eq!(
        machine.run("systemctl list-units --no-legend --plain '*mistryd*'"),
        ""
    );
    assert_eq!(
        machine.run("docker ps -aq --filter label=mistry.instance"),
        ""
    );
    assert_eq!(machine.read("/etc/mistry/config.json"), config);
    assert_eq!(machine.read("/etc/mistry/tokens"), tokens);

    machine.install(Packages::First);
    assert_eq!(machine.read("/etc/mistry/config.json"), config);
    let info = hello.build(json!({ "name": "kept" }));
    assert_eq!(
        (&info["Cached"], &info["ID"]),
        (&json!(true), &json!(id)),
        "{info:#}"
    );
    held.is_there();
    held.release();
    assert_eq!(held.wait(&under_way)["Outcome"], "succeeded");
}

#[test]
fn a_purge_leaves_only_what_the_administrator_put_there() {
    let machine = Machine::uninstalled();
    let before = machine.run(LEFT);
    // As most have it: the builds are on the disk of all else.
    machine.run(
        "while mountpoint -q /var/lib/mistry/builds; do umount /var/lib/mistry/builds; done
        mv /etc/fstab /etc/fstab.away
        systemctl daemon-reload",
    );
    let purged = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        machine.install(Packages::First);
        let project = machine.script(
            "theirs",
            "echo x > artifacts/x; chmod 700 artifacts",
            json!({ "user": "0" }),
        );
        project.succeed(json!({}));
        machine.run("mistryd token new visitor > /dev/null; echo theirs > /etc/mistry/notes");
        machine.run(PURGE);
        let people: &[&str] = &[
            "/etc/mistry",
            "/etc/mistry/notes",
            "/var/lib/mistry",
            "/var/lib/mistry/projects",
            "/var/lib/mistry/projects/theirs",
        ];
        for path in people {
            machine.run(&format!("test -e {path}"));
        }
        assert_eq!(
            machine.run("find /var/lib/mistry | sort"),
            "/var/lib/mistry\n/var/lib/mistry/projects\n/var/lib/mistry/projects/theirs\n\
            /var/lib/mistry/projects/theirs/Dockerfile\n/var/lib/mistry/projects/theirs/mistry.json\n\
            /var/lib/mistry/projects/theirs/run.sh\n"
        );
        assert_eq!(
            machine.run("find /etc/mistry -mindepth 1"),
            "/etc/mistry/notes\n"
        );
        assert_eq!(
            machine.run("docker images -aq --filter label=mistry.instance"),
            ""
        );
        machine.run("rm -r /etc/mistry /var/lib/mistry/projects");

        // Without anything of theirs nothing is left at all.
        machine.install(Packages::First);
        assert_eq!(machine.get("/healthz").status, 200);
        machine.run(PURGE);
        let left = machine.run(LEFT);
        let more: Vec<_> = left
            .lines()
            .filter(|line| !before.lines().any(|was| was == *line))
            .collect();
        assert!(more.is_empty(), "{more:#?}");
        assert_eq!(machine.attempt("test -e /var/lib/mistry").status, 1);
    }));
    machine.run(
        "mv /etc/fstab.away /etc/fstab
        systemctl daemon-reload
        mkdir -p /var/lib/mistry/builds
        mount /var/lib/mistry/builds",
    );
    purged.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
}

#[test]
fn builds_on_a_disk_of_their_own_are_purged_and_the_disk_stays() {
    let machine = Machine::uninstalled();
    machine.install(Packages::First);
    let hello = machine.example();
    hello.succeed(json!({}));
    machine.run(PURGE);
    assert_eq!(
        machine.run("findmnt -n -o TARGET /var/lib/mistry/builds"),
        "/var/lib/mistry/builds\n"
    );
    assert_eq!(
        machine.run("find /srv/builds -mindepth 1; btrfs subvolume list /srv/builds"),
        ""
    );
}
