//! An existing result is the answer: without Docker, slot or queue. Which results are cached, for which
//! jobs, and until when; and that only the build sees the values of opaque params.

use serde_json::{Value, json};

use crate::support::{
    daemon::{TestDaemon, job, names, text},
    http::Ask,
};

#[tokio::test]
async fn a_cached_answer_needs_no_docker_no_slot_and_no_place_in_the_queue() {
    let daemon = TestDaemon::builder().await.slots(1).backlog(1);
    let daemon = daemon.fixture("succeed").fixture("slow").fixture("output");
    let daemon = daemon.start().await;
    let asked = json!({ "project": "succeed", "params": { "a": "b" } });
    let built = daemon.build(asked.clone()).await;
    assert_eq!(built["Cached"], false);

    let engine = &daemon.home.engine;
    engine.hold("start");
    daemon.submit(job("slow")).await;
    engine.wait_for("start", 2).await;
    daemon.submit(job("output")).await;
    let status = daemon.get("/status").await.json();
    assert_eq!(
        (&status["Running"], &status["Queued"]),
        (&json!(1), &json!(1))
    );
    let cached = daemon.build(asked.clone()).await;
    assert_eq!(cached["Cached"], true);
    // All other fields are those of the build; artifacts are counted after its end.
    let fields = built.as_object().unwrap().keys();
    for field in fields.filter(|key| !["Cached", "Artifacts"].contains(&key.as_str())) {
        assert_eq!(built[field], cached[field], "{field}");
    }
    engine.stop().await;
    assert_eq!(daemon.build(asked.clone()).await["Cached"], true);
    let accepted = daemon.post("/jobs?async", &asked).await.expect(201).json();
    assert_eq!(
        (&accepted["State"], &accepted["ID"]),
        (&json!("ready"), &built["ID"])
    );
    let ask = Ask::post("/jobs", &asked).with("accept", "text/event-stream");
    let events = daemon.open(ask).await.events().await;
    let seen: Vec<_> = events.iter().map(|event| event.name.as_str()).collect();
    assert_eq!(seen, ["state", "result"]);
    assert_eq!(events[1].json()["Cached"], true);
}

#[tokio::test]
async fn many_at_once_are_all_cached_and_none_waits_for_another() {
    let daemon = TestDaemon::with(&["succeed"]).await;
    daemon.build(job("succeed")).await;
    let asked: Vec<_> = (0..16)
        .map(|_| daemon.asking(Ask::post("/jobs", &job("succeed"))))
        .collect();
    for asked in asked {
        let info = asked.await.unwrap().expect(201).json();
        assert_eq!(
            (&info["Cached"], &info["Coalesced"]),
            (&json!(true), &json!(false))
        );
    }
}

#[tokio::test]
async fn a_new_checkout_is_the_same_project_and_a_changed_file_another() {
    let daemon = TestDaemon::with(&["succeed"]).await;
    let first = daemon.build(job("succeed")).await;
    let project = daemon.home.projects().join("succeed");
    let old = std::fs::FileTimes::new().set_modified(std::time::UNIX_EPOCH);
    for name in names(&project) {
        std::fs::File::options()
            .write(true)
            .open(project.join(name))
            .unwrap()
            .set_times(old)
            .unwrap();
    }
    assert_eq!(daemon.build(job("succeed")).await["Cached"], true);
    // A new checkout: other inodes, other times.
    std::fs::rename(&project, daemon.home.path("old")).unwrap();
    daemon.home.fixture("succeed");
    assert_eq!(daemon.build(job("succeed")).await["Cached"], true);
    std::fs::write(project.join("new"), "").unwrap();
    let changed = daemon.build(job("succeed")).await;
    assert_eq!(changed["Cached"], false);
    assert_ne!(changed["ID"], first["ID"]);
    std::fs::remove_file(project.join("new")).unwrap();
    assert_eq!(daemon.build(job("succeed")).await["ID"], first["ID"]);
    // Ignored files do not count.
    std::fs::write(project.join(".dockerignore"), "*.tmp\n").unwrap();
    assert_eq!(daemon.build(job("succeed")).await["Cached"], false);
    std::fs::write(project.join("x.tmp"), "x").unwrap();
    assert_eq!(daemon.build(job("succeed")).await["Cached"], true);
    let sent = &daemon.home.engine.builds()[2].files;
    assert!(!sent.contains("x.tmp"), "{sent:?}");
}

