//! The contract of the command line: addresses, ids, exit statuses.

use clap::CommandFactory;

use super::build_ref::BuildRef;
use super::format::{format_duration, format_size};
use super::*;
use crate::client::{self, Address, Client, ErrorResponse, scripted::Scripted};

fn server(arguments: &[&str]) -> ServerOptions {
    let all = ["mistry"].iter().chain(arguments).chain(&["projects"]);
    parse(all.map(OsString::from)).unwrap().server
}

fn error_response(status: u16) -> Error {
    Error::Server(client::Error::Response(ErrorResponse {
        status,
        message: "no".to_owned(),
        request: String::new(),
        job: None,
        retry_after: None,
    }))
}

#[test]
fn the_definition_of_the_command_line_is_valid() {
    Arguments::command().debug_assert();
}

#[test]
fn the_help_and_the_document_agree_on_what_each_transport_keeps() {
    let cells = |row: Vec<&str>| -> Vec<String> {
        let cells = row.into_iter().map(|cell| cell.trim().to_owned());
        cells.filter(|cell| !cell.is_empty()).collect()
    };
    let document = include_str!("../../docs/operations.md");
    let (_, section) = document
        .split_once("\n## What each transport keeps\n")
        .unwrap();
    let table = section.lines().skip_while(|line| !line.starts_with('|'));
    let mut documented: Vec<_> = table
        .take_while(|line| line.starts_with('|'))
        .map(|line| cells(line.split('|').collect()))
        .collect();
    documented.remove(1);
    assert_eq!(documented[0], ["http", "rsync", "scp", "local"]);
    for verb in ["build", "fetch"] {
        let mut command = Arguments::command();
        let verb = command.find_subcommand_mut(verb).unwrap();
        let help = verb.render_long_help().to_string();
        let rows = help
            .lines()
            .skip_while(|line| cells(vec![line]) != ["http    rsync   scp       local"]);
        let rows: Vec<_> = rows
            .take_while(|line| !line.is_empty())
            .map(|line| cells(line.split("  ").collect()))
            .collect();
        assert_eq!(rows, documented);
        assert!(
            help.lines().all(|line| line.chars().count() <= 100),
            "{help}"
        );
    }
}

#[test]
fn the_help_names_every_exit_status() {
    let help = Arguments::command().render_long_help().to_string();
    for status in ["0", "1", "2", "3", "4", "5", "6", "7", "130"] {
        let line = format!(" {status}  ");
        assert!(
            help.lines()
                .any(|l| l.starts_with(' ') && l.contains(&line)),
            "{status}"
        );
    }
}

#[test]
fn the_error_decides_the_exit_status() {
    let text = String::new;
    let io = || std::io::Error::from(std::io::ErrorKind::BrokenPipe);
    for (error, status) in [
        (Error::BuildFailed(text()), 1),
        (Error::Usage(text()), 2),
        (Error::Refused(text()), 3),
        (error_response(404), 3),
        (error_response(401), 3),
        (error_response(422), 3),
        (error_response(503), 3),
        (error_response(500), 7),
        (
            Error::Server(client::Error::Forbidden {
                path: "/s".into(),
                advice: text(),
            }),
            3,
        ),
        (error_response(502), 7),
        (error_response(429), 3),
        (Error::Fetch(transport::Error::Torn(io())), 4),
        (Error::TimedOut(text()), 5),
        (Error::Stopped(text()), 6),
        (Error::Server(client::Error::Broken(text().into())), 7),
        (Error::Server(client::Error::InvalidResponse(text())), 7),
        (Error::Interrupted(text()), 130),
        (Error::Output(io()), 0),
    ] {
        assert_eq!(error.exit_status(), status, "{error:?}");
    }
}

