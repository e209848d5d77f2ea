//! The artifacts of a build can be viewed in a browser, and none of them becomes a page, leads out of
//! the build, or makes the server read more than a page shows.

use serde_json::Value;

use crate::support::{
    daemon::{TestDaemon, job, text},
    http::{Answer, Ask},
};

fn path(info: &Value) -> String {
    format!("/artifacts/{}/{}", text(info, "Project"), text(info, "ID"))
}

async fn page(daemon: &TestDaemon, address: &str) -> String {
    let answer = daemon.ask(Ask::get(address)).await.expect(200);
    assert_eq!(answer.header("content-type"), "text/html; charset=utf-8");
    let policy = answer.header("content-security-policy").to_owned();
    assert!(policy.starts_with("default-src 'none'"), "{policy}");
    assert!(!policy.contains("unsafe"), "{policy}");
    answer.text()
}

const LEFT: &str = r#"cd $D/artifacts
mkdir -p dir/sub v10 v9
printf 'one\r\n\ttwo <b>&amp;</b>\n\nfour' > notes.txt
printf '<script>alert(1)</script>\n' > page.html
printf '<svg xmlns="http://www.w3.org/2000/svg" onload="alert(1)"/>' > picture.svg
printf '\211PNG\r\n' > picture.png
printf '%%PDF-1.4' > paper.pdf
printf 'MZ' > program
printf 'a\0b' > zero.txt
printf 'a\377b' > latin.txt
printf 'x\342\200\256y\033[31mz' > bidi.log
: > empty.txt
head -c 300000 /dev/zero | tr '\0' a > long.txt
head -c 70000 /dev/zero | tr '\0' '\n' > lines.txt
truncate -s 1G sparse.txt
chmod 4711 program
touch -d '2001-02-03 04:05:06 UTC' notes.txt
ln -s notes.txt link.txt
ln -s /etc/passwd out.txt
ln -s ../../../../../../../etc/passwd far.txt
ln -s ../params up
mkfifo pipe.txt
: > "$(printf 'gpj\342\200\256.exe')"
: > '"><img src=x onerror=alert(1)>'"#;

async fn left() -> (TestDaemon, Value) {
    let daemon = TestDaemon::builder().await.script("p", LEFT).start().await;
    let info = daemon.build(job("p")).await;
    assert_eq!(info["Outcome"], "succeeded", "{info}");
    (daemon, info)
}

#[tokio::test]
async fn a_directory_page_shows_names_sizes_and_times() {
    let (daemon, info) = left().await;
    let below = path(&info);
    let shown = page(&daemon, &format!("{below}/")).await;
    let at = |part: &str| {
        let found = shown.find(part);
        found.unwrap_or_else(|| panic!("{part} in {shown}"))
    };
    // Directories first, then in natural order.
    let order = [">dir/<", ">v9/<", ">v10/<", ">bidi.log<", ">notes.txt<"];
    assert!(order.map(at).is_sorted(), "{shown}");
    for part in [
        "title=\"300000 bytes\">293.0 KiB<",
        "title=\"1073741824 bytes\">1.0 GiB<",
        "<time datetime=\"2001-02-03T04:05:06.000Z\"",
        "→ /etc/passwd<",
        ">special<",
        "All artifacts as tar",
        "gpj&#60;U+202E&#62;.exe",
        "23 entries",
    ] {
        at(part);
    }
    assert!(
        !shown.contains("<img") && !shown.contains('\u{202e}'),
        "{shown}"
    );
    assert!(shown.contains(&format!("href=\"/job/p/{}\"", text(&info, "ID"))));
    // From a directory up to the build, and back down.
    let sub = page(&daemon, &format!("{below}/dir/sub")).await;
    assert!(sub.contains(&format!("href=\"{below}/dir/\"")), "{sub}");
    assert!(sub.contains("This directory is empty"));
    // A directory is one, whatever is asked of it.
    for query in ["view", "inline"] {
        page(&daemon, &format!("{below}/dir?{query}")).await;
    }
}

#[tokio::test]
async fn a_text_is_shown_in_lines_that_can_be_linked_to() {
    let (daemon, info) = left().await;
    let view = async |name: &str| page(&daemon, &format!("{}/{name}?view", path(&info))).await;
    let notes = view("notes.txt").await;
    for part in [
        "<span id=\"L1\"><a href=\"#L1\" aria-label=\"Line 1\">1</a>one\n</span>",
        "2</a>\ttwo &#60;b&#62;&#38;amp;&#60;/b&#62;\n",
        "3</a>\n",
        "4</a>four\n",
    ] {
        assert!(notes.contains(part), "{part}: {notes}");
    }
    assert!(!notes.contains("id=\"L5\""));
    // By a link inside, under its own name.
    assert!(view("link.txt").await.contains("4</a>four"));
    let script = view("page.html").await;
    assert!(script.contains("&#60;script&#62;alert(1)"), "{script}");
    assert!(!script.contains("<script>"), "{script}");
    assert!(
        view("bidi.log")
            .await
            .contains("x&#60;U+202E&#62;y&#60;U+001B&#62;[31mz")
    );
    assert!(view("empty.txt").await.contains("This file is empty"));
    let long = view("long.txt").await;
    assert!(
        long.contains("first 256.0 KiB of 293.0 KiB"),
        "{}",
        &long[..2000]
    );
    assert!(long.len() < 264 << 10);
    let lines = view("lines.txt").await;
    assert!(lines.contains("first 10000 lines of"));
    assert!(lines.contains("id=\"L10000\"") && !lines.contains("id=\"L10001\""));
    // Of a gigabyte no more than that is read.
    for none in ["zero.txt", "latin.txt", "sparse.txt"] {
        assert!(
            view(none).await.contains("its content is no text"),
            "{none}"
        );
    }
    for other in ["program", "paper.pdf"] {
        let shown = view(other).await;
        assert!(shown.contains("not that of a text or a picture"), "{shown}");
    }
    let program = view("program").await;
    assert!(program.contains(">rwx--x--x<"), "{program}");
    let picture = view("picture.png").await;
    let img = format!(
        "<img class=\"artifact\" src=\"{}/picture.png?inline\"",
        path(&info)
    );
    assert!(picture.contains(&img), "{picture}");
}

