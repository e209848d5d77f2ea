//! A client on the bus that asks too much, too fast or for something impossible gets an error; other
//! clients notice nothing.

use std::collections::HashMap;
use std::num::NonZeroUsize;

use futures_util::StreamExt;
use serde_json::json;
use zbus::message::Type;
use zbus::{Connection, MatchRule, MessageStream, Variant};

use crate::support::{
    bus::{TestBus, manager, name_of},
    daemon::Home,
    http::within,
    process::Process,
};

/// Calls of one client that may be unanswered: docs/dbus-api.md.
const PER_CLIENT: usize = 64;

const LIMITS: &str = "org.freedesktop.DBus.Error.LimitsExceeded";
const INVALID: &str = "org.mistry.Mistry1.Error.InvalidName";
const ARGUMENTS: &str = "org.freedesktop.DBus.Error.InvalidArgs";

async fn start_daemon() -> (TestBus, Home, Process) {
    let (bus, home) = (TestBus::start(), Home::new().await);
    home.configure(&json!({"job_backlog": 500}));
    home.fixture("succeed");
    let daemon = bus.spawn(&home).await;
    (bus, home, daemon)
}

fn none<'a>() -> HashMap<&'a str, Variant<'a>> {
    HashMap::new()
}

#[tokio::test]
async fn names_and_options_that_cannot_be_are_named() {
    let (bus, home, _daemon) = start_daemon().await;
    let here = bus.connect().await;
    let manager = manager(&here).await;
    let plain = HashMap::new();
    let path = HashMap::from([("../../x", "y")]);
    let long = "g".repeat(201);
    let unknown = HashMap::from([("rebild", Variant::from(true))]);
    let wrong = HashMap::from([("rebuild", Variant::from("yes"))]);
    for (project, group, params, options, error) in [
        ("../succeed", "", &plain, none(), INVALID),
        ("", "", &plain, none(), INVALID),
        ("succeed", "a\nb", &plain, none(), INVALID),
        ("succeed", &long, &plain, none(), INVALID),
        ("succeed", "", &path, none(), INVALID),
        ("succeed", "", &plain, unknown, ARGUMENTS),
        ("succeed", "", &plain, wrong, ARGUMENTS),
        (
            "nothing",
            "",
            &plain,
            none(),
            "org.mistry.Mistry1.Error.NoSuchProject",
        ),
    ] {
        let answer = manager.submit_job(project, group, params, &options).await;
        assert_eq!(name_of(answer), error, "{project} {group:?} {params:?}");
    }
    for id in ["", "x", "../../etc", &"g".repeat(64)] {
        assert_eq!(name_of(manager.get_job(id).await), INVALID, "{id}");
        assert_eq!(name_of(manager.open_artifacts(id).await), INVALID, "{id}");
        assert_eq!(name_of(manager.open_log(id).await), INVALID, "{id}");
    }
    let absent = "0".repeat(64);
    for answer in [
        name_of(manager.describe_build(&absent).await),
        name_of(manager.cancel_job(&absent, "").await),
        name_of(manager.get_job(&absent).await),
    ] {
        assert_eq!(answer, "org.mistry.Mistry1.Error.NoSuchJob");
    }
    let reason = manager.cancel_job(&absent, "two\nlines").await;
    assert_eq!(name_of(reason), ARGUMENTS);
    assert!(home.ids("succeed", "ready").is_empty());
}

#[tokio::test]
async fn params_of_sixteen_mebibytes_and_thousands_of_them_are_too_much() {
    let (bus, home, daemon) = start_daemon().await;
    let here = bus.connect().await;
    let manager = manager(&here).await;
    let large = "x".repeat((16 << 20) + (64 << 10));
    let answer = manager
        .submit_job(
            "succeed",
            "",
            &HashMap::from([("a", large.as_str())]),
            &none(),
        )
        .await;
    assert_eq!(name_of(answer), LIMITS);
    let names: Vec<String> = (0..1_001).map(|n| format!("p{n}")).collect();
    let many: HashMap<&str, &str> = names.iter().map(|name| (name.as_str(), "")).collect();
    let answer = manager.submit_job("succeed", "", &many, &none()).await;
    assert_eq!(name_of(answer), LIMITS);
    // In JSON, which no client could be sent, it would be six times as large.
    let control = "\u{1}".repeat(3 << 20);
    let given = HashMap::from([("a", control.as_str())]);
    let refused = manager.submit_job("succeed", "", &given, &none()).await;
    let sentence = format!("{:?}", refused.as_ref().unwrap_err());
    assert!(sentence.contains("at most 16777216 bytes"), "{sentence}");
    assert_eq!(name_of(refused), LIMITS);
    assert!(home.ids("succeed", "pending").is_empty());
    // A lock file is small enough.
    let lock = "y".repeat(4 << 20);
    let mut ends = manager.receive_job_removed().await.unwrap();
    let given = HashMap::from([("a", lock.as_str())]);
    manager
        .submit_job("succeed", "", &given, &none())
        .await
        .unwrap();
    let end = within("the end", ends.next()).await.unwrap();
    let id = end.args().unwrap().id.clone();
    // And never comes back at its full length: large values are not sent over the bus.
    let description = manager.describe_build(&id).await.unwrap();
    assert!(description.len() < 64 << 10, "{} bytes", description.len());
    let (listed, _) = manager.list_builds(&none()).await.unwrap();
    assert!(listed[0].len() < 64 << 10);
    drop(daemon);
}

