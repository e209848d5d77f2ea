//! Access on the bus: all users may read, polkit decides about the rest, and without polkit only root
//! and group `mistry` may. The caller is a user who is not root, on a bus that counts as the host's.
//!
//! Real users and the real polkit are on the booted machine, `tests/machine/bus.rs`.

use std::collections::HashMap;
use std::process::Command;
use std::sync::{Arc, Mutex};

use futures_util::StreamExt;
use serde_json::{Value, json};
use zbus::{Connection, interface};
use zbus_polkit::policykit1::{AuthorizationResult, CheckAuthorizationFlags, Subject};

use crate::support::{
    bus::{TestBus, job_at, manager},
    daemon::Home,
    http::{Ask, within},
    process::{Ended, Process, run, served},
};

/// A user without rights, where the tests run as root.
const NOBODY: u32 = 65_534;
/// How busctl says AccessDenied.
const DENIED: &str = "Access denied";

/// A daemon that takes the bus for the host's.
async fn start_daemon() -> (TestBus, Home, Process) {
    start_daemon_with(&json!({})).await
}

/// The same with keys of the configuration.
async fn start_daemon_with(config: &Value) -> (TestBus, Home, Process) {
    let (bus, home) = (TestBus::start(), Home::new().await);
    home.configure(config);
    home.fixture("succeed");
    let mut command = home.mistryd();
    command
        .args(["--addr", "127.0.0.1:0"])
        .env("DBUS_SYSTEM_BUS_ADDRESS", bus.address());
    let daemon = served(command).await;
    bus.named(&bus.connect().await).await;
    (bus, home, daemon)
}

/// The user that [`call`] runs as.
fn unprivileged_user() -> u32 {
    match rustix::process::getuid() {
        root if root.is_root() => NOBODY,
        own => own.as_raw(),
    }
}

/// A program of a user who is not root.
fn as_unprivileged(program: &str) -> Command {
    match rustix::process::getuid().is_root() {
        true => {
            let mut command = Command::new("setpriv");
            command.args(["--reuid=65534", "--regid=65534", "--clear-groups", program]);
            command
        }
        false => Command::new(program),
    }
}

/// Calls a method as a user who is not root.
async fn call(bus: &TestBus, may_ask: bool, method: &str, arguments: &[&str]) -> Ended {
    let mut command = as_unprivileged("busctl");
    command
        .arg(format!("--address={}", bus.address()))
        .arg(format!("--allow-interactive-authorization={may_ask}"))
        .args(["call", "org.mistry.Mistry1", "/org/mistry/Mistry1"])
        .args(["org.mistry.Mistry1.Manager", method])
        .args(arguments);
    run(command).await
}

async fn submit(bus: &TestBus, may_ask: bool, value: &str) -> Ended {
    let arguments = ["ssa{ss}a{sv}", "succeed", "", "1", "n", value, "0"];
    call(bus, may_ask, "SubmitJob", &arguments).await
}

/// A fake polkit with set answers, which records the questions.
#[derive(Clone, Default)]
struct Polkit {
    /// Allowed actions; those in neither set are refused.
    yes: Arc<Mutex<Vec<&'static str>>>,
    /// Actions that are allowed after a password.
    after_asking: Arc<Mutex<Vec<&'static str>>>,
    asked: Arc<Mutex<Vec<(String, bool)>>>,
}

#[interface(name = "org.freedesktop.PolicyKit1.Authority")]
impl Polkit {
    fn check_authorization(
        &self,
        subject: Subject,
        action: &str,
        _details: HashMap<String, String>,
        flags: CheckAuthorizationFlags,
        _cancellation: &str,
    ) -> AuthorizationResult {
        // The caller is identified by its unique name on the bus.
        assert!(format!("{subject:?}").contains(":1."), "{subject:?}");
        let may_ask = flags.contains(CheckAuthorizationFlags::ALLOW_USER_INTERACTION);
        self.asked
            .lock()
            .unwrap()
            .push((action.to_owned(), may_ask));
        AuthorizationResult {
            is_authorized: self.yes.lock().unwrap().contains(&action),
            is_challenge: self.after_asking.lock().unwrap().contains(&action),
            details: HashMap::new(),
        }
    }
}

