//! Whatever a container prints, a client sends or a project is called: it is text in the page, never
//! markup, never a command, and the page stays responsive.

use serde_json::json;

use super::log;
use super::support::Browser;
use crate::support::Place;
use crate::support::daemon::Setup;

/// Markup that would be noticed if it were parsed: elements of its own, and scripts that print.
pub const MARKUP: &str = "</script></pre></textarea><script>window.isTaken = 1</script>\
    <img src=x onerror='isTaken = 2'><x-hostile><svg/onload=isTaken=3><a href=\"javascript:isTaken=4\">x</a>\
    <style>body{display:none}</style><iframe srcdoc='<script>parent.isTaken=5</script>'></iframe>";
/// Turns what follows around, hides letters.
const BIDI: &str = "\u{202e}desrever\u{2066}\u{200b}\u{feff}";
/// Bytes of the longest line and of the longest param.
const LONG: usize = 1_000_000;
/// Milliseconds in which a page does nothing else than what one of its tasks wants: beyond that a
/// reader calls it frozen. On a slow host everything takes longer.
const FROZEN: u64 = 2_000;

/// The elements that were parsed, and the scripts that ran.
const TAKEN: &str = "[...document.querySelectorAll('x-hostile, img, iframe, script, style, [onload], [onerror], a[href^=javascript]')]
    .filter(one => one.getAttribute('src') !== '/static/page.js').map(one => one.outerHTML).concat(window.isTaken ?? [])";

#[track_caller]
pub fn nothing_is_taken(browser: &Browser) {
    assert_eq!(browser.eval(TAKEN), json!([]), "{}", browser.path());
    let shown = browser.eval("getComputedStyle(document.body).display");
    assert_eq!(shown, "block", "{}", browser.path());
}

/// Whether the page was responsive all the time so far.
#[track_caller]
fn is_not_frozen(browser: &Browser) {
    let longest = "new Promise(done => {
        const longest = list => Math.max(0, ...list.getEntries().map(task => task.duration));
        new PerformanceObserver((list) => done(longest(list))).observe({type: 'longtask', buffered: true});
        setTimeout(() => done(0), 500);
    })";
    let longest = browser.eval(longest).as_f64().unwrap();
    assert!(longest < FROZEN as f64, "{}: {longest} ms", browser.path());
}

/// As the shell's printf has it.
fn octal(text: &str) -> String {
    text.bytes().map(|byte| format!("\\{byte:03o}")).collect()
}

#[test]
fn a_hostile_log_is_text() {
    let script = format!(
        r"echo begun
        printf '{markup}\n{bidi}\n'
        printf 'title \033]0;taken\007 end\n'
        printf 'link \033]8;;javascript:isTaken=6\033\\to\033]8;;\033\\ end\n'
        printf 'moves \033[2J\033[10;10H\033[?1049h end\n'
        printf 'nul \000 and \377\376 no text end\n'
        printf '\033[31mred <b>no bold</b>\033[0m\n'
        printf '10 %%\r50 %%\r100 %% done\n'
        head -c {LONG} /dev/zero | tr '\0' '<'",
        markup = octal(MARKUP),
        bidi = octal(BIDI),
    );
    let daemon = Setup::on(Place::Host).script("hostile", &script).start();
    let info = daemon.succeed(json!({"project": "hostile"}));
    let id = info["ID"].as_str().unwrap();
    let begun = log::find(&daemon, "hostile", id, "begun");
    let browser = Browser::at(daemon.address());
    browser.open(&format!("/job/hostile/{id}"));
    browser.wait_for_text("#log .row", "more bytes");
    nothing_is_taken(&browser);
    assert!(
        browser.title().starts_with("succeeded: hostile"),
        "{}",
        browser.title()
    );
    let lines = log::lines(&browser, begun + 1, begun + 8);
    assert_eq!(lines[0], MARKUP);
    assert!(
        lines[1].starts_with("<U+202E>desrever<U+2066>"),
        "{}",
        lines[1]
    );
    assert_eq!(lines[2], "title  end");
    assert_eq!(lines[3], "link to end");
    assert_eq!(lines[4], "moves  end");
    assert!(lines[5].starts_with("nul ^@ and \u{fffd}"), "{}", lines[5]);
    assert_eq!(lines[6], "red <b>no bold</b>");
    assert_eq!(lines[7], "100 % done");
    log::go_to(&browser, begun + 9);
    nothing_is_taken(&browser);
    is_not_frozen(&browser);
    browser.end();
}