/// Answers of calls that were sent without waiting for them.
struct Flood {
    good: MessageStream,
    bad: MessageStream,
}

impl Flood {
    /// Sends so many calls; none of them is read yet.
    async fn begin(here: &Connection, calls: usize) -> Flood {
        let room = NonZeroUsize::new(2 * calls);
        let of = |kind| MatchRule::builder().msg_type(kind).build().unwrap();
        let (good, bad) = (of(Type::MethodReturn), of(Type::Error));
        let flood = Flood {
            good: MessageStream::for_match_rule(good, here, room)
                .await
                .unwrap(),
            bad: MessageStream::for_match_rule(bad, here, room)
                .await
                .unwrap(),
        };
        for _ in 0..calls {
            let call = zbus::Message::method_call("/org/mistry/Mistry1", "RebuildImage")
                .destination("org.mistry.Mistry1")
                .interface("org.mistry.Mistry1.Manager")
                .build(&"succeed")
                .unwrap();
            here.send(&call).await.unwrap();
        }
        flood
    }

    /// Waits for so many answers that say it was too much.
    async fn refused(&mut self, count: usize) {
        for _ in 0..count {
            let error = within("a refusal", self.bad.next()).await.unwrap().unwrap();
            let name = error.header().error_name().unwrap().to_string();
            assert_eq!(name, LIMITS);
        }
    }
}

/// Ten thousand calls at once, none of which can be answered soon: as many are let in as one client may
/// have, the others are answered with `LimitsExceeded`; another client is served meanwhile, and what was
/// let in is done.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_floods_the_bus_is_refused_and_others_notice_nothing() {
    const CALLS: usize = 10_000;
    let (bus, home, daemon) = start_daemon().await;
    // Images are built one after the other, and the first waits.
    home.engine.hold("build");
    let flooder = bus.connect().await;
    let here = bus.connect().await;
    let other = manager(&here).await;
    let mut flood = Flood::begin(&flooder, CALLS).await;
    let asking = async {
        loop {
            within("an answer to another client", other.list_projects())
                .await
                .unwrap();
        }
    };
    tokio::select! {
        () = flood.refused(CALLS - PER_CLIENT) => {}
        () = asking => {}
    }
    home.engine.release("build");
    for _ in 0..PER_CLIENT {
        within("what was let in", flood.good.next())
            .await
            .unwrap()
            .unwrap();
    }
    drop(daemon);
}

/// A client that has asked for every signal and reads none: the bus keeps them for it, or throws it
/// out; the daemon and the others go on.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_reads_no_signals_does_not_delay_others() {
    let (bus, _home, daemon) = start_daemon().await;
    // Its own queue is as small as can be, and nothing is taken from it: it reads its socket no more.
    let deaf = bus.connect().await;
    let rule = MatchRule::builder().msg_type(Type::Signal).build().unwrap();
    let unread = MessageStream::for_match_rule(rule, &deaf, NonZeroUsize::new(1))
        .await
        .unwrap();
    let here = bus.connect().await;
    let manager = manager(&here).await;
    let mut ends = manager.receive_job_removed().await.unwrap();
    for n in 0..60 {
        let value = format!("{n}");
        let given = HashMap::from([("n", value.as_str())]);
        let options = none();
        let asking = manager.submit_job("succeed", "", &given, &options);
        within("an answer", asking).await.unwrap();
        within("the end", ends.next()).await.unwrap();
    }
    drop((unread, daemon));
}

#[tokio::test]
async fn logs_that_are_not_read_are_bounded_for_each_client() {
    let (bus, home, _daemon) = start_daemon().await;
    home.engine.hold("wait");
    let here = bus.connect().await;
    let manager = manager(&here).await;
    let (id, ..) = manager
        .submit_job("succeed", "", &HashMap::new(), &none())
        .await
        .unwrap();
    let mut open = Vec::new();
    let refused = loop {
        match manager.open_log(&id).await {
            Ok(log) => open.push(log),
            error => break name_of(error),
        }
        assert!(open.len() < 100, "there is no bound");
    };
    assert_eq!(refused, LIMITS);
    // After closing one, a client may open another.
    open.clear();
    within("room", async {
        while manager.open_log(&id).await.is_err() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    home.engine.release("wait");
}
