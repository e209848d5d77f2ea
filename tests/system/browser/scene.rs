//! A build server as on a working day, for pictures: realistic projects, builds that really ran, one
//! that runs and one that waits.
//!
//! The builds are small, so that they take seconds. Afterwards sizes and times in their records are
//! increased, as if they had been made over the last days; nothing else is invented.

use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime};

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use crate::support::Place;
use crate::support::daemon::{Daemon, Setup};

/// The factor by which durations are multiplied.
const STRETCH: i64 = 40;
/// Builds of the project whose history is shown.
const HISTORY: u32 = 8;

/// A step of an image that fails.
const BROKEN_STEP: &str =
    r#"["/bin/busybox", "sh", "-c", "echo 'E: Unable to locate package gcc-riscv'; exit 100"]"#;

/// What the containers of each project do.
const SCRIPTS: [(&str, &str); 4] = [
    ("assets", include_str!("scene/assets.sh")),
    ("checks", include_str!("scene/checks.sh")),
    ("docs", include_str!("scene/docs.sh")),
    ("firmware", include_str!("scene/firmware.sh")),
];

/// The builds of the scene.
pub struct Scene {
    pub daemon: Daemon,
    /// A succeeded build of `assets` that grew from an older one.
    pub succeeded: String,
    /// A build of `checks` that has failed.
    pub failed: String,
    /// A build of `checks` that failed twice.
    pub repeated: String,
    /// A build of `tools` whose image could not be built.
    pub broken: String,
    /// A build of `firmware` that runs until [`Scene::release`].
    pub running: String,
    /// A build of `docs` that waits for a slot.
    pub waiting: String,
}

impl Scene {
    pub fn set() -> Scene {
        let setup = Setup::on(Place::Host).config(json!({"job_concurrency": 1}));
        let setup = SCRIPTS.iter().fold(setup, |setup, (project, script)| {
            setup.script(project, script)
        });
        let setup = setup.script("tools", "");
        let dockerfile = setup.home().join("projects/tools/Dockerfile");
        let text = fs::read_to_string(&dockerfile).unwrap();
        fs::write(dockerfile, format!("{text}RUN {BROKEN_STEP}\n")).unwrap();
        let mut daemon = setup.start();

        let assets = |n: u32| {
            let params =
                json!({"revision": revision(n), "environment": "production", "_npm_token": "x"});
            json!({"project": "assets", "group": "main", "params": params})
        };
        let mut succeeded = String::new();
        for n in 0..HISTORY {
            succeeded = id(&daemon.succeed(assets(n)));
        }
        let branch = json!({"revision": revision(77), "environment": "staging"});
        daemon.succeed(json!({"project": "assets", "group": "checkout-v2", "params": branch}));
        // Asked for again: cached, as most things are.
        for _ in 0..3 {
            daemon.succeed(assets(HISTORY - 1));
        }
        daemon.succeed(json!({"project": "docs", "params": {"version": "2.4"}}));
        daemon.succeed(json!({"project": "firmware", "params": {"board": "devkit"}}));
        daemon.succeed(json!({"project": "checks", "params": {"revision": "first"}}));
        let failed =
            daemon.build(json!({"project": "checks", "params": {"revision": revision(21)}}));
        let broken = daemon.post("/jobs", &json!({"project": "tools"}));
        let broken = broken.json()["job"].as_str().unwrap().to_owned();
        daemon.succeed(json!({"project": "docs", "params": {"version": "2.5"}}));

        daemon.end();
        age(&daemon.builds());
        daemon.start();
        let repeated = json!({"project": "checks", "params": {"revision": revision(34)}});
        daemon.build(repeated.clone());
        let repeated = id(&daemon.build(repeated));
        let running = daemon.submit(json!({"project": "firmware", "params": {"board": "rev-c"}}));
        daemon.until("firmware", &running, "waiting for the signature");
        daemon.submit(assets(HISTORY));
        let waiting = daemon.submit(json!({"project": "docs", "params": {"version": "2.6"}}));
        Scene {
            daemon,
            succeeded,
            failed: id(&failed),
            repeated,
            broken,
            running,
            waiting,
        }
    }

    /// Lets the build that runs come to its end.
    pub fn release(&self) {
        self.daemon.release("firmware", &self.running);
    }
}

fn id(info: &Value) -> String {
    info["ID"].as_str().unwrap().to_owned()
}

/// As a version control system writes one; the same each time.
fn revision(n: u32) -> String {
    let mixed = u64::from(n + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    format!("{:010x}", mixed >> 24)
}

/// Makes all builds larger, and spreads them over the last days.
fn age(builds: &Path) {
    let mut records: Vec<_> = fs::read_dir(builds)
        .unwrap()
        .map(|project| project.unwrap().path().join("ready"))
        .filter_map(|ready| fs::read_dir(ready).ok())
        .flatten()
        .map(|build| build.unwrap().path().join("build_info.json"))
        .map(|file| {
            let record: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
            (file, record)
        })
        .collect();
    records.sort_by_key(|(_, record)| std::cmp::Reverse(time(&record["StartedAt"])));
    let now = Timestamp::try_from(SystemTime::now()).unwrap();
    // The newest a few minutes ago, each further one longer before the next.
    let mut ago = Duration::from_secs(4 * 60);
    for (file, mut record) in records {
        let by =
            time(&record["StartedAt"]).duration_since(now) + SignedDuration::try_from(ago).unwrap();
        let began = time(&record["StartedAt"]);
        for name in ["QueuedAt", "StartedAt", "FinishedAt"] {
            let Some(text) = record[name].as_str() else {
                continue;
            };
            let time: Timestamp = text.parse().unwrap();
            let stretched = began + time.duration_since(began) * i32::try_from(STRETCH).unwrap();
            record[name] = json!(stretched - by);
        }
        record["Duration"] = json!(record["Duration"].as_i64().unwrap() * STRETCH);
        for phase in record["Phases"].as_object_mut().unwrap().values_mut() {
            if let Some(millis) = phase.as_i64() {
                *phase = json!(millis * STRETCH);
            }
        }
        fs::write(file, record.to_string()).unwrap();
        ago = ago * 9 / 5;
    }
}

fn time(value: &Value) -> Timestamp {
    value.as_str().unwrap().parse().unwrap()
}
