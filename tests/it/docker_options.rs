//! Options of `docker run` and `docker build` in `mistry.json` and config.json: what the Engine is asked for, and
//! what is refused before that.

use mistry::scheduler::HostProxies;
use serde_json::{Value, json};

use crate::bad_input::{refused, unharmed};
use crate::support::daemon::{Home, TestDaemon, job, text};

fn settings(home: &Home, settings: &Value) {
    let file = home.projects().join("succeed/mistry.json");
    std::fs::write(file, settings.to_string()).unwrap();
}

/// The variables of the last container that begin with one of these.
fn variables(daemon: &TestDaemon, names: &[&str]) -> Vec<String> {
    let spec = daemon.home.engine.containers().pop().unwrap().spec;
    let all = spec["Env"].as_array().unwrap().iter();
    let mut all: Vec<String> = all.map(|one| one.as_str().unwrap().to_owned()).collect();
    all.retain(|one| {
        names
            .iter()
            .any(|name| one.starts_with(&format!("{name}=")))
    });
    all.sort();
    all
}

#[tokio::test]
async fn the_engine_gets_the_options_of_the_project_and_the_others_stay_unset() {
    let daemon = TestDaemon::with(&["succeed"]).await;
    let plain = daemon.build(job("succeed")).await;
    let host = daemon.home.engine.containers()[0].spec["HostConfig"].clone();
    for key in ["ShmSize", "Init", "Ulimits", "Dns", "ExtraHosts"] {
        assert_eq!(host[key], Value::Null, "{key}");
    }
    assert_eq!(daemon.home.engine.builds()[0].target, "");
    settings(
        &daemon.home,
        &json!({
            "build_args": {"VERSION": "12"}, "target": "test",
            "shm_size": "128m", "init": true,
            "ulimits": {"nofile": 1024, "core": {"soft": 0, "hard": -1}},
            "dns": ["192.0.2.1"], "extra_hosts": ["db:192.0.2.2", "me:host-gateway"],
        }),
    );
    let info = daemon.build(job("succeed")).await;
    assert_ne!(info["ID"], plain["ID"]);
    let host = daemon.home.engine.containers()[1].spec["HostConfig"].clone();
    for (key, value) in [
        ("ShmSize", json!(128 << 20)),
        ("Init", json!(true)),
        (
            "Ulimits",
            json!([
                {"Name": "core", "Soft": 0, "Hard": -1},
                {"Name": "nofile", "Soft": 1024, "Hard": 1024},
            ]),
        ),
        ("Dns", json!(["192.0.2.1"])),
        ("ExtraHosts", json!(["db:192.0.2.2", "me:host-gateway"])),
    ] {
        assert_eq!(host[key], value, "{key}");
    }
    let build = &daemon.home.engine.builds()[1];
    assert_eq!(build.target, "test");
    assert_eq!(build.build_args["VERSION"], "12");
    assert!(build.build_args.contains_key("uid"));
    // Another value is another image.
    for changed in [
        json!({"build_args": {"VERSION": "13"}, "target": "test"}),
        json!({"build_args": {"VERSION": "13"}, "target": "other"}),
    ] {
        settings(&daemon.home, &changed);
        let other = daemon.build(job("succeed")).await;
        assert_ne!(other["ID"], info["ID"]);
    }
    let builds = daemon.home.engine.builds();
    assert_eq!(builds.len(), 4);
    assert_eq!(builds[3].target, "other");
}

#[tokio::test]
async fn a_project_overrides_the_options_of_the_configuration() {
    let daemon = TestDaemon::builder()
        .await
        .fixture("succeed")
        .rules(|rules| {
            rules.shm_size = serde_json::from_value(json!("1g")).unwrap();
            rules.ulimits = serde_json::from_value(json!({"nofile": 5, "nproc": 7})).unwrap();
            rules.dns = serde_json::from_value(json!(["192.0.2.1"])).unwrap();
            rules.extra_hosts = serde_json::from_value(json!(["a:192.0.2.2"])).unwrap();
        });
    let daemon = daemon.start().await;
    daemon.build(job("succeed")).await;
    settings(
        &daemon.home,
        &json!({"dns": [], "ulimits": {"nofile": 6}, "shm_size": 4096}),
    );
    daemon.build(job("succeed")).await;
    let host = |at: usize| daemon.home.engine.containers()[at].spec["HostConfig"].clone();
    let (first, second) = (host(0), host(1));
    assert_eq!(first["ShmSize"], 1 << 30);
    assert_eq!(first["Dns"], json!(["192.0.2.1"]));
    assert_eq!(first["Ulimits"].as_array().unwrap().len(), 2);
    assert_eq!(second["ShmSize"], 4096);
    assert_eq!(second["Dns"], Value::Null);
    assert_eq!(
        second["Ulimits"],
        json!([{"Name": "nofile", "Soft": 6, "Hard": 6}])
    );
    assert_eq!(second["ExtraHosts"], json!(["a:192.0.2.2"]));
}

