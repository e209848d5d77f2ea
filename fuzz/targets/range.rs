//! `Range`, `If-Range`, `If-Match` and `If-None-Match`, each on a line of its own after the length.
#![no_main]

use mistry::web::fuzzing::{conditions, range};
use mistry_fuzz::lines;

const TAG: &str = "\"t\"";

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let [length, asked, if_range, if_match, if_none_match] = lines(data);
    let length = String::from_utf8_lossy(length).parse().unwrap_or(100);
    match range(asked, if_range, TAG, length) {
        Some(Some((first, last))) => {
            assert!(first <= last && last < length, "{first}-{last} of {length}");
            // The same part is asked for by its bounds.
            let exact = format!("bytes={first}-{last}");
            assert_eq!(
                range(exact.as_bytes(), b"", "", length),
                Some(Some((first, last)))
            );
        }
        Some(None) => {
            assert_eq!(range(asked, TAG.as_bytes(), TAG, length), Some(None));
        }
        None => {}
    }
    let status = conditions(if_match, if_none_match, TAG);
    assert!([200, 304, 412].contains(&status));
    let named = [if_none_match, b", ", TAG.as_bytes()].concat();
    if if_none_match.iter().all(|byte| b" \t,".contains(byte)) {
        assert_eq!(conditions(b"*", &named, TAG), 304);
    }
});
