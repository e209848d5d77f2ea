//! Files that were removed by hand are reported as gone, each by its name, and the rest is served.

use std::fs;

use serde_json::json;

use crate::garbage::settled;
use crate::support::{
    cli::mistry,
    daemon::{TestDaemon, job, text},
    http::Ask,
};

/// The error of an address that is 404, as text and as a page.
async fn refused(daemon: &TestDaemon, path: &str) -> String {
    let answer = daemon.get(path).await.expect(404).json();
    let sentence = text(&answer, "error").to_owned();
    let page = daemon.ask(Ask::get(path).with("accept", "text/html")).await;
    let page = page
        .expect(404)
        .text()
        .replace("&#39;", "'")
        .replace("&#x27;", "'");
    assert!(page.contains(&sentence), "{sentence}: {page}");
    sentence
}

#[tokio::test]
async fn a_removed_log_is_gone_over_every_interface_and_its_build_is_not() {
    let daemon = TestDaemon::with(&["succeed"]).await;
    let info = daemon.build(job("succeed")).await;
    let id = text(&info, "ID").to_owned();
    fs::remove_file(daemon.home.build("succeed", "ready", &id).join("out.log")).unwrap();
    for query in ["", "?text", "?text&follow", "?lines", "?times", "?find=x"] {
        let path = format!("/log/succeed/{id}{query}");
        let answer = daemon.get(&path).await.expect(404).json();
        let sentence = text(&answer, "error");
        assert!(sentence.starts_with("the log of job"), "{sentence}");
        assert!(sentence.contains("is not there"), "{sentence}");
    }
    for arguments in [&["logs"][..], &["logs", "-f"]] {
        let mut command = mistry(arguments);
        command
            .args(["--host", "127.0.0.1", "--port"])
            .arg(daemon.port().to_string())
            .arg(&id);
        let output = tokio::task::spawn_blocking(move || command.output().unwrap())
            .await
            .unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success());
        assert!(stderr.contains("the log of job"), "{stderr}");
    }
    let page = Ask::get(format!("/job/succeed/{id}")).with("accept", "text/html");
    let page = daemon.ask(page).await.expect(200).text();
    assert!(page.contains("The log of this build was removed"), "{page}");
    // All else is as it was.
    assert_eq!(daemon.info("succeed", &id).await["Outcome"], "succeeded");
    assert_eq!(daemon.build(job("succeed")).await["Cached"], true);
    daemon
        .get(format!("/artifacts/succeed/{id}"))
        .await
        .expect(200);
}

#[tokio::test]
async fn artifacts_that_were_removed_are_no_empty_result() {
    let daemon = TestDaemon::with(&["succeed"]).await;
    let info = daemon
        .build(json!({ "project": "succeed", "params": { "a": "b", "c": "d" } }))
        .await;
    let id = text(&info, "ID").to_owned();
    let (data, at) = (
        daemon.home.build("succeed", "ready", &id).join("data"),
        format!("/artifacts/succeed/{id}"),
    );
    fs::remove_file(data.join("artifacts/a")).unwrap();
    assert_eq!(
        refused(&daemon, &format!("{at}/a")).await,
        "there is no such artifact"
    );
    daemon.get(format!("{at}/c")).await.expect(200);
    for gone in [data.join("artifacts"), data.clone()] {
        fs::remove_dir_all(gone).unwrap();
        for path in ["", "?manifest", "/", "/c", "/c?view"] {
            let sentence = refused(&daemon, &format!("{at}{path}")).await;
            assert!(
                sentence.starts_with("there are no artifacts of job"),
                "{sentence}"
            );
        }
    }
    assert_eq!(daemon.info("succeed", &id).await["Outcome"], "succeeded");
}

#[tokio::test]
async fn a_file_that_is_truncated_while_it_is_fetched_is_an_incomplete_answer() {
    let daemon = TestDaemon::builder()
        .await
        .script("big", "head -c 40000000 /dev/zero > $D/artifacts/a")
        .start()
        .await;
    let info = daemon.build(job("big")).await;
    let id = text(&info, "ID").to_owned();
    let file = daemon
        .home
        .build("big", "ready", &id)
        .join("data/artifacts/a");
    let opened = daemon
        .open(Ask::get(format!("/artifacts/big/{id}/a")))
        .await;
    assert_eq!(opened.headers["content-length"], "40000000");
    // More than all buffers hold on the way has not been read yet.
    fs::File::options()
        .write(true)
        .open(&file)
        .unwrap()
        .set_len(1)
        .unwrap();
    let answer = opened.whole().await;
    assert!(answer.body.len() < 40_000_000);
    // Removed, it is read to its end all the same.
    fs::File::options()
        .write(true)
        .open(&file)
        .unwrap()
        .set_len(40_000_000)
        .unwrap();
    let opened = daemon
        .open(Ask::get(format!("/artifacts/big/{id}/a")))
        .await;
    fs::remove_file(&file).unwrap();
    assert_eq!(opened.whole().await.body.len(), 40_000_000);
}

#[tokio::test]
async fn a_build_without_a_record_is_reported_and_built_again() {
    let daemon = TestDaemon::with(&["succeed"]).await;
    let info = daemon.build(job("succeed")).await;
    let id = text(&info, "ID").to_owned();
    let record = daemon
        .home
        .build("succeed", "ready", &id)
        .join("build_info.json");
    for garbage in [None, Some(""), Some("{"), Some("\0\0"), Some("[]")] {
        match garbage {
            None => fs::remove_file(&record).unwrap(),
            Some(text) => fs::write(&record, text).unwrap(),
        }
        for path in ["job", "artifacts"] {
            let sentence = refused(&daemon, &format!("/{path}/succeed/{id}")).await;
            assert!(sentence.starts_with("the record of job"), "{sentence}");
        }
    }
    let again = daemon.build(job("succeed")).await;
    assert_eq!(
        (&again["ID"], &again["Cached"]),
        (&info["ID"], &json!(false))
    );
    daemon.get(format!("/job/succeed/{id}")).await.expect(200);
    // Until then the server writes in it.
    settled(&daemon.home, "succeed", &id).await;
    fs::remove_dir_all(daemon.home.build("succeed", "ready", &id)).unwrap();
    for path in ["job", "artifacts", "log"] {
        let sentence = refused(&daemon, &format!("/{path}/succeed/{id}")).await;
        assert!(sentence.starts_with("unknown job"), "{sentence}");
    }
}

#[tokio::test]
async fn builds_of_a_project_that_was_removed_are_listed_and_fetched() {
    let daemon = TestDaemon::with(&["succeed"]).await;
    let info = daemon.build(job("succeed")).await;
    let id = text(&info, "ID").to_owned();
    fs::remove_dir_all(daemon.home.projects().join("succeed")).unwrap();
    let list = daemon
        .get("/index/?project=succeed")
        .await
        .expect(200)
        .json();
    assert_eq!(list[0]["id"], info["ID"]);
    daemon
        .get(format!("/artifacts/succeed/{id}"))
        .await
        .expect(200);
    for path in [
        "/".to_owned(),
        format!("/job/succeed/{id}"),
        format!("/log/succeed/{id}?text"),
    ] {
        let page = daemon.ask(Ask::get(path).with("accept", "text/html")).await;
        page.expect(200);
    }
    for sentence in [
        refused(&daemon, "/project/succeed").await,
        text(
            &daemon
                .post("/jobs", &job("succeed"))
                .await
                .expect(404)
                .json(),
            "error",
        )
        .to_owned(),
    ] {
        assert!(sentence.contains("project"), "{sentence}");
    }
}
