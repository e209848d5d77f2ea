//! Who may ask: with a tokens file, what changes something over TCP needs a token of the right
//! scope, and reading, too, where nothing is public; the unix socket needs none.

use mistry::web::{Public, Scope, Token};
use serde_json::json;

use crate::support::{
    daemon::{Builder, Home, TestDaemon, job, text},
    http::{Answer, Ask, At},
    process::run,
};

fn lines() -> String {
    let line =
        |name: &str, scopes: &[Scope]| Token::of(name, scopes.to_vec(), &format!("{name}-secret"));
    format!(
        "# who may\n\n{}\n{}\n{}\n",
        line("eye", &[Scope::Read]),
        line("ci", &[Scope::Build]),
        line("root", &[Scope::Admin]),
    )
}

async fn guarded() -> Builder {
    TestDaemon::builder()
        .await
        .fixture("succeed")
        .tokens(lines())
}

fn with(ask: Ask, name: &str) -> Ask {
    match name {
        "" => ask,
        name => ask.with("authorization", format!("Bearer {name}-secret")),
    }
}

/// What can be asked, and the scope that it needs.
fn asks() -> [(Ask, &'static str); 8] {
    [
        (Ask::get("/healthz"), "nothing"),
        (Ask::get("/index/"), "read"),
        (Ask::get("/"), "read"),
        (Ask::get("/metrics"), "read"),
        (Ask::get("/openapi.json"), "read"),
        (Ask::post("/jobs", &job("succeed")), "build"),
        (Ask::post("/jobs?async", &job("succeed")), "build"),
        (Ask::post("/project/succeed/rebuild", &json!({})), "admin"),
    ]
}

fn status(scope: &str, name: &str, public: Public) -> Vec<u16> {
    let good = vec![200, 201];
    let is_public = scope == "nothing" || (scope == "read" && public == Public::Read);
    match (name, scope) {
        (_, "nothing") => good,
        ("", _) if is_public => good,
        ("" | "stranger", _) => vec![401],
        ("root", _) | ("ci", "build" | "read") | ("eye", "read") => good,
        _ => vec![403],
    }
}

#[tokio::test]
async fn each_may_do_what_his_token_says() {
    for public in [Public::Read, Public::Nothing] {
        let daemon = guarded().await.public(public).start().await;
        for name in ["", "stranger", "eye", "ci", "root"] {
            for (ask, scope) in asks() {
                let answer = daemon.ask(with(ask.clone(), name)).await;
                let expected = status(scope, name, public);
                assert!(
                    expected.contains(&answer.status),
                    "{name} {ask:?}: {} {}",
                    answer.status,
                    answer.text()
                );
                if answer.status == 401 {
                    assert_eq!(answer.header("www-authenticate"), "Bearer");
                }
                if answer.status >= 400 {
                    assert!(!text(&answer.json(), "error").contains("secret"));
                }
            }
        }
    }
}

#[tokio::test]
async fn who_is_turned_away_leaves_nothing() {
    let daemon = guarded().await.start().await;
    for name in ["", "stranger", "eye"] {
        daemon
            .ask(with(Ask::post("/jobs", &job("succeed")), name))
            .await;
    }
    assert_eq!(daemon.home.engine.containers().len(), 0);
    assert_eq!(daemon.get("/index/").await.text(), "[]");
    // What looks like a token and is none.
    for value in [
        "ci-secret",
        "Basic ci-secret",
        "Bearer",
        "Bearer ",
        "Bearer CI-SECRET",
        "Bearer ci-secret x",
    ] {
        let ask = Ask::post("/jobs", &job("succeed")).with("authorization", value);
        assert_eq!(daemon.ask(ask).await.status, 401, "{value}");
    }
    let lower = Ask::post("/jobs", &job("succeed")).with("authorization", "bearer ci-secret");
    daemon.ask(lower).await.expect(201);
}

#[tokio::test]
async fn the_unix_socket_needs_none() {
    let daemon = guarded().await.public(Public::Nothing).start().await;
    let at = At::Unix(daemon.socket());
    for (ask, _) in asks() {
        let answer: Answer = at.ask(ask.clone()).await;
        assert!(
            matches!(answer.status, 200 | 201),
            "{ask:?}: {}",
            answer.text()
        );
    }
}

#[tokio::test]
async fn without_a_tokens_file_everything_is_allowed() {
    let daemon = TestDaemon::with(&["succeed"]).await;
    for (ask, _) in asks() {
        let answer = daemon.ask(ask.clone()).await;
        assert!(
            matches!(answer.status, 200 | 201),
            "{ask:?}: {}",
            answer.text()
        );
    }
}

#[tokio::test]
async fn a_token_works_as_soon_as_it_is_there_and_no_longer() {
    let daemon = guarded().await.start().await;
    let ask = || with(Ask::post("/jobs", &job("succeed")), "new");
    daemon.ask(ask()).await.expect(401);
    let new = Token::of("new", vec![Scope::Build], "new-secret");
    std::fs::write(daemon.home.path("tokens"), format!("{}{new}\n", lines())).unwrap();
    daemon.ask(ask()).await.expect(201);
    std::fs::write(daemon.home.path("tokens"), lines()).unwrap();
    daemon.ask(ask()).await.expect(401);
    daemon
        .ask(with(Ask::post("/jobs", &job("succeed")), "ci"))
        .await
        .expect(201);
}

#[tokio::test]
async fn a_token_is_made_and_used_with_the_programs() {
    let home = Home::new().await;
    home.fixture("succeed");
    let tokens = home.path("tokens");
    std::fs::write(&tokens, "").unwrap();
    home.configure(&json!({ "auth_tokens_file": tokens, "public": "none" }));
    let daemon = home.spawn().await;
    daemon.at.ask(Ask::get("/healthz")).await.expect(200);
    daemon.at.ask(Ask::get("/index/")).await.expect(401);
    let make = async |arguments: &[&str]| {
        let mut command = home.mistryd();
        command.args(["token", "new"]).args(arguments);
        run(command).await
    };
    let made = make(&["ci"]).await;
    assert_eq!(
        (made.status, made.stdout.lines().count()),
        (0, 1),
        "{made:?}"
    );
    let secret = made.stdout.trim();
    let kept = std::fs::read_to_string(&tokens).unwrap();
    assert!(
        kept.starts_with("ci build sha256:") && !kept.contains(secret),
        "{kept}"
    );
    let ask = |path: &str, secret: &str| {
        Ask::post(path, &job("succeed")).with("authorization", format!("Bearer {secret}"))
    };
    daemon.at.ask(ask("/jobs", secret)).await.expect(201);
    daemon
        .at
        .ask(ask("/project/succeed/rebuild", secret))
        .await
        .expect(403);
    let again = make(&["ci", "--scope", "read"]).await;
    assert_eq!((again.status, again.stdout.as_str()), (1, ""), "{again:?}");
    for part in ["token 'ci' already", "delete its line", "/tokens'"] {
        assert!(again.stderr.contains(part), "{again:?}");
    }
    assert_eq!(std::fs::read_to_string(&tokens).unwrap(), kept);
    // As an editor may leave it.
    std::fs::write(&tokens, kept.trim_end()).unwrap();
    let admin = make(&["root", "--scope", "admin,read"]).await;
    daemon
        .at
        .ask(ask("/project/succeed/rebuild", admin.stdout.trim()))
        .await
        .expect(200);
    assert_eq!(std::fs::read_to_string(&tokens).unwrap().lines().count(), 2);
    for wrong in [&["a b"][..], &["#x"], &[""], &["x", "--scope", "fly"], &[]] {
        let refused = make(wrong).await;
        assert_eq!(
            (refused.status, refused.stdout.as_str()),
            (2, ""),
            "{wrong:?}: {refused:?}"
        );
    }
    assert_eq!(std::fs::read_to_string(&tokens).unwrap().lines().count(), 2);
    // The program in the daemon's journal knows neither.
    assert!(!daemon.told().contains(secret));
    let file = home.path("token");
    std::fs::write(&file, format!("{secret}\n")).unwrap();
    let port = daemon.port().to_string();
    let build = |more: &[&str]| {
        let target = home.path("target");
        let mut all = vec!["build", "--project", "succeed", "--port", &port, "--target"];
        all.push(target.to_str().unwrap());
        all.extend_from_slice(more);
        run(crate::support::cli::mistry(&all))
    };
    let refused = build(&[]).await;
    assert_eq!(refused.status, 3, "{refused:?}");
    // What to do, elsewhere and on the host itself.
    for part in [
        "mistryd token new",
        "--token-file",
        "unix socket",
        "'mistry'",
    ] {
        assert!(refused.stderr.contains(part), "{part}: {refused:?}");
    }
    let built = build(&["--token-file", file.to_str().unwrap()]).await;
    assert_eq!(built.status, 0, "{built:?}");
}
