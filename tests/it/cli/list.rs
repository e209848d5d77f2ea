//! Builds listed, shown, and named by the first digits of their id.

use serde_json::{Value, json};

use super::Bench;
use crate::support::{
    daemon::{TestDaemon, job, names, text},
    process::Ended,
};

#[tokio::test]
async fn builds_are_found_shown_and_fetched_by_the_first_digits_of_their_id() {
    let bench = Bench::new(&["succeed", "exit-code", "output"]).await;
    let good = bench
        .daemon
        .build(json!({ "project": "succeed", "group": "g", "params": { "a": "b" } }))
        .await;
    let bad = bench.daemon.build(job("exit-code")).await;
    let output = bench.daemon.build(job("output")).await;
    let short = |info: &Value| text(info, "ID")[..12].to_owned();
    let list = bench.mistry("list", &[]).await;
    assert_eq!(
        (list.status, list.stdout.lines().count()),
        (0, 4),
        "{list:?}"
    );
    for words in [
        "succeed",
        "exit-code",
        "failed",
        "PARAMS",
        "a=b",
        &short(&good),
        &short(&bad),
    ] {
        assert!(list.stdout.contains(words), "{words}: {list:?}");
    }
    assert_eq!(
        bench
            .mistry("list", &["--limit", "1"])
            .await
            .stdout
            .lines()
            .count(),
        2
    );
    let one = bench
        .mistry("list", &["--project", "exit-code", "--state", "ready"])
        .await;
    assert!(
        one.stdout.contains("exit-code") && !one.stdout.contains("succeeded"),
        "{one:?}"
    );
    let status = bench.mistry("status", &[]).await;
    assert!(
        status.status == 0 && status.stdout.contains("0 of 4 running, 0 of 8 waiting"),
        "{status:?}"
    );
    let address = format!("http://127.0.0.1:{}, mistryd ", bench.daemon.port());
    assert!(status.stdout.contains(&address), "{status:?}");
    let disk = status.stdout.lines().find(|line| line.starts_with("disk "));
    assert!(disk.unwrap().contains("iB free"), "{status:?}");
    let status = bench.mistry("status", &[&short(&good)]).await;
    assert!(
        status.stdout.contains("succeeded") && status.stdout.contains("param a"),
        "{status:?}"
    );
    let with_project = format!("exit-code/{}", short(&bad));
    let status = bench.mistry("status", &[&with_project]).await;
    assert!(status.stdout.contains("failed"), "{status:?}");
    let logs = bench.mistry("logs", &[&short(&output)]).await;
    assert!(
        logs.status == 0 && logs.stdout.contains("to standard error"),
        "{logs:?}"
    );
    let follow = bench.mistry("logs", &["-f", &short(&good)]).await;
    assert!(
        follow.status == 0 && follow.stdout.ends_with("run 1\n"),
        "{follow:?}"
    );
    let to = bench.target();
    let to = to.to_str().unwrap();
    let fetched = bench
        .mistry("fetch", &[&short(&good), "--target", to])
        .await;
    assert_eq!(fetched.status, 0, "{fetched:?}");
    assert_eq!(names(&bench.target()), [".count", "a"]);
    let projects = bench.mistry("projects", &[]).await;
    assert_eq!(projects.stdout.lines().count(), 4, "{projects:?}");
    let rebuilt = bench.mistry("rebuild", &["succeed"]).await;
    assert!(
        rebuilt.status == 0 && rebuilt.stdout.contains("Rebuilt succeed"),
        "{rebuilt:?}"
    );
    for (verb, arguments, status) in [
        ("status", &["0000000000"][..], 3),
        ("logs", &["0000000000"], 3),
        ("fetch", &["0000000000"], 3),
        ("status", &["xyz"], 2),
        ("rebuild", &["none-such"], 3),
        ("dance", &[], 2),
    ] {
        let ended = bench.mistry(verb, arguments).await;
        assert_eq!(ended.status, status, "{verb} {arguments:?}: {ended:?}");
        assert!(!ended.stderr.is_empty());
    }
}

