//! What builds, Docker and clients write cannot control a terminal, whichever command prints it: on a
//! terminal (a real one, of script(1)) only colours of logs are left. In a file a log is exact.

use std::process::Command;

use serde_json::json;

use crate::support::{
    cli,
    context::Context,
    daemon::Home,
    http::Ask,
    process::{Ended, run},
};

/// The clipboard, the title, a question that the terminal answers as if it were typed, the cursor, a
/// reset, the same by C1 controls, what is written over, and the direction of writing.
const HOSTILE: &str = "\u{1b}]52;c;cm0gLXJmIC8=\u{7}\u{1b}]0;owned\u{7}\u{1b}[6n\u{1b}[2J\u{1b}[31;1H\u{1b}c\u{9b}2J\u{9d}0;owned\u{9c}\u{8}\u{202e}";
/// The parts of it that would reach a terminal.
/// (Not a backspace: script(1) itself shows the end of its input with two.)
const ORDERS: [&str; 8] = [
    "\u{1b}]",
    "\u{1b}[6n",
    "\u{1b}[2J",
    "\u{1b}[31;1H",
    "\u{1b}c",
    "\u{9b}",
    "\u{9d}",
    "\u{202e}",
];

/// Runs a program on a terminal; all that it writes there is in `stdout`.
async fn on_terminal(command: &Command) -> Ended {
    on_terminal_after("", command).await
}

/// The same after a line of shell on that terminal.
async fn on_terminal_after(before: &str, command: &Command) -> Ended {
    let quote = |word: &std::ffi::OsStr| {
        let word = word.to_str().unwrap().replace('\'', r"'\''");
        format!("'{word}'")
    };
    let mut line: Vec<String> = vec![
        before.into(),
        "exec env -i PATH=/usr/local/bin:/usr/bin:/bin TERM=xterm".into(),
    ];
    for (name, value) in command.get_envs() {
        if let Some(value) = value {
            line.push(format!("{}={}", name.to_str().unwrap(), quote(value)));
        }
    }
    line.push(quote(command.get_program()));
    line.extend(command.get_args().map(quote));
    let mut script = Command::new("script");
    script
        .args(["--quiet", "--return", "--flush", "--command"])
        .arg(line.join(" "))
        .arg("/dev/null")
        .stdin(std::process::Stdio::null());
    if let Some(home) = command.get_current_dir() {
        script.current_dir(home);
    }
    run(script).await
}

#[track_caller]
fn is_harmless(ended: &Ended, shown: &str) {
    let stdout = &ended.stdout;
    for order in ORDERS {
        assert!(!stdout.contains(order), "{order:?}: {ended:?}");
    }
    assert!(stdout.contains(shown), "{shown:?}: {ended:?}");
}

/// A project whose image build and build print hostile bytes, and a plain one.
async fn home() -> Home {
    let home = Home::new().await;
    home.configure(&json!({"auth_tokens_file": "tokens"}));
    std::fs::write(home.path("tokens"), "").unwrap();
    let dockerfile = format!(
        "FROM scratch\nCOPY run.sh /\nRUN echo {HOSTILE}\u{1b}[32mgreen\nENTRYPOINT [\"/run.sh\"]\n"
    );
    let lines = format!(
        "printf '%s\\n' '{HOSTILE}'; printf '\\033[31mred\\033[0m\\nover\\rwritten\\n'
        printf '%s\\n' 'why {HOSTILE}' >&2; exit \"$(cat \"${{DATA:-/data}}/params/code\")\""
    );
    home.project(
        "hostile",
        &Context::of(&dockerfile).script("run.sh", &lines),
    );
    home
}

