//! When each line of a log was written: as `docker logs --timestamps` says.

use serde_json::json;

use super::containers::docker;
use crate::support::Place;
use crate::support::daemon::Setup;
use crate::support::engine::Engine;

/// Prints lines with pauses, the last one empty or longer than an entry of Docker's log; then waits for a reader.
const PRINT: &str = "mkfifo gate\n\
    for n in 1 2 3 4; do echo out $n; busybox sleep 0.$n; echo err $n >&2; busybox usleep 3000; done\n\
    head -c 40000 /dev/zero | tr '\\0' x\n\
    busybox sleep 0.3\n\
    echo; echo\n\
    busybox sleep 0.3\n\
    echo printed\n\
    read answer < gate || true\n";

/// Entries closer than this, in milliseconds, may have one time.
const CLOSE: i64 = 100;

#[test]
fn the_times_of_lines_are_those_that_docker_shows() {
    let busybox = "alias busybox=/bin/busybox head='/bin/busybox head' tr='/bin/busybox tr' mkfifo='/bin/busybox mkfifo'\n";
    let script = format!("{busybox}{PRINT}");
    let mut daemon = Setup::on(Place::Host).script("times", &script).start();
    let id = daemon.submit(json!({"project": "times"}));
    daemon.until("times", &id, "printed");
    let containers = Engine::new().containers(&daemon.label());
    let container = containers[0].id.clone().unwrap();
    // What is read again after a kill has the same times.
    for _ in 0..2 {
        let shown = docker(&["logs", "--timestamps", &container]);
        let log = daemon.get(&format!("/log/times/{id}?text")).text();
        let times = daemon.get(&format!("/log/times/{id}?times")).json();
        let info = daemon.get(&format!("/job/times/{id}?json&log=none")).json();
        let runs_from = info["BuildInfo"]["LogRunsFrom"].as_u64().unwrap();
        let list = |name: &str| -> Vec<i64> {
            let values = times[name].as_array().unwrap().iter();
            values.map(|value| value.as_i64().unwrap()).collect()
        };
        let (offsets, times) = (list("Offsets"), list("Times"));
        let mut compared = 0;
        for stream in [&shown.stdout, &shown.stderr] {
            for line in String::from_utf8_lossy(stream).lines() {
                let (at, text) = line.split_once(' ').unwrap();
                let at: jiff::Timestamp = at.parse().unwrap();
                let text = if text.starts_with("xxx") { "xxx" } else { text };
                let Some(place) = log[runs_from as usize..]
                    .find(text)
                    .filter(|_| !text.is_empty())
                else {
                    continue;
                };
                let offset = (place as u64 + runs_from) as i64;
                let entry = offsets.partition_point(|from| *from <= offset) - 1;
                let apart = at.as_millisecond() - times[entry];
                assert!(
                    (-CLOSE..=CLOSE).contains(&apart),
                    "{line:.60}: {apart} ms, {times:?}"
                );
                compared += 1;
            }
        }
        assert!(compared >= 10, "{compared} lines of {}", log.len());
        daemon.kill();
        daemon.start();
        daemon.until("times", &id, "printed");
    }
    daemon.release("times", &id);
    assert_eq!(daemon.wait("times", &id)["Outcome"], "succeeded");
    let printed = daemon.mistry(&["logs", "--times", &id]);
    assert!(printed.status.success());
    let printed = String::from_utf8(printed.stdout).unwrap();
    let log = daemon.get(&format!("/log/times/{id}?text")).text();
    for (timed, line) in printed.lines().zip(log.lines()) {
        let (at, text) = timed.split_once("Z ").unwrap();
        assert!(
            at.len() == "2026-01-01T00:00:00.0".len() && text == line,
            "{timed:.60}"
        );
    }
    assert_eq!(printed.lines().count(), log.lines().count());
}
