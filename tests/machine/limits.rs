//! Limits of memory, of one build and of all builds together: the kernel enforces them, and a build that
//! goes beyond them is reported as what it is.

use serde_json::json;

use crate::support::Machine;

/// Takes what the parameter says, in megabytes, and holds it for a while.
const GREEDY: &str = "head -c $(cat params/mb)m /dev/zero | tail > /dev/null";

#[test]
fn a_build_that_takes_more_memory_than_its_limit_ends_as_out_of_memory() {
    let machine = Machine::installed();
    limit_of_one(&machine);
}

pub fn limit_of_one(machine: &Machine) {
    let project = machine.script("greedy", GREEDY, json!({ "limits": { "memory": "48M" } }));
    let info = project.build(json!({ "mb": "200" }));
    assert_eq!(info["Outcome"], "failed", "{info:#}");
    assert_eq!(info["OOMKilled"], true, "{info:#}");
    assert_eq!(info["Err"], "the build ran out of memory", "{info:#}");
    project.succeed(json!({ "mb": "1" }));
}

#[test]
fn the_slice_limits_the_memory_of_all_builds_together() {
    let machine = Machine::installed();
    limit_of_all(&machine);
}

pub fn limit_of_all(machine: &Machine) {
    if machine
        .attempt("test -e /sys/fs/cgroup/cgroup.controllers")
        .status
        != 0
    {
        // In hierarchies of the first version a slice limits nothing that is not asked of each controller.
        return;
    }
    machine
        .run("systemctl set-property --runtime mistry-builds.slice MemoryMax=64M MemorySwapMax=0");
    let held = machine.held("held");
    let id = held.submit(json!({ "in": "slice" }));
    held.is_there();
    let container = machine.run("docker ps -q --no-trunc --filter label=mistry.job");
    let scope = format!("docker-{}.scope", container.trim());
    let group = machine.property(&scope, "ControlGroup");
    assert_eq!(
        group,
        format!("/mistry.slice/mistry-builds.slice/{scope}"),
        "the cgroup of the container"
    );
    let limit = "/sys/fs/cgroup/mistry.slice/mistry-builds.slice/memory.max";
    assert_eq!(machine.read(limit).trim(), (64 << 20).to_string());
    held.release();
    assert_eq!(held.wait(&id)["Outcome"], "succeeded");

    let greedy = machine.script("greedy", GREEDY, json!(null));
    let info = greedy.build(json!({ "mb": "300" }));
    assert_eq!(info["Outcome"], "failed", "{info:#}");
    assert_eq!(info["OOMKilled"], true, "{info:#}");
    assert_eq!(info["Err"], "the build ran out of memory", "{info:#}");
    machine.run("systemctl set-property --runtime mistry-builds.slice MemoryMax= MemorySwapMax=");
    // The daemon is elsewhere.
    assert_eq!(machine.get("/healthz").status, 200);
}
