//! The tokens file.
#![no_main]

use std::cell::LazyCell;

use mistry::web::{Token, TokensFile};
use tempfile::TempDir;

thread_local! {
    static HOME: LazyCell<TempDir> = LazyCell::new(mistry_fuzz::directory);
}

libfuzzer_sys::fuzz_target!(|text: &[u8]| {
    HOME.with(|home| {
        let path = home.path().join("tokens");
        std::fs::write(&path, text).expect("a file");
        match TokensFile::open(&path) {
            Ok(file) => {
                for token in file.current().expect("it was read").iter() {
                    let line = token.to_string();
                    assert_eq!(line.parse::<Token>().as_ref(), Ok(token), "{line}");
                    assert!(!token.scopes.is_empty(), "{line}");
                }
            }
            Err(error) => assert!(!error.to_string().is_empty()),
        }
    });
});
