//! The privileges of the daemon: few, and sufficient. It runs as `mistry`, makes subvolumes of a Btrfs,
//! and removes files that containers have left as root.

use serde_json::json;

use crate::support::Machine;

/// As `systemd-analyze` counts, from 0 to 10.
const EXPOSURE: f64 = 2.5;

#[test]
fn the_service_is_exposed_as_little_as_is_promised() {
    let machine = Machine::installed();
    let said = machine.run("systemd-analyze security --no-pager mistryd.service");
    // `→ Overall exposure level for mistryd.service: 1.4 OK 🙂`
    let last = said
        .lines()
        .rfind(|line| line.contains("Overall exposure level"))
        .unwrap();
    let number = last
        .split(": ")
        .nth(1)
        .and_then(|rest| rest.split(' ').next())
        .unwrap();
    assert!(number.parse::<f64>().unwrap() <= EXPOSURE, "{said}");
}

#[test]
fn it_is_not_root_and_cannot_become_root() {
    let machine = Machine::installed();
    assert_eq!(machine.get("/healthz").status, 200);
    let status = machine.read(&format!("/proc/{}/status", machine.daemon()));
    let line = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace()
            .skip(1)
            .collect::<Vec<_>>()
            .join(" ")
    };
    let mistry = machine.run("id -u mistry").trim().to_owned();
    assert_eq!(line("Uid:"), [mistry.as_str(); 4].join(" "));
    // CAP_CHOWN, CAP_DAC_OVERRIDE, CAP_FOWNER: bits 0, 1 and 3.
    for set in ["CapEff:", "CapBnd:", "CapPrm:", "CapAmb:"] {
        assert_eq!(line(set), "000000000000000b", "{set}");
    }
    assert_eq!(line("NoNewPrivs:"), "1");
}

#[test]
fn builds_are_subvolumes_and_those_of_a_group_snapshots() {
    let machine = Machine::installed();
    machine.example();
    let build = |name: &str| {
        let ran = machine.as_user(
            "member",
            &format!("mistry build --project hello --group g --json-result -- --name={name}"),
        );
        assert_eq!(ran.status, 0, "{ran}");
        let info: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
        (
            info["ID"].as_str().unwrap().to_owned(),
            info["Incremental"] == true,
        )
    };
    let (first, incremental) = build("first");
    assert!(!incremental);
    let (second, incremental) = build("second");
    assert!(incremental);
    let show = |id: &str| {
        machine.run(&format!(
            "stat -c '%i %U' /srv/builds/hello/ready/{id}/data
            btrfs subvolume show /srv/builds/hello/ready/{id}/data"
        ))
    };
    let (first, second) = (show(&first), show(&second));
    // The number of the root of every subvolume is 256.
    assert!(
        first.starts_with("256 mistry\n") && second.starts_with("256 mistry\n"),
        "{first}{second}"
    );
    let field = |text: &str, name: &str| {
        let line = text
            .lines()
            .find(|line| line.trim_start().starts_with(name))
            .unwrap();
        line.split(':').nth(1).unwrap().trim().to_owned()
    };
    assert_eq!(field(&first, "Parent UUID"), "-");
    assert_eq!(field(&second, "Parent UUID"), field(&first, "UUID"));
}

#[test]
fn what_root_left_in_a_build_is_served_cloned_replaced_and_removed() {
    let machine = Machine::installed();
    let project = machine.script(
        "rooted",
        "mkdir -p cache/deep/er artifacts/closed
        echo secret > artifacts/closed/file; echo x > cache/deep/er/file
        ls cache > artifacts/listing
        chmod 0700 artifacts/closed cache/deep; chmod 0600 artifacts/closed/file
        chown 1234:4321 cache/deep/er/file; chmod 4755 cache/deep/er/file
        [ ! -e cache/again ] || exit 3
        [ ! -e params/again ] || touch cache/again",
        json!({ "user": "0" }),
    );
    let request = |more: serde_json::Value| {
        let mut request = json!({ "project": project.name, "group": "g" });
        request
            .as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        let answer = machine.post("/jobs", &request);
        assert_eq!(answer.status, 201, "{}", answer.body);
        answer.json()
    };
    let info = request(json!({}));
    assert_eq!(info["Outcome"], "succeeded", "{info:#}");
    let id = info["ID"].as_str().unwrap();
    let subvolumes = || {
        machine
            .run("btrfs subvolume list /srv/builds")
            .lines()
            .count()
    };
    assert_eq!(subvolumes(), 1);
    let owner = format!("{}/data/artifacts/closed/file", project.ready(id));
    assert_eq!(machine.run(&format!("stat -c %u {owner}")), "0\n");

    // Served, and cloned with its owners.
    let answer = machine.get(&format!("/artifacts/{}/{id}/closed/file", project.name));
    assert_eq!((answer.status, answer.body.as_str()), (200, "secret\n"));
    let again = request(json!({ "params": { "again": "1" } }));
    assert_eq!(again["Outcome"], "succeeded", "{again:#}");
    assert_eq!(again["Incremental"], true);
    let other = again["ID"].as_str().unwrap();
    let owner = format!("{}/data/cache/deep/er/file", project.ready(other));
    assert_eq!(
        machine.run(&format!("stat -c '%u:%g %a' {owner}")),
        "1234:4321 4755\n"
    );
    assert_eq!(subvolumes(), 2);

    // Replaced: the old one goes, also where root alone may write. One that fails is removed.
    let rebuilt = request(json!({ "rebuild": true, "group": "" }));
    assert_eq!(rebuilt["Outcome"], "succeeded", "{rebuilt:#}");
    assert_eq!(subvolumes(), 3);
    let rebuilt = request(json!({ "rebuild": true, "group": "" }));
    assert_eq!(rebuilt["Outcome"], "succeeded", "{rebuilt:#}");
    machine.run("systemctl stop mistryd.service");
    assert_eq!(
        subvolumes(),
        3,
        "{}",
        machine.run("find /srv/builds -maxdepth 4")
    );
    let text = machine.journal_text("mistryd.service");
    assert!(
        !text.contains("Permission denied") && !text.contains("not permitted"),
        "{text}"
    );
}
