//! Docker on the machine: it may be stopped and come back, and the containers of builds are in a slice of
//! their own.

use serde_json::json;

use crate::support::Machine;

#[test]
fn without_docker_the_daemon_is_ready_reports_it_and_serves_what_it_has() {
    let machine = Machine::installed();
    let project = machine.script("any", "cp params/n artifacts/n", json!(null));
    let id = project.succeed(json!({ "n": "cached" }));
    machine.run("systemctl stop mistryd.service docker.socket docker.service");

    let mut watch = machine.watch("mistryd.service");
    machine.run("systemctl start mistryd.service");
    watch.until("StatusText", |text| {
        text.contains("Docker Engine cannot be reached")
    });
    assert_eq!(machine.active("mistryd.service"), "active");
    let answer = machine.get(&format!("/artifacts/any/{id}/n"));
    assert_eq!((answer.status, answer.body.as_str()), (200, "cached"));
    assert_eq!(project.build(json!({ "n": "cached" }))["Cached"], true);
    let answer = machine.post(
        "/jobs",
        &json!({ "project": "any", "params": { "n": "new" } }),
    );
    assert_eq!(answer.status, 503, "{}", answer.body);
    assert!(answer.body.contains("Docker"), "{}", answer.body);
    let records = machine.journal(&["_SYSTEMD_UNIT=mistryd.service", "MISTRY_EVENT=engine-away"]);
    assert_eq!(records.len(), 1, "{records:#?}");

    machine.run("systemctl start docker.socket docker.service");
    project.succeed(json!({ "n": "new" }));
    watch.until("StatusText", |text| !text.contains("cannot be reached"));
    machine
        .follow(&["_SYSTEMD_UNIT=mistryd.service"])
        .event("engine-back");
}

#[test]
fn containers_of_builds_are_under_a_slice_of_their_own() {
    let machine = Machine::installed();
    let driver = machine.run("docker info --format '{{.CgroupDriver}}'");
    assert_eq!(
        driver.trim(),
        "systemd",
        "tests/environment/machine asks for it"
    );
    let held = machine.held("held");
    let id = held.submit(json!({}));
    held.is_there();
    let container = machine.run("docker ps -q --no-trunc --filter label=mistry.job");
    let scope = format!("docker-{}.scope", container.trim());
    assert_eq!(machine.property(&scope, "Slice"), "mistry-builds.slice");
    assert_eq!(machine.active("mistry-builds.slice"), "active");
    assert_ne!(machine.property("mistry-builds.slice", "FragmentPath"), "");
    held.release();
    assert_eq!(held.wait(&id)["Outcome"], "succeeded");
}
