//! The web view's pages show the current state, escape what clients wrote, and load only our own files.

use serde_json::{Value, json};

use crate::support::daemon::{TestDaemon, text};
use crate::support::http::{Answer, Ask};

const BROWSER: &str = "text/html,application/xhtml+xml,*/*;q=0.8";

async fn page(daemon: &TestDaemon, path: &str) -> String {
    let answer = daemon.ask(Ask::get(path).with("accept", BROWSER)).await;
    assert_eq!(answer.status, 200, "{path}: {}", answer.text());
    assert!(
        answer.header("content-type").starts_with("text/html"),
        "{path}"
    );
    let policy = answer.header("content-security-policy");
    assert!(
        policy.starts_with("default-src 'none'") && !policy.contains("unsafe"),
        "{policy}"
    );
    let text = answer.text();
    // Nothing that the content security policy would block.
    let is_inline = |word: &&str| {
        word.starts_with("style=") || (word.starts_with("on") && word.contains("=\""))
    };
    assert_eq!(text.split_whitespace().find(is_inline), None, "{path}");
    text
}

fn numbered(n: usize) -> Value {
    json!({"project": "succeed", "params": {"n": n.to_string()}})
}

async fn ids(daemon: &TestDaemon, query: &str) -> Vec<String> {
    let list = daemon
        .get(format!("/index/{query}"))
        .await
        .expect(200)
        .json();
    let list = list.as_array().unwrap().iter();
    list.map(|item| text(item, "id").to_owned()).collect()
}

#[tokio::test]
async fn a_browser_gets_a_page_where_a_program_gets_json() {
    let daemon = TestDaemon::with(&["succeed"]).await;
    let info = daemon.build(numbered(1)).await;
    let job = format!("/{}", text(&info, "URL"));
    for path in ["/projects", "/project/succeed", "/status", &job] {
        assert!(page(&daemon, path).await.contains("<h1>"), "{path}");
        let json = daemon.get(path).await.expect(200);
        assert_eq!(json.header("content-type"), "application/json");
        // No cache gives one for the other, or either to another client.
        let asked = Ask::get(path).with("accept", BROWSER);
        for (answer, vary) in [
            (&json, "accept"),
            (&daemon.ask(asked).await, "accept, accept-encoding"),
        ] {
            assert_eq!(answer.header("vary"), vary, "{path}");
            assert_eq!(answer.header("cache-control"), "private, no-cache");
        }
        let asked = Ask::get(format!("{path}?json")).with("accept", BROWSER);
        let json = daemon.ask(asked).await.expect(200);
        assert_eq!(json.header("content-type"), "application/json", "{path}");
    }
}

#[tokio::test]
async fn a_browser_that_is_refused_gets_a_page_with_the_same_sentence() {
    let daemon = TestDaemon::with(&[]).await;
    let unknown = format!("/job/p%3Cb%3E/{}", "0".repeat(64));
    for (path, status) in [
        ("/nowhere", 404),
        ("/project/unknown", 404),
        ("/?outcome=%3Cb%3E", 400),
        (unknown.as_str(), 422),
    ] {
        let refused = daemon
            .ask(Ask::get(path).with("accept", BROWSER))
            .await
            .expect(status);
        assert!(
            refused.header("content-type").starts_with("text/html"),
            "{path}"
        );
        assert!(
            refused
                .header("content-security-policy")
                .contains("default-src 'none'")
        );
        let json = daemon.get(path).await.expect(status).json();
        let sentence = text(&json, "error")
            .replace('\'', "&#39;")
            .replace('<', "&#60;")
            .replace('>', "&#62;");
        let html = refused.text();
        assert!(html.contains(&sentence), "{html}");
        assert!(
            html.contains(refused.header("x-request-id")) && !html.contains("<b>"),
            "{html}"
        );
    }
}

