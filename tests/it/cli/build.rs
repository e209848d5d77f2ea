//! `mistry build`: artifacts, params, targets, the log while it runs.

use super::Bench;
use crate::support::{cli::mistry, daemon::names, process::run};

#[tokio::test]
async fn a_build_fetches_its_artifacts_and_the_second_is_cached() {
    let bench = Bench::new(&["succeed"]).await;
    let lock = bench.daemon.home.path("lock");
    std::fs::write(&lock, "content\nof a file\n").unwrap();
    let file = format!("--lock=@{}", lock.display());
    let params = [
        "--",
        "--a=b=c",
        "--d",
        "e",
        "--at=@@x",
        &file,
        "--_token=hush",
    ];
    let built = bench.build("succeed", &params).await;
    assert_eq!(built.status, 0, "{built:?}");
    assert_eq!(
        names(&bench.target()),
        [".count", "_token", "a", "at", "d", "lock"]
    );
    let read = |name: &str| std::fs::read_to_string(bench.target().join(name)).unwrap();
    assert_eq!(
        (read("a"), read("d"), read("at")),
        ("b=c".into(), "e".into(), "@x".into())
    );
    assert_eq!(read("lock"), "content\nof a file\n");
    assert!(
        built
            .stdout
            .starts_with("Logs can be found at http://127.0.0.1:"),
        "{built:?}"
    );
    assert!(
        built.stdout.contains("/job/succeed/") && built.stdout.contains("6 files"),
        "{built:?}"
    );
    assert_eq!(built.stdout.lines().count(), 2);
    assert!(!built.stdout.contains("hush") && !built.stderr.contains("hush"));
    // What moves is for terminals only.
    assert_eq!(built.stderr, "");
    std::fs::remove_dir_all(bench.target()).unwrap();
    let cached = bench.build("succeed", &params).await;
    assert!(
        cached.status == 0 && cached.stdout.contains("cached"),
        "{cached:?}"
    );
    assert_eq!(names(&bench.target()).len(), 6);
    assert_eq!(bench.daemon.home.engine.containers().len(), 1);
    let group = bench.build("succeed", &["--group", "g"]).await;
    assert_eq!(group.status, 0);
    let again = bench.build("succeed", &["-g", "g", "--", "n=1"]).await;
    assert!(again.stdout.contains("incremental"), "{again:?}");
    assert_eq!(read(".count"), "2\n");
    let rebuilt = bench.build("succeed", &["--rebuild"]).await;
    assert!(
        rebuilt.status == 0 && !rebuilt.stdout.contains("cached"),
        "{rebuilt:?}"
    );
}

#[tokio::test]
async fn a_target_is_kept_or_cleared_as_asked_and_never_made_for_nothing() {
    let bench = Bench::new(&["succeed", "exit-code"]).await;
    bench.daemon.home.script("none", "true");
    let failed = bench.build("exit-code", &[]).await;
    assert_eq!((failed.status, bench.target().exists()), (1, false));
    // No artifacts is no error.
    let none = bench.build("none", &[]).await;
    assert_eq!(none.status, 0, "{none:?}");
    std::fs::create_dir_all(bench.target().join("deep")).unwrap();
    std::fs::write(bench.target().join(".old"), "").unwrap();
    assert_eq!(bench.build("succeed", &[]).await.status, 0);
    assert_eq!(names(&bench.target()), [".count", ".old", "deep"]);
    assert_eq!(
        bench.build("exit-code", &["--clear-target"]).await.status,
        1
    );
    assert_eq!(names(&bench.target()).len(), 3);
    let cleared = bench.build("succeed", &["--clear-target"]).await;
    assert_eq!(cleared.status, 0, "{cleared:?}");
    let said = "--clear-target: removed 3 entries from ";
    assert!(cleared.stderr.contains(said), "{cleared:?}");
    assert_eq!(names(&bench.target()), [".count"]);
    let local = bench.daemon.home.path("local");
    let arguments = [
        "--project",
        "succeed",
        "--transport",
        "local",
        "--target",
        local.to_str().unwrap(),
    ];
    assert_eq!(bench.mistry("build", &arguments).await.status, 0);
    assert_eq!(names(&local), [".count"]);
}