impl Polkit {
    async fn start(bus: &TestBus) -> (Polkit, Connection) {
        let polkit = Polkit::default();
        let connection = zbus::connection::Builder::address(bus.address().as_str())
            .serve_at("/org/freedesktop/PolicyKit1/Authority", polkit.clone())
            .name("org.freedesktop.PolicyKit1")
            .build()
            .await
            .unwrap();
        (polkit, connection)
    }

    fn asked(&self) -> Vec<(String, bool)> {
        std::mem::take(&mut self.asked.lock().unwrap())
    }
}

#[tokio::test]
async fn without_polkit_an_unprivileged_user_reads_and_changes_nothing() {
    let (bus, home, daemon) = start_daemon().await;
    let ran = call(&bus, true, "ListProjects", &[]).await;
    assert_eq!(
        (ran.status, ran.stdout.as_str()),
        (0, "as 1 \"succeed\"\n"),
        "{ran:?}"
    );
    let id = "0".repeat(64);
    let refused = [
        submit(&bus, true, "1").await,
        call(&bus, true, "PauseQueue", &[]).await,
        call(&bus, true, "ResumeQueue", &[]).await,
        call(
            &bus,
            true,
            "CollectGarbage",
            &["a{sv}", "1", "max_bytes", "t", "0"],
        )
        .await,
        call(&bus, true, "RebuildImage", &["s", "succeed"]).await,
        call(&bus, true, "Reload", &[]).await,
    ];
    for ran in refused {
        assert_ne!(ran.status, 0, "{ran:?}");
        assert!(ran.stderr.contains(DENIED), "{ran:?}");
    }
    let ran = call(&bus, true, "CancelJob", &["ss", &id, ""]).await;
    assert!(ran.stderr.contains("no build has the id"), "{ran:?}");
    assert!(home.ids("succeed", "pending").is_empty() && home.ids("succeed", "ready").is_empty());
    drop(daemon);
}

#[tokio::test]
async fn a_user_may_do_what_polkit_allows_and_each_action_is_asked_by_its_name() {
    let (bus, home, daemon) = start_daemon().await;
    let (polkit, _there) = Polkit::start(&bus).await;
    let every = [
        "org.mistry.mistry1.submit",
        "org.mistry.mistry1.pause",
        "org.mistry.mistry1.gc",
        "org.mistry.mistry1.reload",
        "org.mistry.mistry1.rebuild",
        "org.mistry.mistry1.read-output",
    ];
    polkit.yes.lock().unwrap().extend(every);
    let ran = submit(&bus, false, "1").await;
    assert_eq!(ran.status, 0, "{ran:?}");
    let id = ran.stdout.split('"').nth(1).unwrap().to_owned();
    let rest = [
        call(&bus, false, "PauseQueue", &[]).await,
        call(&bus, false, "ResumeQueue", &[]).await,
        call(
            &bus,
            false,
            "CollectGarbage",
            &["a{sv}", "1", "max_bytes", "t", "1000000000"],
        )
        .await,
        call(&bus, false, "Reload", &[]).await,
        call(&bus, false, "RebuildImage", &["s", "succeed"]).await,
        call(&bus, false, "OpenLog", &["s", &id]).await,
    ];
    for ran in rest {
        assert_eq!(ran.status, 0, "{ran:?}");
    }
    let asked: Vec<String> = polkit
        .asked()
        .into_iter()
        .map(|(action, _)| action)
        .collect();
    let expected = [
        every[0], every[1], every[1], every[2], every[3], every[4], every[5],
    ];
    assert_eq!(asked, expected);
    // The daemon knows the caller from the bus.
    let info = home.build("succeed", "ready", &id).join("build_info.json");
    let record = std::fs::read_to_string(info).unwrap();
    assert!(
        record.contains(&format!("\"AskedBy\": \"uid {}\"", unprivileged_user())),
        "{record}"
    );
    drop(daemon);
}

