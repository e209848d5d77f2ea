//! Jobs over the bus are the jobs of the daemon: the same over each interface, and no client that waits
//! for the end of one misses it.

use std::collections::HashMap;
use std::io::Read;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;

use futures_util::StreamExt;
use serde_json::json;
use zbus::fdo::{ObjectManagerProxy, PropertiesProxy};

use crate::support::{
    bus::{TestBus, job_at, manager, name_of},
    bus_harness::Harness,
    daemon::{Home, text},
    http::{Ask, within},
    process::served,
};

#[tokio::test]
async fn a_name_that_the_bus_refuses_is_asked_for_until_it_is_had() {
    let (bus, home) = (TestBus::refusing(), Home::new().await);
    home.configure(&json!({}));
    let here = bus.connect().await;
    let watched = zbus::fdo::DBusProxy::new(&here).await.unwrap();
    let mut gone = watched
        .receive_name_owner_changed_with_args(&[(2, "")])
        .await
        .unwrap();
    let mut command = home.mistryd();
    command.args(["--addr", "127.0.0.1:0", "--user-bus"]);
    command.env("DBUS_SESSION_BUS_ADDRESS", bus.address());
    let daemon = served(command).await;
    // It was refused, and has left.
    within("the refusal", gone.next()).await.unwrap();
    bus.allow(&here).await;
    bus.named(&here).await;
    let log = daemon.log();
    assert_eq!(log.matches("it refuses the name").count(), 1, "{log}");
}

#[tokio::test]
async fn a_job_over_the_bus_is_the_same_job_as_one_over_http() {
    let harness = Harness::new().await;
    let job = json!({"project": "succeed", "params": {"a": "b"}});
    harness.home.engine.hold("wait");
    let (id, path, disposition) = harness.submit("succeed", &[("a", "b")]).await;
    assert_eq!(disposition, "queued");
    assert_eq!(path, format!("/org/mistry/Mistry1/job/_{}", &id[..16]));
    // Over HTTP it is joined.
    let posting = Ask::post("/jobs", &job);
    let at = harness.daemon.at.clone();
    let posted = tokio::spawn(async move { at.ask(posting).await });
    let shown = Ask::get(format!("/job/succeed/{id}")).json();
    let shown = harness.daemon.at.ask(shown).await.expect(200).json();
    assert_eq!(shown["State"], "pending");
    // Over the bus, too, and it is the same object.
    let (again, same, disposition) = harness.submit("succeed", &[("a", "b")]).await;
    assert_eq!(
        (again, same, disposition),
        (id.clone(), path, "coalesced".to_owned())
    );
    harness.home.engine.release("wait");
    let posted = within("the answer", posted)
        .await
        .unwrap()
        .expect(201)
        .json();
    assert_eq!(text(&posted, "ID"), id);
    // A finished build is returned at once.
    let (cached, nowhere, disposition) = harness.submit("succeed", &[("a", "b")]).await;
    assert_eq!(
        (cached, nowhere, disposition),
        (id.clone(), "/".to_owned(), "cached".to_owned())
    );
    // It is described in the JSON of HTTP, without its log.
    let view = harness.describe(&id).await;
    assert_eq!(view["State"], "ready");
    assert_eq!(view["BuildInfo"]["Outcome"], "succeeded");
    assert_eq!(view["BuildInfo"]["Params"], json!({"a": "b"}));
    assert!(view["BuildInfo"]["ContainerStdouterr"].is_null());
    let (builds, next) = manager(&harness.here)
        .await
        .list_builds(&HashMap::new())
        .await
        .unwrap();
    assert_eq!((builds.len(), next.as_str()), (1, ""));
    let projects = manager(&harness.here).await.list_projects().await.unwrap();
    assert_eq!(projects, ["loud", "succeed"]);
}

