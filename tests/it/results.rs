//! What a build left: artifacts that do not depend on earlier builds, their number, and a remark if there
//! are none.

use serde_json::{Value, json};

use crate::support::{
    daemon::{TestDaemon, job, text},
    http::Ask,
};

const NOTHING: &str = "the build left nothing in /data/artifacts";
/// A project of which each build leaves one more file in each directory.
const LEAVES: &str = "n=$(cat $D/params/n)\necho x > $D/artifacts/a$n\necho x > $D/cache/c$n\necho x > $D/d$n\n\
    ls $D/artifacts $D/cache $D > $D/cache/seen\ncp $D/cache/seen $D/artifacts/seen";

fn leaves(n: usize) -> Value {
    json!({ "project": "p", "group": "g", "params": { "n": n.to_string() } })
}

#[tokio::test]
async fn fresh_artifacts_start_empty_and_all_else_as_the_base_left_it() {
    for (settings, is_fresh) in [
        (r#"{"artifacts": "fresh"}"#, true),
        (r#"{"artifacts": "kept"}"#, false),
        ("{}", false),
    ] {
        let daemon = TestDaemon::builder().await.script("p", LEAVES);
        let daemon = daemon.start().await;
        std::fs::write(daemon.home.projects().join("p/mistry.json"), settings).unwrap();
        daemon.build(leaves(1)).await;
        let second = daemon.build(leaves(2)).await;
        assert_eq!(
            (&second["Incremental"], &second["Outcome"]),
            (&json!(true), &json!("succeeded"))
        );
        let seen = daemon.artifact(&second, "seen").await.expect(200).text();
        for name in ["a2", "c1", "c2", "d1", "d2"] {
            assert!(seen.contains(name), "{settings} {name}: {seen}");
        }
        assert_eq!(seen.contains("a1"), !is_fresh, "{settings}: {seen}");
        assert_eq!(daemon.artifact(&second, "a1").await.status == 404, is_fresh);
    }
}

#[tokio::test]
async fn a_wrong_word_for_the_artifacts_is_named() {
    let daemon = TestDaemon::with(&["succeed"]).await;
    let settings = daemon.home.projects().join("succeed/mistry.json");
    std::fs::write(settings, r#"{"artifacts": "new"}"#).unwrap();
    let refused = daemon
        .post("/jobs", &job("succeed"))
        .await
        .expect(422)
        .json();
    let error = text(&refused, "error");
    for part in ["artifacts", "kept", "fresh"] {
        assert!(error.contains(part), "{part}: {error}");
    }
}

/// The first project of the README, as it stands there.
#[tokio::test]
async fn the_first_example_of_the_readme_does_what_it_says() {
    let readme = include_str!("../../README.md");
    let file = |name: &str| {
        let (_, rest) = readme
            .split_once(&format!("cat > projects/greet/{name} <<'END'\n"))
            .unwrap();
        rest.split_once("END\n").unwrap().0.to_owned()
    };
    let daemon = TestDaemon::builder().await;
    // The fake Engine has no shell in its images: it runs the script on the host.
    let lines = file("build.sh").replace("/data/", "$D/");
    let daemon = daemon.script("greet", &lines).start().await;
    let settings = daemon.home.projects().join("greet/mistry.json");
    std::fs::write(settings, file("mistry.json")).unwrap();
    let job = |group: &str, name: &str| json!({ "project": "greet", "group": group, "params": { "name": name } });
    let greeting = async |job: Value| {
        let info = daemon.build(job).await;
        assert_eq!(info["Outcome"], "succeeded", "{info}");
        let text = daemon.artifact(&info, "greeting.txt").await.text();
        (info["Cached"] == true, info["Incremental"] == true, text)
    };
    assert_eq!(
        greeting(job("", "world")).await,
        (false, false, "Hello, world! Run 1.\n".to_owned())
    );
    assert!(greeting(job("", "world")).await.0);
    greeting(job("g", "you")).await;
    assert_eq!(
        greeting(job("g", "me")).await,
        (false, true, "Hello, me! Run 2.\n".to_owned())
    );
    let misspelt = json!({ "project": "greet", "params": { "nmae": "world" } });
    let refused = daemon.post("/jobs", &misspelt).await.expect(422).json();
    let said = "param 'nmae' is unknown (did you mean 'name'?)";
    assert!(text(&refused, "error").contains(said), "{refused}");
    assert!(readme.contains(&format!("\"{said}\"")));
}

#[tokio::test]
async fn a_succeeded_build_that_left_nothing_gets_a_remark_also_when_it_is_cached() {
    let daemon = TestDaemon::builder().await;
    let daemon = daemon
        .script("nothing", "echo x > $D/cache/x")
        .script("failed", "exit 3")
        .script("unlinked", "rm -rf $D/artifacts; ln -s /etc $D/artifacts")
        .script("directory", "mkdir $D/artifacts/a")
        .fixture("succeed");
    let daemon = daemon.start().await;
    for (project, warnings) in [
        ("nothing", json!([NOTHING])),
        ("nothing", json!([NOTHING])),
        ("unlinked", json!([NOTHING])),
        ("failed", json!([])),
        ("directory", json!([])),
        ("succeed", json!([])),
    ] {
        let info = daemon.build(job(project)).await;
        assert_eq!(info["Warnings"], warnings, "{project}: {info}");
    }
    let id = daemon.build(job("nothing")).await;
    let page = Ask::get(format!("/job/nothing/{}", text(&id, "ID")));
    let page = daemon.ask(page.with("accept", "text/html")).await.text();
    assert!(page.contains(NOTHING), "{page}");
}

#[tokio::test]
async fn the_artifacts_of_a_build_are_counted_after_its_end() {
    let script =
        "cd $D/artifacts; mkdir -p d/e; echo 123 > a; echo 12345 > d/b; ln -s a link; mkfifo d/e/f";
    let daemon = TestDaemon::builder().await;
    let daemon = daemon.script("p", script).script("none", "true");
    let mut daemon = daemon.start().await;
    let some = daemon.build(job("p")).await;
    assert_eq!(some["Artifacts"], Value::Null, "not before the answer");
    let none = daemon.build(job("none")).await;
    // The end of the daemon waits for it.
    daemon.stop().await;
    daemon.start_again().await;
    for (info, files, bytes) in [(&some, 3, 10), (&none, 0, 0)] {
        let now = daemon.info(text(info, "Project"), text(info, "ID")).await;
        assert_eq!(now["Artifacts"], json!({ "Files": files, "Bytes": bytes }));
        let cached = daemon.build(job(text(info, "Project"))).await;
        assert_eq!(cached["Artifacts"], now["Artifacts"]);
    }
}