#[tokio::test]
async fn a_list_shows_which_attempt_a_build_is_and_marks_flaky_jobs() {
    let builder = TestDaemon::builder().await;
    let flag = builder.home.path("fail");
    let lines = format!(
        "[ ! -e '{}' ] || exit 9\necho x > $D/artifacts/a",
        flag.display()
    );
    let daemon = builder.script("p", &lines).script("once", "").start().await;
    let bench = Bench { daemon };
    std::fs::write(&flag, "").unwrap();
    assert_eq!(bench.build("p", &[]).await.status, 1);
    assert_eq!(bench.build("once", &[]).await.status, 0);
    let first = bench.mistry("list", &[]).await.stdout;
    assert!(
        !first.contains(" of ") && !first.contains("flaky"),
        "{first}"
    );
    std::fs::remove_file(&flag).unwrap();
    assert_eq!(bench.build("p", &[]).await.status, 0);
    let list = bench.mistry("list", &[]).await.stdout;
    let lines: Vec<&str> = list.lines().collect();
    let column = lines[0].find("ATTEMPT").unwrap();
    let cell = |line: &str| line[column..].split("  ").next().unwrap().to_owned();
    assert_eq!(cell(lines[1]), "2 of 2, flaky", "{list}");
    assert_eq!(cell(lines[2]), "", "{list}");
}

/// The first column of a list, without its header.
fn ids(list: &Ended) -> Vec<String> {
    assert_eq!(list.status, 0, "{list:?}");
    let rows = list.stdout.lines().skip(1);
    let ids = rows.map(|row| row.split_whitespace().next().unwrap().to_owned());
    ids.collect()
}

#[tokio::test]
async fn a_list_is_filtered_by_all_that_it_shows() {
    let bench = Bench::new(&["succeed", "exit-code"]).await;
    let mut built = Vec::new();
    for job in [
        json!({"project": "succeed", "group": "g", "params": {"n": "one"}}),
        json!({"project": "succeed", "group": "g", "params": {"n": "two"}}),
        json!({"project": "exit-code"}),
    ] {
        let info = bench.daemon.build(job).await;
        built.push(text(&info, "ID")[..12].to_owned());
    }
    let [cold, incremental, failed] = &built[..] else {
        panic!("{built:?}")
    };
    assert_eq!(bench.mistry("pin", &[cold]).await.status, 0);
    for (filter, expected) in [
        (&["--outcome", "failed"][..], vec![failed]),
        (&["--outcome", "succeeded"], vec![incremental, cold]),
        (&["--text", "two"], vec![incremental]),
        (&["--kind", "incremental"], vec![incremental]),
        (&["--kind", "cold"], vec![failed, cold]),
        (&["--pinned"], vec![cold]),
        (
            &["--asked-by", "127.0.0.1"],
            vec![failed, incremental, cold],
        ),
        (&["--asked-by", "uid 1"], vec![]),
        (&["--kind", "cold", "--project", "succeed"], vec![cold]),
        (&["--kind", "cold", "--limit", "1"], vec![failed]),
    ] {
        let list = bench.mistry("list", filter).await;
        let found = ids(&list);
        assert_eq!(found.iter().collect::<Vec<_>>(), expected, "{filter:?}");
        let mut words = filter.to_vec();
        words.push("--json");
        let json = bench.mistry("list", &words).await;
        let items: Value = serde_json::from_str(&json.stdout).unwrap();
        assert_eq!(
            items.as_array().unwrap().len(),
            expected.len(),
            "{filter:?}"
        );
    }
    let list = bench.mistry("list", &[]).await.stdout;
    let row = |id: &str| list.lines().find(|line| line.starts_with(id)).unwrap();
    assert!(
        row(cold).contains("  cold  ") && row(cold).contains("  pinned  "),
        "{list}"
    );
    assert!(row(incremental).contains("  incremental  "), "{list}");
    assert!(row(incremental).contains("  127.0.0.1  ") && !row(incremental).contains("pinned"));
    for (wrong, words) in [
        (["--state", "failed"], "use --outcome failed"),
        (["--state", "over"], "expected pending or ready"),
        (["--outcome", "red"], "succeeded, failed"),
    ] {
        let ended = bench.mistry("list", &wrong).await;
        assert_eq!(ended.status, 2, "{ended:?}");
        assert!(ended.stderr.contains(words), "{words}: {ended:?}");
    }
    let unknown = bench.mistry("list", &["--project", "nope"]).await;
    assert_eq!(
        (unknown.status, unknown.stdout.as_str()),
        (3, ""),
        "{unknown:?}"
    );
    let next = format!(
        "unknown project 'nope'\nSee the projects of this server: mistry projects --port {}\n",
        bench.daemon.port()
    );
    assert_eq!(unknown.stderr, next);
    // A page that is filtered continues where it ended, also for what only the index knows.
    let first = bench.daemon.get("/index/?kind=cold&limit=1").await;
    let link = first.header("link").to_owned();
    let next = link.split(['<', '>']).nth(1).unwrap();
    assert!(next.contains("kind=cold"), "{link}");
    let second = bench.daemon.get(next).await.json();
    assert!(
        text(&second[0], "id").starts_with(cold.as_str()),
        "{second}"
    );
    assert_eq!(bench.mistry("unpin", &[cold]).await.status, 0);
    assert!(ids(&bench.mistry("list", &["--pinned"]).await).is_empty());
    for wrong in [
        "/index/?kind=warm",
        "/index/?pinned=maybe",
        "/events?pinned",
    ] {
        assert_eq!(bench.daemon.get(wrong).await.status, 400, "{wrong}");
    }
}

