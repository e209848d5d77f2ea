//! When the lines of a log were written: by the Engine's clock, in every state of a build.

use std::time::Duration;

use serde_json::Value;

use crate::support::{
    cli::mistry,
    daemon::{TestDaemon, job, text},
    http::Ask,
    process::run,
};

/// The time of each line of a log, in milliseconds, with the line.
async fn timed_lines(daemon: &TestDaemon, path: &str) -> Vec<(i64, String)> {
    let log = daemon.get(format!("{path}?text")).await.expect(200).text();
    let times = daemon.get(format!("{path}?times")).await.expect(200).json();
    let list = |name: &str| -> Vec<i64> {
        let values = times[name].as_array().unwrap().iter();
        values.map(|value| value.as_i64().unwrap()).collect()
    };
    let (offsets, times) = (list("Offsets"), list("Times"));
    assert_eq!(offsets.len(), times.len());
    let mut at = 0;
    let mut lines = Vec::new();
    for line in log.split_inclusive('\n') {
        let entries = offsets.partition_point(|offset| *offset <= at);
        // The lines of the image have none once their file was removed.
        let time = entries.checked_sub(1).map_or(0, |entry| times[entry]);
        lines.push((time, line.trim_end().to_owned()));
        at += line.len() as i64;
    }
    lines
}

fn time_of(lines: &[(i64, String)], text: &str) -> i64 {
    let found = lines.iter().find(|(_, line)| line == text);
    found.unwrap_or_else(|| panic!("{text}: {lines:?}")).0
}

#[tokio::test]
async fn a_line_has_the_time_at_which_the_container_printed_it_also_while_no_daemon_ran() {
    let hour = Duration::from_secs(3_600);
    let script = "echo first; while [ ! -e $D/gate ]; do sleep 0.05; done; sleep 0.2; echo last; sleep 0.05; exit 3";
    let daemon = TestDaemon::builder().await.script("p", script);
    let mut daemon = daemon.start().await;
    let id = daemon.submit(job("p")).await;
    let path = format!("/log/p/{id}");
    let mut follower = daemon.open(Ask::get(&path)).await;
    follower.until(|event| event.data == "first").await;
    // Also while it runs, its state says what runs, and where its own output begins.
    let running = daemon.info("p", &id).await;
    assert!(
        running["Container"].is_string() && running["Image"].is_string(),
        "{running}"
    );
    assert!(running["LogRunsFrom"].as_u64() > Some(0), "{running}");
    daemon.stop().await;
    // What the next process reads of the output was printed an hour ago, by the clock of the Engine.
    daemon.home.engine.age(hour);
    let times = daemon.home.build("p", "pending", &id).join("out.times");
    std::fs::remove_file(times).unwrap();
    daemon.start_again().await;
    let gate = daemon.home.build("p", "pending", &id).join("data/gate");
    std::fs::write(&gate, "").unwrap();
    daemon.wait("p", &id).await;
    let lines = timed_lines(&daemon, &path).await;
    let now = jiff::Timestamp::now().as_millisecond();
    let (first, last) = (time_of(&lines, "first"), time_of(&lines, "last"));
    assert!(now - first > 3_600_000, "{lines:?}");
    assert!(
        (3_599_000..3_660_000).contains(&(last - first)),
        "{lines:?}"
    );
    assert!(now - last < 60_000, "{lines:?}");
    // The times go with the log: to the build that is over, and to the attempts that are kept.
    let again = serde_json::json!({"project": "p", "rebuild": true});
    assert_eq!(daemon.submit(again).await, id);
    let mut follower = daemon.open(Ask::get(&path)).await;
    follower.until(|event| event.data == "first").await;
    std::fs::write(&gate, "").unwrap();
    assert_eq!(daemon.wait("p", &id).await["Number"], 2);
    let earlier = format!("{path}?times&attempt=1");
    let earlier: Value = daemon.get(earlier).await.expect(200).json();
    let kept = earlier["Times"].as_array().unwrap();
    assert!(
        kept.contains(&first.into()) && kept.contains(&last.into()),
        "{earlier}"
    );
}

#[tokio::test]
async fn a_log_of_an_earlier_version_has_no_times() {
    let daemon = TestDaemon::with(&["succeed"]).await;
    let info = daemon.build(job("succeed")).await;
    let id = text(&info, "ID");
    let times = daemon.home.build("succeed", "ready", id).join("out.times");
    std::fs::remove_file(times).unwrap();
    let answer = daemon.get(format!("/log/succeed/{id}?times")).await;
    let answer = answer.expect(200).json();
    assert_eq!(answer["Offsets"], serde_json::json!([]));
    assert_eq!(answer["Times"], serde_json::json!([]));
}

#[tokio::test]
async fn the_client_prints_the_time_before_each_line() {
    let daemon = TestDaemon::with(&["output"]).await;
    let info = daemon.build(job("output")).await;
    let id = text(&info, "ID");
    let port = daemon.port().to_string();
    let logs = async |more: &[&str]| {
        let arguments = [&["logs", "--port", &port, id], more].concat();
        run(mistry(&arguments)).await
    };
    let plain = logs(&[]).await;
    for arguments in [
        &["--times"][..],
        &["--times", "--follow"],
        &["-tf", "--attempt", "1"],
    ] {
        let timed = logs(arguments).await;
        assert_eq!(timed.status, 0, "{timed:?}");
        let lines = timed.stdout.split_inclusive('\n').map(|line| {
            let (at, line) = line.split_once("Z ").unwrap();
            let at: jiff::Timestamp = format!("{at}Z").parse().unwrap();
            assert!(at.duration_since(jiff::Timestamp::now()).abs().as_secs() < 60);
            line
        });
        assert_eq!(lines.collect::<String>(), plain.stdout, "{arguments:?}");
    }
}
