//! `mistryd rebuild` prints the lines that scripts of the first mistry's users read, works with and
//! without a running daemon, and prunes only objects of this instance.

use std::collections::BTreeMap;

use serde_json::json;

use crate::support::{
    context::Context,
    daemon::{Home, job},
    http::Ask,
    process::{Ended, run},
};

async fn home() -> Home {
    let home = Home::new().await;
    for name in ["succeed", "output"] {
        home.fixture(name);
    }
    home.configure(&json!({}));
    home
}

async fn rebuild(home: &Home, arguments: &[&str]) -> Ended {
    let mut command = home.mistryd();
    command.arg("rebuild").args(arguments);
    run(command).await
}

/// The lines, with times left out.
fn lines(ended: &Ended) -> Vec<String> {
    let line = |line: &str| match line.split_once(" in ") {
        Some((what, _)) if line.starts_with("Rebuilt ") => format!("{what} in TIME"),
        _ => line.to_owned(),
    };
    ended.stdout.lines().map(line).collect()
}

#[tokio::test]
async fn without_a_daemon_it_takes_its_place() {
    let home = home().await;
    let ended = rebuild(&home, &[]).await;
    assert_eq!(ended.status, 0, "{ended:?}");
    assert_eq!(
        lines(&ended),
        [
            "Rebuilding output...",
            "Rebuilt output in TIME",
            "Rebuilding succeed...",
            "Rebuilt succeed in TIME",
            "Finished. Rebuilt: 2, Pruned images: 0, Pruned containers: 0, Reclaimed: 0B, Failed: 0",
        ]
    );
    let builds = home.engine.builds();
    assert_eq!(builds.len(), 2);
    assert!(builds.iter().all(|build| build.nocache && build.pull));
    // One of them again: its old image is not needed any more.
    let ended = rebuild(&home, &["-p", "succeed", "--verbose"]).await;
    assert!(ended.stdout.contains("Step 1/"), "{ended:?}");
    let last = ended.stdout.lines().last().unwrap();
    assert_eq!(
        last,
        "Finished. Rebuilt: 1, Pruned images: 1, Pruned containers: 0, Reclaimed: 1000B, Failed: 0"
    );
    // The lock is free again, and the image is used.
    let daemon = home.spawn().await;
    let before = home.engine.builds().len();
    daemon
        .at
        .ask(Ask::post("/jobs", &job("succeed")))
        .await
        .expect(201);
    assert_eq!(home.engine.builds().len(), before);
}

#[tokio::test]
async fn with_a_daemon_it_asks_that_one() {
    let home = home().await;
    std::fs::write(home.path("tokens"), "").unwrap();
    home.configure(&json!({ "auth_tokens_file": "tokens", "public": "none" }));
    let daemon = home.spawn().await;
    let ended = rebuild(&home, &["--project", "succeed", "--project", "output"]).await;
    assert_eq!(ended.status, 0, "{ended:?}");
    assert_eq!(
        lines(&ended)[..2],
        ["Rebuilding succeed...", "Rebuilt succeed in TIME"]
    );
    assert_eq!(home.engine.builds().len(), 2);
    daemon.at.ask(Ask::get("/healthz")).await.expect(200);
}

