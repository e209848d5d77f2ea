//! The page of a build: why it failed, what has changed, how to build it again.

use serde_json::json;

use crate::support::daemon::{TestDaemon, text};
use crate::support::http::Ask;

/// Prints on both outputs, and ends with a code of its own.
const SCRIPT: &str = r#"
n=0
while [ $n -lt 30 ]; do n=$((n+1)); echo "line <$n>"; done
echo 'src/app.ts(3,5): error TS2322'
echo 'npm WARN deprecated' >&2
echo done > $D/artifacts/out.txt
exit $(cat $D/params/code)
"#;

async fn page(daemon: &TestDaemon, id: &str) -> String {
    let path = format!("/job/tests/{id}");
    let ask = Ask::get(path).with("accept", "text/html,*/*;q=0.8");
    daemon.ask(ask).await.expect(200).text()
}

async fn build(daemon: &TestDaemon, code: u32, group: &str) -> String {
    let params = json!({"code": code.to_string(), "text": "it's <b>", "_token": "hunter2"});
    let job = json!({"project": "tests", "group": group, "params": params});
    text(&daemon.build(job).await, "ID").to_owned()
}

/// An error before more of the other stream than the page shows.
const HIDDEN: &str = r#"
echo 'error TS2322'
n=0
while [ $n -lt 60 ]; do n=$((n+1)); echo "noise <$n>"; done >&2
exit 3
"#;

#[tokio::test]
async fn the_end_of_the_output_on_top_hides_neither_stream() {
    let daemon = TestDaemon::builder().await.script("tests", HIDDEN);
    let daemon = daemon.start().await;
    let red = build(&daemon, 3, "g").await;
    let html = page(&daemon, &red).await;
    let (top, _) = html.split_once("<section id=\"log\"").unwrap();
    let excerpt = top.split_once("class=\"excerpt\"").unwrap().1;
    let (_, behind) = excerpt.split_once("<span>error TS2322\n</span>").unwrap();
    let gap = "<span class=\"gap faint\">… 46 lines\n</span>";
    assert!(behind.starts_with(gap), "{excerpt}");
    assert_eq!(behind.matches("noise ").count(), 14, "{excerpt}");
    assert!(behind.contains("noise &#60;60&#62;"), "{excerpt}");
}

#[tokio::test]
async fn a_failed_build_has_the_end_of_its_output_on_top_and_opens_at_the_end_of_its_log() {
    let daemon = TestDaemon::builder().await.script("tests", SCRIPT);
    let daemon = daemon.start().await;
    let green = build(&daemon, 0, "g").await;
    let red = build(&daemon, 3, "g").await;
    let html = page(&daemon, &red).await;
    let (top, rest) = html.split_once("<section id=\"log\"").unwrap();
    let excerpt = top.split_once("class=\"excerpt\"").unwrap().1;
    for line in ["error TS2322", "npm WARN deprecated", "line &#60;30&#62;"] {
        assert!(excerpt.contains(line), "{line}: {excerpt}");
    }
    assert!(!excerpt.contains("line &#60;3&#62;"), "{excerpt}");
    // Of standard error, and so marked.
    let marked = "<span class=\"stderr\" title=\"standard error\">npm WARN deprecated";
    assert!(excerpt.contains(marked), "{excerpt}");
    // What the image build printed can be folded.
    let info = daemon.info("tests", &red).await;
    let from = format!("data-runs-from=\"{}\"", info["LogRunsFrom"]);
    assert!(rest.contains(&from), "{from}: {html}");
    assert!(rest.contains("data-open=\"end\""), "{html}");
    assert!(rest.contains("download=\"tests-"), "{html}");
    // The log comes before the facts.
    assert!(!top.contains("<aside") && rest.contains("<aside id=\"facts\""));
    let html = page(&daemon, &green).await;
    assert!(
        !html.contains("class=\"excerpt\"") && !html.contains("data-open"),
        "{html}"
    );
}

#[tokio::test]
async fn a_build_links_to_its_neighbours_and_says_what_changed_since_the_last_success() {
    let daemon = TestDaemon::builder().await.script("tests", SCRIPT);
    let daemon = daemon.start().await;
    let green = build(&daemon, 0, "g").await;
    // Of another group.
    let other = build(&daemon, 5, "h").await;
    let extra = daemon.home.projects().join("tests/<new>.txt");
    std::fs::write(extra, "x").unwrap();
    let red = build(&daemon, 3, "g").await;
    let last = build(&daemon, 4, "g").await;
    let html = page(&daemon, &red).await;
    for (id, rel) in [(&green, "prev"), (&last, "next")] {
        let link = format!("href=\"/job/tests/{id}?attempt=1\" rel=\"{rel}\"");
        assert!(html.contains(&link), "{link}: {html}");
    }
    assert!(!html.contains(&other), "{html}");
    let changes = html.split_once("class=\"changes\"").unwrap().1;
    let changes = changes.split_once("</ul>").unwrap().0;
    for what in [
        "1 param differs",
        "code: 0 → 3",
        "1 file changed",
        "&#60;new&#62;.txt (new)",
    ] {
        assert!(changes.contains(what), "{what}: {changes}");
    }
    // A build that succeeded, and one without an earlier success, have nothing to compare.
    for id in [&green, &other] {
        assert!(!page(&daemon, id).await.contains("class=\"changes\""));
    }
}

/// The part of a page between two texts.
#[track_caller]
fn between<'a>(html: &'a str, from: &str, to: &str) -> &'a str {
    let (_, rest) = html
        .split_once(from)
        .unwrap_or_else(|| panic!("{from} is not in {html}"));
    rest.split_once(to).unwrap().0
}

