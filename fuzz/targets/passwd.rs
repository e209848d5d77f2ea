//! `/etc/passwd` of an image, and the archive in which an Engine sends it.
#![no_main]

use mistry::docker::fuzzing::{home, home_in};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    for user in [0, 1000, u32::MAX] {
        if let Some(home) = home_in(data, user) {
            assert!(!home.is_empty() && !home.contains([':', '\n']), "{home:?}");
        }
        home(data, user);
    }
});
