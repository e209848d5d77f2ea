//! Words: each mistake is answered with the next step.

use super::Bench;
use crate::support::{cli::mistry, daemon::TestDaemon, process::run};

#[tokio::test]
async fn a_param_before_the_dashes_is_answered_with_its_place() {
    let mut command = mistry(&["build", "--project", "p", "--lock=@yarn.lock"]);
    command.env("MISTRY_URL", "http://127.0.0.1:1");
    let ended = run(command).await;
    assert_eq!(ended.status, 2, "{ended:?}");
    let tip = "params go after '--': mistry build ... -- --lock=@yarn.lock";
    assert!(ended.stderr.contains(tip), "{ended:?}");
    assert!(!ended.stderr.contains("--socket"), "{ended:?}");
    assert!(!ended.stderr.contains("--url <URL>"), "{ended:?}");
    // A secret stays out of the logs of a CI system.
    let secret = run(mistry(&["build", "--project", "p", "--_token=hunter2"])).await;
    assert!(secret.stderr.contains("-- --_token=@FILE"), "{secret:?}");
    assert!(!secret.stderr.contains("hunter2"), "{secret:?}");
    let misspelt = run(mistry(&["build", "--project", "p", "--rebuld"])).await;
    assert!(misspelt.stderr.contains("'--rebuild'"), "{misspelt:?}");
}

#[tokio::test]
async fn an_absent_server_and_an_unknown_project_have_a_next_step() {
    let away = run(mistry(&["list", "--url", "127.0.0.1:1"])).await;
    assert_eq!(away.status, 7, "{away:?}");
    let lines: Vec<&str> = away.stderr.lines().collect();
    assert!(
        lines[0].starts_with("could not reach the server at http://127.0.0.1:1: "),
        "{away:?}"
    );
    assert!(lines[1].contains("Is mistryd running there?"), "{away:?}");
    let bench = Bench::new(&[]).await;
    let port = bench.daemon.port();
    let unknown = bench.build("nope", &[]).await;
    let expected = format!(
        "unknown project 'nope'\nSee the projects of this server: mistry projects --port {port}\n"
    );
    assert_eq!(unknown.stderr, expected);
    let transport = [
        "--project",
        "succeed",
        "--transport",
        "rsync",
        "--rsync-port",
        "1",
    ];
    bench.daemon.home.fixture("succeed");
    let target = bench.target();
    let arguments = [&transport[..], &["--target", target.to_str().unwrap()]].concat();
    let ended = bench.mistry("build", &arguments).await;
    assert_eq!(ended.status, 4, "{ended:?}");
    assert!(
        ended.stderr.ends_with("--transport http needs neither\n"),
        "{ended:?}"
    );
}

#[tokio::test]
async fn a_collection_without_a_rule_names_the_options_of_the_program() {
    let bench = Bench::new(&[]).await;
    for arguments in [&[][..], &["--dry-run"]] {
        let ended = bench.mistry("gc", arguments).await;
        assert_eq!(ended.status, 3, "{ended:?}");
        let options = "give --older-than, --max-bytes or --min-free: ";
        assert!(ended.stderr.starts_with(options), "{ended:?}");
    }
}

#[tokio::test]
async fn a_collection_right_after_a_build_says_why_it_stays() {
    let bench = Bench::new(&["succeed"]).await;
    assert_eq!(bench.build("succeed", &[]).await.status, 0);
    for rule in [["--max-bytes", "1"], ["--older-than", "1s"]] {
        let ended = bench
            .mistry("gc", &[&["--dry-run"], &rule[..]].concat())
            .await;
        assert_eq!(ended.status, 0, "{ended:?}");
        for why in ["bases of groups", "used in the last two minutes"] {
            assert!(ended.stderr.contains(why), "{ended:?}");
        }
    }
}

#[tokio::test]
async fn an_empty_list_says_so_beside_its_header() {
    let bench = Bench::new(&[]).await;
    let ended = bench.mistry("list", &[]).await;
    assert!(ended.stdout.starts_with("ID "), "{ended:?}");
    assert_eq!(
        (ended.status, ended.stderr.as_str()),
        (0, "no build was found\n")
    );
}

#[tokio::test]
async fn files_that_are_replaced_are_counted_and_their_place_is_named() {
    let bench = Bench::new(&["succeed"]).await;
    let place = format!(" in {}", bench.target().display());
    let first = bench.build("succeed", &["--", "--a=1"]).await;
    assert!(
        first.stdout.ends_with(&format!("2 files{place}\n")),
        "{first:?}"
    );
    let again = bench.build("succeed", &["--", "--a=1"]).await;
    let replaced = format!("2 files{place} (2 replaced earlier ones)\n");
    assert!(again.stdout.ends_with(&replaced), "{again:?}");
}

#[tokio::test]
async fn a_token_may_come_from_the_environment() {
    let daemon = TestDaemon::with(&["succeed"]).await;
    let socket = daemon.socket();
    let list = async |variables: &[(&str, &str)]| {
        let mut command = mistry(&["list", "--socket", socket.to_str().unwrap()]);
        command.envs(variables.iter().copied());
        run(command).await
    };
    assert_eq!(list(&[("MISTRY_TOKEN", "")]).await.status, 0);
    let wrong = list(&[("MISTRY_TOKEN", "two words")]).await;
    assert_eq!(wrong.status, 2, "{wrong:?}");
    assert!(
        wrong.stderr.contains("MISTRY_TOKEN holds no token"),
        "{wrong:?}"
    );
    let file = daemon.home.path("token");
    std::fs::write(&file, "good\n").unwrap();
    // The file has precedence: the variable is not even looked at.
    let both = [
        ("MISTRY_TOKEN", "two words"),
        ("MISTRY_TOKEN_FILE", file.to_str().unwrap()),
    ];
    assert_eq!(list(&both).await.status, 0);
}