#[tokio::test]
async fn jobs_that_differ_in_any_field_are_different_jobs() {
    let daemon = TestDaemon::with(&["succeed", "output"]).await;
    let jobs = [
        json!({ "project": "succeed" }),
        json!({ "project": "output" }),
        json!({ "project": "succeed", "params": { "a": "" } }),
        json!({ "project": "succeed", "params": { "a": "bc" } }),
        json!({ "project": "succeed", "params": { "ab": "c" } }),
        json!({ "project": "succeed", "params": { "a": "b", "c": "" } }),
        json!({ "project": "succeed", "group": "g", "params": { "h": "i" } }),
        json!({ "project": "succeed", "group": "gh", "params": { "i": "" } }),
        json!({ "project": "succeed", "group": "ghi" }),
    ];
    let mut ids = std::collections::BTreeSet::new();
    for job in &jobs {
        ids.insert(text(&daemon.build(job.clone()).await, "ID").to_owned());
    }
    assert_eq!(ids.len(), jobs.len());
    let same = json!({ "PROJECT": "succeed", "Group": "", "Params": null });
    assert_eq!(daemon.build(same).await["Cached"], true);
}

#[tokio::test]
async fn opaque_values_reach_the_build_and_are_shown_nowhere() {
    const SECRET: &str = "hush-hush-4711";
    let daemon = TestDaemon::with(&["secret"]).await;
    let engine = &daemon.home.engine;
    let ask =
        |value: &str| json!({ "project": "secret", "params": { "_token": value, "a": "shown" } });
    engine.hold("start");
    let id = daemon.submit(ask(SECRET)).await;
    engine.wait_for("start", 1).await;
    let pending = daemon.home.build("secret", "pending", &id);
    let param = pending.join("data/params/_token");
    assert_eq!(std::fs::read_to_string(&param).unwrap(), SECRET);
    let mode = |path: &std::path::Path| {
        use std::os::unix::fs::PermissionsExt;
        std::fs::metadata(path).unwrap().permissions().mode() & 0o777
    };
    assert_eq!(mode(&pending.join("build_info.json")), 0o600);
    assert_eq!(mode(&param), 0o600);
    let paths = [
        "/index/".to_owned(),
        format!("/job/secret/{id}"),
        "/".to_owned(),
        "/project/secret".to_owned(),
        "/metrics".to_owned(),
    ];
    let nowhere = async |answers: Vec<String>| {
        for path in &paths {
            for accept in ["application/json", "text/html"] {
                let answer = daemon.ask(Ask::get(path).with("accept", accept)).await;
                assert!(!answer.text().contains(SECRET), "{path}");
            }
        }
        for answer in answers {
            assert!(!answer.contains(SECRET), "{answer}");
        }
    };
    nowhere(vec![]).await;
    engine.release("start");
    let info = daemon.wait("secret", &id).await;
    assert_eq!(info["Outcome"], "succeeded", "{info}");
    assert_eq!(info["Params"], json!({ "_token": null, "a": "shown" }));
    // The build got the value.
    let length = daemon
        .artifact(&info, "token.length")
        .await
        .expect(200)
        .text();
    assert_eq!(length.trim(), SECRET.len().to_string());
    // Another value is the same job, and the answer has the params of the first.
    let cached = daemon.build(ask("another")).await;
    assert_eq!(
        (&cached["Cached"], &cached["Params"]),
        (&json!(true), &info["Params"])
    );
    nowhere(vec![info.to_string(), cached.to_string()]).await;
    let tar = daemon.get(format!("/artifacts/secret/{id}")).await.text();
    assert!(!tar.contains(SECRET));
    // The value is not on disk either.
    let ready = daemon.home.build("secret", "ready", &id);
    assert_eq!(names(&ready.join("data/params")), ["a"]);
    for name in ["build_info.json", "out.log"] {
        let text = std::fs::read_to_string(ready.join(name)).unwrap();
        assert!(!text.contains(SECRET), "{name}");
    }
}

