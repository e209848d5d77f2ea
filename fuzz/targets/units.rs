//! Durations and sizes, as they are written in configurations.
#![no_main]

use mistry::project::{parse_duration, parse_size};

libfuzzer_sys::fuzz_target!(|text: &[u8]| {
    let text = String::from_utf8_lossy(text);
    if let Some(duration) = parse_duration(&text) {
        let written = format!("{}ms", duration.as_millis());
        assert_eq!(parse_duration(&written), Some(duration), "{text}");
    }
    if let Some(size) = parse_size(&text) {
        assert_eq!(parse_size(&size.to_string()), Some(size), "{text}");
        assert!(text.starts_with(|c: char| c.is_ascii_digit()), "{text}");
    }
});
