//! The images that a Dockerfile names.
#![no_main]

libfuzzer_sys::fuzz_target!(|dockerfile: &[u8]| {
    let images = mistry::docker::Dockerfile::parse(dockerfile).images;
    let mut seen = std::collections::BTreeSet::new();
    for image in &images {
        assert!(
            !image.is_empty() && image != "scratch" && !image.contains('$'),
            "{image:?}"
        );
        assert!(seen.insert(image), "{image:?} twice");
        assert!(
            image.len() <= dockerfile.len().max(4_096),
            "{} bytes",
            image.len()
        );
    }
});
