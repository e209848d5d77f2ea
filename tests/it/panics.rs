//! A panic in the task or thread of a build affects that build alone: its container is removed at once,
//! its waiters get an error, and the slot and the queue go on.

use serde_json::json;

use crate::support::{
    daemon::{Home, job, text},
    http::{Ask, within},
    process::served,
};

/// Fault points on the way of a build, and whether the build has a record of its end after a panic there.
const POINTS: [(&str, bool); 9] = [
    ("slot", true),
    ("prepared", true),
    ("image", true),
    ("container-made", true),
    ("container-known", true),
    ("container-started", true),
    ("log", true),
    ("container-ended", true),
    ("finish-record", false),
];

/// Fault points are there in debug builds, which this one is.
#[tokio::test]
async fn a_panic_leaves_no_container_and_the_next_build_is_made() {
    for (point, has_end) in POINTS {
        let home = Home::new().await;
        home.fixture("succeed");
        home.configure(&json!({"job_concurrency": 1}));
        let mut command = home.mistryd();
        command
            .args(["--addr", "127.0.0.1:0"])
            .env("MISTRY_FAULTS", format!("{point}=panic"));
        let daemon = served(command).await;
        let answer = daemon.at.ask(Ask::post("/jobs", &job("succeed"))).await;
        assert_eq!(answer.status, 500, "{point}: {}", answer.text());
        let next = json!({"project": "succeed", "params": {"next": "1"}});
        let built = daemon.at.ask(Ask::post("/jobs", &next)).await;
        assert_eq!(built.expect(201).json()["Outcome"], "succeeded", "{point}");
        within(point, async {
            while home.engine.containers().iter().any(|made| !made.removed) {
                tokio::task::yield_now().await;
            }
        })
        .await;
        let list = daemon.at.ask(Ask::get("/index/?project=succeed").json());
        let list = list.await.expect(200).json();
        let outcomes: Vec<&str> = list
            .as_array()
            .unwrap()
            .iter()
            .map(|listed| &listed["buildInfo"])
            .filter(|info| info["Outcome"] == "errored")
            .map(|info| text(info, "Err"))
            .collect();
        let answers = vec!["the server failed while it worked on the request"];
        let expected = if has_end { answers } else { vec![] };
        assert_eq!(outcomes, expected, "{point}: {list}\n{}", daemon.log());
    }
}
