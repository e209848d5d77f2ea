//! A project that describes its params: requests are checked against the description on every interface,
//! defaults reach builds, and clients can read it.

use std::collections::HashMap;

use serde_json::{Value, json};

use crate::bad_input::{refused, unharmed};
use crate::support::{
    bus::{manager, name_of},
    bus_harness::Harness,
    cli::mistry,
    daemon::{Home, TestDaemon, job, text},
    process::run,
    proxy::Options,
};

fn describe(home: &Home, params: &str) {
    let settings = home.projects().join("succeed/mistry.json");
    std::fs::write(settings, format!("{{\"params\":{params}}}")).unwrap();
}

const SCHEMA: &str = r#"{
    "lock": { "required": true, "description": "the lock file" },
    "env": { "default": "production", "values": ["staging", "production"] },
    "_token": {},
    "_mode": { "secret": false, "default": "fast" }
}"#;

fn with(params: Value) -> Value {
    json!({ "project": "succeed", "params": params })
}

#[tokio::test]
async fn params_that_a_project_does_not_take_are_refused_with_what_was_expected() {
    let daemon = TestDaemon::with(&["succeed"]).await;
    describe(&daemon.home, SCHEMA);
    let start = "wrong params of project 'succeed': ";
    for (params, words) in [
        (
            json!({}),
            &[start, "param 'lock' is missing (the lock file)"][..],
        ),
        (
            json!({ "lock": "x", "lokc": "y" }),
            &[start, "param 'lokc' is unknown (did you mean 'lock'?)"],
        ),
        (
            json!({ "lock": "x", "_tokn": "y" }),
            &["param '_tokn' is unknown (did you mean '_token'?)"],
        ),
        (
            json!({ "lock": "x", "env": "prod" }),
            &["param 'env': expected 'staging' or 'production', found 'prod'"],
        ),
        (
            json!({ "env": "prod", "colour": "red" }),
            &[
                "param 'colour' is unknown (expected 'lock', 'env', '_token' or '_mode')",
                "param 'env': expected",
                "param 'lock' is missing",
                "; 'mistry projects succeed' lists its params",
            ],
        ),
    ] {
        refused(&daemon, with(params).to_string(), 422, words).await;
    }
    // Also where the id has a ready build: opaque params are not part of it.
    daemon.build(with(json!({ "lock": "x" }))).await;
    let misspelt = with(json!({ "lock": "x", "_tokn": "y" }));
    refused(&daemon, misspelt.to_string(), 422, &["'_tokn' is unknown"]).await;
    std::fs::remove_file(daemon.home.projects().join("succeed/mistry.json")).unwrap();
    let any = daemon.build(with(json!({ "colour": "red" }))).await;
    assert_eq!(any["ExitCode"], 0);
}

#[tokio::test]
async fn a_schema_that_contradicts_itself_is_an_error_of_the_project() {
    let daemon = TestDaemon::with(&["succeed"]).await;
    for (params, word) in [
        (json!({ "a": { "requird": true } }), "params.a.requird"),
        (
            json!({ "a": { "required": true, "default": "x" } }),
            "params.a: expected",
        ),
        (
            json!({ "a": { "default": "x", "values": ["y"] } }),
            "params.a.default: expected",
        ),
        (
            json!({ "a": { "secret": true } }),
            "params.a.secret: expected",
        ),
    ] {
        describe(&daemon.home, &params.to_string());
        let words = [
            "project 'succeed' cannot be built: its mistry.json is wrong: ",
            word,
        ];
        refused(&daemon, job("succeed").to_string(), 422, &words).await;
        // It can still be looked at.
        let project = daemon.get("/project/succeed").await.expect(200).json();
        assert_eq!(project["Params"], Value::Null);
    }
    std::fs::remove_file(daemon.home.projects().join("succeed/mistry.json")).unwrap();
    unharmed(&daemon).await;
}

#[tokio::test]
async fn a_default_reaches_the_build_and_the_id_counts_the_params_as_sent() {
    let mut daemon = TestDaemon::with(&["succeed"]).await;
    describe(&daemon.home, SCHEMA);
    let info = daemon.build(with(json!({ "lock": "x" }))).await;
    assert_eq!(info["Params"], json!({ "lock": "x" }));
    for (name, value) in [("env", "production"), ("_mode", "fast"), ("lock", "x")] {
        let artifact = daemon.artifact(&info, name).await;
        assert_eq!(artifact.expect(200).text(), value, "{name}");
    }
    let id = text(&info, "ID").to_owned();
    // An opaque default leaves the build's directory like a value that was sent.
    let params = daemon
        .home
        .build("succeed", "ready", &id)
        .join("data/params");
    assert!(params.join("env").exists());
    assert!(!params.join("_mode").exists());
    let again = daemon.build(with(json!({ "lock": "x" }))).await;
    assert_eq!((&again["ID"], &again["Cached"]), (&json!(id), &json!(true)));
    let sent = daemon
        .build(with(json!({ "lock": "x", "env": "production" })))
        .await;
    assert_ne!(sent["ID"], info["ID"]);
    let changed = SCHEMA.replace("\"default\": \"production\"", "\"default\": \"staging\"");
    describe(&daemon.home, &changed);
    let changed = daemon.build(with(json!({ "lock": "x" }))).await;
    assert_ne!(changed["ID"], info["ID"]);
    let artifact = daemon.artifact(&changed, "env").await;
    assert_eq!(artifact.expect(200).text(), "staging");
    // A job that an earlier process accepted gets the same.
    daemon.home.engine.hold("build");
    let id = daemon.submit(with(json!({ "lock": "later" }))).await;
    daemon.stop().await;
    daemon.home.engine.release("build");
    daemon.start_again().await;
    let info = daemon.wait("succeed", &id).await;
    let artifact = daemon.artifact(&info, "env").await;
    assert_eq!(artifact.expect(200).text(), "staging");
}