#[tokio::test]
async fn a_build_that_is_being_stopped_is_shown_as_stopping() {
    let bench = Bench::new(&["slow"]).await;
    let engine = &bench.daemon.home.engine;
    let id = bench.daemon.submit(job("slow")).await;
    engine.wait_for("start", 1).await;
    let status = bench.mistry("status", &[&id]).await.stdout;
    for words in [
        "running: building",
        "asked by  127.0.0.1",
        "cold: it began empty",
    ] {
        assert!(status.contains(words), "{words}: {status}");
    }
    assert!(!status.contains("artifacts"), "{status}");
    engine.hold("kill");
    engine.hold("stop");
    let cancelled = bench.mistry("cancel", &[&id, "--reason", "no use"]).await;
    assert_eq!(cancelled.status, 0, "{cancelled:?}");
    assert!(cancelled.stderr.contains("It is stopping"), "{cancelled:?}");
    let list = bench.mistry("list", &[]).await.stdout;
    let status = bench.mistry("status", &[&id]).await.stdout;
    assert!(list.contains("  stopping  "), "{list}");
    assert!(status.contains("  stopping\n"), "{status}");
    engine.release("kill");
    engine.release("stop");
    bench.daemon.wait("slow", &id).await;
    let again = bench.mistry("cancel", &[&id]).await;
    assert_eq!(again.status, 3, "{again:?}");
    let over = format!("build slow/{} is over: it was cancelled\n", &id[..12]);
    assert_eq!(again.stderr, over);
}

#[tokio::test]
async fn the_status_of_a_server_begins_with_what_needs_attention() {
    let bench = Bench::new(&["succeed"]).await;
    bench.daemon.home.engine.stop().await;
    assert_eq!(bench.mistry("pause", &[]).await.status, 0);
    let status = bench.mistry("status", &[]).await.stdout;
    let lines: Vec<&str> = status.lines().collect();
    assert!(
        lines[0].starts_with("WARNING  Docker does not answer: "),
        "{status}"
    );
    assert!(
        lines[1].starts_with("WARNING  the queue is paused: "),
        "{status}"
    );
    assert!(status.contains("\ndocker   NOT REACHABLE\n"), "{status}");
}
