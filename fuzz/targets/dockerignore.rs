//! `.dockerignore`: the path is the first line, the file the rest.
#![no_main]

use mistry::project::fuzzing::excludes;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let end = data
        .iter()
        .position(|byte| *byte == b'\n')
        .unwrap_or(data.len());
    let (path, file) = data.split_at(end);
    let file = file.get(1..).unwrap_or_default();
    match excludes(file, path) {
        // An exception of everything at the end lets everything in.
        Ok(_) => {
            let open = [file, b"\n!**"].concat();
            if let Ok(is_excluded) = excludes(&open, path) {
                assert!(!is_excluded);
            }
            let closed = [file, b"\n**"].concat();
            if let Ok(is_excluded) = excludes(&closed, path) {
                assert!(is_excluded);
            }
        }
        Err(sentence) => {
            assert!(sentence.starts_with("line "), "{sentence}");
            assert!(sentence.len() < 2_000, "{} bytes", sentence.len());
            assert!(!sentence.contains(char::is_control), "{sentence:?}");
        }
    }
});
