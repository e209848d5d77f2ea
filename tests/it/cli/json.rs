//! Output for scripts.

use clap::CommandFactory;
use serde_json::{Value, json};

use super::Bench;
use crate::support::{
    cli::mistry,
    daemon::{job, names},
    process::{Ended, run},
};

#[tokio::test]
async fn json_is_one_document_and_no_wait_prints_the_id() {
    let bench = Bench::new(&["succeed", "exit-code"]).await;
    let built = bench.build("succeed", &["--json-result"]).await;
    let info: Value =
        serde_json::from_str(&built.stdout).unwrap_or_else(|e| panic!("{e}: {built:?}"));
    assert_eq!((built.status, &info["ExitCode"]), (0, &json!(0)));
    assert_eq!(names(&bench.target()), [".count"]);
    let failed = bench.build("exit-code", &["--json-result"]).await;
    let info: Value =
        serde_json::from_str(&failed.stdout).unwrap_or_else(|e| panic!("{e}: {failed:?}"));
    assert_eq!((failed.status, &info["ExitCode"]), (1, &json!(3)));
    let ended = bench.build("succeed", &["--no-wait"]).await;
    let id = ended.stdout.trim();
    assert_eq!((ended.status, id.len()), (0, 64), "{ended:?}");
    let advice = format!(
        "Build {} is ready. Get the result: mistry fetch ",
        &id[..12]
    );
    assert!(ended.stderr.starts_with(&advice), "{ended:?}");
    let same = bench.build("succeed", &["--async", "--verbose"]).await;
    assert_eq!(same.stdout, ended.stdout);
    let both = bench
        .build("succeed", &["--no-wait", "--json-result"])
        .await;
    let state: Value = serde_json::from_str(&both.stdout).unwrap();
    assert_eq!(state["ID"], ended.stdout.trim());
}

#[tokio::test]
async fn json_result_is_one_document_whatever_happens() {
    let bench = Bench::new(&["succeed"]).await;
    bench.daemon.home.engine.hold("start");
    let id = bench.daemon.submit(job("succeed")).await;
    let document = |ended: &Ended| -> Value {
        serde_json::from_str(&ended.stdout).unwrap_or_else(|error| panic!("{error}: {ended:?}"))
    };
    let build = async |arguments: &[&str]| {
        bench
            .mistry("build", &[&["--json-result"], arguments].concat())
            .await
    };
    let unknown = build(&["--project", "nope"]).await;
    let found = document(&unknown);
    assert_eq!(unknown.status, 3);
    assert_eq!(found["error"], "unknown project 'nope'");
    assert_eq!(found["exit_status"], 3);
    assert!(found["request"].is_string(), "{found}");
    for wrong in [
        &["--project", "succeed", "--", "--a"][..],
        &["--colour"],
        &["--url", "x"],
    ] {
        let ended = build(wrong).await;
        assert_eq!(
            (ended.status, &document(&ended)["exit_status"]),
            (2, &json!(2))
        );
    }
    let late = build(&["--project", "succeed", "--timeout", "3s"]).await;
    let found = document(&late);
    assert_eq!(
        (late.status, &found["exit_status"], &found["job"]),
        (5, &json!(5), &json!(id))
    );
    let late = bench
        .mistry("wait", &["--json", &id, "--timeout", "3s"])
        .await;
    assert_eq!((late.status, &document(&late)["job"]), (5, &json!(id)));
    let away = run(mistry(&["wait", "--json", "--socket", "/nowhere", "aa"])).await;
    assert_eq!(
        (away.status, &document(&away)["exit_status"]),
        (7, &json!(7))
    );
    bench.daemon.home.engine.release("start");
    bench.daemon.wait("succeed", &id).await;
}