#[test]
fn hostile_params_groups_reasons_and_errors_are_text() {
    let setup = Setup::on(Place::Host).fixture("succeed").fixture("slow");
    let setup = setup.script("broken", "");
    let step = json!([
        "/bin/busybox",
        "sh",
        "-c",
        format!("printf '{}'; exit 7", octal(MARKUP))
    ]);
    let dockerfile = setup.home().join("projects/broken/Dockerfile");
    let text = std::fs::read_to_string(&dockerfile).unwrap();
    std::fs::write(dockerfile, format!("{text}RUN {step}\n")).unwrap();
    let daemon = setup.start();

    let long = format!("{MARKUP}{}", "<b>&amp;\n".repeat(LONG / 9));
    let group = format!("{}{BIDI}", &MARKUP[..150]);
    let params = json!({"markup": MARKUP, "bidi": BIDI, "long": long, "nul": "\0\u{1b}[31m", "_secret": MARKUP});
    let built = daemon.succeed(json!({"project": "succeed", "group": group, "params": params}));
    let broken = daemon.post("/jobs", &json!({"project": "broken"}));
    assert_eq!(broken.status, 500, "{}", broken.text());
    let reason = format!("{MARKUP}{BIDI}");
    let cancelled = daemon.submit(json!({"project": "slow"}));
    daemon.until("slow", &cancelled, "waiting");
    let path = format!("/job/slow/{cancelled}/cancel");
    let answer = daemon.post(&path, &json!({"reason": reason}));
    assert_eq!(answer.status, 202, "{}", answer.text());
    daemon.wait("slow", &cancelled);

    let id = |info: &serde_json::Value| info["ID"].as_str().unwrap().to_owned();
    let (built, broken) = (
        id(&built),
        broken.json()["job"].as_str().unwrap().to_owned(),
    );
    let browser = Browser::at(daemon.address());
    browser.open("/");
    browser.wait_for_text("#link", "● live");
    nothing_is_taken(&browser);
    assert!(
        browser.text("#recent").contains("<x-hostile>")
            || browser.text("#recent").contains("</script>")
    );
    assert!(!browser.text("body").contains('\u{202e}'));

    browser.open(&format!("/job/succeed/{built}"));
    browser.wait_for_text("#log .row", "run 1");
    nothing_is_taken(&browser);
    let params = browser.eval("document.querySelector('.params').textContent");
    let params = params.as_str().unwrap();
    assert!(
        params.contains(MARKUP) && params.contains("<U+202E>desrever"),
        "{params:.2000}"
    );
    assert!(!params.contains('\u{202e}') && !params.contains('\u{1b}'));
    assert!(
        params.len() < 100_000,
        "{} bytes of params are in the page",
        params.len()
    );
    assert_eq!(browser.count(".params .secret"), 1);
    is_not_frozen(&browser);

    browser.open(&format!("/job/broken/{broken}"));
    browser.wait_for("#summary .notice.bad");
    nothing_is_taken(&browser);
    browser.open(&format!("/job/slow/{cancelled}"));
    browser.wait_for_text("#summary .notice", "<x-hostile>");
    browser.wait_for_text("#summary .notice", "<U+202E>desrever");
    nothing_is_taken(&browser);
    browser.open("/project/succeed");
    nothing_is_taken(&browser);

    // The link of the group leads to its builds.
    browser.click("a[href*='group=']");
    browser.wait_for(&format!("#recent tr[data-job='succeed/{built}']"));
    assert_eq!(browser.count("#recent tbody tr"), 1);
    nothing_is_taken(&browser);
    // What a reader searches for stands in its field, not beside it.
    let query = form_urlencoded::Serializer::new(String::new())
        .append_pair("text", "\"><x-hostile onload=isTaken=7>")
        .finish();
    browser.open(&format!("/?{query}"));
    assert_eq!(
        browser.eval("document.querySelector('#search').value"),
        "\"><x-hostile onload=isTaken=7>"
    );
    nothing_is_taken(&browser);
    browser.end();
}

#[test]
fn hostile_artifacts_are_listed_by_names_that_are_text() {
    let daemon = Setup::on(Place::Host).fixture("hostile-artifacts").start();
    let info = daemon.succeed(json!({"project": "hostile-artifacts"}));
    let id = info["ID"].as_str().unwrap();
    let browser = Browser::at(daemon.address());
    browser.open(&format!("/artifacts/hostile-artifacts/{id}/"));
    browser.wait_for_text("main", "plain");
    nothing_is_taken(&browser);
    let text = browser.text("main");
    for expected in [
        "<script>alert(1)<!--script>",
        "new⏎line",
        "esc-<U+001B>[31m",
        "%2e%2e%2fpercent",
        "quote\"and'back\\slash",
    ] {
        assert!(text.contains(expected), "{expected} is not in {text}");
    }
    browser.end();
}

/// The page of a build whose container prints without an end, as fast as it can.
#[test]
fn a_page_answers_while_a_build_prints_without_an_end() {
    let setup = Setup::on(Place::Host).config(json!({"log_limit": "2M"}));
    let script = "trap exit TERM; yes '<b>flood</b>'";
    let daemon = setup.script("flood", script).start();
    let id = daemon.submit(json!({"project": "flood"}));
    daemon.until("flood", &id, "flood");
    let browser = Browser::at(daemon.address());
    browser.open(&format!("/job/flood/{id}"));
    browser.wait_for_text("#log .row", "<b>flood</b>");
    log::wait_for_lines(&browser, "count > 20_000");
    nothing_is_taken(&browser);
    let rows = browser.count("#log .row");
    assert!(rows < 2_000, "{rows} rows");
    is_not_frozen(&browser);
    browser.click("#actions button[data-do=cancel]");
    browser.wait_for("dialog[open] input[name=reason]");
    browser.press("Enter");
    browser.wait_for_text("#summary .notice", "Cancelled by 127.0.0.1");
    browser.end();
}
