//! The proxies of docs/operations.md, configured as they stand there, in front of a daemon.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde_json::json;

use super::http::Server;
use crate::support::daemon::{Daemon, Setup};
use crate::support::{Home, Place};

const OPERATIONS: &str = include_str!("../../../docs/operations.md");

/// The first block of this language in docs/operations.md that holds `needle`.
fn documented(language: &str, needle: &str) -> &'static str {
    OPERATIONS
        .split(&format!("```{language}\n"))
        .skip(1)
        .map(|rest| rest.split("```").next().unwrap())
        .find(|block| block.contains(needle))
        .unwrap_or_else(|| panic!("no {language} block with {needle}"))
}

/// `text` with each of these in the place of what must stand in it.
fn with(text: &str, changes: &[(&str, String)]) -> String {
    changes.iter().fold(text.to_owned(), |text, (from, to)| {
        assert!(text.contains(from), "{from} in {text}");
        text.replace(from, to)
    })
}

/// A certificate of its own for the documented name, and its key.
fn certificate(home: &Home) -> (PathBuf, PathBuf) {
    let (certificate, key) = (home.join("builds.pem"), home.join("builds.key"));
    let mut command = Command::new("openssl");
    command.args([
        "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2",
    ]);
    command.args(["-subj", "/CN=builds.example.org"]);
    command.args([
        "-addext",
        "subjectAltName=DNS:builds.example.org",
        "-keyout",
    ]);
    command.arg(&key).arg("-out").arg(&certificate);
    let made = command.output().unwrap();
    assert!(made.status.success(), "{made:?}");
    (certificate, key)
}

fn curl(port: u16, scheme: &str, path: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new("curl");
    command.args([
        "--silent",
        "--show-error",
        "--insecure",
        "--max-time",
        "60",
        "--noproxy",
        "*",
    ]);
    command.args(["--resolve", &format!("builds.example.org:{port}:127.0.0.1")]);
    command.args(arguments);
    command.arg(format!("{scheme}://builds.example.org:{port}{path}"));
    command.stdin(Stdio::null());
    command
}

