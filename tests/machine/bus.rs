//! The bus of a whole host: a call starts the daemon, the real polkit decides about real users, and no
//! call is lost when the daemon exits for idleness or the bus restarts.

use std::io::{BufRead, BufReader};

use serde_json::json;

use crate::support::{Machine, Packages, Ran, at_once};

/// `busctl call` of the manager; what stands behind is the method and its arguments.
const CALL: &str =
    "busctl --timeout=30 call org.mistry.Mistry1 /org/mistry/Mistry1 org.mistry.Mistry1.Manager";
/// The same by gdbus, which says errors by their names.
const GDBUS: &str = "gdbus call --system --timeout 30 --dest org.mistry.Mistry1 --object-path /org/mistry/Mistry1 --method org.mistry.Mistry1.Manager";

const DENIED: &str = "org.freedesktop.DBus.Error.AccessDenied";

/// Submits a job of a project by gdbus.
fn submit(machine: &Machine, user: &str, project: &str, n: u32) -> Ran {
    let params = format!("\"{{'n': '{n}'}}\"");
    machine.as_user(
        user,
        &format!("{GDBUS}.SubmitJob {project} '' {params} '{{}}'"),
    )
}

/// The id in the answer of SubmitJob.
fn id_of(ran: &Ran) -> String {
    assert_eq!(ran.status, 0, "{ran}");
    let id = ran
        .stdout
        .split('\'')
        .nth(1)
        .unwrap_or_else(|| panic!("{ran}"));
    id.to_owned()
}

/// A project whose builds wait until they are released.
fn gated(machine: &Machine) {
    machine.script(
        "gated",
        "mkfifo /data/gate; read -r x < /data/gate",
        json!(null),
    );
}

/// Lets a build of it go, as soon as it waits.
fn release(machine: &Machine, id: &str) {
    let gate = format!("/var/lib/mistry/builds/gated/pending/{id}/data/gate");
    machine.run(&format!(
        "until [ -p {gate} ]; do sleep 0.05; done; echo on > {gate}"
    ));
}

#[test]
fn a_call_on_the_bus_starts_the_daemon() {
    let machine = Machine::installed();
    machine.example();
    assert_eq!(machine.daemon(), 0, "it runs already");
    let ran = machine.as_user("outsider", &format!("{CALL} ListProjects"));
    assert_eq!(
        (ran.status, ran.stdout.as_str()),
        (0, "as 1 \"hello\"\n"),
        "{ran}"
    );
    assert_eq!(machine.active("mistryd.service"), "active");
    // It is the one that serves HTTP.
    assert_eq!(machine.get("/healthz").status, 200);
    let ran = machine.as_user("outsider", "busctl get-property org.mistry.Mistry1 /org/mistry/Mistry1 org.mistry.Mistry1.Manager FileSystem");
    assert_eq!(ran.stdout, "s \"btrfs\"\n", "{ran}");
    let ran = machine.as_user(
        "outsider",
        "busctl introspect org.mistry.Mistry1 /org/mistry/Mistry1",
    );
    assert!(ran.stdout.contains(".SubmitJob"), "{ran}");
}

/// The bus reads its policies when their files come, and the user that ours names comes later.
#[test]
fn the_name_is_there_right_after_the_installation() {
    let machine = Machine::uninstalled();
    machine.install(Packages::First);
    answers_after_the_installation(&machine);
}

pub fn answers_after_the_installation(machine: &Machine) {
    let daemon = machine.daemon();
    let ran = machine.as_user("outsider", &format!("{CALL} ListProjects"));
    assert_eq!((ran.status, ran.stdout.as_str()), (0, "as 0\n"), "{ran}");
    // No call had to wait until mistryd asked for the name again.
    let refused = machine.journal(&["_SYSTEMD_UNIT=mistryd.service", "MISTRY_EVENT=bus-lost"]);
    assert!(refused.is_empty(), "{refused:#?}");
    assert!(
        daemon == 0 || daemon == machine.daemon(),
        "it was started again"
    );
}

