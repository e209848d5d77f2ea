//! The browser driver itself: it detects what it must detect, and its input arrives. The pages here are
//! those of a small server of the tests' own.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::support::Browser;

const PAGE: &str = r#"<!doctype html>
<html lang="en"><head><title>a page</title><link rel="icon" href="data:,">
<style>body { background: white } @media (prefers-color-scheme: dark) { body { background: black } }</style>
</head><body>
<p id="text">without scripts</p>
<input id="field"> <a href="/second">on</a> <button>later</button>
<script>
    const text = document.getElementById("text");
    text.textContent = "with scripts";
    let ballast = [];
    document.querySelector("button").onclick = () => setTimeout(() => { text.textContent = "it is later"; }, 300);
    addEventListener("keydown", (event) => { document.title += " " + event.key; });
</script></body></html>"#;
const SECOND: &str = r#"<!doctype html><title>the second page</title><link rel="icon" href="data:,"><p>second</p>
<script>setTimeout(() => { location.href = "/third"; }, 300)</script>"#;
const THIRD: &str =
    r#"<!doctype html><title>the third page</title><link rel="icon" href="data:,"><p>third</p>"#;
const NOISY: &str =
    r#"<!doctype html><link rel="icon" href="data:,"><script>console.warn("careful")</script>"#;
const FOREIGN: &str = r#"<!doctype html><link rel="icon" href="data:,">
<script>fetch("http://localhost:1/elsewhere").catch(() => { document.title = "asked"; })</script>"#;

/// The address of a server that has these pages until the tests end.
fn site() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // A browser also opens connections that it may need later.
            std::thread::spawn(move || answer(&stream));
        }
    });
    address
}

fn answer(stream: &TcpStream) {
    let mut lines = BufReader::new(stream).lines().map_while(Result::ok);
    let Some(first) = lines.next() else { return };
    lines.find(String::is_empty);
    let page = match first.split(' ').nth(1).unwrap_or_default() {
        "/" => PAGE,
        "/second" => SECOND,
        "/third" => THIRD,
        "/noisy" => NOISY,
        "/foreign" => FOREIGN,
        path => panic!("'{path}' was asked for"),
    };
    let head = "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nConnection: close";
    let length = page.len();
    let mut stream = stream;
    // The client may have gone.
    let _ = write!(stream, "{head}\r\nContent-Length: {length}\r\n\r\n{page}");
}

#[test]
fn the_driver_types_clicks_and_waits_for_changes() {
    let address = site();
    let browser = Browser::at(&address);
    browser.open("/");
    assert_eq!(browser.text("#text"), "with scripts");
    browser.press("j");
    browser.press("Escape");
    assert_eq!(browser.title(), "a page j Escape");
    browser.click("#field");
    browser.write("a?b");
    browser.press("Backspace");
    assert_eq!(browser.eval("document.getElementById('field').value"), "a?");
    browser.click("button");
    browser.wait_for_text("p", "it is later");

    // A wait outlives the page in which it began.
    browser.click("a");
    browser.wait_until("document.title === 'the third page'");
    assert_eq!(browser.path(), "/third");
    browser.wait_for("p");
    assert_eq!(browser.texts("p"), ["third"]);
    browser.open("/");
    browser.back();
    assert_eq!(browser.path(), "/third");
    browser.reload();
    assert_eq!((browser.count("p"), browser.count("b")), (1, 0));
    browser.end();
}

#[test]
fn the_driver_sees_a_page_as_its_reader_does() {
    let address = site();
    let browser = Browser::at(&address);
    browser.open("/");
    assert_eq!(browser.attribute("a", "href").unwrap(), "/second");
    let background = "getComputedStyle(document.body).backgroundColor";
    browser.dark(true);
    assert_eq!(browser.eval(background), "rgb(0, 0, 0)");
    browser.dark(false);
    assert_eq!(browser.eval(background), "rgb(255, 255, 255)");

    browser.resize(390, 700);
    assert_eq!(browser.eval("innerWidth"), 390);
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("page.png");
    browser.screenshot(&file);
    let picture = std::fs::read(file).unwrap();
    assert!(picture.starts_with(b"\x89PNG\r\n\x1a\n"));
    let size = |at: usize| u32::from_be_bytes(picture[at..at + 4].try_into().unwrap());
    assert_eq!((size(16), size(20)), (390, 700));
    assert!(picture.ends_with(b"IEND\xaeB`\x82"));

    browser.set_javascript(false);
    browser.reload();
    assert_eq!(browser.text("#text"), "without scripts");
    browser.wait_for_text("#text", "without");
    browser.set_javascript(true);
    browser.reload();
    browser.wait_for_text("#text", "with scripts");
    browser.end();
}

#[test]
fn the_driver_measures_traffic_and_memory_of_a_page() {
    let address = site();
    let browser = Browser::at(&address);
    browser.open("/");
    let requests = browser.requests();
    let page = &requests[0];
    assert_eq!(requests.len(), 1, "{requests:?}");
    assert_eq!((page.status, page.is_over), (Some(200), true));
    assert!(page.bytes > PAGE.len() as u64, "{page:?}");
    assert!(page.bytes < PAGE.len() as u64 + 500, "{page:?}");

    const BALLAST: u64 = 64 << 20;
    let (heap, resident) = (browser.heap_bytes(), browser.resident_bytes());
    let fill = "ballast = Array.from({length: 64}, (_, n) => new Array(1 << 18).fill(n + 0.5)), 0";
    browser.eval(fill);
    assert!(browser.heap_bytes() > heap + BALLAST);
    assert!(browser.resident_bytes() > resident + BALLAST);
    browser.end();
}

#[test]
fn what_no_page_may_do_is_noticed() {
    let address = site();
    for (path, is_done) in [
        ("/noisy", "document.readyState === 'complete'"),
        ("/foreign", "document.title === 'asked'"),
    ] {
        let browser = Browser::at(&address);
        browser.open(path);
        browser.wait_until(is_done);
        // The console says that no server answers elsewhere; here the request itself is meant.
        browser.forgive("localhost:1/elsewhere");
        let end = catch_unwind(AssertUnwindSafe(|| browser.end()));
        assert!(end.is_err(), "{path}");
    }
    let browser = Browser::at(&address);
    browser.open("/noisy");
    browser.forgive("careful");
    browser.end();
}