#[tokio::test]
async fn hostile_artifacts_stay_in_the_target() {
    let bench = Bench::new(&["hostile-artifacts"]).await;
    let outside = names(&bench.daemon.home.path(""));
    let built = bench.build("hostile-artifacts", &[]).await;
    assert_eq!(built.status, 0, "{built:?}");
    let link = std::fs::read_link(bench.target().join("absolute")).unwrap();
    assert_eq!(link, std::path::Path::new("/etc/shadow"));
    assert!(!bench.target().join("fifo").exists());
    assert_eq!(
        std::fs::read_to_string(bench.target().join("new\nline")).unwrap(),
        "newline\n"
    );
    let mut after = names(&bench.daemon.home.path(""));
    after.retain(|name| name != "target");
    assert_eq!(after, outside);
    // Over what the first left, through none of its links.
    assert_eq!(bench.build("hostile-artifacts", &[]).await.status, 0);
}

#[tokio::test]
async fn verbose_prints_the_log_to_standard_error() {
    let bench = Bench::new(&["output"]).await;
    let built = bench.build("output", &["--verbose"]).await;
    let by_environment = |value: &'static str| {
        let port = bench.daemon.port().to_string();
        let arguments = ["build", "--port", &port, "--project", "output", "--rebuild"];
        let mut command = mistry(&arguments);
        command
            .env("MISTRY_VERBOSE", value)
            .current_dir(bench.daemon.home.path(""));
        run(command)
    };
    for (value, is_verbose) in [("1", true), ("0", false), ("", false)] {
        let built = by_environment(value).await;
        let has_log = built.stderr.contains("to standard output\n");
        assert_eq!((built.status, has_log), (0, is_verbose), "{built:?}");
    }
    assert_eq!(built.status, 0, "{built:?}");
    assert!(built.stderr.contains("to standard output\n"), "{built:?}");
    assert!(built.stderr.contains("to standard error"), "{built:?}");
    assert!(!built.stdout.contains("to standard output"), "{built:?}");
}

#[tokio::test]
async fn a_local_transport_fetches_nothing_behind_a_link() {
    let bench = Bench::new(&[]).await;
    let home = &bench.daemon.home;
    let outside = home.path("outside");
    std::fs::create_dir(&outside).unwrap();
    std::fs::write(outside.join("secret"), "outside:").unwrap();
    let lines = format!(
        "rm -rf \"$D/artifacts\"\nln -s '{}' \"$D/artifacts\"",
        outside.display()
    );
    home.script("p", &lines);
    let built = bench.build("p", &["--transport", "local"]).await;
    assert_eq!(built.status, 0, "{built:?}");
    assert!(names(&bench.target()).is_empty(), "{built:?}");
}

/// A forgotten or wrong `--target` must not empty a working copy or a home directory.
#[tokio::test]
async fn a_target_with_more_than_artifacts_is_never_emptied() {
    let bench = Bench::new(&["succeed"]).await;
    let work = bench.daemon.home.path("work");
    std::fs::create_dir_all(work.join("below/.git")).unwrap();
    let port = bench.daemon.port().to_string();
    let server = ["--port", port.as_str(), "--clear-target"];
    let build = [&["build", "--project", "succeed"][..], &server].concat();
    let fetch = [&["fetch", "0"][..], &server].concat();
    for (verb, target, why) in [
        (&build, None, "is the current directory or contains it"),
        (&build, Some("."), "is the current directory or contains it"),
        (
            &build,
            Some(".."),
            "is the current directory or contains it",
        ),
        (&build, Some("below"), "holds .git"),
        (&build, Some("/"), "is the root directory"),
        (&fetch, None, "is the current directory or contains it"),
        (&fetch, Some("below"), "holds .git"),
    ] {
        let target = target.map(|target| ["--target", target]);
        let arguments = [&verb[..], target.as_ref().map_or(&[], |words| &words[..])].concat();
        let mut command = mistry(&arguments);
        command.current_dir(&work);
        let refused = run(command).await;
        assert_eq!(refused.status, 2, "{arguments:?}: {refused:?}");
        assert!(refused.stderr.contains(why), "{arguments:?}: {refused:?}");
        assert!(refused.stderr.contains("--target"), "{refused:?}");
    }
    let mut at_home = mistry(&[&build[..], &["--target", "below"]].concat());
    std::fs::remove_dir(work.join("below/.git")).unwrap();
    at_home.current_dir(&work).env("HOME", work.join("below"));
    let refused = run(at_home).await;
    assert_eq!(refused.status, 2, "{refused:?}");
    assert!(refused.stderr.contains("home directory"), "{refused:?}");
    // Nothing was requested.
    let list = bench.mistry("list", &["--json"]).await;
    assert_eq!(list.stdout.trim(), "[]", "{list:?}");
}
