//! The first digits of an id stand for it wherever no other build's id begins with them.

use serde_json::json;

use crate::support::daemon::{TestDaemon, text};
use crate::support::http::{Answer, Ask};

const BROWSER: &str = "text/html,application/xhtml+xml,*/*;q=0.8";

/// Two ids that begin with the same digit, among seventeen.
async fn alike(daemon: &TestDaemon) -> (String, String) {
    let mut ids: Vec<String> = Vec::new();
    for n in 0..17 {
        let job = json!({"project": "succeed", "params": {"n": n.to_string()}});
        let id = text(&daemon.build(job).await, "ID").to_owned();
        if let Some(other) = ids.iter().find(|other| other[..1] == id[..1]) {
            return (other.clone(), id);
        }
        ids.push(id);
    }
    panic!("there are sixteen digits");
}

async fn browse(daemon: &TestDaemon, path: &str) -> Answer {
    daemon.ask(Ask::get(path).with("accept", BROWSER)).await
}

#[tokio::test]
async fn every_address_of_a_build_takes_the_first_digits_of_its_id() {
    let daemon = TestDaemon::with(&["succeed"]).await;
    let (id, other) = alike(&daemon).await;
    let unlike = id.bytes().zip(other.bytes()).take_while(|(a, b)| a == b);
    let shortest = unlike.count() + 1;
    for digits in [shortest, 12.max(shortest), 63, 64] {
        let short = format!("succeed/{}", &id[..digits]);
        let whole = format!("succeed/{id}");
        for (path, rest) in [
            ("job", ""),
            ("log", "?text"),
            ("artifacts", "?manifest"),
            ("artifacts", "/"),
        ] {
            let ask = |build: &str| daemon.get(format!("/{path}/{build}{rest}"));
            let (expected, found) = (ask(&whole).await, ask(&short).await);
            assert_eq!(
                found.expect(200).text(),
                expected.expect(200).text(),
                "{path}"
            );
        }
        let pin = format!("/job/{short}/pin");
        daemon
            .ask(Ask::new("PUT", &pin).with("content-type", "application/json"))
            .await
            .expect(204);
        assert_eq!(
            daemon.get(format!("/job/{whole}")).await.json()["Pinned"],
            true
        );
        daemon
            .ask(Ask::new("DELETE", &pin).with("content-type", "application/json"))
            .await
            .expect(204);
        let cancel = Ask::post(format!("/job/{short}/cancel"), &json!({}));
        daemon.ask(cancel).await.expect(409);
    }
    let ask = Ask::new("DELETE", format!("/job/succeed/{}", &id[..shortest]));
    let ask = ask.with("content-type", "application/json");
    daemon.ask(ask).await.expect(204);
    daemon.get(format!("/job/succeed/{id}")).await.expect(404);
}

#[tokio::test]
async fn a_browser_is_sent_to_the_whole_address() {
    let daemon = TestDaemon::with(&["succeed"]).await;
    let info = daemon.build(json!({"project": "succeed"})).await;
    let id = text(&info, "ID");
    let short = format!("/job/succeed/{}?from=mail", &id[..7]);
    let answer = browse(&daemon, &short).await.expect(307);
    assert_eq!(
        answer.header("location"),
        format!("/job/succeed/{id}?from=mail")
    );
    assert_eq!(answer.header("vary"), "accept");
    browse(&daemon, &format!("/job/succeed/{id}"))
        .await
        .expect(200);
}

#[tokio::test]
async fn an_id_that_names_no_build_or_several_is_refused_with_a_sentence() {
    let daemon = TestDaemon::with(&["succeed", "fail"]).await;
    let (id, other) = alike(&daemon).await;
    let digit = &id[..1];
    let answer = daemon.get(format!("/job/succeed/{digit}")).await;
    let sentence = answer.expect(409).json()["error"].to_string();
    assert!(
        sentence.contains(&format!("begin with '{digit}'")),
        "{sentence}"
    );
    for id in [&id, &other] {
        assert!(sentence.contains(&format!("succeed/{id}")), "{sentence}");
    }
    // Builds of other projects do not count.
    let unknown = daemon.get(format!("/job/fail/{digit}")).await;
    let sentence = unknown.expect(404).json()["error"].to_string();
    assert!(sentence.contains("no build"), "{sentence}");
    for wrong in ["xyz", "ABC", &"0".repeat(65), "%20"] {
        let answer = daemon.get(format!("/job/succeed/{wrong}")).await;
        let sentence = answer.expect(422).json()["error"].to_string();
        assert!(
            sentence.contains("expected 1 to 64 lower-case hex digits"),
            "{sentence}"
        );
    }
}