#[tokio::test]
async fn only_types_without_active_content_are_sent_inline() {
    let (daemon, info) = left().await;
    let ask = async |name: &str| -> Answer {
        let address = format!("{}/{name}?inline", path(&info));
        let answer = daemon.ask(Ask::get(address)).await.expect(200);
        assert_eq!(answer.header("x-content-type-options"), "nosniff");
        assert!(
            answer
                .header("content-security-policy")
                .starts_with("sandbox")
        );
        let policy = answer.header("cross-origin-resource-policy");
        assert_eq!(policy, "same-origin");
        answer
    };
    for (name, media) in [
        ("notes.txt", "text/plain; charset=utf-8"),
        ("latin.txt", "text/plain; charset=utf-8"),
        ("picture.png", "image/png"),
    ] {
        let answer = ask(name).await;
        assert_eq!(answer.header("content-type"), media);
        let value = format!("inline; filename=\"{name}\"");
        assert_eq!(answer.header("content-disposition"), value);
        let policy = answer.header("content-security-policy");
        assert_eq!(policy, "sandbox; default-src 'none'");
    }
    for name in ["page.html", "picture.svg", "paper.pdf", "program"] {
        let answer = ask(name).await;
        assert_eq!(answer.header("content-type"), "application/octet-stream");
        let value = format!("attachment; filename=\"{name}\"");
        assert_eq!(answer.header("content-disposition"), value);
    }
    let part = Ask::get(format!("{}/notes.txt?inline", path(&info))).with("range", "bytes=0-2");
    assert_eq!(daemon.ask(part).await.expect(206).text(), "one");
    // A name that turns the reading direction is written out.
    let address = format!("{}/gpj%E2%80%AE.exe", path(&info));
    let turned = daemon.ask(Ask::get(address)).await.expect(200);
    let disposition = turned.header("content-disposition").to_owned();
    assert!(
        disposition.ends_with("gpj%3CU%2B202E%3E.exe"),
        "{disposition}"
    );
    let address = format!("{}/%22%3E%3Cimg%20src=x%20onerror=alert(1)%3E", path(&info));
    daemon.ask(Ask::get(address)).await.expect(200);
}

#[tokio::test]
async fn what_leads_out_or_is_no_file_is_not_shown_either() {
    let (daemon, info) = left().await;
    for name in [
        "out.txt", "far.txt", "up", "up/x", "pipe.txt", "none.txt", "..",
    ] {
        for query in ["view", "inline", "view&inline"] {
            let address = format!("{}/{name}?{query}", path(&info));
            let answer = daemon.ask(Ask::get(&address)).await;
            assert_eq!(answer.status, 404, "{address}: {}", answer.text());
        }
    }
}

#[tokio::test]
async fn a_manifest_lists_what_the_tar_holds() {
    let (daemon, info) = left().await;
    let address = format!("{}?manifest", path(&info));
    let all = daemon.ask(Ask::get(address)).await.expect(200).json();
    let all = all.as_array().unwrap();
    let of = |path: &str| {
        let found = all.iter().find(|item| item["Path"] == path);
        found.unwrap_or_else(|| panic!("{path} in {all:?}")).clone()
    };
    assert_eq!(all.len(), 24);
    let notes = of("notes.txt");
    assert_eq!(
        (&notes["Type"], &notes["Size"], &notes["Modified"]),
        (&"file".into(), &28.into(), &"2001-02-03T04:05:06Z".into())
    );
    assert_eq!(of("dir/sub")["Type"], "directory");
    assert_eq!(of("program")["Mode"], "0711");
    assert_eq!(of("out.txt")["Target"], "/etc/passwd");
    assert_eq!(of("pipe.txt")["Type"], "special");
    for item in all {
        let address = format!("{}/{}", path(&info), text(item, "URL"));
        let status = daemon.ask(Ask::get(address)).await.status;
        let expected = match text(item, "Type") {
            "file" | "directory" => &[200][..],
            _ => &[200, 404],
        };
        assert!(expected.contains(&status), "{item}: {status}");
    }
    // Nothing left is an empty list.
    let daemon = TestDaemon::builder()
        .await
        .script("q", "true")
        .start()
        .await;
    let info = daemon.build(job("q")).await;
    let none = daemon
        .ask(Ask::get(format!("{}?manifest", path(&info))))
        .await;
    assert_eq!(none.expect(200).text(), "[]\n");
}

#[tokio::test]
async fn a_directory_of_many_names_is_shown_in_part_and_counted() {
    let lines = "mkdir $D/artifacts/d && cd $D/artifacts/d && seq 1 6001 | xargs touch";
    let daemon = TestDaemon::builder().await.script("p", lines).start().await;
    let info = daemon.build(job("p")).await;
    let shown = page(&daemon, &format!("{}/d", path(&info))).await;
    assert!(shown.contains("6001 entries") && shown.contains("1001 more are not listed"));
    assert!(shown.contains(">5000</a>") && !shown.contains(">5001</a>"));
}