#[tokio::test]
async fn a_failed_build_can_be_read_and_is_built_again() {
    let daemon = TestDaemon::with(&["exit-code", "image-build-failure"]).await;
    let first = daemon.build(job("exit-code")).await;
    assert_eq!(
        (&first["ExitCode"], &first["Outcome"]),
        (&json!(3), &json!("failed"))
    );
    let list = daemon.get("/index/").await.json();
    assert_eq!(list[0]["buildInfo"]["ExitCode"], 3);
    let found = daemon.info("exit-code", text(&first, "ID")).await;
    assert_eq!(text(&found, "ContainerStderr"), "about to exit with 3\n");
    let second = daemon.build(job("exit-code")).await;
    assert_eq!(
        (&second["Cached"], &second["ExitCode"]),
        (&json!(false), &json!(3))
    );
    assert!(text(&second, "StartedAt") > text(&first, "StartedAt"));
    assert_eq!(daemon.home.engine.containers().len(), 2);
    // The id is listed once: the new build has replaced the old one.
    assert_eq!(
        daemon.get("/index/").await.json().as_array().unwrap().len(),
        1
    );
    for _ in 0..2 {
        daemon
            .post("/jobs", &job("image-build-failure"))
            .await
            .expect(500);
    }
    assert_eq!(daemon.home.engine.builds().len(), 3);
}

#[tokio::test]
async fn an_image_is_built_once_for_its_context_and_run_by_its_id() {
    let daemon = TestDaemon::with(&["succeed"]).await;
    for n in 0..3 {
        let asked = json!({ "project": "succeed", "params": { "n": n.to_string() } });
        let info = daemon.build(asked).await;
        assert!(text(&info, "Image").starts_with("sha256:"));
    }
    let engine = &daemon.home.engine;
    assert_eq!(engine.builds().len(), 1);
    let build = &engine.builds()[0];
    assert!(build.tag.starts_with("mistry-succeed:"), "{}", build.tag);
    assert!(build.tag.contains(&build.labels["mistry.context"][..12]));
    assert!(!build.nocache && !build.pull);
    for label in ["mistry.instance", "mistry.context", "mistry.uid"] {
        assert!(build.labels.contains_key(label), "{label}");
    }
    let image = engine.images()[0].id.clone();
    for container in engine.containers() {
        assert_eq!(container.image, image);
        for label in ["instance", "job", "project", "group", "attempt"] {
            assert!(
                container.labels.contains_key(&format!("mistry.{label}")),
                "{label}"
            );
        }
    }
    // It is removed by hand: that is noticed, and it is built again.
    engine.forget_image(&image);
    let asked = json!({ "project": "succeed", "params": { "n": "again" } });
    assert_eq!(daemon.build(asked).await["Outcome"], "succeeded");
    assert_eq!(engine.builds().len(), 2);
}

fn rebuild(project: &str) -> Value {
    json!({ "project": project, "rebuild": true })
}

