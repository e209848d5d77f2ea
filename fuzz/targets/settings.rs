//! `mistry.json` of a project.
#![no_main]

use std::path::Path;

use mistry::project::Settings;

libfuzzer_sys::fuzz_target!(|text: &[u8]| {
    match Settings::parse(text, Path::new("/projects/p")) {
        Ok(settings) => {
            assert!(settings.job_timeout.is_none_or(|time| !time.is_zero()));
            assert!(settings.silence_timeout.is_none_or(|time| !time.is_zero()));
            assert!(settings.network.is_none_or(|network| !network.is_empty()));
            for (host, inside) in &settings.mounts {
                assert!(host.is_absolute(), "{}", host.display());
                assert!(
                    inside.starts_with('/') && inside != "/" && inside != "/data",
                    "{inside}"
                );
            }
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
});