/// A user who is allowed without interaction may call as often at once as others, also where the calls would
/// allow one to be asked.
#[tokio::test]
async fn there_is_no_bound_on_questions_that_need_no_person() {
    let (bus, _home, daemon) = start_daemon().await;
    let (polkit, _there) = Polkit::start(&bus).await;
    polkit.yes.lock().unwrap().push("org.mistry.mistry1.submit");
    // As many as there are places in the queue.
    let values: Vec<String> = (0..6).map(|n| n.to_string()).collect();
    let asking = values.iter().map(|value| submit(&bus, true, value));
    for ran in futures_util::future::join_all(asking).await {
        assert_eq!(ran.status, 0, "{ran:?}");
    }
    drop(daemon);
}

#[tokio::test]
async fn a_password_is_asked_for_only_where_the_caller_allows_that() {
    let (bus, _home, daemon) = start_daemon().await;
    let (polkit, _there) = Polkit::start(&bus).await;
    polkit
        .after_asking
        .lock()
        .unwrap()
        .push("org.mistry.mistry1.submit");
    let ran = submit(&bus, false, "1").await;
    assert!(ran.stderr.contains("without a password"), "{ran:?}");
    assert_eq!(
        polkit.asked(),
        [("org.mistry.mistry1.submit".to_owned(), false)]
    );
    // The user was asked for a password, and gave none.
    let ran = submit(&bus, true, "1").await;
    assert!(ran.stderr.contains(DENIED), "{ran:?}");
    // A password is asked for only where the rules alone do not allow it.
    assert_eq!(
        polkit.asked(),
        [false, true].map(|may_ask| ("org.mistry.mistry1.submit".to_owned(), may_ask))
    );
    drop(daemon);
}

#[tokio::test]
async fn only_the_user_who_asked_for_a_job_may_cancel_it() {
    let (bus, home, daemon) = start_daemon().await;
    let (polkit, _there) = Polkit::start(&bus).await;
    polkit.yes.lock().unwrap().push("org.mistry.mistry1.submit");
    home.engine.hold("start");
    let ran = submit(&bus, false, "own").await;
    let own = ran.stdout.split('"').nth(1).unwrap().to_owned();
    // Where the tests are root, another user's is one of root's; else one over HTTP.
    let job = json!({"project": "succeed", "params": {"n": "other"}});
    let asking = Ask::post("/jobs?async", &job);
    let other = daemon.at.ask(asking).await.expect(201).json();
    let other = other["ID"].as_str().unwrap().to_owned();
    polkit.asked();
    let ran = call(&bus, false, "CancelJob", &["ss", &other, ""]).await;
    assert!(ran.stderr.contains(DENIED), "{ran:?}");
    assert_eq!(
        polkit.asked(),
        [("org.mistry.mistry1.cancel".to_owned(), false)]
    );
    // Joining it makes no user its starter.
    let ran = submit(&bus, false, "other").await;
    assert!(ran.stdout.contains("coalesced"), "{ran:?}");
    let ran = call(&bus, false, "CancelJob", &["ss", &other, ""]).await;
    assert!(ran.stderr.contains(DENIED), "{ran:?}");
    polkit.asked();
    let ran = call(&bus, false, "CancelJob", &["ss", &own, "mine"]).await;
    assert_eq!(ran.status, 0, "{ran:?}");
    home.engine.release("start");
    // That it is over is no secret, and no reason to ask for a password.
    let over = Ask::get(format!("/job/succeed/{own}?wait")).json();
    daemon.at.ask(over).await.expect(200);
    let ran = call(&bus, false, "CancelJob", &["ss", &own, "again"]).await;
    assert!(ran.stderr.contains("is over"), "{ran:?}");
    assert!(polkit.asked().is_empty());
    drop(daemon);
}

