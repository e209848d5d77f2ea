//! Integration with systemd: its sockets, its notifications, its signals.

use std::{fs, os::fd::OwnedFd, process::Stdio};

use rustix::process::Signal;
use serde_json::json;

use crate::support::{
    daemon::{Home, TestDaemon},
    http::{Ask, within},
    manager::{Manager, Service},
};

/// All clients at once, each with a connection of its own.
const CLIENTS: usize = 200;

async fn home() -> (Home, Manager) {
    let home = Home::new().await;
    home.configure(&json!({}));
    home.fixture("succeed");
    let manager = Manager::new(&home);
    (home, manager)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_connects_before_the_daemon_runs_is_answered_over_tcp_and_unix_socket() {
    let (home, manager) = home().await;
    let (tcp, unix) = (manager.over_tcp(), manager.over_unix());
    let mut asked = tokio::task::JoinSet::new();
    for n in 0..CLIENTS {
        let at = if n % 2 == 0 {
            tcp.clone()
        } else {
            unix.clone()
        };
        asked.spawn(async move { at.ask(Ask::get("/healthz")).await.status });
    }
    let service = manager.start(&home);
    while let Some(status) = within("an answer", asked.join_next()).await {
        assert_eq!(status.unwrap(), 200);
    }
    service.signal(Signal::TERM);
    assert_eq!(service.ended().await, 0);
}

#[tokio::test]
async fn it_is_ready_before_the_engine_answers_and_announces_its_end() {
    let (home, manager) = home().await;
    home.engine.hold("version");
    let service = manager.start(&home);
    manager.notified("READY=1").await;
    let answer = manager.over_unix().ask(Ask::get("/index/")).await;
    assert_eq!(answer.status, 200);
    service.signal(Signal::TERM);
    manager.notified("STOPPING=1").await;
    assert_eq!(service.ended().await, 0);
    home.engine.release("version");
}

/// Also over connections without a request at the moment of SIGTERM.
#[tokio::test]
async fn a_connection_accepted_before_the_end_is_answered() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let (home, manager) = home().await;
    let service = manager.start(&home);
    manager.notified("READY=1").await;
    let mut connections = Vec::new();
    for _ in 0..20 {
        let address = manager.tcp.local_addr().unwrap();
        connections.push(tokio::net::TcpStream::connect(address).await.unwrap());
    }
    // Starts after all clients have connected.
    manager
        .over_tcp()
        .ask(Ask::get("/healthz"))
        .await
        .expect(200);
    service.signal(Signal::TERM);
    manager.notified("STOPPING=1").await;
    for connection in &mut connections {
        let request = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        connection.write_all(request).await.unwrap();
        let mut answer = String::new();
        let answered = connection.read_to_string(&mut answer);
        within("an answer", answered).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "'{answer}'");
    }
    assert_eq!(service.ended().await, 0);
}

#[tokio::test]
async fn the_status_changes_with_what_happens() {
    let (home, manager) = home().await;
    home.engine.hold("wait");
    let service = manager.start(&home);
    manager.notified("STATUS=idle").await;
    let at = manager.over_unix();
    let job = Ask::post("/jobs?async", &json!({"project": "succeed"}));
    let id = at.ask(job).await.expect(201).json()["ID"].clone();
    manager.notified("STATUS=1 building").await;
    home.engine.release("wait");
    let wanted = format!(
        "STATUS=idle; last: succeed {} succeeded in ",
        &id.as_str().unwrap()[..7]
    );
    let status = manager.notified(&wanted).await;
    assert!(status.ends_with(" s"), "{status}");
    home.engine.stop().await;
    let job = Ask::post(
        "/jobs",
        &json!({"project": "succeed", "params": {"a": "b"}}),
    );
    at.ask(job).await.expect(503);
    let status = manager.notified("STATUS=idle; last:").await;
    assert!(
        status.contains("Docker Engine cannot be reached"),
        "{status}"
    );
    drop(service);
}

#[tokio::test]
async fn the_watchdog_is_notified() {
    let (home, manager) = home().await;
    let mut command = manager.command(&home);
    command.env("WATCHDOG_USEC", "100000");
    let service = Service(command.spawn().unwrap());
    for _ in 0..3 {
        manager.notified("WATCHDOG=1").await;
    }
    drop(service);
}

/// Fault points are there in debug builds, which this one is.
#[tokio::test]
async fn a_daemon_that_hangs_sends_no_watchdog_notifications() {
    for fault in ["accept=wedge", "scheduler=wedge"] {
        let (home, manager) = home().await;
        let mut command = manager.command(&home);
        command
            .env("WATCHDOG_USEC", "100000")
            .env("MISTRY_FAULTS", fault);
        let service = Service(command.spawn().unwrap());
        manager.notified("WATCHDOG=1").await;
        let at = manager.over_tcp();
        let job = Ask::post("/jobs?async", &json!({"project": "succeed"}));
        let asking = tokio::spawn(async move { at.ask(job).await.status });
        // It hangs: no notification comes for ten times the interval.
        let silence = std::time::Duration::from_secs(1);
        within("silence", async {
            while tokio::time::timeout(silence, manager.message())
                .await
                .is_ok()
            {}
        })
        .await;
        asking.abort();
        drop(service);
    }
}

