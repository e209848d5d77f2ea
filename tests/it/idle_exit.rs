//! The daemon exits when it is idle: never while it has work, and no client that connects is lost.

use std::{
    collections::HashMap,
    os::{fd::AsFd, unix::net::UnixStream},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::StreamExt;
use rustix::{
    event::{PollFd, PollFlags, poll},
    process::Signal,
};
use serde_json::json;

use crate::support::{
    bus::TestBus,
    daemon::Home,
    http::{Ask, within},
    manager::{Manager, Service},
};

async fn home(idle_exit: &str) -> (Home, Manager) {
    let home = Home::new().await;
    home.configure(&json!({"idle_exit": idle_exit}));
    home.fixture("succeed");
    let manager = Manager::new(&home);
    (home, manager)
}

#[tokio::test]
async fn without_work_it_ends_with_status_0_and_a_message() {
    let (home, manager) = home("50ms").await;
    let service = manager.start(&home);
    manager.notified("READY=1").await;
    manager.notified("STOPPING=1").await;
    assert_eq!(service.ended().await, 0);
}

/// A build whose client has gone, a waiting client, a stream, an incomplete request.
#[tokio::test]
async fn it_does_not_end_while_it_has_work() {
    let (home, manager) = home("30ms").await;
    home.engine.hold("wait");
    let service = manager.start(&home);
    let at = manager.over_unix();
    let job = Ask::post("/jobs?async", &json!({"project": "succeed"}));
    let asked = at.ask(job).await.expect(201).json();
    let url = asked["URL"].as_str().unwrap().to_owned();
    stays(&manager).await;
    let (waiting, who) = (Ask::get(format!("/{url}?wait")).json(), at.clone());
    let waiting = tokio::spawn(async move { who.ask(waiting).await });
    let log = format!("/{}", url.replacen("job", "log", 1));
    let stream = at.open(Ask::get(log)).await;
    stays(&manager).await;
    home.engine.release("wait");
    within("the end", waiting).await.unwrap().expect(200);
    drop(stream);

    let mut upload = UnixStream::connect(home.path("mistryd.sock")).unwrap();
    let head = "POST /jobs HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n";
    std::io::Write::write_all(&mut upload, head.as_bytes()).unwrap();
    stays(&manager).await;
    drop(upload);
    manager.notified("STOPPING=1").await;
    assert_eq!(service.ended().await, 0);
}

/// A job that was asked for over the bus, and a call that is not answered yet; then it leaves the bus,
/// and ends.
#[tokio::test]
async fn it_does_not_end_while_a_client_on_the_bus_waits() {
    let (home, manager) = home("30ms").await;
    let bus = TestBus::start();
    home.engine.hold("wait");
    let mut command = manager.command(&home);
    command
        .arg("--user-bus")
        .env("DBUS_SESSION_BUS_ADDRESS", bus.address());
    let service = Service(command.spawn().unwrap());
    // Until the job is there, a client is connected.
    let early = UnixStream::connect(home.path("mistryd.sock")).unwrap();
    let here = bus.connect().await;
    bus.owned(&here, true).await;
    let on_bus = crate::support::bus::manager(&here).await;
    let mut ends = on_bus.receive_job_removed().await.unwrap();
    let (none, options) = (HashMap::new(), HashMap::new());
    let (id, ..) = on_bus
        .submit_job("succeed", "", &none, &options)
        .await
        .unwrap();
    drop(early);
    stays(&manager).await;
    home.engine.release("wait");
    let end = within("the end", ends.next()).await.unwrap();
    assert_eq!(end.args().unwrap().id, id);
    bus.owned(&here, false).await;
    manager.notified("STOPPING=1").await;
    assert_eq!(service.ended().await, 0);
}

/// A host without a bus, one whose bus refuses us the name, one whose bus accepts connections and says
/// nothing, and one whose bus is killed: attempts to connect to it are no work.
#[tokio::test(flavor = "multi_thread")]
async fn it_ends_in_every_state_of_the_bus() {
    let (refusing, mut lost) = (TestBus::refusing(), TestBus::start());
    let silent = tempfile::tempdir().unwrap();
    let _silent = std::os::unix::net::UnixListener::bind(silent.path().join("bus")).unwrap();
    let at = |path: &std::path::Path| format!("unix:path={}", path.display());
    let begin = async |address: String| {
        // Longer than the time between two attempts to connect to the bus.
        let (home, manager) = home("1500ms").await;
        let mut command = manager.command(&home);
        command.env("DBUS_SYSTEM_BUS_ADDRESS", address);
        let service = Service(command.spawn().unwrap());
        manager.notified("READY=1").await;
        (home, manager, service)
    };
    let none = begin(at("/nonexistent/mistry-test-bus".as_ref())).await;
    let unanswered = begin(at(&silent.path().join("bus"))).await;
    let refused = begin(refusing.address()).await;
    let killed = begin(lost.address()).await;
    lost.owned(&lost.connect().await, true).await;
    lost.kill();
    for (_home, manager, service) in [none, refused, killed, unanswered] {
        manager.notified("STOPPING=1").await;
        assert_eq!(service.ended().await, 0);
    }
}

/// Ten times as long as it would take to end.
async fn stays(manager: &Manager) {
    let timeout = Duration::from_millis(300);
    let ending = tokio::time::timeout(timeout, manager.notified("STOPPING=1"));
    assert!(ending.await.is_err(), "it ended with work in hand");
}

#[tokio::test]
async fn without_sockets_of_systemd_it_stays_because_nothing_would_start_it() {
    let (home, _) = home("1ms").await;
    let process = home.spawn().await;
    assert!(
        process
            .log()
            .contains("'idle_exit' is set, but has no effect")
    );
    tokio::time::sleep(Duration::from_millis(100)).await;
    process.at.ask(Ask::get("/healthz")).await.expect(200);
    assert_eq!(process.end(Signal::TERM).await, 0);
}

/// Clients connect at every moment of the end, half of them as soon as it begins. Each is answered, by
/// this process or the next.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_connects_while_the_daemon_ends_is_answered() {
    let trials = match std::env::var_os("MISTRY_SOAK") {
        Some(_) => 1_000,
        None => 50,
    };
    let (home, manager) = home("5ms").await;
    let lives = Arc::new(AtomicUsize::new(0));
    let (end, ending) = UnixStream::pair().unwrap();
    let supervisor = {
        let sockets = (
            manager.tcp.try_clone().unwrap(),
            manager.unix.try_clone().unwrap(),
        );
        let commands: Vec<_> = (0..4 * trials).map(|_| manager.command(&home)).collect();
        let lives = lives.clone();
        std::thread::spawn(move || {
            for mut command in commands {
                let mut awaited = [
                    PollFd::new(&sockets.0, PollFlags::IN),
                    PollFd::new(&sockets.1, PollFlags::IN),
                    PollFd::from_borrowed_fd(ending.as_fd(), PollFlags::IN),
                ];
                poll(&mut awaited, None).unwrap();
                if !awaited[2].revents().is_empty() {
                    return;
                }
                assert!(command.status().unwrap().success());
                lives.fetch_add(1, Ordering::Relaxed);
            }
            panic!("it was started again and again");
        })
    };
    let mut answered = 0;
    for trial in 0..trials {
        if trial % 2 == 0 && trial > 0 {
            manager.notified("STOPPING=1").await;
        } else {
            // Around the end, a little later each time.
            tokio::time::sleep(Duration::from_micros(200 * (trial as u64 % 40))).await;
        }
        let at = match trial % 4 {
            0 | 1 => manager.over_tcp(),
            _ => manager.over_unix(),
        };
        manager.notifications();
        let answer = within(
            "an answer",
            at.ask(Ask::get("/healthz").with("connection", "close")),
        );
        answered += usize::from(answer.await.status == 200);
    }
    drop(end);
    supervisor.join().unwrap();
    assert_eq!(answered, trials);
    let lives = lives.load(Ordering::Relaxed);
    assert!(lives > trials / 3, "only {lives} ends in {trials} trials");
}