#[tokio::test]
async fn an_active_job_has_properties_and_their_changes_are_signalled() {
    let harness = Harness::with(&json!({"job_timeout": "1h"})).await;
    harness.home.engine.hold("wait");
    let manager = manager(&harness.here).await;
    let mut begun = manager.receive_job_new().await.unwrap();
    let objects =
        ObjectManagerProxy::new(&harness.here, "org.mistry.Mistry1", "/org/mistry/Mistry1");
    let objects = objects.await.unwrap();
    let mut added = objects.receive_interfaces_added().await.unwrap();
    let mut removed = objects.receive_interfaces_removed().await.unwrap();
    let (id, path, _) = harness
        .submit("succeed", &[("a", "b"), ("_secret", "s3cr3t")])
        .await;
    let job = job_at(&harness.here, &path).await;
    assert_eq!(job.id().await.unwrap(), id);
    assert_eq!(job.project().await.unwrap(), "succeed");
    assert_eq!(job.group().await.unwrap(), "");
    let params = job.params().await.unwrap();
    assert_eq!(params["a"], "b");
    assert_eq!(params["_secret"], "", "an opaque value was sent");
    let own = rustix::process::getuid().as_raw();
    assert_eq!(job.started_by_uid().await.unwrap(), own);
    harness.home.engine.wait_for("wait", 1).await;
    assert_eq!(job.state().await.unwrap(), "running");
    let (queued, started) = (
        job.queued_at().await.unwrap(),
        job.started_at().await.unwrap(),
    );
    assert!(queued > 1_700_000_000_000_000 && started >= queued);
    let hour = 3_600_000_000;
    let deadline = job.deadline().await.unwrap();
    assert!(deadline > queued + hour - 1_000_000 && deadline < queued + 2 * hour);
    assert!(!job.container_id().await.unwrap().is_empty());
    // The manager lists it, finds it, and signals it.
    let live = manager.list_jobs().await.unwrap();
    assert_eq!(live.len(), 1);
    assert_eq!(
        (&live[0].0, live[0].1.as_str(), live[0].3.as_str()),
        (&id, "succeed", "running")
    );
    assert_eq!(manager.get_job(&id).await.unwrap().as_str(), path);
    assert_eq!(manager.n_running().await.unwrap(), 1);
    let signal = within("JobNew", begun.next()).await.unwrap();
    assert_eq!(signal.args().unwrap().id, id);
    let signal = within("InterfacesAdded", added.next()).await.unwrap();
    assert_eq!(signal.args().unwrap().object_path.as_str(), path);
    let all = objects.get_managed_objects().await.unwrap();
    assert!(all.keys().any(|there| there.as_str() == path), "{all:?}");
    let changes = PropertiesProxy::builder(&harness.here)
        .destination("org.mistry.Mistry1")
        .path(path.clone())
        .build()
        .await
        .unwrap();
    let mut changes = changes.receive_properties_changed().await.unwrap();
    harness.home.engine.release("wait");
    let signal = within("a change", changes.next()).await.unwrap();
    assert!(
        signal
            .args()
            .unwrap()
            .changed_properties
            .contains_key("State")
    );
    let signal = within("InterfacesRemoved", removed.next()).await.unwrap();
    assert_eq!(signal.args().unwrap().object_path.as_str(), path);
    assert!(
        job.state().await.is_err(),
        "the object is there after its end"
    );
    let over = manager.get_job(&id).await;
    assert_eq!(name_of(over), "org.mistry.Mistry1.Error.NoSuchJob");
}

#[tokio::test]
async fn the_manager_has_the_counts_of_jobs() {
    let harness = Harness::with(&json!({"job_concurrency": 1})).await;
    harness.home.engine.hold("wait");
    let manager = manager(&harness.here).await;
    let mut running = manager.receive_n_running_changed().await;
    let mut queued = manager.receive_n_queued_changed().await;
    harness.submit("succeed", &[("n", "1")]).await;
    harness.submit("succeed", &[("n", "2")]).await;
    within("NRunning", async {
        while running.next().await.unwrap().get().await.unwrap() != 1 {}
    })
    .await;
    within("NQueued", async {
        while queued.next().await.unwrap().get().await.unwrap() != 1 {}
    })
    .await;
    assert_eq!(manager.job_concurrency().await.unwrap(), 1);
    assert_eq!(manager.version().await.unwrap(), env!("CARGO_PKG_VERSION"));
    assert_eq!(manager.file_system().await.unwrap(), "plain");
    let builds = manager.build_path().await.unwrap();
    assert_eq!(builds, harness.home.builds().display().to_string());
    harness.home.engine.release("wait");
    within("the end of both", async {
        while running.next().await.unwrap().get().await.unwrap() != 0 {}
    })
    .await;
}