#[tokio::test]
async fn how_jobs_were_answered_is_known_over_a_restart() {
    let mut daemon = TestDaemon::with(&["succeed"]).await;
    for _ in 0..3 {
        daemon.build(numbered(1)).await;
    }
    daemon.stop().await;
    daemon.start_again().await;
    daemon.build(numbered(1)).await;
    // The list waits for the scan, which reads what the process before has counted.
    let html = page(&daemon, "/project/succeed").await;
    assert!(html.contains("3 cached, 0 joined of 4 requests"), "{html}");
    assert!(
        html.contains("75 %") && html.contains("1 of 1 builds that are kept"),
        "{html}"
    );
    assert_eq!(
        html.matches("class=\"mark cached\"").count(),
        3 + 1,
        "{html}"
    );
    assert_eq!(html.matches("class=\"mark cold\"").count(), 1 + 1, "{html}");
}

#[tokio::test]
async fn builds_are_found_by_outcome_and_text_wherever_they_are() {
    let daemon = TestDaemon::with(&["succeed", "exit-code"]).await;
    let mut good = Vec::new();
    for n in 0..3 {
        good.push(text(&daemon.build(numbered(n)).await, "ID").to_owned());
    }
    let bad = daemon
        .build(json!({"project": "exit-code", "group": "Feature/X"}))
        .await;
    let bad = text(&bad, "ID").to_owned();
    let only_bad = std::slice::from_ref(&bad);
    for query in [
        "?outcome=failed",
        "?text=feature",
        "?text=exit",
        &format!("?text={}", &bad[..9]),
    ] {
        assert_eq!(ids(&daemon, query).await, only_bad, "{query}");
    }
    assert_eq!(ids(&daemon, "?text=n%3D2").await, good[2..]);
    assert_eq!(ids(&daemon, "?outcome=succeeded").await.len(), 3);
    assert_eq!(ids(&daemon, "?outcome=cancelled").await.len(), 0);
    // The next page is of the same choice.
    let first = daemon
        .get("/index/?outcome=succeeded&text=succeed&limit=2")
        .await;
    let link = first.header("link").to_owned();
    let next = link.split(['<', '>']).nth(1).unwrap();
    assert!(next.contains("outcome=succeeded&text=succeed"), "{link}");
    assert_eq!(daemon.get(next).await.json().as_array().unwrap().len(), 1);
    // The page says it, too, and keeps it in its addresses.
    let html = page(&daemon, "/?outcome=failed&project=&group=&text=").await;
    assert!(html.contains(&bad) && !html.contains(&good[0]));
    assert!(
        html.contains("data-events=\"/events?rows&#38;outcome=failed\""),
        "{html}"
    );
    for wrong in ["outcome=fine", &format!("text={}", "x".repeat(201))] {
        daemon.get(format!("/index/?{wrong}")).await.expect(400);
    }
}

#[tokio::test]
async fn what_clients_wrote_is_text_on_every_page() {
    let daemon = TestDaemon::with(&["succeed"]).await;
    let hostile = "\"><script>alert(1)</script>\u{202e}'";
    let params = json!({"short": hostile, "long": hostile.repeat(2_000), "lines": format!("{hostile}\n").repeat(9), "_secret": "hunter2"});
    let asked = json!({"project": "succeed", "group": hostile, "params": params});
    let info = daemon.build(asked).await;
    let job = format!("/{}", text(&info, "URL"));
    for path in [
        "/",
        "/projects",
        "/project/succeed",
        &job,
        "/?text=%22%3E%3Cscript%3E&group=%22%3E%3Cscript%3E&project=succeed",
    ] {
        let html = page(&daemon, path).await;
        assert_eq!(html.matches("<script").count(), 1, "{path}: {html}");
        assert!(
            !html.contains('\u{202e}') && !html.contains("hunter2"),
            "{path}: {html}"
        );
        assert!(html.len() < 100_000, "{path}: {}", html.len());
    }
    assert!(page(&daemon, &job).await.contains("class=\"secret\""));
}