#[tokio::test]
async fn the_starter_of_a_job_is_named_by_the_bus_and_not_by_the_caller() {
    let (bus, home, daemon) = start_daemon().await;
    let (polkit, _there) = Polkit::start(&bus).await;
    polkit.yes.lock().unwrap().push("org.mistry.mistry1.submit");
    home.engine.hold("wait");
    // A caller cannot set it.
    let arguments = ["ssa{ss}a{sv}", "succeed", "", "0", "1", "uid", "u", "0"];
    let ran = call(&bus, false, "SubmitJob", &arguments).await;
    assert!(ran.stderr.contains("option 'uid' is not known"), "{ran:?}");
    let ran = submit(&bus, false, "1").await;
    let path = ran.stdout.split('"').nth(3).unwrap().to_owned();
    let here = bus.connect().await;
    let job = job_at(&here, &path).await;
    assert_eq!(job.started_by_uid().await.unwrap(), unprivileged_user());
    // Over TCP it is not known.
    let value = json!({"project": "succeed", "params": {"n": "tcp"}});
    let asking = Ask::post("/jobs?async", &value);
    let id = daemon.at.ask(asking).await.expect(201).json();
    let path = manager(&here)
        .await
        .get_job(id["ID"].as_str().unwrap())
        .await
        .unwrap();
    let job = job_at(&here, path.as_str()).await;
    assert_eq!(job.started_by_uid().await.unwrap(), u32::MAX);
    home.engine.release("wait");
    drop(daemon);
}

/// All signals of the daemon from now on, with what they hold.
async fn signals(here: &Connection) -> zbus::MessageStream {
    let rule = zbus::MatchRule::builder()
        .msg_type(zbus::message::Type::Signal)
        .path_namespace("/org/mistry/Mistry1")
        .build()
        .unwrap();
    let most = std::num::NonZeroUsize::new(1_000);
    zbus::MessageStream::for_match_rule(rule, here, most)
        .await
        .unwrap()
}

#[tokio::test]
async fn without_public_access_a_user_without_rights_sees_no_build_and_gets_no_name() {
    let (bus, home, daemon) = start_daemon_with(&json!({"public": "none"})).await;
    let (polkit, _there) = Polkit::start(&bus).await;
    let here = bus.connect().await;
    let mut heard = signals(&here).await;
    home.engine.hold("start");
    home.script("undisclosed", "true");
    let job = json!({"project": "undisclosed", "params": {"n": "confidential"}, "group": "covert"});
    let asking = Ask::post("/jobs?async", &job);
    let id = daemon.at.ask(asking).await.expect(201).json();
    let id = id["ID"].as_str().unwrap().to_owned();
    let names = ["undisclosed", "confidential", "covert"];
    let tells = |text: &str| names.iter().any(|name| text.contains(name));
    let none = "0".repeat(64);
    for (method, arguments) in [
        ("ListProjects", &[][..]),
        ("ListJobs", &[]),
        ("ListBuilds", &["a{sv}", "0"]),
        ("DescribeBuild", &["s", &id]),
        ("DescribeBuild", &["s", &none]),
        ("GetJob", &["s", &id]),
        ("CancelJob", &["ss", &id, ""]),
        ("CancelJob", &["ss", &none, ""]),
        ("OpenLog", &["s", &id]),
        ("OpenLog", &["s", &none]),
        ("OpenArtifacts", &["s", &none]),
    ] {
        let ran = call(&bus, false, method, arguments).await;
        assert!(ran.stderr.contains(DENIED), "{method}: {ran:?}");
        assert!(!tells(&ran.stderr), "{method}: {ran:?}");
    }
    // The user who asked for a job may see it, and no other.
    polkit.yes.lock().unwrap().push("org.mistry.mistry1.submit");
    let ran = submit(&bus, false, "own").await;
    let own = ran.stdout.split('"').nth(1).unwrap().to_owned();
    for method in ["GetJob", "DescribeBuild"] {
        let ran = call(&bus, false, method, &["s", &own]).await;
        assert_eq!(ran.status, 0, "{method}: {ran:?}");
        let ran = call(&bus, false, method, &["s", &id]).await;
        assert!(ran.stderr.contains(DENIED), "{method}: {ran:?}");
    }
    // What every user is sent or may read of an object.
    let objects = zbus::fdo::ObjectManagerProxy::builder(&here)
        .destination("org.mistry.Mistry1")
        .path("/org/mistry/Mistry1");
    let objects = objects.build().await.unwrap();
    let shown = objects.get_managed_objects().await.unwrap();
    let shown = format!("{shown:?}");
    assert!(shown.contains(&id) && shown.contains(&own), "{shown}");
    assert!(!tells(&shown), "{shown}");
    home.engine.release("start");
    let over = std::collections::BTreeSet::from([id.clone(), own]);
    let mut ended = std::collections::BTreeSet::new();
    while ended != over {
        let signal = within("the ends of both", heard.next()).await;
        let signal = signal.unwrap().unwrap();
        let body = signal.body();
        let text = String::from_utf8_lossy(body.data().bytes());
        assert!(!tells(&text), "{signal:?}: {text}");
        if signal
            .header()
            .member()
            .is_some_and(|name| name == "JobRemoved")
        {
            ended.extend(over.iter().filter(|id| text.contains(*id)).cloned());
        }
    }
    // A user whom polkit allows sees all, and where reading is public again every user does.
    polkit.yes.lock().unwrap().push("org.mistry.mistry1.read");
    let ran = call(&bus, false, "DescribeBuild", &["s", &id]).await;
    assert!(ran.stdout.contains("confidential"), "{ran:?}");
    let ran = call(&bus, false, "ListBuilds", &["a{sv}", "0"]).await;
    assert!(ran.stdout.contains("covert"), "{ran:?}");
    *polkit.yes.lock().unwrap() = vec!["org.mistry.mistry1.reload"];
    home.configure(&json!({}));
    let ran = call(&bus, false, "Reload", &[]).await;
    assert_eq!(ran.status, 0, "{ran:?}");
    let ran = call(&bus, false, "ListProjects", &[]).await;
    assert_eq!(ran.status, 0, "{ran:?}");
    drop(daemon);
}

