//! One build path, one daemon: a second one names the first and changes nothing.

use rustix::process::Signal;
use serde_json::json;

use crate::support::{
    daemon::{Home, job, names},
    http::Ask,
    process::run,
};

#[tokio::test]
async fn a_second_daemon_names_the_holder_of_the_build_path_and_changes_nothing() {
    let home = Home::new().await;
    home.fixture("succeed");
    home.configure(&json!({}));
    let first = home.spawn().await;
    home.engine.hold("start");
    let at = first.at.clone();
    let building = tokio::spawn(async move { at.ask(Ask::post("/jobs", &job("succeed"))).await });
    home.engine.wait_for("start", 1).await;
    let tree = || {
        let lock = std::fs::read(home.builds().join(".mistry/lock")).unwrap();
        let ids = home.ids("succeed", "pending");
        (
            lock,
            ids,
            names(&home.builds()),
            home.engine.containers().len(),
        )
    };
    let before = tree();
    let mut second = home.mistryd();
    second.args(["--addr", "127.0.0.1:0"]);
    let ended = run(second).await;
    assert!(ended.status > 0, "{ended:?}");
    let said = &ended.stderr;
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(said.contains(&format!("process {}", first.pid())), "{said}");
    assert!(
        said.contains(&format!("127.0.0.1:{}", first.port())),
        "{said}"
    );
    assert!(!said.contains("token"), "{said}");
    assert_eq!(tree(), before);
    home.engine.release("start");
    assert_eq!(building.await.unwrap().expect(201).json()["ExitCode"], 0);
    // When the first has ended, in any way, the path is free.
    first.end(Signal::KILL).await;
    let second = home.spawn().await;
    assert_eq!(second.end(Signal::TERM).await, 0);
}

#[tokio::test]
async fn the_lock_is_for_its_owner_alone() {
    use std::os::unix::fs::PermissionsExt;
    let home = Home::new().await;
    home.configure(&json!({}));
    let _daemon = home.spawn().await;
    let lock = home.builds().join(".mistry/lock");
    // It holds a token with every right.
    let mode = std::fs::metadata(lock).unwrap().permissions().mode();
    assert_eq!(mode & 0o077, 0, "{mode:o}");
}

#[tokio::test]
async fn an_address_in_use_is_reported_and_nothing_is_lost() {
    let home = Home::new().await;
    let other = Home::new().await;
    home.configure(&json!({}));
    other.configure(&json!({}));
    let first = home.spawn().await;
    let address = format!("127.0.0.1:{}", first.port());
    let mut second = other.mistryd();
    second.args(["--addr", &address]);
    let ended = run(second).await;
    let sentence = format!("could not listen on '{address}' (--addr takes another address): ");
    assert!(
        ended.status == 1 && ended.stderr.contains(&sentence),
        "{ended:?}"
    );
    first.at.ask(Ask::get("/healthz")).await.expect(200);
}