#[tokio::test]
async fn what_fails_is_named_and_the_others_are_built() {
    let home = home().await;
    home.project("bad", &Context::of("FROM scratch\nRUN false\n"));
    for with_daemon in [false, true] {
        let daemon = match with_daemon {
            true => Some(home.spawn().await),
            false => None,
        };
        let ended = rebuild(&home, &["-p", "bad", "-p", "none-such", "-p", "succeed"]).await;
        assert_eq!(ended.status, 1, "{ended:?}");
        let lines = lines(&ended);
        assert_eq!(lines[0], "Rebuilding bad...");
        assert!(lines[1].starts_with("Failed to build bad"), "{lines:?}");
        assert!(lines[1].contains(" with error: "), "{lines:?}");
        assert!(
            lines[3].starts_with("Failed to ") && lines[3].contains("none-such"),
            "{lines:?}"
        );
        assert_eq!(lines[5], "Rebuilt succeed in TIME");
        let last = lines.last().unwrap();
        assert!(last.starts_with("Rebuilt: 1, Pruned images: "), "{last}");
        assert!(
            last.ends_with(", Failed: 2, Failed names: bad, none-such"),
            "{last}"
        );
        let fast = rebuild(&home, &["--fail-fast", "-p", "bad", "-p", "succeed"]).await;
        assert_eq!(fast.status, 1);
        assert!(!fast.stdout.contains("succeed"), "{fast:?}");
        drop(daemon);
    }
    let ended = rebuild(&home, &["-p", "../evil"]).await;
    assert_eq!(ended.status, 2, "{ended:?}");
}

#[tokio::test]
async fn only_objects_of_this_instance_are_pruned() {
    let home = home().await;
    // An image and a stopped container of another program on this Engine.
    let docker = mistry::docker::Docker::new(&home.engine.socket()).unwrap();
    let image = async |tag: &str, labels: &[(&str, &str)]| {
        let spec = mistry::docker::ImageSpec {
            tag: tag.to_owned(),
            labels: labels
                .iter()
                .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
                .collect(),
            build_args: BTreeMap::new(),
            optional_args: vec!["uid".to_owned()],
            target: String::new(),
            registries: mistry::docker::Registries::default(),
            network: "host".to_owned(),
            fresh: true,
            builder: mistry::docker::Builder::Auto,
            dockerfile: mistry::docker::Dockerfile::default(),
            secrets: mistry::docker::BuildSecrets::default(),
            scratch: std::path::PathBuf::new(),
        };
        let context = Context::of("FROM scratch\n").script("run.sh", "true");
        let (output, _) = tokio::sync::mpsc::channel(1);
        docker
            .build_image(&spec, |_| context.stream(), output)
            .await
            .unwrap()
    };
    let theirs = [("mistry.instance", "another")];
    let mut foreign = Vec::new();
    for (tag, labels) in [
        ("other", &theirs[..]),
        ("other", &theirs),
        ("plain", &[]),
        ("plain", &[]),
    ] {
        foreign.push(image(tag, labels).await);
    }
    let data = home.path("their-data");
    std::fs::create_dir(&data).unwrap();
    let container = mistry::docker::ContainerSpec {
        name: "theirs".to_owned(),
        image: foreign[1].clone(),
        labels: theirs
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect(),
        user: "0:0".to_owned(),
        cap_drop: Vec::new(),
        data,
        mounts: BTreeMap::new(),
        network: "host".to_owned(),
        limits: mistry::docker::Limits::default(),
        options: mistry::docker::RunOptions::default(),
        environment: Vec::new(),
        log_bytes: 1 << 20,
        slice: None,
    };
    docker.create(&container).await.unwrap();
    rebuild(&home, &[]).await;
    let ended = rebuild(&home, &[]).await;
    assert!(
        ended
            .stdout
            .contains("Pruned images: 2, Pruned containers: 0"),
        "{ended:?}"
    );
    let there: Vec<_> = home
        .engine
        .images()
        .into_iter()
        .map(|image| image.id)
        .collect();
    for id in &foreign {
        assert!(there.contains(id), "an image of another program is gone");
    }
    assert!(!home.engine.containers()[0].removed);
}

#[tokio::test]
async fn without_an_engine_a_rebuild_fails_with_an_error() {
    let home = home().await;
    home.engine.stop().await;
    let ended = rebuild(&home, &["-p", "succeed"]).await;
    assert_eq!(ended.status, 1, "{ended:?}");
    assert!(
        ended.stdout.contains("Failed to build succeed"),
        "{ended:?}"
    );
}
