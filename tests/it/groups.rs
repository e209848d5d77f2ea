//! A build of a group starts from the last good build of the group, whatever the group's name is and
//! whatever that build left in the way.

use std::{os::unix::fs::symlink, path::PathBuf};

use serde_json::json;

use crate::support::daemon::{TestDaemon, names, text};

fn job(project: &str, group: &str, n: usize) -> serde_json::Value {
    json!({ "project": project, "group": group, "params": { "n": n.to_string() } })
}

#[tokio::test]
async fn the_next_build_of_a_group_begins_where_the_last_one_ended() {
    let daemon = TestDaemon::with(&["succeed"]).await;
    let first = daemon.build(job("succeed", "g", 1)).await;
    assert_eq!(first["Incremental"], false);
    let second = daemon.build(job("succeed", "g", 2)).await;
    assert_eq!(second["Incremental"], true);
    assert_eq!(daemon.artifact(&second, ".count").await.text(), "2\n");
    // Another group, and none, have their own.
    let other = daemon.build(job("succeed", "h", 1)).await;
    let none = daemon.build(job("succeed", "", 1)).await;
    let none_again = daemon.build(job("succeed", "", 2)).await;
    for info in [&other, &none, &none_again] {
        assert_eq!(info["Incremental"], false);
        assert_eq!(daemon.artifact(info, ".count").await.text(), "1\n");
    }
    // The base is as it was.
    assert_eq!(daemon.artifact(&first, ".count").await.text(), "1\n");
    assert_eq!(
        daemon
            .metric("mistry_builds_processed_incrementally", "succeed")
            .await,
        1.0
    );
    // The cached answer of an old one does not make it the base again.
    assert_eq!(daemon.build(job("succeed", "g", 1)).await["Cached"], true);
    let third = daemon.build(job("succeed", "g", 3)).await;
    assert_eq!(daemon.artifact(&third, ".count").await.text(), "3\n");
    let project = daemon.get("/project/succeed").await.json();
    assert_eq!(
        project["Groups"],
        json!({ "g": third["ID"], "h": other["ID"] })
    );
    assert_eq!(project["Latest"], none_again["ID"]);
}

#[tokio::test]
async fn record_log_and_params_of_the_base_are_not_copied() {
    let daemon = TestDaemon::with(&["succeed"]).await;
    let old = json!({ "project": "succeed", "group": "g", "params": { "old": "1" } });
    daemon.build(old).await;
    let new = daemon.build(job("succeed", "g", 2)).await;
    assert_eq!(new["Params"], json!({ "n": "2" }));
    assert!(!text(&new, "ContainerStdouterr").contains("run 1"));
    let data = daemon
        .home
        .build("succeed", "ready", text(&new, "ID"))
        .join("data");
    assert_eq!(names(&data), ["artifacts", "cache", "params"]);
    assert_eq!(names(&data.join("params")), ["n"]);
}

#[tokio::test]
async fn a_failed_build_is_no_base() {
    let daemon = TestDaemon::builder().await;
    let lines =
        "echo x >> $D/cache/seen\ncp $D/cache/seen $D/artifacts/seen\nexit $(cat $D/params/code)";
    let daemon = daemon.script("p", lines).start().await;
    let job = |n: usize, code: &str| json!({ "project": "p", "group": "g", "params": { "n": n.to_string(), "code": code } });
    // The first of a group fails: there is no base at all.
    daemon.build(job(0, "1")).await;
    let good = daemon.build(job(1, "0")).await;
    assert_eq!(good["Incremental"], false);
    let link = daemon.home.builds().join("p/groups/g");
    let target = std::fs::read_link(&link).unwrap();
    let bad = daemon.build(job(2, "1")).await;
    assert_eq!(
        (&bad["Incremental"], &bad["ExitCode"]),
        (&json!(true), &json!(1))
    );
    assert_eq!(std::fs::read_link(&link).unwrap(), target);
    let next = daemon.build(job(3, "0")).await;
    assert_eq!(daemon.artifact(&next, "seen").await.text(), "x\nx\n");
}