#[tokio::test]
async fn a_reload_applies_a_valid_file_and_keeps_the_old_one_when_it_is_broken() {
    let (home, manager) = home().await;
    let service = manager.start(&home);
    manager.notified("READY=1").await;
    let at = manager.over_tcp();
    let slots = async || {
        let status = at.ask(Ask::get("/status")).await.expect(200).json();
        status["Slots"].clone()
    };
    assert_eq!(slots().await, 2);
    home.configure(&json!({"job_concurrency": 5}));
    service.signal(Signal::HUP);
    manager.notified("RELOADING=1").await;
    manager.notified("READY=1").await;
    assert_eq!(slots().await, 5);

    for (wrong, said) in [
        (json!({"job_concurrency": 7, "colour": 1}), "colour"),
        (
            json!({"job_concurrency": 7, "build_path": home.path("projects/succeed")}),
            "restart mistryd",
        ),
    ] {
        home.configure(&wrong);
        manager.notifications();
        service.signal(Signal::HUP);
        let status = manager
            .notified("STATUS=idle; configuration not reloaded: ")
            .await;
        assert!(status.contains(said), "{status}");
        assert_eq!(slots().await, 5);
    }
    home.configure(&json!({}));
    service.signal(Signal::HUP);
    while manager.notified("STATUS=").await != "STATUS=idle" {}
    assert_eq!(slots().await, 2);
}

/// Waiting jobs take additional slots at once.
#[tokio::test]
async fn a_reload_with_more_slots_begins_what_waits() {
    let (home, manager) = home().await;
    home.configure(&json!({"job_concurrency": 1}));
    home.engine.hold("wait");
    let service = manager.start(&home);
    manager.notified("READY=1").await;
    for n in ["1", "2"] {
        let job = json!({"project": "succeed", "params": {"n": n}});
        let asked = manager.over_tcp().ask(Ask::post("/jobs?async", &job)).await;
        asked.expect(201);
    }
    manager.notified("STATUS=1 building, 1 queued").await;
    home.configure(&json!({"job_concurrency": 2}));
    service.signal(Signal::HUP);
    manager.notified("STATUS=2 building").await;
    home.engine.release("wait");
    manager.notified("STATUS=idle; last: succeed").await;
}

#[tokio::test]
async fn with_a_wrong_configuration_waiting_clients_get_an_error_and_the_next_process_serves() {
    let (home, manager) = home().await;
    home.configure(&json!({"colour": 1}));
    let at = manager.over_tcp();
    let waiting = tokio::spawn(async move { at.ask(Ask::get("/index/")).await });
    // Before a connection waits to be accepted, no client could get an error.
    manager.wait_for_client().await;
    let service = manager.start(&home);
    let answer = within("the answer", waiting).await.unwrap();
    assert_eq!(answer.status, 503);
    assert!(answer.text().contains("journalctl -u mistryd"));
    assert!(!answer.text().contains("colour"));
    assert_eq!(answer.header("retry-after"), "5");
    // The same process also answers clients that connect meanwhile.
    let other = manager.over_unix().ask(Ask::get("/index/")).await;
    assert_eq!(other.status, 503);
    assert_eq!(service.ended().await, 78);
    let messages = manager.notifications();
    assert!(messages.contains("STATUS=the configuration"), "{messages}");
    assert!(messages.contains("colour"), "{messages}");
    assert!(!messages.contains("READY=1"), "{messages}");

    home.configure(&json!({}));
    let service = manager.start(&home);
    let answer = manager.over_tcp().ask(Ask::get("/index/")).await;
    assert_eq!(answer.status, 200);
    drop(service);
}

#[tokio::test]
async fn with_a_wrong_configuration_and_no_client_it_ends_at_once() {
    let (home, manager) = home().await;
    for (write, said) in [
        (Some("{"), "is wrong"),
        (Some("{\"projects_path\": \"x\"}"), "build_path"),
        (None, "could not read the configuration"),
    ] {
        let path = home.path("config.json");
        match write {
            Some(text) => fs::write(path, text).unwrap(),
            None => fs::remove_file(path).unwrap(),
        }
        let (status, _) = manager.run(manager.command(&home)).await;
        assert_eq!(status, 78);
        let messages = manager.notifications();
        assert!(
            messages.contains(said) && !messages.contains("READY"),
            "{messages}"
        );
    }
}