#[tokio::test]
async fn variables_have_the_values_of_params_and_of_their_defaults() {
    let daemon = TestDaemon::with(&["succeed"]).await;
    let env = json!({"VERSION": "v${version}-${kind}", "PRICE": "5$$"});
    settings(
        &daemon.home,
        &json!({"env": env, "params": {
            "version": {"required": true}, "kind": {"default": "full"}, "_token": {}
        }}),
    );
    let asked = |params: Value| json!({"project": "succeed", "params": params});
    daemon.build(asked(json!({"version": "1$2"}))).await;
    assert_eq!(
        variables(&daemon, &["VERSION", "PRICE"]),
        ["PRICE=5$", "VERSION=v1$2-full"]
    );
    // Without a description of the params, a request decides which there are.
    settings(&daemon.home, &json!({"env": env}));
    let words = [
        "wrong params of project 'succeed'",
        "param 'kind' is missing (the variable 'VERSION' in its mistry.json takes its value)",
    ];
    refused(
        &daemon,
        asked(json!({"version": "1"})).to_string(),
        422,
        &words,
    )
    .await;
    let both = asked(json!({"version": "1", "kind": "x"}));
    daemon.build(both.clone()).await;
    assert_eq!(variables(&daemon, &["VERSION"]), ["VERSION=v1-x"]);
    assert_eq!(daemon.build(both).await["Cached"], true);
    let nul = asked(json!({"version": "1", "kind": "\0"}));
    refused(&daemon, nul.to_string(), 422, &["NUL bytes"]).await;
}

#[tokio::test]
async fn an_option_that_docker_would_misunderstand_is_an_error_of_the_project() {
    let daemon = TestDaemon::with(&["succeed"]).await;
    for (wrong, words) in [
        (
            json!({"env": {"A": "${_token}"}}),
            &["env: A: ", "not part of the job id"][..],
        ),
        (
            json!({"env": {"HOME": "/"}}),
            &["env: 'HOME' cannot be set here"],
        ),
        (
            json!({"env": {"A": "${lokc}"}, "params": {"lock": {"required": true}}}),
            &["env.A: param 'lokc' is unknown (did you mean 'lock'?)"],
        ),
        (
            json!({"dns": ["dns.example"]}),
            &["dns: ", "found 'dns.example'"],
        ),
        (
            json!({"extra_hosts": ["db"]}),
            &["extra_hosts: ", "found 'db'"],
        ),
        (
            json!({"ulimits": {"nofiles": 1}}),
            &["did you mean 'nofile'?"],
        ),
        (json!({"shm_size": "1"}), &["shm_size: ", "4K to 16T"]),
        (
            json!({"build_args": {"uid": "0"}}),
            &["build_args: 'uid' cannot be set here"],
        ),
        (
            json!({"target": "a b"}),
            &["target: ", "a stage of the Dockerfile"],
        ),
        (
            json!({"shmsize": "1g"}),
            &["did you mean 'shm_size'?", "`ulimits`", "`extra_hosts`"],
        ),
        (
            json!({"host_proxies": true}),
            &["unknown field `host_proxies`", "`build_args`"],
        ),
    ] {
        settings(&daemon.home, &wrong);
        let start = ["project 'succeed' cannot be built: its mistry.json is wrong: "];
        refused(&daemon, job("succeed").to_string(), 422, &start).await;
        refused(&daemon, job("succeed").to_string(), 422, words).await;
        let project = daemon.get("/project/succeed").await.expect(200).json();
        let error = text(&project, "Error").to_owned();
        assert!(words.iter().all(|word| error.contains(word)), "{error}");
    }
    std::fs::remove_file(daemon.home.projects().join("succeed/mistry.json")).unwrap();
    unharmed(&daemon).await;
}

#[tokio::test]
async fn proxies_of_the_host_reach_images_and_containers_and_no_document() {
    const SECRET: &str = "http://user:hunter2@proxy.example:3128";
    let (proxies, _) = HostProxies::of(|name| match name {
        "http_proxy" => Some(SECRET.to_owned()),
        "no_proxy" => Some("localhost".to_owned()),
        _ => None,
    });
    let daemon = TestDaemon::builder().await.fixture("succeed");
    let daemon = daemon.rules(|rules| rules.proxies = proxies).start().await;
    settings(
        &daemon.home,
        &json!({"env": {"no_proxy": "own"}, "build_args": {"NO_PROXY": "arg"}}),
    );
    let info = daemon.build(job("succeed")).await;
    let names = [
        "http_proxy",
        "HTTP_PROXY",
        "no_proxy",
        "NO_PROXY",
        "https_proxy",
    ];
    assert_eq!(
        variables(&daemon, &names),
        [
            format!("HTTP_PROXY={SECRET}"),
            "NO_PROXY=localhost".to_owned(),
            format!("http_proxy={SECRET}"),
            "no_proxy=own".to_owned(),
        ]
    );
    let args = daemon.home.engine.builds()[0].build_args.clone();
    assert_eq!(args["http_proxy"], SECRET);
    assert_eq!(args["HTTP_PROXY"], SECRET);
    assert_eq!(args["no_proxy"], "localhost");
    assert_eq!(args["NO_PROXY"], "arg");
    let id = text(&info, "ID");
    let ready = daemon.home.build("succeed", "ready", id);
    let record = std::fs::read_to_string(ready.join("build_info.json")).unwrap();
    let log = std::fs::read_to_string(ready.join("out.log")).unwrap();
    for shown in [record, log, info.to_string()] {
        assert!(!shown.contains("hunter2"), "{shown}");
    }
}