#[test]
fn root_and_members_of_the_group_may_and_others_may_only_read() {
    let machine = Machine::installed();
    machine.example();
    for (user, n) in [("root", 1), ("member", 2)] {
        let ran = submit(&machine, user, "hello", n);
        assert!(ran.stdout.contains("'queued'"), "{user}: {ran}");
    }
    let ran = machine.as_user(
        "member",
        &format!("{CALL} SubmitJob 'ssa{{ss}}a{{sv}}' hello '' 1 n 3 0"),
    );
    assert!(
        ran.stdout.starts_with("sos \"") && ran.stdout.ends_with("\"queued\"\n"),
        "{ran}"
    );
    let ran = submit(&machine, "outsider", "hello", 4);
    assert_ne!(ran.status, 0, "{ran}");
    // No person is there to be asked, and the call did not allow it either.
    assert!(
        ran.stderr.contains("InteractiveAuthorizationRequired") || ran.stderr.contains(DENIED),
        "{ran}"
    );
    let id = id_of(&submit(&machine, "member", "hello", 2));
    for call in [
        "PauseQueue".to_owned(),
        "ResumeQueue".to_owned(),
        "Reload".to_owned(),
        "RebuildImage hello".to_owned(),
        "CollectGarbage \"{'max_bytes': <uint64 0>}\"".to_owned(),
        format!("OpenLog {id}"),
        format!("OpenArtifacts {id}"),
    ] {
        let ran = machine.as_user("outsider", &format!("{GDBUS}.{call}"));
        assert_ne!(ran.status, 0, "{call}: {ran}");
        assert!(
            ran.stderr.contains("nteractiveAuthorizationRequired") || ran.stderr.contains(DENIED),
            "{call}: {ran}"
        );
    }
    for call in [
        "ListProjects",
        "ListJobs",
        "ListBuilds '{}'",
        &format!("DescribeBuild {id}"),
    ] {
        let ran = machine.as_user("outsider", &format!("{GDBUS}.{call}"));
        assert_eq!(ran.status, 0, "{call}: {ran}");
    }
}

#[test]
fn where_nothing_is_public_only_root_and_members_of_the_group_see_builds() {
    let machine = Machine::installed();
    machine.configure(json!({ "public": "none" }));
    machine.example();
    let id = id_of(&submit(&machine, "member", "hello", 1));
    for user in ["root", "member"] {
        let ran = machine.as_user(user, &format!("{GDBUS}.ListProjects"));
        assert!(ran.stdout.contains("hello"), "{user}: {ran}");
    }
    for call in [
        "ListProjects".to_owned(),
        "ListJobs".to_owned(),
        "ListBuilds '{}'".to_owned(),
        format!("DescribeBuild {id}"),
        format!("OpenLog {id}"),
    ] {
        let ran = machine.as_user("outsider", &format!("{GDBUS}.{call}"));
        assert_ne!(ran.status, 0, "{call}: {ran}");
        assert!(ran.stderr.contains("org.freedesktop.DBus.Error."), "{ran}");
        assert!(!ran.stderr.contains("hello"), "{ran}");
    }
}

#[test]
fn a_rule_of_the_administrator_lets_a_user_in_and_a_starter_cancels_only_their_own() {
    let machine = Machine::installed();
    gated(&machine);
    machine.write(
        "/etc/polkit-1/rules.d/10-test.rules",
        "polkit.addRule(function (action, subject) {
            if (action.id === 'org.mistry.mistry1.submit' && subject.user === 'outsider') {
                return polkit.Result.YES;
            }
        });",
    );
    // polkit reads its rules at some time after a change; a restart can be waited for.
    machine.run("systemctl restart polkit.service");
    let others = id_of(&submit(&machine, "member", "gated", 1));
    let own = id_of(&submit(&machine, "outsider", "gated", 2));
    let who = machine.run(&format!(
        "busctl get-property org.mistry.Mistry1 /org/mistry/Mistry1/job/_{} org.mistry.Mistry1.Job StartedByUID",
        &own[..16]
    ));
    let uid = machine.run("id -u outsider");
    assert_eq!(who.trim(), format!("u {}", uid.trim()));
    let ran = machine.as_user("outsider", &format!("{GDBUS}.CancelJob {others} no"));
    assert_ne!(ran.status, 0, "{ran}");
    let ran = machine.as_user(
        "outsider",
        &format!("{GDBUS}.CancelJob {own} 'wrong branch'"),
    );
    assert_eq!(ran.status, 0, "{ran}");
    let ran = machine.as_user("member", &format!("{GDBUS}.CancelJob {others} ''"));
    assert_eq!(ran.status, 0, "{ran}");
    machine.run("rm /etc/polkit-1/rules.d/10-test.rules; systemctl restart polkit.service");
}