/// The signal of the end follows the answer that names the job.
#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_a_job_is_signalled_after_its_answer() {
    let harness = Harness::new().await;
    for n in 0..20 {
        let mut all = zbus::MessageStream::from(&harness.here);
        let value = n.to_string();
        let params = HashMap::from([("n", value.as_str())]);
        let rule = zbus::MatchRule::builder()
            .msg_type(zbus::message::Type::Signal)
            .interface("org.mistry.Mistry1.Manager")
            .build()
            .unwrap();
        let _unread = zbus::MessageStream::for_match_rule(rule, &harness.here, None)
            .await
            .unwrap();
        let none: HashMap<&str, zbus::Variant<'_>> = HashMap::new();
        let arguments = ("succeed", "", params, none);
        let asking = harness.here.call_method(
            Some("org.mistry.Mistry1"),
            "/org/mistry/Mistry1",
            Some("org.mistry.Mistry1.Manager"),
            "SubmitJob",
            &arguments,
        );
        let answer = within("an answer", asking).await.unwrap();
        let mut order = Vec::new();
        within("the end", async {
            loop {
                let message = all.next().await.unwrap().unwrap();
                match message.header().member().map(ToString::to_string) {
                    Some(member) if member.starts_with("Job") => {
                        order.push(member.clone());
                        if member == "JobRemoved" {
                            return;
                        }
                    }
                    _ if message.header().reply_serial() == answer.header().reply_serial() => {
                        order.push("answer".to_owned());
                    }
                    _ => {}
                }
            }
        })
        .await;
        assert_eq!(order, ["JobNew", "answer", "JobRemoved"]);
    }
}

