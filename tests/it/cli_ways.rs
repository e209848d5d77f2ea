//! The ways out of a bad state with the program `mistry`: a cold build, a reset of the group, the removal
//! of a build.

use serde_json::json;

use crate::garbage::settled;
use crate::support::{
    cli,
    daemon::{TestDaemon, text},
    process::{Ended, run},
};

struct Bench {
    daemon: TestDaemon,
}

impl Bench {
    async fn mistry(&self, arguments: &[&str]) -> Ended {
        let (port, target) = (
            self.daemon.port().to_string(),
            self.daemon.home.path("target"),
        );
        let mut command = cli::mistry(arguments);
        command.env("MISTRY_URL", format!("http://127.0.0.1:{port}"));
        command.current_dir(target);
        run(command).await
    }

    async fn new(daemon: TestDaemon) -> Bench {
        std::fs::create_dir(daemon.home.path("target")).unwrap();
        Bench { daemon }
    }
}

fn build<'a>(group: &'a str, n: &'a str, flags: &[&'a str]) -> Vec<&'a str> {
    let before = ["build", "--project", "succeed", "--group", group];
    [&before, flags, &["--", n]].concat()
}

#[tokio::test]
async fn a_cold_build_is_asked_for_by_a_flag() {
    let bench = Bench::new(TestDaemon::with(&["succeed"]).await).await;
    let read = || std::fs::read_to_string(bench.daemon.home.path("target/.count")).unwrap();
    for is_cached in [false, true] {
        let built = bench.mistry(&build("g", "--n=1", &[])).await;
        assert_eq!(built.status, 0, "{built:?}");
        assert_eq!(built.stdout.contains("cached"), is_cached, "{built:?}");
    }
    let other = bench.mistry(&build("g", "--n=2", &[])).await;
    assert!(other.stdout.contains("incremental"), "{other:?}");
    assert_eq!(read(), "2\n");
    let cold = bench.mistry(&build("g", "--n=2", &["--cold"])).await;
    assert!(
        !cold.stdout.contains("cached") && !cold.stdout.contains("incremental"),
        "{cold:?}"
    );
    assert_eq!(read(), "1\n");
}

#[tokio::test]
async fn groups_are_listed_and_reset() {
    let bench = Bench::new(TestDaemon::with(&["succeed"]).await).await;
    bench.mistry(&build("main", "--n=1", &[])).await;
    let groups = bench.daemon.get("/project/succeed").await.json()["Groups"].clone();
    let id = text(&groups, "main").to_owned();
    settled(&bench.daemon.home, "succeed", &id).await;
    let listed = bench.mistry(&["group", "list", "succeed"]).await;
    let lines: Vec<&str> = listed.stdout.lines().collect();
    assert_eq!(lines.len(), 2, "{listed:?}");
    assert!(
        lines[0].starts_with("GROUP")
            && lines[1].starts_with("main")
            && lines[1].contains(&id[..12]),
        "{listed:?}"
    );
    let unknown = bench.mistry(&["group", "reset", "succeed", "mian"]).await;
    assert_eq!(unknown.status, 3, "{unknown:?}");
    assert!(unknown.stderr.contains("main"), "{unknown:?}");
    let wrong = bench.mistry(&["group", "reset", "succeed", ""]).await;
    assert_eq!(wrong.status, 2, "{wrong:?}");
    let reset = bench.mistry(&["group", "reset", "succeed", "main"]).await;
    assert_eq!(reset.status, 0, "{reset:?}");
    assert_eq!(reset.stdout, "Reset group 'main' of succeed\n");
    assert!(reset.stderr.contains("starts empty"), "{reset:?}");
    let next = bench.mistry(&build("main", "--n=2", &[])).await;
    assert!(!next.stdout.contains("incremental"), "{next:?}");
}

#[tokio::test]
async fn a_build_is_removed_and_a_base_only_with_a_flag() {
    let bench = Bench::new(TestDaemon::with(&["succeed"]).await).await;
    for n in ["--n=1", "--n=2"] {
        bench.mistry(&build("main", n, &[])).await;
    }
    let groups = bench.daemon.get("/project/succeed").await.json()["Groups"].clone();
    let base = text(&groups, "main").to_owned();
    let other = bench.daemon.home.ids("succeed", "ready");
    let other = other.into_iter().find(|id| *id != base).unwrap();
    let removed = bench.mistry(&["rm", &other[..12]]).await;
    assert_eq!(
        (removed.status, removed.stdout, removed.stderr),
        (
            0,
            format!("Removed succeed/{}\n", &other[..12]),
            String::new()
        )
    );
    let kept = bench.mistry(&["rm", &base[..12]]).await;
    assert_eq!(kept.status, 3, "{kept:?}");
    assert!(
        kept.stderr.contains("the base of group 'main'")
            && kept
                .stderr
                .contains(&format!("'mistry rm --base {}'", &base[..12])),
        "{kept:?}"
    );
    let removed = bench.mistry(&["rm", "--base", &base[..12]]).await;
    assert_eq!(removed.status, 0, "{removed:?}");
    assert!(
        removed
            .stderr
            .contains("group 'main', whose next build starts empty"),
        "{removed:?}"
    );
    assert!(bench.daemon.home.ids("succeed", "ready").is_empty());
    assert_eq!(bench.mistry(&["rm", &base]).await.status, 3);
}

#[tokio::test]
async fn remarks_about_a_build_are_warnings_also_when_it_is_cached() {
    let daemon = TestDaemon::builder().await.script("nothing", "true");
    let bench = Bench::new(daemon.start().await).await;
    for _ in 0..2 {
        let built = bench.mistry(&["build", "--project", "nothing"]).await;
        assert_eq!(built.status, 0, "{built:?}");
        assert_eq!(
            built.stderr,
            "warning: the build left nothing in /data/artifacts\n"
        );
    }
    let json = bench
        .mistry(&["build", "--project", "nothing", "--json-result"])
        .await;
    let info: serde_json::Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!(
        info["Warnings"],
        json!(["the build left nothing in /data/artifacts"])
    );
}
