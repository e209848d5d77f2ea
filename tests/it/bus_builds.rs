//! Builds over the bus: what was requested is built, what exists is found, and clients get the truth
//! about failed rebuilds and about a daemon that was killed or stopped.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsRawFd, OwnedFd};

use futures_util::StreamExt;
use rustix::process::Signal;
use serde_json::{Value, json};
use zbus::Variant;

use crate::support::{
    bus::{TestBus, job_at, manager, name_of},
    bus_harness::{Harness, end_of},
    daemon::{Home, names, text},
    http::within,
    proxy::{ManagerProxy, Options},
};

fn ours(name: &str) -> String {
    format!("org.mistry.Mistry1.Error.{name}")
}

/// A log or a directory that was handed out.
fn file(fd: zbus::OwnedFd) -> File {
    OwnedFd::from(fd).into()
}

#[tokio::test]
async fn what_a_job_is_given_reaches_its_build() {
    let harness = Harness::new().await;
    let manager = manager(&harness.here).await;
    let mut ends = manager.receive_job_removed().await.unwrap();
    let given = HashMap::from([("a", "b=c"), ("_token", "hush")]);
    let options = Options::new();
    let submitting = manager.submit_job("succeed", "g", &given, &options);
    let (id, ..) = submitting.await.unwrap();
    assert_eq!(end_of(&mut ends, &id).await, "succeeded");
    let artifacts = file(manager.open_artifacts(&id).await.unwrap());
    let at = format!("/proc/self/fd/{}", artifacts.as_raw_fd());
    assert_eq!(names(at.as_ref()), [".count", "_token", "a"]);
    assert_eq!(std::fs::read_to_string(format!("{at}/a")).unwrap(), "b=c");
    let described = manager.describe_build(&id).await.unwrap();
    assert!(!described.contains("hush"), "{described}");
    let described: Value = serde_json::from_str(&described).unwrap();
    assert_eq!(described["BuildInfo"]["Group"], "g");
}

#[tokio::test]
async fn a_rebuild_is_a_build_of_its_own_and_one_that_fails_leaves_the_build_before_it() {
    let harness = Harness::new().await;
    // The script stays as it is, and so does the id; what it finds outside does not.
    let mark = harness.home.path("mark");
    let script = format!("[ ! -e {} ] || exit 4", mark.display());
    harness.home.script("turns", &script);
    let (id, outcome) = harness.build("turns", &[]).await;
    assert_eq!(outcome, "succeeded");
    let manager = manager(&harness.here).await;
    let mut ends = manager.receive_job_removed().await.unwrap();
    let none = HashMap::new();
    let options = Options::from([("rebuild", true.into())]);
    for expected in ["succeeded", "failed"] {
        let submitting = manager.submit_job("turns", "", &none, &options);
        let (again, _, disposition) = submitting.await.unwrap();
        assert_eq!((&again, disposition.as_str()), (&id, "queued"));
        assert_eq!(end_of(&mut ends, &id).await, expected);
        let build = harness.describe(&id).await;
        assert_eq!(text(&build["BuildInfo"], "Outcome"), "succeeded");
        std::fs::write(&mark, "").unwrap();
    }
    let (_, _, disposition) = harness.submit("turns", &[]).await;
    assert_eq!(disposition, "cached");
}

#[tokio::test]
async fn a_cold_build_starts_empty_although_its_group_has_a_base() {
    let harness = Harness::new().await;
    let manager = manager(&harness.here).await;
    let mut ends = manager.receive_job_removed().await.unwrap();
    let none = HashMap::new();
    for (is_cold, disposition) in [(false, "queued"), (true, "queued"), (false, "cached")] {
        let options = Options::from([("cold", is_cold.into())]);
        let submitting = manager.submit_job("succeed", "g", &none, &options);
        let (id, _, found) = submitting.await.unwrap();
        assert_eq!(found, disposition);
        if disposition == "queued" {
            assert_eq!(end_of(&mut ends, &id).await, "succeeded");
        }
        let build = &harness.describe(&id).await["BuildInfo"];
        let is_or_was_cold = is_cold || disposition == "cached";
        assert_eq!(
            (&build["Cold"], &build["Incremental"]),
            (&json!(is_or_was_cold), &json!(false))
        );
    }
}

