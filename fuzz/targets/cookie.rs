//! The cookie of a browser that may read.
#![no_main]

use mistry::web::fuzzing::{cookie, good_cookie};
use mistry_fuzz::lines;

/// A moment: the seeds hold cookies that are good then.
const NOW: u64 = 1_800_000_000;
/// How long such a cookie is good.
const LIFE: u64 = 30 * 24 * 3600;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let [header, given] = lines(data);
    // The signatures that the seeds teach; no other can be made.
    let signature = |value: &str| value.rsplit('.').next().unwrap_or_default().to_owned();
    let good = good_cookie(NOW);
    let text = String::from_utf8_lossy(header);
    if cookie(header, NOW) {
        assert!(text.contains(&signature(&good)), "{text}");
        assert!(!cookie(header, NOW + LIFE), "{text}");
    }
    // Whatever else is sent, the good one is found among the first four.
    let other = String::from_utf8_lossy(given);
    let both = format!("{other}; mistry-read={good}");
    if !other.contains(char::is_control) && other.is_ascii() && !other.contains("mistry-read") {
        assert!(cookie(both.as_bytes(), NOW), "{both}");
    }
});
