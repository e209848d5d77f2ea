//! `config.json` of the daemon.
#![no_main]

use std::cell::LazyCell;

use mistry::config::Config;
use tempfile::TempDir;

thread_local! {
    static HOME: LazyCell<TempDir> = LazyCell::new(|| {
        let home = mistry_fuzz::directory();
        for name in ["projects", "builds"] {
            std::fs::create_dir(home.path().join(name)).expect("a directory");
        }
        std::fs::write(home.path().join("tokens"), "").expect("a file");
        home
    });
}

libfuzzer_sys::fuzz_target!(|text: &[u8]| {
    HOME.with(|home| {
        let path = home.path().join("config.json");
        std::fs::write(&path, text).expect("a file");
        match Config::read(&path) {
            Ok(config) => {
                assert!(config.projects_path.is_absolute() && config.build_path.is_absolute());
                assert_ne!(config.projects_path, config.build_path);
                assert!((1..=10_000).contains(&config.job_concurrency));
                assert!((1..=20_000).contains(&config.job_backlog));
                assert!(config.mounts.keys().all(|path| path.is_absolute()));
                assert!(!config.network.is_empty());
            }
            Err(error) => assert!(!error.to_string().is_empty()),
        }
    });
});