#[tokio::test]
async fn no_command_of_the_client_passes_on_what_steers_a_terminal() {
    let home = home().await;
    home.configure(&json!({}));
    let daemon = home.spawn().await;
    let port = daemon.port().to_string();
    let mistry = |arguments: &[&str]| {
        let (verb, rest) = arguments.split_first().unwrap();
        let mut command = cli::mistry(&[&[*verb, "--port", &port], rest].concat());
        command.current_dir(home.path(""));
        command
    };
    let build = ["build", "--project", "hostile", "--target", "out"];
    let verbose = [&build[..], &["--verbose", "--", "--code=0"]].concat();
    let built = on_terminal(&mistry(&verbose)).await;
    assert_eq!(built.status, 0, "{built:?}");
    is_harmless(&built, "^[]52;c;cm0gLXJmIC8=^G");
    assert!(
        built.stdout.contains("\u{1b}[31mred"),
        "colours stay: {built:?}"
    );
    let failed = on_terminal(&mistry(&[&build[..], &["--", "--code=3"]].concat())).await;
    assert_eq!(failed.status, 1, "{failed:?}");
    is_harmless(&failed, "why ^[]52;c;");
    let value = format!("x{HOSTILE}\ny");
    let job = json!({"project": "hostile", "params": {"code": "0", "a": value}});
    let info = daemon
        .at
        .ask(Ask::post("/jobs", &job))
        .await
        .expect(201)
        .json();
    let id = info["ID"].as_str().unwrap();
    for verb in [&["logs", id][..], &["logs", "-f", id]] {
        let shown = on_terminal(&mistry(verb)).await;
        assert_eq!(shown.status, 0, "{shown:?}");
        is_harmless(&shown, "^[]0;owned^G");
        assert!(shown.stdout.contains("\u{1b}[31mred"), "{shown:?}");
        // Output to a file is exactly what the build has printed.
        let kept = run(mistry(verb)).await;
        let log = std::fs::read(home.build("hostile", "ready", id).join("out.log")).unwrap();
        assert_eq!(kept.stdout, String::from_utf8(log).unwrap(), "{verb:?}");
        assert!(kept.stdout.contains(HOSTILE) && kept.stdout.contains("over\rwritten\n"));
    }
    for (verb, shown) in [
        (&["list"][..], "a=x^[]52;c;"),
        (&["status", id], "x^[]52;c;"),
        (&["status", HOSTILE], "owned"),
        (&["list", "--project", HOSTILE], ""),
        (&["fetch", id, HOSTILE], ""),
        (&["build", "--project", HOSTILE], ""),
        (&["gc", "--older-than", HOSTILE], "owned"),
        (&["rebuild", "hostile", "--verbose"], "^[]52;c;"),
        (&["cancel", id, "--reason", HOSTILE], ""),
        (&[HOSTILE], "owned"),
    ] {
        is_harmless(&on_terminal(&mistry(verb)).await, shown);
    }
}

#[tokio::test]
async fn no_command_of_the_server_passes_on_what_steers_a_terminal() {
    let home = home().await;
    let mistryd = |arguments: &[&str]| {
        let mut command = home.mistryd();
        command.args(arguments);
        command
    };
    let rebuilt = on_terminal(&mistryd(&["rebuild", "-p", "hostile", "--verbose"])).await;
    assert_eq!(rebuilt.status, 0, "{rebuilt:?}");
    is_harmless(&rebuilt, "^[]52;c;cm0gLXJmIC8=^G");
    assert!(rebuilt.stdout.contains("\u{1b}[32mgreen"), "{rebuilt:?}");
    // Scripts get it unchanged.
    let kept = run(mistryd(&["rebuild", "-p", "hostile", "--verbose"])).await;
    assert!(kept.stdout.contains(HOSTILE), "{kept:?}");
    let refused = format!("FROM scratch\n{HOSTILE} x\n");
    home.project("refused", &Context::of(&refused));
    for (arguments, shown) in [
        (
            &["rebuild", "-p", "refused"][..],
            "Failed to build refused with error",
        ),
        (&["rebuild", "-p", HOSTILE], "owned"),
        (&["token", "new", HOSTILE], "owned"),
        (&["gc", "--older-than", HOSTILE], "owned"),
        (&["--addr", HOSTILE], "owned"),
    ] {
        let ended = on_terminal(&mistryd(arguments)).await;
        assert_ne!(ended.status, 0, "{ended:?}");
        is_harmless(&ended, shown);
    }
    // Also on the standard error of a daemon that is started by hand.
    let wrong = home.path("config.json");
    std::fs::write(wrong, format!("{{\"{}\": 1}}", "\\u001b]52;c;x\\u0007")).unwrap();
    let ended = on_terminal(&mistryd(&[])).await;
    assert_eq!(ended.status, 78, "{ended:?}");
    is_harmless(&ended, "]52;c;x");
}

#[tokio::test]
async fn a_narrow_terminal_and_a_locale_without_utf_8_break_nothing() {
    let home = home().await;
    home.configure(&json!({}));
    let daemon = home.spawn().await;
    let port = daemon.port().to_string();
    let mut command = cli::mistry(&["build", "--port", &port, "--project", "hostile"]);
    command.args(["--", "--code=3"]).env("LC_ALL", "C");
    command.current_dir(home.path(""));
    for columns in ["1", "20"] {
        let failed = on_terminal_after(&format!("stty cols {columns} rows 5;"), &command).await;
        assert_eq!(failed.status, 1, "{failed:?}");
        is_harmless(&failed, "why ^[]52;c;");
        assert!(
            failed.stdout.contains("Build failed with exit code 3\r\n"),
            "{failed:?}"
        );
        let next = format!("--port {port} --project hostile -- --code=3\r\n");
        assert!(failed.stdout.ends_with(&next), "{failed:?}");
    }
    let mut list = cli::mistry(&["list", "--port", &port]);
    list.env("LC_ALL", "C");
    let shown = on_terminal_after("stty cols 20 rows 5;", &list).await;
    for line in ["PROJECT: hostile", "STATE: failed", "ATTEMPT: 2 of 2"] {
        let line = format!("\r\n{line}\r\n");
        assert!(shown.stdout.contains(&line), "{line:?}: {shown:?}");
    }
    assert!(shown.stdout.is_ascii(), "{shown:?}");
    // On a pipe a table stays one.
    let kept = run(list).await.stdout;
    assert!(
        kept.starts_with("ID  ") && kept.lines().count() == 2,
        "{kept}"
    );
}
