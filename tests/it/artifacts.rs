//! The artifacts of a build are served as they are, and nothing else: no link, name or special file
//! that a container leaves leads out of the build or blocks the server.

use std::{
    collections::BTreeMap,
    io::Read,
    os::unix::ffi::{OsStrExt, OsStringExt},
};

use serde_json::{Value, json};

use crate::support::{
    daemon::{TestDaemon, job, text},
    http::{Ask, At, within},
};

fn path(info: &Value) -> String {
    format!("/artifacts/{}/{}", text(info, "Project"), text(info, "ID"))
}

/// A tar as path → (type, mode, content or target).
fn entries(bytes: &[u8]) -> BTreeMap<Vec<u8>, (tar::EntryType, u32, Vec<u8>)> {
    let mut archive = tar::Archive::new(bytes);
    let mut all = BTreeMap::new();
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let name = entry.path_bytes().into_owned();
        let link = entry.link_name_bytes().map(|link| link.into_owned());
        let mut content = Vec::new();
        entry.read_to_end(&mut content).unwrap();
        let mode = entry.header().mode().unwrap();
        let kind = entry.header().entry_type();
        all.insert(name, (kind, mode, link.unwrap_or(content)));
    }
    all
}

const SEVERAL: &str = "cd $D/artifacts\nmkdir -p a/b empty\necho one > a/one\necho two > a/b/two\n\
    ln -s one a/link\nln a/one a/hard\nprintf x > .dot\nchmod 755 a/one\n: > nothing";

#[tokio::test]
async fn all_of_them_come_as_a_tar_plain_or_compressed() {
    let daemon = TestDaemon::builder()
        .await
        .script("p", SEVERAL)
        .start()
        .await;
    let info = daemon.build(job("p")).await;
    let plain = daemon.ask(Ask::get(path(&info))).await.expect(200);
    assert_eq!(plain.header("content-type"), "application/x-tar");
    assert_eq!(plain.header("content-encoding"), "");
    let name = format!("p-{}.tar", &text(&info, "ID")[..12]);
    assert_eq!(
        plain.header("content-disposition"),
        format!("attachment; filename=\"{name}\"")
    );
    let packed = Ask::get(path(&info)).with("accept-encoding", "gzip, zstd");
    let packed = daemon.ask(packed).await.expect(200);
    assert_eq!(packed.header("content-encoding"), "zstd");
    assert!(
        packed
            .header("vary")
            .to_lowercase()
            .contains("accept-encoding")
    );
    let unpacked = zstd::decode_all(&packed.body[..]).unwrap();
    assert_eq!(entries(&plain.body), entries(&unpacked));
    let all: BTreeMap<String, _> = entries(&plain.body)
        .into_iter()
        .map(|(name, rest)| {
            (
                String::from_utf8(name)
                    .unwrap()
                    .trim_matches('/')
                    .to_owned(),
                rest,
            )
        })
        .collect();
    let names: Vec<_> = all
        .keys()
        .map(String::as_str)
        .filter(|n| !matches!(*n, "" | "."))
        .collect();
    assert_eq!(
        names,
        [
            ".dot", "a", "a/b", "a/b/two", "a/hard", "a/link", "a/one", "empty", "nothing"
        ]
    );
    assert_eq!(all["a/link"].0, tar::EntryType::Symlink);
    assert_eq!(all["a/link"].2, b"one");
    assert!(
        [&all["a/one"], &all["a/hard"]]
            .iter()
            .any(|e| e.2 == b"one\n" && e.1 & 0o777 == 0o755)
    );
    assert_eq!(all["a/b/two"].2, b"two\n");
    assert!(daemon.metric("mistry_artifact_bytes_served", "").await > 0.0);
}