#[tokio::test]
async fn each_list_and_state_is_printed_as_the_server_sends_it() {
    let mut bench = Bench::new(&["succeed"]).await;
    let info = bench.daemon.build(job("succeed")).await;
    // Artifacts are counted after the end of a build, and the end of the daemon waits for it.
    bench.daemon.stop().await;
    bench.daemon.start_again().await;
    let id = info["ID"].as_str().unwrap();
    let page = format!("/job/succeed/{id}?json&log=none");
    let gc: Value = {
        let rules = json!({"dry_run": true, "max_age": "7d"});
        bench.daemon.post("/gc", &rules).await.expect(200).json()
    };
    for (verb, arguments, expected) in [
        (
            "list",
            &[][..],
            bench.daemon.get("/index/?limit=50").await.json(),
        ),
        ("projects", &[], bench.daemon.get("/projects").await.json()),
        ("status", &[id], bench.daemon.get(&page).await.json()),
    ] {
        let ended = bench.mistry(verb, &[arguments, &["--json"]].concat()).await;
        let printed: Value = serde_json::from_str(&ended.stdout).unwrap();
        assert_eq!((ended.status, printed), (0, expected), "{verb}");
    }
    let status = bench.mistry("status", &["--json"]).await;
    let status: Value = serde_json::from_str(&status.stdout).unwrap();
    assert_eq!(status["Running"], 0);
    let arguments = ["--dry-run", "--older-than", "7d", "--json"];
    let printed = bench.mistry("gc", &arguments).await;
    let printed: Value = serde_json::from_str(&printed.stdout).unwrap();
    let keys = |value: &Value| {
        value
            .as_object()
            .unwrap()
            .keys()
            .cloned()
            .collect::<Vec<_>>()
    };
    assert_eq!(keys(&printed), keys(&gc));
}

#[tokio::test]
async fn each_refusal_of_a_verb_that_was_asked_for_json_is_one_document() {
    let bench = Bench::new(&[]).await;
    let port = bench.daemon.port().to_string();
    let mut asked = Vec::new();
    for verb in ::mistry::cli::Arguments::command().get_subcommands() {
        let name = verb.get_name();
        let needed: &[&str] = match name {
            "build" => &["--project", "p"],
            "wait" => &["aa"],
            "gc" => &["--dry-run"],
            "list" => &["--project", "p"],
            "status" => &["aa"],
            "projects" => &["p"],
            _ => &[],
        };
        let flags = verb.get_arguments().flat_map(|argument| {
            let aliases = argument.get_visible_aliases().unwrap_or_default();
            aliases.into_iter().chain(argument.get_long())
        });
        for flag in flags.filter(|flag| flag.starts_with("json")) {
            let flag = format!("--{flag}");
            let with_value = format!("{flag}=yes");
            let unknown = [needed, &[&flag, "--bad"]].concat();
            let repeated = [needed, &[&flag, &flag]].concat();
            let valued = [needed, &[&with_value]].concat();
            let no_port = [needed, &["--port", "none", &flag]].concat();
            let no_server = [needed, &[&flag, "--socket", "/nowhere"]].concat();
            let no_address = [needed, &[&flag, "--url", "x"]].concat();
            let refused = [needed, &[&flag, "--port", &port]].concat();
            for (words, status) in [
                (unknown, 2),
                (repeated, 2),
                (valued, 2),
                (no_port, 2),
                (no_address, 2),
                (no_server, 7),
                (refused, 3),
            ] {
                let ended = run(mistry(&[&[name], &words[..]].concat())).await;
                let document: Value = serde_json::from_str(&ended.stdout)
                    .unwrap_or_else(|error| panic!("{error}: {name} {words:?}: {ended:?}"));
                assert_eq!(ended.status, status, "{name} {words:?}: {ended:?}");
                assert_eq!(
                    document["exit_status"], status,
                    "{name} {words:?}: {ended:?}"
                );
                assert!(
                    !document["error"].as_str().unwrap().is_empty(),
                    "{document}"
                );
                assert!(!ended.stderr.is_empty(), "{name} {words:?}");
            }
            asked.push(format!("{name} {flag}"));
        }
    }
    asked.sort();
    assert_eq!(
        asked,
        [
            "build --json",
            "build --json-result",
            "gc --json",
            "list --json",
            "projects --json",
            "status --json",
            "wait --json",
            "wait --json-result",
        ]
    );
    // A verb that has no such flag refuses it in the same form.
    let ended = run(mistry(&["cancel", "--json", "aa"])).await;
    let document: Value = serde_json::from_str(&ended.stdout).unwrap();
    assert_eq!((ended.status, &document["exit_status"]), (2, &json!(2)));
    // After `--`, words are params.
    let ended = run(mistry(&["build", "--bad", "--", "--json=1"])).await;
    assert_eq!((ended.status, ended.stdout.as_str()), (2, ""));
}
