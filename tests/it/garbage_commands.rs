//! Garbage collection by the commands `mistryd gc` and `mistry`: they do what the HTTP requests do.

use serde_json::{Value, json};

use crate::garbage::{age, build, settled};
use crate::support::{
    cli,
    daemon::{Home, TestDaemon, text},
    http::Ask,
    process::{Ended, run},
};

/// `mistryd gc …` to its end.
async fn mistryd(home: &Home, arguments: &[&str]) -> Ended {
    let mut command = home.mistryd();
    command.arg("gc").args(arguments);
    run(command).await
}

#[tokio::test]
async fn mistryd_gc_does_it_with_and_without_a_daemon() {
    let home = Home::new().await;
    home.fixture("succeed");
    home.configure(&json!({}));
    let ended = mistryd(&home, &[]).await;
    assert_eq!(ended.status, 0, "{ended:?}");
    assert!(ended.stdout.contains("no rule says"), "{ended:?}");
    // Who asks what would go is refused, as by `mistry gc`.
    let dry = mistryd(&home, &["--dry-run"]).await;
    assert_eq!((dry.status, &dry.stdout), (3, &ended.stdout), "{dry:?}");
    std::fs::write(home.path("tokens"), "").unwrap();
    let config = json!({"gc": {"max_age": "7d12h"}, "auth_tokens_file": "tokens"});
    home.configure(&config);
    let daemon = home.spawn().await;
    let mut ids = Vec::new();
    for n in 0..4 {
        let job = json!({"project": "succeed", "params": {"n": n.to_string()}});
        let ask = Ask::post("/jobs", &job);
        let token = std::fs::read_to_string(home.builds().join(".mistry/lock")).unwrap();
        let token: Value = serde_json::from_str(&token).unwrap();
        let ask = ask.with("authorization", format!("Bearer {}", text(&token, "token")));
        let info = daemon.at.ask(ask).await.expect(201).json();
        let id = text(&info, "ID").to_owned();
        settled(&home, "succeed", &id).await;
        age(&home.build("succeed", "ready", &id), 9 - n);
        ids.push(id);
    }
    // By the daemon, as the configuration says; then without it, as the command line says.
    let ended = mistryd(&home, &["--dry-run"]).await;
    assert_eq!(ended.status, 0, "{ended:?}");
    assert!(
        ended.stdout.contains("Finished. Would remove: 2"),
        "{ended:?}"
    );
    let ended = mistryd(&home, &[]).await;
    assert!(ended.stdout.contains("Finished. Removed: 2"), "{ended:?}");
    assert!(ended.stdout.contains(&ids[0]) && ended.stdout.contains(&ids[1]));
    assert_eq!(home.ids("succeed", "ready").len(), 2);
    let wrong = mistryd(&home, &["--older-than", "old"]).await;
    assert_eq!(wrong.status, 2, "{wrong:?}");
    assert_eq!(daemon.end(rustix::process::Signal::TERM).await, 0);
    let ended = mistryd(&home, &["--older-than", "1d", "--keep-last", "1"]).await;
    assert_eq!(ended.status, 0, "{ended:?}");
    assert!(ended.stdout.contains("Finished. Removed: 1"), "{ended:?}");
    assert_eq!(home.ids("succeed", "ready"), [ids[3].clone()]);
}

#[tokio::test]
async fn the_client_pins_and_collects() {
    let daemon = TestDaemon::with(&["succeed"]).await;
    let pinned = build(&daemon, 1, 9).await;
    let old = build(&daemon, 2, 8).await;
    build(&daemon, 3, 0).await;
    let port = daemon.port().to_string();
    let mistry = async |arguments: &[&str]| {
        let (verb, rest) = arguments.split_first().unwrap();
        run(cli::mistry(&[&[*verb, "--port", &port], rest].concat())).await
    };
    let ended = mistry(&["pin", &pinned[..12]]).await;
    assert_eq!(ended.status, 0, "{ended:?}");
    let status = mistry(&["status", &pinned]).await.stdout;
    assert!(
        status
            .lines()
            .any(|line| line.starts_with("pinned") && line.ends_with("yes")),
        "{status}"
    );
    let dry = mistry(&["gc", "--older-than", "7d", "--dry-run"]).await;
    assert!(dry.stdout.contains(&old[..12]), "{dry:?}");
    assert!(dry.stdout.contains("Would remove 1 builds"), "{dry:?}");
    let done = mistry(&["gc", "--older-than", "7d", "--keep-last", "1"]).await;
    assert_eq!(done.status, 0, "{done:?}");
    assert!(done.stdout.contains("Removed 1 builds"), "{done:?}");
    assert_eq!(mistry(&["unpin", &pinned]).await.status, 0);
    assert_eq!(mistry(&["unpin", &old]).await.status, 3);
    for wrong in [["--older-than", "0s"], ["--max-bytes", "much"]] {
        let ended = mistry(&["gc", wrong[0], wrong[1]]).await;
        assert_eq!(ended.status, 2, "{ended:?}");
    }
    let refused = mistry(&["gc"]).await;
    assert_eq!(refused.status, 3, "{refused:?}");
    assert!(
        refused.stderr.contains("max_age, max_bytes or min_free"),
        "{refused:?}"
    );
}