#[tokio::test]
async fn what_was_inherited_must_be_sockets_that_listen() {
    let (home, manager) = home().await;
    let file = || OwnedFd::from(fs::File::open(home.path("config.json")).unwrap());
    let tcp = || OwnedFd::from(manager.tcp.try_clone().unwrap());
    let datagrams = || OwnedFd::from(std::net::UdpSocket::bind("127.0.0.1:0").unwrap());
    let deaf = || {
        let connected = std::os::unix::net::UnixStream::pair().unwrap();
        OwnedFd::from(connected.0)
    };
    let mut commands = Vec::new();
    for (third, fourth) in [
        (file(), tcp()),
        (tcp(), file()),
        (tcp(), datagrams()),
        (deaf(), tcp()),
    ] {
        commands.push(manager.command_with(&home, third, fourth));
    }
    for lie in ["two", "-1", "65", "99999999999999999999", "3"] {
        let mut command = manager.command(&home);
        command.env("LISTEN_FDS", lie);
        commands.push(command);
    }
    // In parallel: each delays its exit, so that waiting clients do not restart it in a loop.
    let ended = futures_util::future::join_all(commands.into_iter().map(|c| manager.run(c)));
    for (status, said) in ended.await {
        assert_eq!(status, 78, "{said}");
    }
    let messages = manager.notifications();
    assert!(!messages.contains("READY"), "{messages}");
    for wanted in [
        "inherited descriptor 3: expected a TCP or unix stream socket",
        "inherited descriptor 4: expected a TCP or unix stream socket",
        "inherited descriptor 5: expected a TCP or unix stream socket",
        "LISTEN_FDS: expected the number of inherited sockets, 64 at most, found 'two'",
    ] {
        assert!(messages.contains(wanted), "{wanted}: {messages}");
    }
}

/// Clients that wait at the valid sockets get an error, so there is no restart storm.
#[tokio::test]
async fn clients_that_wait_beside_a_wrong_socket_or_engine_get_an_error() {
    for wrong in ["socket", "engine"] {
        let (home, manager) = home().await;
        let mut command = match wrong {
            "socket" => {
                let file = OwnedFd::from(fs::File::open(home.path("config.json")).unwrap());
                let tcp = OwnedFd::from(manager.tcp.try_clone().unwrap());
                manager.command_with(&home, file, tcp)
            }
            _ => manager.command(&home),
        };
        if wrong == "engine" {
            command.env("DOCKER_HOST", "tcp://elsewhere");
        }
        let at = manager.over_tcp();
        let waiting = tokio::spawn(async move { at.ask(Ask::get("/index/")).await });
        manager.wait_for_client().await;
        let service = Service(command.spawn().unwrap());
        let answer = within("the answer", waiting).await.unwrap();
        assert_eq!(answer.status, 503, "{wrong}");
        assert_eq!(service.ended().await, 78, "{wrong}");
    }
}

#[tokio::test]
async fn sockets_that_were_meant_for_another_process_are_left_alone() {
    let (home, _) = home().await;
    let mut command = home.mistryd();
    command
        .env("LISTEN_FDS", "1")
        .env("LISTEN_PID", "1")
        .args(["--addr", "127.0.0.1:0"])
        .stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let stderr = std::io::BufReader::new(child.stderr.take().unwrap());
    // Warnings about the configuration may come before the address.
    let mut lines = std::io::BufRead::lines(stderr).map(Result::unwrap);
    let line = lines
        .find(|line| !line.contains(" WARN "))
        .unwrap_or_default();
    assert!(line.contains("serving on http://127.0.0.1:"), "{line}");
    child.kill().unwrap();
    child.wait().unwrap();
}

/// Nothing depends on whether the notifications are read.
#[tokio::test]
async fn a_systemd_that_does_not_read_notifications_blocks_nothing() {
    let (home, manager) = home().await;
    let mut command = manager.command(&home);
    command.env("NOTIFY_SOCKET", home.path("no-socket"));
    let service = Service(command.spawn().unwrap());
    let job = Ask::post("/jobs", &json!({"project": "succeed"}));
    manager.over_unix().ask(job).await.expect(201);
    service.signal(Signal::TERM);
    assert_eq!(service.ended().await, 0);
}

/// Other cgroup drivers know no slices and would refuse one.
#[tokio::test]
async fn builds_run_in_a_slice_of_their_own_where_systemd_makes_the_cgroups() {
    for (driver, parent) in [
        ("systemd", json!("mistry-builds.slice")),
        ("cgroupfs", json!(null)),
    ] {
        let daemon = TestDaemon::with(&["succeed"]).await;
        daemon.home.engine.cgroup_driver(driver);
        let job = json!({"project": "succeed"});
        daemon.post("/jobs", &job).await.expect(201);
        let container = &daemon.home.engine.containers()[0];
        let found = &container.spec["HostConfig"]["CgroupParent"];
        assert_eq!(*found, parent, "{driver}");
    }
}