#[tokio::test]
async fn a_group_may_have_any_name_and_stays_in_its_directory() {
    let daemon = TestDaemon::with(&["succeed"]).await;
    let long = "n".repeat(200);
    let wide = "/".repeat(200);
    let groups = [
        "a/b",
        "a%2Fb",
        "a%b",
        ".",
        "..",
        "../../x",
        "/",
        "/etc/passwd",
        ".hidden",
        " ",
        "~",
        "%~",
        "ä",
        "-rf",
        "*",
        "a\\b",
        "\"'`$(x)",
        &long,
        &wide,
    ];
    for group in groups {
        let first = daemon.build(job("succeed", group, 1)).await;
        assert_eq!(
            (&first["Incremental"], text(&first, "Group")),
            (&json!(false), group)
        );
        let second = daemon.build(job("succeed", group, 2)).await;
        assert_eq!(second["Incremental"], true, "{group}");
        assert_eq!(daemon.artifact(&second, ".count").await.text(), "2\n");
    }
    let place = daemon.home.builds().join("succeed");
    assert_eq!(names(&place), ["groups", "pending", "ready"]);
    let links = names(&place.join("groups"));
    assert_eq!(links.len(), groups.len(), "{links:?}");
    assert!(links.iter().all(|name| !name.starts_with('.')), "{links:?}");
    assert_eq!(names(&daemon.home.builds()), [".mistry", "succeed"]);
    let shown = daemon.get("/project/succeed").await.json();
    for group in groups {
        assert!(shown["Groups"][group].is_string(), "{group}");
    }
}

#[tokio::test]
async fn what_a_container_plants_does_not_affect_the_next_build() {
    let daemon = TestDaemon::with(&["plant-params"]).await;
    let before = names(std::path::Path::new("/etc"));
    for n in 1..4 {
        let info = daemon.build(job("plant-params", "g", n)).await;
        assert_eq!(info["Outcome"], "succeeded", "{info}");
        assert_eq!(info["Incremental"], n > 1);
        assert_eq!(daemon.artifact(&info, "seen/n").await.text(), n.to_string());
    }
    assert_eq!(names(std::path::Path::new("/etc")), before);
}

#[tokio::test]
async fn anything_in_the_place_of_the_daemons_directories_is_cleared() {
    let daemon = TestDaemon::builder().await;
    let lines = "cat $D/params/n > $D/artifacts/n || exit 1\n[ -d $D/cache ] || exit 2\n\
        rm -rf $D/artifacts $D/cache $D/params\n\
        case $(cat $D/n 2>/dev/null) in '') w=file;; file) w=link;; link) w=fifo;; *) w=none;; esac\n\
        for d in artifacts cache params; do case $w in file) echo x > $D/$d;; link) ln -s /etc $D/$d;; \
        fifo) mkfifo $D/$d;; esac; done\necho $w > $D/n";
    let daemon = daemon.script("p", lines).start().await;
    for n in 0..5 {
        let info = daemon.build(job("p", "g", n)).await;
        assert_eq!(
            (&info["Outcome"], &info["ExitCode"]),
            (&json!("succeeded"), &json!(0)),
            "{n}: {info}"
        );
        // No artifacts is no error, whatever stands there.
        let path = format!("/artifacts/p/{}", text(&info, "ID"));
        let tar = daemon.get(path).await.expect(200);
        assert!(!tar.text().contains("root:"), "{n}");
        assert_eq!(daemon.artifact(&info, "passwd").await.status, 404);
    }
}

