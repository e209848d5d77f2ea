//! Builds and an Engine that behave badly: the daemon stays as small and as quick as it was.

use std::fs;
use std::os::unix::fs::symlink;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::daemon::Setup;
use crate::support::engine::{Engine, socket};
use crate::support::{Place, most_resident, names};

/// Memory that the daemon may have used at its worst, in kB: a hundred megabytes of log would show.
const MAX_RESIDENT: u64 = 200_000;
/// "Within seconds", when no Engine answers.
const SOON: Duration = Duration::from_secs(5);

#[test]
fn a_build_that_prints_without_end_is_stopped_and_its_last_line_says_so() {
    let setup = Setup::on(Place::Ext4).config(json!({"log_limit": "64K"}));
    let daemon = setup
        .script("endless", "while :; do echo more and more; done")
        .start();
    let answer = daemon.post("/jobs", &json!({"project": "endless"}));
    assert_eq!(answer.status, 500, "{}", answer.text());
    let body = answer.json();
    let sentence = "the build printed more than 65536 bytes (log_limit) and was stopped";
    assert_eq!(body["error"], sentence);
    let id = body["job"].as_str().unwrap();
    let info = daemon.wait("endless", id);
    assert_eq!(
        (&info["Outcome"], &info["Err"]),
        (&json!("errored"), &json!(sentence))
    );
    let log = fs::read_to_string(daemon.ready("endless", id).join("out.log")).unwrap();
    assert_eq!(
        log.lines().last(),
        Some(format!("mistry: {sentence}").as_str())
    );
    assert!(log.len() < 66_000, "{}", log.len());
    let mut daemon = daemon;
    daemon.end();
    assert!(Engine::new().containers(&daemon.label()).is_empty());
}

#[test]
fn a_hundred_megabytes_in_one_line_are_stored_in_bounded_memory() {
    const SIZE: u64 = 100_000_000;
    let daemon = Setup::on(Place::Ext4).fixture("big-line").start();
    let job = json!({"project": "big-line", "params": {"size": SIZE.to_string()}});
    let built = daemon.succeed(job);
    let id = built["ID"].as_str().unwrap();
    assert!(built["ContainerStdouterr"].as_str().unwrap().len() <= 64 << 10);
    let log = daemon.ready("big-line", id).join("out.log");
    let log = fs::read(&log).unwrap();
    // The image's log stands before it.
    let first = log
        .windows(100)
        .position(|window| window.iter().all(|&byte| byte == b'x'));
    let end = &log[first.unwrap() + SIZE as usize..];
    assert_eq!(log.len() - end.len() - first.unwrap(), SIZE as usize);
    assert!(
        log[first.unwrap()..][..SIZE as usize]
            .iter()
            .all(|&byte| byte == b'x')
    );
    // Engine 20.10 itself loses the end of a line that comes alone, after a line of more than 16 KiB.
    let end = String::from_utf8_lossy(end);
    assert!(["\nafter\n", "after\n"].contains(&&*end), "{end}");
    // Nor does it help to ask for it as events, a line each.
    let end = crate::support::http::follow(
        daemon.address(),
        &format!("/log/big-line/{id}"),
        "event: end",
    );
    assert!(end.contains("after"));
    let resident = most_resident(daemon.process());
    assert!(resident < MAX_RESIDENT, "{resident} kB");
}

#[test]
fn a_log_of_many_empty_lines_is_whole() {
    const LINES: usize = 300_000;
    let setup = Setup::on(Place::Tmpfs).config(json!({"log_limit": "512K"}));
    let script = format!("yes '' | head -n {LINES}\necho end");
    let daemon = setup.script("lines", &script).start();
    let built = daemon.succeed(json!({"project": "lines"}));
    let log = fs::read_to_string(
        daemon
            .ready("lines", built["ID"].as_str().unwrap())
            .join("out.log"),
    );
    let log = log.unwrap();
    let lines = log
        .lines()
        .rev()
        .skip(1)
        .take_while(|line| line.is_empty())
        .count();
    assert!((LINES..LINES + 3).contains(&lines), "{lines}");
    assert!(log.ends_with("\nend\n"));
}

#[test]
fn without_an_engine_nothing_is_accepted_and_with_one_it_goes_on_without_a_restart() {
    let setup = Setup::on(Place::Ext4).fixture("succeed");
    let path = setup.home().join("engine.sock");
    let daemon = setup
        .docker_host(format!("unix://{}", path.display()))
        .start();
    let asked = Instant::now();
    for job in [
        json!({"project": "succeed"}),
        json!({"project": "succeed", "rebuild": true}),
    ] {
        let answer = daemon.post("/jobs", &job);
        assert_eq!(answer.status, 503, "{}", answer.text());
        assert!(
            answer
                .header("retry-after")
                .unwrap()
                .parse::<u32>()
                .unwrap()
                > 0
        );
        let error = answer.json()["error"].as_str().unwrap().to_owned();
        assert!(
            error.contains("the Docker Engine cannot be reached"),
            "{error}"
        );
        assert!(!error.contains("engine.sock"), "{error}");
    }
    // Without the option it asks again, as it does when the server is busy.
    let client = daemon.mistry(&["build", "--project", "succeed", "--no-retry"]);
    assert_eq!(client.status.code(), Some(3), "{client:?}");
    assert!(asked.elapsed() < SOON, "{:?}", asked.elapsed());
    for state in ["pending", "ready"] {
        assert!(names(&daemon.builds().join("succeed").join(state)).is_empty());
    }
    assert_eq!(daemon.get("/index/").json(), json!([]));

    symlink(socket(), &path).unwrap();
    let built = daemon.succeed(json!({"project": "succeed"}));
    // And gone again: what is ready needs none.
    fs::remove_file(&path).unwrap();
    let cached = daemon.succeed(json!({"project": "succeed"}));
    assert_eq!(
        (&cached["Cached"], &cached["ID"]),
        (&json!(true), &built["ID"])
    );
    let other = daemon.post(
        "/jobs",
        &json!({"project": "succeed", "params": {"n": "1"}}),
    );
    assert_eq!(other.status, 503, "{}", other.text());
    symlink(socket(), &path).unwrap();
    daemon.succeed(json!({"project": "succeed", "params": {"n": "1"}}));
}