#[test]
fn without_polkit_only_root_and_the_group_may() {
    let machine = Machine::installed();
    machine.example();
    machine.run("systemctl mask --runtime --now --quiet polkit.service");
    let asked = [("root", 1), ("member", 2), ("outsider", 3)]
        .map(|(user, n)| submit(&machine, user, "hello", n));
    machine
        .run("systemctl unmask --runtime --quiet polkit.service; systemctl start polkit.service");
    let [root, member, outsider] = asked;
    assert_eq!(root.status, 0, "{root}");
    assert_eq!(member.status, 0, "{member}");
    assert_ne!(outsider.status, 0, "{outsider}");
    assert!(outsider.stderr.contains(DENIED), "{outsider}");
    assert!(
        outsider
            .stderr
            .contains("that is for root and group 'mistry'"),
        "{outsider}"
    );
}

#[test]
fn an_idle_daemon_waits_for_the_end_of_a_job_of_the_bus_and_then_leaves() {
    let machine = Machine::installed();
    machine.configure(json!({ "idle_exit": "100ms" }));
    gated(&machine);
    let id = id_of(&submit(&machine, "member", "gated", 1));
    let mut waiting = machine.begin(
        "outsider",
        "timeout 30 stdbuf -oL gdbus monitor --system --dest org.mistry.Mistry1",
    );
    let mut heard = BufReader::new(waiting.stdout()).lines();
    // It says so when it listens.
    assert!(heard.next().unwrap().unwrap().contains("Monitoring"));
    let first = machine.run("busctl status org.mistry.Mistry1 | grep ^PID=");
    // Ten times as long as it would take to end.
    machine.run("sleep 1");
    assert_eq!(
        machine.run("busctl status org.mistry.Mistry1 | grep ^PID="),
        first
    );
    release(&machine, &id);
    let signal = heard
        .map(Result::unwrap)
        .find(|line| line.contains("JobRemoved"));
    let signal = signal.unwrap_or_default();
    assert!(
        signal.contains(&id) && signal.contains("'succeeded'"),
        "{signal}"
    );
    machine.wait_for("mistryd.service", "ActiveState", |state| {
        state == "inactive"
    });
    let ran = machine.as_user("outsider", &format!("{GDBUS}.DescribeBuild {id}"));
    assert!(ran.stdout.contains("succeeded"), "{ran}");
}

/// Half of the callers ask, the others have something built and do not come back for it.
#[test]
fn no_call_that_arrives_while_the_daemon_ends_is_lost() {
    let machine = Machine::installed();
    machine.script("quick", "true", json!(null));
    machine.configure(json!({ "idle_exit": "20ms", "job_backlog": 1000 }));
    let trials = if std::env::var_os("MISTRY_SOAK").is_some() {
        300
    } else {
        25
    };
    let calls = at_once(2, |which| {
        // After a build there is an end, or the next call comes at the moment of it. How long a build
        // takes is the host's affair, so the pause begins when it is over.
        let (ask, pause) = match which {
            0 => (format!("{CALL} ListProjects"), "sleep 0.0$((n % 6))"),
            _ => (
                format!("{CALL} SubmitJob 'ssa{{ss}}a{{sv}}' quick '' 1 n $n 0"),
                "until [ $(ls $ready 2> /dev/null | wc -l) -ge $n ]; do sleep 0.02; done
                sleep 0.$((n % 2 * 3))$((n % 6))",
            ),
        };
        // One command for each, since none may run for longer than the timeout of all tests.
        let calls = (1..=trials).map(|n| {
            let ready = "/var/lib/mistry/builds/quick/ready";
            let line = format!("n={n} ready={ready}; {ask} > /dev/null || echo lost; {pause}");
            machine.as_user("member", &line)
        });
        calls.collect::<Vec<_>>()
    });
    for ran in calls.iter().flatten() {
        assert_eq!((ran.status, ran.stdout.as_str()), (0, ""), "{ran}");
    }
    let ends = machine.journal(&["_SYSTEMD_UNIT=mistryd.service", "MISTRY_EVENT=idle"]);
    assert!(!ends.is_empty(), "it never ended");
    // The bus lets it find out that all calls have been taken up.
    let journal = machine.journal_text("dbus.service");
    let is_refused = |line: &&str| line.contains("Rejected") && line.contains("mistryd");
    assert_eq!(journal.lines().find(is_refused), None);
    // Each job that was answered is built, whether it is asked for or not.
    machine.run(&format!(
        "cd /var/lib/mistry/builds/quick
        for n in $(seq 600); do
            if [ $(ls ready | wc -l) = {trials} ]; then exit 0; fi; sleep 0.1
        done; ls pending ready; exit 1"
    ));
    let failed = machine.run("systemctl show --property=Result --value mistryd.service");
    assert_eq!(failed.trim(), "success");
}

