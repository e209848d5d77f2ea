//! What an administrator does with mistry, once, in one sequence: installs it, has things built, upgrades it,
//! purges it. Other tests look at each step more closely; here no step puts the machine in order for the next.

use std::time::Instant;

use crate::support::{Machine, Packages};
use crate::{bus, limits, remove, upgrade};

const FAILED: &str = "systemctl list-units --state=failed --no-legend --plain";
const LABELLED: &str = "docker ps -aq --filter label=mistry.instance
    docker images -aq --filter label=mistry.instance";

#[test]
fn from_the_installation_to_the_purge() {
    let machine = Machine::uninstalled();
    let before = machine.run(remove::LEFT);
    let failed = machine.run(FAILED);
    let began = Instant::now();
    // Where the time goes, and where it failed.
    let step = |name| println!("story, after {} s: {name}", began.elapsed().as_secs());
    step("install");
    machine.install(Packages::First);
    step("the bus, at once");
    bus::answers_after_the_installation(&machine);
    machine.complete();
    step("namespaces");
    bus::opens_artifacts(&machine);
    step("the memory of one build");
    limits::limit_of_one(&machine);
    step("the memory of all builds");
    limits::limit_of_all(&machine);
    step("upgrade");
    upgrade::upgrade(&machine);
    step("purge");
    // Projects are their users', and the limit of the slice is the administrator's.
    machine.run("rm -rf /var/lib/mistry/projects/* /run/systemd/system.control/mistry*");
    machine.run(remove::PURGE);
    let left = machine.run(remove::LEFT);
    let more: Vec<_> = left
        .lines()
        .filter(|line| !before.lines().any(|was| was == *line))
        .collect();
    assert!(more.is_empty(), "{more:#?}");
    assert_eq!(machine.run("find /srv/builds -mindepth 1"), "");
    assert_eq!(machine.run(LABELLED), "");
    assert_eq!(machine.run(FAILED), failed);
    step("over");
}