/// Ids of the builds that a filter finds, and where the next page begins.
async fn listed(manager: &ManagerProxy<'_>, filter: &[(&str, &str)], limit: u64) -> Vec<String> {
    let mut options: Options<'_> = filter.iter().map(|(n, v)| (*n, (*v).into())).collect();
    options.insert("limit", Variant::from(limit));
    let mut ids = Vec::new();
    loop {
        let (page, next) = manager.list_builds(&options).await.unwrap();
        assert!(page.len() as u64 <= limit);
        ids.extend(page.iter().map(|item| {
            let item: Value = serde_json::from_str(item).unwrap();
            text(&item, "id").to_owned()
        }));
        if next.is_empty() {
            return ids;
        }
        options.insert("before", next.into());
    }
}

#[tokio::test]
async fn builds_are_listed_newest_first_as_the_filter_says_page_by_page() {
    let harness = Harness::new().await;
    let mut all = Vec::new();
    for (project, params) in [
        ("succeed", &[("n", "1")][..]),
        ("loud", &[]),
        ("succeed", &[("n", "2")]),
    ] {
        all.insert(0, harness.build(project, params).await.0);
    }
    harness.home.engine.hold("wait");
    let (live, ..) = harness.submit("succeed", &[("n", "3")]).await;
    all.insert(0, live.clone());
    let manager = manager(&harness.here).await;
    assert_eq!(listed(&manager, &[], 1_000).await, all);
    assert_eq!(listed(&manager, &[], 1).await, all);
    let loud = listed(&manager, &[("project", "loud")], 10).await;
    assert_eq!(loud, [all[2].clone()]);
    let ready = listed(&manager, &[("state", "ready"), ("project", "succeed")], 10).await;
    assert_eq!(ready, [all[1].clone(), all[3].clone()]);
    assert_eq!(listed(&manager, &[("state", "pending")], 10).await, [live]);
    let group = listed(&manager, &[("group", "none-such")], 10).await;
    assert!(group.is_empty());
    harness.home.engine.release("wait");
}

#[tokio::test]
async fn a_paused_queue_holds_jobs_and_garbage_is_counted() {
    let harness = Harness::new().await;
    let manager = manager(&harness.here).await;
    let mut changes = manager.receive_paused_changed().await;
    let mut ends = manager.receive_job_removed().await.unwrap();
    manager.pause_queue().await.unwrap();
    within("the change", async {
        while !changes.next().await.unwrap().get().await.unwrap() {}
    })
    .await;
    let (id, path, _) = harness.submit("succeed", &[]).await;
    let job = job_at(&harness.here, &path).await;
    assert_eq!(job.state().await.unwrap(), "queued");
    manager.resume_queue().await.unwrap();
    assert_eq!(end_of(&mut ends, &id).await, "succeeded");
    within("the change", async {
        while changes.next().await.unwrap().get().await.unwrap() {}
    })
    .await;
    let no_rule = manager.collect_garbage(&Options::new()).await;
    assert_eq!(name_of(no_rule), ours("NoPolicy"));
    // What was used a moment ago stays.
    for dry_run in [true, false] {
        let policy = Options::from([
            ("max_age", Variant::from(3_600_u64)),
            ("dry_run", dry_run.into()),
        ]);
        assert_eq!(manager.collect_garbage(&policy).await.unwrap(), (0, 0));
    }
}