#[test]
fn a_restarted_bus_is_joined_again_and_http_is_served_meanwhile() {
    let machine = Machine::installed();
    gated(&machine);
    let id = id_of(&submit(&machine, "member", "gated", 1));
    let daemon = machine.daemon();
    machine.run("systemctl restart dbus.service");
    assert_eq!(machine.get("/healthz").status, 200);
    // The name is back before a client asks for it.
    machine.run(
        "for n in $(seq 200); do
            if busctl status org.mistry.Mistry1 > /dev/null 2>&1; then exit 0; fi; sleep 0.1
        done; exit 1",
    );
    assert_eq!(machine.daemon(), daemon, "it was started again");
    let ran = machine.as_user("outsider", &format!("{GDBUS}.GetJob {id}"));
    assert!(ran.stdout.contains(&id[..16]), "{ran}");
    release(&machine, &id);
}

#[test]
fn the_group_may_open_artifacts_and_no_mount_stays_behind() {
    let machine = Machine::installed();
    opens_artifacts(&machine);
}

/// The directory that is handed out is confined by a process with user and mount namespaces of its own.
pub fn opens_artifacts(machine: &Machine) {
    machine.example();
    let id = id_of(&submit(machine, "member", "hello", 1));
    let build = format!("/var/lib/mistry/builds/hello/ready/{id}");
    machine.run(&format!("until [ -d {build} ]; do sleep 0.05; done"));
    let ran = submit(machine, "member", "hello", 1);
    assert!(ran.stdout.contains("'cached'"), "{ran}");
    for method in ["OpenArtifacts", "OpenLog"] {
        let ran = machine.as_user("member", &format!("{CALL} {method} s {id}"));
        assert!(ran.status == 0 && ran.stdout.starts_with("h "), "{ran}");
    }
    // What the kernel lets each user read of it.
    let read = format!("cat {build}/data/artifacts/greeting.txt");
    let ran = machine.as_user("member", &read);
    assert!(ran.stdout.starts_with("Hello, "), "{ran}");
    let ran = machine.as_user("outsider", &read);
    assert!(ran.stderr.contains("Permission denied"), "{ran}");
    // What was handed out is no mount of the host's, nor of the daemon's.
    let mounts =
        machine.run("cat /proc/self/mounts /proc/$(systemctl show -P MainPID mistryd)/mounts");
    assert!(!mounts.contains("artifacts"), "{mounts}");
}

#[test]
fn a_paused_queue_stays_paused_over_a_restart() {
    let machine = Machine::installed();
    machine.example();
    let ran = machine.as_user("member", &format!("{GDBUS}.PauseQueue"));
    assert_eq!(ran.status, 0, "{ran}");
    let id = id_of(&submit(&machine, "member", "hello", 1));
    machine.run("systemctl kill --signal=KILL mistryd.service");
    let paused = "busctl get-property org.mistry.Mistry1 /org/mistry/Mistry1 org.mistry.Mistry1.Manager Paused";
    machine.wait_for("mistryd.service", "ActiveState", |state| state == "active");
    let ran = machine.as_user("outsider", paused);
    assert_eq!(ran.stdout, "b true\n", "{ran}");
    let ran = machine.as_user("outsider", &format!("{GDBUS}.ListJobs"));
    assert!(
        ran.stdout.contains(&id) && ran.stdout.contains("'queued'"),
        "{ran}"
    );
    let status = machine.run("systemctl show -P StatusText mistryd.service");
    assert!(status.contains("paused"), "{status}");
    let mut story = machine.follow(&[&format!("MISTRY_JOB={id}")]);
    let ran = machine.as_user("member", &format!("{GDBUS}.ResumeQueue"));
    assert_eq!(ran.status, 0, "{ran}");
    story.event("succeeded");
}