async fn asset(daemon: &TestDaemon, name: &str, headers: &[(&str, &str)]) -> Answer {
    let mut ask = Ask::get(format!("/static/{name}"));
    for (header, value) in headers {
        ask = ask.with(header, *value);
    }
    daemon.ask(ask).await
}

#[tokio::test]
async fn what_pages_are_made_of_is_kept_by_browsers_and_sent_small() {
    let daemon = TestDaemon::with(&[]).await;
    let html = page(&daemon, "/").await;
    let mut all = 0;
    let mut names: Vec<String> = html
        .split("/static/")
        .skip(1)
        .map(|rest| rest.split('"').next().unwrap().to_owned())
        .collect();
    let mut at = 0;
    while let Some(name) = names.get(at).cloned() {
        at += 1;
        let plain = asset(&daemon, &name, &[]).await.expect(200);
        let small = asset(&daemon, &name, &[("accept-encoding", "br, gzip")])
            .await
            .expect(200);
        assert_eq!(small.header("content-encoding"), "gzip");
        all += small.body.len();
        let tag = plain.header("etag").to_owned();
        let small_tag = small.header("etag").to_owned();
        // Other bytes have another tag.
        assert_ne!(small_tag, tag);
        for (tag, expected) in [
            (tag.clone(), &tag),
            (small_tag.clone(), &small_tag),
            (format!("\"x\", W/{small_tag}"), &small_tag),
        ] {
            for coding in ["gzip", "identity"] {
                let headers = [("if-none-match", &*tag), ("accept-encoding", coding)];
                let known = asset(&daemon, &name, &headers).await.expect(304);
                assert!(known.body.is_empty());
                assert_eq!(known.header("etag"), expected);
                assert_eq!(known.header("vary"), plain.header("vary"));
            }
        }
        for other in ["\"x\"", &tag[1..tag.len() - 1]] {
            let answer = asset(&daemon, &name, &[("if-none-match", other)]).await;
            answer.expect(200);
        }
        let refused = asset(&daemon, &name, &[("accept-encoding", "gzip;q=0")]).await;
        assert_eq!(refused.body, plain.body);
        // What a module asks for is there, too.
        for part in plain.text().split("\"./").skip(1) {
            let part = part.split('"').next().unwrap().to_owned();
            if !names.contains(&part) {
                names.push(part);
            }
        }
    }
    assert!(names.len() > 5, "{names:?}");
    assert!(all < 60_000, "all modules of all pages: {all} bytes");
}

#[tokio::test]
async fn the_overview_says_who_asked_how_builds_began_and_how_many_failed() {
    let daemon = TestDaemon::with(&["succeed", "exit-code"]).await;
    let group = |n: u32| json!({"project": "succeed", "group": "main", "params": {"n": n.to_string(), "_token": "x"}});
    daemon.build(group(1)).await;
    daemon.build(group(2)).await;
    daemon.build(group(2)).await;
    daemon.build(json!({"project": "exit-code"})).await;
    let html = page(&daemon, "/").await;
    for what in [
        "1 of 3 builds failed in 24 h, 1 request answered without a build today",
        ">cold</td>",
        ">incremental</td>",
        "data-ago>",
        "<option>exit-code</option>",
        "<option value=\"main\">main</option>",
        "Recent builds",
        // What tells builds apart comes first.
        "n=1 _token=(secret)",
    ] {
        assert!(html.contains(what), "{what} is not in {html}");
    }
    assert!(html.contains("class=\"faint who\"") && !html.contains("who\" title=\"\""));
    let chosen = page(&daemon, "/?project=succeed&group=main&outcome=succeeded").await;
    for what in [
        "<option selected>succeed</option>",
        "<option value=\"main\" selected>main</option>",
        "<option selected>succeeded</option>",
    ] {
        assert!(chosen.contains(what), "{what} is not in {chosen}");
    }
    let none = page(&daemon, "/?outcome=cancelled").await;
    assert!(none.contains("No builds match these filters."), "{none}");
}