#[tokio::test]
async fn projects_that_cannot_be_built_have_named_errors() {
    let harness = Harness::new().await;
    harness.home.fixture("image-build-failure");
    let manager = manager(&harness.here).await;
    let failed = manager.rebuild_image("image-build-failure").await;
    assert_eq!(name_of(failed), ours("ImageFailed"));
    let unknown = manager.rebuild_image("none-such").await;
    assert_eq!(name_of(unknown), ours("NoSuchProject"));
    let (_, outcome) = harness.build("image-build-failure", &[]).await;
    assert_eq!(outcome, "errored");
    harness.home.engine.stop().await;
    let (none, options) = (HashMap::new(), Options::new());
    let away = manager.submit_job("succeed", "", &none, &options).await;
    assert_eq!(name_of(away), ours("EngineUnavailable"));
}

/// What the contract says a client does that must have every byte and the end.
#[tokio::test]
async fn a_job_outlives_a_daemon_that_is_killed_and_its_log_goes_on_where_it_ended() {
    let Harness {
        bus,
        home,
        daemon,
        here,
    } = Harness::new().await;
    let script = "mkfifo \"$DATA/gate\"; echo first; read -r x < \"$DATA/gate\"; echo last";
    home.script("slow", script);
    let manager = manager(&here).await;
    let (none, options) = (HashMap::new(), Options::new());
    let submitting = manager.submit_job("slow", "", &none, &options);
    let (id, path, _) = submitting.await.unwrap();
    let mut log = file(manager.open_log(&id).await.unwrap());
    let reading = tokio::task::spawn_blocking(move || {
        let (mut seen, mut piece) = (Vec::new(), [0; 1_024]);
        while !seen.ends_with(b"first\n") {
            let count = log.read(&mut piece).unwrap();
            assert!(count > 0, "the log ended early");
            seen.extend_from_slice(&piece[..count]);
        }
        (log, seen)
    });
    let (mut log, seen) = within("the log", reading).await.unwrap();
    assert_eq!(daemon.end(Signal::KILL).await, -9);
    bus.owned(&here, false).await;
    let mut rest = Vec::new();
    log.read_to_end(&mut rest).unwrap();
    assert!(rest.is_empty(), "{rest:?}");

    let _daemon = bus.spawn(&home).await;
    let mut ends = manager.receive_job_removed().await.unwrap();
    assert_eq!(manager.get_job(&id).await.unwrap(), path);
    let mut log = file(manager.open_log(&id).await.unwrap());
    let gate = home.build("slow", "pending", &id).join("data/gate");
    std::fs::write(gate, "on\n").unwrap();
    assert_eq!(end_of(&mut ends, &id).await, "succeeded");
    let reading = tokio::task::spawn_blocking(move || {
        let mut whole = Vec::new();
        log.read_to_end(&mut whole).unwrap();
        whole
    });
    let whole = within("the log", reading).await.unwrap();
    let more = whole.strip_prefix(seen.as_slice()).unwrap();
    assert_eq!(String::from_utf8_lossy(more), "last\n");
}

#[tokio::test]
async fn a_stopped_daemon_is_started_by_the_bus() {
    let (bus, home) = (TestBus::start(), Home::new().await);
    let config = home.configure(&json!({}));
    home.fixture("succeed");
    let program = format!(
        "/usr/bin/env DBUS_SESSION_BUS_ADDRESS={} {} --config {} --addr 127.0.0.1:0 --user-bus",
        bus.address(),
        env!("CARGO_BIN_EXE_mistryd"),
        config.display()
    );
    bus.activate("org.mistry.Mistry1", &program);
    let here = bus.connect().await;
    let manager = manager(&here).await;
    let projects = within("an answer", manager.list_projects()).await;
    // The bus has begun it, so no other process ends it.
    let asked = zbus::fdo::DBusProxy::new(&here).await.unwrap();
    let name = "org.mistry.Mistry1".try_into().unwrap();
    if let Ok(pid) = asked.get_connection_unix_process_id(name).await {
        let pid = rustix::process::Pid::from_raw(pid.cast_signed()).unwrap();
        rustix::process::kill_process(pid, Signal::KILL).unwrap();
    }
    assert_eq!(projects.unwrap(), ["succeed"]);
}