#[tokio::test]
async fn links_are_relative_and_there_at_every_moment() {
    let daemon = TestDaemon::with(&["succeed"]).await;
    daemon.build(job("succeed", "g", 0)).await;
    daemon.build(job("succeed", "", 0)).await;
    let project = daemon.home.builds().join("succeed");
    let links = [("latest", "ready"), ("groups/g", "../ready")];
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let (watched, stopped) = (project.clone(), stop.clone());
    let watching = tokio::task::spawn_blocking(move || {
        let mut seen = std::collections::BTreeSet::new();
        while !stopped.load(std::sync::atomic::Ordering::Relaxed) {
            for (link, up) in links {
                let target = std::fs::read_link(watched.join(link)).expect("a link");
                assert!(target.starts_with(up), "{target:?}");
                assert!(watched.join(link).join("build_info.json").exists());
                seen.insert(target);
            }
        }
        seen.len()
    });
    for n in 1..6 {
        for group in ["g", ""] {
            let info = daemon.build(job("succeed", group, n)).await;
            let (link, up) = links[usize::from(group == "g")];
            let target = std::fs::read_link(project.join(link)).unwrap();
            assert_eq!(target, PathBuf::from(up).join(text(&info, "ID")));
        }
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    assert!(watching.await.unwrap() > 2);
}

#[tokio::test]
async fn a_link_that_leads_nowhere_or_elsewhere_is_no_base() {
    let daemon = TestDaemon::with(&["succeed"]).await;
    let groups = daemon.home.builds().join("succeed/groups");
    std::fs::create_dir_all(&groups).unwrap();
    let nowhere = format!("../ready/{}", "0".repeat(64));
    for (n, target) in [&nowhere, "/etc", "../../../../etc", "g", "../ready/x"]
        .iter()
        .enumerate()
    {
        let _ = std::fs::remove_file(groups.join("g"));
        symlink(target, groups.join("g")).unwrap();
        let info = daemon.build(job("succeed", "g", n)).await;
        assert_eq!(
            (&info["Incremental"], &info["ExitCode"]),
            (&json!(false), &json!(0))
        );
    }
    std::fs::remove_file(groups.join("g")).unwrap();
    std::fs::write(groups.join("g"), "a file").unwrap();
    assert_eq!(
        daemon.build(job("succeed", "g", 9)).await["Incremental"],
        false
    );
    assert_eq!(
        daemon.build(job("succeed", "g", 10)).await["Incremental"],
        true
    );
}

#[tokio::test]
async fn a_directory_in_the_place_of_a_link_breaks_no_build() {
    let daemon = TestDaemon::with(&["succeed"]).await;
    let place = daemon.home.builds().join("succeed");
    for (link, group) in [("latest", ""), ("groups/g", "g")] {
        let foreign = place.join(link);
        std::fs::create_dir_all(foreign.join("of-another")).unwrap();
        let info = daemon.build(job("succeed", group, 1)).await;
        assert_eq!(
            (&info["Outcome"], &info["Cached"]),
            (&json!("succeeded"), &json!(false)),
            "{link}"
        );
        let again = daemon.build(job("succeed", group, 1)).await;
        assert_eq!(again["Cached"], true, "{link}");
    }
    assert!(names(&place.join("pending")).is_empty());
}

/// Between the build's place and its link there is a moment.
#[tokio::test]
async fn a_link_that_was_unfinished_when_the_daemon_ended_is_put_in_place_unless_a_later_one_is() {
    let mut daemon = TestDaemon::with(&["succeed"]).await;
    let mut ids = Vec::new();
    for n in ["1", "2"] {
        let job = json!({"project": "succeed", "group": "g", "params": {"n": n}});
        ids.push(text(&daemon.build(job).await, "ID").to_owned());
    }
    daemon.stop().await;
    let builds = daemon.home.builds();
    let link = builds.join("succeed/groups/g");
    let own = builds.join(".mistry");
    let new = |id: &str| {
        let new = own.join(format!("link-succeed-{id}"));
        std::os::unix::fs::symlink(format!("../ready/{id}"), new).unwrap();
    };
    std::fs::remove_file(&link).unwrap();
    std::os::unix::fs::symlink(format!("../ready/{}", ids[0]), &link).unwrap();
    for id in [&ids[0], &ids[1], &"0".repeat(64)] {
        new(id);
    }
    // Not one of ours.
    std::fs::write(own.join("link-to-somewhere"), "").unwrap();
    daemon.start_again().await;
    let view = daemon.get("/project/succeed").await.json();
    assert_eq!(view["Groups"]["g"], json!(ids[1]));
    let left = names(&own)
        .into_iter()
        .filter(|name| name.starts_with("link-"));
    assert_eq!(left.collect::<Vec<_>>(), ["link-to-somewhere"]);
}