/// A build that failed is made again when it is asked for again: each has its own beginning and end, in
/// order, however fast they follow each other and however many ask at once.
#[tokio::test(flavor = "multi_thread")]
async fn consecutive_builds_of_one_job_are_signalled_one_after_the_other() {
    /// Clients that ask for the same all the time.
    const CLIENTS: usize = 8;
    const EACH: usize = 12;
    let harness = Harness::new().await;
    harness.home.script("fail", "exit 3");
    let rule = zbus::MatchRule::builder()
        .msg_type(zbus::message::Type::Signal)
        .interface("org.mistry.Mistry1.Manager")
        .build()
        .unwrap();
    let room = std::num::NonZeroUsize::new(10_000);
    let mut signals = zbus::MessageStream::for_match_rule(rule, &harness.here, room)
        .await
        .unwrap();
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..CLIENTS {
        let here = harness.bus.connect().await;
        clients.spawn(async move {
            let manager = manager(&here).await;
            let mut ends = manager.receive_job_removed().await.unwrap();
            for _ in 0..EACH {
                let (none, options) = (HashMap::new(), HashMap::new());
                let asking = manager.submit_job("fail", "", &none, &options);
                let (id, ..) = within("an answer", asking).await.unwrap();
                // A client that got a JobNew gets the JobRemoved.
                let end = within("the end", ends.next()).await.unwrap();
                let end = end.args().unwrap();
                assert_eq!((&end.id, end.outcome.as_str()), (&id, "failed"));
                // Ends of builds of other clients do not belong to the next round.
                while let Some(Some(_)) = futures_util::FutureExt::now_or_never(ends.next()) {}
            }
        });
    }
    while let Some(client) = clients.join_next().await {
        client.unwrap();
    }
    within("the end of all", async {
        while !manager(&harness.here)
            .await
            .list_jobs()
            .await
            .unwrap()
            .is_empty()
        {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let accepted = harness
        .daemon
        .log()
        .matches("mistry_event=accepted")
        .count();
    let mut members = Vec::new();
    while members.len() < 2 * accepted {
        let signal = within("a signal", signals.next()).await.unwrap().unwrap();
        members.push(signal.header().member().unwrap().to_string());
    }
    for pair in members.chunks(2) {
        assert_eq!(pair, ["JobNew", "JobRemoved"], "{members:?}");
    }
    assert!(accepted >= EACH, "only {accepted} builds");
}

#[tokio::test]
async fn each_outcome_is_signalled_by_its_name() {
    let harness = Harness::new().await;
    harness.home.script("fail", "exit 3");
    harness.home.script("hang", "sleep 1000");
    let settings = harness.home.projects().join("hang/mistry.json");
    std::fs::write(settings, r#"{"job_timeout": "50ms"}"#).unwrap();
    for (project, expected) in [("fail", "failed"), ("hang", "timed-out")] {
        let (id, outcome) = harness.build(project, &[]).await;
        assert_eq!(outcome, expected);
        assert_eq!(
            harness.describe(&id).await["BuildInfo"]["Outcome"],
            expected
        );
    }
}

#[tokio::test]
async fn a_job_is_cancelled_across_interfaces() {
    let harness = Harness::new().await;
    harness.home.engine.hold("start");
    let manager = manager(&harness.here).await;
    for (number, over_bus) in [true, false].into_iter().enumerate() {
        let mut ends = manager.receive_job_removed().await.unwrap();
        let value = over_bus.to_string();
        let (id, path, _) = harness.submit("succeed", &[("n", &value)]).await;
        let job = job_at(&harness.here, &path).await;
        // Before that, a cancelled build may be over at once, and its object gone.
        harness.home.engine.wait_for("start", number + 1).await;
        assert!(!job.stopping().await.unwrap());
        if over_bus {
            manager.cancel_job(&id, "wrong branch").await.unwrap();
            assert!(job.stopping().await.unwrap());
            // A second request while it ends changes nothing.
            let _ = job.cancel("again").await;
        } else {
            let path = format!("/job/succeed/{id}/cancel");
            let cancel = Ask::post(path, &json!({"reason": "wrong branch"})).json();
            harness.daemon.at.ask(cancel).await.expect(202);
        }
        harness.home.engine.release("start");
        let end = within("the end", ends.next()).await.unwrap();
        assert_eq!(end.args().unwrap().outcome, "cancelled");
        let info = harness.describe(&id).await["BuildInfo"].clone();
        assert_eq!(info["Cancelled"]["Reason"], "wrong branch");
        if over_bus {
            let uid = rustix::process::getuid().as_raw();
            assert_eq!(info["Cancelled"]["By"], format!("uid {uid}"));
        }
        let again = manager.cancel_job(&id, "").await;
        assert_eq!(name_of(again), "org.mistry.Mistry1.Error.JobOver");
        harness.home.engine.hold("start");
    }
}

#[tokio::test]
async fn a_client_that_leaves_the_bus_cancels_its_jobs_with_cancel_on_disconnect() {
    let harness = Harness::new().await;
    harness.home.engine.hold("wait");
    let here = manager(&harness.here).await;
    let mut ends = here.receive_job_removed().await.unwrap();
    let leaver = harness.bus.connect().await;
    let options = HashMap::from([("cancel_on_disconnect", zbus::Variant::from(true))]);
    let there = manager(&leaver).await;
    let none = HashMap::new();
    let asking = there.submit_job("succeed", "", &none, &options);
    let (id, ..) = asking.await.unwrap();
    drop(there);
    leaver.close().await.unwrap();
    let end = within("the end", ends.next()).await.unwrap();
    let end = end.args().unwrap();
    assert_eq!((&end.id, end.outcome.as_str()), (&id, "cancelled"));
    harness.home.engine.release("wait");
}

#[tokio::test]
async fn a_log_is_handed_out_from_the_first_byte_and_follows_to_the_end() {
    let harness = Harness::new().await;
    harness.home.script(
        "slow",
        "mkfifo \"$DATA/gate\"; echo first; read -r x < \"$DATA/gate\"; printf '1%%\\r\\n\\377\\000no end'",
    );
    let manager = manager(&harness.here).await;
    let (id, ..) = harness.submit("slow", &[]).await;
    let log = manager.open_log(&id).await.unwrap();
    let mut log = std::fs::File::from(std::os::fd::OwnedFd::from(log));
    let gate = harness.home.build("slow", "pending", &id).join("data/gate");
    let reading = tokio::task::spawn_blocking(move || {
        let mut seen = Vec::new();
        let mut piece = [0; 1024];
        while !String::from_utf8_lossy(&seen).contains("first\n") {
            let count = log.read(&mut piece).unwrap();
            assert!(count > 0, "the log ended early");
            seen.extend_from_slice(&piece[..count]);
        }
        std::fs::write(gate, "on\n").unwrap();
        log.read_to_end(&mut seen).unwrap();
        seen
    });
    let seen = within("the log", reading).await.unwrap();
    let on_disk = |id: &str| {
        let ready = harness.home.build("slow", "ready", id).join("out.log");
        std::fs::read(ready).unwrap()
    };
    within("the end", async {
        while harness.describe(&id).await["State"] != "ready" {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert!(seen.ends_with(b"first\n1%\r\n\xff\0no end"));
    assert_eq!(seen, on_disk(&id));
    // For a finished build it is the file itself, read-only.
    let log = manager.open_log(&id).await.unwrap();
    let log = std::fs::File::from(std::os::fd::OwnedFd::from(log));
    assert!(std::io::Write::write(&mut &log, b"x").is_err());
    let mut whole = Vec::new();
    (&log).read_to_end(&mut whole).unwrap();
    assert_eq!(whole, on_disk(&id));
}

/// The handed-out directory leads to the build's artifacts and to nothing else; all that
/// holds for such a directory is in `handed_out.rs`.
#[tokio::test]
async fn a_handle_to_artifacts_leads_nowhere_else() {
    let harness = Harness::new().await;
    harness.home.script(
        "leaver",
        "echo hello > $DATA/artifacts/file; ln -s ../../build_info.json $DATA/artifacts/link",
    );
    let (id, outcome) = harness.build("leaver", &[]).await;
    assert_eq!(outcome, "succeeded");
    let manager = manager(&harness.here).await;
    let directory = manager.open_artifacts(&id).await.unwrap();
    let directory = std::os::fd::OwnedFd::from(directory);
    let at = format!("/proc/self/fd/{}", directory.as_raw_fd());
    let file = std::fs::read_to_string(format!("{at}/file")).unwrap();
    assert_eq!(file, "hello\n");
    let up = std::fs::metadata(format!("{at}/..")).unwrap();
    let here = std::fs::metadata(format!("{at}/.")).unwrap();
    assert_eq!((up.dev(), up.ino()), (here.dev(), here.ino()));
    let link = std::fs::read(format!("{at}/link")).unwrap_err();
    assert_eq!(
        link.raw_os_error(),
        Some(rustix::io::Errno::LOOP.raw_os_error())
    );
    assert!(std::fs::write(format!("{at}/new"), "x").is_err());
    // An unfinished build has no artifacts yet.
    harness.home.engine.hold("wait");
    let (pending, ..) = harness.submit("succeed", &[]).await;
    let answer = manager.open_artifacts(&pending).await;
    assert_eq!(name_of(answer), "org.mistry.Mistry1.Error.NoArtifacts");
    harness.home.engine.release("wait");
}

#[tokio::test]
async fn the_bus_may_go_and_come_back_and_http_is_served_meanwhile() {
    let mut harness = Harness::new().await;
    harness.home.engine.hold("wait");
    let (id, path, _) = harness.submit("succeed", &[]).await;
    harness.bus.kill();
    harness
        .daemon
        .at
        .ask(Ask::get("/healthz"))
        .await
        .expect(200);
    harness.bus.start_again();
    harness.here = harness.bus.connect().await;
    harness.bus.named(&harness.here).await;
    // The job is an object again, and its end is signalled.
    let manager = manager(&harness.here).await;
    let mut ends = manager.receive_job_removed().await.unwrap();
    assert_eq!(manager.get_job(&id).await.unwrap().as_str(), path);
    harness.home.engine.release("wait");
    let end = within("the end", ends.next()).await.unwrap();
    assert_eq!(end.args().unwrap().outcome, "succeeded");
    assert!(harness.daemon.log().contains("not on the bus"));
}

#[tokio::test]
async fn a_reload_returns_when_it_is_applied_or_with_the_error() {
    let harness = Harness::with(&json!({"job_concurrency": 1})).await;
    let manager = manager(&harness.here).await;
    assert_eq!(manager.job_concurrency().await.unwrap(), 1);
    let mut changes = manager.receive_job_concurrency_changed().await;
    harness.home.configure(&json!({"job_concurrency": 3}));
    manager.reload().await.unwrap();
    within("the change", async {
        while changes.next().await.unwrap().get().await.unwrap() != 3 {}
    })
    .await;
    harness.home.configure(&json!({"job_concurency": 3}));
    let wrong = manager.reload().await;
    let error = wrong.as_ref().unwrap_err().to_string();
    assert!(error.contains("job_concurency"), "{error}");
    assert_eq!(name_of(wrong), "org.mistry.Mistry1.Error.BadConfiguration");
}
