//! `Host`, the target of a request, and `Origin`.
#![no_main]

use mistry::web::fuzzing::{addressee, authority, is_origin};
use mistry_fuzz::lines;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let [host, other] = lines(data);
    let (text, origin) = (
        String::from_utf8_lossy(host),
        String::from_utf8_lossy(other),
    );
    if let Some((name, _)) = authority(&text) {
        assert!(
            !name.is_empty() || text == "." || text.starts_with(".:"),
            "{text}"
        );
        assert!(
            name.bytes()
                .all(|byte| byte.is_ascii_graphic() && !b"/@?#\\\"<>".contains(&byte)),
            "{name}"
        );
        // Its own page is one of the same origin, and a page of another name is not.
        assert_eq!(
            is_origin(&text, &format!("http://{text}")),
            Some(true),
            "{text}"
        );
        let found = is_origin(&text, &origin) == Some(true);
        let authority_of_origin = origin.split_once("://").map(|(_, after)| after);
        let named = authority_of_origin.and_then(|after| authority(after));
        assert!(
            !found || named.is_some_and(|(other, _)| other == name),
            "{text} {origin}"
        );
    }
    addressee(&origin, host);
});
