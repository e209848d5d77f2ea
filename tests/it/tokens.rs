//! Access by tokens: with a tokens file, changes over TCP need a token of the right scope, and so does
//! reading where nothing is public; the unix socket needs none. A browser that has sent a token reads by a
//! cookie, and can do nothing else with it.

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
fn asks() -> [(Ask, &'static str); 9] {
    [
        (Ask::get("/healthz"), "nothing"),
        (Ask::get("/index/"), "read"),
        (Ask::get("/"), "read"),
        (Ask::get("/metrics"), "read"),
        (Ask::get("/openapi.json"), "read"),
        (Ask::post("/jobs", &job("succeed")), "build"),
        (Ask::post("/jobs?async", &job("succeed")), "build"),
        (Ask::get("/project/succeed/groups"), "read"),
        (Ask::post("/project/succeed/rebuild", &json!({})), "admin"),
    ]
}

fn status(scope: &str, name: &str, public: Public) -> Vec<u16> {
    let good = vec![200, 201];
    let is_public = scope == "nothing" || (scope == "read" && public == Public::Read);
    match (name, scope) {
        (_, "nothing") => good,
        ("", _) if is_public => good,
        ("" | "unknown", _) => vec![401],
        ("root", _) | ("ci", "build" | "read") | ("eye", "read") => good,
        _ => vec![403],
    }
}

#[tokio::test]
async fn each_client_may_do_what_its_token_allows() {
    for public in [Public::Read, Public::Nothing] {
        let daemon = guarded().await.public(public).start().await;
        for name in ["", "unknown", "eye", "ci", "root"] {
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
async fn a_refused_request_leaves_nothing() {
    let daemon = guarded().await.start().await;
    for name in ["", "unknown", "eye"] {
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
        let body = match path {
            "/jobs" => job("succeed"),
            _ => json!({}),
        };
        Ask::post(path, &body).with("authorization", format!("Bearer {secret}"))
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
    assert!(!daemon.log().contains(secret));
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
    for part in ["mistryd token new", "--token-file", "unix socket"] {
        assert!(refused.stderr.contains(part), "{part}: {refused:?}");
    }
    let built = build(&["--token-file", file.to_str().unwrap()]).await;
    assert_eq!(built.status, 0, "{built:?}");
}

const NAVIGATION: &str = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8";

fn session(method: &str) -> Ask {
    Ask::new(method, "/session").with("content-type", "application/json")
}

/// What a browser keeps after it has shown the token of `name`.
async fn cookie(daemon: &TestDaemon, name: &str) -> String {
    let answer = daemon.ask(with(session("POST"), name)).await.expect(204);
    let set = answer.header("set-cookie");
    let (cookie, rest) = set.split_once("; ").unwrap();
    assert_eq!(rest, "Max-Age=2592000; Path=/; HttpOnly; SameSite=Lax");
    assert!(!cookie.contains("secret"));
    cookie.to_owned()
}

#[tokio::test]
async fn a_browser_reads_by_its_cookie_and_changes_nothing() {
    let daemon = guarded().await.public(Public::Nothing).start().await;
    for name in ["eye", "ci", "root"] {
        let cookie = cookie(&daemon, name).await;
        for (ask, scope) in asks() {
            let answer = daemon.ask(ask.clone().with("cookie", &cookie)).await;
            let expected = match scope {
                "nothing" | "read" => 200,
                _ => 401,
            };
            assert_eq!(answer.status, expected, "{name} {ask:?}: {}", answer.text());
        }
        // Beside others, and after one that another server has set.
        let among = format!("a=b; mistry-read=v1.x.9.0; {cookie}; mistry-read-2=c");
        let head = Ask::new("HEAD", "/").with("cookie", among);
        daemon.ask(head).await.expect(200);
        // It makes no other, and is taken for no token.
        let again = daemon.ask(session("POST").with("cookie", &cookie)).await;
        assert_eq!((again.status, again.header("set-cookie")), (401, ""));
        let (_, value) = cookie.split_once('=').unwrap();
        let bearer = Ask::get("/").with("authorization", format!("Bearer {value}"));
        daemon.ask(bearer).await.expect(401);
        // A token that is shown counts alone.
        let both = with(Ask::get("/"), "unknown").with("cookie", &cookie);
        daemon.ask(both).await.expect(401);
    }
    assert_eq!(daemon.home.engine.containers().len(), 0);
    for name in ["", "unknown"] {
        let refused = daemon.ask(with(session("POST"), name)).await.expect(401);
        assert_eq!(refused.header("set-cookie"), "");
    }
}

#[tokio::test]
async fn where_all_may_read_no_cookie_is_made() {
    let daemon = guarded().await.public(Public::Read).start().await;
    for name in ["", "eye", "root"] {
        let answer = daemon.ask(with(session("POST"), name)).await.expect(204);
        assert_eq!(answer.header("set-cookie"), "", "{name}");
    }
    daemon
        .ask(with(session("POST"), "unknown"))
        .await
        .expect(401);
}

#[tokio::test]
async fn a_cookie_ends_with_its_token_and_outlives_the_daemon() {
    let mut daemon = guarded().await.public(Public::Nothing).start().await;
    let cookie = cookie(&daemon, "eye").await;
    daemon.stop().await;
    daemon.start_again().await;
    let status = async |cookie: &str| {
        let ask = Ask::get("/index/").with("cookie", cookie);
        daemon.ask(ask).await.status
    };
    assert_eq!(status(&cookie).await, 200);
    let renamed = lines().replace("eye ", "eyes ");
    let made_anew = lines().replace(
        &Token::of("eye", vec![Scope::Read], "eye-secret").to_string(),
        &Token::of("eye", vec![Scope::Read], "another").to_string(),
    );
    let without: String = lines()
        .lines()
        .filter(|line| !line.starts_with("eye"))
        .fold(String::new(), |all, line| all + line + "\n");
    for (other, what) in [
        (renamed, "renamed"),
        (made_anew, "made anew"),
        (without, "removed"),
    ] {
        std::fs::write(daemon.home.path("tokens"), other).unwrap();
        assert_eq!(status(&cookie).await, 401, "{what}");
        std::fs::write(daemon.home.path("tokens"), lines()).unwrap();
        assert_eq!(status(&cookie).await, 200, "{what}");
    }
    for changed in [
        cookie.replace(".eye.", ".root."),
        cookie.replace("v1.eye.1", "v1.eye.9"),
        cookie.replace("mistry-read", "mistry-write"),
        format!("{cookie}0"),
        cookie[..cookie.len() - 1].to_owned(),
        "mistry-read=".to_owned(),
        "mistry-read=eye-secret".to_owned(),
    ] {
        assert_eq!(status(&changed).await, 401, "{changed}");
    }
    // The tokens file alone makes none: with another secret it is another server.
    daemon.stop().await;
    std::fs::remove_file(daemon.home.builds().join(".mistry/secret")).unwrap();
    daemon.start_again().await;
    let ask = Ask::get("/index/").with("cookie", &cookie);
    daemon.ask(ask).await.expect(401);
}

#[tokio::test]
async fn a_page_of_another_site_does_nothing_with_a_cookie() {
    let daemon = guarded().await.public(Public::Nothing).start().await;
    let cookie = cookie(&daemon, "root").await;
    let ask = |site: &str, mode: &str, target: &str| {
        Ask::get("/")
            .with("cookie", &cookie)
            .with("sec-fetch-site", site)
            .with("sec-fetch-mode", mode)
            .with("sec-fetch-dest", target)
    };
    for (site, mode, target, status) in [
        ("same-origin", "cors", "empty", 200),
        ("none", "navigate", "document", 200),
        // A link to us in a chat is followed.
        ("cross-site", "navigate", "document", 200),
        ("cross-site", "navigate", "iframe", 403),
        ("cross-site", "no-cors", "image", 403),
        ("cross-site", "cors", "empty", 403),
        // Another port of this host.
        ("same-site", "no-cors", "script", 403),
    ] {
        let answer = daemon.ask(ask(site, mode, target)).await;
        assert_eq!(answer.status, status, "{site} {mode} {target}");
    }
    for method in ["POST", "DELETE"] {
        let foreign = with(session(method), "root").with("sec-fetch-site", "cross-site");
        let refused = daemon.ask(foreign).await.expect(403);
        assert_eq!(refused.header("set-cookie"), "");
        let form = with(session(method), "root").with("content-type", "text/plain");
        daemon.ask(form).await.expect(415);
    }
}

#[tokio::test]
async fn signing_out_takes_the_cookie_away_and_tls_keeps_it_to_itself() {
    let daemon = guarded().await.public(Public::Nothing).start().await;
    let out = daemon.ask(session("DELETE")).await.expect(204);
    assert_eq!(
        out.header("set-cookie"),
        "mistry-read=; Max-Age=0; Path=/; HttpOnly; SameSite=Lax"
    );
    for (name, value) in [
        ("x-forwarded-proto", "https"),
        ("origin", "https://localhost"),
    ] {
        let ask = with(session("POST"), "eye").with(name, value);
        let set = daemon.ask(ask).await.expect(204);
        assert!(set.header("set-cookie").ends_with("; Secure"), "{name}");
    }
    let allow = daemon.ask(with(Ask::get("/session"), "eye")).await;
    assert_eq!(
        (allow.status, allow.header("allow")),
        (405, "POST, DELETE, OPTIONS")
    );
}

#[tokio::test]
async fn a_page_says_how_to_ask_with_a_token_and_over_tls() {
    let guarded = guarded().await.public(Public::Read).start().await;
    let open = TestDaemon::with(&["succeed"]).await;
    let page = async |daemon: &TestDaemon, proto: &str| {
        let ask = Ask::get("/project/succeed")
            .with("accept", NAVIGATION)
            .with("x-forwarded-proto", proto);
        let html = daemon.ask(ask).await.expect(200).text();
        html.replace("<span>", "").replace("</span>", "")
    };
    for proto in ["http", "https"] {
        let html = page(&guarded, proto).await;
        for part in [
            "curl -H &#39;Authorization: Bearer TOKEN&#39; -H".to_owned(),
            format!(" {proto}://"),
        ] {
            assert!(html.contains(&part), "{part}: {html}");
        }
        // The program speaks no TLS.
        let is_plain = proto == "http";
        let flag = " --token-file=FILE";
        assert_eq!(html.contains(flag), is_plain);
        assert_eq!(
            html.contains("mistry build --project=succeed --target=out --url=http://"),
            is_plain
        );
        let html = page(&open, proto).await;
        assert!(!html.contains("--token-file") && !html.contains("Bearer"));
    }
}

#[tokio::test]
async fn the_name_of_a_token_cannot_break_a_header() {
    let name = "d\u{e9}p\u{f4}t;x=\"1\",\u{7}.=%41";
    let line = Token::of(name, vec![Scope::Read], "odd-secret");
    let builder = TestDaemon::builder().await.tokens(format!("{line}\n"));
    let daemon = builder.public(Public::Nothing).start().await;
    let cookie = cookie(&daemon, "odd").await;
    assert!(cookie.bytes().all(|byte| byte.is_ascii_graphic()));
    let read = Ask::get("/").with("cookie", &cookie);
    daemon.ask(read).await.expect(200);
}

#[tokio::test]
async fn a_browser_without_a_token_is_asked_for_one_and_shown_nothing_else() {
    let daemon = guarded().await.public(Public::Nothing).start().await;
    daemon
        .ask(with(Ask::post("/jobs", &job("succeed")), "ci"))
        .await
        .expect(201);
    for path in [
        "/",
        "/?project=succeed",
        "/project/succeed",
        "/projects",
        "/nothing",
    ] {
        let asked = daemon.ask(Ask::get(path).with("accept", NAVIGATION)).await;
        assert_eq!(asked.status, 401, "{path}");
        assert_eq!(asked.header("www-authenticate"), "Bearer");
        assert_eq!(asked.header("content-type"), "text/html; charset=utf-8");
        assert_eq!(asked.header("cache-control"), "no-store");
        let page = asked.text();
        assert!(page.contains("type=\"password\"") && page.contains("autocomplete=\"off\""));
        assert!(!page.contains("succeed"), "{page}");
        // What it is made of is there for all.
        for address in page
            .split(['"', '\''])
            .filter(|part| part.starts_with("/static/"))
        {
            daemon.ask(Ask::get(address)).await.expect(200);
        }
    }
    // The same whatever is there and what is not.
    let page = async |path: &str| {
        daemon
            .ask(Ask::get(path).with("accept", NAVIGATION))
            .await
            .text()
    };
    assert_eq!(
        page("/project/succeed").await,
        page("/project/unknown").await
    );
    // Programs get an error in their format.
    for accept in ["application/json", "*/*"] {
        let answer = daemon.ask(Ask::get("/").with("accept", accept)).await;
        assert_eq!(
            (answer.status, answer.header("www-authenticate")),
            (401, "Bearer")
        );
        assert!(text(&answer.json(), "error").contains("a token is needed"));
    }
    let plain = daemon
        .ask(Ask::get("/").with("accept", "text/plain"))
        .await
        .expect(401);
    assert!(plain.text().starts_with("a token is needed"));
}