/// The right to request builds does not include the right to read their logs and artifacts.
#[tokio::test]
async fn polkit_decides_who_opens_artifacts_and_the_kernel_who_reads_each_file() {
    let (bus, home, daemon) = start_daemon().await;
    let leave = "cd \"$DATA/artifacts\"; chmod 755 .; echo hush; echo for all > open; \
        chmod 644 open; echo secret > closed; chmod 0 closed; exit 3";
    home.script("fail", leave);
    let (polkit, _there) = Polkit::start(&bus).await;
    polkit.yes.lock().unwrap().push("org.mistry.mistry1.submit");
    let arguments = ["ssa{ss}a{sv}", "fail", "", "0", "0"];
    let ran = call(&bus, false, "SubmitJob", &arguments).await;
    let id = ran.stdout.split('"').nth(1).unwrap().to_owned();
    let over = Ask::get(format!("/job/fail/{id}?wait")).json();
    daemon.at.ask(over).await.expect(200);
    for method in ["OpenLog", "OpenArtifacts"] {
        let ran = call(&bus, false, method, &["s", &id]).await;
        assert!(ran.stderr.contains(DENIED), "{method}: {ran:?}");
    }
    let ran = call(&bus, false, "DescribeBuild", &["s", &id]).await;
    assert!(ran.stdout.contains("failed"), "{ran:?}");
    assert!(!ran.stdout.contains("hush"), "{ran:?}");
    let output = "org.mistry.mistry1.read-output";
    polkit.yes.lock().unwrap().push(output);
    for method in ["OpenLog", "OpenArtifacts"] {
        let ran = call(&bus, false, method, &["s", &id]).await;
        assert_eq!(ran.status, 0, "{method}: {ran:?}");
    }
    // A process that holds the directory reads in it with its own rights.
    let here = bus.connect().await;
    let handed = manager(&here).await.open_artifacts(&id).await.unwrap();
    let handed = std::os::fd::OwnedFd::from(handed);
    let read = async |name: &str| {
        let mut command = as_unprivileged("cat");
        command
            .arg(format!("/proc/self/fd/0/{name}"))
            .stdin(handed.try_clone().unwrap());
        let reading = tokio::task::spawn_blocking(move || command.output().unwrap());
        within("cat", reading).await.unwrap()
    };
    let open = read("open").await;
    assert_eq!(open.stdout, b"for all\n", "{open:?}");
    let closed = read("closed").await;
    let said = String::from_utf8_lossy(&closed.stderr);
    assert!(said.contains("Permission denied"), "{closed:?}");
}