#[test]
fn the_address_is_the_given_one_or_that_of_this_host() {
    let tcp = |host: &str, port| Address::Tcp(host.to_owned(), port);
    let unix = |path: &str| Address::Unix(path.into());
    let here = || unix("/here");
    for (arguments, address) in [
        (&["--url", ""][..], here()),
        (&["--host", "h"], tcp("h", 8462)),
        (&["-p", "1"], tcp("127.0.0.1", 1)),
        (&["--socket", "/s"], unix("/s")),
        (&["--url", "http://h:1"], tcp("h", 1)),
        (&["--url", "http://h:1", "--port", "2"], tcp("127.0.0.1", 2)),
        (&["--url", "unix:///s"], unix("/s")),
    ] {
        assert_eq!(server(arguments).address(here).unwrap(), address);
    }
    for wrong in [
        &["--socket", "/s", "--port", "1"][..],
        &["--host", ""],
        &["--host=-oProxyCommand=x"],
        &["--url", "x"],
    ] {
        let error = server(wrong).address(here).unwrap_err();
        assert_eq!(error.exit_status(), 2, "{wrong:?}");
    }
}

#[test]
fn suggested_commands_name_the_same_server() {
    let id = "3fa9c1d00000ffff";
    for (arguments, flags) in [
        (&["--port", "4711"][..], " --port 4711"),
        (&["-p", "1", "--host", "h"], " --host h --port 1"),
        (&["--socket", "a dir/s"], " --socket 'a dir/s'"),
        (&["--url", "unix:///s"], " --url unix:///s"),
        (
            &["--token-file=it's", "-p1"],
            r" --port 1 --token-file 'it'\''s'",
        ),
    ] {
        let command = server(arguments).flags.suggest_command("logs -f", id);
        assert_eq!(command, format!("mistry logs -f 3fa9c1d00000{flags}"));
    }
    // Also after the verb.
    let parsed = parse(["mistry", "build", "--project", "p", "-p", "2"].map(OsString::from));
    assert_eq!(parsed.unwrap().server.flags.to_string(), " --port 2");
}

#[test]
fn a_project_in_place_of_the_port_is_explained() {
    let error = |words: &[&str]| {
        parse(words.iter().map(OsString::from))
            .unwrap_err()
            .to_string()
    };
    let tip = "-p is --port; a project is named with --project";
    assert!(error(&["mistry", "build", "-p", "hello"]).contains(tip));
    assert!(error(&["mistry", "list", "-phello"]).contains(tip));
    assert!(!error(&["mistry", "list", "--port", "hello"]).contains(tip));
}

#[test]
fn a_project_without_its_option_and_the_verb_init_have_a_tip() {
    let error = |words: &[&str]| {
        let words = words.iter().map(OsString::from);
        parse(words).unwrap_err().to_string()
    };
    let tip = "a project is named with --project: mistry build --project greet";
    let bare = error(&["mistry", "build", "greet", "-t", "out"]);
    assert!(bare.contains(tip), "{bare}");
    let twice = error(&["mistry", "build", "--project", "greet", "other"]);
    assert!(!twice.contains(tip), "{twice}");
    let init = error(&["mistry", "init"]);
    assert!(init.contains("a project is a directory"), "{init}");
    assert!(!init.contains("pin"), "{init}");
    // A slip keeps the tip of clap.
    let slip = error(&["mistry", "fetsh"]);
    assert!(slip.contains("'fetch'"), "{slip}");
}

#[test]
fn sizes_are_printed_for_people() {
    for (bytes, text) in [
        (0, "0 B"),
        (1_023, "1023 B"),
        (1_024, "1.0 KiB"),
        (10_188, "9.9 KiB"),
        (10_189, "10 KiB"),
        (1_048_063, "1023 KiB"),
        (1_048_064, "1.0 MiB"),
        (13_000_000_000, "12 GiB"),
        (u64::MAX, "16 EiB"),
    ] {
        assert_eq!(format_size(bytes), text);
    }
}

#[test]
fn a_token_is_one_word() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let path = file.path().to_str().unwrap();
    for (text, token) in [
        ("abc\n", Some("abc")),
        ("", None),
        ("a b", None),
        ("a\nb", None),
    ] {
        std::fs::write(path, text).unwrap();
        let read = server(&["--token-file", path]).token().ok().flatten();
        assert_eq!(read.as_deref(), token, "{text:?}");
    }
    assert!(
        server(&["--token-file", "/does/not/exist"])
            .token()
            .is_err()
    );
}