#[tokio::test]
async fn one_file_is_sent_whole_in_part_or_not_modified() {
    let daemon = TestDaemon::with(&["succeed"]).await;
    let asked = json!({ "project": "succeed", "params": { "a": "0123456789" } });
    let info = daemon.build(asked).await;
    let ask = || Ask::get(format!("{}/a", path(&info)));
    let whole = daemon.ask(ask()).await.expect(200);
    assert_eq!(whole.text(), "0123456789");
    assert_eq!(whole.header("content-length"), "10");
    assert_eq!(whole.header("accept-ranges"), "bytes");
    // A browser must save it, never run it.
    assert_eq!(whole.header("content-type"), "application/octet-stream");
    assert_eq!(
        whole.header("content-disposition"),
        "attachment; filename=\"a\""
    );
    assert_eq!(whole.header("content-security-policy"), "sandbox");
    assert_eq!(whole.header("x-content-type-options"), "nosniff");
    let tag = whole.header("etag").to_owned();
    assert!(tag.starts_with('"') && tag.ends_with('"'), "{tag}");
    for (range, status, body, shown) in [
        ("bytes=2-4", 206, "234", "bytes 2-4/10"),
        ("bytes=7-", 206, "789", "bytes 7-9/10"),
        ("bytes=-2", 206, "89", "bytes 8-9/10"),
        ("bytes=8-100", 206, "89", "bytes 8-9/10"),
        ("bytes=10-", 416, "", "bytes */10"),
        ("bytes=nonsense", 200, "0123456789", ""),
        ("lines=1-2", 200, "0123456789", ""),
        ("bytes=0-1,3-4", 200, "0123456789", ""),
        ("bytes=99999999999999999999999-", 200, "0123456789", ""),
    ] {
        let part = daemon.ask(ask().with("range", range)).await;
        let seen = (
            part.status,
            part.text(),
            part.header("content-range").to_owned(),
        );
        let same = seen == (status, body.to_owned(), shown.to_owned());
        // Too large a number is beyond the end or invalid.
        assert!(
            same || (range.len() > 25 && part.status == 416),
            "{range}: {seen:?}"
        );
    }
    let fresh = ask().with("range", "bytes=2-4").with("if-range", &tag);
    assert_eq!(daemon.ask(fresh).await.expect(206).text(), "234");
    let stale = ask()
        .with("range", "bytes=2-4")
        .with("if-range", "\"other\"");
    assert_eq!(daemon.ask(stale).await.expect(200).text(), "0123456789");
    let known = daemon
        .ask(ask().with("if-none-match", &tag))
        .await
        .expect(304);
    assert_eq!((known.body.len(), known.header("etag")), (0, tag.as_str()));
    daemon
        .ask(ask().with("if-none-match", "\"other\""))
        .await
        .expect(200);
    assert_eq!(
        daemon
            .ask(Ask::get(format!("{}/.count", path(&info))))
            .await
            .expect(200)
            .text(),
        "1\n"
    );
}

#[tokio::test]
async fn a_directory_is_a_listing_in_which_names_are_text() {
    let daemon = TestDaemon::with(&["hostile-artifacts"]).await;
    let info = daemon.build(job("hostile-artifacts")).await;
    for rest in ["/", "//", "/directory", "/directory/", "/link-to-directory"] {
        let page = daemon
            .ask(Ask::get(format!("{}{rest}", path(&info))))
            .await
            .expect(200);
        assert!(
            page.header("content-type").starts_with("text/html"),
            "{rest}"
        );
    }
    let page = daemon
        .ask(Ask::get(format!("{}/", path(&info))))
        .await
        .text();
    assert!(!page.contains("<script>"), "{page}");
    assert!(!page.contains('\u{1b}'), "escapes reach no page");
    // Each thing listed can be asked for, and is answered as what it is.
    let mut listed = 0;
    for href in page
        .split("href=\"")
        .skip(1)
        .filter_map(|rest| rest.split('"').next())
    {
        if let Some(below) = href.strip_prefix("./") {
            let address = format!("{}/{below}", path(&info));
            let answer = daemon.ask(Ask::get(address)).await;
            assert!(
                matches!(answer.status, 200 | 404),
                "{href}: {}",
                answer.status
            );
            assert!(!answer.text().contains("root:"), "{href}");
            listed += 1;
        }
    }
    assert!(listed > 15, "{listed}: {page}");
}