#[tokio::test]
async fn clients_can_read_the_schema() {
    let daemon = TestDaemon::with(&["succeed", "output"]).await;
    describe(&daemon.home, SCHEMA);
    let project = daemon.get("/project/succeed").await.expect(200).json();
    let param = |name: &str,
                 required: bool,
                 description: Value,
                 default: Value,
                 values: Value,
                 secret: bool| {
        json!({
            "Name": name, "Required": required, "Description": description,
            "Default": default, "Values": values, "Secret": secret,
        })
    };
    let null = Value::Null;
    assert_eq!(
        project["Params"],
        json!([
            param(
                "lock",
                true,
                json!("the lock file"),
                null.clone(),
                null.clone(),
                false
            ),
            param(
                "env",
                false,
                null.clone(),
                json!("production"),
                json!(["staging", "production"]),
                false
            ),
            param(
                "_token",
                false,
                null.clone(),
                null.clone(),
                null.clone(),
                true
            ),
            param(
                "_mode",
                false,
                null.clone(),
                json!("fast"),
                null.clone(),
                false
            ),
        ])
    );
    let any = daemon.get("/project/output").await.expect(200).json();
    assert_eq!(any["Params"], Value::Null);
    let port = daemon.port().to_string();
    let projects = async |arguments: &[&str]| {
        let all = [&["projects", "--port", &port], arguments].concat();
        run(mistry(&all)).await
    };
    let shown = projects(&["succeed"]).await;
    assert_eq!(shown.status, 0, "{shown:?}");
    let lines: Vec<&str> = shown.stdout.lines().map(str::trim_end).collect();
    assert_eq!(
        lines,
        [
            "PARAM   NEEDED                VALUES               DESCRIPTION",
            "lock    required              any                  the lock file",
            "env     default 'production'  staging, production",
            "_token  optional              any (secret)",
            "_mode   default 'fast'        any",
        ]
    );
    let any = projects(&["output"]).await;
    assert_eq!((any.status, any.stdout.as_str()), (0, ""));
    assert!(any.stderr.contains("takes any params"), "{any:?}");
    // What is wrong is said here, too, in the words of the build.
    let settings = daemon.home.projects().join("output/mistry.json");
    std::fs::write(settings, r#"{"parms": {"a": {}}}"#).unwrap();
    let fault = "project 'output' cannot be built: its mistry.json is wrong: parms: unknown field";
    let wrong = daemon.get("/project/output").await.expect(200).json();
    assert_eq!(wrong["Params"], Value::Null);
    assert!(text(&wrong, "Error").starts_with(fault), "{wrong}");
    let wrong = projects(&["output"]).await;
    assert_eq!((wrong.status, wrong.stdout.as_str()), (3, ""), "{wrong:?}");
    assert!(wrong.stderr.contains(fault), "{wrong:?}");
    assert!(wrong.stderr.contains("did you mean 'params'?"), "{wrong:?}");
    let unknown = projects(&["Suceed"]).await;
    assert_eq!(unknown.status, 3, "{unknown:?}");
    let meant = "unknown project 'Suceed'; did you mean 'succeed'?";
    assert!(unknown.stderr.contains(meant), "{unknown:?}");
}

#[tokio::test]
async fn requests_over_the_bus_are_checked_the_same_way() {
    let harness = Harness::new().await;
    describe(&harness.home, SCHEMA);
    let manager = manager(&harness.here).await;
    let none = Options::new();
    let wrong = HashMap::from([("lok", "x")]);
    let answer = manager.submit_job("succeed", "", &wrong, &none).await;
    let said = answer.as_ref().unwrap_err().to_string();
    assert_eq!(name_of(answer), "org.freedesktop.DBus.Error.InvalidArgs");
    assert!(
        said.contains("param 'lok' is unknown (did you mean 'lock'?)"),
        "{said}"
    );
    let (_, outcome) = harness.build("succeed", &[("lock", "x")]).await;
    assert_eq!(outcome, "succeeded");
}
