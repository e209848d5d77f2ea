//! The query of an address, and the choice of builds in it.
#![no_main]

use mistry::web::fuzzing::query;

libfuzzer_sys::fuzz_target!(|text: &[u8]| {
    let text = String::from_utf8_lossy(text);
    match query(&text) {
        Ok((mut filter, written)) => {
            let (again, twice) = query(&written).expect("what the server writes, it reads");
            filter.before = None;
            assert_eq!(format!("{filter:?}"), format!("{again:?}"));
            assert_eq!(written, twice);
            assert!(!written.contains(|c: char| c.is_control() || " \"<>".contains(c)));
        }
        Err(sentence) => {
            assert!(sentence.len() < 2_000, "{} bytes", sentence.len());
            assert!(!sentence.contains(char::is_control), "{sentence:?}");
        }
    }
});