#[tokio::test]
async fn what_leads_out_or_is_no_file_is_not_there() {
    let daemon = TestDaemon::with(&["hostile-artifacts"]).await;
    let info = daemon.build(job("hostile-artifacts")).await;
    let below = path(&info);
    for name in [
        "absolute",
        "relative",
        "parent",
        "to-params",
        "to-params/x",
        "parent/params",
        "dangling",
        "loop-a",
        "environ",
        "fifo",
        "device",
        "nothing",
        "plain/x",
        "directory/none",
        "parent/../artifacts/plain",
        "..",
        "../params",
        "../../build_info.json",
        "../../out.log",
        "directory/..",
        "directory/../plain",
        "%2e%2e",
        "%2e%2e/params",
        "%2e%2e%2fparams",
        "..%2f..%2fbuild_info.json",
        "directory%2ffile%2f..",
        "%00",
        "plain%00",
        "%2f",
        "%2fetc%2fpasswd",
        "/etc/passwd",
        "%",
        "%zz",
        "%ff",
    ] {
        let raw =
            format!("GET {below}/{name} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        let answer = daemon.at().raw(raw.as_bytes()).await;
        let status = answer.split(' ').nth(1).unwrap();
        assert!(
            !answer.contains("root:") && !answer.contains("ExitCode"),
            "{name}: {answer}"
        );
        assert_eq!(status, "404", "{name}: {answer}");
    }
    // Inside, links are followed.
    for (name, content) in [
        ("link-inside", "harmless\n"),
        ("link-to-directory/file", "within\n"),
        ("new%0Aline", "newline\n"),
        ("bad-%FF-utf8", "not utf-8\n"),
        ("%252e%252e%252fpercent", "percent\n"),
        ("%20leading%20and%20trailing%20", "space\n"),
        ("-rf", "option\n"),
        (".hidden", "hidden\n"),
        ("hard-b", "linked\n"),
        (&"n".repeat(255), "long\n"),
    ] {
        let answer = daemon
            .ask(Ask::get(format!("{below}/{name}")))
            .await
            .expect(200);
        assert_eq!(answer.text(), content, "{name}");
    }
    daemon
        .ask(Ask::get(format!("{below}/{}", "n".repeat(256))))
        .await
        .expect(404);
    daemon
        .ask(Ask::get(format!("{below}/{}", "n/".repeat(5000))))
        .await
        .expect(404);
}

#[tokio::test]
async fn the_tar_of_hostile_artifacts_holds_links_as_links_and_nothing_special() {
    let daemon = TestDaemon::with(&["hostile-artifacts"]).await;
    let info = daemon.build(job("hostile-artifacts")).await;
    let bytes = daemon.ask(Ask::get(path(&info))).await.expect(200).body;
    let all: BTreeMap<_, _> = entries(&bytes)
        .into_iter()
        .map(|(name, rest)| (name.strip_prefix(b"./").unwrap_or(&name).to_vec(), rest))
        .collect();
    let names: std::collections::BTreeSet<_> = all
        .keys()
        .map(|name| std::ffi::OsString::from_vec(name.clone()))
        .collect();
    for special in ["fifo", "device"] {
        assert!(
            !all.contains_key(special.as_bytes()),
            "{special}: {names:?}"
        );
    }
    for (link, target) in [
        ("absolute", "/etc/shadow"),
        ("to-params", "../params"),
        ("loop-a", "loop-b"),
    ] {
        let entry = &all[link.as_bytes()];
        assert_eq!(
            (entry.0, &*entry.2),
            (tar::EntryType::Symlink, target.as_bytes())
        );
    }
    for name in [&b"new\nline"[..], b"bad-\xff-utf8", &[b'n'; 255]] {
        assert!(
            all.contains_key(name),
            "{:?}",
            std::ffi::OsStr::from_bytes(name)
        );
    }
    for (name, (kind, mode, content)) in &all {
        let shown = std::ffi::OsStr::from_bytes(name);
        assert_eq!(mode & 0o7000, 0, "{shown:?} keeps setuid");
        let known = [
            tar::EntryType::Regular,
            tar::EntryType::Directory,
            tar::EntryType::Symlink,
            tar::EntryType::Link,
        ];
        assert!(known.contains(kind), "{shown:?}: {kind:?}");
        assert!(!name.starts_with(b"/") && !name.split(|b| *b == b'/').any(|part| part == b".."));
        assert!(*kind == tar::EntryType::Symlink || !content.starts_with(b"root:"));
    }
    assert_eq!(
        all[&b"hard-a"[..]].2.len() + all[&b"hard-b"[..]].2.len(),
        "linked\n".len() + "hard-x".len()
    );
}

#[tokio::test]
async fn artifacts_that_the_daemon_may_not_read_break_no_others() {
    let daemon = TestDaemon::with(&["unreadable", "succeed"]).await;
    let asked = |n: &str| json!({ "project": "unreadable", "group": "g", "params": { "n": n } });
    let info = daemon.build(asked("1")).await;
    assert_eq!(info["ExitCode"], 0, "{info}");
    assert_eq!(
        daemon.artifact(&info, "open").await.expect(200).text(),
        "readable\n"
    );
    let secret = daemon.artifact(&info, "secret").await;
    // Root may read it.
    assert!(
        matches!(secret.status, 200 | 403 | 404),
        "{}",
        secret.status
    );
    // All of them, or a tar that is visibly incomplete.
    let ask = format!(
        "GET {} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        path(&info)
    );
    let tar = daemon.at().raw(ask.as_bytes()).await;
    assert_eq!(
        tar.ends_with("0\r\n\r\n"),
        tar.contains("inner/file"),
        "{tar}"
    );
    let second = daemon.post("/jobs", &asked("2")).await;
    assert!(matches!(second.status, 201 | 500), "{}", second.text());
    assert_eq!(daemon.build(job("succeed")).await["ExitCode"], 0);
}

#[tokio::test]
async fn a_failed_build_has_the_artifacts_that_it_made() {
    let daemon = TestDaemon::with(&["exit-code", "bad-dockerfile", "succeed"]).await;
    let failed = daemon.build(job("exit-code")).await;
    assert_eq!(
        daemon
            .artifact(&failed, "half-made")
            .await
            .expect(200)
            .text(),
        "a half-made file\n"
    );
    let all = daemon.ask(Ask::get(path(&failed))).await.expect(200);
    assert!(
        entries(&all.body)
            .keys()
            .any(|name| name.ends_with(b"half-made"))
    );
    let broken = daemon
        .post("/jobs", &job("bad-dockerfile"))
        .await
        .expect(500)
        .json();
    let below = format!("/artifacts/bad-dockerfile/{}", text(&broken, "job"));
    let all = daemon.ask(Ask::get(&below)).await.expect(200);
    assert!(
        entries(&all.body)
            .values()
            .all(|entry| entry.0 == tar::EntryType::Directory)
    );
    daemon.ask(Ask::get(format!("{below}/x"))).await.expect(404);
    // While it is built it has none.
    daemon.home.engine.hold("start");
    let id = daemon.submit(job("succeed")).await;
    for rest in ["", "/", "/x"] {
        daemon
            .ask(Ask::get(format!("/artifacts/succeed/{id}{rest}")))
            .await
            .expect(404);
    }
}

#[tokio::test]
async fn a_reader_can_finish_reading_a_build_that_a_rebuild_replaces() {
    let lines =
        "head -c 8000000 /dev/zero | tr '\\0' \"$(cat $D/../../../../mark)\" > $D/artifacts/big";
    let daemon = TestDaemon::builder().await.script("p", lines).start().await;
    let mark = daemon.home.builds().join("mark");
    std::fs::write(&mark, "a").unwrap();
    let info = daemon.build(job("p")).await;
    let mut slow = daemon.open(Ask::get(path(&info))).await;
    let first = slow.piece().await.unwrap();
    std::fs::write(&mark, "b").unwrap();
    daemon
        .build(json!({ "project": "p", "rebuild": true }))
        .await;
    let rest = slow.whole().await;
    let old = [&first[..], &rest.body[..]].concat();
    let content = |bytes: &[u8]| {
        let all = entries(bytes);
        all.into_iter()
            .find(|(name, _)| name.ends_with(b"big"))
            .unwrap()
            .1
            .2
    };
    assert!(content(&old) == vec![b'a'; 8_000_000]);
    let new = daemon.ask(Ask::get(path(&info))).await.expect(200);
    assert!(content(&new.body) == vec![b'b'; 8_000_000]);
}

#[tokio::test]
async fn a_link_in_the_place_of_the_artifacts_is_replaced_by_an_empty_directory() {
    let builder = TestDaemon::builder().await;
    let outside = builder.home.path("outside");
    std::fs::create_dir(&outside).unwrap();
    std::fs::write(outside.join("secret"), "outside:").unwrap();
    let lines = format!(
        "rm -rf \"$D/artifacts\"\nln -s '{}' \"$D/artifacts\"",
        outside.display()
    );
    let daemon = builder.script("p", &lines).start().await;
    let info = daemon.build(job("p")).await;
    assert_eq!(info["Outcome"], "succeeded", "{info}");
    // A program that reads the tree itself, as `mistry --transport local` does, is led nowhere.
    let ready = daemon.home.build("p", "ready", text(&info, "ID"));
    let artifacts = ready.join("data/artifacts");
    assert!(artifacts.symlink_metadata().unwrap().is_dir());
    assert_eq!(std::fs::read_dir(&artifacts).unwrap().count(), 0);
    assert_eq!(daemon.artifact(&info, "secret").await.status, 404);
    let kept = std::fs::read_to_string(outside.join("secret")).unwrap();
    assert_eq!(kept, "outside:");
}

/// More than the buffers of sockets take.
const LARGE: &str = "truncate -s 64M $D/artifacts/large";

#[tokio::test]
async fn tars_that_are_not_read_are_bounded_and_stop_neither_builds_nor_other_answers() {
    let builder = TestDaemon::builder().await;
    let builder = builder.script("p", LARGE).script("other", "true");
    let daemon = builder.start().await;
    let info = daemon.build(job("p")).await;
    let mut unread = Vec::new();
    let refused = loop {
        let query = if unread.len() % 2 == 0 {
            ""
        } else {
            "?sparse=0"
        };
        let opened = daemon
            .at()
            .open(Ask::get(format!("{}{query}", path(&info))))
            .await;
        if opened.status != 200 {
            break opened;
        }
        unread.push(opened);
        assert!(unread.len() < 300);
    };
    assert!(unread.len() > 32, "{}", unread.len());
    assert_eq!(refused.status, 503);
    assert!(refused.headers.contains_key("retry-after"));
    // Clients of this host have a reserve, and a new image takes a context that is streamed as well.
    let local = Ask::get(format!("{}?manifest", path(&info)));
    At::Unix(daemon.socket()).ask(local).await.expect(200);
    assert_eq!(daemon.build(job("other")).await["Outcome"], "succeeded");
    drop(unread);
    // The server notices at some time that they are gone.
    within("a place", async {
        while daemon.ask(Ask::get(path(&info))).await.status != 200 {
            tokio::task::yield_now().await;
        }
    })
    .await;
}
