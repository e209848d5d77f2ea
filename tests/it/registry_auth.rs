//! Credentials of image registries: which pull gets which, and what a file that cannot be used leads to.

use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use serde_json::{Value, json};

use crate::support::{
    daemon::{TestDaemon, job, text},
    http::Ask,
};

/// A password whose encoding differs between the two alphabets of Base64.
const PASSWORD: &str = "hunter2~~~???";

async fn daemon(dockerfile: &str) -> (TestDaemon, PathBuf) {
    let builder = TestDaemon::builder().await.fixture("succeed");
    let file = builder.home.path("registry-auth.json");
    let daemon = builder.rules(|rules| rules.registry_auth = Some(file.clone()));
    let daemon = daemon.start().await;
    let path = daemon.home.projects().join("succeed/Dockerfile");
    std::fs::write(path, dockerfile).unwrap();
    (daemon, file)
}

fn auths(password: &str) -> String {
    let auth = STANDARD.encode(format!("user:{password}"));
    json!({"auths": {"registry.example:5000": {"auth": auth}}}).to_string()
}

/// What each pull was given: the image with its tag, and the user and password.
fn pulls(daemon: &TestDaemon) -> Vec<(String, Value)> {
    let pulls = daemon.home.engine.pulls().into_iter().map(|pull| {
        let sent = pull.credentials.map_or(Value::Null, |sent| {
            let sent = URL_SAFE.decode(sent).unwrap();
            let sent: Value = serde_json::from_slice(&sent).unwrap();
            json!([sent["username"], sent["password"]])
        });
        (format!("{} {}", pull.image, pull.tag), sent)
    });
    pulls.collect()
}

#[tokio::test]
async fn a_pull_gets_the_credentials_of_its_registry_as_they_are_now() {
    let (daemon, file) = daemon(
        "FROM other.example/tools AS tools\nFROM registry.example:5000/base:1\nCOPY run.sh /\n",
    )
    .await;
    std::fs::write(&file, auths("old")).unwrap();
    daemon.build(job("succeed")).await;
    std::fs::write(&file, auths(PASSWORD)).unwrap();
    let rebuild = Ask::post("/project/succeed/rebuild", &json!({}));
    daemon.ask(rebuild).await.expect(200);
    let sent = |password: &str| json!(["user", password]);
    assert_eq!(
        pulls(&daemon),
        [
            ("other.example/tools latest".to_owned(), Value::Null),
            ("registry.example:5000/base:1 ".to_owned(), sent("old")),
            ("other.example/tools latest".to_owned(), Value::Null),
            ("registry.example:5000/base:1 ".to_owned(), sent(PASSWORD)),
        ]
    );
    // They are pulled already.
    assert!(daemon.home.engine.builds().iter().all(|build| !build.pull));
}

#[tokio::test]
async fn images_of_other_registries_need_no_pull_of_ours() {
    let (daemon, file) = daemon("FROM other.example/tools\nCOPY run.sh /\n").await;
    std::fs::write(&file, auths(PASSWORD)).unwrap();
    daemon.build(job("succeed")).await;
    assert_eq!(pulls(&daemon), []);
}

#[tokio::test]
async fn a_file_that_cannot_be_used_fails_the_image_build_with_a_sentence() {
    let (daemon, file) = daemon("FROM registry.example:5000/base\nCOPY run.sh /\n").await;
    for (content, said) in [
        (None, "it must be a file that the user of mistryd may read"),
        (Some("{\"auths\": \"hunter2"), "found a mistake at line 1"),
        (
            Some(r#"{"auths":{"r":{}},"credsStore":"pass"}"#),
            "(credsStore)",
        ),
    ] {
        if let Some(content) = content {
            std::fs::write(&file, content).unwrap();
        }
        let answer = daemon.post("/jobs", &job("succeed")).await.expect(500);
        let view = answer.json();
        let error = text(&view, "error");
        let start = "could not build docker image 'succeed': the credentials of image registries (registry_auth in mistryd's configuration) cannot be used: ";
        assert!(error.starts_with(start) && error.contains(said), "{error}");
        assert!(
            !error.contains("hunter2") && !error.contains("registry-auth.json"),
            "{error}"
        );
    }
    assert!(daemon.home.engine.builds().is_empty());
    std::fs::write(&file, auths(PASSWORD)).unwrap();
    let info = daemon.build(job("succeed")).await;
    assert_eq!(info["Outcome"], "succeeded");
    let id = text(&info, "ID");
    let log = daemon.get(format!("/log/succeed/{id}?text")).await.text();
    assert!(
        log.contains("pulling the image 'registry.example:5000/base'"),
        "{log}"
    );
    assert!(
        !log.contains("hunter2") && !info.to_string().contains("hunter2"),
        "{log}"
    );
}

#[tokio::test]
async fn the_words_of_a_registry_that_refuses_are_in_the_error() {
    let (daemon, file) = daemon("FROM registry.example:5000/base\nRUN false\n").await;
    std::fs::write(&file, auths("wrong")).unwrap();
    daemon.home.engine.registry(false);
    let answer = daemon
        .post("/jobs", &job("succeed"))
        .await
        .expect(500)
        .json();
    let error = text(&answer, "error");
    let said = "the image 'registry.example:5000/base' could not be pulled: denied";
    assert!(error.contains(said), "{error}");
}
