//! A line of 100 MB is masked and followed like any other.

use serde_json::json;

use crate::support::{daemon::TestDaemon, http::Ask};

#[tokio::test]
async fn a_secret_in_a_line_of_100_megabytes_is_masked() {
    let script = "
        t=$(cat params/_token); half() { head -c 50000000 /dev/zero | tr '\\0' h; }
        half; printf %s \"$t\"; half; printf %s \"$t\"";
    let daemon = TestDaemon::builder().await.log_limit(256 << 20);
    let daemon = daemon.script("long", script).start().await;
    let job = json!({ "project": "long", "params": { "_token": "hhhhhunter2" } });
    let id = daemon.submit(job).await;
    let path = format!("/log/long/{id}?text&follow");
    let mut follower = daemon.open(Ask::get(path)).await;
    let mut followed = 0;
    while let Some(piece) = follower.piece().await {
        followed += piece.len();
    }
    let info = daemon.wait("long", &id).await;
    assert_eq!(info["Outcome"], "succeeded", "{info}");
    let path = daemon.home.build("long", "ready", &id);
    let log = std::fs::read(path.join("out.log")).unwrap();
    let masks: Vec<usize> = memchr::memmem::find_iter(&log, "***").collect();
    assert_eq!(followed, log.len());
    assert_eq!(masks.len(), 2);
    assert_eq!(masks[1] - masks[0], 50_000_003);
    assert_eq!(masks[1], log.len() - 3);
    assert!(
        log[masks[0] - 50_000_000..masks[0]]
            .iter()
            .all(|byte| *byte == b'h')
    );
}