#[test]
fn a_build_may_be_named_by_the_beginning_of_its_id() {
    for (text, project, prefix) in [("3fa9", None, "3fa9"), ("yarn/3fa9", Some("yarn"), "3fa9")] {
        let build: BuildRef = text.parse().unwrap();
        assert_eq!(build.project.map(|p| p.to_string()).as_deref(), project);
        assert_eq!(build.prefix, prefix);
    }
    for wrong in ["", "xyz", "3FA9", "../3fa9", "/3f", &"0".repeat(65)] {
        assert!(wrong.parse::<BuildRef>().is_err(), "{wrong}");
    }
}

#[tokio::test]
async fn an_ambiguous_id_names_its_candidates_and_an_unknown_one_is_refused() {
    let item = |id: &str| {
        format!(
            r#"{{"id":"{id}","project":"p","startedAt":"2026-01-02T03:04:05Z","buildInfo":{{}},"state":"ready"}}"#
        )
    };
    let (a, b) = (
        format!("aa{}", "0".repeat(62)),
        format!("ab{}", "0".repeat(62)),
    );
    let list = Scripted::answer("200 OK", "", &format!("[{},{}]", item(&a), item(&b)));
    let server = Scripted::start(vec![list.clone(), list.clone(), list]).await;
    let client = Client::new(server.address(), None);
    let resolve = |text: &str| {
        let build: BuildRef = text.parse().unwrap();
        let client = client.clone();
        async move { build.resolve(&client).await }
    };
    assert_eq!(resolve("aa").await.unwrap().1.to_string(), a);
    let error = resolve("a").await.unwrap_err();
    assert_eq!(error.exit_status(), 2);
    assert!(error.to_string().contains(&a) && error.to_string().contains(&b));
    assert_eq!(resolve("b").await.unwrap_err().exit_status(), 3);
}

#[test]
fn times_are_printed_short() {
    for (nanos, text) in [
        (180_000_000, "180 ms"),
        (4_250_000_000, "4.2 s"),
        (41_000_000_000, "41 s"),
        (65_000_000_000, "1 m 5 s"),
        (7_380_000_000_000, "2 h 3 m"),
        (-1_000_000_000, ""),
    ] {
        assert_eq!(format_duration(nanos), text);
    }
}

#[tokio::test]
async fn truncated_artifacts_are_fetched_again() {
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(5);
    header.set_mode(0o644);
    tar.append_data(&mut header, "file", &b"whole"[..]).unwrap();
    let tar = tar.into_inner().unwrap();
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/x-tar\r\nContent-Length: {}\r\n\r\n",
        tar.len()
    );
    let answer = |bytes: &[u8]| [head.as_bytes(), bytes].concat();
    let flags = ServerFlags::default();
    let home = tempfile::tempdir().unwrap();
    let target = home.path().display().to_string();
    let words = ["mistry", "fetch", "aa", "--target", &target];
    let verb = parse(words.map(OsString::from)).unwrap().verb;
    let Verb::Fetch(fetch) = verb else {
        unreachable!("{verb:?}")
    };
    let info = crate::api::BuildView {
        project: "p".to_owned(),
        id: "a".repeat(64),
        ..Default::default()
    };
    let torn = || answer(&tar[..600]);
    // It breaks in the middle, before the first byte, and then succeeds.
    let server = Scripted::start(vec![torn(), Vec::new(), answer(&tar)]).await;
    let client = Client::new(server.address(), None);
    let fetched = fetch::fetch_artifacts(&client, &flags, &info, &fetch.transport);
    assert_eq!(fetched.await.unwrap().files, 1);
    let file = std::fs::read_to_string(home.path().join("file")).unwrap();
    assert_eq!(file, "whole");
    // It is bounded.
    let server = Scripted::start(vec![torn(); 4]).await;
    let client = Client::new(server.address(), None);
    let fetched = fetch::fetch_artifacts(&client, &flags, &info, &fetch.transport);
    assert_eq!(fetched.await.unwrap_err().exit_status(), 4);
    assert_eq!(server.asked().len(), 4);
}
