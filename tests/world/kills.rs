//! A daemon that is killed again and again while it builds: each accepted job is built once, with the
//! right outcome, and its log is what its container printed, byte for byte.

use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

use serde_json::json;

use crate::support::daemon::Setup;
use crate::support::dice::{Dice, seed};
use crate::support::engine::Engine;
use crate::support::{Place, names};

/// Lines that a build prints, about a hundred a second.
const LINES: usize = 120;
/// Kills for each job.
const KILLS: usize = 5;

#[test]
#[expect(
    clippy::disallowed_methods,
    reason = "a moment that nothing announces is what is wanted"
)]
fn jobs_outlive_a_daemon_that_is_killed_at_any_moment() {
    let jobs = match std::env::var_os("MISTRY_SOAK") {
        Some(_) => 60,
        None => 6,
    };
    let seed = seed();
    let mut dice = Dice::of(seed);
    let script = format!(
        "n=0; while [ $n -lt {LINES} ]; do
            if [ $((n % 7)) = 0 ]; then echo \"line $n\" >&2; else echo \"line $n\"; fi
            n=$((n + 1)); sleep 0.01
        done
        echo made > artifacts/made; exit $(cat params/code)"
    );
    let setup = Setup::on(Place::Host).script("counting", &script);
    let mut daemon = setup.start();
    let engine = Engine::new();
    for job in 0..jobs {
        let told = format!("seed {seed}, job {job}");
        let code = if job % 3 == 2 { 3 } else { 0 };
        let params = json!({"job": job.to_string(), "code": code.to_string()});
        let id = daemon.submit(json!({"project": "counting", "group": "g", "params": params}));
        for _ in 0..KILLS {
            // From the first moments of a life to the middle of a build.
            std::thread::sleep(Duration::from_millis(dice.up_to(400)));
            daemon.kill();
            daemon.start();
        }
        let info = daemon.wait("counting", &id);
        let outcome = if code == 0 { "succeeded" } else { "failed" };
        assert_eq!(info["Outcome"], outcome, "{told}: {info:#}");
        assert_eq!(info["ExitCode"], code, "{told}: {info:#}");
        let log = fs::read_to_string(daemon.ready("counting", &id).join("out.log")).unwrap();
        // An image build that was cut off is begun anew; what a container printed is there once, and
        // the lines of each output are in their order.
        let printed: Vec<&str> = log.lines().filter(|l| l.starts_with("line ")).collect();
        assert_eq!(printed.len(), LINES, "{told}: {log}");
        let different: BTreeSet<_> = printed.iter().collect();
        assert_eq!(different.len(), LINES, "{told}: {log}");
    }
    daemon.end();
    assert!(engine.containers(&daemon.label()).is_empty(), "seed {seed}");
    assert!(names(&daemon.builds().join("counting/pending")).is_empty());
    assert_eq!(names(&daemon.builds().join("counting/ready")).len(), jobs);
    assert!(names(&daemon.builds().join(".mistry/trash")).is_empty());
}