/// What is promised of each documented proxy, on a port that is not the usual one.
fn is_a_good_proxy(daemon: &Daemon, port: u16, scheme: &str, who: &[&str]) {
    let text = |path: &str, arguments: &[&str]| {
        let output = curl(port, scheme, path, &[who, arguments].concat())
            .output()
            .unwrap();
        assert!(output.status.success(), "{path}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let code = ["--output", "/dev/null", "--write-out", "%{http_code}"];
    let json = ["--header", "content-type: application/json"];
    // A button: the browser names the page that it is on, with its port.
    let own = format!("origin: {scheme}://builds.example.org:{port}");
    let again = r#"{"project": "artifacts"}"#;
    for (origin, expected) in [
        (&*own, "201"),
        (&*format!("origin: {scheme}://builds.example.org"), "403"),
        ("origin: https://evil.example", "403"),
    ] {
        let asked = [&code[..], &json, &["--header", origin, "--data", again]].concat();
        assert_eq!(text("/jobs", &asked), expected, "{origin}");
    }
    // A large request.
    let large = json!({ "project": "artifacts", "params": { "large": "x".repeat(8 << 20) } });
    let home = Home::on(Place::Host);
    let file = home.join("large.json");
    fs::write(&file, large.to_string()).unwrap();
    let data = format!("@{}", file.display());
    let uploaded = text(
        "/jobs?log=none",
        &[&json[..], &["--data-binary", &data]].concat(),
    );
    assert!(
        uploaded.contains("\"Outcome\":\"succeeded\""),
        "{uploaded:.300}"
    );
    // A part of a large artifact, and all of it.
    let info: serde_json::Value = serde_json::from_str(&uploaded).unwrap();
    let artifact = format!(
        "/artifacts/artifacts/{}/large",
        info["ID"].as_str().unwrap()
    );
    assert_eq!(text(&artifact, &["--range", "20000000-20000003"]), "zzzz");
    let size = ["--output", "/dev/null", "--write-out", "%{size_download}"];
    assert_eq!(text(&artifact, &size), "30000000");
    // Events arrive when they happen, not when the build is over.
    let slow = json!({ "project": "slow", "params": { "port": port.to_string() } });
    let id = daemon.submit(slow);
    daemon.until("slow", &id, "waiting");
    let follow = [who, &["--no-buffer"]].concat();
    let mut following = curl(port, scheme, &format!("/log/slow/{id}"), &follow);
    let mut following = following.stdout(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(following.stdout.take().unwrap()).lines();
    let mut lines = lines.map(|line| line.unwrap());
    assert!(lines.any(|line| line == "data: waiting"));
    daemon.release("slow", &id);
    assert!(lines.any(|line| line == "event: end"));
    assert!(following.wait().unwrap().success());
}

/// A trusted proxy names its client, whatever that client claims, and on whichever connection.
fn names_its_clients(port: u16) {
    let asked = json!({ "project": "asked", "rebuild": true }).to_string();
    for (from, said) in [
        ("127.0.0.5", "X-Forwarded-For: 192.0.2.1"),
        ("127.0.0.6", "Forwarded: for=192.0.2.1"),
        ("127.0.0.5", "X-Other: 1"),
    ] {
        let json = [
            "--header",
            "Content-Type: application/json",
            "--data",
            &asked,
        ];
        let arguments = [&["--interface", from, "--header", said], &json[..]].concat();
        let output = curl(port, "https", "/jobs", &arguments).output().unwrap();
        let info: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(info["AskedBy"], from, "{said}: {info}");
    }
}

#[test]
fn the_documented_proxies_work_on_any_port() {
    let daemon = Setup::on(Place::Host)
        .fixture("slow")
        .script(
            "artifacts",
            "head -c 30000000 /dev/zero | tr '\\0' z > artifacts/large",
        )
        .script("asked", ":")
        .config(json!({
            "hosts": ["builds.example.org"],
            "trusted_proxies": ["127.0.0.1"],
        }))
        .start();
    let upstream = format!("127.0.0.1:{}", daemon.port());
    let tls = documented("nginx", "listen 443 ssl");
    let nginx = Server::nginx(|port, home| {
        let (certificate, key) = certificate(home);
        with(
            tls,
            &[
                ("listen 443 ssl", format!("listen 127.0.0.1:{port} ssl")),
                (
                    "/etc/ssl/certs/builds.pem",
                    certificate.display().to_string(),
                ),
                ("/etc/ssl/private/builds.key", key.display().to_string()),
                ("127.0.0.1:8462", upstream.clone()),
            ],
        )
    });
    is_a_good_proxy(&daemon, nginx.port, "https", &[]);
    names_its_clients(nginx.port);
    // The block for a proxy that knows its users, here before the address and not the socket.
    let known = documented("nginx", "auth_basic ");
    let nginx = Server::nginx(|port, home| {
        let users = home.join("builds.htpasswd");
        fs::write(&users, "alice:{PLAIN}secret\n").unwrap();
        let location = with(
            known,
            &[
                ("/etc/nginx/builds.htpasswd", users.display().to_string()),
                (
                    "http://unix:/run/mistry/mistryd.sock:",
                    format!("http://{upstream}"),
                ),
            ],
        );
        format!("server {{ listen 127.0.0.1:{port};\n{location}\n}}")
    });
    let anonymous = curl(
        nginx.port,
        "http",
        "/healthz",
        &["--write-out", "%{http_code}"],
    );
    let anonymous = { anonymous }.output().unwrap();
    assert!(anonymous.stdout.ends_with(b"401"), "{anonymous:?}");
    is_a_good_proxy(&daemon, nginx.port, "http", &["--user", "alice:secret"]);
    // HAProxy as it stands there, and by both versions of its own protocol.
    let block = documented("haproxy", "frontend builds");
    for protocol in ["", " send-proxy", " send-proxy-v2"] {
        let haproxy = Server::start(
            |file| {
                let mut command = Command::new("/usr/sbin/haproxy");
                command.arg("-f").arg(file).arg("-db");
                command
            },
            |port, home| {
                let (certificate, key) = certificate(home);
                let both = [fs::read(&certificate).unwrap(), fs::read(&key).unwrap()].concat();
                fs::write(&certificate, both).unwrap();
                with(
                    block,
                    &[
                        ("bind :443 ssl", format!("bind 127.0.0.1:{port} ssl")),
                        ("/etc/haproxy/builds.pem", certificate.display().to_string()),
                        ("127.0.0.1:8462", format!("{upstream}{protocol}")),
                    ],
                )
            },
        );
        if protocol.is_empty() {
            is_a_good_proxy(&daemon, haproxy.port, "https", &[]);
        }
        names_its_clients(haproxy.port);
    }
}