#[tokio::test]
async fn the_page_of_a_project_has_its_builds_before_the_plot_and_a_form_with_its_params() {
    let daemon = TestDaemon::with(&["succeed"]).await;
    let params = json!({"n": "<1>", "_token": "hunter2", "long": "x".repeat(5_000)});
    let job = json!({"project": "succeed", "group": "main", "params": params});
    daemon.build(job).await;
    let html = page(&daemon, "/project/succeed").await;
    let at = |what: &str| {
        html.find(what)
            .unwrap_or_else(|| panic!("{what} is not in {html}"))
    };
    assert!(at("<table id=\"recent\">") < at("<figure class=\"plot\">"));
    assert!(at("Median cold build") < at("<h2>Builds</h2>"));
    let form = &html[at("<form id=\"start\"")..at("</form>")];
    for what in [
        "value=\"main\"",
        "data-param=\"n\"",
        "&#60;1&#62;</textarea>",
        "data-param=\"_token\"",
        "type=\"password\"",
        "too many or too long",
    ] {
        assert!(form.contains(what), "{what} is not in {form}");
    }
    assert!(!html.contains("hunter2") && !form.contains("data-param=\"long\""));
    assert!(html.contains("<span>--group=main</span>"), "{html}");
}

#[tokio::test]
async fn the_form_of_a_described_project_says_which_value_it_was_not_filled_with() {
    let daemon = TestDaemon::with(&["succeed"]).await;
    let described = json!({"params": {"lock": {"required": true}, "n": {}, "other": {}}});
    let settings = daemon.home.projects().join("succeed/mistry.json");
    std::fs::write(settings, described.to_string()).unwrap();
    let params = json!({"n": "1", "lock": "x".repeat(5_000)});
    daemon
        .build(json!({"project": "succeed", "params": params}))
        .await;
    let html = page(&daemon, "/project/succeed").await;
    let form = html.split_once("<form id=\"start\"").unwrap().1;
    let form = form.split_once("</form>").unwrap().0;
    assert_eq!(form.matches("is not filled in").count(), 1, "{form}");
    let lock = form.split_once("data-param=\"lock\"").unwrap().1;
    let lock = lock.split_once("</p>").unwrap().0;
    assert!(lock.contains("is not filled in"), "{lock}");
    assert!(
        !form.contains("xxx") && form.contains("1</textarea>"),
        "{form}"
    );
}

#[tokio::test]
async fn the_page_of_the_host_shows_what_runs_and_the_control_of_the_queue_last() {
    let daemon = TestDaemon::with(&["slow"]).await;
    let id = daemon.submit(json!({"project": "slow"})).await;
    let html = page(&daemon, "/status").await;
    let at = |what: &str| {
        html.find(what)
            .unwrap_or_else(|| panic!("{what} is not in {html}"))
    };
    assert!(at("% used") < at(&id) && at(&id) < at("id=\"actions\""));
    for what in [
        "reachable",
        "in the last minute",
        "not growing",
        "started <time",
    ] {
        at(what);
    }
    let reason = json!({"reason": ""});
    daemon
        .post(format!("/job/slow/{id}/cancel"), &reason)
        .await
        .expect(202);
    daemon.wait("slow", &id).await;
}

#[tokio::test]
async fn an_error_has_a_title_in_words_and_a_directory_the_totals_of_its_build() {
    let daemon = TestDaemon::with(&["succeed"]).await;
    let refused = daemon
        .ask(Ask::get("/nowhere").with("accept", BROWSER))
        .await;
    assert!(
        refused
            .expect(404)
            .text()
            .contains("<h1>There is no such page</h1>")
    );
    let info = daemon.build(numbered(1)).await;
    let path = format!("/artifacts/succeed/{}/", text(&info, "ID"));
    let html = page(&daemon, &path).await;
    assert!(html.contains("2 entries here"), "{html}");
    let projects = page(&daemon, "/projects").await;
    assert!(projects.contains("data-label=\"Builds\""), "{projects}");
}