#[tokio::test]
async fn the_page_of_an_earlier_attempt_compares_its_own_record_and_links_to_attempts() {
    let builder = TestDaemon::builder().await;
    let flag = builder.home.path("fail");
    let lines = format!("[ ! -e '{}' ] || exit 9", flag.display());
    let daemon = builder.script("tests", &lines).start().await;
    let job = |n: u32| json!({"project": "tests", "group": "g", "params": {"n": n.to_string()}});
    let green = text(&daemon.build(job(1)).await, "ID").to_owned();
    std::fs::write(&flag, "").unwrap();
    let red = text(&daemon.build(job(2)).await, "ID").to_owned();
    std::fs::remove_file(&flag).unwrap();
    // With another image, and it succeeds.
    let mut again = job(2);
    again["rebuild"] = json!(true);
    assert_eq!(daemon.build(again).await["Number"], 2);

    let html = page(&daemon, &format!("{red}?attempt=1")).await;
    let changes = between(&html, "class=\"changes\"", "</ul>");
    assert!(changes.contains("n: 1 → 2"), "{changes}");
    assert!(!changes.contains("image"), "{changes}");
    let around = between(&html, "<nav class=\"around\"", "</nav>");
    let previous = format!("href=\"/job/tests/{green}?attempt=1\" rel=\"prev\"");
    let next = format!("href=\"/job/tests/{red}?attempt=2\" rel=\"next\"");
    for link in [&*previous, &next, "succeeded</span> attempt 2 <code>"] {
        assert!(around.contains(link), "{link}: {around}");
    }
    let html = page(&daemon, &green).await;
    let around = between(&html, "<nav class=\"around\"", "</nav>");
    assert!(around.contains(&next), "{around}");
    // Each page reads the log of its own attempt, also while another one takes its place.
    let html = page(&daemon, &red).await;
    let log = format!("data-log=\"/log/tests/{red}?attempt=2\"");
    assert!(html.contains(&log), "{html}");
    // The failed one is later than the success beside which it failed.
    std::fs::write(&flag, "").unwrap();
    let mut again = job(2);
    again["rebuild"] = json!(true);
    assert_eq!(daemon.build(again).await["Number"], 3);
    let html = page(&daemon, &format!("{red}?attempt=3")).await;
    let changes = between(&html, "class=\"changes\"", "</ul>");
    assert!(changes.contains("the image is another one"), "{changes}");
    let around = between(&html, "<nav class=\"around\"", "</nav>");
    let previous = format!("href=\"/job/tests/{red}?attempt=2\" rel=\"prev\"");
    assert!(around.contains(&previous), "{around}");
}

#[tokio::test]
async fn the_command_that_builds_the_same_job_again_has_its_values_and_no_secret() {
    let daemon = TestDaemon::builder().await.script("tests", SCRIPT);
    let daemon = daemon.start().await;
    let red = build(&daemon, 3, "my group").await;
    let html = page(&daemon, &red).await;
    let command = html.split_once("data-copy>").unwrap().1;
    let command = command.split_once("</code>").unwrap().0;
    let command = command.replace("<span>", "").replace("</span>", "");
    let start =
        "mistry build --project=tests &#39;--group=my group&#39; --target=out --url=http://";
    let end = " -- --_token=@FILE --code=3 &#39;--text=it&#39;\\&#39;&#39;s &#60;b&#62;&#39;";
    assert!(
        command.starts_with(start) && command.ends_with(end),
        "{command}"
    );
    // It is whole; the end of the log beside it may have a gap.
    assert!(!command.contains('…'), "{command}");
    assert!(!html.contains("hunter2"), "{html}");
}

#[tokio::test]
async fn a_build_that_waits_for_a_slot_has_no_start_yet() {
    let builder = TestDaemon::builder().await.fixture("slow").slots(1);
    let daemon = builder.start().await;
    let mut pages = Vec::new();
    for n in ["first", "second"] {
        let job = json!({"project": "slow", "params": {"n": n}});
        let id = daemon.submit(job).await;
        if n == "first" {
            daemon.home.engine.wait_for("start", 1).await;
        }
        let ask = Ask::get(format!("/job/slow/{id}")).with("accept", "text/html,*/*;q=0.8");
        pages.push((daemon.ask(ask).await.expect(200).text(), id));
    }
    let has_start = |at: usize| pages[at].0.contains("<dt>Started</dt>");
    assert!(has_start(0) && !has_start(1), "{}", pages[1].0);
    for (_, id) in pages.iter().rev() {
        let path = format!("/job/slow/{id}/cancel");
        daemon.post(path, &json!({})).await.expect(202);
        daemon.wait("slow", id).await;
    }
}

#[tokio::test]
async fn the_reason_of_a_cancelled_build_is_shown_once() {
    let daemon = TestDaemon::with(&["slow"]).await;
    let id = daemon.submit(json!({"project": "slow"})).await;
    let reason = json!({"reason": "not needed any more"});
    let path = format!("/job/slow/{id}");
    daemon
        .post(format!("{path}/cancel"), &reason)
        .await
        .expect(202);
    daemon.wait("slow", &id).await;
    let ask = Ask::get(path).with("accept", "text/html,*/*;q=0.8");
    let html = daemon.ask(ask).await.expect(200).text();
    let summary = html.split_once("<section").unwrap().0;
    assert_eq!(
        summary.matches("not needed any more").count(),
        1,
        "{summary}"
    );
}