#[tokio::test]
async fn a_rebuild_is_a_new_image_and_a_new_build_and_the_old_one_serves_meanwhile() {
    let daemon = TestDaemon::with(&["succeed"]).await;
    let first = daemon.build(job("succeed")).await;
    let id = text(&first, "ID");
    let engine = &daemon.home.engine;
    engine.hold("start");
    let again = daemon.asking(Ask::post("/jobs", &rebuild("succeed")));
    engine.wait_for("start", 2).await;
    // While it runs, the old one is served.
    let cached = daemon.build(job("succeed")).await;
    assert_eq!(
        (&cached["Cached"], &cached["StartedAt"]),
        (&json!(true), &first["StartedAt"])
    );
    assert_eq!(daemon.artifact(&first, ".count").await.status, 200);
    // From here to the end there is always one of the two.
    let at = daemon.at();
    let asking = tokio::spawn(async move {
        let mut seen = std::collections::BTreeSet::new();
        while seen.len() < 2 {
            let ask = Ask::post("/jobs?log=none", &job("succeed"));
            let info = at.ask(ask).await.expect(201).json();
            // A request in the moment of the exchange may join the rebuild instead.
            let there = info["Cached"] == true || info["Coalesced"] == true;
            assert!(there, "{info}");
            seen.insert(text(&info, "StartedAt").to_owned());
            let path = format!("/artifacts/succeed/{}/.count", text(&info, "ID"));
            at.ask(Ask::get(path)).await.expect(200);
        }
    });
    engine.release("start");
    let new = again.await.unwrap().expect(201).json();
    asking.await.unwrap();
    assert_eq!((&new["ID"], &new["Cached"]), (&first["ID"], &json!(false)));
    assert_ne!(new["StartedAt"], first["StartedAt"]);
    assert_ne!(new["Image"], first["Image"]);
    let builds = engine.builds();
    assert_eq!(builds.len(), 2);
    assert!(builds[1].nocache && builds[1].pull);
    assert_eq!(engine.containers().len(), 2);
    let after = daemon.build(job("succeed")).await;
    assert_eq!(
        (&after["Cached"], &after["StartedAt"]),
        (&json!(true), &new["StartedAt"])
    );
    assert_eq!(daemon.home.ids("succeed", "ready"), [id]);
    assert!(daemon.home.ids("succeed", "pending").is_empty());
}

#[tokio::test]
async fn a_rebuild_that_fails_leaves_the_good_build_current() {
    let daemon = TestDaemon::builder().await;
    let flag = daemon.home.path("fail");
    let lines = format!(
        "[ ! -e {} ] || exit 9\necho good > $D/artifacts/a",
        flag.display()
    );
    let daemon = daemon.script("p", &lines).start().await;
    let good = daemon.build(job("p")).await;
    let id = text(&good, "ID");
    std::fs::write(&flag, "").unwrap();
    let bad = daemon.build(rebuild("p")).await;
    assert_eq!(
        (&bad["ExitCode"], &bad["Cached"]),
        (&json!(9), &json!(false))
    );
    let cached = daemon.build(job("p")).await;
    assert_eq!(
        (&cached["Cached"], &cached["StartedAt"]),
        (&json!(true), &good["StartedAt"])
    );
    assert_eq!(
        daemon.artifact(&good, "a").await.expect(200).text(),
        "good\n"
    );
    assert_eq!(daemon.home.ids("p", "ready"), [id]);
    let kept = daemon
        .get(format!("/job/p/{id}?attempt=2"))
        .await
        .expect(200);
    assert_eq!(kept.json()["BuildInfo"]["ExitCode"], 9);
    let list = daemon.get("/index/").await.json();
    assert_eq!(list.as_array().unwrap().len(), 1);
    assert_eq!(list[0]["buildInfo"]["ExitCode"], 0);
    // A good one takes over again.
    daemon.build(rebuild("p")).await;
    std::fs::remove_file(&flag).unwrap();
    let new = daemon.build(rebuild("p")).await;
    assert_eq!(new["ExitCode"], 0);
    assert_eq!(daemon.build(job("p")).await["StartedAt"], new["StartedAt"]);
}

#[tokio::test]
async fn without_a_registry_a_rebuild_uses_the_base_that_is_there() {
    let daemon = TestDaemon::builder().await;
    let make = |c: crate::support::context::Context| {
        c.file("Dockerfile", 0o644, "FROM base\n")
            .script("run.sh", "true")
    };
    let daemon = daemon.project("p", make).start().await;
    daemon.build(job("p")).await;
    daemon.home.engine.registry(false);
    let info = daemon.build(rebuild("p")).await;
    assert_eq!(info["Outcome"], "succeeded", "{info}");
    assert!(text(&info, "ContainerStdouterr").contains("pull"), "{info}");
}

#[tokio::test]
async fn a_cached_answer_has_the_log_of_its_own_build_whatever_a_rebuild_prints() {
    let builder = TestDaemon::builder().await;
    let flag = builder.home.path("fail");
    let lines = format!(
        "[ ! -e '{}' ] || {{ echo bad; exit 9; }}\necho good",
        flag.display()
    );
    let mut daemon = builder.script("p", &lines).start().await;
    let first = daemon.build(job("p")).await;
    let own = text(&first, "ContainerStdouterr").to_owned();
    assert!(own.ends_with("good\n"), "{first}");
    // A new process remembers no answer.
    daemon.stop().await;
    daemon.start_again().await;
    std::fs::write(&flag, "").unwrap();
    daemon.home.engine.hold("start");
    let again = daemon.asking(Ask::post("/jobs", &rebuild("p")));
    daemon.home.engine.wait_for("start", 2).await;
    let id = text(&first, "ID");
    let printed = daemon.home.build("p", "pending", id).join("out.log");
    assert!(printed.metadata().unwrap().len() > 0, "it has printed");
    let meanwhile = daemon.build(job("p")).await;
    daemon.home.engine.release("start");
    assert_eq!(again.await.unwrap().expect(201).json()["ExitCode"], 9);
    let afterwards = daemon.build(job("p")).await;
    for cached in [&meanwhile, &afterwards] {
        assert_eq!(cached["Cached"], true);
        assert_eq!(cached["StartedAt"], first["StartedAt"]);
        assert_eq!(text(cached, "ContainerStdouterr"), own);
    }
}

#[tokio::test]
async fn a_rebuild_asked_for_during_a_build_is_a_build_of_its_own_afterwards() {
    let daemon = TestDaemon::with(&["succeed"]).await;
    let engine = &daemon.home.engine;
    engine.hold("start");
    let first = daemon.asking(Ask::post("/jobs", &job("succeed")));
    engine.wait_for("start", 1).await;
    let rebuilds: Vec<_> = (0..2)
        .map(|_| daemon.asking(Ask::post("/jobs", &rebuild("succeed"))))
        .collect();
    // Requests are looked up in the order in which they come, so those two have been.
    for _ in 0..3 {
        daemon.submit(job("succeed")).await;
    }
    assert_eq!(engine.containers().len(), 1, "they wait");
    engine.release("start");
    let first = first.await.unwrap().expect(201).json();
    assert_eq!(first["Coalesced"], false);
    let mut infos = Vec::new();
    for asked in rebuilds {
        infos.push(asked.await.unwrap().expect(201).json());
    }
    for info in &infos {
        assert_eq!(
            (&info["ID"], &info["Outcome"], &info["Cached"]),
            (&first["ID"], &json!("succeeded"), &json!(false))
        );
        assert_ne!(info["StartedAt"], first["StartedAt"]);
        assert_eq!(info["StartedAt"], infos[0]["StartedAt"], "they share one");
    }
    // Neither of them joined the ordinary one; at most one joined the other.
    assert!(
        infos.iter().any(|info| info["Coalesced"] == false),
        "{infos:?}"
    );
    assert_eq!(engine.containers().len(), 2);
    let builds = engine.builds();
    assert_eq!(builds.len(), 2);
    assert!(builds[1].nocache && builds[1].pull);
    let after = daemon.build(job("succeed")).await;
    assert_eq!(
        (&after["Cached"], &after["StartedAt"]),
        (&json!(true), &infos[0]["StartedAt"])
    );
}
